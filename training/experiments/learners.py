"""What learns in a simulated loop: heads on kept features, or the networks that serve live."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from training.committee.committee import Committee
from training.committee.prediction import Prediction
from training.committee.registry import load_weights, save_weights
from training.config import BadConfig, TrainConfig
from training.examples import Example
from training.experiments.loop_config import BadLoop
from training.experiments.loop_data import Data
from training.experiments.probe import Features, ProbeCommittee, fit_probe
from training.files import write_atomically
from training.fitting.fit import fit_member
from training.networks.build import Weights
from training.quality.assessment import assess

KEPT_IMAGES = 256
"""Decoded images that a process keeps. A small loop reads the same ones again and again; large
images take at most a gigabyte."""


class Predictor(Protocol):
    """A trained committee that predicts images by key."""

    def predict(self, key: str) -> Prediction:
        """The full prediction."""

    def predict_classes(self, key: str) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Only the mean probabilities [C, h, w] and the classes [h, w], where that is quicker."""


class Learner(Protocol):
    """Trains committees on the images of a loop.

    Attributes:
        features: key to [F] float32 of the pretrained encoder.
    """

    features: Mapping[str, NDArray[np.float32]]

    def truth(self, key: str) -> NDArray[np.uint8]:
        """[h, w] class indices at the resolution of its predictions."""

    def fit(self, keys: Sequence[str], seed: int) -> Predictor:
        """A committee trained on these images."""


class ProbeLearner:
    """Heads on kept features (``training.experiments.probe``)."""

    def __init__(self, data: Data, features: Features) -> None:
        self._data, self._features = data, features
        self.features = features.image

    def truth(self, key: str) -> NDArray[np.uint8]:
        return self._features.truth[key]

    def fit(self, keys: Sequence[str], seed: int) -> ProbeCommittee:
        C = len(self._data.classes)
        return fit_probe(self._features, keys, C, self._data.config.members, seed)


class NetworkLearner:
    """The networks that serve live, trained and calibrated as in a round.

    Args:
        scratch: a folder where trained members are kept.
    """

    def __init__(self, data: Data, features: Features, scratch: Path) -> None:
        self._data, self._scratch = data, scratch
        self.features = features.image
        self._read = lru_cache(maxsize=KEPT_IMAGES)(data.read)

    def truth(self, key: str) -> NDArray[np.uint8]:
        return self._read(key).mask

    def fit(self, keys: Sequence[str], seed: int) -> Predictor:
        config = train_config(self._data, seed)
        examples = [self._read(key) for key in sorted(keys)]
        weights = [self._member(examples, config, member) for member in range(config.members)]
        committee = assess(weights, config, examples, device=torch.device("cpu")).committee
        return _NetworkPredictor(committee, self._read)

    def _member(self, examples: Sequence[Example], config: TrainConfig, member: int) -> Weights:
        """Trained once: all strategies begin with the same committee, and an interrupted path
        needs its last one again."""
        inputs = json.dumps([config.to_json(), member, [each.key for each in examples]])
        path = self._scratch / f"{hashlib.sha256(inputs.encode()).hexdigest()[:24]}.safetensors"
        if path.exists():
            return load_weights(path.read_bytes())
        weights, _ = fit_member(examples, config, member, device=torch.device("cpu"))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, save_weights(weights))
        return weights


@dataclass(frozen=True)
class _NetworkPredictor:
    committee: Committee
    read: Callable[[str], Example]

    def predict(self, key: str) -> Prediction:
        return self.committee.predict(self.read(key).image)

    def predict_classes(self, key: str) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        prediction = self.predict(key)
        return prediction.probs, prediction.predicted


def train_config(data: Data, seed: int) -> TrainConfig:
    """The networks' configuration.

    Raises:
        BadLoop: the loop's ``network`` has an unknown field or a value that is not allowed.
    """
    config = data.config
    _check_network(config.network)
    try:
        return TrainConfig(
            data.classes,
            members=config.members,
            seed=seed,
            max_side_px=config.max_side_px,
            **{"threads": 1, **config.network},
        )
    except BadConfig as error:
        raise BadLoop(f"network: {error}") from error


def _check_network(given: Mapping[str, Any]) -> None:
    set_by_loop = {"classes", "members", "seed", "max_side_px"}
    types = {f.name: type(f.default) for f in fields(TrainConfig) if f.name not in set_by_loop}
    for name, value in given.items():
        expected = types.get(name)
        if expected is None:
            raise BadLoop(f"network: {name} is none of {', '.join(types)}")
        # YAML writes 1.0 as 1; True is an int for Python and none here.
        allowed = (int, float) if expected is float else (expected,)
        if type(value) not in allowed:
            raise BadLoop(f"network: {name} must be of type {expected.__name__}, got {value!r}")
