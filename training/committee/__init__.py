"""A trained committee: inference and versions; quality, figures, experiments
and backend may import it."""
