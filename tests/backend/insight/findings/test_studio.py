"""The checks of Label Studio itself."""

from __future__ import annotations

from email.utils import formatdate
from pathlib import Path

import pytest

from backend.insight.findings.studio import (
    TESTED,
    check_label_studio,
    clock_findings,
    release_finding,
    signup_findings,
)
from backend.workplace import Workplace
from tests.backend.host import Host, body
from tests.backend.insight.findings.fake_web import MakeSettings


@pytest.mark.parametrize(
    ("release", "code"),
    [
        ("1.23.2", "studio"),
        ("1.23.0.post1", "studio"),
        ("1.22.9", "studio-version-old"),
        ("0.9", "studio-version-old"),
        ("1.24.0", "studio-version-unknown"),
        ("2.0", "studio-version-unknown"),
        ("develop", "studio-version-unknown"),
        ("", "studio-version-unknown"),
    ],
)
def test_each_release_is_known_old_or_unknown(release: str, code: str):
    assert release_finding(release, "http://studio.test").code == code


@pytest.mark.parametrize("release", ["1.23.2", "1.23.0", "1.22.9", "1.24.0", "develop"])
def test_doctor_says_which_label_studio_was_tested(release: str):
    assert f"label-studio=={TESTED}" in Path("requirements-label-studio.txt").read_text()
    said = release_finding(release, "http://studio.test").what
    assert ("all tests ran with it" if release == TESTED else f" {TESTED}") in said
    assert release in said


def test_doctor_says_by_which_proxy_label_studio_is_asked(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("backend.label_studio.client.RETRY_AFTER_S", ())
    for name in ("http_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://me:secret@127.0.0.1:1")
    settings = make_settings(label_studio_url="http://studio.test", label_studio_api_key="a" * 40)
    found = list(check_label_studio(Workplace(settings)))
    assert [finding.code for finding in found] == ["proxy", "studio-unreachable"]
    for finding in found:
        assert "by the proxy http://127.0.0.1:1 of HTTP_PROXY; NO_PROXY=studio" in finding.what


@pytest.mark.parametrize(
    ("skew_s", "expected"), [(0, []), (59, []), (-59, []), (62, ["ahead of"]), (-62, ["behind"])]
)
def test_clocks_may_differ_by_a_minute(skew_s: float, expected: list[str]):
    now = 1_795_468_880.0
    found = list(clock_findings(formatdate(now + skew_s, usegmt=True), now))
    assert [f.code for f in found] == ["clock-skew"] * len(expected)
    assert all(word in f.what for word, f in zip(expected, found, strict=True))


@pytest.mark.parametrize("date", ["", "yesterday"])
def test_a_missing_date_is_no_finding(date: str):
    assert list(clock_findings(date, 0.0)) == []


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        (b'<a href="/user/signup/">Sign up</a>', ["signup-open"]),
        (b'<a href="https://studio.test/user/signup" class="">Sign up</a>', ["signup-open"]),
        (b"", []),
    ],
)
def test_a_login_page_that_offers_an_account_to_a_stranger_is_a_warning(
    link: bytes, expected: list[str]
):
    host = Host()
    host.pages["/user/login/"] = body(b"<form>Log in</form>" + link)
    found = list(signup_findings(host.url))
    host.close()
    assert [f.code for f in found] == expected
    assert all("DISABLE_SIGNUP_WITHOUT_LINK=true" in f.fix for f in found)


def test_without_a_label_studio_the_setting_is_named(make_settings: MakeSettings):
    settings = make_settings(label_studio_url=None, label_studio_api_key=None)
    (found,) = check_label_studio(Workplace(settings))
    assert found.code == "studio-unset"
    assert "LABEL_STUDIO_URL" in found.fix
