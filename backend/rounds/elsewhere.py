"""The version of another project that this one started from, and what it learnt there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.ledger import Ledger, Project, Version
from backend.ledger.shapes import Metrics
from training.committee.store.store import StoreUnavailable, read_whole
from training.errors import TrainingError

if TYPE_CHECKING:
    from backend.workplace import Workplace
    from training.config import TrainConfig
    from training.examples import Example
    from training.fitting.start import Start

TRY_AGAIN = 2.0
"""Both beginnings are tried again with so many times the images: soon few rounds train twice."""


def start_version(ledger: Ledger, project_id: int) -> Version | None:
    """The version of another project that this one started from; None if it started afresh."""
    return next(
        (
            version
            for version in ledger.versions.all(project_id)
            if is_from_elsewhere(version) and version.state != "withdrawn"
        ),
        None,
    )


def is_from_elsewhere(version: Version) -> bool:
    """Whether a version was made in another project: no label of this one has taught it."""
    return "started_from" in version.metrics


def queues_served(ledger: Ledger, version: Version) -> int:
    """How many queues a version has made that Label Studio served."""
    return sum(
        each.version == version.number and each.served_at is not None
        for each in ledger.publications.all(version.project_id)
    )


def learnt_elsewhere(
    ledger: Ledger, project_id: int, examples: Iterable[Example]
) -> frozenset[str]:
    """Keys of those examples that are no test of this project's versions.

    The version that the project started from, or an ancestor of it, learnt from their images. So
    whatever is measured leaves them out: quality out of fold, calibration, the comparison of
    versions, audits and counts.

    Args:
        examples: not read where the project started afresh.
    """
    learnt = images_learnt_elsewhere(ledger, project_id)
    if not learnt:
        return frozenset()
    from training.examples import image_digest

    return frozenset(each.key for each in examples if image_digest(each.image) in learnt)


def images_learnt_elsewhere(ledger: Ledger, project_id: int) -> frozenset[str]:
    """Digests (``training.examples.image_digest``) of these images."""
    start = start_version(ledger, project_id)
    return frozenset() if start is None else frozenset(start.metrics["started_from"]["images"])


@dataclass(frozen=True)
class Beginning:
    """What the members of a round begin with.

    Attributes:
        start: digest of the version from elsewhere; "" for the pretrained network.
        both: members are made either way, and the better ones kept.
        problems: a sentence where that version cannot be begun with.
    """

    start: str = ""
    both: bool = False
    problems: Sequence[str] = ()


def choose_beginning(work: Workplace, row: Project, config: TrainConfig, images: int) -> Beginning:
    """What a round's members begin with: what was better out of fold when both were last tried.

    Both are tried in the first round, and again when the images have doubled since: which is
    better depends on the labels there are, and each trial doubles a round's training.

    Args:
        config: of the members, ``start`` apart.
        images: labelled images that can be measured on.
    """
    start = start_version(work.ledger, row.id)
    if start is None:
        return Beginning()
    from training.committee.version import read_version
    from training.fitting.start import why_no_start

    try:
        stored = read_whole(work.store, row.slug, start.number, read_version)
    except StoreUnavailable:
        raise
    except TrainingError as error:
        return Beginning(problems=[f"No member begins with version {start.number}: {error}"])
    if why_no_start(stored.config, config) is not None:
        return Beginning()  # `connect` said so
    digest = start.metrics["started_from"]["digest"]
    if config.members == 1:
        return Beginning()  # a lone member is new to no image, so neither could be told better
    choices = (each.metrics.get("start_choice") for each in work.ledger.versions.all(row.id))
    last = next((each for each in choices if each is not None), None)
    if last is None or images >= TRY_AGAIN * last["images"]:
        return Beginning(digest, both=True)
    return Beginning(digest if last["begun"] else "")


def start_of_member(
    work: Workplace, project_id: int, config: TrainConfig, member: int
) -> Start | None:
    """What a member begins with by its configuration; None for the pretrained network.

    Raises:
        UnknownVersion, DamagedVersion: the version's files are not what was saved.
    """
    if not config.start:
        return None
    from training.committee.version import UnknownVersion, read_version
    from training.fitting.start import start_of

    start = start_version(work.ledger, project_id)
    if start is None or start.metrics["started_from"]["digest"] != config.start:
        raise UnknownVersion(
            "the version from elsewhere that this round begins with is not there any more: "
            "ask for another round by `python -m backend retrain`"
        )
    slug = work.ledger.projects.get(project_id).slug
    stored = read_whole(work.store, slug, start.number, read_version)
    return start_of(stored.weights, stored.config.classes, member)


def describe_start(metrics: Metrics) -> str | None:
    """Where a version was made, or what of its labels it was not measured on; None if there is
    nothing to say."""
    if "started_from" in metrics:
        return f"from elsewhere, {metrics['started_from']['source']}; not measured here yet"
    said = []
    if count := len(metrics.get("learnt_elsewhere", ())):
        said.append(
            f"{count} labelled {'image is' if count == 1 else 'images are'} among those that the "
            "version from elsewhere learnt from, and left out of all that is measured"
        )
    if (choice := metrics.get("start_choice")) is not None:
        begun = "from the version from elsewhere" if choice["begun"] else "from the pretrained one"
        said.append(
            f"its members begin {begun}: with the former foreground Dice was {choice['mean']:+.3f} "
            f"(95 % between {choice['low']:+.3f} and {choice['high']:+.3f}, "
            f"{choice['pairs']} images)"
        )
    return "; ".join(said) or None
