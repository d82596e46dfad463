"""What the routes share: the parts that live as long as the process, and what is read of a
project."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from backend.insight.status import ProjectStatus, alive_workers, process_status, project_status
from backend.ledger import Project
from backend.web.dashboard.access import Access
from backend.web.dashboard.background import DoctorWatch, StudioWatch
from backend.web.dashboard.pictures import WAITING_QUICK, Pictures
from backend.workplace import Workplace

NUMBER = f"int(max={2**63 - 1})"
"""A number that the ledger's columns can hold, in an address."""

PROJECT = f"/projects/<{NUMBER}:number>"


@dataclass(frozen=True)
class Desk:
    """What the pages of one process work with."""

    work: Workplace
    access: Access
    studio: StudioWatch
    doctor: DoctorWatch
    pictures: Pictures = field(default_factory=Pictures)
    labelled: Pictures = field(default_factory=lambda: Pictures(WAITING_QUICK))

    def row(self, number: int) -> Project:
        """The ledger's row of a project of Label Studio's number.

        Raises:
            UnknownProject: it was never connected.
        """
        return self.work.ledger.projects.of_studio(self.work.server, number)

    def project(self, number: int) -> tuple[Project, ProjectStatus]:
        """The row of a project, and what is going on in it."""
        row = self.row(number)
        return row, self.statuses([row])[0][0]

    def statuses(self, rows: Sequence[Project]) -> tuple[list[ProjectStatus], int]:
        """What is going on in projects, and how many workers are alive."""
        ledger, every = self.work.ledger, self.work.settings.retrain_every
        workers = alive_workers([process_status(record) for record in ledger.processes.all()])
        found = [project_status(ledger, row, retrain_every=every, workers=workers) for row in rows]
        return found, workers

    def studio_url(self) -> str:
        """Label Studio's address in a browser: as it calls itself, which may not be as we reach
        it."""
        return next(iter(self.work.studio_names()), self.work.server)
