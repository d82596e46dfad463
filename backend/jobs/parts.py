"""Does one part of a round under its lease, and decides what a failure means for the round."""

from __future__ import annotations

import logging

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
from backend.rounds.schedule import next_stage
from backend.workplace import Workplace
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


def do_part(work: Workplace, part: Part) -> None:
    """Run the stage of a part that this worker has taken."""
    round_ = work.ledger.rounds.get(part.round_id)
    row = work.ledger.projects.get(round_.project_id)
    if part.attempts > DEADLY_ATTEMPTS:
        work.ledger.rounds.fail(
            round_.id,
            f"The stage {part.stage} was interrupted {DEADLY_ATTEMPTS} times: "
            "is there enough memory for a worker?",
        )
        return
    if _run_stage(work, round_, part):
        from backend.rounds.stages import clear_up

        clear_up(work, round_)
    remove_files_if_purged(work, row)


def _run_stage(work: Workplace, round_: Round, part: Part) -> bool:
    """Run it under the lease; whether the round has ended well with it."""
    ledger, stage = work.ledger, part.stage
    following = next_stage(round_.kind, stage)
    with Lease(ledger.url, part) as lease:
        try:
            # torch comes with the stages: only in the process that needs it, and under the lease,
            # which importing it on a busy machine can outlast.
            from backend.rounds.stages import RUN

            outcome = RUN[stage](work, round_, part.payload, lease.tick)
            return ledger.parts.finish(part, outcome, next_stage=following) and following is None
        except LeaseLost as error:
            log.warning("%s of round %d: %s", stage, round_.id, error)
        except (StudioUnreachable, LedgerUnavailable) as error:
            _retry(work, round_, part, str(error), TRANSIENT_ATTEMPTS)
        except (BackendError, TrainingError) as error:
            if isinstance(error, StudioRefused) and _may_pass(work, error):
                _retry(work, round_, part, str(error), TRANSIENT_ATTEMPTS)
            else:
                log.warning("round %d failed in %s: %s", round_.id, stage, error)
                ledger.rounds.fail(round_.id, f"{stage}: {error}")
        except Exception as error:
            # The job boundary: whatever it was, the round must end with a reason.
            log.exception("%s of round %d failed", stage, round_.id)
            _retry(work, round_, part, describe_error(error), UNEXPECTED_ATTEMPTS)
    return False


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


def _retry(work: Workplace, round_: Round, part: Part, problem: str, attempts: int) -> None:
    """Try the part again later; after so many attempts the round fails."""
    ledger = work.ledger
    if part.attempts >= attempts:
        ledger.rounds.fail(round_.id, f"{part.stage}, {attempts} times: {problem}")
        return
    delay_s = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** (part.attempts - 1))
    log.warning("%s of round %d again in %.0f s: %s", part.stage, round_.id, delay_s, problem)
    try:
        ledger.parts.retry(part, delay_s)
    except LeaseLost:
        return
    ledger.projects.update(round_.project_id, last_error=f"{part.stage}: {problem}")
