"""The model class that Label Studio's protocol speaks to: hooks, and nothing but hooks.

Label Studio's base class is built anew for every request, so nothing lasting lives on ``self``;
``bind`` gives the class its workplace once a process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from backend.click import answer_click
from backend.errors import BadRequest
from backend.ledger import Project
from backend.predict import TaskPrediction, predict_tasks
from backend.web.events import record_event
from backend.web.messages import Event, Ignored, Kept, SmartAnswer, read_message
from backend.workplace import Workplace

if TYPE_CHECKING:

    class LabelStudioMLBase:
        """What both 1.x and 2.x of label-studio-ml give; theirs carries no types."""

        def __init__(self, *args: Any, **kwargs: Any) -> None: ...

else:
    try:
        from label_studio_ml.model import LabelStudioMLBase
    except ImportError:

        class LabelStudioMLBase:
            """Stands in where label-studio-ml is not installed: the web needs none of it."""

            def __init__(self, *args, **kwargs):
                pass


PREDICT_WITHIN_S = 80.0
"""Label Studio waits 100 s for /predict; tasks that are not predicted by then are queued."""

UNTRAINED = "untrained"
"""The model_version that /setup reports before anything serves."""


class CommitteeModel(LabelStudioMLBase):
    """The committee as a label-studio-ml model, of either generation.

    1.x calls ``cls(label_config=..., ...)`` and ``fit((), event=..., data=...)``, 2.x
    ``cls(project_id, label_config=...)`` and ``fit(event, data)``.
    """

    work: Workplace

    @classmethod
    def bind(cls, work: Workplace) -> type[CommitteeModel]:
        """A class of this model that works in ``work``."""
        return type("CommitteeModel", (cls,), {"work": work})

    def setup(self, project: Project) -> str:
        """The serving publication's name; loads nothing, since Label Studio waits 3 s."""
        serving = self.work.ledger.publications.serving(project.id)
        return UNTRAINED if serving is None else serving.name

    def predict(
        self,
        tasks: Sequence[Mapping[str, Any]],
        project: Project | None = None,
        context: object = None,
        **_: Any,
    ) -> list[list[TaskPrediction]] | list[SmartAnswer]:
        """A list of predictions for each task, in order; [] where nothing can be claimed.

        A smart tool's question is answered by an object: a list shows nothing and leaves the click
        behind.

        Args:
            tasks: Label Studio's tasks, each with ``id`` and ``data``; a smart tool's also with
                ``annotations``, ``drafts`` and ``predictions``.
            project: by default that of the first task.
            context: a smart tool's prompts; None for an ordinary prediction.
        """
        if not tasks:
            return []
        if project is None and "project" in tasks[0]:
            number = int(tasks[0]["project"])
            project = self.work.ledger.projects.of_studio(self.work.server, number)
        serving = None if project is None else self.work.ledger.publications.serving(project.id)
        if context is not None:
            return [
                SmartAnswer(
                    result=[]
                    if project is None or serving is None
                    else answer_click(self.work, project, serving, task, context)
                )
                for task in tasks
            ]
        if project is None or serving is None:
            nothing: list[list[TaskPrediction]] = [[] for _ in tasks]
            return nothing
        rows = [(task["id"], task["data"]) for task in tasks]
        return predict_tasks(self.work, project, serving, rows, within_s=PREDICT_WITHIN_S)

    def fit(self, *args: Any, **kwargs: Any) -> Kept | Ignored:
        """Write an event to the ledger; the workers' clock does the rest."""
        event = kwargs.get("event") or next((a for a in args if isinstance(a, str)), None)
        data = kwargs.get("data") or next((a for a in args if isinstance(a, Mapping)), None)
        if event is None or data is None:
            raise BadRequest("fit expects an event's name and its data.")
        return record_event(self.work, read_message(Event, {**data, "action": event}))
