import io

import pytest
from PIL import Image

from training.figures.counts_figure import MOST_GROUPS, Estimates, counts_figure
from training.quality.audit import Interval

BOTH = Estimates("all images", 1.2, Interval(1.4, 1.2, 1.6), Interval(1.5, 1.1, 1.9))
PLAIN = Estimates("patient $7$", 0.3, None, None)


def size_of(png):
    return Image.open(io.BytesIO(png)).size


def test_each_class_has_a_panel_and_each_group_a_line():
    one = size_of(counts_figure({"cell": [BOTH]}, "of project 1"))
    two = size_of(counts_figure({"cell": [BOTH], "cast": [PLAIN]}, "of project 1"))
    groups = size_of(counts_figure({"cell": [BOTH, PLAIN]}, "of project 1"))
    assert one[0] == two[0] == groups[0]
    assert one[1] < groups[1] < two[1]


@pytest.mark.filterwarnings("error")
def test_more_groups_than_can_be_read_are_left_to_the_table():
    most = size_of(counts_figure({"cell": [BOTH, *[PLAIN] * (MOST_GROUPS - 1)]}, "title"))
    assert size_of(counts_figure({"cell": [BOTH, *[PLAIN] * 40]}, "title")) == most
