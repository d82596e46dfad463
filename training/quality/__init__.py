"""How good predictions are, how far to trust them; figures and experiments may import it."""
