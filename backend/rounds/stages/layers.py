"""The uncertainty layers of a queue: which places get one, of what, and what it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import orjson

from backend.label_studio.bulk import LARGEST_RESULT
from backend.label_studio.uncertainty_layer import layer_region
from backend.ledger import Project
from backend.rounds.evidence import trust_of
from backend.rounds.ranking import Ranked, weights_of
from backend.rounds.stages.choose import mode_of
from backend.rounds.stages.shards import Scored
from backend.workplace import Workplace

if TYPE_CHECKING:
    from training.committee.hesitation import Hesitation

LAYERS = 50
"""Places that get a layer, the first. A queue is made anew long before anybody gets further, and
a layer takes up to twenty times what a mask takes."""

ASKED: Mapping[str, str] = {
    "uncertainty": "the committee is unsure of it",
    "class": "few labelled images show a class that it may hold",
    "group": "no labelled image is of its group",
}
"""By ``Ranked.why``. No other place gets a layer: it would sway the labels of audits, and if
those of chance had one, its lack would tell which the audits are."""

_PLACES = (
    ("upper left", "top", "upper right"),
    ("left", "middle", "right"),
    ("lower left", "bottom", "lower right"),
)


def layer_measure(work: Workplace, row: Project, version: int) -> str | None:
    """The measure that layers show, the one that weighs most; None where there are to be none."""
    # Of the JSON of a ``Connection``, whose module loads label_studio_sdk; older ones lack it.
    if row.connection is None or not orjson.loads(row.connection).get("layer", False):
        return None
    ranks = next(v for v in work.ledger.versions.all(row.id) if v.number == version)
    weights = weights_of(mode_of(work.options(row), ranks), trust_of(work.ledger, row.id))
    leads = max(weights, key=weights.__getitem__, default=None)
    return None if leads is None else leads.partition("/")[0]


def with_layers(
    places: Sequence[Ranked], scored: Mapping[int, Scored], image_name: str
) -> dict[int, Scored]:
    """What was scored, the first places' regions with a layer beneath them."""
    layered = dict(scored)
    for place in places[:LAYERS]:
        found = scored[place.task_id]
        if found.hesitation is None or place.why not in ASKED:
            continue
        text = describe_hesitation(place.why, found.hesitation)
        region = layer_region(found.hesitation.grid, found.hesitation.size, image_name, text)
        # As text: nobody reads the other regions again.
        rest = found.result[1:]
        result = b"[" + orjson.dumps(region) + (b"" if rest == b"]" else b",") + rest
        if len(result) <= LARGEST_RESULT:
            layered[place.task_id] = replace(found, result=result)
    return layered


def describe_hesitation(why: str, found: Hesitation) -> str:
    """Why the task is asked, and what to check first: a sentence."""
    row, column = found.at
    first, second = (f"{name} ({share:.0%})" for name, share in found.between)
    return (
        f"Asked because {ASKED[why]}; check the {_PLACES[row][column]} of the image first, where "
        f"the committee hesitates between {first} and {second}."
    )
