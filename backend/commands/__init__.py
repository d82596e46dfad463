"""The commands of `python -m backend`; only cli may import it."""
