"""Predict one shard of the candidates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import orjson

from backend.errors import ImageRefused
from backend.ledger import NO_VERSION, Outcome, Project, Round
from backend.ledger.shapes import ScorePayload
from backend.options import ProjectOptions
from backend.predict import label_config_of, pre_annotate, read_image
from backend.rounds.stages.layers import layer_measure
from backend.rounds.stages.shards import Scored, halved, write_shard
from backend.workplace import Workplace
from training.quality.usable import Focus, focus_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FIRST_SIDE_PX = 512
"""Long side of the images that the encoder reads before there is a version: only their likeness is
asked for, and half the usual side takes a quarter of the time."""


def score(
    work: Workplace, round_: Round, payload: ScorePayload, tick: Callable[[float], None]
) -> Outcome:
    """Predict one shard of the candidates; masks and measures wait in the scratch folder."""
    row = work.ledger.projects.get(round_.project_id)
    options = work.options(row)
    version, tasks = int(payload["version"]), payload["tasks"]
    scored: dict[int, Scored] = {}
    problems: list[str] = []
    unlike: list[str] = []
    read: list[int] = []
    focus: dict[int, Focus] = {}

    def images() -> Iterator[NDArray[np.uint8]]:
        """Read one by one as they are predicted; ``read`` tells whose they are."""
        for task_id, url in tasks:
            try:
                image = read_image(work.images, url, options.channel_numbers)
            except ImageRefused as error:
                problems.append(f"Task {task_id}: {error}")
                tick((len(scored) + len(problems)) / len(tasks))
            else:
                read.append(task_id)
                focus[task_id] = focus_of(image)
                yield image

    if version == NO_VERSION and options.mode == "random":
        # Chance needs no prediction.
        scored = {task_id: Scored(arms={}) for task_id, _ in tasks}
    else:
        predictions = (
            _first_results(work, options, images())
            if version == NO_VERSION
            else _score_results(work, row, options, version, images())
        )
        for number, found in enumerate(predictions):
            scored[read[number]] = replace(found, focus=focus[read[number]])
            if found.features is None:
                unlike.append(
                    f"The features of task {read[number]} are not finite numbers, so this queue "
                    "ignores which images are alike. Check the network."
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
) -> Iterator[Scored]:
    """What a version predicts for each image: what ranks it, and its regions."""
    from training.committee.hesitation import find_hesitation

    config = label_config_of(row.label_config, options)
    committee = work.registry.load(row.slug, version)
    measure = layer_measure(work, row, version)
    for prediction in committee.predict_all(images):
        regions = pre_annotate(committee, prediction, config, options)
        yield Scored(
            arms=prediction.arms,
            features=halved(prediction.features.mean(axis=0)),
            class_scores=prediction.class_scores,
            result=orjson.dumps(regions),
            hesitation=None
            if measure is None
            else find_hesitation(prediction, measure, committee.config.classes),
        )


def _first_results(
    work: Workplace, options: ProjectOptions, images: Iterator[NDArray[np.uint8]]
) -> Iterator[Scored]:
    """What is known of each image before there is a version: no more than what it resembles."""
    from training.networks.pretrained_features import pretrained_features

    side_px = min(options.max_side_px, FIRST_SIDE_PX)
    for features in pretrained_features(images, side_px, work.registry.threads):
        yield Scored(arms={}, features=halved(features))
