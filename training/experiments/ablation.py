"""What each part of the recipe is worth: train with and without it on the same draws of a labelled
folder, and test what would serve on the same images.

Every cell (a variant, a number of labelled images, a draw) is one line of JSON, written when it is
done; an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from acquisition.uncertainty import MEASURES
from training.committee.committee import Committee
from training.committee.ensemble import Ensemble
from training.config import BadConfig, TrainConfig
from training.datasets.labelled import Labelled, LabelledFolder, by_hash, check_masks, read_image
from training.errors import TrainingError
from training.experiments.loop_config import Groups
from training.experiments.loop_data import held_back, open_folder
from training.fitting.budget import steps_within
from training.fitting.fit import fit_member
from training.fitting.speed import seconds_per_step
from training.images import nearest
from training.particles.matching import Particles, particles
from training.process_pool import process_pool
from training.quality.assessment import assess
from training.quality.metrics import Overlap, auroc, overlap
from training.quality.quality import Quality

PIXELS_PER_IMAGE = 4000
"""Of each test image, for calibration and for finding errors by uncertainty."""

SUPPORTED_PARTICLES = 20
"""A class with fewer particles in the test says little: one of them more or less moves its recall
by more than five points."""

BASE = "as it is"
"""The name of the variant that changes nothing."""


class BadVariant(TrainingError):
    """A variant with a field or a value that no training configuration has, or cells that cannot be
    measured on these images."""


@dataclass(frozen=True)
class Cell:
    """One training and its test.

    Attributes:
        variant: its name; ``BASE`` for the recipe as it is.
        changes: fields of the configuration and their values.
        images: how many labelled images it is trained on.
        draw: which random draw of them; also the seed.
    """

    variant: str
    changes: Mapping[str, Any]
    images: int
    draw: int


@dataclass(frozen=True)
class Trial:
    """What all cells of a run share.

    Attributes:
        data: a labelled folder.
        other: one of another laboratory with the same classes, to test on as well.
        test: how many images are held back to test on; with ``groups``, the most. Of ``other``,
            where nothing is learnt from, as many.
        groups: of ``data``; whole ones are held back.
        members: M; a lone member is not corrected.
    """

    data: Path
    other: Path | None = None
    test: int = 40
    groups: Groups | None = None
    members: int = 1

    def to_json(self) -> dict[str, Any]:
        """As every cell's line keeps it. Folders by name, so that they can be moved."""
        return {
            "data": self.data.resolve().name,
            "other": None if self.other is None else self.other.resolve().name,
            "test": self.test,
            "groups": None if self.groups is None else self.groups.model_dump(mode="json"),
            "members": self.members,
        }


@dataclass(frozen=True)
class Images:
    """Some images of a labelled folder."""

    folder: LabelledFolder
    items: Sequence[Labelled]


@dataclass(frozen=True)
class Split:
    """The images of a trial, the same for every cell.

    Attributes:
        pool: those that cells draw from.
        test: those held back.
        other: of the other laboratory.
    """

    pool: Images
    test: Images
    other: Images | None


def split(trial: Trial) -> Split:
    """Find the images of a trial.

    Raises:
        BadFolder: a folder is not what it should be.
        BadLoop: see ``held_back``.
        BadVariant: the other laboratory has other classes.
    """
    folder = open_folder(trial.data)
    items = by_hash(folder.items)
    test = set(held_back(trial.data, [item.name for item in items], trial.test, trial.groups))
    other = None
    if trial.other is not None:
        there = open_folder(trial.other)
        if len(there.classes) != len(folder.classes):
            raise BadVariant(
                f"{trial.other} has the classes {', '.join(there.classes)}, {trial.data} has "
                f"{', '.join(folder.classes)}: they must be the same, in the same order"
            )
        other = Images(there, by_hash(there.items)[: trial.test])
    return Split(
        Images(folder, [item for item in items if item.name not in test]),
        Images(folder, [item for item in items if item.name in test]),
        other,
    )


def parse_groups(text: str) -> Groups:
    """``"info.csv:session"`` to the file in the labelled folder and its column; ``:a,b`` after
    these names the groups to hold back.

    Raises:
        BadVariant: no file or no column.
    """
    file, _, rest = text.partition(":")
    column, _, test = rest.partition(":")
    if not file or not column:
        raise BadVariant(f"expected FILE:COLUMN or FILE:COLUMN:GROUP,..., got {text!r}")
    return Groups(file=file, column=column, test=test.split(",") if test else [])


def parse_changes(text: str) -> dict[str, Any]:
    """``"zoom=1,blur=0"`` to fields of a configuration and their values.

    Raises:
        BadVariant: no such field, or a value that is not of its type.
    """
    defaults: dict[str, Any] = {field.name: field.default for field in fields(TrainConfig)}
    changes: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = (each.strip() for each in part.partition("="))
        if not equals or name not in defaults or name in ("classes", "members"):
            known = ", ".join(n for n in defaults if n not in ("classes", "members"))
            raise BadVariant(f"expected FIELD=VALUE with a field of {known}; got {part!r}")
        kind = type(defaults[name])
        try:
            changes[name] = kind(value)
        except ValueError as error:
            raise BadVariant(f"{name} must be of type {kind.__name__}, got {value!r}") from error
    try:
        TrainConfig(("background", "class"), **changes)
    except BadConfig as error:
        raise BadVariant(str(error)) from error
    return changes


def variants(vary: Iterable[str], common: str, seconds: float | None) -> dict[str, dict[str, Any]]:
    """The changes of each variant by name, ``BASE`` first.

    Args:
        vary: a variant each, as ``parse_changes`` reads them; the text is the name.
        common: changes of all variants, the base too.
        seconds: give each variant the steps that take a member so long here.

    Raises:
        BadVariant: see ``parse_changes``.
    """
    shared = parse_changes(common) if common else {}
    found = {BASE: {**shared}} | {text: {**shared, **parse_changes(text)} for text in vary}
    if seconds is None:
        return found
    for changes in found.values():
        step_s = seconds_per_step(TrainConfig(("background", "a", "b"), **changes))
        changes["steps"] = steps_within(seconds, step_s)
    return found


def measure(trial: Trial, cell: Cell) -> dict[str, Any]:
    """Train one cell as a round would, and test the committee that would serve.

    Returns:
        ``test``, and ``other`` where there is one: see ``_test``. With another laboratory also
        ``foreign``: how well each arm tells its images from ``data``'s (AUROC).
    """
    images = split(trial)
    folder, pool = images.pool.folder, images.pool.items
    classes = folder.classes
    config = TrainConfig(classes, members=trial.members, seed=cell.draw)
    config = replace(config, **cell.changes)
    order = np.random.default_rng([cell.draw, 1]).permutation(len(pool))
    labelled = [
        folder.read_example(pool[i], pool[i].name, config.max_side_px) for i in order[: cell.images]
    ]
    fitted = [fit_member(labelled, config, m) for m in range(trial.members)]
    weights = [each for each, _ in fitted]
    if trial.members > 1:
        committee = assess(weights, config, labelled).committee
    else:
        # An assessment would predict all labelled images twice, only for a temperature of 1.
        committee = Committee(Ensemble(weights, config, threads=config.threads))
    tested = _test(committee, images.test)
    found: dict[str, Any] = {
        **asdict(cell),
        "trial": trial.to_json(),
        "classes": list(classes),
        "steps": config.steps,
        "seconds": sum(history.seconds for _, history in fitted),
        **committee.calibration.to_metrics(classes),
        "test": tested.summary,
    }
    if images.other is not None:
        elsewhere = _test(committee, images.other)
        found["other"] = elsewhere.summary
        foreign = np.repeat([False, True], [len(tested.arms), len(elsewhere.arms)])
        found["foreign"] = {
            arm: auroc(np.array([s[arm] for s in (*tested.arms, *elsewhere.arms)]), foreign)
            for arm in tested.arms[0]
        }
    return found


@dataclass(frozen=True)
class Tested:
    summary: dict[str, Any]
    arms: list[Mapping[str, float]]


def _test(committee: Committee, images: Images) -> Tested:
    """Judge masks at the size of the images, as annotators get them and whatever
    ``max_side_px`` is, and probabilities at the network's resolution.

    Returns:
        Mean foreground IoU, of all classes and of those with enough particles (None if there are
        none); per class IoU, the particles of the truth and their recall and precision; expected
        calibration error, of the winning class and of each class's probability; how well each
        measure finds wrong pixels (AUROC).
    """
    C = len(committee.config.classes)
    counts, found = Overlap.none(C), Particles.none(C)
    quality = Quality(C, PIXELS_PER_IMAGE)
    arms: list[Mapping[str, float]] = []
    wrong = []
    uncertainties: dict[str, list[Any]] = {name: [] for name in MEASURES}
    predictions = committee.predict_all(read_image(item.image) for item in images.items)
    for item, prediction in zip(images.items, predictions, strict=True):
        truth, mask = images.folder.read_mask(item), prediction.mask()
        counts += overlap(truth, mask, C)
        found += particles(truth, mask, C)
        arms.append(prediction.arms)
        small = nearest(truth, *prediction.predicted.shape)
        drawn = quality.add(small, prediction.predicted, prediction.probs)
        wrong.append((prediction.predicted != small).ravel()[drawn])
        for name in MEASURES:
            uncertainties[name].append(prediction.maps[name].ravel()[drawn])
    supported = counts.iou()[1:][found.truth[1:] >= SUPPORTED_PARTICLES]
    errors = np.concatenate(wrong)
    summary = {
        "mean_iou": counts.mean_iou(),
        "mean_iou_supported": float(supported.mean()) if len(supported) else None,
        "iou": counts.where_shown(counts.iou()),
        "particles": found.truth.tolist(),
        "particle_recall": found.recall(),
        "particle_precision": found.precision(),
        "ece": quality.ece(),
        "ece_by_class": quality.ece_by_class(),
        "finds_errors": {
            name: auroc(np.concatenate(uncertainties[name]), errors) for name in MEASURES
        },
    }
    return Tested(summary, arms)


def run(
    trial: Trial, cells: Iterable[Cell], output: Path, workers: int
) -> Iterator[dict[str, Any]]:
    """Measure the cells that ``output`` does not hold yet, several side by side.

    Yields:
        The result of each cell as it comes; those that ``output`` already holds come first.

    Raises:
        BadVariant: the pool holds fewer images than a cell needs, or ``output`` the results of
            another trial.
        BadFolder: see ``check_masks`` and ``split``.
        BadLoop: see ``split``.
    """
    wanted = {_key(asdict(cell)): cell for cell in cells}
    left = len(split(trial).pool.items)
    most = max((cell.images for cell in wanted.values()), default=0)
    if most > left:
        raise BadVariant(
            f"{most} images cannot be drawn: {trial.data} leaves {left} when those to test on are "
            "held back"
        )
    # Not in split, which each cell's process calls: this reads every mask.
    for root in filter(None, (trial.data, trial.other)):
        check_masks(open_folder(root))
    there = {_key(result): result for result in read_results(output)}
    for result in there.values():
        # Lines of 0.2.0 and before do not say.
        if result.get("trial", trial.to_json()) != trial.to_json():
            raise BadVariant(
                f"{output} holds results of another trial, {result['trial']}, and this one is "
                f"{trial.to_json()}: write to another file"
            )
    yield from (there[key] for key in wanted if key in there)
    todo = [cell for key, cell in wanted.items() if key not in there]
    with process_pool(workers) as pool, output.open("a") as file:
        for future in as_completed([pool.submit(measure, trial, cell) for cell in todo]):
            result = future.result()
            file.write(json.dumps(result) + "\n")
            file.flush()
            yield result


def read_results(output: Path) -> list[dict[str, Any]]:
    """The results in a file; none if there is no file. A half-written line is left out."""
    if not output.exists():
        return []
    results = []
    for line in output.read_text().splitlines():
        try:
            results.append(json.loads(line))
        except ValueError:
            continue
    return results


def _key(cell: Mapping[str, Any]) -> str:
    return json.dumps([cell["variant"], cell["changes"], cell["images"], cell["draw"]])
