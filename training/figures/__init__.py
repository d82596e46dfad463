"""Pictures of predictions and their uncertainty; experiments and backend may
import it."""
