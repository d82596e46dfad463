"""One project, as the checks read it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from backend.errors import BadLabelConfig, BadOptions
from backend.insight.findings.finding import Finding
from backend.label_studio.bulk import Project as StudioProject
from backend.label_studio.bulk import Stamp, Studio
from backend.label_studio.connection import Connection
from backend.label_studio.control import Control, control_of, id_of
from backend.label_studio.label_config import LabelConfig, parse_label_config
from backend.ledger import Project, Publication
from backend.options import ProjectOptions, parse_options
from backend.workplace import Workplace

if TYPE_CHECKING:
    from label_studio_sdk.types.ml_backend import MlBackend


@dataclass
class ProjectCase:
    """One project; each part is read once, when a check needs it.

    Attributes:
        known: the ledger's project; None where it knows no such project.
    """

    work: Workplace
    project: StudioProject
    known: Project | None

    @property
    def id(self) -> int:
        return self.project.id

    @property
    def studio(self) -> Studio:
        return self.work.studio

    @cached_property
    def control(self) -> Control:
        return control_of(self.studio)

    @cached_property
    def backends(self) -> list[MlBackend]:
        """In the order in which Label Studio takes the first; asking makes it call each."""
        return sorted(self.control.ml.list(project=self.id), key=id_of)

    @cached_property
    def ours(self) -> list[MlBackend]:
        """Connections to BACKEND_URL."""
        url = self.work.settings.backend_url
        return [b for b in self.backends if bare_address(b.url) == bare_address(url)]

    @cached_property
    def remembered(self) -> Connection | None:
        text = None if self.known is None else self.known.connection
        return None if text is None else Connection.from_json(text)

    @cached_property
    def serving(self) -> Publication | None:
        return None if self.known is None else self.work.ledger.publications.serving(self.known.id)

    @cached_property
    def stored(self) -> int:
        """Predictions of the serving publication that Label Studio holds now."""
        if self.serving is None:
            return 0
        return self.studio.model_versions(self.id).get(self.serving.name, 0)

    @cached_property
    def stamps(self) -> dict[int, tuple[Stamp, ...]]:
        return self.studio.stamps(self.id)

    @cached_property
    def options(self) -> ProjectOptions | BadOptions:
        extra_params = self.ours[0].extra_params if self.ours else None
        try:
            return parse_options(extra_params)
        except BadOptions as error:
            return error

    @cached_property
    def config(self) -> LabelConfig | BadLabelConfig:
        image = None if isinstance(self.options, BadOptions) else self.options.image
        try:
            return parse_label_config(self.project.label_config, image=image)
        except BadLabelConfig as error:
            return error

    def error(self, code: str, what: str, fix: str, *, fixable: bool = False) -> Finding:
        return Finding(code, "error", self.id, what, fix, fixable)

    def warning(self, code: str, what: str, fix: str, *, fixable: bool = False) -> Finding:
        return Finding(code, "warning", self.id, what, fix, fixable)

    def ok(self, code: str, what: str) -> Finding:
        return Finding(code, "ok", self.id, what)


def bare_address(url: str) -> str:
    """The address as it is compared."""
    return url.rstrip("/")


def shown_address(url: str) -> str:
    """An address that a user chose, without the password that it may hold."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
