"""The projects that the backend knows."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from typing import Unpack

from sqlalchemy import Select, bindparam, delete, select, update
from sqlalchemy.orm import Session

from backend.data_dir import MOST_NAMES
from backend.errors import UnknownProject
from backend.ledger.engine import Database
from backend.ledger.entities import (
    Action,
    Event,
    Evidence,
    Part,
    Place,
    PoolPicture,
    Project,
    Publication,
    Round,
    StampsListing,
    StudioName,
    TaskStamps,
    Version,
)
from backend.ledger.shapes import ProjectFields

# Put together once: each request of Label Studio's asks it.
_OF_KEY = select(Project).where(
    *(getattr(Project, name) == bindparam(name) for name in ("server", "studio_id", "created"))
)

MOST_UNCONFIRMED = 20
"""Projects that only a /setup has named. The oldest makes room for the next: what was invented by
somebody with the web's password fills no ledger, and Label Studio names a real one again."""

LONGEST_NAME = 500
"""Characters of an address that Label Studio says it has: what the ledger's column holds."""

AT_PREDICT = "/predict: "
"""Begins a project's last error where pre-annotating tasks that were opened met it."""


class Projects:
    """The projects that the backend knows, connected or not.

    ``project_id`` is always the ledger's own number, ``studio_id`` Label Studio's.
    """

    def __init__(self, database: Database) -> None:
        self._db = database

    def ensure(
        self,
        server: str,
        studio_id: int,
        created: int,
        *,
        title: str | None = None,
        label_config: str | None = None,
        extra_params: Mapping[str, object] | None = None,
    ) -> Project:
        """The project of this key, made if new; given fields are written where they differ.

        Args:
            title: as Label Studio itself says; None where somebody else names the project.
        """
        fields = ProjectFields()
        if title is not None:
            fields["title"] = title
        if label_config is not None:
            fields["label_config"] = label_config
        if extra_params is not None:
            fields["extra_params"] = dict(extra_params)
        with self._db.read() as db:
            found = _by_key(db, server, studio_id, created)
        if found is not None and all(
            getattr(found, name) == value for name, value in fields.items()
        ):
            return found
        with self._db.write() as db:
            found = _by_key(db, server, studio_id, created)
            if found is None:
                if title is None:
                    _make_room(db, server)
                slug = project_slug(server, studio_id, created)
                found = Project(server=server, studio_id=studio_id, created=created, slug=slug)
                db.add(found)
            for name, value in fields.items():
                setattr(found, name, value)
            db.flush()
            return found

    def find(self, server: str, studio_id: int, created: int) -> Project | None:
        """The project of this key, if the ledger knows it."""
        with self._db.read() as db:
            return _by_key(db, server, studio_id, created)

    def get(self, project_id: int) -> Project:
        """The project of this number.

        Raises:
            UnknownProject: there is none.
        """
        with self._db.read() as db:
            found = db.get(Project, project_id)
        if found is None:
            raise UnknownProject(f"The ledger knows no project number {project_id}.")
        return found

    def of_studio(self, server: str, studio_id: int) -> Project:
        """The newest project of that Label Studio number.

        One that ``connect`` made goes before one that a /setup named.

        Raises:
            UnknownProject: it was never connected.
        """
        by_connect = Project.connection.is_not(None) & Project.connected
        with self._db.read() as db:
            found = db.scalars(
                select(Project)
                .where(Project.server == server, Project.studio_id == studio_id)
                .order_by(by_connect.desc(), Project.connected.desc(), Project.created.desc())
            ).first()
        if found is None:
            raise UnknownProject(
                f"Project {studio_id} of {server} is not connected: "
                f"run `python -m backend connect --project {studio_id}`."
            )
        return found

    def all(self, *, connected_only: bool = False, server: str | None = None) -> list[Project]:
        """The projects, of one Label Studio server if it is named."""
        query = select(Project).order_by(Project.id)
        if server is not None:
            query = query.where(Project.server == server)
        if connected_only:
            query = query.where(Project.connected)
        with self._db.read() as db:
            return list(db.scalars(query))

    def update(self, project_id: int, **fields: Unpack[ProjectFields]) -> None:
        with self._db.write() as db:
            db.execute(update(Project).where(Project.id == project_id).values(**fields))

    def move(self, server: str, new_server: str) -> None:
        """Know the projects of a Label Studio by another address of the same one.

        Raises:
            IntegrityError: some are known by both addresses.
        """
        with self._db.write() as db:
            moved = update(Project).where(Project.server == server)
            db.execute(moved.values(server=new_server))
            names = db.scalars(select(StudioName).where(StudioName.server == server)).all()
            # After all that it said, and not now: a restore that is repeated writes the same.
            last = max((n.heard_at for n in names), default=0.0) + 1.0
            for name, heard_at in [(n.name, n.heard_at) for n in names] + [(server, last)]:
                db.merge(StudioName(server=new_server, name=name, heard_at=heard_at))
            for former in names:
                db.delete(former)

    def note_name(self, server: str, name: str) -> None:
        """Keep an address that the Label Studio at ``server`` said it has, with its last ones."""
        if name in self.names(server) or len(name) > LONGEST_NAME:
            return
        with self._db.write() as db:
            db.merge(StudioName(server=server, name=name, heard_at=time.time()))
            db.flush()
            for old in db.scalars(_names_of(server).offset(MOST_NAMES)).all():
                db.delete(old)

    def names(self, server: str) -> list[str]:
        """The addresses that the Label Studio at ``server`` said it has, newest first."""
        with self._db.read() as db:
            return [found.name for found in db.scalars(_names_of(server))]

    def forget(self, project_id: int) -> None:
        """Delete everything that the ledger holds of a project."""
        with self._db.write() as db:
            _forget(db, project_id)


def _forget(db: Session, project_id: int) -> None:
    own_rounds = select(Round.id).where(Round.project_id == project_id)
    own_publications = select(Publication.id).where(Publication.project_id == project_id)
    db.execute(delete(Place).where(Place.publication_id.in_(own_publications)))
    db.execute(delete(Part).where(Part.round_id.in_(own_rounds)))
    for entity in (
        *(Action, Evidence, Publication, Version, Event, Round),
        *(TaskStamps, StampsListing, PoolPicture),
    ):
        db.execute(delete(entity).where(entity.project_id == project_id))
    db.execute(delete(Project).where(Project.id == project_id))


def _make_room(db: Session, server: str) -> None:
    """Forget the oldest projects that only a /setup has named, but for ``MOST_UNCONFIRMED`` - 1."""
    unconfirmed = select(Project.id).where(Project.server == server, Project.unconfirmed)
    newest_first = unconfirmed.order_by(Project.id.desc())
    for project_id in db.scalars(newest_first.offset(MOST_UNCONFIRMED - 1)).all():
        _forget(db, project_id)


def _names_of(server: str) -> Select[StudioName]:
    of_server = select(StudioName).where(StudioName.server == server)
    return of_server.order_by(StudioName.heard_at.desc(), StudioName.name)


def _by_key(db: Session, server: str, studio_id: int, created: int) -> Project | None:
    key = {"server": server, "studio_id": studio_id, "created": created}
    return db.scalars(_OF_KEY, key).first()


def project_slug(server: str, studio_id: int, created: int) -> str:
    """A folder name for a project: its numbers and a hash of the server's URL."""
    digest = hashlib.sha256(server.encode()).hexdigest()[:8]
    return f"project-{studio_id}-{created}-{digest}"
