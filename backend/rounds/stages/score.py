"""A look at one shard of the candidates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from backend.errors import ImageRefused
from backend.ledger import NO_VERSION, Outcome, Project, Round
from backend.ledger.shapes import ScorePayload
from backend.options import ProjectOptions
from backend.predict import label_config_of, pre_annotate, read_image
from backend.rounds.stages.shards import packed, write_shard
from backend.workplace import Workplace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FIRST_SIDE_PX = 512
"""Long side at which an encoder looks before there is a version: it looks for nothing in the image,
and half the usual side takes a quarter of the time."""


def score(
    work: Workplace, round_: Round, payload: ScorePayload, tick: Callable[[float], None]
) -> Outcome:
    """Look at one shard of the candidates; masks and measures wait in the scratch folder."""
    row = work.ledger.projects.get(round_.project_id)
    options = work.options(row)
    version, tasks = int(payload["version"]), payload["tasks"]
    scored: list[dict[str, Any]] = []
    problems: list[str] = []
    unlike: list[str] = []
    read: list[int] = []

    def images() -> Iterator[NDArray[np.uint8]]:
        """Read as they are looked at; ``read`` tells whose they are."""
        for task_id, url in tasks:
            try:
                image = read_image(work.images, url)
            except ImageRefused as error:
                problems.append(f"Task {task_id}: {error}")
                tick((len(scored) + len(problems)) / len(tasks))
            else:
                read.append(task_id)
                yield image

    if version == NO_VERSION and options.mode == "random":
        # Chance needs no look.
        scored = [{"task": task_id, "arms": {}, "result": []} for task_id, _ in tasks]
    else:
        predictions = (
            _first_results(work, options, images())
            if version == NO_VERSION
            else _score_results(work, row, options, version, images())
        )
        for number, found in enumerate(predictions):
            scored.append({"task": read[number], **found})
            if found["features"] is None:
                unlike.append(
                    f"The features of task {read[number]} are not finite numbers, so this queue "
                    "does not heed which images are alike: look at the network."
                )
            tick((len(scored) + len(problems)) / len(tasks))
    name = write_shard(work, row.slug, round_.id, payload, scored)
    return Outcome(
        result={"file": name, "scored": len(scored), "refused": len(problems)},
        problems=problems + unlike,
    )


def _score_results(
    work: Workplace,
    row: Project,
    options: ProjectOptions,
    version: int,
    images: Iterator[NDArray[np.uint8]],
) -> Iterator[dict[str, Any]]:
    """What a version sees in each image: what ranks it, and its regions."""
    config = label_config_of(row.label_config, options)
    committee = work.registry.load(row.slug, version)
    for prediction in committee.predict_all(images):
        yield {
            "arms": prediction.arms,
            "features": packed(prediction.features.mean(axis=0)),
            "class_scores": prediction.class_scores.tolist(),
            "result": pre_annotate(prediction, committee.config.classes, config, options),
        }


def _first_results(
    work: Workplace, options: ProjectOptions, images: Iterator[NDArray[np.uint8]]
) -> Iterator[dict[str, Any]]:
    """What is seen in each image before there is a version: no more than what it resembles."""
    from training.networks.pretrained_features import pretrained_features

    side_px = min(options.max_side_px, FIRST_SIDE_PX)
    for features in pretrained_features(images, side_px, work.registry.threads):
        yield {"arms": {}, "features": packed(features), "result": []}
