"""Which new annotations tell how well the measures saw errors, and what all of them say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from acquisition.masks import UNKNOWN
from backend.ledger import Evidence, Ledger
from backend.ledger.shapes import ManifestEntry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from acquisition.adaptive import Trust


@dataclass(frozen=True)
class Due:
    """What a round has to do about the evidence.

    Attributes:
        judge: (task id, its example's digest, the version that predicts) of each.
        withdrawn: tasks whose annotation is gone, or can be judged by nobody any more. One whose
            image could not be read this time is neither, and keeps what was judged.
    """

    judge: Sequence[tuple[int, str, int]]
    withdrawn: Sequence[int]


def due_evidence(
    manifest: Iterable[ManifestEntry],
    evidence: Iterable[Evidence],
    serving: int | None,
    learnt: Iterable[ManifestEntry],
    kept: Iterable[int],
) -> Due:
    """Compare the annotations there are with what was judged.

    Args:
        manifest: the round's entries.
        evidence: the ledger's rows.
        serving: the version that judges what is new; None before the first.
        learnt: its own manifest's entries.
        kept: versions that can still predict.
    """
    manifest = list(manifest)
    now = {entry["task"]: entry for entry in manifest}
    before = {row.task_id: row for row in evidence}
    learnt = list(learnt)
    known = {entry["task"]: entry["stamp"] for entry in learnt}
    # Edited since or not, an image that was trained on is no test.
    taught = {e["task"] for e in learnt if e["digest"] is not None and not e["audit"]}
    can_predict = set(kept)
    judge: list[tuple[int, str, int]] = []
    annotated = {entry["task"] for entry in manifest if entry["stamp"] is not None}
    withdrawn = sorted(before.keys() - annotated)
    for task_id, entry in sorted(now.items()):
        former, digest = before.get(task_id), entry["digest"]
        if digest is None:
            continue
        if former is None:
            new = task_id not in taught and known.get(task_id) != entry["stamp"]
            if serving is not None and new:
                judge.append((task_id, digest, serving))
        elif former.stamp != entry["stamp"]:
            if former.version in can_predict:
                judge.append((task_id, digest, former.version))
            else:
                withdrawn.append(task_id)
    # Those of a version together: a worker loads it once.
    return Due(sorted(judge, key=lambda each: (each[2], each[0])), withdrawn)


def truth_for(
    mask: NDArray[np.uint8],
    shape: tuple[int, int],
    classes: Sequence[str],
    known: Sequence[str],
) -> NDArray[np.uint8]:
    """A truth mask as a version would have to see it.

    Args:
        mask: [h, w] indices of ``classes``, 255 where unknown.
        shape: of what the version predicted; another where ``max_side_px`` has changed.
        classes: names by index, of the mask.
        known: names by index, of the version.

    Returns:
        [*shape] indices of ``known``; ``len(known)``, which it never predicts, for a class that
        it does not know: whatever it said there was corrected.
    """
    import numpy as np

    from training.images import nearest

    to_known = np.full(256, UNKNOWN, np.uint8)
    for index, name in enumerate(classes):
        to_known[index] = known.index(name) if name in known else len(known)
    truth = to_known[mask]
    return truth if truth.shape == shape else nearest(truth, *shape)


def trust_of(ledger: Ledger, project_id: int) -> Trust:
    """What all of a project's evidence says of the measures; nothing of it is stored."""
    return trust_in(ledger.evidence.all(project_id))


def steering(rows: Iterable[Evidence]) -> list[Evidence]:
    """The rows of evidence that the measures are weighed by.

    One without a judged pixel says nothing. An audit's is kept to be explained and no more: what
    measures the version must have no say in what the version is taught.
    """
    return [row for row in rows if row.judged > 0 and not row.audit]


def trust_in(rows: Iterable[Evidence]) -> Trust:
    """What these rows of evidence say."""
    from acquisition import adaptive

    return adaptive.trust(
        [
            adaptive.Evidence(
                batch=row.round_id,
                version=row.version,
                rewards=row.rewards,
                scores=row.scores,
                error=row.error,
            )
            for row in steering(rows)
        ]
    )
