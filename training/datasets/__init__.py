"""Labelled folders, and drawn urine sediment; experiments and
backend may import it."""
