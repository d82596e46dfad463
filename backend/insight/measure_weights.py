"""Which measure of uncertainty has counted how much, from queue to queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backend.ledger import Ledger
from backend.options import MEASURES

MOST_QUEUES = 60


@dataclass(frozen=True)
class QueueWeights:
    """A published queue and what ordered it.

    Attributes:
        name: as Label Studio knows it.
        made: unix seconds.
        weights: measure to its share in all its arms, 0 to 1; all 0 where chance ranked.
    """

    name: str
    made: float
    mode: str
    weights: Mapping[str, float]


def measure_weights(ledger: Ledger, project_id: int) -> Sequence[QueueWeights]:
    """The newest queues that were weighed, oldest first."""
    found = []
    for name, made, mode, arms in ledger.publications.weighed(project_id, MOST_QUEUES):
        weights = dict.fromkeys(MEASURES, 0.0)
        for arm, weight in arms.items():
            measure = arm.partition("/")[0]
            if measure in weights:
                weights[measure] += weight
        found.append(QueueWeights(name, made, mode, weights))
    return found[::-1]
