"""Does one part of a round under its lease, and decides what a failure means for the round."""

from __future__ import annotations

import logging
import time
from typing import Literal

from backend.actions.purge import remove_files_if_purged
from backend.errors import (
    BackendError,
    LeaseLost,
    LedgerUnavailable,
    StudioRefused,
    StudioUnreachable,
    describe_error,
)
from backend.jobs.lease import Lease
from backend.ledger import Part, Round
from backend.ledger.parts import LONGEST_DELAY_S
from backend.logs import bound
from backend.rounds.schedule import next_stage
from backend.workplace import Workplace
from training.committee.store.store import StoreUnavailable
from training.errors import TrainingError

log = logging.getLogger(__name__)

TRANSIENT_ATTEMPTS = 16
"""A server that does not answer is asked again, 5 s to 30 s apart: some six minutes in all."""

PASSING_STATUSES = frozenset({401, 403, 429})
"""A Label Studio that is being restored or set up refuses so for a while; ending a round for it
would throw away what it has trained."""

UNEXPECTED_ATTEMPTS = 3
"""An unexpected error may pass; the same three times does not."""

DEADLY_ATTEMPTS = 20
"""A part whose worker keeps dying (out of memory, for example) must end some time."""

FIRST_DELAY_S = 5.0

_End = Literal["done", "again", "failed", "lost"]
"""How an attempt at a part ended; ``again``: it is tried once more, ``lost``: another has it."""


def do_part(work: Workplace, part: Part) -> bool:
    """Run the stage of a part that this worker has taken; whether its round ended well with it."""
    round_ = work.ledger.rounds.get(part.round_id)
    row = work.ledger.projects.get(round_.project_id)
    with bound(project=row.id, round=round_.id, part=part.id):
        ended_well = _do_part(work, round_, part)
    remove_files_if_purged(work, row)
    return ended_well


def _do_part(work: Workplace, round_: Round, part: Part) -> bool:
    if part.attempts > DEADLY_ATTEMPTS:
        work.ledger.rounds.fail(
            round_.id,
            f"The stage {part.stage} was interrupted {DEADLY_ATTEMPTS} times: "
            "is there enough memory for a worker?",
        )
        return False
    began = time.monotonic()
    end, round_ended = _run_stage(work, round_, part)
    seconds = time.monotonic() - began
    work.counters.observe("part_seconds", (part.stage, end), seconds)
    log.info(
        "%s of round %d, part %d: %s after %.1f s%s",
        *(part.stage, round_.id, part.number, end, seconds),
        ", and the round has ended well" if round_ended else "",
    )
    if round_ended:
        from backend.rounds.stages import clear_up

        try:
            clear_up(work, round_)
        except StoreUnavailable as error:
            log.warning("round %d is cleared up within an hour: %s", round_.id, error)
    return round_ended


def _run_stage(work: Workplace, round_: Round, part: Part) -> tuple[_End, bool]:
    """Run it under the lease; how that ended, and whether the round has ended well with it."""
    ledger, stage = work.ledger, part.stage
    following = next_stage(round_.kind, stage)
    end: _End = "failed"
    with Lease(ledger.url, part) as lease:
        try:
            # torch comes with the stages: only in the process that needs it, and under the lease,
            # which importing it on a busy machine can outlast.
            from backend.rounds.stages import RUN

            outcome = RUN[stage](work, round_, part.payload, lease.tick)
            stage_ended = ledger.parts.finish(part, outcome, next_stage=following)
            return "done", stage_ended and following is None
        except LeaseLost as error:
            log.warning("%s of round %d: %s", stage, round_.id, error)
            end = "lost"
        except (StudioUnreachable, LedgerUnavailable, StoreUnavailable) as error:
            end = _retry(work, round_, part, str(error), TRANSIENT_ATTEMPTS)
        except (BackendError, TrainingError) as error:
            if isinstance(error, StudioRefused) and _may_pass(work, error):
                end = _retry(work, round_, part, str(error), TRANSIENT_ATTEMPTS)
            else:
                log.warning("round %d failed in %s: %s", round_.id, stage, error)
                ledger.rounds.fail(round_.id, f"{stage}: {error}")
        except Exception as error:
            # The job boundary: whatever it was, the round must end with a reason.
            log.exception("%s of round %d failed", stage, round_.id)
            end = _retry(work, round_, part, describe_error(error), UNEXPECTED_ATTEMPTS)
    return end, False


def _may_pass(work: Workplace, error: StudioRefused) -> bool:
    """Whether Label Studio, or a proxy before it, may answer otherwise in a while."""
    status = error.studio_status
    if status != 404:
        return not 400 <= status < 500 or status in PASSING_STATUSES
    try:
        work.studio.whoami()
    except (StudioRefused, StudioUnreachable):
        return True  # a proxy that has lost Label Studio answers 404 to everything
    return False


def _retry(work: Workplace, round_: Round, part: Part, problem: str, attempts: int) -> _End:
    """Try the part again later; after so many attempts the round fails."""
    ledger = work.ledger
    if part.attempts >= attempts:
        ledger.rounds.fail(round_.id, f"{part.stage}, {attempts} times: {problem}")
        return "failed"
    delay_s = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** (part.attempts - 1))
    log.warning("%s of round %d again in %.0f s: %s", part.stage, round_.id, delay_s, problem)
    try:
        ledger.parts.retry(part, delay_s)
    except LeaseLost:
        return "lost"
    ledger.projects.update(round_.project_id, last_error=f"{part.stage}: {problem}")
    return "again"
