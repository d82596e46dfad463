"""Every choice that alters a version's weights, saved with the version."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from acquisition.masks import UNKNOWN
from training.errors import TrainingError

NETWORKS = ("shared", "lite0", "unet")

_OWN_NETWORK = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")

MAX_CHANNELS = 256
"""Of an image; a network for more would be made, and would fill the memory, before anybody sees
that no weights fit it."""


BOUNDS: Mapping[str, tuple[float, float]] = {
    "members": (1, 20),
    "seed": (0, 2**63 - 1),
    "channels": (1, MAX_CHANNELS),
    "max_side_px": (32, 65_535),
    "crop_px": (32, 4096),
    "batch": (1, 1024),
    "steps": (1, 1_000_000),
    "threads": (1, 1024),
    "encoder_lr": (0, 10),
    "decoder_lr": (0, 10),
    "thaw": (0, 1),
    "weight_decay": (0, 100),
    "warmup": (0, 1),
    "dice_weight": (0, 1000),
    "class_weight_bound": (1, 1_000_000),
    "seek": (0, 1),
    "zoom": (1, 16),
    "colour": (0, 1),
    "gamma": (1, 16),
    "gradient": (0, 1),
    "blur": (0, 1),
    "blur_px": (0, 100),
    "noise": (0, 1),
    "noise_level": (0, 10),
}
"""Least and most of each number, both of them allowed: no configuration, wherever it comes from,
asks for work or memory without end."""


class BadConfig(TrainingError):
    """A training configuration that no version could be trained or loaded with."""


@dataclass(frozen=True)
class TrainConfig:
    """How the members of a committee are made.

    The same examples and the same configuration give the same weights; so there are steps in
    it and never seconds, and the thread count, which decides the order of sums.

    Attributes:
        classes: names in the order of the class indices; the first is "background".
        members: M.
        seed: member m draws from ``seed`` and ``m``.
        network: one of ``NETWORKS``, or a laboratory's own as ``package.module:factory``.
        network_weights: file that every member starts from; "" for the network's own beginning.
        network_weights_sha256: of that file.
        start: digest of the version that members begin with; "" for the network's own beginning.
        channels: of the images; 3 from Label Studio.
        max_side_px: images are shrunk, never enlarged, to at most this on their long side.
        crop_px: side of a training crop, a multiple of 32.
        batch: crops per step.
        steps: steps per member.
        threads: torch threads of one training.
        encoder_lr: peak rate of pretrained parameters; "unet" has none.
        decoder_lr: peak rate of parameters that start at random.
        thaw: share of the steps before a pretrained encoder begins to learn too.
        weight_decay: of AdamW, on kernels only.
        warmup: share of the steps in which the rate rises.
        dice_weight: of the Dice loss beside the cross-entropy's 1.
        class_weight_bound: a class weighs at most this many times another.
        seek: share of the crops that are put on a pixel of a class drawn evenly; the others
            lie anywhere.
        zoom: crops are enlarged or shrunk by up to this factor.
        colour: largest change of the colour matrix's entries, and of gain and offset.
        gamma: the brightness curve's exponent lies between 1 / gamma and gamma.
        gradient: largest change of brightness from the crop's centre to its edge.
        blur: share of the crops that are blurred.
        blur_px: largest standard deviation of the blur.
        noise: share of the crops that get noise.
        noise_level: largest standard deviation of the noise; white is 1.
    """

    classes: tuple[str, ...]
    members: int = 5
    seed: int = 0
    network: str = "shared"
    network_weights: str = ""
    network_weights_sha256: str = ""
    start: str = ""
    channels: int = 3
    max_side_px: int = 1024
    crop_px: int = 128
    batch: int = 8
    steps: int = 200
    threads: int = 1
    encoder_lr: float = 1e-3
    decoder_lr: float = 5e-3
    thaw: float = 0.75
    weight_decay: float = 1e-2
    warmup: float = 0.2
    dice_weight: float = 1.0
    class_weight_bound: float = 10.0
    seek: float = 0.6
    zoom: float = 1.4
    colour: float = 0.12
    gamma: float = 1.3
    gradient: float = 0.15
    blur: float = 0.2
    blur_px: float = 1.5
    noise: float = 0.3
    noise_level: float = 0.04

    def __post_init__(self) -> None:
        if len(self.classes) < 2 or self.classes[0] != "background":
            raise BadConfig(
                f"classes must be 'background' and at least one label, got {self.classes!r}"
            )
        if len(set(self.classes)) != len(self.classes) or len(self.classes) > UNKNOWN:
            raise BadConfig(
                f"classes must be at most {UNKNOWN} different names, got {self.classes!r}"
            )
        if not is_network(self.network):
            raise BadConfig(
                f"network must be one of {', '.join(NETWORKS)} or package.module:factory, "
                f"got {self.network!r}"
            )
        if bool(self.network_weights) != bool(self.network_weights_sha256):
            raise BadConfig("network_weights and network_weights_sha256 go together")
        for name, (least, most) in BOUNDS.items():
            if not least <= getattr(self, name) <= most:  # NaN neither
                raise BadConfig(
                    f"{name} must lie between {least} and {most}, got {getattr(self, name)}"
                )
        if self.crop_px % 32:
            raise BadConfig(f"crop_px must be a multiple of 32, got {self.crop_px}")

    def to_json(self) -> str:
        return json.dumps(described(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> TrainConfig:
        """Read what ``to_json`` wrote.

        Raises:
            BadConfig: a field is unknown, missing or out of its range: the text was written by
                another release.
        """
        found = json.loads(text)
        if not isinstance(found, dict):
            raise BadConfig(f"a configuration must be a JSON object, got {type(found).__name__}")
        return cls(**_checked(found))


def described(config: TrainConfig) -> dict[str, Any]:
    """The fields as they are written down: without ``start`` where there is none, as releases
    wrote them that had no such field."""
    found = asdict(config)
    if not config.start:
        del found["start"]
    return found


def is_network(name: str) -> bool:
    """Whether this names one of ours, or could name a laboratory's own."""
    return name in NETWORKS or _OWN_NETWORK.fullmatch(name) is not None


def _checked(found: Mapping[str, Any]) -> dict[str, Any]:
    defaults = {field.name: field.default for field in fields(TrainConfig)}
    unknown = sorted(found.keys() - defaults.keys())
    missing = sorted(defaults.keys() - found.keys() - {"start"})
    if unknown or missing:
        raise BadConfig(
            f"the configuration has unknown fields {unknown} and lacks {missing}; "
            "it was written by another release"
        )
    checked: dict[str, Any] = {}
    for name, value in found.items():
        if name == "classes":
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                raise BadConfig(f"classes must be a list of names, got {value!r}")
            checked[name] = tuple(value)
            continue
        kind: Any = type(defaults[name])
        allowed = (int, float) if kind is float else (kind,)
        if isinstance(value, bool) or not isinstance(value, allowed):
            raise BadConfig(f"{name} must be of type {kind.__name__}, got {value!r}")
        checked[name] = kind(value)
    return checked
