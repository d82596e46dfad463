from dataclasses import dataclass

import numpy as np
import pytest
import torch

from acquisition.adaptive import ARMS, trust
from acquisition.queue import RULE, Rule, farthest_first
from training.experiments.strategy import (
    NAMED,
    Candidates,
    UnknownStrategy,
    _foreground,
    choose,
    strategy_of,
)

NO_EVIDENCE = trust([])


@dataclass
class Seen:
    arms: dict
    class_scores: np.ndarray


def seen(**scores):
    """A look whose arms score 0 but for those given by their measure."""
    arms = {arm: scores.get(arm.partition("/")[0], 0.0) for arm in ARMS}
    return Seen(arms, np.array([0.5, 0.1, 0.0], np.float32))


def candidates(predictions, errors=None, features=None):
    N = len(predictions)
    if features is None:
        features = torch.randn(N, 4, generator=torch.Generator().manual_seed(0))
    return Candidates(features, predictions, errors, torch.zeros(3))


def chosen(strategy, given, k=3, found=NO_EVIDENCE, seed=0, progress=0.0):
    generator = torch.Generator().manual_seed(seed)
    picks = choose(strategy_of(strategy), given, k, found, progress, generator)
    return [pick.index for pick in picks]


def test_each_baseline_of_the_tables_has_a_name():
    assert NAMED.keys() >= {
        "random",
        "foreground_random",
        "entropy",
        "bald",
        "power_bald",
        "rank_average",
        "oracle_error",
        "committee",
    }


def test_what_serves_live_is_in_the_tables():
    assert (NAMED["committee"].mode, NAMED["committee"].rule) == ("hedge", RULE)


def test_a_fixed_arm_takes_the_largest_scores():
    predictions = [seen(predictive_entropy=e) for e in (0.1, 0.9, 0.3, 0.8)]
    assert chosen("entropy", candidates(predictions)) == [1, 3, 2]
    assert len(set(chosen("bald", candidates(predictions)))) == 3


def test_the_oracle_takes_the_most_wrong():
    predictions = [seen() for _ in range(4)]
    assert chosen("oracle_error", candidates(predictions, errors=[0.1, 0.0, 0.4, 0.2])) == [2, 3, 0]


def test_farthest_first_follows_the_order_of_the_features_alone():
    features = torch.randn(12, 4, generator=torch.Generator().manual_seed(3))
    given = Candidates(features, [], None, torch.zeros(3))
    order = farthest_first(features, 12, torch.Generator().manual_seed(0))
    assert chosen("farthest_first", given, k=5) == order[:5]


def test_random_needs_no_looks_and_follows_its_seed():
    given = Candidates(torch.randn(50, 4), [], None, torch.zeros(3))
    assert not NAMED["random"].needs_predictions
    assert NAMED["foreground_random"].needs_predictions
    assert chosen("random", given, seed=1) == chosen("random", given, seed=1)
    assert chosen("random", given, k=10, seed=1) != chosen("random", given, k=10, seed=2)


def test_foreground_random_draws_a_class_evenly_and_then_an_image_of_it():
    shows = np.zeros((40, 3), np.float32)
    shows[:30, 1] = 1  # thirty images show the common class
    shows[29:32, 2] = 1  # three the rare one, the first of them both; eight none
    chance = _foreground([Seen(seen().arms, each) for each in shows])
    assert float(chance.sum()) == pytest.approx(1)
    assert chance[:29].tolist() == pytest.approx([1 / 2 / 30] * 29)
    assert float(chance[29]) == pytest.approx(1 / 2 / 30 + 1 / 2 / 3)
    assert chance[30:32].tolist() == pytest.approx([1 / 2 / 3] * 2)
    assert chance[32:].tolist() == [0] * 8


def test_foreground_random_is_random_where_nothing_is_seen():
    predictions = [Seen(seen().arms, np.zeros(3, np.float32)) for _ in range(8)]
    assert len(set(chosen("foreground_random", candidates(predictions), k=8))) == 8


def test_power_bald_prefers_and_does_not_insist():
    predictions = [seen(mutual_information=m) for m in (0.9, 0.1)]
    first = [chosen("power_bald", candidates(predictions), k=1, seed=s)[0] for s in range(400)]
    assert first.count(0) / 400 == pytest.approx(0.9, abs=0.04)


def test_clasp_grows_surer_over_the_rounds():
    predictions = [seen(predictive_entropy=e) for e in (0.5, 0.6)]

    def share(progress):
        first = [
            chosen(
                {"name": "x", "mode": "fixed:predictive_entropy/image_mean", "beta": 1.0},
                candidates(predictions),
                k=1,
                seed=s,
                progress=progress,
            )[0]
            for s in range(200)
        ]
        return first.count(1) / 200

    assert share(0.0) == share(1.0)  # only clasp anneals
    clasp = [
        [chosen("clasp", candidates(predictions), k=1, seed=s, progress=p)[0] for s in range(200)]
        for p in (0.0, 1.0)
    ]
    assert clasp[1].count(1) > clasp[0].count(1)


def test_a_described_strategy_is_what_it_says():
    found = strategy_of({"name": "mine", "mode": "hedge", "beta": 3, "diverse": True})
    assert found.rule == Rule(beta=3, diverse=True)


@pytest.mark.parametrize(
    ("described", "sentence"),
    [
        ({"mode": "hedge"}, "name: Field required"),
        ({"name": "../mine", "mode": "hedge"}, "name: String should match"),
        ({"name": "mine"}, "mode: Field required"),
        ({"name": "mine", "mode": "best"}, "the mode of 'mine' must be random"),
        ({"name": "mine", "mode": "hedge", "beta": "ten"}, "beta: .* got 'ten'"),
        ({"name": "mine", "mode": "hedge", "beta": 0}, "beta: .* greater than 0"),
        ({"name": "mine", "mode": "hedge", "diverse": "no"}, "diverse: .* got 'no'"),
        ({"name": "mine", "mode": "hedge", "class_share": 2}, "class_share: .* got 2"),
        ({"name": "mine", "mode": "hedge", "betta": 3}, "betta: Extra inputs are not permitted"),
    ],
)
def test_a_strategy_described_wrongly_is_refused(described, sentence):
    with pytest.raises(UnknownStrategy, match=sentence):
        strategy_of(described)
