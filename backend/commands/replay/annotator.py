"""An annotator of one project who knows every mask and draws it as brush strokes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from backend.actions.connect import connect_project
from backend.commands.replay.plan import (
    ReplayPlan,
    project_options,
    project_title,
    unknown_label,
)
from backend.commands.replay.strokes import label_config, strokes
from backend.errors import BackendError
from backend.label_studio.browser_image import browser_image
from backend.label_studio.control import control_of, id_of
from backend.workplace import Workplace
from training.datasets.labelled import BadFolder, Labelled, LabelledFolder

Report = Callable[[str], None]


class ReplayFailed(BackendError):
    """The live system did not do what the replay waited for."""


@dataclass
class Annotator:
    """Labels the tasks of one project.

    Attributes:
        project_id: the ledger's number of the project.
        tasks: task id -> image and mask.
        report: gets a line of progress.
        draw: the random order.
        labelled: task ids, in the order they were submitted.
    """

    work: Workplace
    plan: ReplayPlan
    folder: LabelledFolder
    order: str
    project: int
    title: str
    project_id: int
    tasks: Mapping[int, Labelled]
    report: Report
    draw: random.Random
    labelled: list[int] = field(default_factory=list)

    def label_initial(self) -> None:
        """Label the initial set: the same images in every order, drawn by name, not by task id."""
        by_name = {item.name: task_id for task_id, item in self.tasks.items()}
        drawn = random.Random(f"initial set {self.plan.seed}")
        for name in drawn.sample(sorted(by_name), self.plan.first):
            self._submit(by_name[name], prediction=None)

    def label_more(self) -> tuple[int, int]:
        """Label the tasks of one more round.

        Returns:
            (tasks that Label Studio chose, those of them that were not the ranking's head).
        """
        served = mismatches = 0
        for _ in range(self.plan.per_round):
            if self.order == "random":
                task_id = self._draw_task()
            else:
                task_id, fault = self._next_task()
                served += 1
                if fault is not None:
                    mismatches += 1
                    self.report(fault)
            self._submit(task_id, self._pre_annotation(task_id))
        return served, mismatches

    def _draw_task(self) -> int:
        left = {
            item.name: task_id
            for task_id, item in self.tasks.items()
            if task_id not in self.labelled
        }
        return left[self.draw.choice(sorted(left))]

    def _next_task(self) -> tuple[int, str | None]:
        """The task that Label Studio serves, and a sentence if it is not the ranking's head."""
        before = self._ranking()
        row = self.work.studio.next_task(self.project)
        if row is None:
            raise ReplayFailed(
                f"Label Studio has no next task in project {self.project}, though "
                f"{len(self.tasks) - len(self.labelled)} are not labelled."
            )
        task_id = int(row["id"])
        if task_id not in self.tasks or task_id in self.labelled:
            raise ReplayFailed(
                f"Label Studio served task {task_id} of project {self.project}, which the "
                "replay did not upload or has labelled already: does somebody else work there?"
            )
        fault = order_fault(task_id, before, self.labelled)
        if fault is not None and (after := self._ranking()) != before:
            # A publication came between the two readings: its order counts then.
            fault = order_fault(task_id, after, self.labelled)
        return task_id, fault

    def _ranking(self) -> list[int]:
        """Task ids of the serving publication, head first; empty if none serves."""
        queue = self.work.ledger.publications.queue(self.project_id)
        return [place.task_id for place in queue]

    def _pre_annotation(self, task_id: int) -> dict[str, Any] | None:
        """The prediction that the annotator starts from, if there is one."""
        serving = self.work.ledger.publications.serving(self.project_id)
        if serving is None:
            return None
        predictions = self.work.studio.predictions(task_id)
        return next((p for p in predictions if p["model_version"] == serving.name), None)

    def _submit(self, task_id: int, prediction: dict[str, Any] | None) -> None:
        classes = self.folder.classes
        started = time.monotonic()
        mask = self.folder.read_mask(self.tasks[task_id])
        result = strokes(mask, classes, unknown_label(classes), prediction)
        fields = {} if prediction is None else {"parent_prediction": prediction["id"]}
        self.work.studio.annotate(
            task_id, result, lead_time=round(time.monotonic() - started, 3), **fields
        )
        self.labelled.append(task_id)


def open_project(
    work: Workplace,
    plan: ReplayPlan,
    folder: LabelledFolder,
    training: Sequence[Labelled],
    order: str,
    report: Report,
) -> Annotator:
    """Make a project, upload the images, connect it; its annotator."""
    unknown = unknown_label(folder.classes)
    title = project_title(folder.root.resolve().name, order, datetime.now().astimezone())
    created = control_of(work.studio).projects.create(
        title=title, label_config=label_config(folder.classes, unknown), maximum_annotations=1
    )
    project_id = id_of(created)
    started = time.monotonic()
    task_ids = work.studio.upload(project_id, [_upload_file(item) for item in training])
    report(
        f"project {project_id}, {title!r}: {len(task_ids)} images uploaded in "
        f"{time.monotonic() - started:.1f} s"
    )
    connected = connect_project(work, project_id, project_options(plan, unknown))
    return Annotator(
        work=work,
        plan=plan,
        folder=folder,
        order=order,
        project=project_id,
        title=title,
        project_id=connected.project.id,
        tasks=dict(zip(task_ids, training, strict=True)),
        report=report,
        draw=random.Random(f"random order {plan.seed}"),
    )


def order_fault(task_id: int, ranking: Sequence[int], labelled: Sequence[int]) -> str | None:
    """What is wrong with serving this task; None if it is the first that is not labelled.

    Beyond the ranking's end any task is right: they come in random order there.
    """
    done = set(labelled)
    head = next((ranked for ranked in ranking if ranked not in done), None)
    if head is None or head == task_id:
        return None
    place = f"place {ranking.index(task_id) + 1}" if task_id in ranking else "no place"
    return f"Label Studio served task {task_id} ({place} in the ranking), its head is {head}."


def _upload_file(item: Labelled) -> tuple[str, bytes]:
    image = browser_image(item.image, item.image.stem)
    if image.problem:
        raise BadFolder(f"{image.problem}.")
    return image.name, image.data
