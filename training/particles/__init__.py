"""Particles, the things of one class that lie in a mask: which pixels are one, how large they
are, where two that touch part, how many were found.
Quality, figures, experiments and backend may import it."""
