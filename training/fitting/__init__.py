"""How a member is trained; committee, quality and experiments may import it."""
