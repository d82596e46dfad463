"""The extra parameters of a connection."""

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acquisition.adaptive import ARMS
from acquisition.aggregate import AGGREGATES
from acquisition.uncertainty import MEASURES
from backend import options
from backend.errors import BadOptions
from backend.options import ProjectOptions, fixed_arm, options_table, parse_options
from training.config import NETWORKS


@pytest.mark.parametrize("nothing", [None, "", "  ", {}, "{}", '"{}"', "null", '""'])
def test_without_extra_parameters_all_is_default(nothing: Any) -> None:
    assert parse_options(nothing) == ProjectOptions()


CHOSEN = {"mode": "leader", "members": 3, "audit_fraction": 0, "regions": "particle"}


@pytest.mark.parametrize("given", [CHOSEN, json.dumps(CHOSEN), json.dumps(json.dumps(CHOSEN))])
def test_an_object_may_come_quoted_once_or_twice(given: Any) -> None:
    read = parse_options(given)
    assert (read.mode, read.members, read.regions) == ("leader", 3, "particle")
    assert read.audit_fraction == 0
    assert read.min_particle_px == 12


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"members": 0}, "The option members must be an integer from 1 to 20, got 0."),
        ({"members": "5"}, 'The option members must be an integer from 1 to 20, got "5".'),
        ({"members": True}, "The option members must be an integer from 1 to 20, got true."),
        ({"steps": 1.5}, "The option steps must be an integer from 1 to 100000, got 1.5."),
        (
            {"unlabelled": "ignore"},
            'The option unlabelled must be "background" or "unknown", got "ignore".',
        ),
        (
            {"audit_fraction": 0.6},
            "The option audit_fraction must be a number from 0 to 0.5, got 0.6.",
        ),
        (
            {"max_side_px": 128},
            "The option max_side_px must be an integer from 256 to 4096, got 128.",
        ),
        ({"unknown_label": ""}, 'The option unknown_label must be the name of a label, got "".'),
    ],
)
def test_a_wrong_value_is_refused_in_one_sentence(given: Any, says: str) -> None:
    with pytest.raises(BadOptions) as refusal:
        parse_options(given)
    assert str(refusal.value) == says


@pytest.mark.parametrize(
    ("given", "numbers"), [("2", (2,)), ("1,3,2", (1, 3, 2)), (" 1 , 12 ", (1, 12)), (None, None)]
)
def test_channels_are_numbers_with_commas(given: Any, numbers: Any) -> None:
    assert parse_options({"channels": given}).channel_numbers == numbers


NO_NAME: list[Any] = ["", 1, True, [], {"name": "image"}]
NO_COUNT: list[Any] = [0, -1, 1.5, "5", True, [1], {}, float("inf"), float("nan")]
NULL: list[Any] = [None]
"""Wrong only where the option has a default of its own: elsewhere null means that one."""

WRONG: dict[str, list[Any]] = {
    "image": NO_NAME,
    "mode": [*NULL, "", "Hedge", "fixed:", "fixed:entropy", 1, True, [], {"mode": "hedge"}],
    "regions": ["", "Class", "polygon", 1, True, ["class"]],
    "min_particle_px": [*NULL, *NO_COUNT, 10**6 + 1],
    "split_touching": ["", "Cell", 1, True, [1], [""], {"Cell": 1}],
    "unlabelled": [*NULL, "", "ignore", 0, False],
    "unknown_label": NO_NAME,
    "aliases": ["", "Cell", 1, True, [], ["Cell"], {"Cell": 1}, {"": "Cell"}, {"Cell": ""}],
    "retrain_every": [*NO_COUNT, 10**6 + 1],
    "members": [*NO_COUNT, 21, 10**30],
    "candidates": [*NO_COUNT, 10**6 + 1],
    "queue_length": [*NO_COUNT, 10**6 + 1],
    "keep_versions": [*NULL, *NO_COUNT, 10**6 + 1],
    "steps": [*NO_COUNT, 10**5 + 1, 10**15],
    "max_side_px": [*NULL, *NO_COUNT, 255, 4097],
    "group_by": NO_NAME,
    "audit_fraction": [*NULL, -0.01, 0.51, "0.1", True, [0.1], float("nan"), float("inf")],
    "channels": ["", "0", "1,2,3,4", "1;2", "-1", "1,", "red", "1.5", "12345", 2, True, [1, 2]],
    "seed": [*NULL, -1, 2**31, 1.5, "0", True],
    "network": ["", "resnet", "Shared", "lab.net:make", 1, True, ["unet"]],
}


def test_every_option_has_wrong_values_tested_here() -> None:
    assert set(WRONG) == set(ProjectOptions.model_fields)


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_a_wrong_value_is_refused_by_name_with_what_was_expected_and_what_came(
    name: str, value: Any
) -> None:
    extra = ProjectOptions.model_fields[name].json_schema_extra
    assert isinstance(extra, dict)
    said = refusal_of({name: value})
    assert said is not None
    assert said.startswith(f"The option {name} must be {extra['expected']}, got ")
    came = json.dumps(value) if not isinstance(value, dict | list) else repr(value)
    assert said.endswith(f", got {came}.")
    # The text of a form says the same, unless JSON cannot hold the value.
    if value == value and value not in (float("inf"), 10**30):
        assert refusal_of(json.dumps({name: value})) == said


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"arch": "unet"}, 'The options are image, mode, .*; got "arch"'),
        ("{", "must be a JSON object, got text that is no JSON"),
        ("[1]", r"must be a JSON object, got \[1\]"),
        (7, "must be a JSON object, got 7"),
        ({1: 2}, "names of options must be text, got 1"),
        ('{"audit_fraction": NaN}', "no JSON"),
        ({"audit_fraction": float("nan")}, "audit_fraction must be a number from 0 to 0.5"),
        ("[" * 100_000, "no JSON"),
        ({"image": "x" * 500, "seed": -1}, "The option seed must be an integer from 0"),
        ({"mode": "x" * 500}, r'got "x{79}\.\.\.\.$'),
    ],
)
def test_what_is_no_set_of_options_is_refused(given: Any, says: str) -> None:
    with pytest.raises(BadOptions, match=says):
        parse_options(given)


def test_each_of_several_wrong_values_has_its_sentence() -> None:
    with pytest.raises(BadOptions) as refusal:
        parse_options({"members": 0, "steps": -1})
    assert str(refusal.value).count("The option ") == 2


def refusal_of(value: Any) -> str | None:
    """What is said against a value, or None if it is taken."""
    try:
        parse_options(value)
    except BadOptions as error:
        return str(error)
    return None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,  # more only take longer to make
    )
)
@settings(derandomize=True)
def test_anything_is_read_or_refused(value: Any) -> None:
    said = refusal_of(value)
    assert said is None or said.endswith(".")


@given(st.sampled_from(sorted(ProjectOptions.model_fields)), st.integers() | st.floats())
@settings(derandomize=True)
def test_any_number_for_any_option_is_taken_or_refused(name: str, value: float) -> None:
    said = refusal_of({name: value})
    if said is None:
        assert getattr(parse_options({name: value}), name) == value
    else:
        assert f"The option {name} must be" in said


def test_the_names_are_those_of_the_parts_that_use_them() -> None:
    assert (tuple(MEASURES), tuple(AGGREGATES)) == (options.MEASURES, options.AGGREGATES)
    for name in NETWORKS:
        assert parse_options({"network": name}).network == name
    row = next(row for row in options_table() if row[0] == "network")
    assert [part.strip(', "') for part in row[1].replace(" or ", ", ").split(",")] == list(NETWORKS)


@pytest.mark.parametrize("mode", ["hedge", "leader", "random"])
def test_a_mode_that_weighs_names_no_arm(mode: str) -> None:
    assert fixed_arm(parse_options({"mode": mode}).mode) is None


def test_a_fixed_mode_names_any_arm_and_a_measure_alone_the_usual_aggregate() -> None:
    for arm in ARMS:
        assert fixed_arm(parse_options({"mode": f"fixed:{arm}"}).mode) == arm
    for measure in MEASURES:
        assert fixed_arm(f"fixed:{measure}") == f"{measure}/top_quantile_mean"


@pytest.mark.parametrize(
    "mode",
    [
        "",
        "Hedge",
        "fixed",
        "fixed:",
        "fixed:entropy",
        "fixed:mutual_information/",
        "fixed:mutual_information/mean",
        "fixed:mutual_information/image_mean/x",
        "mutual_information",
        " hedge",
    ],
)
def test_a_wrong_mode_is_told_all_that_may_stand_there(mode: str) -> None:
    with pytest.raises(BadOptions) as refusal:
        parse_options({"mode": mode})
    said = str(refusal.value)
    assert said.startswith('The option mode must be "hedge", "leader", "random", "fixed:MEASURE"')
    assert all(name in said for name in (*MEASURES, *AGGREGATES))
    assert said.endswith(f', got "{mode}".')


def test_the_table_tells_all_of_every_option() -> None:
    table = options_table()
    assert [row[0] for row in table] == list(ProjectOptions.model_fields)
    assert all(part and part != "None" for row in table for part in row)


def test_options_labels_and_regions_import_without_torch() -> None:
    code = "import sys, backend.options, backend.label_studio.regions as _"
    code += "; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
