"""Fixtures of the live tests: real servers, shared by a session; projects of a test's own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from backend.label_studio.bulk import Project, Studio
from backend.label_studio.control import control_of
from tests.live.harness.local_worker import short_waits
from tests.live.harness.rows import import_tasks
from tests.live.harness.servers import (
    LABEL_STUDIO_VERSION,
    LabelStudio,
    ValkeyServer,
    migrated_template,
    personal_access_token,
    safe_name,
    start_label_studio,
    start_valkey,
    why_no_label_studio,
)
from tests.live.harness.stack import Stack, start_stack

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

BRUSH = """<View>
  <Image name="image" value="$image"/>
  <BrushLabels name="tag" toName="image"><Label value="Cell"/><Label value="Nucleus"/></BrushLabels>
</View>"""

MakeProject = Callable[..., Project]


@pytest.fixture(scope="session")
def label_studio_template(request: pytest.FixtureRequest) -> Path:
    """A migrated data folder, kept by pytest's cache between sessions.

    Anything beside a file of tests/live may start a server of its own from it.
    """
    reason = why_no_label_studio()
    if reason and os.environ.get("CI") == "true":
        pytest.fail(f"CI must run the live tests: {reason}")
    if reason:
        pytest.skip(reason)
    cache: pytest.Cache = request.config.cache  # type: ignore[assignment]  # absent only with -p no:cacheprovider
    # The number rises when what the template holds changes.
    return migrated_template(Path(cache.mkdir(f"label-studio-{LABEL_STUDIO_VERSION}-1")))


@pytest.fixture(scope="session")
def label_studio(
    label_studio_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LabelStudio]:
    """A real Label Studio with two users, one for the whole session."""
    data_dir = tmp_path_factory.mktemp("label-studio")
    server = start_label_studio(data_dir, template=label_studio_template)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def unusual_label_studio(
    label_studio_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LabelStudio]:
    """One set up as few are: webhooks to private addresses refused, seven tasks a page."""
    server = start_label_studio(
        tmp_path_factory.mktemp("unusual-label-studio"),
        template=label_studio_template,
        environment={
            "LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS": "true",
            "LABEL_STUDIO_ML_BLOCK_LOCAL_IP": "false",
            "TASK_API_PAGE_SIZE_MAX": "7",
        },
    )
    yield server
    server.stop()


@pytest.fixture(scope="session")
def access_token(label_studio: LabelStudio) -> str:
    """The second user's personal access token; Label Studio grants one at a time."""
    return personal_access_token(label_studio.url, label_studio.second)


@pytest.fixture
def studio(label_studio: LabelStudio) -> Iterator[Studio]:
    """Our client, as the owner."""
    with Studio(label_studio.url, label_studio.api_key) as client:
        yield client


@pytest.fixture
def second_studio(label_studio: LabelStudio) -> Iterator[Studio]:
    """Our client, as the second user."""
    with Studio(label_studio.url, label_studio.second.api_key) as client:
        yield client


@pytest.fixture
def project(studio: Studio, request: pytest.FixtureRequest) -> Iterator[MakeProject]:
    """``project(tasks=0, **fields)`` makes a project that is deleted when the test ends.

    Its tasks point at images that do not exist, unless ``rows`` are given.
    """
    made: list[int] = []

    def make(
        tasks: int = 0, rows: list[dict[str, object]] | None = None, **fields: object
    ) -> Project:
        fields = {"title": safe_name(request.node.name), "label_config": BRUSH, **fields}
        created = control_of(studio).projects.create(**fields)
        made.append(created.id)
        if rows is None:
            rows = [{"image": f"/data/none/{i}.png"} for i in range(tasks)]
        if rows:
            import_tasks(studio, created.id, rows)
        return studio.project(created.id)

    yield make
    for project_id in made:
        control_of(studio).projects.delete(project_id)


@pytest.fixture(scope="module")
def page(browser: Browser) -> Page:
    """Of a window of its own, so that nothing of another test's login or switches is in it."""
    return browser.new_page(viewport={"width": 1400, "height": 900})


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[ValkeyServer]:
    """A real Valkey of the test's own."""
    server = start_valkey(tmp_path)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def one_stack(
    label_studio: LabelStudio, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    started = start_stack(tmp_path_factory.mktemp("stack"), label_studio)
    yield started
    started.stop()


@pytest.fixture(scope="module")
def stack(one_stack: Stack) -> Iterator[Stack]:
    """The running system, the same one for the whole session; a module's projects go with it.

    The test itself does the jobs, while it waits for what they bring about.
    """
    with short_waits():
        yield one_stack
        one_stack.release()
