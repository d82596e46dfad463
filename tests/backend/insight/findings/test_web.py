"""The checks of our web."""

from __future__ import annotations

from backend.insight.findings.web import check_web
from backend.label_studio.connection import basic_auth
from tests.backend.insight.findings.fake_web import USER, MakeSettings, Web, codes, installation


def test_a_sound_web_is_well(web: Web, make_settings: MakeSettings):
    found = list(check_web(installation(make_settings(backend_url=web.url))))
    assert codes(found) == {"web": "ok"}


def test_a_web_slower_than_label_studio_waits_is_an_error(web: Web, make_settings: MakeSettings):
    web.slow_s = 1.05
    found = list(check_web(installation(make_settings(backend_url=web.url), reached=True)))
    assert codes(found) == {"web-slow": "error"}
    measured_ms = int(found[0].what.split(" ms")[0].rsplit(" ", 1)[1])
    assert 1050 <= measured_ms < 4000


def test_a_web_at_half_the_limit_is_a_warning(web: Web, make_settings: MakeSettings):
    web.slow_s = 0.55
    found = list(check_web(installation(make_settings(backend_url=web.url), reached=True)))
    assert codes(found) == {"web-slow": "warning"}


def test_a_web_with_another_password_is_an_error(web: Web, make_settings: MakeSettings):
    web.password = basic_auth(USER, "another")
    found = list(check_web(installation(make_settings(backend_url=web.url), reached=True)))
    assert codes(found)["web-password"] == "error"


def test_a_web_without_any_password_is_an_error(web: Web, make_settings: MakeSettings):
    web.password = None
    found = list(check_web(installation(make_settings(backend_url=web.url), reached=True)))
    assert codes(found)["web-unprotected"] == "error"


def test_something_else_at_our_address_is_an_error(web: Web, make_settings: MakeSettings):
    web.health = {"hello": "world"}
    found = list(check_web(installation(make_settings(backend_url=web.url))))
    assert codes(found) == {"web-not-ours": "error"}


def test_an_absent_web_matters_less_where_label_studio_reaches_it(make_settings: MakeSettings):
    settings = make_settings()
    assert codes(check_web(installation(settings))) == {"web-unreachable": "error"}
    assert codes(check_web(installation(settings, reached=True))) == {"web-unreachable": "warning"}
