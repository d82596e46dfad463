import numpy as np
import pytest
from scipy.stats import t as student

from training.quality.audit import Interval
from training.quality.counts import FEWEST_SHOWN, count_pool, estimate_mean, share_beyond

COUNTED = np.array([0.0, 4.0, 1.0, 7.0, 2.0])
PREDICTED = np.array([1.0, 3.0, 1.0, 9.0, 0.0])
POOL_MEAN, IMAGES = 2.5, 20


def slope(counted, predicted):
    off = predicted - predicted.mean()
    return min(1.0, max(0.0, (off @ (counted - counted.mean())) / (off @ off)))


def factor(degrees, relative):
    return np.exp(student.ppf(0.975, degrees) * np.log1p(relative**2) ** 0.5)


def one_mean(counted, predicted):
    return counted.mean() + slope(counted, predicted) * (POOL_MEAN - predicted.mean())


def test_the_mean_and_its_interval_are_those_of_a_slow_jackknife():
    found = estimate_mean(COUNTED, PREDICTED, POOL_MEAN, IMAGES)
    assert found.weight == pytest.approx(slope(COUNTED, PREDICTED))
    assert found.mean == pytest.approx(one_mean(COUNTED, PREDICTED))
    without = np.array([one_mean(np.delete(COUNTED, i), np.delete(PREDICTED, i)) for i in range(5)])
    off = without - without.mean()
    variance = (1 - 5 / IMAGES) * 4 / 5 * (off**2).sum()
    degrees = min(4.0, 2 * 5 / ((off**4).mean() / (off**2).mean() ** 2 - 1))
    assert found.high == pytest.approx(found.mean * factor(degrees, variance**0.5 / found.mean))
    assert found.low == pytest.approx(found.mean**2 / found.high)


def test_without_predictions_it_is_the_plain_mean_of_a_finite_pool():
    counted = np.array([1.0, 2.0, 4.0])
    found = estimate_mean(counted, np.zeros(3), 0.0, 12)
    assert (found.mean, found.weight) == (pytest.approx(7 / 3), 0)
    spread = counted.std(ddof=1) / 3**0.5 * (1 - 3 / 12) ** 0.5
    assert found.high == pytest.approx(7 / 3 * factor(2, spread / (7 / 3)))


def test_many_samples_are_estimated_as_each_alone():
    rng = np.random.default_rng(0)
    counted, predicted = rng.poisson(2, (2, 6, 40)).astype(float)
    together = estimate_mean(counted, predicted, 2.0, 100)
    for i in range(6):
        alone = estimate_mean(counted[i], predicted[i], 2.0, 100)
        assert together.mean[i] == pytest.approx(float(alone.mean))
        assert together.low[i] == pytest.approx(float(alone.low))
        assert together.high[i] == pytest.approx(float(alone.high))


@pytest.mark.parametrize(("factor", "weight"), [(3.0, 1 / 3), (0.5, 1.0), (-1.0, 0.0)])
def test_predictions_are_trusted_from_nought_to_one(factor, weight):
    found = estimate_mean(COUNTED, factor * COUNTED, 0.0, IMAGES)
    assert found.weight == pytest.approx(weight)


def test_the_interval_holds_the_truth_in_nineteen_of_twenty():
    rng = np.random.default_rng(1)
    truth = rng.poisson(rng.gamma(0.5, 4, 400))  # many empty images, a few full ones
    predicted = rng.binomial(truth, 0.7) + rng.poisson(0.5, 400)
    drawn = np.stack([rng.permutation(400)[:80] for _ in range(1000)])
    pool_mean = predicted.mean()
    found = estimate_mean(truth[drawn] * 1.0, predicted[drawn] * 1.0, pool_mean, 400)
    held = (found.low <= truth.mean()) & (truth.mean() <= found.high)
    assert 0.93 <= held.mean() <= 0.98
    alone = estimate_mean(truth[drawn] * 1.0, np.zeros(drawn.shape), 0.0, 400)
    assert (found.high - found.low).mean() < 0.6 * (alone.high - alone.low).mean()


def pool(rng, images=200):
    truth = 1.0 + rng.poisson(2, images)
    return truth, np.maximum(truth - rng.integers(0, 2, images), 0)


def test_enough_audits_give_both_intervals_and_what_was_counted():
    truth, predicted = pool(np.random.default_rng(2))
    audits = np.arange(50)
    found = count_pool(predicted, audits, truth[:50])
    assert (found.images, found.audits, found.shown, found.reason) == (200, 50, 50, "")
    assert found.plain == pytest.approx(predicted.mean())
    assert (found.counted, found.predicted) == (truth[:50].mean(), predicted[:50].mean())
    assert found.corrected.low <= truth.mean() <= found.corrected.high
    assert found.alone.high - found.alone.low > found.corrected.high - found.corrected.low


def test_a_rare_class_has_no_interval_and_says_how_many_audits_would_do():
    truth = np.zeros(500)
    truth[:10] = 1
    found = count_pool(np.zeros(500), np.arange(5, 55), truth[5:55])
    assert (found.corrected, found.alone, found.weight) == (None, None, None)
    assert found.shown == 5
    assert found.reason == (
        f"5 of 50 audits show it, an interval needs {FEWEST_SHOWN}: some 350 more audits would do"
    )
    few = count_pool(np.zeros(100), np.arange(5, 55), truth[5:55])
    assert few.reason.endswith("so rare a class may need an audit of every image")


def test_audits_of_nothing_but_zeros_claim_nothing():
    found = count_pool(np.ones(90), np.arange(45), np.zeros(45))
    assert found.corrected is None
    assert "differ in nothing" in found.reason
    empty = count_pool(np.zeros(90), np.arange(45), np.zeros(45))
    assert empty.reason == f"0 of 45 audits show it, an interval needs {FEWEST_SHOWN}"


def test_audits_that_miss_the_full_images_claim_nothing():
    counted = np.arange(1.0, 51)
    pool = np.concatenate([counted, np.full(10, 60.0)])
    assert share_beyond(pool, np.array([50.0, 60.0])) == pytest.approx([600 / pool.sum(), 0.0])
    found = count_pool(pool, np.arange(50), counted)
    assert (found.corrected, found.alone) == (None, None)
    assert "32% of what is predicted lies in images that hold more of it" in found.reason


def test_a_pool_of_audits_alone_is_known_exactly():
    truth = np.array([0.0, 3.0, 0.0])
    found = count_pool(np.zeros(3), np.arange(3), truth)
    assert found.corrected == Interval(1.0, 1.0, 1.0)


def test_the_pool_holds_no_less_than_was_counted_on_its_audits():
    rng = np.random.default_rng(3)
    truth = np.zeros(60)
    truth[:50] = rng.integers(1, 3, 50)
    truth[0] = 60
    found = count_pool(np.zeros(60), np.arange(50), truth[:50])
    assert found.corrected.low == pytest.approx(truth[:50].sum() / 60)


def test_no_pool_holds_more_than_the_whole_of_its_other_images():
    shares = np.r_[np.ones(39), np.zeros(2)]
    found = count_pool(np.ones(60), np.arange(41), shares, most=1.0)
    assert found.corrected.high == pytest.approx((39 + 19) / 60)
    assert count_pool(np.ones(60), np.arange(41), shares).corrected.high > 1


def test_without_an_audit_only_the_plain_count_is_there():
    found = count_pool(np.array([1.0, 2.0]), np.array([], np.intp), np.array([]))
    assert (found.plain, found.corrected, found.reason) == (1.5, None, "no audit has been counted")


def test_a_count_is_needed_for_each_audit():
    with pytest.raises(ValueError, match="2 audits and 1 counts"):
        count_pool(np.ones(3), np.arange(2), np.ones(1))


def test_labelled_images_do_not_shift_the_count_though_they_hold_more_and_another_predicts_them():
    rng = np.random.default_rng(4)
    truth = 1 + rng.poisson(rng.gamma(2, 2, 300))
    by_all, by_one = truth - rng.integers(0, 2, 300), rng.binomial(truth, 0.5)
    held, shifted = 0, 0
    for _ in range(300):
        order = rng.permutation(300)
        audits, rest = order[:60], order[60:]
        learnt = rest[np.argsort(-by_all[rest])[:60]]  # as they are asked for: not by chance
        predicted = by_all.astype(float)
        predicted[learnt] = by_one[learnt]
        counted = truth[audits] * 1.0
        corrected = count_pool(predicted, audits, counted, by_one.astype(float)).corrected
        held += corrected.low <= truth.mean() <= corrected.high
        corrected = count_pool(predicted, audits, counted).corrected
        shifted += not corrected.low <= truth.mean() <= corrected.high
    assert held >= 0.92 * 300
    assert shifted > 0.5 * 300
