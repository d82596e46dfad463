"""What can go wrong between images and versions; each message is a sentence for a person."""

from __future__ import annotations


class TrainingError(Exception):
    """Base of the package's errors: what was expected, what came, what to do."""
