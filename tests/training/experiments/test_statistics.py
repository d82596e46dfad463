import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from training.experiments.statistics import (
    aubc,
    holm,
    labels_to_reach,
    mean_interval,
    paired_t,
    penalty_matrix,
    relative_gain,
)

quality = st.floats(0.01, 1)
p_value = st.floats(0, 1)


@st.composite
def curves(draw, least=2):
    count = draw(st.integers(least, 8))
    steps = draw(st.lists(st.integers(1, 50), min_size=count, max_size=count))
    values = draw(st.lists(quality, min_size=count, max_size=count))
    return np.cumsum(steps).tolist(), values


@st.composite
def pairs(draw, least=2):
    count = draw(st.integers(least, 10))
    one = st.lists(quality, min_size=count, max_size=count)
    return draw(one), draw(one)


def test_the_area_of_a_rising_line_is_its_middle():
    assert aubc([10, 20, 30], [0.2, 0.4, 0.6]) == pytest.approx(0.4)


def test_the_area_weighs_a_long_step_more():
    # From 10 to 20 a mean of 0.3, from 20 to 50 one of 0.5: (10 * 0.3 + 30 * 0.5) / 40.
    assert aubc([10, 20, 50], [0.2, 0.4, 0.6]) == pytest.approx(0.45)


@given(curves())
def test_the_area_lies_between_the_extremes_and_does_not_know_the_budgets_unit(curve):
    budgets, values = curve
    area = aubc(budgets, values)
    assert min(values) - 1e-12 <= area <= max(values) + 1e-12
    assert aubc([7 * b + 3 for b in budgets], values) == pytest.approx(area)


@given(curves())
def test_the_area_is_that_of_many_thin_strips(curve):
    budgets, values = curve
    edges = np.linspace(budgets[0], budgets[-1], 20_001)
    strips = np.interp((edges[1:] + edges[:-1]) / 2, budgets, values)
    assert aubc(budgets, values) == pytest.approx(float(strips.mean()), abs=1e-4)


@pytest.mark.parametrize(
    ("budgets", "values", "sentence"),
    [
        ([10], [0.1], "at least two budgets"),
        ([], [], "at least one"),
        ([10, 20], [0.1], "a value per budget, got 2 and 1"),
        ([10, 10], [0.1, 0.2], "must increase"),
        ([20, 10], [0.1, 0.2], "must increase"),
        ([10, 20], [0.1, math.nan], "values is not finite"),
        ([10, math.inf], [0.1, 0.2], "budgets is not finite"),
    ],
)
def test_an_area_of_no_curve_is_refused(budgets, values, sentence):
    with pytest.raises(ValueError, match=sentence):
        aubc(budgets, values)


def test_a_target_is_found_between_two_budgets():
    assert labels_to_reach([10, 20, 30], [0.2, 0.4, 0.8], 0.5) == pytest.approx(22.5)


def test_the_first_crossing_counts_where_the_curve_falls_again():
    assert labels_to_reach([10, 20, 30, 40], [0.2, 0.6, 0.1, 0.9], 0.4) == pytest.approx(15)


def test_a_curve_that_starts_at_its_target_needs_its_first_labels():
    assert labels_to_reach([10, 20], [0.5, 0.4], 0.5) == 10


def test_a_target_out_of_reach_is_none():
    assert labels_to_reach([10, 20], [0.5, 0.6], 0.7) is None


@given(curves(least=1), quality)
def test_at_the_budget_found_the_curve_holds_the_target_and_never_before(curve, target):
    budgets, values = curve
    found = labels_to_reach(budgets, values, target)
    if found is None:
        assert max(values) < target
        return
    assert np.interp(found, budgets, values) >= target - 1e-9
    before = np.linspace(budgets[0], found, 50)[:-1]
    if found > budgets[0]:
        assert (np.interp(before, budgets, values) <= target + 1e-9).all()


def test_a_target_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="target must be finite"):
        labels_to_reach([10, 20], [0.1, 0.2], math.nan)


def test_the_interval_of_1_2_3_is_worked_by_hand():
    # Standard deviation 1, error 1 / sqrt(3), t of 2 degrees of freedom 4.302653.
    found = mean_interval([1, 2, 3])
    assert (found.mean, found.count) == (2, 3)
    assert found.low == pytest.approx(2 - 4.302653 / math.sqrt(3))
    assert found.high == pytest.approx(2 + 4.302653 / math.sqrt(3))


def test_a_single_value_has_no_interval():
    found = mean_interval([0.5])
    assert (found.mean, found.low, found.high, found.count) == (0.5, None, None, 1)


def test_the_interval_holds_the_true_mean_in_95_of_100_samples():
    rng = np.random.default_rng(0)
    held = 0
    for sample in rng.normal(3, 2, (2000, 5)):
        found = mean_interval(sample)
        held += found.low <= 3 <= found.high
    assert held / 2000 == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize("values", [[], [math.nan], [[1, 2]]])
def test_an_interval_of_no_numbers_is_refused(values):
    with pytest.raises(ValueError, match="values"):
        mean_interval(values)


def test_the_paired_test_is_worked_by_hand():
    # Differences 1, 2, 3: t = 2 / (1 / sqrt(3)) = 3.4641 with 2 degrees of freedom, p = .0742.
    found = paired_t([1, 1, 1], [2, 3, 4])
    assert (found.mean, found.pairs) == (2, 3)
    assert found.p == pytest.approx(0.07418, abs=1e-5)
    assert found.low < 0 < found.high


@given(pairs())
def test_the_paired_test_agrees_with_scipys(both):
    first, second = both
    differences = np.subtract(second, first)
    assume(differences.std() > 1e-6)
    found, expected = paired_t(first, second), stats.ttest_rel(second, first)
    assert found.p == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


@given(pairs())
def test_the_paired_test_turns_its_sign_with_its_sides(both):
    first, second = both
    there, back = paired_t(first, second), paired_t(second, first)
    assert there.mean == -back.mean
    assert there.p == back.p
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))


def test_identical_pairs_differ_by_nothing():
    found = paired_t([0.1, 0.7, 0.4], [0.1, 0.7, 0.4])
    assert (found.mean, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_pairs_that_all_differ_by_one_amount_leave_no_uncertainty():
    found = paired_t([1, 2, 3], [1.5, 2.5, 3.5])
    assert (found.mean, found.low, found.high, found.p) == (0.5, 0.5, 0.5, 0)


def test_a_single_pair_has_a_difference_and_neither_interval_nor_p():
    found = paired_t([0.5], [0.75])
    assert (found.mean, found.low, found.high, found.p, found.pairs) == (0.25, None, None, None, 1)


@pytest.mark.parametrize("function", [paired_t, relative_gain])
@pytest.mark.parametrize(
    ("first", "second", "sentence"),
    [
        ([], [], "at least one"),
        ([1, 2], [1], "expected pairs, got 2 and 1"),
        ([1, 2], [1, math.inf], "second series is not finite"),
    ],
)
def test_what_are_no_pairs_is_refused(function, first, second, sentence):
    with pytest.raises(ValueError, match=sentence):
        function(first, second)


def test_a_gain_without_spread_is_exact():
    found = relative_gain([0.4, 0.5, 0.6], [0.44, 0.55, 0.66])
    assert found.mean == pytest.approx(0.1)
    assert (found.low, found.high) == pytest.approx((0.1, 0.1), abs=1e-6)


@given(pairs())
def test_the_gains_interval_holds_the_ratios_that_a_paired_test_does_not_reject(both):
    first, second = (np.array(side) for side in both)
    found = relative_gain(first, second)
    assume(found.low is not None)
    assert found.low <= found.mean + 1e-9
    assert found.mean <= found.high + 1e-9
    assume(found.high - found.low > 1e-3)
    for end, inwards in ((found.low, 1), (found.high, -1)):
        step = inwards * (found.high - found.low) * 1e-3
        assert paired_t(first * (1 + end + step), second).p > 0.05
        assert paired_t(first * (1 + end - step), second).p < 0.05


@given(pairs())
def test_a_gain_is_certain_exactly_where_the_difference_is(both):
    found = relative_gain(*both)
    assume(found.low is not None and abs(found.p - 0.05) > 1e-4)
    assume(np.subtract(*both).std() > 1e-6)
    assert (found.low > 0 or found.high < 0) == (found.p < 0.05)


def test_a_gain_over_what_may_be_nothing_has_no_interval():
    found = relative_gain([0.001, 0.9], [0.5, 0.6])
    assert found.mean == pytest.approx(1.1 / 0.901 - 1)
    assert (found.low, found.high) == (None, None)


def test_a_gain_over_nothing_is_refused():
    with pytest.raises(ValueError, match="above 0"):
        relative_gain([0, 0], [1, 1])


def test_holms_correction_is_worked_by_hand():
    # In order .01, .02, .03, .04: times 4, 3, 2, 1, and never below the one before.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])


def rejected_one_by_one(p_values, alpha):
    """Holm's procedure as he wrote it: reject the smallest while it is below its own threshold."""
    rejected, left = set(), sorted(range(len(p_values)), key=lambda i: p_values[i])
    while left and p_values[left[0]] < alpha / len(left):
        rejected.add(left.pop(0))
    return rejected


@given(st.lists(p_value, max_size=8), st.floats(0.001, 0.999))
def test_holm_rejects_what_his_procedure_rejects(p_values, alpha):
    corrected = holm(p_values)
    assume(all(abs(p - alpha) > 1e-9 for p in corrected))
    assert {i for i, p in enumerate(corrected) if p < alpha} == rejected_one_by_one(p_values, alpha)


@given(st.lists(p_value, min_size=1, max_size=8))
def test_holm_lies_between_no_correction_and_bonferronis(p_values):
    for p, corrected in zip(p_values, holm(p_values), strict=True):
        assert p <= corrected <= min(1, p * len(p_values))


@given(st.lists(p_value, max_size=8), st.randoms())
def test_holm_does_not_know_the_order(p_values, random):
    order = list(range(len(p_values)))
    random.shuffle(order)
    corrected = holm(p_values)
    assert holm([p_values[i] for i in order]) == [corrected[i] for i in order]


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_what_is_no_p_is_refused(p):
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([0.5, p])


def drawn_curves(S=3, R=5, T=4, seed=0):
    """Strategy s is better by 0.1 s at every budget, and seeds differ by more than that."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(0.5, 0.2, (1, R, T))
    return shared + rng.normal(0, 0.03, (S, R, T)) + 0.1 * np.arange(S)[:, None, None]


def slow_penalty(curves):
    S, _, T = curves.shape
    matrix = np.zeros((S, S))
    for t in range(T):
        questions = [(i, j) for i in range(S) for j in range(i + 1, S)]
        tests = [stats.ttest_rel(curves[i, :, t], curves[j, :, t]) for i, j in questions]
        p_values = [float(test.pvalue) for test in tests]
        for k in rejected_one_by_one(p_values, 0.05):
            i, j = questions[k]
            if curves[i, :, t].mean() < curves[j, :, t].mean():
                i, j = j, i
            matrix[i, j] += 1 / T
    return matrix


@pytest.mark.parametrize("seed", range(5))
def test_the_penalty_matrix_agrees_with_a_slow_one(seed):
    curves = drawn_curves(seed=seed)
    found = penalty_matrix(curves)
    assert found.any()
    np.testing.assert_allclose(found, slow_penalty(curves))


def test_a_strategy_that_always_wins_is_never_beaten():
    curves = np.array([[[0.5, 0.6], [0.6, 0.7], [0.4, 0.5]]] * 2)
    curves[1] += [[0.1, 0.1], [0.11, 0.1], [0.1, 0.11]]
    assert penalty_matrix(curves).tolist() == [[0, 0], [1, 0]]


def test_a_win_at_one_of_two_budgets_counts_half():
    curves = np.array([[[0.5, 0.6], [0.6, 0.7], [0.4, 0.5]]] * 2)
    curves[1, :, 1] += [0.1, 0.11, 0.1]
    assert penalty_matrix(curves).tolist() == [[0, 0], [0.5, 0]]


def test_strategies_that_choose_alike_do_not_beat_each_other():
    one = np.random.default_rng(0).random((1, 4, 3))
    assert not penalty_matrix(np.concatenate([one, one, one])).any()


@given(st.integers(0, 99), st.permutations(range(4)))
def test_the_penalty_matrix_does_not_know_the_order_of_strategies(seed, order):
    curves = drawn_curves(S=4, seed=seed)
    np.testing.assert_array_equal(
        penalty_matrix(curves[order]), penalty_matrix(curves)[np.ix_(order, order)]
    )


@given(st.integers(0, 99))
def test_of_two_strategies_at_most_one_wins_at_a_budget(seed):
    found = penalty_matrix(drawn_curves(seed=seed))
    assert (found + found.T <= 1 + 1e-12).all()
    assert not found.diagonal().any()


@pytest.mark.parametrize(
    ("curves", "sentence"),
    [
        (np.zeros((2, 3)), "must be"),
        (np.zeros((2, 3, 0)), "must be"),
        (np.zeros((2, 1, 3)), "at least two seeds"),
        (np.full((2, 2, 2), np.nan), "not finite"),
    ],
)
def test_curves_that_cannot_be_compared_are_refused(curves, sentence):
    with pytest.raises(ValueError, match=sentence):
        penalty_matrix(curves)
