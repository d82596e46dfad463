"""The charts of *Learning* and *Measures*."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from backend.insight.class_list import ClassList
from backend.insight.learning import Learning
from backend.insight.measure_weights import QueueWeights
from backend.web.dashboard.chart import NARROW, Chart, Series, line_chart

MEASURE_WORDS: Mapping[str, tuple[str, str]] = {
    "predictive_entropy": (
        "Overall uncertainty",
        "Predictive entropy: how evenly the committee's mean probabilities are spread over the "
        "classes.",
    ),
    "variation_ratio": (
        "Votes against the majority",
        "Variation ratio: the share of members that would choose another class than most do.",
    ),
    "mutual_information": (
        "Disagreement",
        "Mutual information (BALD): the part of the uncertainty that comes from members that are "
        "each sure and disagree. More labels can settle it; what is ambiguous to all is left out.",
    ),
    "standard_deviation": (
        "Spread of probabilities",
        "Standard deviation: how far apart the members' probabilities of a class lie.",
    ),
    "least_confidence": (
        "Lack of confidence",
        "Least confidence: how far the likeliest class is from certain.",
    ),
}
"""What each measure is called on a page, and what it is."""


def quality_chart(found: Learning) -> Chart | None:
    """Overlap over labelled images, with its interval."""
    kinds = (
        ("Labelled images, each judged by a member that never saw it", "out_of_fold"),
        ("Audit images, drawn by chance and never trained on", "audit"),
    )
    series = []
    for name, field in kinds:
        points = []
        for point in found.points:
            value = getattr(point, field)
            shown = (None, None, None)
            if value is not None:
                shown = (value["value"], value["low"], value["high"])
            points.append((float(point.images), *shown))
        if any(point[1] is not None for point in points):
            series.append(Series(name, points))
    return line_chart(series)


def class_charts(found: Learning) -> list[tuple[str, Chart | None]]:
    """Overlap over labelled images of each class."""
    return [
        (
            name,
            line_chart(
                [
                    Series(
                        name,
                        [
                            (float(point.images), point.dice.get(name), None, None)
                            for point in found.points
                        ],
                    )
                ],
                NARROW,
            ),
        )
        for name in found.classes
    ]


def reliability_chart(found: ClassList) -> Chart | None:
    """How often the committee is right over how sure it is, beside what would be ideal."""
    if not found.reliability:
        return None
    shown = [(100 * each.confidence, each.right, None, None) for each in found.reliability]
    ends = (found.reliability[0].confidence, found.reliability[-1].confidence)
    ideal = [(100 * end, end, None, None) for end in ends]
    return line_chart([Series("The committee", shown), Series("Ideal", ideal)])


def effort_chart(found: Learning) -> Chart | None:
    points = [(float(each.round), each.middle, each.low, each.high) for each in found.effort]
    return line_chart([Series("Corrected pixels of an image", points)])


def times_chart(found: Learning) -> Chart | None:
    """Seconds of a label over the labels made so far."""
    points = [(float(each.labels), each.middle, each.low, each.high) for each in found.times]
    return line_chart([Series("Seconds of a label", points)], unit="s")


def weights_chart(queues: Sequence[QueueWeights]) -> Chart | None:
    """Each measure's share over the queues, counted from the oldest that is shown."""
    return line_chart(
        [
            Series(
                words,
                [
                    (float(place), queue.weights[measure], None, None)
                    for place, queue in enumerate(queues, start=1)
                ],
            )
            for measure, (words, _meaning) in MEASURE_WORDS.items()
        ]
    )
