"""The committee's inference: against loops of torch, against its own float32, and its memory."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acquisition.uncertainty import uncertainty_maps
from tests.bench.harness import Measured, row, side_by_side
from training.committee.committee import Committee
from training.committee.ensemble import Ensemble
from training.compute import bounded_threads
from training.config import TrainConfig
from training.datasets.urine_sediment import CLASSES, draw_field
from training.examples import make_example
from training.fitting.fit import fit_member
from training.networks.build import Weights, build_network, skeleton

THREADS = 2


@dataclass(frozen=True)
class Sizes:
    """A committee and the images that it is asked about.

    Attributes:
        steps: enough that the members know cells from ground.
        network: has an encoder for each member, since OpenVINO would run a shared one once.
    """

    members: int = 5
    side_px: int = 512
    steps: int = 80
    network: str = "lite0"

    def config(self) -> TrainConfig:
        return TrainConfig(
            CLASSES,
            members=self.members,
            network=self.network,
            steps=self.steps,
            thaw=0.5,
            batch=4,
            threads=THREADS,
        )


SMALL = Sizes(members=2, side_px=64, steps=1, network="tests.training.laboratory:small")

PEAK_LIMIT_MB = 1500.0


@dataclass(frozen=True)
class Trained:
    """Trained members and drawn fields that they never saw, [1, 3, H, W] each."""

    weights: list[Weights]
    fast: Committee
    exact: Committee
    fields: list[Tensor]


@contextmanager
def trained(sizes: Sizes) -> Iterator[Trained]:
    config, size = sizes.config(), (sizes.side_px, sizes.side_px)
    drawn = [draw_field(seed, size=size) for seed in range(6)]
    examples = [
        make_example(f"field-{seed}", field.image, field.mask, 1024)
        for seed, field in enumerate(drawn)
    ]
    weights = [fit_member(examples, config, member)[0] for member in range(sizes.members)]
    committee = Committee(Ensemble(weights, config, threads=THREADS, device=torch.device("cpu")))
    unseen = [draw_field(100 + n, name, size=size).image for n, name in enumerate("AABB")]
    yield Trained(
        weights,
        committee.in_precision("bf16"),
        committee.in_precision("f32"),
        [as_batch(image) for image in unseen],
    )


def untrained(config: TrainConfig) -> Committee:
    """Members with random weights, every one its own."""
    weights = []
    for member in range(config.members):
        torch.manual_seed(member)
        weights.append(skeleton(config).state_dict())
    return Committee(Ensemble(weights, config, threads=THREADS, device=torch.device("cpu")))


def as_batch(image: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].contiguous() / 255


def loop(members: list[torch.nn.Module], x: Tensor) -> Callable[[], object]:
    """What one would write: each member in turn, float32, no thought of layout."""
    for member in members:
        member.eval()

    def run() -> object:
        with torch.inference_mode(), bounded_threads(THREADS):
            return [member(x).softmax(dim=1) for member in members]

    return run


@row(
    "committee",
    "ensemble_vs_peer_loop",
    against="eager fp32 loop of five MONAI BasicUNets, 512x512, 2 threads",
    unit="ms",
    goal=15.0,
    setting=trained,
    sizes=Sizes(),
    small=SMALL,
)
def ensemble_vs_peer_loop(sizes: Sizes, given: Trained) -> Measured:
    from monai.networks.nets import BasicUNet  # takes seconds, which the other rows do without

    x = given.fields[0]
    peers: list[torch.nn.Module] = [
        BasicUNet(2, 3, len(CLASSES), features=(16, 32, 64, 128, 128, 16))
        for _ in range(sizes.members)
    ]
    return side_by_side(lambda: given.fast.engine(x), loop(peers, x))


@row(
    "committee",
    "ensemble_vs_own_loop",
    against="eager fp32 loop of the same members, 512x512, 2 threads",
    unit="ms",
    goal=4.5,
    setting=trained,
    sizes=Sizes(),
    small=SMALL,
)
def ensemble_vs_own_loop(sizes: Sizes, given: Trained) -> Measured:
    members = []
    for weights in given.weights:
        member = build_network(sizes.config())
        member.load_state_dict(weights)
        members.append(member)
    x = given.fields[0]
    return side_by_side(lambda: given.fast.engine(x), loop(members, x))


def both(given: Trained) -> Iterator[tuple[Tensor, Tensor]]:
    """Mean probabilities [C, h, w] of the fast and the exact committee, field by field."""
    for x in given.fields:
        fast = given.fast.engine(x)[0].mean(dim=0)[0]
        yield fast, given.exact.engine(x)[0].mean(dim=0)[0]


@row(
    "committee",
    "ensemble_argmax_apart",
    against="limit; pixels whose class differs from fp32's",
    unit="share",
    goal=1.0,
    setting=trained,
    sizes=Sizes(),
    small=SMALL,
)
def ensemble_argmax_apart(sizes: Sizes, given: Trained) -> Measured:
    apart = [
        float((fast.argmax(0) != exact.argmax(0)).float().mean()) for fast, exact in both(given)
    ]
    # No pixel at all would make the ratio infinite; one in a field is the least that shows.
    return Measured(max(statistics.fmean(apart), 1 / sizes.side_px**2), 0.002, 0.0)


@row(
    "committee",
    "ensemble_probs_apart",
    against="limit; mean difference of the probabilities from fp32's",
    unit="probability",
    goal=1.0,
    setting=trained,
    sizes=Sizes(),
    small=SMALL,
)
def ensemble_probs_apart(sizes: Sizes, given: Trained) -> Measured:
    apart = [float((fast - exact).abs().mean()) for fast, exact in both(given)]
    return Measured(max(statistics.fmean(apart), 1e-9), 0.01, 0.0)


def class_names(classes: int) -> tuple[str, ...]:
    return ("background", *(f"class {c}" for c in range(1, classes)))


def maps_share(sizes: Sizes, classes: int) -> Measured:
    """The maps of an image beside a third of the fp32 pass that gives their probabilities."""
    config = replace(sizes.config(), classes=class_names(classes))
    committee = untrained(config)
    engine = committee.in_precision("f32").engine
    x = torch.rand(1, 3, sizes.side_px, sizes.side_px, generator=torch.Generator().manual_seed(0))
    probs = engine(x)[0].clone()

    def maps() -> object:
        with bounded_threads(THREADS):
            return uncertainty_maps(probs)

    measured = side_by_side(maps, lambda: engine(x))
    return replace(measured, peer=measured.peer / 3)


@row(
    "committee",
    "maps_share_3",
    against="a third of the fp32 pass, five members, 3 classes, 1 Mpx",
    unit="ms",
    goal=1.0,
    sizes=Sizes(side_px=1024),
    small=SMALL,
)
def maps_share_3(sizes: Sizes) -> Measured:
    return maps_share(sizes, 3)


@row(
    "committee",
    "maps_share_9",
    against="a third of the fp32 pass, five members, 9 classes, 1 Mpx",
    unit="ms",
    goal=1.0,
    sizes=Sizes(side_px=1024),
    small=SMALL,
)
def maps_share_9(sizes: Sizes) -> Measured:
    return maps_share(sizes, 9)


@row(
    "committee",
    "memory_2048",
    against="limit; peak above idle, 2048x2048, five members, 6 classes",
    unit="MB",
    goal=1.0,
    sizes=Sizes(side_px=2048),
    small=SMALL,
)
def memory_2048(sizes: Sizes) -> Measured:
    # A process of its own: what was ever used before would count as idle here.
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.bench.memory"),
            *(str(sizes.side_px), str(sizes.members), sizes.network),
        ],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    return Measured(float(done.stdout), PEAK_LIMIT_MB, 0.0)
