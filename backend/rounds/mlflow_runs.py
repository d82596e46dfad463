"""``python -m backend.rounds.mlflow_runs PARENT``: versions to MLflow, a run each.

Nothing but mlflow and what comes as JSON by standard input is needed here: the tracking URI, the
experiment's name and the versions (``tracking.py`` makes it). mlflow is an optional package, slow
to import and slower to give up, so it has this process, which may be killed at any line: a run that
was not ended is filled again.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

from backend.process_group import die_with_parent
from training.committee.folders import SHEET_FILE

VERSION_TAG = "committee.version"

LONGEST_VALUE = 500
"""Characters of a parameter that every MLflow server takes."""

_REFUSED = re.compile(r"[^\w. :-]|^\.+")


def main() -> None:
    die_with_parent(int(sys.argv[1]))
    sent = json.load(sys.stdin)
    try:
        log_versions(sent["uri"], sent["experiment"], sent["versions"])
    except Exception as error:
        # The boundary of this process: the last line is what the parent logs.
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")


def log_versions(uri: str, experiment: str, versions: list[dict[str, Any]]) -> None:
    """A finished run for each version, and today's tags on those that there were; what somebody
    has deleted stays so."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    known = client.get_experiment_by_name(experiment)
    number = client.create_experiment(experiment) if known is None else known.experiment_id
    runs = {
        run.data.tags[VERSION_TAG]: run
        for run in _runs(client, number)
        if VERSION_TAG in run.data.tags
    }
    for version in versions:
        run = runs.get(str(version["number"]))
        if run is None:
            run = client.create_run(
                number,
                start_time=int(version["created_at"] * 1000),
                tags={VERSION_TAG: str(version["number"]), **version["tags"]},
                run_name=f"version {version['number']}",
            )
        if run.info.lifecycle_stage == "deleted":
            continue
        if run.info.status != "FINISHED":
            _fill(client, run.info.run_id, version)
        elif run.data.tags.get("committee.state") != version["tags"]["committee.state"]:
            for name, value in version["tags"].items():  # it was rolled back since
                client.set_tag(run.info.run_id, name, value)


def _runs(client: Any, experiment: str) -> list[Any]:
    from mlflow.entities import ViewType

    found: list[Any] = []
    token = None
    while True:
        page = client.search_runs([experiment], run_view_type=ViewType.ALL, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def _fill(client: Any, run_id: str, version: dict[str, Any]) -> None:
    from mlflow.entities import Metric, Param

    at_ms = int(version["created_at"] * 1000)
    client.log_batch(
        run_id,
        params=[
            Param(_name(name), value[:LONGEST_VALUE])
            for name, value in version["parameters"].items()
        ],
        metrics=[
            Metric(_name(name), value, at_ms, version["number"])
            for name, value in version["metrics"].items()
        ],
    )
    for file in version["files"]:  # the contact sheet on top, where a person looks
        client.log_artifact(run_id, file, None if file.endswith(SHEET_FILE) else "version")
    client.set_terminated(run_id, "FINISHED")


def _name(text: str) -> str:
    """A name that MLflow takes: labels are chosen by people."""
    return _REFUSED.sub("_", text)[:250]


if __name__ == "__main__":
    main()
