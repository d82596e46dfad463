"""A new project starts from a version of another one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.errors import BadRequest, UnknownProject
from backend.label_studio.label_config import LabelConfig
from backend.ledger import START, Project
from backend.ledger.shapes import Metrics, StartedFrom
from backend.options import ProjectOptions
from backend.rounds.elsewhere import is_from_elsewhere, start_version
from backend.workplace import Workplace
from training.errors import TrainingError

if TYPE_CHECKING:
    from training.committee.version import StoredVersion

CHANNELS = 3
"""Of the images of a Label Studio project, as the networks see them."""

_PROJECT = re.compile(r"(\d{1,18})(?::(\d{1,18}))?")


@dataclass(frozen=True)
class Start:
    """A version that a project can start from, its classes by this project's names.

    Attributes:
        warnings: sentences for what will not be as good as it might.
    """

    stored: StoredVersion
    started_from: StartedFrom
    warnings: Sequence[str]


def find_start(
    work: Workplace,
    known: Project | None,
    asked: str,
    config: LabelConfig,
    options: ProjectOptions,
) -> Start:
    """The version that ``--start-from`` names, read and checked; nothing is written.

    Args:
        known: the project that is to start from it, if the ledger has it.
        asked: PROJECT, PROJECT:VERSION or a version's folder.
        config: the project's labels.

    Raises:
        BadRequest: it cannot be used here, or the project has versions of its own.
        UnknownVersion, DamagedVersion, BadConfig, ForeignNetwork: its files cannot be.
    """
    from training.committee.calibration import Calibration
    from training.committee.checksums import DamagedVersion, read_checksums
    from training.committee.version import read_version
    from training.networks.build import check_allowed

    folder, source, slug = _find(work, known, asked)
    if known is not None:
        _check_new(work, known)
    stored = read_version(folder)
    check_allowed(stored.config, work.registry.own_network)
    try:
        Calibration.from_metrics(stored.metrics, stored.config.classes)
        images, all_named = _images(work, slug, stored)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedVersion(f"{folder} is not what was saved: {error}") from error
    named = source[0].upper() + source[1:]
    if stored.config.channels != CHANNELS:
        raise BadRequest(
            f"{named} takes images of {stored.config.channels} channels, and those of Label "
            f"Studio have {CHANNELS}: start from a version that was trained on such."
        )
    labels = [name for name in config.labels if name != options.unknown_label]
    classes = map_classes(stored.config.classes, labels, options.aliases or {})
    if not set(classes) & set(labels):
        raise BadRequest(
            f"{named} knows {', '.join(stored.config.classes[1:])}, and this project's labels are "
            f"{', '.join(labels)}: there is no class in common. Map its names to these by the "
            "option aliases."
        )
    digest = hashlib.sha256(repr(read_checksums(folder)).encode()).hexdigest()
    return Start(
        _renamed(stored, classes),
        StartedFrom(source=source, digest=digest, images=images),
        _warnings(work, stored, options, named, all_named=all_named),
    )


def _check_new(work: Workplace, known: Project) -> None:
    own = [v.number for v in work.ledger.versions.all(known.id) if not is_from_elsewhere(v)]
    if own:
        raise BadRequest(
            f"Project {known.studio_id} has versions of its own (newest: {max(own)}), and only a "
            "new project may start from another's: connect it without --start-from."
        )
    active = work.ledger.rounds.active(known.id)
    if active is not None and active.kind == "train":
        raise BadRequest(
            f"Round {active.id} of project {known.studio_id} is making its first version: it is "
            "too late to start from another one."
        )


def _find(work: Workplace, known: Project | None, asked: str) -> tuple[Path, str, str | None]:
    """A version's folder, where it is from in words, and its project's folder if it has one."""
    named = _PROJECT.fullmatch(asked)
    if named is None:
        folder = Path(asked).expanduser()
        if not folder.is_dir():
            raise BadRequest(
                f"--start-from takes PROJECT, PROJECT:VERSION or a version's folder, got "
                f"{asked!r}, and there is no such folder (`python -m backend versions` names "
                "them)."
            )
        home = work.settings.registry_path
        slug = next(
            (
                row.slug
                for row in work.ledger.projects.all()
                if home is not None and folder.resolve().is_relative_to((home / row.slug).resolve())
            ),
            None,
        )
        if known is not None and slug == known.slug:
            raise BadRequest(f"{folder} is a version of project {known.studio_id} itself.")
        return folder, f"the version in {folder.name!r}", slug
    number = int(named[1])
    try:
        other = work.ledger.projects.of_studio(work.server, number)
    except UnknownProject as error:
        raise BadRequest(
            f"--start-from names project {number}, of which nothing is kept here: it was never "
            "connected, or was purged. Name the folder of one of its versions, if you have one."
        ) from error
    if known is not None and other.id == known.id:
        raise BadRequest(f"Project {number} cannot start from itself: name another one.")
    promoted = work.ledger.versions.promoted(other.id)
    if named[2] is None and promoted is None:
        raise BadRequest(f"Project {number} has no version yet to start from.")
    version = int(named[2]) if promoted is None or named[2] else promoted.number
    folder = work.store.version_path(other.slug, version)
    return folder, f"version {version} of project {number}, {other.title!r}", other.slug


def map_classes(
    classes: Sequence[str], labels: Sequence[str], aliases: Mapping[str, str]
) -> tuple[str, ...]:
    """A version's classes by a project's names, in the version's order.

    A name that is a label means itself; another means what ``aliases`` says, unless a class has
    that name already. What means no label keeps its name, and no region is made of it.
    """
    taken = set(classes)
    mapped = []
    for name in classes:
        new = name if name in labels else aliases.get(name, name)
        if new != name and (new not in labels or new in taken):
            new = name
        taken.add(new)
        mapped.append(new)
    return tuple(mapped)


def _images(work: Workplace, slug: str | None, stored: StoredVersion) -> tuple[list[str], bool]:
    """Digests of the images that a version and its ancestors learnt from, and whether these are
    all: a version of release 0.2.0 or before did not note them."""
    from training.committee.registry import UnknownExample
    from training.examples import image_digest

    noted, ancestors = stored.manifest.get("images"), stored.manifest.get("ancestors", [])
    if noted is not None:
        return sorted({*noted, *ancestors}), True
    entries = stored.manifest.get("entries", [])
    names = [each["digest"] for each in entries if each["digest"] and not each["audit"]]
    found = []
    for name in names:
        if slug is None:
            break  # a folder from elsewhere
        try:
            found.append(image_digest(work.registry.get_example(slug, name).image))
        except UnknownExample:
            continue  # pruned
    return sorted(set(found)), bool(names) and len(found) == len(names)


def _renamed(stored: StoredVersion, classes: tuple[str, ...]) -> StoredVersion:
    """The version as this project keeps it: with its names, and without what was measured
    elsewhere but the calibration."""
    names = dict(zip(stored.config.classes, classes, strict=True))
    kept: dict[str, Any] = {
        key: stored.metrics[key]
        for key in ("temperature", "bf16_agreement")
        if key in stored.metrics
    }
    if isinstance(bias := stored.metrics.get("class_bias"), Mapping):
        kept["class_bias"] = {names.get(name, name): each for name, each in bias.items()}
    return replace(stored, config=replace(stored.config, classes=classes), metrics=kept)


def _warnings(
    work: Workplace,
    stored: StoredVersion,
    options: ProjectOptions,
    named: str,
    *,
    all_named: bool,
) -> list[str]:
    network, side_px = options.network or work.settings.network, stored.config.max_side_px
    warnings = []
    if stored.config.network != network:
        warnings.append(
            f"{named} pre-annotates, but no training begins with it: its network is "
            f"{stored.config.network!r}, this project's {network!r}."
        )
    if side_px != options.max_side_px:
        warnings.append(
            f"{named} sees images at {side_px} px, this project at max_side_px "
            f"{options.max_side_px}: larger images that it learnt from are not recognised here, "
            "and quality is overstated where you label such."
        )
    if not all_named:
        warnings.append(
            f"{named} does not name all images that it learnt from, as an earlier release made it "
            "and their examples are gone: quality is overstated where you label such images here."
        )
    return warnings


def adopt(work: Workplace, row: Project, start: Start) -> None:
    """Copy a version into a project's own folder, and let it rank; safe to repeat.

    Raises:
        DamagedVersion, NoEngine: it cannot be run here; nothing of it is kept.
    """
    present, stored = start_version(work.ledger, row.id), start.stored
    if present is not None and (
        present.metrics["started_from"]["digest"] == start.started_from["digest"]
        and tuple(present.classes) == stored.config.classes  # `aliases` may have changed
        and present.number in work.registry.versions(row.slug)
    ):
        return
    reason = f"Started from {start.started_from['source']}."
    adopted = work.ledger.rounds.adopt(row.id, reason)
    number = adopted.version
    assert number is not None
    metrics: Metrics = {**stored.metrics, "started_from": start.started_from}  # type: ignore[typeddict-item]
    manifest = {
        "round": None,
        "entries": [],
        "images": [],
        "ancestors": start.started_from["images"],
    }
    work.registry.save_version(row.slug, number, stored.weights, stored.config, manifest, metrics)
    try:
        work.registry.load(row.slug, number)
    except TrainingError:
        work.registry.delete_version(row.slug, number)
        raise
    work.ledger.versions.record(
        row.id,
        number,
        adopted.id,
        state="promoted",
        reason=reason,
        members=stored.config.members,
        classes=stored.config.classes,
        metrics=metrics,
    )
    if present is not None:
        said = f"Version {number} was started from in its place."
        work.ledger.versions.set_state(row.id, present.number, "withdrawn", said)
    active = work.ledger.rounds.active(row.id)
    if active is not None and active.kind == START:
        work.ledger.rounds.cancel(active.id, "The project starts from another's version.")
    work.ledger.rounds.start(row.id, "rank", reason, "choose", {})
