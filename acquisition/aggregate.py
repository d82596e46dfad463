"""From an uncertainty map to one number per image.

Every object's edge is uncertain, so a plain mean ranks images by the length of their boundaries.
Which aggregate finds the images worth a person's time depends on the data (ValUES, Kahl et al.
2024, arXiv 2401.08501). An arm of the adaptive choice is named "measure/aggregate".

Where the part of the image that an aggregate is about is empty (no foreground, no pixel off a
boundary, no object), the mean over all pixels stands in: the question is then whether the part
really is empty, and every pixel matters for that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil

import torch
from torch import Tensor

from acquisition.masks import BACKGROUND
from acquisition.shapes import check_map, check_predicted

BOUNDARY_PX = 2
"""Within 2 px of a boundary entropy was measured 4 to 11 times as high as beyond 10 px."""

MIN_OBJECT_PX = (2 * BOUNDARY_PX + 1) ** 2
"""A smaller object has no pixel further than BOUNDARY_PX from its boundary."""

TOP_FRACTION = 0.1
"""As in the quantile aggregation of ValUES."""

PATCH_PX = 10
"""The side of the patch in ValUES."""


def image_mean(uncertainty_map: Tensor, predicted: Tensor) -> Tensor:
    """Mean over all pixels.

    Args:
        uncertainty_map: [N, H, W] float.
        predicted: [N, H, W] uint8 class indices; not used here.

    Returns:
        [N], in the map's unit and range.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a shape is wrong.
    """
    _check(uncertainty_map, predicted)
    return _image_mean(uncertainty_map)


def foreground_mean(uncertainty_map: Tensor, predicted: Tensor) -> Tensor:
    """Mean over the pixels predicted not to be background.

    Args:
        uncertainty_map: [N, H, W] float.
        predicted: [N, H, W] uint8 class indices, 0 the background.

    Returns:
        [N], in the map's unit and range.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a shape is wrong.
    """
    _check(uncertainty_map, predicted)
    return _mean_within(uncertainty_map, predicted != BACKGROUND)


def boundary_excluded_mean(uncertainty_map: Tensor, predicted: Tensor) -> Tensor:
    """Mean over the pixels with one predicted class for ``BOUNDARY_PX`` pixels around.

    Around means in the square of that radius; the image's own border is no boundary.

    Args:
        uncertainty_map: [N, H, W] float.
        predicted: [N, H, W] uint8 class indices.

    Returns:
        [N], in the map's unit and range.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a shape is wrong.
    """
    _check(uncertainty_map, predicted)
    return _mean_within(uncertainty_map, interior(predicted))


def top_quantile_mean(uncertainty_map: Tensor, predicted: Tensor) -> Tensor:
    """Mean over the most uncertain tenth of the pixels (``TOP_FRACTION``, rounded up).

    Args:
        uncertainty_map: [N, H, W] float.
        predicted: [N, H, W] uint8 class indices; not used here.

    Returns:
        [N], in the map's unit and range.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a shape is wrong.
    """
    _check(uncertainty_map, predicted)
    return _top_quantile_mean(uncertainty_map)


def max_patch_mean(uncertainty_map: Tensor, predicted: Tensor) -> Tensor:
    """Largest mean over a square of ``PATCH_PX`` pixels a side, at any place in the image.

    In an image that is smaller, the patch is as high or as wide as the image.

    Args:
        uncertainty_map: [N, H, W] float.
        predicted: [N, H, W] uint8 class indices; not used here.

    Returns:
        [N], in the map's unit and range.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a shape is wrong.

    Source: Kahl et al. 2024 (arXiv 2401.08501), patch-level aggregation.
    """
    _check(uncertainty_map, predicted)
    return _max_patch_mean(uncertainty_map)


def object_max(uncertainty_map: Tensor, predicted: Tensor) -> Tensor:
    """Mean uncertainty of the most uncertain object.

    An object is a connected set of pixels (8 neighbours) of one predicted foreground class, of
    at least ``MIN_OBJECT_PX`` pixels.

    Args:
        uncertainty_map: [N, H, W] float.
        predicted: [N, H, W] uint8 class indices, 0 the background.

    Returns:
        [N], in the map's unit and range.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a shape is wrong.
    """
    _check(uncertainty_map, predicted)
    return _object_max(uncertainty_map, label_objects(predicted))


AGGREGATES: tuple[str, ...] = (
    "image_mean",
    "foreground_mean",
    "boundary_excluded_mean",
    "top_quantile_mean",
    "max_patch_mean",
    "object_max",
)


def aggregate(maps: Mapping[str, Tensor], predicted: Tensor) -> dict[str, Tensor]:
    """Every measure by every aggregate: the scores of all arms.

    The parts of the image that the aggregates are about are found once for all measures.

    Args:
        maps: measure name to map [N, H, W] float, as ``uncertainty_maps`` gives them.
        predicted: [N, H, W] uint8 class indices, 0 the background.

    Returns:
        "measure/aggregate" to scores [N], in the order of ``maps``, then of ``AGGREGATES``.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a shape is wrong.
    """
    for uncertainty_map in maps.values():
        _check(uncertainty_map, predicted)
    foreground, inside = predicted != BACKGROUND, interior(predicted)
    objects = label_objects(predicted)
    by_name: dict[str, Callable[[Tensor], Tensor]] = {
        "image_mean": _image_mean,
        "foreground_mean": lambda uncertainty_map: _mean_within(uncertainty_map, foreground),
        "boundary_excluded_mean": lambda uncertainty_map: _mean_within(uncertainty_map, inside),
        "top_quantile_mean": _top_quantile_mean,
        "max_patch_mean": _max_patch_mean,
        "object_max": lambda uncertainty_map: _object_max(uncertainty_map, objects),
    }
    return {
        f"{measure}/{name}": by_name[name](uncertainty_map)
        for measure, uncertainty_map in maps.items()
        for name in AGGREGATES
    }


def class_means(uncertainty_map: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Mean uncertainty of the pixels predicted as each class.

    Args:
        uncertainty_map: [N, H, W] float.
        predicted: [N, H, W] uint8 class indices below ``classes``.
        classes: C.

    Returns:
        [N, C] in the map's unit; 0 for a class of fewer than ``MIN_OBJECT_PX`` pixels, which
        shows no object of it, and above 0 for every other.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a shape is wrong, or ``predicted`` holds an index that is no class.
    """
    _check(uncertainty_map, predicted)
    highest = int(predicted.amax())
    if highest >= classes:
        raise ValueError(f"predicted holds class {highest}, and there are {classes} classes")
    N = len(predicted)
    images = torch.arange(N, device=predicted.device)[:, None]
    slot = (images * classes + predicted.flatten(1)).flatten()
    area = slot.bincount(minlength=N * classes)
    total = slot.bincount(uncertainty_map.flatten().double(), minlength=N * classes)
    # A class without any uncertainty still counts as shown.
    mean = (total / area.clamp_min(1)).clamp_min(torch.finfo(uncertainty_map.dtype).tiny)
    means = torch.where(area >= MIN_OBJECT_PX, mean, 0.0)
    return means.view(N, classes).to(uncertainty_map.dtype)


def interior(predicted: Tensor) -> Tensor:
    """Pixels with no other class within ``BOUNDARY_PX`` rows and columns: [N, H, W] bool."""
    lowest, highest = predicted, predicted
    for dim in (1, 2):
        lowest = _extreme_around(lowest, dim, torch.minimum)
        highest = _extreme_around(highest, dim, torch.maximum)
    return lowest == highest


def label_objects(predicted: Tensor) -> Tensor:
    """Number the objects of all images: connected pixels (8 neighbours) of one class.

    By hand, because it does all classes and images at once, on any device, in two thirds of the
    time of ``scipy.ndimage.label`` class by class.

    Args:
        predicted: [N, H, W] uint8 class indices, 0 the background.

    Returns:
        [N, H, W] int64; 0 on background, then 1, 2, ... in reading order of the first pixel; no
        number occurs in two images.
    """
    starts = predicted != BACKGROUND
    starts[:, :, 1:] &= predicted[:, :, 1:] != predicted[:, :, :-1]
    # Work on the runs along the rows, of which there are far fewer than pixels.
    run = starts.flatten().cumsum(0).view(predicted.shape) - 1
    upper, lower = _touching_runs(predicted, run, starts)
    leader = _leaders(upper, lower, int(starts.sum()))
    leads = leader == torch.arange(len(leader), device=leader.device)
    number = leads.cumsum(0)[leader]
    # Before the first object, background pixels bear run -1.
    number = torch.cat([number, number.new_zeros(1)])
    return number[run].masked_fill_(predicted == BACKGROUND, 0)


def _touching_runs(predicted: Tensor, run: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of runs of one class that touch from row to row, diagonally too."""
    above = (predicted[:, :-1], run[:, :-1], starts[:, :-1])
    below = (predicted[:, 1:], run[:, 1:], starts[:, 1:])
    W = predicted.shape[2]
    pairs = []
    # Two runs that share columns share the column where the later of them starts, and a diagonal
    # touch is new only there: all other pixels would repeat a pair.
    for shift, new_at in ((0, "either"), (1, "below"), (-1, "above")):
        up = slice(max(0, -shift), W - max(0, shift))
        down = slice(max(0, shift), W - max(0, -shift))
        upper_class, upper_run, upper_starts = (part[:, :, up] for part in above)
        lower_class, lower_run, lower_starts = (part[:, :, down] for part in below)
        new = {
            "either": upper_starts | lower_starts,
            "below": lower_starts,
            "above": upper_starts,
        }[new_at]
        touch = (upper_class == lower_class) & (upper_class != BACKGROUND) & new
        pairs.append(torch.stack([upper_run[touch], lower_run[touch]]))
    upper, lower = torch.cat(pairs, dim=1)
    return upper, lower


def _leaders(upper: Tensor, lower: Tensor, runs: int) -> Tensor:
    """The lowest run that each of ``runs`` is connected to, given the pairs that touch.

    Joins trees of runs and flattens them until no pair is apart. The number of passes grows with
    the logarithm of an object's runs; spreading a label from pixel to pixel would take as many
    passes as the object is long.
    """
    leader = torch.arange(runs, device=upper.device)
    while True:
        one, other = leader[upper], leader[lower]
        if torch.equal(one, other):
            return leader
        low, high = torch.minimum(one, other), torch.maximum(one, other)
        leader = leader.scatter_reduce(0, high, low, "amin")
        while not torch.equal(flatter := leader[leader], leader):
            leader = flatter


def _extreme_around(
    predicted: Tensor, dim: int, extreme: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Least or greatest class within ``BOUNDARY_PX`` along one axis."""
    around = predicted.clone()
    size = predicted.shape[dim]
    for shift in range(1, min(BOUNDARY_PX, size - 1) + 1):
        head, tail = around.narrow(dim, 0, size - shift), around.narrow(dim, shift, size - shift)
        head.copy_(extreme(head, predicted.narrow(dim, shift, size - shift)))
        tail.copy_(extreme(tail, predicted.narrow(dim, 0, size - shift)))
    return around


def _image_mean(uncertainty_map: Tensor) -> Tensor:
    return uncertainty_map.mean(dim=(1, 2))


def _mean_within(uncertainty_map: Tensor, inside: Tensor) -> Tensor:
    count = inside.sum(dim=(1, 2))
    mean = (uncertainty_map * inside).sum(dim=(1, 2)) / count.clamp_min(1)
    return torch.where(count > 0, mean, _image_mean(uncertainty_map))


def _top_quantile_mean(uncertainty_map: Tensor) -> Tensor:
    pixels = uncertainty_map.flatten(1)  # [N, H * W]
    count = ceil(TOP_FRACTION * pixels.shape[1])
    return pixels.topk(count, dim=1, sorted=False).values.mean(dim=1)


def _max_patch_mean(uncertainty_map: Tensor) -> Tensor:
    _, H, W = uncertainty_map.shape
    high, wide = min(PATCH_PX, H), min(PATCH_PX, W)
    # Running sums over a large image outgrow float32's 24 bits.
    corner = torch.nn.functional.pad(uncertainty_map.double(), (1, 0, 1, 0))
    corner = corner.cumsum(dim=1).cumsum(dim=2)  # [N, H + 1, W + 1]
    stripe = corner[:, high:] - corner[:, :-high]
    patch = stripe[:, :, wide:] - stripe[:, :, :-wide]
    return (patch.amax(dim=(1, 2)) / (high * wide)).to(uncertainty_map.dtype)


def _object_max(uncertainty_map: Tensor, objects: Tensor) -> Tensor:
    N = uncertainty_map.shape[0]
    flat = objects.flatten()
    area = flat.bincount()
    mean = flat.bincount(uncertainty_map.flatten().double()) / area
    image = torch.zeros_like(area)
    image[flat] = torch.arange(N, device=flat.device).repeat_interleave(objects[0].numel())
    large = area >= MIN_OBJECT_PX
    large[0] = False  # the background
    best = mean.new_full((N,), -torch.inf)
    best = best.scatter_reduce(0, image[large], mean[large], "amax")
    score = torch.where(best.isneginf(), _image_mean(uncertainty_map.double()), best)
    return score.to(uncertainty_map.dtype)


def _check(uncertainty_map: Tensor, predicted: Tensor) -> None:
    check_map(uncertainty_map)
    check_predicted(uncertainty_map, predicted)
