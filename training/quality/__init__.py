"""How good predictions are, how far to trust them; figures, experiments and
backend may import it."""
