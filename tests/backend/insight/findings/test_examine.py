"""The doctor as a whole, and its words."""

from __future__ import annotations

import json
from pathlib import Path

from backend.insight import findings as package
from backend.insight.findings.case import shown_address
from backend.insight.findings.checks import FIXES
from backend.insight.findings.connection import EVENTS
from backend.insight.findings.examine import apply_fix, examine
from backend.insight.findings.finding import Finding
from backend.insight.findings.labels import CHECKED_IMAGES, _sample
from backend.insight.findings.text import describe_findings
from backend.label_studio.webhook_events import OF_ANNOTATIONS, OF_TASKS
from backend.workplace import Workplace
from tests.backend.insight.findings.fake_web import API_KEY, PASSWORD, codes


def test_with_everything_away_each_is_named_and_no_secret_shown(work: Workplace):
    found = examine(work)
    shown = codes(found)
    for code in ("studio-unreachable", "web-unreachable", "redis-away", "workers-silent"):
        assert shown[code] == "error"
    text = describe_findings(found) + json.dumps([f.to_json() for f in found])
    for secret in (API_KEY, PASSWORD, "secret-8732"):
        assert secret not in text


def test_what_cannot_be_fixed_says_what_to_do(work: Workplace):
    finding = Finding("overlap", "warning", 3, "Twice each.", "Set it to 1.")
    assert apply_fix(work, finding) == "overlap cannot be fixed from here. Set it to 1."


def test_a_fix_that_fails_is_explained(work: Workplace):
    finding = Finding("webhook-missing", "error", 3, "None.", "Connect.", fixable=True)
    assert apply_fix(work, finding).startswith("webhook-missing could not be fixed: Label")


def test_the_text_puts_the_worst_first_and_counts():
    findings = [
        Finding("studio", "ok", None, "It answers."),
        Finding("locks", "ok", 2, "A lock lasts."),
        Finding("overlap", "warning", 2, "Twice each.", "Set it to 1."),
        Finding("order-random", "error", 2, "At random.", "Run --fix.", fixable=True),
    ]
    assert describe_findings(findings).splitlines() == [
        "This installation",
        "  ok      It answers.",
        "Project 2",
        "  ERROR   At random.",
        "          -> Run --fix. [order-random]",
        "  warning Twice each.",
        "          -> Set it to 1. [overlap]",
        "  ok      A lock lasts.",
        "1 error, 1 warning; `doctor --fix` fixes 1 of them.",
    ]
    assert describe_findings(findings[:2]).splitlines()[-1] == "All is well."


def test_the_webhook_must_bring_what_the_model_acts_on():
    assert OF_ANNOTATIONS | OF_TASKS | {"PROJECT_UPDATED"} == EVENTS


def test_each_place_of_images_is_tried_and_the_choice_is_the_same_each_time():
    urls = [f"/data/upload/1/{i}.png" for i in range(50)] + ["https://a.test/x/1.png"]
    urls += [f"http://b.test/{i}.png" for i in range(3)]
    chosen = _sample(urls)
    assert chosen == _sample(urls)
    assert len(chosen) == len(set(chosen)) == CHECKED_IMAGES
    assert {"/data/upload/1/0.png", "https://a.test/x/1.png"} <= set(chosen)
    assert "http://b.test/0.png" in chosen
    assert set(_sample(urls[:2])) == set(urls[:2])
    assert _sample([]) == []


def test_an_address_is_shown_without_its_password():
    assert shown_address("http://me:pw@b.test:1/x?key=1") == "http://b.test:1/x"


def test_every_code_that_can_be_fixed_is_one_that_is_found():
    folder = Path(package.__file__).parent
    source = "".join(path.read_text() for path in folder.glob("*.py"))
    for code in FIXES:
        assert source.count(f'"{code}"') >= 2, code


def test_a_finding_in_json_has_the_keys_that_scripts_read():
    finding = Finding("overlap", "warning", 3, "Twice each.", "Set it to 1.")
    assert finding.to_json() == {
        "code": "overlap",
        "severity": "warning",
        "project": 3,
        "what": "Twice each.",
        "mend": "Set it to 1.",
        "fixable": False,
    }
