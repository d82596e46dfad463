import base64
import csv
import json
import re
import shutil
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from click.testing import CliRunner

from tests.command_page import json_keys
from tests.training.discs import CLASSES, write_discs
from training.__main__ import cli
from training.experiments.analysis import (
    arm_weights,
    aubc_against,
    class_gains,
    classes_reached,
    heaviest,
    leaders,
    quality_reached,
    standings,
)
from training.experiments.plots import (
    bin_names,
    class_curves,
    draw,
    learning_curves,
    summed,
)
from training.experiments.pooled_distance import pooled_distance
from training.experiments.report import _format_median, report_html, write_report
from training.experiments.runs import BadRun, DistanceBins, read_run
from training.experiments.sentences import (
    claim_sentences,
    hypothesis_sentences,
    ratio_sentence,
    summary_sentences,
)
from training.experiments.statistics import aubc, holm, mean_known, paired_t

STRATEGIES = ("random", "entropy", "adaptive")
BETTER = {"random": 0.0, "entropy": 0.06, "adaptive": 0.03}
SEEDS = (3, 1, 2, 0)
ROUNDS = 4
IMAGES = 6
EDGES = [0, 1, 2, 3, 5, 8, 12, 20]
ARMS = (
    "predictive_entropy/image_mean",
    "predictive_entropy/object_max",
    "mutual_information/object_max",
)


def settings(data, **changes):
    return {
        "title": "Discs <for> tests",
        "data": str(data),
        "start": None,
        "classes": list(CLASSES),
        "strategies": list(STRATEGIES),
        "seeds": list(SEEDS),
        "initial": 10,
        "query": 10,
        "rounds": ROUNDS,
        "pool": 100,
        "test": 20,
        "learner": "probe",
    } | changes


def line(strategy, seed, number, mean_iou=None, **changes):
    """Quality rises by a law; seeds and rounds differ by fixed noise."""
    noise = np.random.default_rng([seed, number, len(strategy)]).normal(0, 0.006)
    share = 1 - 0.7**number
    quality = 0.4 + 0.3 * share + BETTER.get(strategy, 0) * share + 0.02 * seed + noise
    quality = quality if mean_iou is None else mean_iou
    adaptive = strategy == "adaptive"
    fall = np.exp(-np.arange(len(EDGES)) / 2)
    return {
        "strategy": strategy,
        "seed": seed,
        "round": number,
        "labelled": 10 * (number + 1),
        "particles": 40 * (number + 1) + (15 * number if strategy == "entropy" else 0),
        "mean_iou": quality,
        "iou": [0.95, *[quality] * (len(CLASSES) - 2), None],
        "dice": [0.97, *[2 * quality / (1 + quality)] * (len(CLASSES) - 2), None],
        "pixels_wrong": 0.1,
        "ece": 0.05,
        "known": [True, *[number > 0] * (len(CLASSES) - 2), strategy == "entropy" and seed > 0],
        "chosen": [f"{(number + i) % IMAGES}.png" for i in range(10)],
        "weights": dict(zip(ARMS, [0.2 + 0.1 * number, 0.3, 0.5 - 0.1 * number], strict=True))
        if adaptive and number
        else None,
        "leader": ARMS[0 if number > 2 else 2] if adaptive and number else None,
        "rewards": None,
        "uncertainty_by_distance": {
            "edges_px": EDGES,
            "pixels": [1000] * 7 + [0],
            "wrong": [*(0.3 * fall[:-1]).tolist(), None],
            "measures": {
                "predictive_entropy": [*(0.8 * fall[:-1]).tolist(), None],
                "mutual_information": [*(0.1 * fall[:-1] ** 2).tolist(), None],
            },
        }
        if number in (1, ROUNDS)
        else None,
        "seconds": 1.5,
    } | changes


def all_lines():
    lines = [line(s, seed, r) for s in STRATEGIES for seed in SEEDS for r in range(ROUNDS + 1)]
    whole = [line("all", seed, 0, 0.72 + 0.02 * seed, labelled=100) for seed in SEEDS]
    return [*lines, *whole]


def write_run(folder, lines=None, data="/nowhere/discs", **changes):
    (folder / "paths").mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(settings(data, **changes)))
    for each in all_lines() if lines is None else lines:
        with path_of(folder, each).open("a") as file:
            file.write(json.dumps(each) + "\n")
    return folder


def path_of(folder, line):
    return folder / "paths" / f"{line['strategy']}-{line['seed']}.jsonl"


def without(lines, **cell):
    return [each for each in lines if any(each[name] != value for name, value in cell.items())]


@pytest.fixture
def run(tmp_path):
    return read_run(write_run(tmp_path / "run"))


@pytest.fixture
def without_pictures(monkeypatch):
    """For pages that are read for their text alone: pictures take a second to draw."""
    monkeypatch.setattr("training.experiments.plots.draw", lambda make: b"<svg></svg>")


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def pictures(page, kind="svg\\+xml"):
    return [base64.b64decode(b) for b in re.findall(f'data:image/{kind};base64,([^"]+)', page)]


def test_the_page_holds_every_section_in_order_and_loads_nothing(tmp_path):
    folder = write_run(tmp_path / "run", data=write_discs(tmp_path / "discs", IMAGES))
    path, _ = write_report(folder)
    page = path.read_text()
    assert re.findall("<h2>(.*?)</h2>", page) == [
        "What was run, and what came of it",
        "Learning curves",
        "Area under the budget curve",
        "Who beats whom",
        "Class by class",
        "Weights of the arms",
        "Uncertainty by distance to a boundary",
        "What each strategy chose first",
    ]
    assert "http://" not in page
    assert "https://" not in page
    assert "<script" not in page
    assert all(source.startswith("data:") for source in re.findall('src="([^"]*)"', page))
    assert "<h1>Discs &lt;for&gt; tests</h1>" in page
    assert "incomplete" not in page
    drawn = pictures(page)
    assert len(drawn) == 5
    assert all(ET.fromstring(svg).tag.endswith("svg") for svg in drawn)  # noqa: S314
    assert len(pictures(page, "jpeg")) == len(STRATEGIES) * 8
    assert page.count("</table>") == 9


def test_the_same_run_gives_the_same_bytes(tmp_path):
    data = write_discs(tmp_path / "discs", IMAGES)
    folder = write_run(tmp_path / "run", data=data)

    def written():
        path, _ = write_report(folder)
        return {f: f.read_bytes() for f in (path, *sorted((folder / "csv").iterdir()))}

    first = written()
    assert len(first) == 9
    assert written() == first


def test_a_picture_shows_every_strategy_and_the_whole_pool(run):
    text = draw(lambda: learning_curves(run)).decode()
    for name in (*STRATEGIES, "whole pool (100)", "labelled images", "mean foreground IoU"):
        assert f">{name}</text>" in text


@pytest.mark.usefixtures("without_pictures")
def test_a_class_may_have_any_name(tmp_path):
    names = ["background", "$x$ <b>&", "白血球"][: len(CLASSES)]
    names += [f"class {i}" for i in range(len(CLASSES) - len(names))]
    run = read_run(write_run(tmp_path / "run", classes=names))
    assert ">$x$ &lt;b&gt;&amp;</text>" in draw(lambda: class_curves(run)).decode()
    assert "<th>$x$ &lt;b&gt;&amp;</th>" in report_html(run)


def test_areas_are_sorted_and_held_against_random(run):
    found = standings(run)
    assert [each.strategy for each in found] == ["entropy", "adaptive", "random"]
    assert found[0].verdict == "better than random *"
    # .06 times the area of 0, .3, .51, .657, .7599.
    assert found[0].difference.low < 0.0277 < found[0].difference.high
    assert found[0].difference.p <= found[0].p_holm < 0.05
    assert found[2].verdict == "the reference"
    assert found[2].difference is None


@pytest.mark.usefixtures("without_pictures")
def test_what_is_worse_than_random_is_called_so(tmp_path):
    lines = all_lines()
    for each in lines:
        if each["strategy"] == "adaptive":
            each["mean_iou"] -= 0.1 * each["round"] / ROUNDS
    run = read_run(write_run(tmp_path / "run", lines))
    assert standings(run)[-1].verdict == "significantly worse than random *"
    (sentence,) = [s for s in summary_sentences(run) if s.startswith("adaptive")]
    assert re.search(r"AUBC -\d\.\d points against random", sentence)
    assert "significantly worse than random *" in report_html(run)


def test_what_does_not_survive_the_correction_has_no_star(tmp_path):
    lines = all_lines()
    for each in lines:
        if each["strategy"] == "adaptive":
            each["mean_iou"] = line("random", each["seed"], each["round"])["mean_iou"]
            each["mean_iou"] += 0.01 * (-1) ** each["seed"]
    run = read_run(write_run(tmp_path / "run", lines))
    (standing,) = [each for each in standings(run) if each.strategy == "adaptive"]
    assert standing.verdict == "no difference shown"


def test_each_strategy_has_a_summary_sentence(run):
    sentences = summary_sentences(run)
    assert [sentence.partition(":")[0] for sentence in sentences] == list(STRATEGIES)
    assert re.fullmatch(
        r"entropy: AUBC \+\d\.\d points over random \(95 % between \+\d\.\d and \+\d\.\d, 4 seeds, "
        r"p (= \.\d{3}|< \.001) after Holm\): better than random \*\.",
        sentences[1],
    )


def flat(strategy, seed, number, values):
    return line(strategy, seed, number, values[number])


def claim_lines(random, entropy, full=0.8):
    lines = []
    for seed in (0, 1):
        for number in range(3):
            lines.append(line("random", seed, number, random[number] + 0.01 * seed))
            lines.append(line("entropy", seed, number, entropy[number] + 0.02 * seed))
        lines.append(line("all", seed, 0, full, labelled=100))
    return lines


def claim_run(folder, *curves, **changes):
    changes = {"strategies": ["random", "entropy"], "seeds": [0, 1], "rounds": 2} | changes
    return read_run(write_run(folder, claim_lines(*curves), **changes))


def test_the_gain_is_measured_where_random_reaches_80_percent(tmp_path):
    # Random's mean is .405, .605, .705 and meets .8 x .8 = .64 at 20 + 10 x .035 / .1 = 23.5
    # labels; there the seeds of entropy hold .7 + .35 x .05 and .02 more: .7275 on average.
    run = claim_run(tmp_path / "run", (0.4, 0.6, 0.7), (0.4, 0.7, 0.75))
    head, sentence = claim_sentences(run)
    assert head == (
        "With 24 labelled images, where random's mean curve reaches 80 % of full-data quality "
        "(0.640 of 0.800 mean IoU):"
    )
    assert sentence.startswith("entropy found 13.7 % more than random (95 % between +")
    assert sentence.endswith("2 seeds).")


def test_a_gain_that_may_be_none_is_not_claimed(tmp_path):
    run = claim_run(tmp_path / "run", (0.4, 0.6, 0.7), (0.4, 0.605, 0.7))
    assert claim_sentences(run)[1].endswith("not told apart from random.")


@pytest.mark.parametrize(
    ("random", "changes", "sentence"),
    [
        ((0.4, 0.5, 0.6), {}, "does not reach 80 %"),
        ((0.7, 0.75, 0.78), {}, "already with the first 10 images"),
        ((0.4, 0.6, 0.7), {"strategies": ["entropy"]}, "it was not run"),
    ],
)
def test_where_there_is_no_gain_to_measure_a_sentence_says_why(tmp_path, random, changes, sentence):
    run = claim_run(tmp_path / "run", random, (0.4, 0.7, 0.75), **changes)
    (found,) = claim_sentences(run)
    assert sentence in found


@pytest.mark.usefixtures("without_pictures")
def test_without_full_data_quality_the_report_says_so(tmp_path):
    lines = [each for each in all_lines() if each["strategy"] != "all"]
    run = read_run(write_run(tmp_path / "run", lines))
    assert "no learner got the whole pool" in claim_sentences(run)[0]
    assert quality_reached(run) == []
    assert "full-data quality is unknown" in report_html(run)
    assert "whole pool" not in draw(lambda: learning_curves(run)).decode()


def test_labels_until_full_quality_are_read_from_each_seeds_curve(tmp_path):
    run = claim_run(tmp_path / "run", (0.4, 0.6, 0.7), (0.4, 0.7, 0.78))
    found = {(r.strategy, r.seed, r.target[:4]): r.labels for r in quality_reached(run)}
    assert found["random", 0, "95 %"] is None
    assert found["entropy", 0, "95 %"] == pytest.approx(20 + 10 * 0.06 / 0.08)
    assert found["entropy", 0, "99 %"] is None
    assert found["entropy", 1, "99 %"] == pytest.approx(20 + 10 * 0.072 / 0.08)


def by_hand(run, strategy, other, of=lambda each: each.mean_iou):
    areas = {
        name: [aubc(run.budgets, [of(each) for each in run.curve(name, seed)]) for seed in SEEDS]
        for name in (strategy, other)
    }
    return paired_t(areas[other], areas[strategy])


def test_an_adaptive_strategy_is_held_against_each_other(run):
    found = aubc_against(run)
    assert [(each.strategy, each.other) for each in found] == [
        ("adaptive", "random"),
        ("adaptive", "entropy"),
    ]
    expected = [by_hand(run, "adaptive", each.other) for each in found]
    assert [each.difference for each in found] == expected
    assert [each.p_holm for each in found] == holm([each.p for each in expected])


def renamed(lines, **names):
    return [each | {"strategy": names.get(each["strategy"], each["strategy"])} for each in lines]


def test_the_committee_is_the_one_that_hypotheses_are_of(tmp_path):
    lines = renamed(all_lines(), entropy="committee")
    names = ["random", "committee", "adaptive"]
    run = read_run(write_run(tmp_path / "run", lines, strategies=names))
    assert {each.strategy for each in aubc_against(run)} == {"committee"}


@pytest.mark.usefixtures("without_pictures")
def test_classes_are_held_against_random_and_corrected_within_a_strategy(tmp_path):
    lines = all_lines()
    for each in lines:
        each["iou"][1] /= 2
        if each["strategy"] == "entropy":
            each["iou"][1] = 0.2 + each["seed"] / 100
    run = read_run(write_run(tmp_path / "run", lines))
    found = {(gain.strategy, gain.index): gain for gain in class_gains(run)}
    assert set(found) == {(name, c) for name in STRATEGIES[1:] for c in range(1, len(CLASSES) - 1)}
    for name in STRATEGIES[1:]:
        mine = [gain for gain in class_gains(run) if gain.strategy == name]
        expected = [
            by_hand(run, name, "random", lambda each, c=gain.index: each.iou[c]) for gain in mine
        ]
        assert [gain.difference for gain in mine] == expected
        assert [gain.p_holm for gain in mine] == holm([each.p for each in expected])
    worse = found["entropy", 1].difference
    assert f"{100 * worse.mean:+.2f} ({100 * worse.low:+.2f} to" in report_html(run)


def hypotheses(run):
    return {
        re.search("than random|foreground-aware|best fixed|95 % of full|99 % of full", each)[
            0
        ]: each
        for each in hypothesis_sentences(run)
    }


def test_hypotheses_are_told_with_their_intervals(run):
    found = hypotheses(run)
    assert re.fullmatch(
        r"Hypothesis: adaptive is better than random\. AUBC \+\d\.\d points \(95 % between "
        r"\+\d\.\d and \+\d\.\d, 4 seeds, p (= \.\d{3}|< \.001) after Holm\): shown\.",
        found["than random"],
    )
    assert found["foreground-aware"].endswith("Not tested: it was not run.")
    assert "Against entropy, AUBC -1." in found["best fixed"]
    # But for noise .4 + .33 (1 - .7^2) + .03, the seeds' mean, over .75: 79.8 %.
    assert "With 30 labelled images (30 % of the pool) it holds 80.1 %" in found["95 % of full"]
    assert found["95 % of full"].endswith("refuted.")


def test_what_is_worse_refutes_the_hypotheses(tmp_path):
    lines = renamed(all_lines(), random="committee", adaptive="foreground_random")
    lines = renamed(lines, entropy="random")
    names = ["random", "committee", "foreground_random"]
    found = hypotheses(read_run(write_run(tmp_path / "run", lines, strategies=names)))
    assert "significantly worse" in found["than random"]
    assert "significantly worse" in found["foreground-aware"]
    assert found["best fixed"].endswith("Not tested: no fixed measure was run.")


def test_a_strategy_as_good_as_the_best_fixed_measure_is_shown_to_be(tmp_path):
    lines = renamed(all_lines(), entropy="mine")
    for each in lines:
        if each["strategy"] == "adaptive":
            each["mean_iou"] = line("mine", each["seed"], each["round"])["mean_iou"]
            each["mean_iou"] += 0.06 * (1 - 0.7 ** each["round"])
    folder = write_run(tmp_path / "run", lines, strategies=["random", "mine", "adaptive"])
    assert "no fixed measure was run" in hypotheses(read_run(folder))["best fixed"]
    mode = {"mode": "fixed:predictive_entropy/image_mean"}
    (folder / "config.json").write_text(json.dumps({"definitions": {"mine": mode}}))
    found = hypotheses(read_run(folder))["best fixed"]
    assert "Against mine" in found
    assert found.endswith(": shown.")


def test_a_run_that_ends_before_30_percent_refutes_nothing(tmp_path):
    found = hypotheses(read_run(write_run(tmp_path / "run", pool=1000)))
    assert "With 50 labelled images (5 % of the pool)" in found["95 % of full"]
    assert found["95 % of full"].endswith("not decided, the run ended before.")


def test_without_an_adaptive_strategy_no_hypothesis_is_tested(tmp_path):
    run = claim_run(tmp_path / "run", (0.4, 0.6, 0.7), (0.4, 0.7, 0.75))
    (sentence,) = hypothesis_sentences(run)
    assert sentence.startswith("No hypothesis is tested")


def test_images_of_another_folder_are_no_labels_of_the_pool(tmp_path):
    run = read_run(write_run(tmp_path / "run", start="/elsewhere"))
    assert run.budgets.tolist() == [0, 10, 20, 30, 40]
    found = {(r.strategy, r.seed, r.target): r.labels for r in classes_reached(run)}
    assert found["random", 3, f"class {CLASSES[1]} known"] == 10
    assert "labelled images of the pool" in draw(lambda: learning_curves(run)).decode()
    assert "With 30 labelled images of the pool (30 %" in hypotheses(run)["95 % of full"]


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ([10, 20, 40], "20 (20 % of the pool)"),
        ([10, 20, None], "20 (20 % of the pool); not reached in 1 of 3 seeds"),
        ([10, None, None], "not reached in 2 of 3 seeds"),
        ([10, None], "not reached in 1 of 2 seeds"),
    ],
)
def test_a_median_counts_what_was_not_reached_as_last(labels, text):
    assert _format_median(labels, 100) == text


@pytest.mark.usefixtures("without_pictures")
def test_classes_are_known_from_the_first_round_that_shows_them(run):
    found = {(r.strategy, r.seed, r.target): r.labels for r in classes_reached(run)}
    assert found["random", 3, f"class {CLASSES[1]} known"] == 20
    assert found["random", 3, f"class {CLASSES[-1]} known"] is None
    assert found["entropy", 3, f"class {CLASSES[-1]} known"] == 10
    assert "10; not reached in 1 of 4 seeds" in report_html(run)


def test_weights_are_averaged_over_seeds_and_summed_over_arms(run):
    weights = arm_weights(run)
    assert list(weights) == ["adaptive"]
    np.testing.assert_allclose(weights["adaptive"][ARMS[0]], [np.nan, 0.3, 0.4, 0.5, 0.6])
    measures, aggregates = summed(weights["adaptive"], 0), summed(weights["adaptive"], 1)
    np.testing.assert_allclose(measures["predictive_entropy"][1:], [0.6, 0.7, 0.8, 0.9])
    np.testing.assert_allclose(aggregates["object_max"][1:], [0.7, 0.6, 0.5, 0.4])


@pytest.mark.usefixtures("without_pictures")
def test_the_heaviest_arm_is_told_beside_the_best_of_the_latest_batch(run):
    # Their weights meet at round 2 (.4, .3, .3), and one of them leads alone at all others.
    assert heaviest(run, "adaptive") == {ARMS[0]: 12, ARMS[2]: 4}
    assert leaders(run, "adaptive") == {ARMS[0]: 8, ARMS[2]: 8}
    (row,) = re.findall("<tr>.*predictive entropy / image mean.*</tr>", report_html(run))
    assert re.findall(r"\d+ of 16 rounds", row) == ["12 of 16 rounds", "8 of 16 rounds"]


def test_no_arm_is_heaviest_where_all_weigh_alike(tmp_path):
    lines = all_lines()
    for each in lines:
        if each["weights"]:
            each["weights"] = dict.fromkeys(ARMS, 1 / 3)
    assert heaviest(read_run(write_run(tmp_path / "run", lines)), "adaptive") == {}


@pytest.mark.usefixtures("without_pictures")
def test_a_run_without_weights_or_uncertainty_says_so(tmp_path):
    lines = [each | {"weights": None, "uncertainty_by_distance": None} for each in all_lines()]
    page = report_html(read_run(write_run(tmp_path / "run", lines)))
    assert "No strategy of this run has weights." in page
    assert "No round of this run holds uncertainty by distance." in page


def uncertainty(entropy, pixels, edges=(0, 2, 5, 12)):
    return DistanceBins(
        edges_px=edges,
        pixels=pixels,
        wrong=(0.5,) * len(pixels),
        measures={"predictive_entropy": entropy},
    )


def test_the_ratio_of_uncertainty_weighs_pixels():
    # Near: (10 x .6 + 30 x .2) / 40 = .3; far: (20 x .1 + 20 x .2) / 40 = .15.
    found = pooled_distance(
        [
            uncertainty((0.6, 9, 9, 0.1), (10, 5, 5, 20)),
            uncertainty((0.2, 9, 9, 0.2), (30, 5, 5, 20)),
        ]
    )
    assert found.ratios["predictive_entropy"] == pytest.approx(2)
    assert found.measures["predictive_entropy"] == pytest.approx([0.4, 9, 9, 0.15])
    assert ratio_sentence(found) == (
        "Entropy within 2 px of a boundary is 2.0 times that beyond 12 px. "
        "(The bins' ends nearest to 2 px and 10 px are 2 px and 12 px.)"
    )


def test_bins_wider_than_a_boundary_are_named_as_they_are():
    found = pooled_distance([uncertainty((0.6, 9, 0.2, 0.2), (10, 5, 5, 20), (0, 4, 12, 20))])
    assert found.ratios["predictive_entropy"] == pytest.approx(3)
    assert ratio_sentence(found).startswith("Entropy within 4 px of a boundary is 3.0 times that")
    assert "beyond 12 px" in ratio_sentence(found)
    alone = pooled_distance([uncertainty((0.6,), (10,), (0,))])
    assert "cannot be compared" in ratio_sentence(alone)


def test_an_empty_bin_counts_for_nothing_whatever_stands_in_it():
    full, empty = (
        uncertainty((0.6, 1, 1, 0.2), (10, 5, 5, 20)),
        uncertainty((0.6, 1, 1, 7), (10, 5, 5, 0)),
    )
    found = pooled_distance([full, empty])
    assert found.measures["predictive_entropy"][3] == pytest.approx(0.2)
    assert found.ratios["predictive_entropy"] == pytest.approx(3)
    alone = pooled_distance([empty])
    assert alone.ratios["predictive_entropy"] is None
    assert "cannot be compared" in ratio_sentence(alone)


def test_rounds_of_different_bins_are_refused():
    with pytest.raises(BadRun, match="same edges"):
        pooled_distance([uncertainty((1, 1), (1, 1), (0, 2)), uncertainty((1, 1), (1, 1), (0, 3))])


def test_bins_are_named_by_their_ends():
    assert bin_names([0, 1, 2.5]) == ["0–1", "1–2.5", "2.5+"]


def test_a_run_of_the_last_release_is_read(tmp_path):
    lines = all_lines()
    expected = read_run(write_run(tmp_path / "new", lines)).lines
    for each in lines:
        each["doubt_by_distance"] = each.pop("uncertainty_by_distance", None)
    assert read_run(write_run(tmp_path / "old", lines)).lines == expected


def test_a_mean_of_nothing_is_nothing():
    found = mean_known(np.array([[1, np.nan, np.nan], [3, 4, np.nan]]))
    np.testing.assert_array_equal(found, [2, 4, np.nan])


def test_a_run_that_goes_on_is_reported_by_its_complete_seeds(tmp_path):
    lines = without(all_lines(), strategy="entropy", seed=1, round=ROUNDS)
    folder = write_run(tmp_path / "run", lines)
    cut = line("entropy", 1, ROUNDS)
    with path_of(folder, cut).open("a") as file:
        file.write(json.dumps(cut)[:60])
    run = read_run(folder)
    assert (run.seeds, run.missing, run.unreadable) == ((3, 2, 0), 1, 1)
    page = report_html(run)
    assert "1 of 60 rounds are missing" in page
    assert "the 3 of 4 seeds" in page
    assert "1 half-written line was left out" in page
    assert "3 seeds" in summary_sentences(run)[1]


def test_a_run_whose_later_paths_have_not_begun_is_reported(tmp_path):
    lines = [each for each in all_lines() if each["seed"] in (3, 1)]
    folder = write_run(tmp_path / "run", lines)
    found = CliRunner().invoke(cli, ["report", str(folder), "--json"])
    assert found.exit_code == 0, found.output
    assert json_keys()["training report"] == json.loads(found.stdout).keys()
    assert read_run(folder).seeds == (3, 1)


def test_a_cell_measured_twice_counts_as_it_came_last(tmp_path):
    run = read_run(write_run(tmp_path / "run", [*all_lines(), line("random", 1, 2, 0.123)]))
    assert run.lines["random", 1, 2].mean_iou == 0.123


def test_a_single_seed_has_curves_and_no_test(tmp_path):
    lines = [each for each in all_lines() if each["seed"] == 2]
    page = report_html(read_run(write_run(tmp_path / "run", lines, seeds=[2])))
    assert "one seed: nothing can be said" in page
    assert "This needs at least two seeds." in page
    assert len(pictures(page)) == 5


@pytest.mark.usefixtures("without_pictures")
def test_without_the_images_a_sentence_stands_in_their_place(tmp_path):
    page = report_html(read_run(write_run(tmp_path / "run", data=tmp_path / "gone")))
    assert f"there is no folder {tmp_path / 'gone' / 'images'} here" in page
    assert pictures(page, "jpeg") == []


@pytest.mark.usefixtures("without_pictures")
def test_a_single_image_that_is_gone_is_named(tmp_path):
    data = write_discs(tmp_path / "discs", IMAGES)
    (data / "images" / "2.png").unlink()
    (data / "masks" / "3.png").write_bytes(b"no image")
    page = report_html(read_run(write_run(tmp_path / "run", data=data)))
    assert "2.png: [Errno 2]" in page
    assert "3.png cannot be read as an image" in page
    assert pictures(page, "jpeg")


@pytest.mark.usefixtures("without_pictures")
def test_the_tables_say_what_was_read(tmp_path):
    lines = all_lines()
    folder = write_run(tmp_path / "run", lines)
    write_report(folder)
    curves = rows_of(folder / "csv" / "curves.csv")
    assert len(curves) == len(lines)
    read = {(row["strategy"], int(row["seed"]), int(row["round"])): row for row in curves}
    for each in lines:
        row = read[each["strategy"], each["seed"], each["round"]]
        assert float(row["mean_iou"]) == each["mean_iou"]
        assert float(row[f"iou_{CLASSES[1]}"]) == each["iou"][1]
        assert row[f"dice_{CLASSES[-1]}"] == ""
        assert int(row["particles"]) == each["particles"]
    areas = rows_of(folder / "csv" / "aubc.csv")
    assert [row["strategy"] for row in areas] == ["entropy", "adaptive", "random"]
    standing = standings(read_run(folder))[0]
    assert float(areas[0]["aubc"]) == standing.mean
    assert float(areas[0]["p_holm"]) == standing.p_holm
    assert areas[2]["difference"] == ""
    against = rows_of(folder / "csv" / "aubc_against.csv")
    assert [(row["strategy"], row["against"]) for row in against] == [
        ("adaptive", "random"),
        ("adaptive", "entropy"),
    ]
    held = aubc_against(read_run(folder))[1]
    assert float(against[1]["low"]) == held.difference.low
    assert float(against[1]["p_holm"]) == held.p_holm
    gains = rows_of(folder / "csv" / "aubc_classes.csv")
    assert [(row["strategy"], row["class"]) for row in gains] == [
        (strategy, name) for strategy in STRATEGIES[1:] for name in CLASSES[1:-1]
    ]
    penalty = rows_of(folder / "csv" / "penalty.csv")
    assert [row["beats"] for row in penalty] == [*STRATEGIES, "penalty"]
    column = [float(row["random"]) for row in penalty]
    assert column[3] == pytest.approx(sum(column[:3]) / 3)
    assert column[1] > 0
    weights = rows_of(folder / "csv" / "weights.csv")
    assert len(weights) == len(ARMS) * ROUNDS
    assert weights[0]["measure"] == "predictive_entropy"
    labels = rows_of(folder / "csv" / "labels_to.csv")
    assert len(labels) == len(STRATEGIES) * len(SEEDS) * (2 + len(CLASSES) - 1)
    distance = rows_of(folder / "csv" / "distance.csv")
    assert len(distance) == len(STRATEGIES) * len(SEEDS) * len(EDGES)
    assert (distance[7]["round"], distance[7]["to_px"], distance[7]["wrong"]) == ("4", "", "")


def test_the_command_writes_the_report_and_prints_the_gains(tmp_path):
    folder = write_run(tmp_path / "run")
    found = CliRunner().invoke(cli, ["report", str(folder)])
    assert found.exit_code == 0, found.output
    assert "where random's mean curve reaches 80 %" in found.output
    assert re.search(r"entropy found \d+\.\d % more than random \(95 % between", found.output)
    assert "Hypothesis: adaptive is better than random. AUBC +" in found.output
    assert str(folder / "report.html") in found.output
    assert (folder / "report.html").exists()


PATH = "paths/random-3.jsonl"


def broken(change):
    def write(folder):
        write_run(folder)
        change(folder)

    return write


def rewrite(name, old, new):
    def change(folder):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))

    return broken(change)


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (lambda folder: None, "run.json cannot be read"),
        (broken(lambda folder: shutil.rmtree(folder / "paths")), "60 of 60 rounds"),
        (broken(lambda folder: (folder / PATH).write_bytes(b"\xff")), f"{PATH} cannot be read"),
        (broken(lambda folder: (folder / "config.json").write_text("[")), "config.json: Invalid"),
        (broken(lambda folder: (folder / "run.json").write_text("{")), "run.json: Invalid JSON"),
        (rewrite("run.json", '"rounds": 4', '"rounds": 0'), "rounds: Input should be greater"),
        (rewrite("run.json", '"rounds": 4, ', ""), "rounds: Field required"),
        (rewrite(PATH, '"ece": 0.05', '"ece": NaN'), "line 1: ece"),
        (rewrite(PATH, '"known": [true, ', '"known": ['), "known must have an entry"),
        (rewrite(PATH, '"edges_px": [0, ', '"edges_px": ['), "each of the 7 edges"),
        (rewrite(PATH, '"labelled": 20', '"labelled": 10'), "must grow"),
        (rewrite(PATH, '"labelled": 20', '"labelled": 25'), "alike for all"),
    ],
)
def test_what_is_no_run_is_refused_with_a_sentence(tmp_path, write, sentence):
    folder = tmp_path / "run"
    write(folder)
    found = CliRunner().invoke(cli, ["report", str(folder)])
    assert found.exit_code == 1
    assert sentence in found.output
    assert len(found.output.strip().splitlines()) == 1
    assert not (folder / "report.html").exists()
