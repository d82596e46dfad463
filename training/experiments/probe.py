"""A committee small enough to be trained a thousand times: heads on the encoder's features.

The features of every image are computed once, reduced, and kept on disk at a quarter of the
network's resolution. A committee is then five small heads per pixel, trained in a second or two.
Its predictions are coarser than those of the networks that serve, but it can be trained over many
seeds, which would take the networks days.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from acquisition.aggregate import aggregate, class_means
from acquisition.masks import UNKNOWN
from acquisition.uncertainty import uncertainty_maps
from training.committee.prediction import Prediction, winners
from training.compute import bounded_threads
from training.errors import TrainingError
from training.examples import Example
from training.files import write_atomically
from training.fitting.adamw import AdamW
from training.fitting.folds import fold
from training.networks.encoder import coarse_means, pretrained_encoder
from training.networks.forward import pad_to_stride
from training.process_pool import process_pool

STRIDE = 4
"""Rows and columns of the image per probe pixel."""

WIDTH = 64
"""Features kept per pixel, of the encoder's 515; more did not help in a first trial."""

HIDDEN = 32
STEPS = 400
BATCH_PX = 512
"""Pixels per member and step, half of them drawn so that all classes are equally frequent. Twice as
many, or a third more hidden units, did not segment urine sediment better."""

ADJUSTMENT = 0.5
"""Share of the logit adjustment for that draw: without any, rare classes are painted too much."""

RATE = 5e-3
FITTING_IMAGES = 200
FITTING_PX = 128
"""Images, and pixels of each, that the reduction is fitted on."""


class NothingToLearn(TrainingError):
    """The labelled images leave a member without a known pixel."""


@dataclass(frozen=True)
class Features:
    """The reduced features of many images, on disk.

    Attributes:
        path: of the features, float16 [pixels of all images, WIDTH].
        places: key to the first pixel, h and w.
        truth: key to [h, w] uint8 class indices at the features' resolution.
        image: key to [F] float32, the image as a whole.
    """

    path: Path
    places: Mapping[str, tuple[int, int, int]]
    truth: Mapping[str, NDArray[np.uint8]]
    image: Mapping[str, NDArray[np.float32]]

    @cached_property
    def _all(self) -> NDArray[np.float16]:
        return np.memmap(self.path, np.float16, "r").reshape(-1, WIDTH)

    def of(self, key: str) -> Tensor:
        """[h * w, WIDTH] float32."""
        first, h, w = self.places[key]
        return torch.from_numpy(self._all[first : first + h * w].astype(np.float32))


def keep_features(
    folder: Path,
    keys: Sequence[str],
    read: Callable[[str], Example],
    workers: int = 1,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Compute the features of all images into ``folder``, unless they are there already.

    Args:
        keys: of the images.
        read: key to image and truth at the network's resolution; it must survive a pickle.
        workers: processes, each with one thread; one works in this process.
        progress: called with the images that are done.
    """
    done = folder / "features.json"
    if done.exists() and json.loads(done.read_text())["keys"] == list(keys):
        return
    folder.mkdir(parents=True, exist_ok=True)
    done.unlink(missing_ok=True)
    reduction = _fit_reduction([read(key) for key in keys[:: -(-len(keys) // FITTING_IMAGES)]])
    places: dict[str, list[int]] = {}
    truths: dict[str, NDArray[np.uint8]] = {}
    wholes: dict[str, NDArray[np.float32]] = {}
    first = 0
    reduce_image = partial(_reduced, read, reduction)
    with ExitStack() as stack:
        file = stack.enter_context((folder / "features.f16").open("wb"))
        found: Iterable[tuple[NDArray[np.float16], NDArray[np.uint8], NDArray[np.float32]]]
        if workers == 1:
            found = map(reduce_image, keys)
        else:
            pool = stack.enter_context(process_pool(workers))
            found = pool.map(reduce_image, keys, chunksize=4)
        for number, (key, (pixels, truth, whole)) in enumerate(zip(keys, found, strict=True)):
            file.write(pixels.tobytes())
            places[key] = [first, *truth.shape]
            first += len(pixels)
            truths[key], wholes[key] = truth, whole
            if progress is not None:
                progress(number + 1)
    np.savez(folder / "truth.npz", **truths)  # type: ignore[arg-type]
    np.savez(folder / "image.npz", **wholes)  # type: ignore[arg-type]
    write_atomically(done, json.dumps({"keys": list(keys), "places": places}).encode())


def _fit_reduction(examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(0)
    drawn, widths = [], []
    for example in examples:
        levels = _levels(example.image)
        widths = [level.shape[0] for level in levels]
        pixels = _at_stride(levels, example).flatten(1).T  # [P, all channels]
        drawn.append(pixels[torch.from_numpy(rng.integers(len(pixels), size=FITTING_PX))])
    return _reduction(torch.cat(drawn), widths)


def _reduced(
    read: Callable[[str], Example], reduction: tuple[Tensor, Tensor], key: str
) -> tuple[NDArray[np.float16], NDArray[np.uint8], NDArray[np.float32]]:
    """One image's features [h * w, WIDTH], truth [h, w] and features as a whole [F]."""
    example = read(key)
    mean, project = reduction
    with bounded_threads(1), torch.inference_mode():
        levels = _levels(example.image)
        at_stride = _at_stride(levels, example)
        pixels = ((at_stride.flatten(1).T - mean) @ project).to(torch.float16).numpy()
        whole = coarse_means([level[None] for level in levels])[0].numpy()
    return pixels, _coarse(example.mask, *at_stride.shape[1:]), whole


def load_features(folder: Path) -> Features:
    """Open what ``keep_features`` wrote."""
    places = json.loads((folder / "features.json").read_text())["places"]
    with np.load(folder / "truth.npz") as truth, np.load(folder / "image.npz") as image:
        return Features(
            folder / "features.f16",
            {key: (place[0], place[1], place[2]) for key, place in places.items()},
            {key: truth[key] for key in places},
            {key: image[key] for key in places},
        )


@cache
def _encoder() -> nn.Module:
    encoder = pretrained_encoder().eval()
    return encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


@torch.inference_mode()
def _levels(image: NDArray[np.uint8]) -> list[Tensor]:
    """The pixels and the encoder's features of an image, finest first: [channels, h, w] each."""
    x = torch.tensor(image).permute(2, 0, 1)[None].float() / 255
    x = pad_to_stride(x).contiguous(memory_format=torch.channels_last)
    return [each[0] for each in (x, *_encoder()(x * 2 - 1))]


def _at_stride(levels: Sequence[Tensor], example: Example) -> Tensor:
    """[all channels, h, w] at a quarter of the image's resolution, without the padding."""
    h, w = (side // STRIDE for side in levels[0].shape[1:])
    padded = torch.cat(
        [
            F.adaptive_avg_pool2d(level[None].float(), (h, w))[0]
            if level.shape[1] >= h
            else F.interpolate(level[None].float(), (h, w), mode="bilinear", align_corners=False)[0]
            for level in levels
        ]
    )
    rows, columns = (-(-side // STRIDE) for side in example.mask.shape)
    return padded[:, :rows, :columns]


def _reduction(pixels: Tensor, widths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Mean [channels] and projection [channels, WIDTH] of a principal component analysis.

    Each level has the same weight, however many channels it has.
    """
    mean = pixels.mean(dim=0)
    weight = torch.cat([torch.full((width,), width**-0.5) for width in widths])
    scale = weight / pixels.std(dim=0).clamp_min(1e-6)
    _, strengths, axes = torch.linalg.svd((pixels - mean) * scale, full_matrices=False)
    # Whitened, so that the heads learn from weak components too.
    kept = axes[:WIDTH] / (strengths[:WIDTH, None] / len(pixels) ** 0.5).clamp_min(1e-6)
    return mean, (kept * scale).T.contiguous()


def _coarse(mask: NDArray[np.uint8], h: int, w: int) -> NDArray[np.uint8]:
    """[h, w]: the class at the middle of each probe pixel, unknown beyond the image."""
    padded = np.full((h * STRIDE, w * STRIDE), UNKNOWN, np.uint8)
    padded[: mask.shape[0], : mask.shape[1]] = mask
    return np.ascontiguousarray(padded[STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE])


class ProbeCommittee:
    """Heads that predict images whose features are kept."""

    def __init__(self, heads: Heads, features: Features, threads: int) -> None:
        self._heads, self._features, self._threads = heads, features, threads

    @torch.inference_mode()
    def probs(self, key: str) -> Tensor:
        """[M, 1, C, h, w] float32."""
        _, h, w = self._features.places[key]
        with bounded_threads(self._threads):
            logits = self._heads.planes(self._features.of(key).T.contiguous())  # [M, C, P]
            return logits.softmax(dim=1).reshape(len(logits), 1, -1, h, w)

    def predict_classes(self, key: str) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """The mean probabilities [C, h, w] and the classes [h, w], without any uncertainty."""
        with bounded_threads(self._threads):
            mean = self.probs(key).mean(dim=0)
            return mean[0].numpy(), winners(mean)[0].numpy()

    def predict(self, key: str) -> Prediction:
        """As ``Committee.predict``, at the features' resolution."""
        probs = self.probs(key)
        with bounded_threads(self._threads):
            maps = uncertainty_maps(probs)
            mean = probs.mean(dim=0)
            predicted = winners(mean)
            arms = aggregate(maps, predicted)
            classes = class_means(maps["predictive_entropy"], predicted, mean.shape[1])
        return Prediction(
            (probs.shape[3], probs.shape[4]),
            mean[0].numpy(),
            predicted[0].numpy(),
            {name: each[0].numpy() for name, each in maps.items()},
            {name: float(scores[0]) for name, scores in arms.items()},
            classes[0].numpy(),
            self._features.image[key][None],
        )


class Heads(nn.Module):
    """M perceptrons with one hidden layer, side by side."""

    def __init__(self, members: int, classes: int) -> None:
        super().__init__()
        self.hidden = nn.Parameter(torch.randn(members, WIDTH, HIDDEN) * WIDTH**-0.5)
        self.bias = nn.Parameter(torch.zeros(members, 1, HIDDEN))
        self.out = nn.Parameter(torch.randn(members, HIDDEN, classes) * HIDDEN**-0.5)
        self.out_bias = nn.Parameter(torch.zeros(members, 1, classes))

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits [M, P, C] of each member's own pixels [M, P, WIDTH]."""
        hidden: Tensor = F.relu(pixels @ self.hidden + self.bias)
        return hidden @ self.out + self.out_bias

    def planes(self, features: Tensor) -> Tensor:
        """Logits [M, C, P] of features [WIDTH, P] that all members share.

        Pixels are innermost: four times as fast as many small rows.
        """
        M = len(self.hidden)
        first = self.hidden.transpose(1, 2).flatten(0, 1)  # [M * HIDDEN, WIDTH]
        hidden = torch.addmm(self.bias.reshape(-1, 1), first, features).relu_()
        hidden = hidden.unflatten(0, (M, HIDDEN))  # type: ignore[no-untyped-call]
        return torch.baddbmm(
            self.out_bias.transpose(1, 2), self.out.transpose(1, 2).contiguous(), hidden
        )


def fit_probe(
    features: Features,
    keys: Sequence[str],
    classes: int,
    members: int,
    seed: int,
    threads: int = 1,
) -> ProbeCommittee:
    """Train a committee of heads. Member m leaves out the keys of its fold, as networks do.

    Args:
        keys: of the labelled images.
        classes: C.
        members: M.
        seed: the same keys and seed give the same committee.

    Raises:
        NothingToLearn: a member is left without a known pixel.
    """
    keys = sorted(keys)
    pixels = torch.cat([features.of(key) for key in keys])
    truth = torch.from_numpy(np.concatenate([features.truth[key].ravel() for key in keys])).long()
    owner = torch.from_numpy(
        np.concatenate([np.full(features.truth[key].size, fold(key, members)) for key in keys])
    )
    with bounded_threads(threads), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = Heads(members, classes)
        sources = [_Pixels(truth, owner, member, members) for member in range(members)]
        optimizer = AdamW(heads.parameters(), RATE, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        generator = torch.Generator().manual_seed(seed)
        excess = torch.stack([source.log_excess(classes) for source in sources])  # [M, C]
        for _ in range(STEPS):
            drawn = torch.stack([source.draw(generator) for source in sources])  # [M, P]
            logits = heads(pixels[drawn]) + ADJUSTMENT * excess[:, None]
            loss = F.cross_entropy(logits.flatten(0, 1), truth[drawn].flatten())
            optimizer.zero_grad(set_to_none=True)
            (loss * members).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return ProbeCommittee(heads.eval(), features, threads)


class _Pixels:
    """The known pixels that one member may be trained on, by class."""

    def __init__(self, truth: Tensor, owner: Tensor, member: int, members: int) -> None:
        mine = truth != UNKNOWN
        if members > 1:
            mine &= owner != member
        self._all = mine.nonzero()[:, 0]
        if not len(self._all):
            raise NothingToLearn(
                f"member {member} of {members} has no known pixel to learn from in the labelled "
                "images outside its fold"
            )
        shown = torch.bincount(truth[self._all]).nonzero()[:, 0]
        self._by_class = {c: self._all[truth[self._all] == c] for c in shown.tolist()}

    def log_excess(self, classes: int) -> Tensor:
        """[C] log of how many times more often than in the images ``draw`` gives a class; 0 for a
        class that the images lack.

        Source: Menon et al. 2021 (arXiv 2007.07314), equation 10.
        """
        excess = torch.zeros(classes)
        for c, places in self._by_class.items():
            share = len(places) / len(self._all)
            excess[c] = math.log((share + 1 / len(self._by_class)) / 2 / share)
        return excess

    def draw(self, generator: torch.Generator) -> Tensor:
        """BATCH_PX positions: half anywhere, half equally from each class."""
        half = BATCH_PX // 2
        anywhere = self._all[torch.randint(len(self._all), (half,), generator=generator)]
        share = -(-half // len(self._by_class))
        evenly = [
            places[torch.randint(len(places), (share,), generator=generator)]
            for places in self._by_class.values()
        ]
        return torch.cat([anywhere, torch.cat(evenly)[:half]])
