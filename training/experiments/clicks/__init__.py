"""How well clicks find particles, beside what else could answer them."""
