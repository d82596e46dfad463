"""What can go wrong, each with the sentence that its reader needs.

A message names what was expected, what came, and what to do. The web layer turns a
``BackendError`` into its status and that sentence; a traceback never leaves the process.
"""

from __future__ import annotations


class BackendError(Exception):
    """Base of every error that a client or a person at the terminal may read."""

    status = 500


class BadSettings(BackendError):
    """Values of the environment that cannot be used: one sentence per value, a line each."""

    status = 503  # where the web meets it: an operator must correct it


class BadRequest(BackendError):
    """The caller sent something that cannot be used."""

    status = 400


class BadLabelConfig(BadRequest):
    """The project's label config holds nothing that can be segmented."""


class BadRegion(BadRequest):
    """One region of an annotation cannot be turned into a mask."""


class BadOptions(BadRequest):
    """The connection's extra parameters are not what the project options allow."""


class WebhookRefused(BackendError):
    """A webhook's secret does not open what was asked by it."""

    status = 403


class ImageRefused(BackendError):
    """An image may not be fetched, could not be fetched, or is too large."""

    status = 422


class Busy(BackendError):
    """This process does as much of that as it may; it can be asked again soon."""

    status = 503


class StudioUnreachable(BackendError):
    """Label Studio did not answer in time."""

    status = 503


class StudioRefused(BackendError):
    """Label Studio answered with an error.

    Attributes:
        studio_status: the HTTP status that came.
    """

    status = 502

    def __init__(self, message: str, studio_status: int) -> None:
        super().__init__(message)
        self.studio_status = studio_status


class LedgerUnavailable(BackendError):
    """The ledger is locked, full or of another release."""

    status = 503


class LedgerOutdated(LedgerUnavailable):
    """There is no ledger yet, or it must be migrated first."""


class NotEnoughLabels(BackendError):
    """A round cannot start or succeed with the labels there are."""

    status = 409


class LeaseLost(BackendError):
    """Another worker holds this part of the round now; what this one made is dropped."""

    status = 409


class UnknownProject(BackendError):
    """No connected project of that number."""

    status = 404


def describe_error(error: Exception) -> str:
    """An unexpected error as a sentence; out-of-memory errors come as several exception types."""
    described = f"{type(error).__name__}: {error}"
    out_of_memory = any(text in described for text in ("allocate memory", "out of memory"))
    if isinstance(error, MemoryError) or out_of_memory:
        return (
            f"There was not enough memory for a worker ({described}): let fewer WORKERS run, or "
            "give the project fewer members or a smaller max_side_px."
        )
    return described
