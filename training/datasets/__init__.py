"""Labelled folders, and drawn urine sediment; figures and experiments may import it."""
