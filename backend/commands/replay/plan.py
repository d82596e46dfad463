"""What a replay plays, and the project that it plays in."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from backend.errors import BadRequest
from backend.insight.status import SILENT_AFTER_S
from backend.options import parse_options
from backend.workplace import Workplace

ORDERS = ("queue", "random")

# Label Studio's limit for a project's title.
TITLE_LENGTH = 50


@dataclass(frozen=True)
class ReplayPlan:
    """What to play.

    Attributes:
        folder: images/, masks/, classes.txt.
        rounds: rounds of training in each order, the first on the initial set.
        per_round: labels between two rounds; the project's ``retrain_every`` too.
        initial: labels of the first round, drawn by chance; ``per_round`` if None.
        order: "queue", "random" or "both".
        limit: use at most this many images for learning.
        seed: of the initial set, the random order and the networks.
        steps, members: project options, the environment's if None.
        options: more project options, such as the measure; those above take precedence.
        round_limit_s: longest wait for one round.
        purge: delete the projects, and what we hold of them, at the end.
    """

    folder: Path
    rounds: int = 5
    per_round: int = 10
    initial: int | None = None
    order: str = "queue"
    limit: int | None = None
    seed: int = 0
    steps: int | None = None
    members: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    round_limit_s: float = 3600.0
    purge: bool = False

    @property
    def orders(self) -> tuple[str, ...]:
        return ORDERS if self.order == "both" else (self.order,)

    @property
    def first(self) -> int:
        return self.per_round if self.initial is None else self.initial

    @property
    def labels(self) -> int:
        """Labels that the plan needs in all."""
        return self.first + (self.rounds - 1) * self.per_round

    def check(self, images: int) -> None:
        """Refuse a plan that ``images`` images to learn from cannot carry out.

        Raises:
            BadRequest: with the reason.
        """
        for name in ("rounds", "per_round", "first"):
            if getattr(self, name) < 1:
                raise BadRequest(f"{name} must be a positive integer, got {getattr(self, name)}.")
        if self.order not in (*ORDERS, "both"):
            raise BadRequest(f"order must be queue, random or both, got {self.order!r}.")
        if self.first < self.per_round:
            raise BadRequest(
                f"The initial set must hold at least the {self.per_round} labels that start a "
                f"round, got {self.first}."
            )
        if self.labels > images:
            raise BadRequest(
                f"{self.rounds} rounds need {self.labels} images ({self.first} and "
                f"{self.rounds - 1} x {self.per_round}), but {images} are there to learn from: "
                "ask for fewer rounds or fewer labels per round."
            )


def check_running(work: Workplace) -> None:
    """Refuse to start without a worker and a web: the first wait would last until its limit.

    Raises:
        BadRequest: one of them is not alive.
    """
    now = time.time()
    alive = {row.role for row in work.ledger.processes.all() if now - row.seen_at < SILENT_AFTER_S}
    missing = [role for role in ("web", "worker") if role not in alive]
    if missing:
        raise BadRequest(
            f"No {' and no '.join(missing)} of Committee is running in {work.settings.data_dir}: "
            "start them by `make run` with the same DATA_DIR."
        )


def project_title(folder: str, order: str, now: datetime) -> str:
    """``replay <folder> <order> <date>``, the folder's name cut to what Label Studio allows."""
    date = f"{now:%Y-%m-%d %H:%M}"
    room = TITLE_LENGTH - len(f"replay  {order} {date}")
    return f"replay {folder[:room]} {order} {date}"


def unknown_label(classes: Sequence[str]) -> str:
    """A name for unknown pixels that no class has."""
    return next(name for name in ("Unknown", "Unknown pixels", "255") if name not in classes)


def project_options(plan: ReplayPlan, unknown: str) -> dict[str, Any]:
    """The connection's extra parameters.

    Raises:
        BadOptions: the plan holds one that is unknown or out of range.
    """
    options: dict[str, Any] = {
        **plan.options,
        "unknown_label": unknown,
        "retrain_every": plan.per_round,
        "seed": plan.seed,
    }
    own = {"steps": plan.steps, "members": plan.members}
    options |= {name: value for name, value in own.items() if value is not None}
    parse_options(options)
    return options
