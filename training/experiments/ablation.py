"""What each part of the recipe is worth: train with and without it on the same draws of a labelled
folder, and test on the same images.

Every cell (a variant, a number of labelled images, a draw) is one line of JSON, written when it is
done; an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from acquisition.uncertainty import MEASURES
from training.committee.committee import Committee
from training.committee.ensemble import Ensemble
from training.committee.prediction import Prediction
from training.config import BadConfig, TrainConfig
from training.datasets.labelled import by_hash, check_masks, read_labelled_folder
from training.errors import TrainingError
from training.examples import Example
from training.fitting.budget import steps_within
from training.fitting.fit import fit_member
from training.process_pool import process_pool
from training.quality.assessment import assess
from training.quality.metrics import auroc
from training.quality.quality import Quality

PIXELS_PER_IMAGE = 4000
"""Of each test image, for calibration and for finding errors by uncertainty."""

BASE = "as it is"
"""The name of the variant that changes nothing."""


class BadVariant(TrainingError):
    """A variant with a field or a value that no training configuration has."""


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
        test: how many images of ``data`` are held back to test on.
        members: M; with one, no temperature is fitted.
        max_side_px: of the network's resolution.
        threads: of one cell.
    """

    data: Path
    other: Path | None = None
    test: int = 40
    members: int = 1
    max_side_px: int = 1024
    threads: int = 1


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
    found = {BASE: shared} | {text: {**shared, **parse_changes(text)} for text in vary}
    if seconds is None:
        return found
    return {
        name: {
            **changes,
            "steps": steps_within(seconds, TrainConfig(("background", "a", "b"), **changes)),
        }
        for name, changes in found.items()
    }


def measure(trial: Trial, cell: Cell) -> dict[str, Any]:
    """Train and test one cell.

    Returns:
        ``test``, and ``other`` where there is one: mean foreground IoU, IoU per class, expected
        calibration error, and how well each measure finds wrong pixels (AUROC). With another
        laboratory also ``foreign``: how well each arm tells its images from ``data``'s (AUROC).
    """
    classes, held_back, pool = _load(trial)
    order = np.random.default_rng([cell.draw, 1]).permutation(len(pool))
    labelled = [pool[i] for i in order[: cell.images]]
    config = TrainConfig(
        classes,
        members=trial.members,
        seed=cell.draw,
        max_side_px=trial.max_side_px,
        threads=trial.threads,
    )
    config = replace(config, **cell.changes)
    fitted = [fit_member(labelled, config, m) for m in range(trial.members)]
    weights = [each for each, _ in fitted]
    temperature = 1.0
    if trial.members > 1:
        temperature = assess(weights, config, labelled).metrics["temperature"]
    committee = Committee(Ensemble(weights, config, threads=trial.threads), temperature=temperature)
    tested = _test(committee, held_back)
    found: dict[str, Any] = {
        **asdict(cell),
        "steps": config.steps,
        "seconds": sum(history.seconds for _, history in fitted),
        "temperature": temperature,
        "test": tested.summary,
    }
    if trial.other is not None:
        elsewhere = _test(committee, _load_other(trial, classes))
        found["other"] = elsewhere.summary
        foreign = np.repeat([False, True], [len(tested.arms), len(elsewhere.arms)])
        found["foreign"] = {
            arm: auroc(np.array([s[arm] for s in (*tested.arms, *elsewhere.arms)]), foreign)
            for arm in tested.arms[0]
        }
    return found


@lru_cache(maxsize=2)
def _load(trial: Trial) -> tuple[tuple[str, ...], list[Example], list[Example]]:
    """Classes, the images held back and the pool, the same for every cell."""
    folder = read_labelled_folder(trial.data)
    check_masks(folder)
    items = by_hash(folder.items)
    if trial.test >= len(items):
        raise BadVariant(
            f"{trial.data} holds {len(items)} images: of these {trial.test} cannot be held back"
        )
    examples = [folder.read_example(item, item.name, trial.max_side_px) for item in items]
    return folder.classes, examples[: trial.test], examples[trial.test :]


@lru_cache(maxsize=2)
def _load_other(trial: Trial, classes: tuple[str, ...]) -> list[Example]:
    assert trial.other is not None
    found, examples, _ = _load(replace(trial, data=trial.other, other=None))
    if len(found) != len(classes):
        raise BadVariant(f"{trial.other} has the classes {found}, {trial.data} has {classes}")
    return examples


@dataclass(frozen=True)
class Tested:
    summary: dict[str, Any]
    arms: list[Mapping[str, float]]


def _test(committee: Committee, examples: Sequence[Example]) -> Tested:
    quality = Quality(len(committee.config.classes), PIXELS_PER_IMAGE)
    arms: list[Mapping[str, float]] = []
    wrong = []
    uncertainties: dict[str, list[Any]] = {name: [] for name in MEASURES}
    predictions: Iterator[Prediction] = committee.predict_all(example.image for example in examples)
    for example, prediction in zip(examples, predictions, strict=True):
        drawn = quality.add(example.mask, prediction.predicted, prediction.probs)
        arms.append(prediction.arms)
        wrong.append((prediction.predicted != example.mask).ravel()[drawn])
        for name in MEASURES:
            uncertainties[name].append(prediction.maps[name].ravel()[drawn])
    counts, errors = quality.overlap, np.concatenate(wrong)
    summary = {
        "mean_iou": counts.mean_iou(),
        "iou": counts.where_shown(counts.iou()),
        "ece": quality.ece(),
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
    """
    wanted = {_key(asdict(cell)): cell for cell in cells}
    there = {_key(result): result for result in read_results(output)}
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


def table(results: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Rows of text, the head first.

    A row has a variant's figures over its draws, and the paired difference of its IoU from the
    recipe as it is, with its standard deviation over the draws.
    """
    head = ["images", "variant", "draws", "mean IoU", "lowest to highest", "difference", "ECE"]
    head += ["entropy finds errors", "BALD finds errors"]
    elsewhere = any("other" in result for result in results)
    if elsewhere:
        head += ["IoU elsewhere", "ECE elsewhere", "entropy tells elsewhere"]
    rows = [head]
    groups: dict[tuple[int, str], list[Mapping[str, Any]]] = {}
    for result in results:
        groups.setdefault((result["images"], result["variant"]), []).append(result)
    for (images, variant), group in sorted(
        groups.items(), key=lambda item: (item[0][0], item[0][1] != BASE, item[0][1])
    ):
        by_draw = {result["draw"]: result["test"]["mean_iou"] for result in group}
        base = {r["draw"]: r["test"]["mean_iou"] for r in groups.get((images, BASE), [])}
        apart = np.array([by_draw[d] - base[d] for d in sorted(by_draw.keys() & base.keys())])
        difference = ""
        if variant != BASE and len(apart):
            difference = f"{apart.mean():+.3f}"
            difference += f" ± {apart.std(ddof=1):.3f}" if len(apart) > 1 else ""
        found = list(by_draw.values())
        row = [
            str(images),
            variant,
            str(len(group)),
            f"{np.mean(found):.3f}",
            f"{min(found):.3f} to {max(found):.3f}",
            difference,
            _mean(group, "test", "ece"),
            _mean(group, "test", "finds_errors", "predictive_entropy"),
            _mean(group, "test", "finds_errors", "mutual_information"),
        ]
        if elsewhere:
            row += [
                _mean(group, "other", "mean_iou"),
                _mean(group, "other", "ece"),
                _mean(group, "foreign", "predictive_entropy/top_quantile_mean"),
            ]
        rows.append(row)
    return rows


def _mean(group: Sequence[Mapping[str, Any]], *path: str) -> str:
    """Mean over a group of the figure at this path, as text."""
    found = []
    for result in group:
        value: Any = result
        for name in path:
            value = value[name]
        found.append(value)
    return f"{np.mean(found):.3f}"
