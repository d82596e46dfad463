"""The publications: rankings of the pool by a version, each under a name in Label Studio."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import delete, func, select

from backend.ledger.engine import Database
from backend.ledger.entities import Place, Publication, Round
from backend.ledger.shapes import PublicationState

NO_VERSION = 0
"""What a start round's publication has in place of a version's number."""


class Publications:
    """The publications of each project, of which at most one serves, and their rankings."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def prepare(
        self,
        project_id: int,
        version: int,
        round_id: int,
        *,
        arm: str,
        quantiles: Sequence[float],
        places: Sequence[Place],
        taken: Collection[str] = (),
        elsewhere: bool = False,
        mode: str | None = None,
        weights: Mapping[str, float] | None = None,
        arm_quantiles: Mapping[str, Sequence[float]] | None = None,
    ) -> Publication:
        """A new publication, not yet serving, with its ranking.

        Args:
            places: of the ranked tasks.
            taken: names that Label Studio holds already, those of a purged ledger among them.
            elsewhere: the version was made in another project, and the name says so.

        The others are columns of ``Publication``.
        """
        with self._db.write() as db:
            highest = select(func.max(Publication.n)).where(
                Publication.project_id == project_id, Publication.version == version
            )
            n = (db.scalar(highest) or 0) + 1
            while publication_name(version, n, elsewhere=elsewhere) in taken:
                n += 1
            made = Publication(
                project_id=project_id,
                version=version,
                n=n,
                name=publication_name(version, n, elsewhere=elsewhere),
                round_id=round_id,
                arm=arm,
                quantiles=list(quantiles),
                length=len(places),
                made_at=time.time(),
                mode=mode,
                weights=None if weights is None else dict(weights),
                arm_quantiles=(
                    None
                    if arm_quantiles is None
                    else {name: list(values) for name, values in arm_quantiles.items()}
                ),
            )
            db.add(made)
            db.flush()
            for place in places:
                place.publication_id = made.id
            db.add_all(places)
        return made

    def serve(self, publication_id: int, stored: int) -> None:
        """Make a publication the serving one; the former is superseded in the same transaction.

        Args:
            stored: predictions of it that Label Studio has stored.
        """
        now = time.time()
        with self._db.write() as db:
            publication = db.get_one(Publication, publication_id)
            for former in db.scalars(
                select(Publication).where(
                    Publication.project_id == publication.project_id,
                    Publication.state == "serving",
                    Publication.id != publication_id,
                )
            ):
                former.state, former.superseded_at = "superseded", now
            db.flush()  # before: the index lets no two serve for a moment
            publication.state, publication.served_at = "serving", now
            publication.stored, publication.superseded_at = stored, None

    def set_state(self, publication_id: int, state: PublicationState) -> None:
        """Nothing if the publication has gone with its project meanwhile."""
        with self._db.write() as db:
            publication = db.get(Publication, publication_id)
            if publication is None:
                return
            publication.state = state
            if state in ("failed", "superseded"):
                publication.superseded_at = time.time()

    def serving(self, project_id: int) -> Publication | None:
        """The publication that Label Studio serves."""
        with self._db.read() as db:
            return db.scalars(
                select(Publication).where(
                    Publication.project_id == project_id, Publication.state == "serving"
                )
            ).first()

    def all(self, project_id: int) -> list[Publication]:
        """Newest first."""
        with self._db.read() as db:
            return list(
                db.scalars(
                    select(Publication)
                    .where(Publication.project_id == project_id)
                    .order_by(Publication.id.desc())
                )
            )

    def weighed(
        self, project_id: int, limit: int
    ) -> list[tuple[str, float, str, dict[str, float]]]:
        """Name, time, mode and weights by arm of the newest that were served, newest first."""
        with self._db.read() as db:
            found = db.execute(
                select(Publication.name, Publication.made_at, Publication.mode, Publication.weights)
                .where(
                    Publication.project_id == project_id,
                    Publication.served_at.is_not(None),
                    Publication.mode.is_not(None),
                    Publication.weights.is_not(None),
                )
                .order_by(Publication.id.desc())
                .limit(limit)
            )
            return [(name, at, mode or "", weights or {}) for name, at, mode, weights in found]

    def ranking(self, publication_id: int) -> list[Place]:
        """The ranked tasks, head of the queue first."""
        with self._db.read() as db:
            return list(
                db.scalars(
                    select(Place)
                    .where(Place.publication_id == publication_id)
                    .order_by(Place.position)
                )
            )

    def head(self, publication_id: int, count: int) -> list[Place]:
        """The first ranked tasks."""
        with self._db.read() as db:
            return list(
                db.scalars(
                    select(Place)
                    .where(Place.publication_id == publication_id, Place.position < count)
                    .order_by(Place.position)
                )
            )

    def placed_for(self, publication_id: int, whys: Collection[str]) -> list[Place]:
        """The tasks that stand in a queue for one of these reasons, head first."""
        with self._db.read() as db:
            return list(
                db.scalars(
                    select(Place)
                    .where(Place.publication_id == publication_id, Place.why.in_(whys))
                    .order_by(Place.position)
                )
            )

    def place_of(self, publication_id: int, task_id: int) -> Place | None:
        with self._db.read() as db:
            return db.get(Place, (publication_id, task_id))

    def queue(self, project_id: int) -> list[Place]:
        """The ranking of the serving publication; empty where none serves."""
        serving = self.serving(project_id)
        return [] if serving is None else self.ranking(serving.id)

    def task_ids(self, project_id: int) -> list[int]:
        """The tasks of the serving publication, head of the queue first."""
        with self._db.read() as db:
            return list(
                db.scalars(
                    select(Place.task_id)
                    .join(Publication, Publication.id == Place.publication_id)
                    .where(Publication.project_id == project_id, Publication.state == "serving")
                    .order_by(Place.position)
                )
            )

    def chosen_for(self, project_id: int, labelled_at: Mapping[int, float]) -> dict[int, str]:
        """Task id to ``Place.why`` in the newest queue that held it when it was labelled.

        A later queue may hold it for another reason, but nobody labelled it from there.

        Args:
            labelled_at: task id to when its annotation was made, unix seconds.
        """
        with self._db.read() as db:
            found = db.execute(
                select(Place.task_id, Place.why, Publication.served_at)
                .join(Publication, Publication.id == Place.publication_id)
                # Whatever became of it: one that failed was never served.
                .where(Publication.project_id == project_id, Publication.served_at.is_not(None))
                .order_by(Publication.served_at)
            )
            return {  # a newer queue overwrites an older one
                task_id: why
                for task_id, why, served_at in found
                if task_id in labelled_at and (served_at or 0.0) <= labelled_at[task_id]
            }

    def drop_rankings(self, project_id: int, keep: int, keep_unjudged: int = 0) -> None:
        """Forget the rankings of all but the newest ``keep`` publications that were served.

        A publication that was prepared after the newest of them may yet be served, and keeps its
        ranking.

        Args:
            keep: at least 1: the one that serves.
            keep_unjudged: how many of the newest that served after the last successful training
                round had begun: their labels are not judged yet (``chosen_for``).
        """
        served = (Publication.project_id == project_id) & Publication.served_at.is_not(None)
        judged_at = (
            select(func.coalesce(func.max(Round.started_at), 0.0))
            .where(
                Round.project_id == project_id,
                Round.kind == "train",
                Round.state == "succeeded",
                Round.manifest.is_not(None),
            )
            .scalar_subquery()
        )
        newest_first = (
            select(Publication.id)
            .where(served)
            .order_by(Publication.served_at.desc(), Publication.id.desc())
        )
        unjudged = newest_first.where(Publication.superseded_at >= judged_at)
        with self._db.write() as db:
            kept = [
                *db.scalars(newest_first.limit(keep)),
                *db.scalars(unjudged.limit(keep_unjudged)),
            ]
            may_serve = (Publication.state == "prepared") & (Publication.id > max(kept, default=0))
            old = select(Publication.id).where(
                Publication.project_id == project_id, Publication.id.not_in(kept), ~may_serve
            )
            db.execute(delete(Place).where(Place.publication_id.in_(old)))


def publication_name(version: int, n: int, *, elsewhere: bool = False) -> str:
    """What Label Studio calls the publication: its model_version."""
    return f"committee-v{version}.{n}" + ("-from-elsewhere" if elsewhere else "")
