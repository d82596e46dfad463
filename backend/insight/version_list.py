"""The versions of a project as a page lists them, and two of them side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from backend.errors import BadRequest
from backend.ledger import Project, Version
from backend.rounds.retention import in_use, removed_on_purpose
from backend.workplace import Workplace
from training.committee.checksums import DamagedVersion, UnknownVersion
from training.committee.folders import PREDICTED_FILE, SHEET_FILE

SHOWN_IMAGES = 6
"""Of two versions side by side."""


@dataclass(frozen=True)
class VersionRow:
    """A version of a project.

    Attributes:
        state: promoted, kept (made but not better) or withdrawn (rolled back).
        ranks: it is the one in use.
        created: unix seconds.
        seconds: that its round took; None where its times are not kept.
        foreground_dice, ece: 0 to 1.
        images: labelled ones that it learnt from.
        files: its files are there; ``removed`` if not, and that was our own doing.
        sheet: it has a picture to check it by eye.
        config: of its training.
    """

    number: int
    state: str
    ranks: bool
    reason: str
    created: float
    seconds: float | None
    foreground_dice: float | None
    ece: float | None
    images: int | None
    members: int
    files: bool
    removed: bool
    sheet: bool
    config: Mapping[str, object]


@dataclass(frozen=True)
class ClassPair:
    """A class in two versions: its Dice; None where nothing showed it."""

    name: str
    left: float | None
    right: float | None


@dataclass(frozen=True)
class ImagePair:
    """A labelled task and its foreground Dice by two versions."""

    task: int
    left: float
    right: float


@dataclass(frozen=True)
class Comparison:
    """Two versions, on the images that both were judged on.

    Attributes:
        images: how many there are of these.
        mean: right minus left foreground Dice, as a mean over them; None without any.
        better, worse: on how many the right one is.
        shown: of these images those of the greatest change, where both versions keep what they
            predicted.
        same_classes: of both, without the background; none where they differ, and so do the
            colours of their pictures.
    """

    left: VersionRow
    right: VersionRow
    images: int
    mean: float | None
    better: int
    worse: int
    shown: Sequence[ImagePair]
    same_classes: Sequence[str]
    classes: Sequence[ClassPair]


def version_rows(work: Workplace, project: Project, limit: int | None = None) -> list[VersionRow]:
    """The newest versions, newest first."""
    present = work.store.contents(project.slug)
    found = work.ledger.versions.summaries(project.id, limit)
    used = in_use(work.ledger, project)
    promoted, *_ = used
    return [
        VersionRow(
            number=each.number,
            state=each.state,
            ranks=each.number == max(promoted, default=None),
            reason=each.reason,
            created=each.created_at,
            seconds=sum(each.timings.values()) or None,
            foreground_dice=each.foreground_dice,
            ece=each.ece,
            images=each.examples,
            members=each.members,
            files=each.number in present,
            removed=removed_on_purpose(each.number, present, *used),
            sheet=SHEET_FILE in present.get(each.number, ()),
            config=json.loads(each.config) if each.config else {},
        )
        for each in found
    ]


def sheet_of(work: Workplace, project: Project, number: int) -> bytes:
    """A version's picture to check it by eye: a PNG.

    Raises:
        BadRequest: it has none, or none any more.
    """
    try:
        return work.store.version_file(project.slug, number, SHEET_FILE)
    except (UnknownVersion, DamagedVersion) as error:
        raise BadRequest(f"Version {number} has no picture (any more).") from error


def compare_versions(work: Workplace, project: Project, left: int, right: int) -> Comparison:
    """Two versions side by side.

    Raises:
        BadRequest: there is no such version.
    """
    rows = {row.number: row for row in version_rows(work, project)}
    first, second = (_version(work, project, number) for number in (left, right))
    before, after = first.metrics.get("scores", {}), second.metrics.get("scores", {})
    told = first.metrics.get("out_of_fold") and second.metrics.get("out_of_fold")
    # A lone member has trained on the images that it is judged on.
    shared = sorted(before.keys() & after.keys()) if told else []
    changes = [after[key] - before[key] for key in shared]
    present = work.store.contents(project.slug)
    kept = all(PREDICTED_FILE in present.get(each, ()) for each in (left, right))
    most = sorted(shared, key=lambda key: -abs(after[key] - before[key])) if kept else []
    dice = [version.metrics.get("dice") or {} for version in (first, second)]
    names = list(dict.fromkeys([*first.classes[1:], *second.classes[1:]]))
    return Comparison(
        left=rows[left],
        right=rows[right],
        images=len(changes),
        mean=fmean(changes) if changes else None,
        better=sum(change > 0 for change in changes),
        worse=sum(change < 0 for change in changes),
        shown=[ImagePair(int(key), before[key], after[key]) for key in most[:SHOWN_IMAGES]],
        same_classes=first.classes[1:] if first.classes == second.classes else [],
        classes=[ClassPair(name, dice[0].get(name), dice[1].get(name)) for name in names],
    )


def _version(work: Workplace, project: Project, number: int) -> Version:
    found = work.ledger.versions.get(project.id, number)
    if found is None:
        raise BadRequest(f"Project {project.studio_id} has no version {number}.")
    return found
