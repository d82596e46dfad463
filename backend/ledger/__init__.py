"""The facts that outlive a process, in SQL: all but label_studio, settings and
errors may import it.

Nothing outside sees SQL: methods are short transactions that return the entities.
"""

from __future__ import annotations

from backend.ledger.actions import Actions
from backend.ledger.engine import Database, upgrade
from backend.ledger.entities import (
    Action,
    Event,
    Evidence,
    Part,
    Place,
    ProcessRecord,
    Project,
    Publication,
    Round,
    StampsListing,
    Version,
)
from backend.ledger.events import Events
from backend.ledger.evidence import EvidenceOfTasks
from backend.ledger.parts import Outcome, Parts
from backend.ledger.pool import PoolPictures
from backend.ledger.processes import Processes
from backend.ledger.projects import Projects
from backend.ledger.publications import NO_VERSION, Publications
from backend.ledger.rounds import START, Rounds
from backend.ledger.stamps import StampsOfTasks
from backend.ledger.versions import Versions

__all__ = [
    "NO_VERSION",
    "START",
    "Action",
    "Event",
    "Evidence",
    "Ledger",
    "Outcome",
    "Part",
    "Place",
    "ProcessRecord",
    "Project",
    "Publication",
    "Round",
    "StampsListing",
    "Version",
    "upgrade",
]


class Ledger:
    """The facts, a repository for each kind. One instance a process; safe between threads.

    Args:
        url: SQLAlchemy URL of a SQLite file, or of a PostgreSQL database.
        busy_s: longest wait for the write lock, seconds. The web waits less than the second that
            Label Studio gives a webhook; workers can wait longer.
        connections: to PostgreSQL, at most. One is enough for a single thread.
    """

    def __init__(self, url: str, busy_s: float = 10.0, connections: int = 1) -> None:
        self.url = url
        self.database = Database(url, busy_s, connections)
        self.projects = Projects(self.database)
        self.events = Events(self.database)
        self.rounds = Rounds(self.database)
        self.parts = Parts(self.database)
        self.versions = Versions(self.database)
        self.evidence = EvidenceOfTasks(self.database)
        self.stamps = StampsOfTasks(self.database)
        self.pool = PoolPictures(self.database)
        self.publications = Publications(self.database)
        self.actions = Actions(self.database)
        self.processes = Processes(self.database)

    def check_schema(self) -> None:
        """Refuse a ledger that is not of this release.

        Raises:
            LedgerUnavailable: no ledger yet, an older one, or a newer one.
        """
        self.database.check_schema()

    def close(self) -> None:
        self.database.close()
