"""How uncertain an ensemble is of each pixel: five measures of its members' probabilities.

The single functions are written to be read beside their papers. ``uncertainty_maps`` gives the
same numbers for all five in one pass over the probabilities; predictions use it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch.special import entr

from acquisition.shapes import check_distribution, check_probs, check_probs_shape

MEASURES: tuple[str, ...] = (
    "predictive_entropy",
    "variation_ratio",
    "mutual_information",
    "standard_deviation",
    "least_confidence",
)

STRIP_PX = 16384
"""Pixels measured at once. Five members and six classes are 2 MiB then: strip and scratch stay in
cache, and some 40 calls cost little compared with their work. Half or four times as many pixels
take 10 to 15 % longer."""

STRIP_VALUES = 80 * STRIP_PX
"""Probabilities measured at once, where more members and classes make them more: 5 MiB."""

STRIP_PX_ON_GPU = 1 << 18
"""A GPU pays per kernel launch instead; 256 Ki pixels hold 30 MiB of such probabilities."""


def predictive_entropy(probs: Tensor) -> Tensor:
    """Entropy of the members' mean prediction: the total uncertainty.

    Args:
        probs: [M, N, C, H, W] float; each pixel sums to 1 over C.

    Returns:
        [N, H, W] nats, between 0 and log(C).

    Raises:
        TypeError: ``probs`` is not floating point.
        ValueError: ``probs`` is not 5-d or not probabilities.

    Source: Gal et al. 2017 (arXiv 1703.02910), "max entropy".
    """
    check_probs(probs)
    mean_probs = _at_least_float32(probs).mean(dim=0)  # [N, C, H, W]
    entropy: Tensor = entr(mean_probs).sum(dim=1)  # [N, H, W]
    # Rounding can put the mean of certain members just above 1.
    return entropy.clamp_min(0)


def entropy_of_mean(mean_probs: Tensor) -> Tensor:
    """``predictive_entropy`` [H, W] in nats where only the members' mean [C, H, W] is at hand."""
    flat = mean_probs.flatten(1)
    entropy = _entropy(flat, torch.empty_like(flat)).clamp_min_(0)
    return entropy.view(mean_probs.shape[1:])


def expected_entropy(probs: Tensor) -> Tensor:
    """Mean of the members' own entropies: the part of the uncertainty that they agree on.

    Args:
        probs: [M, N, C, H, W] float; each pixel sums to 1 over C.

    Returns:
        [N, H, W] nats, between 0 and ``predictive_entropy``.

    Raises:
        TypeError: ``probs`` is not floating point.
        ValueError: ``probs`` is not 5-d or not probabilities.

    Source: Houlsby et al. 2011 (arXiv 1112.5745), second term of eq. 2.
    """
    check_probs(probs)
    member_entropy: Tensor = entr(_at_least_float32(probs)).sum(dim=2)  # [M, N, H, W]
    return member_entropy.mean(dim=0).clamp_min(0)  # [N, H, W]


def mutual_information(probs: Tensor) -> Tensor:
    """Mutual information between a pixel's label and the ensemble member (BALD).

    Large where members are sure of themselves and disagree: what more labels
    can settle.

    Args:
        probs: [M, N, C, H, W] float; each pixel sums to 1 over C.

    Returns:
        [N, H, W] nats, between 0 and log(min(M, C)).

    Raises:
        TypeError: ``probs`` is not floating point.
        ValueError: ``probs`` is not 5-d or not probabilities.

    Source: Houlsby et al. 2011 (arXiv 1112.5745), eq. 2; members stand in for posterior samples.
    """
    # Rounding can leave the difference just below 0 where members agree.
    return (predictive_entropy(probs) - expected_entropy(probs)).clamp_min(0)


def standard_deviation(probs: Tensor) -> Tensor:
    """Standard deviation of a class's probability over the members, averaged over the classes.

    Args:
        probs: [M, N, C, H, W] float; each pixel sums to 1 over C.

    Returns:
        [N, H, W] probability, between 0 and sqrt((1 - 1/min(M, C)) / C); divided by M, not
        M - 1, so that one member gives 0.

    Raises:
        TypeError: ``probs`` is not floating point.
        ValueError: ``probs`` is not 5-d or not probabilities.

    Source: Gal et al. 2017 (arXiv 1703.02910), "mean STD".
    """
    check_probs(probs)
    return _at_least_float32(probs).std(dim=0, correction=0).mean(dim=1)  # [N, H, W]


def variation_ratio(probs: Tensor) -> Tensor:
    """Share of the members that do not vote for the pixel's most voted class.

    A member votes for its most probable class, the first one if several are.

    Args:
        probs: [M, N, C, H, W] float; each pixel sums to 1 over C.

    Returns:
        [N, H, W] multiples of 1/M, between 0 and 1 - ceil(M / C) / M.

    Raises:
        TypeError: ``probs`` is not floating point.
        ValueError: ``probs`` is not 5-d or not probabilities.

    Source: Freeman 1965; Gal et al. 2017 (arXiv 1703.02910); votes as in Beluch et al. 2018.
    """
    check_probs(probs)
    M, _, C, _, _ = probs.shape
    ballots = one_hot(probs.argmax(dim=2), C)  # [M, N, H, W, C]
    winner_votes = ballots.sum(dim=0).amax(dim=-1)  # [N, H, W]
    return 1 - winner_votes.to(_at_least_float32(probs).dtype) / M


def least_confidence(probs: Tensor) -> Tensor:
    """One minus the probability of the mean prediction's winning class.

    Args:
        probs: [M, N, C, H, W] float; each pixel sums to 1 over C.

    Returns:
        [N, H, W] probability, between 0 and 1 - 1/C.

    Raises:
        TypeError: ``probs`` is not floating point.
        ValueError: ``probs`` is not 5-d or not probabilities.

    Source: Lewis and Gale 1994 (arXiv cmp-lg/9407020); Settles 2009, eq. 1.
    """
    check_probs(probs)
    confidence = _at_least_float32(probs).mean(dim=0).amax(dim=1)  # [N, H, W]
    # Rounding can put the mean of certain members just above 1.
    return (1 - confidence).clamp_min(0)


@torch.no_grad()
def uncertainty_maps(probs: Tensor) -> dict[str, Tensor]:
    """All of ``MEASURES`` in one pass over the probabilities.

    The values are those of the functions above, to rounding. It works through strips of rows that
    fit in the processor's cache, so that apart from the result it needs memory for a few strips
    only, however large the images are.

    Args:
        probs: [M, N, C, H, W] float; each pixel sums to 1 over C.

    Returns:
        Measure name to map [N, H, W], in the order of ``MEASURES``; float64 for float64
        probabilities, else float32; without gradients.

    Raises:
        TypeError: ``probs`` is not floating point.
        ValueError: ``probs`` is not 5-d or not probabilities.
    """
    check_probs_shape(probs)
    M, N, C, H, W = probs.shape
    dtype = _at_least_float32(probs[:0]).dtype
    maps = torch.empty(len(MEASURES), N, H, W, dtype=dtype, device=probs.device)
    on_cpu = probs.device.type == "cpu"
    strip_px = min(STRIP_PX, STRIP_VALUES // (M * C)) if on_cpu else STRIP_PX_ON_GPU
    rows = min(H, max(1, strip_px // W))
    scratch = torch.empty(M * C * rows * W, dtype=dtype, device=probs.device)
    for n in range(N):
        for top in range(0, H, rows):
            strip = probs[:, n, :, top : top + rows].to(dtype)  # [M, C, rows, W]
            strip = strip.reshape(M, C, -1)
            out = maps[:, n, top : top + rows].view(len(MEASURES), -1)
            _measure_strip(strip, scratch[: strip.numel()].view(strip.shape), out)
    return dict(zip(MEASURES, maps, strict=True))


def _measure_strip(probs: Tensor, scratch: Tensor, out: Tensor) -> None:
    """Write the five measures of probs [M, C, P] into out [5, P], in the order of MEASURES."""
    check_distribution(probs, class_dim=1)
    mean_probs = probs.mean(dim=0)  # [C, P]
    predictive = _entropy(mean_probs, torch.empty_like(mean_probs)).clamp_min_(0)
    expected = _entropy(probs, scratch).mean(dim=0).clamp_min_(0)
    for row, measure in zip(
        out,
        (
            predictive,
            _variation_ratio(probs, scratch),
            (predictive - expected).clamp_min_(0),
            _standard_deviation(probs, mean_probs, scratch),
            (1 - mean_probs.amax(dim=0)).clamp_min_(0),
        ),
        strict=True,
    ):
        row.copy_(measure)


def _entropy(probs: Tensor, scratch: Tensor) -> Tensor:
    """Entropy over the last but one axis, in nats; scratch has the shape of probs."""
    # Adding the smallest normal number leaves every probability above 1e-30 as it is and makes
    # 0 * log(0) 0, at a tenth of the cost of torch.special.entr.
    torch.add(probs, torch.finfo(probs.dtype).tiny, out=scratch)
    if scratch.device.type == "cpu":
        # numpy's logarithm takes a third of the time of torch's on one core.
        np.log(scratch.numpy(), out=scratch.numpy())
    else:
        scratch.log_()
    return scratch.mul_(probs).sum(dim=-2).neg_()


def _variation_ratio(probs: Tensor, scratch: Tensor) -> Tensor:
    """Variation ratio of probs [M, C, P]."""
    M = probs.shape[0]
    # One vote per member, as 1.0 where the class has the member's largest probability: in
    # floats, because torch compares into bool seven times slower than into float.
    ballots = torch.eq(probs, probs.amax(dim=1, keepdim=True), out=scratch)  # [M, C, P]
    votes = ballots.sum(dim=0)  # [C, P]
    tied = votes.sum(dim=0) != M
    if bool(tied.any()):
        votes[:, tied] = _first_only(ballots[:, :, tied]).sum(dim=0)
    return 1 - votes.amax(dim=0).div_(M)


def _first_only(ballots: Tensor) -> Tensor:
    """Keep each member's first vote where it voted for several classes: [M, C, P]."""
    return ballots * (ballots.cumsum(dim=1) == 1)


def _standard_deviation(probs: Tensor, mean_probs: Tensor, scratch: Tensor) -> Tensor:
    """Mean over C of the standard deviation over M, of probs [M, C, P]."""
    # From the deviations, not as E[p^2] - E[p]^2, which in float32 loses all below 3e-4.
    torch.sub(probs, mean_probs, out=scratch)
    return scratch.mul_(scratch).mean(dim=0).sqrt_().mean(dim=0)


def _at_least_float32(probs: Tensor) -> Tensor:
    """The same in float32 at least: half precision is too coarse for logarithms."""
    return probs if probs.dtype == torch.float64 else probs.float()
