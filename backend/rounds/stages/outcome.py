"""What every stage is handed and hands back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Progress = Callable[[float], None]


@dataclass(frozen=True)
class Outcome:
    """What a part hands to the round.

    Attributes:
        result: the part's own, small and JSON.
        next_payloads: one for each part of the next stage; used by the part that ends the stage.
        round_values: columns of the round to write.
        problems: sentences for the round's list.
        judged: rows of evidence, written with the part.
        withdrawn: tasks whose evidence goes with it.
    """

    result: Mapping[str, Any] = field(default_factory=dict)
    next_payloads: Sequence[Mapping[str, Any]] = ({},)
    round_values: Mapping[str, Any] = field(default_factory=dict)
    problems: Sequence[str] = ()
    judged: Sequence[Mapping[str, Any]] = ()
    withdrawn: Collection[int] = ()
