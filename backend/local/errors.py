"""Why `make run` cannot start."""

from __future__ import annotations

from backend.errors import BackendError


class CannotRun(BackendError):
    """Something that `make run` needs is missing, taken or broken."""


class NoImages(BackendError):
    """The folder holds no image that can be shown."""
