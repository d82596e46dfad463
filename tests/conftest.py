"""Time limits by how fast the machine is, which tests only `make soak` runs, and a browser."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.limits import scaled

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.s3 import Door, S3Server

# A busy machine takes longer than 200 ms for any example; pytest-timeout ends a test that hangs.
settings.register_profile("committee", deadline=None)
settings.load_profile("committee")


@pytest.hookimpl(tryfirst=True)  # before pytest-timeout reads it
def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("timeout") is None:
        config.option.timeout = scaled(float(config.getini("timeout")))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        marker = item.get_closest_marker("timeout")
        if marker is not None and marker.args:  # its limit is for two idle cores too
            item.add_marker(pytest.mark.timeout(scaled(marker.args[0])), append=False)
    if "soak" not in config.getoption("markexpr"):
        soak = [item for item in items if item.get_closest_marker("soak") is not None]
        config.hook.pytest_deselected(items=soak)
        items[:] = [item for item in items if item.get_closest_marker("soak") is None]


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """A real S3 server for all tests."""
    from tests.s3 import S3Server  # brings much that most tests need not

    server = S3Server()
    yield server
    server.close()


@pytest.fixture
def door(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    """Before the S3 server; the environment leads to it."""
    from tests import s3 as s3_server

    made = s3_server.Door(s3.port)
    monkeypatch.setenv("AWS_ENDPOINT_URL", made.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.SECRET)
    yield made
    made.shut()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from tests.chromium import NoChromium, chromium  # few tests wait for its import

    try:
        with chromium() as started:
            yield started
    except NoChromium as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must run the browser tests: {error}")
        pytest.skip(str(error))
