"""What can be done on the dashboard: asked once, by who may, from there, and written down."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from werkzeug.test import TestResponse

from backend.actions.named import ACTIONS
from backend.errors import BadRequest
from backend.ledger import Action
from backend.web.dashboard import version_routes
from backend.workplace import Workplace
from tests.backend.web.dashboard.conftest import OWNER, PROXY, VIEWER, Page
from tests.backend.web.dashboard.filled import MARKUP, NUMBER, begin_round, fill
from training.committee.store.store import StoreUnavailable

HOME = f"/projects/{NUMBER}"
SHEET = b"\x89PNG of a sheet"


def keep_files(work: Workplace, slug: str, *numbers: int) -> None:
    """Versions whose files are there, as far as a page asks."""
    for number in numbers:
        folder = work.settings.registry_path / slug / "versions" / str(number)
        folder.mkdir(parents=True)
        files = {"contact-sheet.png": hashlib.sha256(SHEET).hexdigest()}
        (folder / "version.json").write_text(json.dumps({"version": number, "files": files}))
        (folder / "contact-sheet.png").write_bytes(SHEET)


def token_of(text: str) -> str:
    found = re.search(r'name="token" value="([^"]+)"', text)
    assert found is not None, text
    return found[1]


def act(pages: Page, path: str, login: tuple[str, str] = OWNER, **fields: object) -> TestResponse:
    """Ask as a person does: by the form of the page that asks once more."""
    version = f"?version={fields['version']}" if "version" in fields else ""
    token = token_of(pages.text(f"{HOME}/do/{path}{version}"))
    data = {"token": token, **fields}
    return pages.client.post(f"{HOME}/do/{path}", auth=login, data=data)


def written(pages: Page) -> list[Action]:
    row = pages.work.ledger.projects.of_studio(pages.work.server, NUMBER)
    return pages.work.ledger.actions.newest(row.id, 10)


def events(pages: Page) -> list[str]:
    row = pages.work.ledger.projects.of_studio(pages.work.server, NUMBER)
    return [event.action for event in pages.work.ledger.events.pending(row.id)]


def test_a_round_is_asked_for_once_and_written_down(pages: Page) -> None:
    fill(pages.work)
    asked = pages.text(f"{HOME}/do/retrain")
    assert "Yes: train now" in asked
    assert events(pages) == []
    answer = act(pages, "retrain")
    assert (answer.status_code, answer.location) == (303, f"{HOME}/versions#done")
    assert events(pages) == ["RETRAIN"]
    (done,) = written(pages)
    assert (done.what, done.who, done.login, done.version) == ("retrain", "owner", "owner", None)
    assert done.outcome == "A round was asked for, and no worker is alive to run it."
    assert "no worker is alive to run it" in pages.text(f"{HOME}/versions")


def test_the_person_whom_a_named_proxy_tells_of_is_written_down(pages: Page) -> None:
    fill(pages.work)
    behind = {
        "auth": OWNER,
        "headers": {"X-Forwarded-User": MARKUP},
        "environ_base": {"REMOTE_ADDR": PROXY},
    }
    text = pages.client.get(f"{HOME}/do/pause", **behind).text
    data = {"token": token_of(text)}
    assert pages.client.post(f"{HOME}/do/pause", data=data, **behind).status_code == 303
    (done,) = written(pages)
    assert (done.who, done.login) == (MARKUP, "owner")
    assert MARKUP not in pages.text(f"{HOME}/versions")


def test_rounds_are_paused_and_resumed(pages: Page) -> None:
    row = fill(pages.work)
    assert act(pages, "pause").status_code == 303
    assert pages.work.ledger.projects.get(row.id).paused
    assert f'href="{HOME}/do/resume"' in pages.text(f"{HOME}/versions")
    assert act(pages, "resume").status_code == 303
    assert not pages.work.ledger.projects.get(row.id).paused
    assert [each.what for each in written(pages)] == ["resume", "pause"]


def test_an_earlier_version_is_used_again(pages: Page) -> None:
    row = fill(pages.work)
    keep_files(pages.work, row.slug, 7, 8)
    assert f'href="{HOME}/do/rollback?version=7"' in pages.text(f"{HOME}/versions")
    assert act(pages, "rollback", version=7).status_code == 303
    assert pages.work.ledger.versions.promoted_numbers(row.id)[0] == 7
    (done,) = written(pages)
    assert (done.what, done.version) == ("rollback", 7)
    assert done.outcome is not None
    assert "Withdrawn: 8." in done.outcome


def test_a_withdrawn_version_is_used_again(pages: Page) -> None:
    row = fill(pages.work)
    keep_files(pages.work, row.slug, 7, 8)
    pages.work.ledger.versions.set_state(row.id, 8, "withdrawn", "rolled back to version 7")
    assert f'href="{HOME}/do/promote?version=8"' in pages.text(f"{HOME}/versions")
    assert act(pages, "promote", version=8).status_code == 303
    assert pages.work.ledger.versions.promoted_numbers(row.id)[0] == 8
    started = pages.work.ledger.rounds.active(row.id)
    assert started is not None
    assert (started.kind, started.reason) == ("rank", "version 8 was promoted by hand")


@pytest.mark.parametrize(
    ("name", "version", "sentence"),
    [
        ("rollback", 2, "The files of version 2"),
        ("rollback", 99, "has no version 99"),
        ("promote", 7, "Version 7 is older than 8, in use now"),
        ("promote", 8, "Version 8 is in use already"),
    ],
)
def test_what_cannot_be_done_is_said_and_written_down_too(
    pages: Page, name: str, version: int, sentence: str
) -> None:
    row = fill(pages.work)
    keep_files(pages.work, row.slug, 7, 8)
    answer = act(pages, name, version=version)
    assert answer.status_code == BadRequest.status
    assert sentence in answer.text
    (done,) = written(pages)
    assert done.outcome is not None
    assert done.outcome.startswith("Refused: ")
    assert pages.work.ledger.versions.promoted_numbers(row.id)[0] == 8


@pytest.mark.parametrize(
    ("error", "status", "outcome"),
    [
        (StoreUnavailable("the object store is away"), 503, "Refused: the object store is away"),
        (ZeroDivisionError(), 500, "It failed; the web's log says why."),
    ],
)
def test_what_fails_halfway_is_written_down_as_such(
    pages: Page, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, outcome: str
) -> None:
    def fail(*_: object) -> str:
        raise error

    fill(pages.work)
    broken = {**ACTIONS, "retrain": replace(ACTIONS["retrain"], run=fail)}
    monkeypatch.setattr(version_routes, "ACTIONS", broken)
    assert act(pages, "retrain").status_code == status
    assert [each.outcome for each in written(pages)] == [outcome]


def test_no_version_is_changed_while_a_round_runs(pages: Page) -> None:
    row = fill(pages.work)
    keep_files(pages.work, row.slug, 7, 8)
    begin_round(pages.work.ledger, row.id)
    assert "is under way: try again when it has ended" in act(pages, "rollback", version=7).text


def test_the_login_that_may_only_read_cannot_act(pages: Page) -> None:
    row = fill(pages.work)
    keep_files(pages.work, row.slug, 7, 8)
    for path in (f"{HOME}/versions", f"{HOME}/do/retrain"):
        text = pages.text(path, VIEWER)
        assert 'method="post"' not in text
        assert 'class="button" href="/projects/7/do' not in text
    token = token_of(pages.text(f"{HOME}/do/retrain"))
    answer = pages.client.post(f"{HOME}/do/retrain", auth=VIEWER, data={"token": token})
    assert (answer.status_code, answer.mimetype) == (403, "text/html")
    assert "may only read" in answer.text
    assert (events(pages), written(pages)) == ([], [])


def test_without_the_token_of_this_very_form_nothing_is_done(pages: Page) -> None:
    row = fill(pages.work)
    keep_files(pages.work, row.slug, 6, 7, 8)
    other = token_of(pages.text(f"{HOME}/do/rollback?version=6"))
    for fields in ({}, {"token": ""}, {"token": other}, {"token": "1.2"}):
        data = {"version": 7, **fields}
        answer = pages.client.post(f"{HOME}/do/rollback", auth=OWNER, data=data)
        assert answer.status_code == 403
    assert pages.work.ledger.versions.promoted_numbers(row.id)[0] == 8
    assert written(pages) == []


def test_a_get_changes_nothing(pages: Page) -> None:
    fill(pages.work)
    pages.text(f"{HOME}/do/retrain?token=x")
    assert (events(pages), written(pages)) == ([], [])


@pytest.mark.parametrize("path", ["do/none", "do/rollback", "do/rollback?version=x"])
def test_what_is_no_action_is_refused(pages: Page, path: str) -> None:
    fill(pages.work)
    status = 404 if path == "do/none" else 400
    assert pages.text(f"{HOME}/{path}", status=status)


def test_a_form_larger_than_any_of_ours_is_not_read(pages: Page) -> None:
    fill(pages.work)
    data = {"token": "x" * 100_000}
    assert pages.client.post(f"{HOME}/do/retrain", auth=OWNER, data=data).status_code == 413


def test_versions_are_listed_with_their_fate_and_their_picture(pages: Page) -> None:
    row = fill(pages.work)
    keep_files(pages.work, row.slug, 8)
    text = pages.text(f"{HOME}/versions")
    assert "Version 8 orders the images" in text
    assert text.count("Its files are missing.") == 7
    assert "not good enough" in text
    answer = pages.client.get(f"{HOME}/versions/8/sheet.png", auth=VIEWER)
    assert (answer.data, answer.mimetype) == (SHEET, "image/png")
    assert pages.client.get(f"{HOME}/versions/7/sheet.png", auth=VIEWER).status_code == 400


def test_two_versions_are_compared_on_the_images_that_both_were_judged_on(pages: Page) -> None:
    fill(pages.work)
    text = pages.text(f"{HOME}/versions/compare?left=2&right=8")
    assert "On the 20 labelled images that both were judged on" in text
    assert "Leucocyte" in text
    assert MARKUP not in text
    assert "has no version 99" in pages.text(f"{HOME}/versions/compare?left=2&right=99", status=400)


def test_a_purged_project_takes_its_record_along(pages: Page, tmp_path: Path) -> None:
    row = fill(pages.work, rounds=0)
    act(pages, "pause")
    pages.work.ledger.projects.forget(row.id)
    assert pages.work.ledger.actions.newest(row.id, 10) == []
