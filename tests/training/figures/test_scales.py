import math

import numpy as np
import pytest
import torch

from acquisition.aggregate import AGGREGATES
from acquisition.uncertainty import MEASURES, uncertainty_maps
from training.figures.scales import UNITS, arms_table, most_possible, scale_of


def certain(M, C):
    """Members each sure of another class, in turn: [M, 1, C, 1, 1]."""
    probs = torch.zeros(M, 1, C, 1, 1)
    for member in range(M):
        probs[member, 0, member % C] = 1
    return probs


@pytest.mark.parametrize(("M", "C"), [(2, 2), (3, 3), (6, 3), (5, 5), (1, 4)])
def test_the_ends_of_a_scale_are_what_the_measures_reach(M, C):
    apart, unsure = certain(M, C), torch.full((M, 1, C, 1, 1), 1 / C)
    reached = {
        name: max(float(uncertainty_maps(probs)[name]) for probs in (apart, unsure))
        for name in MEASURES
    }
    expected = {name: most_possible(name, M, C) for name in MEASURES}
    assert reached == pytest.approx(expected, abs=1e-6)


def test_no_committee_goes_beyond_a_scale():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 1, 3, 40, 50, generator=generator) * 20
    for name, each in uncertainty_maps(logits.softmax(dim=2)).items():
        assert float(each.max()) <= most_possible(name, 5, 3) + 1e-6


def test_a_map_that_uses_the_scale_is_shown_on_all_of_it():
    scale = scale_of(np.linspace(0, 0.9, 1000, dtype=np.float32).reshape(20, 50), 1.1)
    assert (scale.top, scale.cut) == (1.1, False)


def test_a_map_far_below_the_scale_ends_the_scale_at_its_999th_pixel_of_1000():
    faint = np.full((100, 100), 0.02, np.float32)
    faint[0, :5] = 0.9
    scale = scale_of(faint, 1.1)
    assert scale.top == pytest.approx(0.02)
    assert scale.cut
    assert scale.most == 1.1


def test_no_uncertainty_at_all_has_the_whole_scale():
    assert not scale_of(np.zeros((4, 5), np.float32), 0.7).cut


def test_every_measure_has_a_unit():
    assert tuple(UNITS) == MEASURES


def test_math_of_the_scales_by_hand():
    assert most_possible("predictive_entropy", 5, 4) == math.log(4)
    assert most_possible("mutual_information", 2, 4) == math.log(2)
    assert most_possible("variation_ratio", 5, 4) == pytest.approx(0.6)
    assert most_possible("standard_deviation", 4, 2) == pytest.approx(0.5)
    assert most_possible("least_confidence", 5, 4) == 0.75


def test_the_table_has_each_arm_at_its_place():
    arms = {
        f"{measure}/{aggregate}": 10 * i + j
        for i, measure in enumerate(MEASURES)
        for j, aggregate in enumerate(AGGREGATES)
    }
    lines = arms_table(arms).splitlines()
    assert lines[0].split() == list(AGGREGATES)
    for i, (line, measure) in enumerate(zip(lines[1:], MEASURES, strict=True)):
        assert line.startswith(f"{measure}, {UNITS[measure]} ")
        assert [float(cell) for cell in line.split()[-6:]] == [10 * i + j for j in range(6)]
    assert len({len(line) for line in lines}) == 1
