"""A trained committee: inference and versions; quality, figures, experiments may import it."""
