"""Labels that a member contradicts, what is taken for what, and the worst images of a class."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from training.examples import Example
from training.quality.label_check import EACH_WAY, LabelCheck, contradiction

CLASSES = ("background", "dark", "bright")


def probs_of(predicted: NDArray[np.uint8], sure: float = 0.98) -> NDArray[np.float32]:
    """[3, h, w]: ``sure`` of the predicted class, the rest shared by the others."""
    rest = (1 - sure) / 2
    found = np.full((3, *predicted.shape), rest, np.float32)
    np.put_along_axis(found, predicted[None].astype(np.int64), sure, axis=0)
    return found


def example_of(key: str, mask: NDArray[np.uint8]) -> Example:
    return Example(key, np.zeros((*mask.shape, 3), np.uint8), mask)


def field(**rows: int) -> NDArray[np.uint8]:
    """[20, 10] background, with so many rows of class 1 on top and of class 2 below."""
    mask = np.zeros((20, 10), np.uint8)
    mask[: rows.get("dark", 0)] = 1
    mask[20 - rows.get("bright", 0) :] = 2
    return mask


def test_a_contradiction_is_counted_against_the_foreground_by_hand() -> None:
    label, predicted = field(dark=8), field(dark=4, bright=2)
    label[0] = 255  # unknown pixels say nothing
    found = contradiction(label, probs_of(predicted), predicted)
    assert found is not None
    # 4 rows that only the label calls dark and 2 that only the prediction calls bright, of 9 rows
    # that either calls foreground and are known.
    assert found.share == pytest.approx(6 / 9)
    assert found.pixels == pytest.approx(6 / 19)
    assert (found.labelled, found.predicted) == (1, 0)


def test_what_the_member_is_not_sure_of_contradicts_nothing() -> None:
    label, predicted = field(dark=8), field(dark=4)
    assert contradiction(label, probs_of(predicted, 0.6), predicted) is None
    assert contradiction(label, probs_of(label), label) is None
    broken = np.full((3, 20, 10), np.nan, np.float32)
    assert contradiction(label, broken, predicted) is None


def test_the_worst_label_comes_first_and_pairs_are_named() -> None:
    check = LabelCheck(CLASSES)
    right = field(dark=8, bright=4)
    for key, label in (("1", right), ("2", field(dark=6, bright=4)), ("3", field(bright=4))):
        check.add(example_of(key, label), probs_of(right), right)
    found = check.metrics()
    assert [each["key"] for each in found["label_check"]] == ["3", "2"]
    assert found["label_check"][0]["labelled"] == "background"
    assert found["label_check"][0]["predicted"] == "dark"
    (pair,) = found["confusion"]
    assert (pair["labelled"], pair["predicted"], pair["pixels"]) == ("background", "dark", 100)
    assert pair["share"] == pytest.approx(100 / (80 + 100 + 160))
    # An image is an example of the classes that its label shows.
    assert [key for key, _ in found["class_examples"]["dark"]["worst"]] == ["2", "1"]
    assert found["class_examples"]["dark"]["best"] == []


def test_no_image_is_among_the_worst_and_the_best() -> None:
    check = LabelCheck(CLASSES)
    for n in range(1, EACH_WAY + 3):
        check.add(example_of(str(n), field(dark=8)), probs_of(field(dark=n)), field(dark=n))
    ends = check.metrics()["class_examples"]["dark"]
    assert [key for key, _ in ends["worst"]] == ["1", "2", "3"]
    assert [key for key, _ in ends["best"]] == ["5", "4"]
