"""The five measures: by hand, by law, by slow loops, and fused against one by one."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import one_hot
from torch.utils._python_dispatch import TorchDispatchMode

import acquisition.uncertainty
from acquisition.uncertainty import (
    MEASURES,
    entropy_of_mean,
    expected_entropy,
    least_confidence,
    mutual_information,
    predictive_entropy,
    standard_deviation,
    uncertainty_maps,
    variation_ratio,
)
from tests.acquisition.ensembles import ASYMMETRIC, ensemble_of, random_probs

Measure = Callable[[Tensor], Tensor]
FUNCTIONS: dict[str, Measure] = {
    "predictive_entropy": predictive_entropy,
    "expected_entropy": expected_entropy,
    "mutual_information": mutual_information,
    "standard_deviation": standard_deviation,
    "variation_ratio": variation_ratio,
    "least_confidence": least_confidence,
}


def fused(name: str) -> Measure:
    return lambda probs: uncertainty_maps(probs)[name]


# Each measure as it is written to be read, and as it runs live.
WAYS = [
    *(pytest.param(name, measure, id=name) for name, measure in FUNCTIONS.items()),
    *(pytest.param(name, fused(name), id=f"{name}-fused") for name in MEASURES),
]

# A process of its own, so that nothing freed before can hide what is taken. The probabilities
# are one number seen everywhere: 5 members of 6 classes cost nothing until they are copied.
MEMORY_PROGRAM = """
import sys, threading
import psutil, torch
from acquisition.uncertainty import uncertainty_maps

torch.set_num_threads(1)  # more wait for each other on a busy machine
N, side_px = int(sys.argv[1]), int(sys.argv[2])
probs = torch.full((1, 1, 1, 1, 1), 1 / 6).expand(5, N, 6, side_px, side_px)
uncertainty_maps(probs[..., :4, :5])
process = psutil.Process()
idle = peak = process.memory_info().rss
ended = threading.Event()

def watch():
    global peak
    while not ended.wait(0.001):
        peak = max(peak, process.memory_info().rss)

watcher = threading.Thread(target=watch)
watcher.start()
maps = uncertainty_maps(probs)
ended.set()
watcher.join()
print(max(peak, process.memory_info().rss) - idle)
"""


def entropy(distribution: list[float]) -> float:
    return -sum(p * math.log(p) for p in distribution if p > 0)


def one_pixel_by_hand(members: list[list[float]]) -> dict[str, float]:
    """Each measure of one pixel in plain Python, member by member and class by class."""
    M, C = len(members), len(members[0])
    mean = [sum(member[c] for member in members) / M for c in range(C)]
    votes = [member.index(max(member)) for member in members]
    deviations = [
        math.sqrt(sum((member[c] - mean[c]) ** 2 for member in members) / M) for c in range(C)
    ]
    expected = sum(entropy(member) for member in members) / M
    return {
        "predictive_entropy": entropy(mean),
        "expected_entropy": expected,
        "mutual_information": entropy(mean) - expected,
        "standard_deviation": sum(deviations) / C,
        "variation_ratio": 1 - max(votes.count(c) for c in range(C)) / M,
        "least_confidence": 1 - max(mean),
    }


def bounds(M: int, C: int) -> dict[str, float]:
    return {
        "predictive_entropy": math.log(C),
        "expected_entropy": math.log(C),
        "mutual_information": math.log(min(M, C)),
        "standard_deviation": math.sqrt((1 - 1 / min(M, C)) / C),
        "variation_ratio": 1 - math.ceil(M / C) / M,
        "least_confidence": 1 - 1 / C,
    }


class StorageSizes(TorchDispatchMode):
    """Notes the size of every tensor that is made, views of ``given`` left out."""

    def __init__(self, given: Tensor) -> None:
        super().__init__()
        self.given = given.untyped_storage().data_ptr()
        self.bytes_by_storage: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            storage = result.untyped_storage()
            if storage.data_ptr() != self.given:
                known = self.bytes_by_storage.get(storage.data_ptr(), 0)
                self.bytes_by_storage[storage.data_ptr()] = max(known, storage.nbytes())
        return result


@st.composite
def torn_ensembles(draw: st.DrawFn) -> Tensor:
    """Probs in quarters, so that members often are torn and are exact in any order."""
    M, N, C, H, W = (draw(st.integers(1, most)) for most in (6, 2, 4, 3, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    quarters = torch.randint(0, C, (4, M, N, H, W), generator=generator)
    return one_hot(quarters, C).sum(dim=0).permute(0, 1, 4, 2, 3) / 4


@st.composite
def ensembles(draw: st.DrawFn) -> Tensor:
    shape = tuple(draw(st.integers(1, most)) for most in (6, 3, 6, 4, 5))
    return random_probs(
        shape,  # type: ignore[arg-type]
        seed=draw(st.integers(0, 2**31)),
        sharpness=draw(st.sampled_from([0.0, 0.1, 1.0, 5.0, 500.0])),
        dtype=draw(st.sampled_from([torch.float32, torch.float64])),
    )


class TestByHand:
    def test_predictive_entropy_is_log_2_for_two_certain_members_that_disagree(self) -> None:
        probs = ensemble_of([1.0, 0.0], [0.0, 1.0])
        assert predictive_entropy(probs).item() == pytest.approx(math.log(2))

    def test_predictive_entropy_of_a_quarter_is_the_textbook_value(self) -> None:
        # H(1/4, 3/4) = 2 log 2 - 3/4 log 3.
        probs = ensemble_of([0.25, 0.75])
        expected = 2 * math.log(2) - 0.75 * math.log(3)
        assert predictive_entropy(probs).item() == pytest.approx(expected)

    def test_expected_entropy_is_zero_for_certain_members_whatever_they_say(self) -> None:
        assert expected_entropy(ensemble_of([1.0, 0.0], [0.0, 1.0])).item() == 0

    def test_expected_entropy_is_the_mean_of_a_certain_and_an_undecided_member(self) -> None:
        probs = ensemble_of([1.0, 0.0], [0.5, 0.5])
        assert expected_entropy(probs).item() == pytest.approx(math.log(2) / 2)

    def test_mutual_information_is_log_2_for_two_certain_members_that_disagree(self) -> None:
        probs = ensemble_of([1.0, 0.0], [0.0, 1.0])
        assert mutual_information(probs).item() == pytest.approx(math.log(2))

    def test_mutual_information_is_zero_for_members_that_agree_on_uncertainty(self) -> None:
        assert mutual_information(ensemble_of([0.5, 0.5], [0.5, 0.5])).item() == 0

    def test_standard_deviation_is_a_half_for_two_certain_members_that_disagree(self) -> None:
        assert standard_deviation(ensemble_of([1.0, 0.0], [0.0, 1.0])).item() == 0.5

    def test_standard_deviation_averages_over_the_classes(self) -> None:
        # Deviations .2, .2 and 0 around the means .4, .4 and .2.
        probs = ensemble_of([0.6, 0.2, 0.2], [0.2, 0.6, 0.2])
        assert standard_deviation(probs).item() == pytest.approx(0.4 / 3)

    def test_standard_deviation_of_a_single_member_is_zero(self) -> None:
        assert standard_deviation(ensemble_of([0.3, 0.7])).item() == 0

    def test_variation_ratio_is_two_fifths_when_three_of_five_members_agree(self) -> None:
        probs = ensemble_of([0.9, 0.1], [0.6, 0.4], [0.51, 0.49], [0.4, 0.6], [0.0, 1.0])
        assert variation_ratio(probs).item() == pytest.approx(0.4)

    def test_a_member_torn_between_two_classes_votes_for_the_first(self) -> None:
        probs = ensemble_of([0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0])
        assert variation_ratio(probs).item() == pytest.approx(2 / 3)
        assert uncertainty_maps(probs)["variation_ratio"].item() == pytest.approx(2 / 3)

    def test_least_confidence_is_what_the_mean_lacks_to_certainty(self) -> None:
        probs = ensemble_of([0.9, 0.1, 0.0], [0.5, 0.1, 0.4])
        assert least_confidence(probs).item() == pytest.approx(0.3)

    @pytest.mark.parametrize("name", FUNCTIONS)
    def test_certain_members_that_agree_leave_no_uncertainty(self, name: str) -> None:
        assert FUNCTIONS[name](ensemble_of([0.0, 1.0, 0.0], [0.0, 1.0, 0.0])).item() == 0


def assert_equals_the_slow_loop(name: str, measure: Measure, probs: Tensor) -> None:
    _, N, _, H, W = probs.shape
    measured = measure(probs)
    assert measured.shape == (N, H, W)
    for n, h, w in np.ndindex(N, H, W):
        by_hand = one_pixel_by_hand(probs[:, n, :, h, w].tolist())[name]
        assert measured[n, h, w].item() == pytest.approx(by_hand, abs=1e-12)


@pytest.mark.parametrize(("name", "measure"), WAYS)
@pytest.mark.parametrize("sharpness", [0.3, 2.0, 800.0])
def test_a_measure_equals_the_slow_loop_at_every_pixel(
    name: str, measure: Measure, sharpness: float
) -> None:
    assert_equals_the_slow_loop(name, measure, random_probs(sharpness=sharpness))


@pytest.mark.parametrize(("name", "measure"), WAYS)
@given(probs=torn_ensembles())
@settings(max_examples=40, deadline=None)
def test_a_measure_of_torn_members_equals_the_slow_loop_too(
    name: str, measure: Measure, probs: Tensor
) -> None:
    assert_equals_the_slow_loop(name, measure, probs.double())


@pytest.mark.parametrize(("name", "measure"), WAYS)
class TestLaws:
    @given(probs=ensembles())
    @settings(max_examples=60, deadline=None)
    def test_a_measure_stays_within_its_bounds(
        self, name: str, measure: Measure, probs: Tensor
    ) -> None:
        M, _, C, _, _ = probs.shape
        measured = measure(probs)
        assert measured.amin() >= 0
        assert measured.amax() <= bounds(M, C)[name] + 1e-6

    @given(probs=ensembles(), seed=st.integers(0, 2**31))
    @settings(max_examples=40, deadline=None)
    def test_the_order_of_members_is_irrelevant(
        self, name: str, measure: Measure, probs: Tensor, seed: int
    ) -> None:
        shuffle = torch.randperm(len(probs), generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(measure(probs[shuffle]), measure(probs), rtol=1e-5, atol=1e-6)

    @given(seed=st.integers(0, 2**31), C=st.integers(1, 6))
    @settings(max_examples=40, deadline=None)
    def test_the_order_of_classes_is_irrelevant(
        self, name: str, measure: Measure, seed: int, C: int
    ) -> None:
        # Without exact ties, where the first class wins a member's vote by definition.
        probs = random_probs((4, 2, C, 3, 5), seed=seed)
        shuffle = torch.randperm(C, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(measure(probs[:, :, shuffle]), measure(probs))

    @given(probs=ensembles(), seed=st.integers(0, 2**31))
    @settings(max_examples=40, deadline=None)
    def test_images_in_another_order_have_their_maps_in_that_order(
        self, name: str, measure: Measure, probs: Tensor, seed: int
    ) -> None:
        shuffle = torch.randperm(probs.shape[1], generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(
            measure(probs[:, shuffle]), measure(probs)[shuffle], rtol=1e-5, atol=1e-6
        )

    @given(probs=ensembles())
    @settings(max_examples=30, deadline=None)
    def test_the_map_of_a_mirrored_or_turned_image_is_mirrored_or_turned(
        self, name: str, measure: Measure, probs: Tensor
    ) -> None:
        straight = measure(probs)
        for moved, expected in (
            (probs.flip(3), straight.flip(1)),
            (probs.flip(4), straight.flip(2)),
            (probs.transpose(3, 4), straight.transpose(1, 2)),
        ):
            torch.testing.assert_close(measure(moved), expected, rtol=1e-5, atol=1e-6)


def test_the_entropy_of_the_mean_is_the_predictive_entropy() -> None:
    probs = random_probs()[:, :1]
    torch.testing.assert_close(entropy_of_mean(probs.mean(dim=0)[0]), predictive_entropy(probs)[0])


def test_the_bounds_are_reached_by_members_that_share_out_the_classes() -> None:
    probs = torch.eye(3).reshape(3, 1, 3, 1, 1)
    maps = uncertainty_maps(probs)
    for name in MEASURES:
        assert FUNCTIONS[name](probs).item() == pytest.approx(bounds(3, 3)[name])
        assert maps[name].item() == pytest.approx(bounds(3, 3)[name])


def test_the_bound_of_expected_entropy_is_reached_by_members_that_know_nothing() -> None:
    probs = torch.full((2, 1, 3, 1, 1), 1 / 3)
    assert expected_entropy(probs).item() == pytest.approx(bounds(2, 3)["expected_entropy"])


@given(probs=ensembles())
@settings(max_examples=60, deadline=None)
def test_predictive_entropy_is_expected_entropy_plus_mutual_information(probs: Tensor) -> None:
    parts = expected_entropy(probs) + mutual_information(probs)
    torch.testing.assert_close(parts, predictive_entropy(probs), rtol=1e-5, atol=1e-6)


class TestFused:
    def test_the_maps_come_in_the_order_of_the_measures(self) -> None:
        assert tuple(uncertainty_maps(random_probs())) == MEASURES
        assert set(MEASURES) | {"expected_entropy"} == set(FUNCTIONS)

    @given(probs=ensembles(), strip_px=st.sampled_from([1, 7, 8192]))
    @settings(max_examples=100, deadline=None)
    def test_each_map_equals_its_own_function(self, probs: Tensor, strip_px: int) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(acquisition.uncertainty, "STRIP_PX", strip_px)
            maps = uncertainty_maps(probs)
        for name in MEASURES:
            expected = FUNCTIONS[name](probs)
            assert maps[name].dtype == expected.dtype
            torch.testing.assert_close(maps[name], expected, rtol=1e-5, atol=1e-6)

    def test_a_large_image_whose_rows_do_not_fill_the_last_strip_is_measured_to_its_end(
        self,
    ) -> None:
        probs = random_probs((2, 2, 3, 131, 257), dtype=torch.float32)
        maps = uncertainty_maps(probs)
        for name in MEASURES:
            torch.testing.assert_close(maps[name], FUNCTIONS[name](probs), rtol=1e-5, atol=1e-6)

    def test_strided_probabilities_give_the_same_maps(self) -> None:
        probs = random_probs()
        strided = probs.permute(4, 3, 2, 1, 0).contiguous().permute(4, 3, 2, 1, 0)
        assert not strided.is_contiguous()
        for name, uncertainty_map in uncertainty_maps(strided).items():
            torch.testing.assert_close(uncertainty_map, uncertainty_maps(probs)[name])

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_measured_in_float32(self, dtype: torch.dtype) -> None:
        probs = random_probs(dtype=dtype)
        for name, uncertainty_map in uncertainty_maps(probs).items():
            assert uncertainty_map.dtype == torch.float32
            torch.testing.assert_close(uncertainty_map, FUNCTIONS[name](probs))

    def test_the_probabilities_are_left_as_they_came(self) -> None:
        probs = random_probs(dtype=torch.float32)
        before = probs.clone()
        uncertainty_maps(probs)
        assert torch.equal(probs, before)

    def test_probabilities_that_carry_gradients_are_measured_without(self) -> None:
        maps = uncertainty_maps(random_probs().requires_grad_())
        assert not any(uncertainty_map.requires_grad for uncertainty_map in maps.values())

    def test_beside_the_maps_no_tensor_is_larger_than_a_strip(self) -> None:
        M, N, C, H, W = 4, 1, 5, 512, 300
        probs = torch.full((M, N, C, H, W), 1 / C)
        with StorageSizes(probs) as sizes:
            uncertainty_maps(probs)
        maps_bytes, *rest = sorted(sizes.bytes_by_storage.values(), reverse=True)
        assert maps_bytes == len(MEASURES) * N * H * W * 4
        assert rest[0] <= M * C * acquisition.uncertainty.STRIP_PX * 4

    @pytest.mark.parametrize(("N", "side_px"), [(1, 1536), (3, 768)])
    def test_the_process_takes_a_few_strips_beside_the_maps_however_large_the_images(
        self, N: int, side_px: int
    ) -> None:
        done = subprocess.run(
            [sys.executable, "-c", MEMORY_PROGRAM, str(N), str(side_px)],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        maps_bytes = len(MEASURES) * N * side_px**2 * 4
        strip_bytes = 5 * 6 * acquisition.uncertainty.STRIP_PX * 4
        # A strip, its scratch, the parts of a strip, and what threads and allocator keep. The
        # probabilities of the largest image, if ever copied, would be nearly 300 of them.
        assert int(done.stdout) <= maps_bytes + 16 * strip_bytes


@pytest.mark.parametrize("measure", [*FUNCTIONS.values(), uncertainty_maps])
class TestRefusals:
    def test_an_array_without_member_axis_is_refused_by_its_shape(self, measure: Measure) -> None:
        with pytest.raises(ValueError, match=r"\[M, N, C, H, W\], got shape \(2, 4, 5, 6\)"):
            measure(random_probs()[0])

    def test_an_empty_axis_is_refused(self, measure: Measure) -> None:
        with pytest.raises(ValueError, match="empty axis"):
            measure(torch.empty(0, 2, 4, 5, 6))

    def test_integers_are_refused(self, measure: Measure) -> None:
        with pytest.raises(TypeError, match=r"floating point, got torch\.uint8"):
            measure(torch.zeros(ASYMMETRIC, dtype=torch.uint8))

    def test_logits_are_refused_with_the_way_out(self, measure: Measure) -> None:
        with pytest.raises(ValueError, match="not logits"):
            measure(random_probs().log())

    def test_probabilities_that_do_not_sum_to_1_are_refused(self, measure: Measure) -> None:
        probs = random_probs()
        probs[2, 1, :, 4, 5] *= 1.1
        with pytest.raises(ValueError, match=r"sums lie between 1 and 1\.1"):
            measure(probs)

    def test_a_single_nan_is_refused(self, measure: Measure) -> None:
        probs = random_probs()
        probs[2, 1, 3, 4, 5] = math.nan
        with pytest.raises(ValueError, match="nan"):
            measure(probs)
