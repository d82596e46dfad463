"""Telling MLflow of the versions, where MLFLOW_TRACKING_URI says so.

This is a job of its own after a round, and again every hour for what MLflow does not know yet, so
that no round waits for it. mlflow runs in a process of its own (``mlflow_runs.py``) that is killed
when it takes too long: a server that is away, slow or wrong costs a sentence in the log and a count
in /metrics.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import orjson

from backend.ledger import Project
from backend.ledger.versions import VersionSummary
from backend.rounds import mlflow_runs
from backend.workplace import Workplace
from training.committee.checksums import (
    VERSION_FILE,
    DamagedVersion,
    UnknownVersion,
    read_checksums,
)
from training.committee.folders import PREDICTED_FILE
from training.committee.store.store import StoreUnavailable

log = logging.getLogger(__name__)

WITHIN_S = 120.0
"""For all versions that MLflow does not know; the next time goes on where this one was killed."""

_ENVIRONMENT = {
    # It would report to its makers (docs/WHAT_IT_ASKS.md).
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    # mlflow's own: 120 s, seven times.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_ALLOW_FILE_STORE": "true",  # a folder, where MLFLOW_TRACKING_URI names one
    "GIT_PYTHON_REFRESH": "quiet",
}


def track_versions(work: Workplace, project: Project, within_s: float = WITHIN_S) -> bool:
    """Let MLflow have a run for each version of a project; whether it has.

    Never raises for what MLflow does, and takes ``within_s`` at most.
    """
    uri = work.settings.mlflow_tracking_uri
    if uri is None:
        return False
    problem: str | None
    try:
        versions = list(_described(work, project))
    except StoreUnavailable as error:
        log.warning("MLflow is told of project %d later: %s", project.id, error)
        return False
    if not versions:
        return True
    if find_spec("mlflow") is None:
        problem = (
            "mlflow-skinny is not installed: install requirements-mlflow.txt, or leave "
            "MLFLOW_TRACKING_URI out"
        )
    else:
        sent = {"uri": uri, "experiment": f"committee/{project.slug}", "versions": versions}
        problem = _run(orjson.dumps(sent), within_s)
    if problem is not None:
        log.warning("MLflow was not told of all versions of project %d: %s", project.id, problem)
        work.counters.add("mlflow_failures")
    return problem is None


def _run(sent: bytes, within_s: float) -> str | None:
    """What went wrong; None where all went well."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", mlflow_runs.__name__, str(os.getpid())],
            input=sent,
            capture_output=True,
            timeout=within_s,
            env={**os.environ, **_ENVIRONMENT},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it took longer than {within_s:g} s"
    if done.returncode == 0:
        return None
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return said[-1][:500] if said else f"its process ended with {done.returncode}"


def _described(work: Workplace, project: Project) -> Iterator[dict[str, Any]]:
    """Each version as ``mlflow_runs`` takes it, oldest first."""
    for version in reversed(work.ledger.versions.summaries(project.id)):
        yield {
            "number": version.number,
            "tags": {
                "committee.project": f"{project.server} {project.studio_id}",
                "committee.state": version.state,
                "committee.reason": version.reason,
                "committee.round": str(version.round_id),
            },
            "parameters": _parameters(version),
            "metrics": _metrics(version),
            "created_at": version.created_at,
            "files": _files(work, project, version.number),
        }


def _files(work: Workplace, project: Project, number: int) -> list[str]:
    """A version's files, but what was predicted of the labelled images; none where retention has
    removed it, or it is damaged: the ledger's row stays."""
    try:
        folder = work.store.version_path(project.slug, number)
        names = [VERSION_FILE, *read_checksums(folder)[1]]
    except (UnknownVersion, DamagedVersion):
        return []
    return [str(folder / name) for name in names if name != PREDICTED_FILE]


def _parameters(version: VersionSummary) -> dict[str, str]:
    found = {} if version.config is None else dict(json.loads(version.config))
    found |= {"members": version.members, "classes": ", ".join(version.classes)}
    return {name: str(value) for name, value in found.items() if value not in ("", None)}


def _metrics(version: VersionSummary) -> dict[str, float]:
    found: dict[str, float | None] = {
        "labels": version.examples,
        "foreground_dice": version.foreground_dice,
        "calibration_error": version.ece,
        **{f"dice.{name}": value for name, value in (version.dice or {}).items()},
        **{f"iou.{name}": value for name, value in (version.iou or {}).items()},
        **{f"seconds.{stage}": seconds for stage, seconds in version.timings.items()},
    }
    if version.audit is not None:
        dice = version.audit["foreground_dice"]
        found |= {
            "audit_images": version.audit["images"],
            "audit_dice": dice["value"],
            "audit_dice_low": dice["low"],
            "audit_dice_high": dice["high"],
        }
    return {name: value for name, value in found.items() if value is not None}
