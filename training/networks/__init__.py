"""The members' networks, from pixels to logits; fitting and committee may import it."""
