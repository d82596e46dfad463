"""Which pictures of a pool outside Label Studio are tasks already."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import cast

from sqlalchemy import Table, bindparam, delete, func, insert, select, update

from backend.ledger.engine import Database
from backend.ledger.entities import PoolPicture

_TABLE = cast(Table, PoolPicture.__table__)


class PoolPictures:
    """Pictures by project, as numbers made of their addresses."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def all(self, project_id: int) -> set[int]:
        """Those that are tasks or about to be."""
        with self._db.read() as db:
            own = PoolPicture.project_id == project_id
            return set(db.scalars(select(PoolPicture.picture).where(own)))

    def claims(self, project_id: int) -> set[int]:
        """Those of which it is not known whether they are tasks."""
        with self._db.read() as db:
            return set(
                db.scalars(
                    select(PoolPicture.picture).where(
                        PoolPicture.project_id == project_id, PoolPicture.task_id.is_(None)
                    )
                )
            )

    def last_task(self, project_id: int) -> int:
        """The greatest id of their tasks; 0 before the first."""
        with self._db.read() as db:
            own = PoolPicture.project_id == project_id
            return db.scalar(select(func.max(PoolPicture.task_id)).where(own)) or 0

    def claim(self, project_id: int, pictures: Collection[int]) -> None:
        """Say that these will be tasks, before Label Studio is asked for them."""
        if pictures:
            rows = [{"project_id": project_id, "picture": each} for each in pictures]
            with self._db.write() as db:
                db.connection().execute(insert(_TABLE), rows)

    def settle(self, project_id: int, tasks: Mapping[int, int]) -> None:
        """Say which task each claimed picture became."""
        if tasks:
            of_picture = (_TABLE.c.project_id == project_id) & (_TABLE.c.picture == bindparam("of"))
            with self._db.write() as db:
                db.connection().execute(
                    update(_TABLE).where(of_picture).values(task_id=bindparam("made")),
                    [{"of": picture, "made": task} for picture, task in tasks.items()],
                )

    def release(self, project_id: int) -> None:
        """Give up every claim that became no task."""
        with self._db.write() as db:
            db.execute(
                delete(PoolPicture).where(
                    PoolPicture.project_id == project_id, PoolPicture.task_id.is_(None)
                )
            )
