"""What the tests of the backend share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from backend.label_studio.bulk import Studio
from backend.settings import Settings
from backend.workplace import Workplace
from tests.backend.host import Host
from tests.backend.postgresql import PostgreSQL, why_no_postgresql
from tests.backend.workplaces import TOKEN, make_settings
from tests.live.harness.servers import ValkeyServer, start_valkey


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with a ledger of this release; no server answers at its addresses."""
    return make_settings(tmp_path)


@pytest.fixture
def work(settings: Settings) -> Iterator[Workplace]:
    """The workplace of ``settings``."""
    opened = Workplace(settings)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """A real Valkey for all of these tests."""
    server = start_valkey(tmp_path_factory.mktemp("valkey"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A real PostgreSQL for all of these tests."""
    if (reason := why_no_postgresql()) is not None:
        pytest.skip(reason)
    server = PostgreSQL()
    yield server
    server.close()


@pytest.fixture
def redis(valkey: ValkeyServer) -> Iterator[Redis]:
    """A connection to an empty Valkey."""
    with Redis.from_url(valkey.url) as connection:
        connection.flushall()
        yield connection


@pytest.fixture
def label_studio() -> Iterator[Host]:
    """What stands for Label Studio; it has no pages yet."""
    host = Host()
    yield host
    host.close()


@pytest.fixture
def elsewhere() -> Iterator[Host]:
    """A server that is not Label Studio; it has no pages yet."""
    host = Host()
    yield host
    host.close()


@pytest.fixture
def studio(label_studio: Host) -> Iterator[Studio]:
    """The client of ``label_studio``."""
    with Studio(label_studio.url, TOKEN, timeout_s=5) as client:
        yield client
