"""Who gets in, what a form's token is bound to, and what each login cannot reach."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from backend.settings import Settings
from backend.web.app import body_limit
from backend.web.dashboard.access import FORM_S, Access, Visitor
from backend.web.dashboard.version_routes import FORM_BYTES
from tests.backend.web.dashboard.conftest import OWNER, VIEWER, Page
from tests.backend.web.dashboard.filled import NUMBER, fill
from tests.backend.workplaces import PASSWORD, USER, make_settings, open_client

NOW = 1_800_000_000.0
SOMEBODY = Visitor("owner", "ada", True)


def header(login: tuple[str, str]) -> str:
    return "Basic " + base64.b64encode(":".join(login).encode()).decode()


@pytest.fixture
def access(settings: Settings) -> Access:
    found = Access.of(settings)
    assert found is not None
    return found


def test_each_half_of_the_web_is_closed_to_the_logins_of_the_other(pages: Page) -> None:
    labels = (USER, PASSWORD)
    for path in ("/", f"/projects/{NUMBER}/", "/static/x", "/projects/none"):
        assert pages.client.get(path).status_code == 401
        answer = pages.client.get(path, auth=labels)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith('Basic realm="Committee dashboard"')
        assert answer.mimetype == "text/html"
    for login in (OWNER, VIEWER):
        assert pages.client.get("/versions", auth=login).status_code == 401
        assert pages.client.post("/webhook", auth=login, json={}).status_code == 401
    assert pages.client.get("/versions", auth=labels).status_code == 200


def test_a_stranger_is_told_nothing_that_asks_for_the_login_again(pages: Page) -> None:
    text = pages.client.get("/").text
    assert "href" not in text
    assert "src" not in text


def test_who_guesses_is_slowed_down_there_too(pages: Page) -> None:
    codes = [pages.client.get("/", auth=("owner", "wrong")).status_code for _ in range(12)]
    assert (codes[0], codes[-1]) == (401, 429)
    assert pages.client.get("/", auth=OWNER).status_code == 200


def test_without_a_password_of_its_own_there_is_no_dashboard(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    assert Access.of(settings) is None
    assert "DASHBOARD_PASS" in settings.describe_dashboard()
    with open_client(settings) as client:
        assert client.get("/", auth=(USER, PASSWORD)).status_code == 404
        assert client.get("/", auth=("owner", "")).status_code == 401


def test_a_login_that_may_only_read_can_be_the_only_one(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, dashboard_viewer_pass=VIEWER[1])
    access = Access.of(settings)
    assert access is not None
    assert access.visitor(header(VIEWER)) == Visitor("viewer", "viewer", False)
    assert access.visitor(header(("owner", ""))) is None
    assert settings.describe_dashboard().endswith("for the login viewer.")


def test_only_a_proxy_that_is_named_tells_who_somebody_is(tmp_path: Path) -> None:
    given = {"dashboard_pass": OWNER[1], "dashboard_proxies": "10.0.0.5"}
    access = Access.of(make_settings(tmp_path, **given))
    assert access is not None
    found = access.visitor(header(OWNER), "10.0.0.5", " ada ")
    assert found == Visitor("owner", "ada", True)
    other = access.visitor(header(OWNER), "10.0.0.6", " ada ")
    assert other == Visitor("owner", "owner", True)
    assert access.visitor("", "10.0.0.5", " ada ") is None
    # As a socket for IPv4 and IPv6 shows the address, and WSGI the bytes of UTF-8.
    latin = "Jürgen".encode().decode("latin-1")
    for sent in (latin, "Jürgen"):
        found = access.visitor(header(OWNER), "::ffff:10.0.0.5", sent)
        assert found == Visitor("owner", "Jürgen", True)


def test_a_token_opens_one_form_for_one_visitor_for_a_while(access: Access) -> None:
    token = access.token(SOMEBODY, "7 retrain", NOW)
    assert access.allows(SOMEBODY, "7 retrain", token, NOW + 60)
    assert not access.allows(SOMEBODY, "7 retrain", token, NOW + FORM_S + 1)
    assert not access.allows(SOMEBODY, "7 pause", token, NOW)
    assert not access.allows(Visitor("viewer", "ada", False), "7 retrain", token, NOW)
    assert not access.allows(Visitor("owner", "eve", True), "7 retrain", token, NOW)


@pytest.mark.parametrize("token", ["", ".", "1.2", "x.y", f"{'9' * 5000}.x", "１.x", "-5.x"])
def test_what_is_no_token_opens_nothing(access: Access, token: str) -> None:
    assert not access.allows(SOMEBODY, "7 retrain", token, NOW)


def test_a_body_is_read_of_a_login_alone_and_is_small(settings: Settings) -> None:
    limit = body_limit(settings)
    assert limit("/projects/7/retrain", header(OWNER)) == FORM_BYTES
    assert limit("/projects/7/retrain", header((USER, PASSWORD))) == 0
    assert limit("/predict", header(OWNER)) == 0


def test_a_page_of_another_site_is_refused_as_a_page(pages: Page) -> None:
    fill(pages.work, rounds=0)
    headers = {"Origin": "https://elsewhere.example", "Sec-Fetch-Site": "cross-site"}
    answer = pages.client.post(f"/projects/{NUMBER}/retrain", auth=OWNER, headers=headers)
    assert (answer.status_code, answer.mimetype) == (403, "text/html")
