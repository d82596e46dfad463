"""What the committee counts in each image, kept in a file for the next run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from backend.errors import BadRequest, ImageRefused
from backend.ledger import Project
from backend.options import ProjectOptions
from backend.predict import read_image
from backend.workplace import Workplace

if TYPE_CHECKING:
    from training.committee.committee import Committee
    from training.committee.prediction import Prediction


@dataclass(frozen=True)
class PredictedImage:
    """What the committee counts in an image.

    Attributes:
        size: (H, W) in pixels.
        counts: [C] particles of each class of at least ``min_particle_px`` pixels.
        areas: [C] share of the image that they cover; 0 of the background.
        split: class index to the diameter in pixels by which touching particles were told apart.
        digest: the image's, see ``training.examples.image_digest``.
    """

    size: tuple[int, int]
    counts: NDArray[np.float64]
    areas: NDArray[np.float64]
    split: Mapping[int, float]
    digest: str


def predict_counts(
    work: Workplace,
    project: Project,
    committee: Committee,
    urls: Mapping[int, str],
    learnt: Collection[int],
    folder: Path,
    progress: Callable[[int, int], None],
) -> tuple[dict[int, PredictedImage], dict[int, str]]:
    """Count in each image what the committee predicts; in those it learnt from, what the member
    predicts that never trained on it.

    Args:
        urls: task id to its image.
        learnt: tasks that taught the version.
        folder: where the counts are kept, in a file of this version and these options.
        progress: called with how many images are done, and of how many.

    Returns:
        Task id to its counts, and task id to why its image could not be read.

    Raises:
        StudioUnreachable, StudioRefused: Label Studio gives no images now. What was counted is
            kept.
        BadRequest: the folder cannot be written to.
    """
    from training.examples import image_digest
    from training.images import shrink

    options = work.options(project)
    key = _key(work, project, committee, options)
    path = folder / f"predicted-v{committee.version}-{key}.jsonl"
    names = {task: _name(task, url, task in learnt) for task, url in urls.items()}
    kept = _read(path, len(committee.config.classes))
    found = {task: kept[name] for task, name in names.items() if name in kept}
    refused: dict[int, str] = {}
    missing = [task for task in urls if task not in found]
    progress(len(found), len(urls))
    # Of one kind after the other: a member's module and the engine of all take memory each.
    missing.sort(key=lambda task: task in learnt)
    read: list[int] = []
    digests: dict[int, str] = {}

    def images(tasks: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        for task in tasks:
            try:
                image = read_image(work.images, urls[task], options.channel_numbers)
            except ImageRefused as error:
                refused[task] = str(error)
                progress(len(found) + len(refused), len(urls))
            else:
                read.append(task)
                digests[task] = image_digest(shrink(image, committee.config.max_side_px))
                yield image

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            if file.tell():
                file.write("\n")  # the last line may have been cut short
            for number, prediction in enumerate(_predict(committee, images, missing, learnt, read)):
                task = read[number]
                found[task] = _count(committee, prediction, options, digests[task])
                file.write(_line(names[task], found[task]))
                file.flush()
                progress(len(found) + len(refused), len(urls))
    except OSError as error:
        raise BadRequest(f"The counts cannot be written to {folder}: {error}.") from error
    return found, refused


def _predict(
    committee: Committee,
    images: Callable[[Sequence[int]], Iterator[NDArray[np.uint8]]],
    tasks: Sequence[int],
    learnt: Collection[int],
    read: Sequence[int],
) -> Iterator[Prediction]:
    """What is predicted of each task whose image can be read, in the order of ``tasks``."""
    from training.committee.prediction import Prediction
    from training.examples import make_example

    yield from committee.predict_all(images([task for task in tasks if task not in learnt]))
    none = np.zeros(0, np.float32)
    for image in images([task for task in tasks if task in learnt]):
        size = (image.shape[0], image.shape[1])
        unlabelled = np.zeros(size, np.uint8)
        example = make_example(str(read[-1]), image, unlabelled, committee.config.max_side_px)
        probs, predicted = committee.out_of_fold(example)
        # One member has no uncertainty, and nothing is ranked here.
        yield Prediction(size, probs.numpy(), predicted, {}, {}, none, none)


def _count(
    committee: Committee, prediction: Prediction, options: ProjectOptions, digest: str
) -> PredictedImage:
    from training.particles.instances import instances

    classes, mask = len(committee.config.classes), prediction.mask()
    split = committee.diameters(options.split_touching or (), prediction)
    found = instances(
        mask, options.min_particle_px, confidence=prediction.confidence(), split=split
    )
    pixels = np.bincount(found.numbers.ravel(), minlength=len(found.classes) + 1)[1:]
    counts = np.bincount(found.classes, minlength=classes).astype(np.float64)
    shares = pixels / mask.size
    areas = np.bincount(found.classes, weights=shares, minlength=classes).astype(np.float64)
    return PredictedImage((mask.shape[0], mask.shape[1]), counts, areas, split, digest)


def _key(work: Workplace, project: Project, committee: Committee, options: ProjectOptions) -> str:
    """A name for all that decides what is counted in an image, but for the image."""
    files = work.registry.files(project.slug, committee.version)
    parts = [
        sorted(files.items()),
        options.min_particle_px,
        options.channel_numbers,
        sorted(options.split_touching or ()),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def _name(task: int, url: str, out_of_fold: bool) -> str:
    """A name for an image and for who predicts it; its address itself may hold a signature."""
    return hashlib.sha256(f"{task}:{out_of_fold}:{url}".encode()).hexdigest()[:24]


def _line(name: str, image: PredictedImage) -> str:
    kept = {
        "image": name,
        "size": image.size,
        "counts": image.counts.tolist(),
        "areas": image.areas.tolist(),
        "split": image.split,
        "digest": image.digest,
    }
    return json.dumps(kept) + "\n"


def _read(path: Path, classes: int) -> dict[str, PredictedImage]:
    """What earlier runs have kept; a line that was cut short is done again."""
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise BadRequest(f"{path} cannot be read: {error}. Remove it.") from error
    found = {}
    for line in text.splitlines():
        try:
            kept: dict[str, Any] = json.loads(line)
            height, width = kept["size"]
            counts, areas = np.array(kept["counts"], float), np.array(kept["areas"], float)
            split = {int(index): float(px) for index, px in kept["split"].items()}
            digest = str(kept["digest"])
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        if counts.shape == areas.shape == (classes,):
            found[str(kept.get("image"))] = PredictedImage(
                (height, width), counts, areas, split, digest
            )
    return found
