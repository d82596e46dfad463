"""Rows of the ledger for tests, which say only what matters to them."""

from __future__ import annotations

from typing import Any

from backend.ledger import Event, Evidence, Place, Project, Publication, StampsListing


def place(task_id: int, position: int = 0, why: str = "uncertainty", **values: Any) -> Place:
    fields: dict[str, Any] = {"uncertainty": 0.5, "audit": why == "audit", "arms": {}, **values}
    return Place(task_id=task_id, position=position, why=why, **fields)


def evidence(task_id: int, round_id: int = 1, **values: Any) -> Evidence:
    fields: dict[str, Any] = {
        "version": 1,
        "stamp": "a" * 16,
        "rewards": {"predictive_entropy": 0.5},
        "scores": {"predictive_entropy/image_mean": 0.2},
        "error": 0.1,
        "wrong": 100,
        "judged": 1000,
        "audit": False,
        "chosen_for": "uncertainty",
    }
    return Evidence(task_id=task_id, round_id=round_id, **{**fields, **values})


def project(**values: Any) -> Project:
    fields: dict[str, Any] = {"server": "http://studio", "studio_id": 7, "created": 1, "slug": "p"}
    return Project(**{**fields, **values})


def event(received_at: float, action: str) -> Event:
    return Event(project_id=1, action=action, ids=[], received_at=received_at)


def publication(version: int = 1, **values: Any) -> Publication:
    fields: dict[str, Any] = {"name": f"committee-v{version}.1", "arm": "", "quantiles": []}
    return Publication(
        project_id=1, version=version, n=1, round_id=1, length=1, made_at=0.0, **fields | values
    )


def stamps_listing(project_id: int, **values: Any) -> StampsListing:
    fields: dict[str, Any] = {
        **{"changed_at": 0.0, "seen_at": 0.0, "ask_from": 0.0},
        **{"listed_at": 0.0, "unlisted": 0},
    }
    return StampsListing(project_id=project_id, **{**fields, **values})
