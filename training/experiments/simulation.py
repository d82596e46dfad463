"""One strategy with one seed, simulated round by round: choose, label, judge, train, test."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from acquisition.adaptive import Evidence, Trust, trust, weights_of
from acquisition.masks import UNKNOWN
from acquisition.queue import farthest_first
from training.committee.prediction import Prediction
from training.examples import images_showing
from training.experiments.learners import Learner, NetworkLearner, Predictor, ProbeLearner
from training.experiments.loop_config import BadLoop, LoopConfig
from training.experiments.loop_data import START_PREFIX, Data, find_data, particles_of
from training.experiments.probe import STRIDE, load_features
from training.experiments.runs import DistanceBins, Line
from training.experiments.strategy import FULL, Candidates, Strategy, choose
from training.fitting.folds import training_keys
from training.quality.distance import UncertaintyByDistance, uncertainty_by_distance
from training.quality.quality import Quality

TEST_PX = 2000
"""Pixels of each test image that calibration is measured on."""


class Simulation:
    """One path of a loop.

    Args:
        folder: of the run, where features, particles and trained members are kept.
        strategy: its name, or ``FULL``.
        lines: of the rounds that are done.
    """

    def __init__(
        self, config: LoopConfig, folder: Path, strategy: str, seed: int, lines: Sequence[Line]
    ) -> None:
        self.config, self.name, self.seed = config, strategy, seed
        self.strategy = None if strategy == FULL else config.strategies_by_name()[strategy]
        self.data = find_data(config)
        features = load_features(folder / "features")
        self.learner: Learner = (
            ProbeLearner(self.data, features)
            if config.learner == "probe"
            else NetworkLearner(self.data, features, folder / "members")
        )
        self.particles = particles_of(folder, self.data)
        order = np.random.default_rng(seed).permutation(list(self.data.pool))
        self.pool = sorted(order[: self.data.pool_size].tolist())
        self.labelled = [key for line in lines for key in line.keys]
        self.known = self._showing(self.labelled)
        self.evidence = [each for line in lines for each in line.evidence]
        self.committee: Predictor | None = None

    def round(self, number: int) -> Line:
        """Choose, label, judge, train and test.

        Raises:
            BadLoop: see ``initial`` and ``measure_quality``.
        """
        started = time.perf_counter()
        found = trust(self.evidence)
        weights: Mapping[str, float] | None = None
        judged: list[Evidence] = []
        if self.strategy is None:
            # What a strategy would hold if it asked for the whole pool.
            begun = self.initial() if self.data.start else []
            keys = [*begun, *self.pool]
        elif number == 0:
            keys = self.initial()
        else:
            if self.strategy.mode in ("hedge", "leader"):
                weights = weights_of(self.strategy.mode, found)
            keys, judged = self._query(self.strategy, number, found)
        self.labelled += keys
        self.known += self._showing(keys)
        self.evidence += judged
        self.committee = self.learner.fit(self.labelled, self.seed)
        tested = measure_quality(
            self.committee, self.learner, self.data, with_distance=number == self.config.rounds
        )
        return Line(
            strategy=self.name,
            seed=self.seed,
            round=number,
            labelled=len(self.labelled),
            particles=sum(self.particles[key] for key in self.labelled),
            known=tuple(bool(count) for count in self.known.tolist()),
            chosen=tuple(key.removeprefix(START_PREFIX) for key in keys) if self.strategy else (),
            keys=tuple(keys),
            weights=None if weights is None else dict(weights),
            leader=found.leader if weights else None,
            rewards=dict(found.rewards) if weights else None,
            evidence=tuple(judged),
            mean_iou=tested.mean_iou,
            iou=tested.iou,
            dice=tested.dice,
            pixels_wrong=tested.pixels_wrong,
            ece=tested.ece,
            uncertainty_by_distance=tested.uncertainty_by_distance,
            seconds=time.perf_counter() - started,
        )

    def initial(self) -> list[str]:
        """The images that everything begins with, the same for all strategies of a seed.

        Raises:
            BadLoop: they leave a member of the committee nothing to learn from.
        """
        source = list(self.data.start) or self.pool
        generator = torch.Generator().manual_seed(self.seed)
        self._check_learnable(source, "all images that it could begin with")
        if self.config.initial_by == "random":
            keys = self._drawn(source, generator)
            # As live, where a round waits until each member has something to learn from.
            while not _all_members_learn(keys, self.config.members):
                keys = self._drawn(source, generator)
            return keys
        order = farthest_first(self._features(source), self.config.initial, generator)
        keys = [source[i] for i in order]
        self._check_learnable(keys, f"the {len(keys)} most different images that it begins with")
        return keys

    def _check_learnable(self, keys: Sequence[str], which: str) -> None:
        if not _all_members_learn(keys, self.config.members):
            raise BadLoop(
                f"seed {self.seed}: {which} are held back from one and the same member, which is "
                "left with nothing to learn from: raise initial, or members"
            )

    def _drawn(self, source: Sequence[str], generator: torch.Generator) -> list[str]:
        order = torch.randperm(len(source), generator=generator)
        return [source[i] for i in order[: self.config.initial].tolist()]

    def _query(
        self, strategy: Strategy, number: int, found: Trust
    ) -> tuple[list[str], list[Evidence]]:
        """What the strategy chooses, and how well the committee's uncertainty saw its errors."""
        rng = np.random.default_rng([self.seed, number])
        left = sorted(set(self.pool) - set(self.labelled))
        drawn = [left[i] for i in rng.permutation(len(left))[: self.config.candidates]]
        predictions: list[Prediction] = []
        if strategy.needs_predictions:
            if self.committee is None:  # the path goes on after an interruption
                self.committee = self.learner.fit(self.labelled, self.seed)
            predictions = [self.committee.predict(key) for key in drawn]
        errors = None
        if strategy.mode == "oracle_error":
            errors = [
                _error(prediction, self.learner.truth(key))
                for key, prediction in zip(drawn, predictions, strict=True)
            ]
        picks = choose(
            strategy,
            Candidates(self._features(drawn), predictions, errors, torch.from_numpy(self.known)),
            self.config.query,
            found,
            (number - 1) / max(1, self.config.rounds - 1),
            torch.Generator().manual_seed(1000 * self.seed + number),
        )
        judged = [
            evidence_of(predictions[pick.index], self.learner.truth(drawn[pick.index]), number)
            for pick in (picks if predictions else [])
        ]
        return [drawn[pick.index] for pick in picks], judged

    def _features(self, keys: Sequence[str]) -> torch.Tensor:
        return torch.from_numpy(np.stack([self.learner.features[key] for key in keys]))

    def _showing(self, keys: Iterable[str]) -> NDArray[np.int64]:
        """[C] how many of these images show each class."""
        return images_showing(map(self.learner.truth, keys), len(self.data.classes))


def _all_members_learn(keys: Sequence[str], members: int) -> bool:
    """Whether no member's fold holds all of these images."""
    return all(training_keys(keys, members, m) for m in range(members))


@dataclass(frozen=True)
class Tested:
    """Quality on the test images; the fields are those of ``Line``."""

    mean_iou: float
    iou: tuple[float | None, ...]
    dice: tuple[float | None, ...]
    pixels_wrong: float
    ece: float
    uncertainty_by_distance: DistanceBins | None


def measure_quality(
    committee: Predictor, learner: Learner, data: Data, *, with_distance: bool
) -> Tested:
    """Measure a committee on the test images.

    Args:
        with_distance: also measure where the uncertainty lies, which takes a full prediction.

    Raises:
        BadLoop: the test images show background only.
    """
    quality = Quality(len(data.classes), TEST_PX)
    distance: UncertaintyByDistance | None = None
    for key in data.test:
        truth = learner.truth(key)
        if with_distance:
            prediction = committee.predict(key)
            probs, predicted = prediction.probs, prediction.predicted
            found = uncertainty_by_distance(prediction.maps, truth, predicted)
            distance = found if distance is None else distance + found
        else:
            probs, predicted = committee.predict_classes(key)
        quality.add(truth, predicted, probs)
    counts = quality.overlap
    if not counts.truth[1:].any():
        raise BadLoop(
            f"none of the {len(data.test)} test images shows a class but background at "
            "the resolution that is measured at: hold back others, or raise max_side_px"
        )
    return Tested(
        mean_iou=counts.mean_iou(),
        iou=tuple(counts.where_shown(counts.iou())),
        dice=tuple(counts.where_shown(counts.dice())),
        pixels_wrong=float(1 - counts.shared.sum() / counts.truth.sum()),
        ece=quality.ece(),
        uncertainty_by_distance=None if distance is None else _in_image_px(distance, data.config),
    )


def _in_image_px(distance: UncertaintyByDistance, config: LoopConfig) -> DistanceBins:
    found = distance.to_json()
    scale = STRIDE if config.learner == "probe" else 1
    edges = [edge * scale for edge in found["edges_px"]]
    return DistanceBins.model_validate(found | {"edges_px": edges})


def evidence_of(prediction: Prediction, truth: NDArray[np.uint8], batch: int) -> Evidence:
    """How well a committee's uncertainty saw its errors, once the truth is known."""
    found = prediction.judge(truth)
    return Evidence(batch, batch, dict(found.rewards), dict(prediction.arms), found.error)


def _error(prediction: Prediction, truth: NDArray[np.uint8]) -> float:
    """Share of the known pixels that are wrong."""
    known = truth != UNKNOWN
    return float((prediction.predicted != truth)[known].mean()) if known.any() else 0.0
