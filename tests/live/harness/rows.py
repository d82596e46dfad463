"""Rows of Label Studio that tests make and read, through label-studio-sdk."""

from __future__ import annotations

from collections.abc import Sequence

from label_studio_sdk.types.ml_backend import MlBackend
from label_studio_sdk.types.webhook import Webhook

from backend.label_studio.bulk import Studio
from backend.label_studio.client import Json
from backend.label_studio.control import SLOW, control_of


def import_tasks(studio: Studio, project_id: int, rows: Sequence[Json]) -> list[int]:
    """Add tasks (``{"image": url}`` or ``{"data": {...}, ...}``); their ids, in order."""
    imported = control_of(studio).projects.import_tasks(
        project_id, request=list(rows), return_task_ids=True, request_options=SLOW
    )
    return list(imported.task_ids)


def backends_of(studio: Studio, project_id: int) -> list[MlBackend]:
    """The project's backend connections. Label Studio calls each one's /health and /setup."""
    return control_of(studio).ml.list(project=project_id)


def webhooks_of(studio: Studio, project_id: int) -> list[Webhook]:
    return control_of(studio).webhooks.list(project=str(project_id))
