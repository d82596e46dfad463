"""What the registry keeps of the versions of a filled ledger, for pictures of labelled images."""

from __future__ import annotations

import numpy as np

from backend.ledger import Project
from backend.ledger.entities import Round
from backend.workplace import Workplace
from training.committee.folders import PREDICTED_FILE
from training.committee.out_of_fold import pack
from training.examples import Example
from training.images import encode_png

SIZE = (60, 120)
TASKS = range(1000, 1080)


def keep_predictions(work: Workplace, project: Project, *numbers: int) -> None:
    """Examples whose left half is labelled as class 1, of which versions saw the upper half."""
    label, predicted = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint8)
    label[:, : SIZE[1] // 2] = 1
    predicted[: SIZE[0] // 2, : SIZE[1] // 2] = 1
    image = np.full((*SIZE, 3), 100, np.uint8)
    for task in TASKS:
        work.registry.put_example(project.slug, f"e{task}", Example(str(task), image, label))
    manifest = [
        {
            "task": task,
            "stamp": "a",
            "annotations": [],
            "audit": False,
            "url": None,
            "digest": f"e{task}",
        }
        for task in TASKS
    ]
    for number in numbers:
        version = work.ledger.versions.get(project.id, number)
        assert version is not None
        with work.ledger.database.write() as db:
            db.get_one(Round, version.round_id).manifest = manifest  # type: ignore[assignment]
        folder = work.registry.version_path(project.slug, number)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "version.json").touch()
        masks = {str(task): encode_png(predicted) for task in TASKS}
        (folder / PREDICTED_FILE).write_bytes(pack(masks))
