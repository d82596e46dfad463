"""Pictures of predictions and their uncertainty; experiments may import it."""
