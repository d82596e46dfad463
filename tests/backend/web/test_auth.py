"""HTTP Basic: who passes, who is refused, and how often somebody may guess."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from werkzeug.datastructures import Authorization

from backend.settings import load_settings
from backend.web import auth as login
from backend.web.app import build_app
from backend.web.auth import ADDRESSES, GUESS_EVERY_S, GUESSES, Login, WrongLogins
from backend.workplace import Workplace
from tests.backend.workplaces import make_ledger

USER, PASSWORD = "lab", "correct-horse"


@pytest.fixture
def client(tmp_path: Path) -> Iterator[FlaskClient]:
    settings = load_settings(
        _env_file=None,
        data_dir=tmp_path,
        label_studio_url="http://studio.test",
        label_studio_api_key="0" * 40,
        basic_auth_user=USER,
        basic_auth_pass=PASSWORD,
    )
    make_ledger(settings.ledger_url)
    app = build_app(settings)
    with app.test_client() as opened:
        yield opened
    work: Workplace = app.extensions["committee"]
    work.close()


def status(client: FlaskClient, password: str | None, address: str = "10.0.0.1") -> int:
    auth = None if password is None else (USER, password)
    where = {"REMOTE_ADDR": address}
    return client.get("/versions", auth=auth, environ_base=where).status_code


def basic(user: str, password: str) -> Authorization:
    return Authorization("basic", {"username": user, "password": password})


def test_only_the_right_user_with_the_right_password_passes() -> None:
    door = Login(USER, PASSWORD)
    assert door.passes(basic(USER, PASSWORD))
    for user, password in [(USER, "x"), ("x", PASSWORD), ("", ""), (USER, PASSWORD + "x")]:
        assert not door.passes(basic(user, password))
    assert not door.passes(None)
    assert not door.passes(Authorization("bearer", token=PASSWORD))
    assert not door.passes(Authorization("basic", {}))


@pytest.mark.parametrize(
    ("user", "password"), [("x", "y"), ("x", PASSWORD), (USER, "y"), (USER, PASSWORD)]
)
def test_user_and_password_are_both_compared_whatever_the_first_says(
    user: str, password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[int] = []
    right = hmac.compare_digest

    def counted(a: bytes, b: bytes) -> bool:
        compared.extend((len(a), len(b)))
        return right(a, b)

    door = Login(USER, PASSWORD)
    monkeypatch.setattr(login.hmac, "compare_digest", counted)
    door.passes(basic(user, password))
    assert compared == [32, 32, 32, 32]  # digests: nothing tells how long the right ones are


@given(user=st.text(), password=st.text())
@hypothesis_settings(derandomize=True)
def test_no_other_text_passes(user: str, password: str) -> None:
    door = Login(USER, PASSWORD)
    assert door.passes(basic(user, password)) == ((user, password) == (USER, PASSWORD))


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Basic",
        "Basic !!!",
        "Basic /w==",
        "Basic bGFi",
        "Basic é",
        "Bearer x",
        "Digest a=b",
        "\x00",
        "é" * 9,
    ],
)
def test_a_header_that_cannot_be_read_is_a_wrong_login(client: FlaskClient, header: str) -> None:
    answer = client.get("/versions", headers={"Authorization": header})
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic")


def test_wrong_logins_are_slowed_down_with_a_sentence_and_a_time(client: FlaskClient) -> None:
    assert [status(client, f"guess {n}") for n in range(GUESSES)] == [401] * GUESSES
    answer = client.get(
        "/versions", auth=(USER, "once more"), environ_base={"REMOTE_ADDR": "10.0.0.1"}
    )
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["Retry-After"]) <= GUESS_EVERY_S
    assert answer.json["error"].endswith(" s.")  # type: ignore[index]


def test_logins_that_cannot_be_read_are_counted_as_well(client: FlaskClient) -> None:
    headers = {"Authorization": "Basic \xff"}
    answers = [client.get("/versions", headers=headers).status_code for _ in range(GUESSES + 1)]
    assert answers == [401] * GUESSES + [429]


def test_the_right_password_passes_whatever_came_before_it(client: FlaskClient) -> None:
    for n in range(5 * GUESSES):
        status(client, f"guess {n}")
        assert status(client, PASSWORD) == 200
    assert status(client, "one more guess") == 429


def test_one_address_does_not_slow_down_another(client: FlaskClient) -> None:
    for n in range(2 * GUESSES):
        status(client, f"guess {n}")
    assert status(client, "guess", "10.0.0.1") == 429
    assert status(client, "guess", "10.0.0.2") == 401


def test_a_request_without_a_login_is_no_guess(client: FlaskClient) -> None:
    """Label Studio's own webhook carries no header until `connect` has mended it."""
    assert {status(client, None) for _ in range(5 * GUESSES)} == {401}


def test_the_log_holds_no_more_lines_than_guesses_and_no_password(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        for _ in range(5 * GUESSES):
            status(client, "sesame")
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["a wrong user or password from 10.0.0.1"] * GUESSES


def test_a_guess_comes_back_in_time_and_never_more_than_there_were() -> None:
    wrong = WrongLogins()
    assert all(wrong.count("a", 0.0) == 0 for _ in range(GUESSES))
    assert wrong.count("a", 0.0) == GUESS_EVERY_S
    assert wrong.count("a", GUESS_EVERY_S / 2) == GUESS_EVERY_S / 2
    assert wrong.count("a", GUESS_EVERY_S) == 0
    assert wrong.count("a", GUESS_EVERY_S) > 0
    assert [wrong.count("a", 1e9) > 0 for _ in range(GUESSES + 1)] == [False] * GUESSES + [True]


def test_the_addresses_kept_are_bounded_and_the_oldest_goes_first() -> None:
    wrong = WrongLogins()
    for _ in range(GUESSES):
        wrong.count("first", 0.0)
    for number in range(ADDRESSES - 1):
        wrong.count(f"other {number}", 0.0)
    assert (len(wrong), wrong.count("first", 0.0) > 0) == (ADDRESSES, True)
    for number in range(3 * ADDRESSES):
        wrong.count(f"another {number}", 0.0)
    assert (len(wrong), wrong.count("first", 0.0)) == (ADDRESSES, 0)


def test_one_client_of_ipv6_has_a_whole_network_and_counts_once() -> None:
    wrong = WrongLogins()
    for number in range(GUESSES):
        wrong.count(f"2001:db8::{number:x}", 0.0)
    assert wrong.count("2001:db8::ffff", 0.0) > 0
    assert wrong.count("2001:db8:0:1::1", 0.0) == 0
    for _ in range(GUESSES):
        wrong.count("::ffff:10.0.0.1", 0.0)
    assert wrong.count("10.0.0.1", 0.0) > 0
    assert wrong.count("", 0.0) == 0  # a Unix socket's client
