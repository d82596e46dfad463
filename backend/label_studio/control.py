"""Label Studio's control plane through label-studio-sdk: projects, backends, webhooks, views.

For what a person asks for once: connect, disconnect, doctor, demo, replay. The web and the jobs
of a round import neither this module nor the SDK (import-linter and tests/test_imports.py see
to it); ``bulk`` says what the SDK costs and holds their calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import httpx
import orjson
from label_studio_sdk.base_client import LabelStudioBase
from label_studio_sdk.core.request_options import RequestOptions

from backend.label_studio.bulk import LONG_TIMEOUT_S
from backend.label_studio.client import StudioHttp

if TYPE_CHECKING:
    from label_studio_sdk.annotations.client import AnnotationsClient
    from label_studio_sdk.ml.client import MlClient
    from label_studio_sdk.projects.client import ProjectsClient
    from label_studio_sdk.tasks.client import TasksClient
    from label_studio_sdk.types.all_roles_project_list import AllRolesProjectList
    from label_studio_sdk.versions.client import VersionsClient
    from label_studio_sdk.views.client import ViewsClient
    from label_studio_sdk.webhooks.client import WebhooksClient

# Label Studio counts every task of every project it lists.
PROJECTS_PAGE = 100

SLOW: RequestOptions = {"timeout_in_seconds": int(LONG_TIMEOUT_S)}
"""``request_options`` of a call that deletes or imports many rows."""


@dataclass(frozen=True)
class Control:
    """The parts of the SDK's client that we use, with the types that the client itself omits.

    Every call raises ``StudioUnreachable`` and ``StudioRefused`` as ``StudioHttp`` does, and none
    of the SDK's own errors.
    """

    versions: VersionsClient
    projects: ProjectsClient
    tasks: TasksClient
    annotations: AnnotationsClient
    ml: MlClient
    webhooks: WebhooksClient
    views: ViewsClient

    def all_projects(self) -> Iterator[AllRolesProjectList]:
        """Every project that our user may see, oldest first.

        The SDK's own iteration asks for a page after the last one, which Label Studio refuses.
        """
        page = 1
        while True:
            listed = self.projects.list(page=page, page_size=PROJECTS_PAGE, ordering="id")
            yield from listed.items or ()
            if not listed.response.next:
                return
            page += 1


def control_of(studio: StudioHttp) -> Control:
    """The SDK over ``studio``'s own sessions, token, retries and errors."""
    sdk = LabelStudioBase(
        base_url=studio.url,
        # The SDK never sees a token: StudioHttp sends it, and renews a personal one.
        api_key="",
        timeout=studio.timeout_s,
        max_retries=0,
        httpx_client=httpx.Client(transport=_Transport(studio)),
    )
    return Control(
        versions=sdk.versions,
        projects=sdk.projects,
        tasks=sdk.tasks,
        annotations=sdk.annotations,
        ml=sdk.ml,
        webhooks=sdk.webhooks,
        views=sdk.views,
    )


def id_of(row: _Numbered) -> int:
    """The number of a row that Label Studio sent; the SDK's types allow that it is missing."""
    if row.id is None:
        raise ValueError(f"expected a row with an id, got a {type(row).__name__} without one")
    return row.id


class _Numbered(Protocol):
    @property
    def id(self) -> int | None: ...


class _Transport(httpx.BaseTransport):
    """Sends what the SDK asks for by ``StudioHttp``.

    The SDK's own sending would follow redirects, repeat a POST after an error of the server, and
    believe our clock about the age of a token.
    """

    def __init__(self, studio: StudioHttp) -> None:
        self._studio = studio
        self._prefix = httpx.URL(studio.url).raw_path.decode().rstrip("/")

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = self._studio.call(
            request.method,
            request.url.raw_path.decode().removeprefix(self._prefix),
            content=request.read() or None,
            timeout_s=request.extensions["timeout"]["read"],
        )
        if answer is None:
            return httpx.Response(204, request=request)
        return httpx.Response(200, content=orjson.dumps(answer), request=request)
