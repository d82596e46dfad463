"""What the pages say, on a ledger with markup in every text that people choose."""

from __future__ import annotations

import re

import pytest

from backend.insight.class_list import class_list
from backend.web.dashboard import background
from backend.web.dashboard.curves import reliability_chart
from backend.web.dashboard.words import coded
from tests.backend.web.dashboard.conftest import OWNER, VIEWER, Page
from tests.backend.web.dashboard.filled import CLASSES, MARKUP, NUMBER, begin_round, fill
from tests.limits import wait_until

HOME = f"/projects/{NUMBER}/"


def test_a_single_project_is_the_first_page(pages: Page) -> None:
    assert "No project is connected yet" in pages.text("/")
    fill(pages.work, rounds=0)
    answer = pages.client.get("/", auth=OWNER)
    assert (answer.status_code, answer.location) == (302, HOME)


def test_of_several_projects_each_says_what_to_do(pages: Page) -> None:
    fill(pages.work)
    server = pages.work.server
    pages.work.ledger.projects.ensure(server, 8, 1, title="Blood", label_config="")
    pages.work.ledger.projects.ensure(server, 9, 1)  # only a /setup has named it
    text = pages.text("/")
    assert text.count("No worker is alive, so nothing trains") == 2
    assert "Blood" in text
    assert "/projects/9/" not in text


def test_the_page_says_in_a_sentence_what_to_do(pages: Page) -> None:
    row = fill(pages.work)
    pages.work.ledger.processes.beat("w", "worker", "", "host", 1)
    assert "Label 4 more images, and the next round starts." in pages.text(HOME)
    begin_round(pages.work.ledger, row.id)
    text = pages.text(HOME)
    assert re.search(r"Round 9 learns from the labels \(training now, about .* left\)", text)
    assert re.search(r"half of such estimates were off by less than \d+%", text)
    assert f'data-refresh="{3}"' in text
    assert 'aria-label="training"' in text


def test_what_stands_between_backticks_is_code_and_nothing_else_is_markup() -> None:
    assert coded("a <b> `c <d>` e") == "a &lt;b&gt; <code>c &lt;d&gt;</code> e"
    assert coded("one ` <b>") == "one ` &lt;b&gt;"


def test_the_first_round_has_no_estimate(pages: Page) -> None:
    row = fill(pages.work, rounds=0)
    assert "No round has run yet." in pages.text(HOME)
    begin_round(pages.work.ledger, row.id, progress=0.0)
    assert "No estimate of its end yet" in pages.text(HOME)


def test_the_doctors_findings_of_this_project_are_shown_with_their_fix(pages: Page) -> None:
    fill(pages.work)
    pages.text(HOME)
    wait_until(lambda: "Rename it." in pages.text(HOME), 10, "the doctor")
    text = pages.text(HOME)
    assert "The ledger is sound." in text
    assert "Another project" not in text


def test_the_doctor_runs_again_only_when_asked_or_after_long(
    pages: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(pages.work)
    pages.text(HOME)
    wait_until(lambda: "Rename it." in pages.text(HOME), 10, "the doctor")
    monkeypatch.setattr(background, "DOCTOR_AGAIN_S", 0.0)
    kept = pages.work.settings.data_dir / "doctor.json"
    kept.write_text(kept.read_text().replace("Rename it.", "An older answer."))
    assert "An older answer." in pages.text(HOME)
    pages.text(f"{HOME}?look")
    wait_until(lambda: "Rename it." in pages.text(HOME), 10, "the doctor, asked again")


def test_a_doctor_that_fails_is_no_failure_of_the_page(pages: Page) -> None:
    def fail() -> background.Findings:
        raise OSError("no memory")

    watch = background.DoctorWatch(pages.work.settings.data_dir, fail)
    watch.report()
    wait_until(lambda: not watch.report().running, 10, "the doctor")
    assert watch.report().problem == "The doctor could not run (OSError); see the log."


def test_no_text_that_people_choose_becomes_markup(pages: Page) -> None:
    row = fill(pages.work, last_error=f"No image {MARKUP}")
    begin_round(pages.work.ledger, row.id)
    pages.text(HOME)
    wait_until(lambda: "Rename it." in pages.text(HOME), 10, "the doctor")
    for path in PATHS:
        text = pages.text(path)
        assert "<script>alert" not in text
        assert "&lt;script&gt;alert" in text
        assert "&amp;amp;" in text  # an ampersand of a name stays one


def test_every_page_allows_no_script_but_ours_and_is_not_kept(pages: Page) -> None:
    fill(pages.work)
    for path in ("/projects/none", *PATHS):
        answer = pages.client.get(path, auth=VIEWER)
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        assert answer.headers["Cache-Control"] == "no-store"
        assert "style=" not in answer.text
        assert "http-equiv" not in answer.text
        assert not re.search(r"<script(?! src=\"/static/)", answer.text)


def test_files_are_kept_for_long_under_a_name_that_changes_with_them(pages: Page) -> None:
    text = pages.text("/")
    urls = re.findall(r'(?:href|src)="(/static/[^"]+)"', text)
    assert len(urls) == 3
    for url in urls:
        answer = pages.client.get(url, auth=OWNER)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["Cache-Control"]
    assert pages.client.get("/static/dashboard.css", auth=OWNER).status_code == 404


def test_the_weakest_class_is_named_and_its_confidence_drawn(pages: Page) -> None:
    row = fill(pages.work, rounds=0)
    assert "nothing is known of the classes" in pages.text(f"{HOME}classes")
    fill(pages.work)
    text = pages.text(f"{HOME}classes")
    assert "Cast is what the committee knows least" in text
    assert "learnt from 8 images" in text
    assert (
        "differs by 2.0 points from how often it is right; without calibration it would be" in text
    )
    version = pages.work.ledger.versions.promoted(row.id)
    assert version is not None
    found = class_list(version)
    assert [each.name for each in found.classes] == [CLASSES[3], CLASSES[2], CLASSES[1]]
    assert found.classes[0].audit is not None
    version.metrics = {}
    empty = class_list(version)
    assert {(each.images, each.iou, each.audit) for each in empty.classes} == {(None, None, None)}
    assert reliability_chart(empty) is None


def test_an_error_is_a_page_with_a_sentence(pages: Page) -> None:
    text = pages.text("/projects/99/", status=404)
    assert "Project 99" in text
    assert "is not connected" in text
    for path in ("/projects/none", f"/projects/{10**30}/", f"{HOME}queue/{10**30}"):
        assert "Nothing is kept at this address" in pages.text(path, status=404)


PATHS = (
    HOME,
    f"{HOME}versions",
    f"{HOME}do/pause",
    f"{HOME}versions/compare?left=7&right=8",
    f"{HOME}learning",
    f"{HOME}measures",
    f"{HOME}queue",
    f"{HOME}classes",
    f"{HOME}queue/3",
    f"{HOME}labels",
)
"""Every page of a project."""
