"""The members' networks, from pixels to logits; fitting, committee, experiments
and backend may import it."""
