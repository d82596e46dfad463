"""Diversity: copies and near copies stand back; checked against loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import acquisition.queue
from acquisition.diversity import standardised
from acquisition.queue import Rule, compose, farthest_first
from acquisition.scores import percentiles, top_k
from tests.acquisition.pools import Pool, doubles, indices, seeded, standardised_by_loop


class TestComposeDiverse:
    @given(
        distinct=st.integers(1, 8),
        copies=st.integers(1, 12),
        beta=st.none() | st.floats(0.05, 100),
        best_first=st.booleans(),
        seed=st.integers(0, 2**31),
    )
    @settings(deadline=None)
    def test_no_copy_is_asked_for_before_every_distinct_image_was(
        self, distinct: int, copies: int, beta: float | None, best_first: bool, seed: int
    ) -> None:
        generator = seeded(seed)
        shown = torch.cat([torch.arange(distinct), torch.zeros(copies, dtype=torch.int64)])
        shown = shown[torch.randperm(len(shown), generator=generator)]
        features = 100 * torch.randn(distinct, 6, generator=generator) + 5
        scores = torch.rand(len(shown), generator=generator)
        if best_first:
            scores += shown == 0
        queue = compose(
            percentiles(scores),
            distinct,
            Rule(beta=beta, diverse=True),
            generator,
            features=features[shown],
        )
        assert sorted(shown[indices(queue)].tolist()) == list(range(distinct))

    def test_copies_are_known_in_spite_of_the_rounding_of_many_features(self) -> None:
        features = torch.randn(40, 3200, generator=seeded()).repeat(3, 1)
        scores = torch.where(torch.arange(120) % 40 < 20, 1.0, 1e-4)
        queue = indices(compose(scores, 40, Rule(diverse=True), seeded(), features=features))
        assert sorted(index % 40 for index in queue) == list(range(40))

    def test_where_all_images_are_copies_the_scores_decide(self) -> None:
        scores = torch.rand(12, generator=seeded())
        queue = compose(scores, 12, Rule(diverse=True), seeded(), features=torch.ones(12, 3))
        assert indices(queue) == top_k(scores, 12).tolist()

    @given(N=st.integers(3, 25), F=st.integers(2, 5), seed=st.integers(0, 2**31))
    @settings(deadline=None)
    def test_each_place_goes_to_the_largest_product_of_score_and_newness(
        self, N: int, F: int, seed: int
    ) -> None:
        generator = seeded(seed)
        features = torch.randn(N, F, generator=generator, dtype=torch.float64)
        scores = percentiles(torch.rand(N, generator=generator)).tolist()
        queue = indices(
            compose(doubles(scores), N, Rule(diverse=True), generator, features=features)
        )
        # With the exact median: the drawn one lies between nearby quantiles.
        points = standardised_by_loop(features.numpy())
        apart = np.linalg.norm(points[:, None] - points[None, :], axis=2)
        pairs = apart[np.triu_indices(N, 1)]
        pairs = pairs[pairs > 2e-3]
        few, many = (
            (
                np.quantile(pairs, 0.42, method="lower") / 2,
                np.quantile(pairs, 0.58, method="higher") / 2,
            )
            if len(pairs)
            else (0.5, 0.5)
        )
        for place in range(1, N):
            taken, left = queue[:place], queue[place:]
            nearest = {i: apart[i, taken].min() for i in left}
            least = {i: scores[i] * min(1.0, nearest[i] / many) for i in left}
            most = {i: scores[i] * min(1.0, nearest[i] / few) for i in left}
            assert most[queue[place]] >= max(least.values()) - 5e-3

    @pytest.mark.parametrize("copies", [0, 60])
    def test_a_uncertain_image_beside_a_queued_one_waits_for_a_less_uncertain_one_elsewhere(
        self, copies: int
    ) -> None:
        around = torch.linspace(0, 2 * math.pi, 13)[:12]
        around[1] = around[0] + 0.05
        # Most pairs of the pool may be copies of the image opposite: apart by nothing.
        around = torch.cat([around, around[6].expand(copies)])
        features = torch.stack([around.cos(), around.sin()], dim=1)
        scores = torch.full((12 + copies,), 0.5)
        scores[:2] = torch.tensor([1.0, 0.99])
        assert indices(compose(scores, 2, Rule(), seeded(), features=features)) == [0, 1]
        queue = indices(compose(scores, 12, Rule(diverse=True), seeded(), features=features))
        assert queue[0] == 0
        assert queue.index(1) > 1

    @given(seed=st.integers(0, 999))
    @settings(max_examples=30, deadline=None)
    def test_the_unit_of_a_feature_is_irrelevant(self, seed: int) -> None:
        pool = Pool(15, seed)
        plain = pool.queue(15, Rule(diverse=True))
        pool.features = pool.features * torch.tensor([1, 2, 4, 8, 0.5, 0.25])
        assert pool.queue(15, Rule(diverse=True)) == plain


class TestStandardised:
    def test_features_become_comparable_and_images_of_length_1(self) -> None:
        # Each feature is -1 and 1 once standardised: two coordinates of 1 have length sqrt 2.
        features = torch.tensor([[0.0, 500.0], [0.0, 100.0], [4.0, 500.0], [4.0, 100.0]])
        half = math.sqrt(0.5)
        expected = torch.tensor([[-half, half], [-half, -half], [half, half], [half, -half]])
        torch.testing.assert_close(standardised(features), expected)

    @given(N=st.integers(2, 30), F=st.integers(1, 6), seed=st.integers(0, 2**31))
    @settings(deadline=None)
    def test_it_equals_the_loop(self, N: int, F: int, seed: int) -> None:
        features = torch.randn(N, F, generator=seeded(seed), dtype=torch.float64)
        ours = standardised(features)
        assert ours.dtype == torch.float32
        np.testing.assert_allclose(ours.numpy(), standardised_by_loop(features.numpy()), atol=1e-3)

    @pytest.mark.parametrize("constant", [0.0, 0.1, -1000.1, 123456.7])
    def test_a_feature_that_does_not_vary_is_0(self, constant: float) -> None:
        features = torch.randn(1000, 3, generator=seeded())
        beside = torch.cat([features, torch.full((1000, 1), constant)], dim=1)
        assert not standardised(beside)[:, 3].any()
        torch.testing.assert_close(standardised(beside)[:, :3], standardised(features))
        assert not standardised(torch.full((1000, 3), constant)).any()


def farthest_first_by_loop(features: NDArray[np.float64], k: int) -> list[int]:
    points = standardised_by_loop(features)
    apart = [[float(np.linalg.norm(one - other)) for other in points] for one in points]
    order = [min(range(len(points)), key=lambda i: sum(apart[i]))]
    while len(order) < min(k, len(points)):
        left = [i for i in range(len(points)) if i not in order]
        order.append(max(left, key=lambda i: min(apart[i][j] for j in order)))
    return order


class TestFarthestFirst:
    @pytest.mark.parametrize("k", [1, 4, 30, 99])
    def test_it_equals_the_loop(self, k: int) -> None:
        features = torch.randn(30, 5, generator=seeded(k), dtype=torch.float64)
        assert farthest_first(features, k, seeded()) == farthest_first_by_loop(features.numpy(), k)

    def test_of_three_kinds_the_first_three_show_each(self) -> None:
        centres = torch.tensor([[5.0, 0.0, 0.0], [0.0, 5.0, 0.0], [0.0, 0.0, 5.0]])
        kind = torch.tensor([0] * 40 + [1] * 15 + [2] * 3)
        features = centres[kind] + 0.2 * torch.randn(58, 3, generator=seeded())
        first = farthest_first(features, 3, seeded())
        assert sorted(kind[first].tolist()) == [0, 1, 2]

    def test_copies_come_last(self) -> None:
        features = torch.randn(6, 4, generator=seeded())
        copied = torch.cat([features, features[:3]])
        order = farthest_first(copied, 9, seeded())
        assert sorted(order) == list(range(9))
        assert {i % 6 for i in order[:6]} == set(range(6))

    def test_beyond_the_composed_places_what_is_left_stands_by_its_distance(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        features = torch.randn(12, 4, generator=seeded(), dtype=torch.float64)
        whole = farthest_first(features, 12, seeded())
        monkeypatch.setattr(acquisition.queue, "COMPOSED", 5)
        order = farthest_first(features, 10, seeded())
        assert order[:6] == whole[:6]  # the sixth is the farthest of those left, either way
        assert len(set(order)) == 10

    def test_of_a_large_pool_the_middle_is_found_among_the_references(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(acquisition.queue, "REFERENCES", 9)
        features = torch.randn(40, 4, generator=seeded(), dtype=torch.float64)
        points = standardised_by_loop(features.numpy())
        chosen = torch.randperm(40, generator=seeded(5))[:9].tolist()
        middle = min(
            range(40), key=lambda i: sum(np.linalg.norm(points[i] - points[j]) for j in chosen)
        )
        assert farthest_first(features, 1, seeded(5)) == [middle]

    @given(N=st.integers(2, 20), seed=st.integers(0, 999))
    @settings(max_examples=30, deadline=None)
    def test_the_order_of_the_pool_is_irrelevant(self, N: int, seed: int) -> None:
        features = torch.randn(N, 6, generator=seeded(seed), dtype=torch.float64)
        shuffled = torch.randperm(N, generator=seeded(seed + 1))
        there = farthest_first(features[shuffled], N, seeded())
        # Of two images both are the middle.
        assert N == 2 or shuffled[there].tolist() == farthest_first(features, N, seeded(9))

    def test_no_image_and_no_place_make_no_queue(self) -> None:
        assert farthest_first(torch.ones(0, 3), 5, seeded()) == []
        assert farthest_first(torch.ones(3, 3), 0, seeded()) == []
        assert farthest_first(torch.ones(1, 3), 5, seeded()) == [0]

    def test_what_cannot_be_ordered_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"features must be \[4, F\], got \(4,\)"):
            farthest_first(torch.ones(4), 1, seeded())
        with pytest.raises(ValueError, match="features must be finite"):
            farthest_first(torch.tensor([[1.0], [math.inf]]), 1, seeded())
        with pytest.raises(ValueError, match="k must not be negative"):
            farthest_first(torch.ones(4, 2), -1, seeded())
