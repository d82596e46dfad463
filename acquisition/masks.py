"""What a mask holds: class indices as uint8, background first, and one value for "unknown"."""

from __future__ import annotations

BACKGROUND = 0
"""The class index of a pixel that shows no object."""

UNKNOWN = 255
"""The class index of a pixel about which nothing is known; it counts nowhere."""
