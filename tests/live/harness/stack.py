"""A running system against real servers, and tiny projects of drawn images.

The web is a process of its own; the worker is one too, or the test does its jobs by itself.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import psutil
import pytest
import requests
from PIL import Image

from backend.actions.connect import connect_project
from backend.commands.replay.strokes import label_config, strokes
from backend.errors import StudioRefused
from backend.jobs import jobs
from backend.label_studio.control import control_of
from backend.ledger import Publication, Round
from backend.settings import Settings, load_settings
from backend.workplace import Workplace
from tests.limits import wait_until
from tests.live.harness.local_worker import LocalWorker
from tests.live.harness.servers import (
    ROOT,
    LabelStudio,
    Process,
    ServerFailed,
    ValkeyServer,
    free_port,
    start_valkey,
)
from training.fitting.folds import fold

T = TypeVar("T")
Mask = npt.NDArray[np.uint8]

CLASSES = ("background", "dark cell", "bright cell")
UNKNOWN = "Unknown"
SIDE_PX = 96

NETWORK = "tests.live.harness.tiny_network:network"

# Forty steps of it see the discs with a Dice of some 0.7: the gate lets nothing serve that is
# worse than seeing background only.
TINY: Mapping[str, Any] = {
    "members": 2,
    "steps": 40,
    "unknown_label": UNKNOWN,
    "audit_fraction": 0,
}
"""Options of a committee that is trained in seconds and good for nothing but tests."""

START_LIMIT_S = 120.0
ROUND_LIMIT_S = 240.0
"""A tiny round takes some 5 s here and 30 s in a worker process; others may use the cores."""


@dataclass
class Stack:
    """A running system.

    Attributes:
        work: the test's own door to its ledger and Label Studio.
        worker: a process, or the test itself: then nothing is done but during ``wait``.
        projects: those that were made here and are still looked at.
    """

    settings: Settings
    work: Workplace
    label_studio: LabelStudio
    valkey: ValkeyServer
    web: Process
    worker: Process | LocalWorker
    folder: Path
    environment: Mapping[str, str]
    projects: list[TinyProject] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.settings.backend_url

    @property
    def auth(self) -> tuple[str, str]:
        return self.settings.basic_auth_user, self.settings.basic_auth_pass.get_secret_value()

    def start_again(self, role: str) -> Process:
        """ "serve" or "worker", on the same data and port as the one that ended."""
        process = start_role(role, self.folder, self.environment)
        if role == "serve":
            self.web = process
        else:
            self.worker = process
        return process

    def stop(self) -> None:
        """End everything that was started here."""
        for process in (self.worker, self.web):
            process.stop()
        self.work.close()
        self.work.studio.close()
        self.work.redis.close()
        self.valkey.stop()

    def wait(
        self, condition: Callable[[], T | None], what: str, limit_s: float = ROUND_LIMIT_S
    ) -> T:
        """``wait_until``, with the ends of our logs where it was in vain.

        A local worker does one job between two looks at the condition.
        """

        def met() -> T | None:
            found = condition()
            while not found and isinstance(self.worker, LocalWorker) and self.worker.turn():
                found = condition()
            return found

        try:
            found = wait_until(met, limit_s, what)
        except TimeoutError as error:
            logs = [f"web:\n{self.web.tail()}"]
            if isinstance(self.worker, Process):
                logs.append(f"worker:\n{self.worker.tail()}")
            raise TimeoutError("\n".join([str(error), *logs])) from None
        assert found is not None  # wait_until gives what is truthy
        return found

    def check(self, project: TinyProject) -> None:
        """The job that looks at Label Studio, here and now."""
        with pytest.MonkeyPatch.context() as patch:
            self.set_environment(patch)
            jobs.check(project.row_id)

    def set_environment(self, patch: pytest.MonkeyPatch) -> None:
        """What is called here reads its settings as our processes do, until ``patch`` ends."""
        for name, value in self.environment.items():
            patch.setenv(name, value)

    def release(self, *projects: TinyProject) -> None:
        """Let go of these projects, or of all: nobody looks at them any more."""
        for project in projects or tuple(self.projects):
            active = self.work.ledger.rounds.active(project.row_id)
            if active is not None:
                self.work.ledger.rounds.cancel(active.id, "The test has ended.")
            self.work.ledger.projects.update(project.row_id, connected=False)
            with suppress(StudioRefused):
                control_of(self.work.studio).projects.delete(project.id)
            self.projects.remove(project)

    def post(self, path: str, body: object) -> requests.Response:
        """POST to our web over a connection of its own, as Label Studio does."""
        return requests.post(f"{self.url}{path}", json=body, auth=self.auth, timeout=30)

    def horses(self) -> list[psutil.Process]:
        """The processes that do a job right now: children of the workers' children."""
        try:
            single = psutil.Process(self.worker.pid).children()
            return [horse for worker in single for horse in worker.children()]
        except psutil.NoSuchProcess:
            return []

    def last_train(self, project: TinyProject) -> Round | None:
        return self.work.ledger.rounds.last(project.row_id, kind="train")

    def await_round(self, project: TinyProject, number: int = 1) -> Round:
        """The project's training round of that count, once it has ended, however."""

        def ended() -> Round | None:
            row = self.last_train(project)
            if row is None or row.version < number or row.state == "active":
                return None
            return row

        return self.wait(ended, f"training round {number} of project {project.id} to end")


@dataclass(eq=False)
class TinyProject:
    """A connected project of drawn images. ``masks`` by task id, ``tasks`` in upload order;
    ``members`` are its committee's."""

    stack: Stack
    id: int
    row_id: int
    tasks: tuple[int, ...]
    masks: Mapping[int, Mask]
    classes: Sequence[str] = CLASSES
    members: int = TINY["members"]

    def result(self, task_id: int, prediction: Mapping[str, Any] | None = None) -> list[Any]:
        """The task's true mask as an annotation's regions."""
        return strokes(self.masks[task_id], self.classes, UNKNOWN, prediction)

    def few(self, count: int) -> list[int]:
        """So many tasks, in upload order, such that each member has one to learn from.

        Few labels may all fall into one member's fold, and the round then says so and fails.
        """
        firsts = {fold(str(task_id), self.members): task_id for task_id in reversed(self.tasks)}
        if len(firsts) < self.members:
            raise ValueError(f"the folds of {len(self.tasks)} tasks are {sorted(firsts)} only")
        rest = [task_id for task_id in self.tasks if task_id not in firsts.values()]
        return sorted([*firsts.values(), *rest[: count - self.members]])

    def label(self, *task_ids: int) -> None:
        for task_id in task_ids:
            self.stack.work.studio.annotate(task_id, self.result(task_id))

    def serving(self) -> Publication | None:
        return self.stack.work.ledger.publications.serving(self.row_id)

    def ranking(self) -> list[int]:
        serving = self.serving()
        if serving is None:
            return []
        return [row.task_id for row in self.stack.work.ledger.publications.ranking(serving.id)]


def start_stack(
    folder: Path,
    label_studio: LabelStudio,
    *,
    worker_process: bool = False,
    keep_jobs: bool = False,
    **settings: Any,
) -> Stack:
    """Start Valkey, web and worker on free ports, all state in ``folder``; wait until healthy.

    Args:
        worker_process: the worker is `python -m backend worker`, and not the test itself.
        keep_jobs: Valkey keeps its jobs on the disk too.

    Raises:
        ServerFailed: one of them did not come up; the ends of the logs are in the message.
    """
    valkey = start_valkey(_made(folder / "valkey"), kept=keep_jobs)
    port = free_port()
    given: dict[str, Any] = {
        "data_dir": folder / "data",
        "host": "127.0.0.1",
        "port": port,
        "backend_url": f"http://127.0.0.1:{port}",
        "label_studio_url": label_studio.url,
        "label_studio_api_key": label_studio.api_key,
        "redis_url": valkey.url,
        "ledger_url": f"sqlite:///{folder / 'data' / 'ledger.sqlite3'}",
        "registry_url": str(folder / "data" / "registry"),
        "basic_auth_user": "committee",
        "basic_auth_pass": "throwaway-3",
        "allowed_image_hosts": "",
        "network": NETWORK,
        # OpenVINO compiles each version for seconds; worker processes go on with it.
        "engine": "auto" if worker_process else "torch",
        "members": 2,
        "workers": 2,
        "retrain_every": 1000,
        **settings,
    }
    environment = {name.upper(): str(value) for name, value in given.items()}
    loaded = load_settings(_env_file=None, **given)
    work = Workplace(loaded)
    processes: list[Process] = []
    try:
        roles = ("serve", "worker") if worker_process else ("serve",)
        processes += (start_role(role, folder, environment) for role in roles)
        web, *workers = processes
        wait_until(lambda: _healthy(web, loaded), START_LIMIT_S, "the web to be healthy")
        wait_until(lambda: _all_tick(workers, work), START_LIMIT_S, "the worker to be at work")
        worker = workers[0] if workers else LocalWorker(work, environment)
    except BaseException as error:
        tails = "\n".join(process.tail() for process in processes)
        for process in processes:
            process.stop()
        work.close()
        valkey.stop()
        if isinstance(error, TimeoutError):
            raise ServerFailed(f"{error}\n{tails}") from error
        raise
    return Stack(loaded, work, label_studio, valkey, web, worker, folder, environment)


def start_role(role: str, folder: Path, environment: Mapping[str, str]) -> Process:
    command = [sys.executable, "-m", "backend", role]
    return Process(command, folder / f"{role}.log", environment, cwd=ROOT)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _healthy(web: Process, settings: Settings) -> bool:
    _must_live(web)
    try:
        answer = requests.get(f"{settings.backend_url}/health", timeout=5)
    except (requests.ConnectionError, requests.Timeout):
        return False
    return answer.status_code == 200 and settings.ledger_path.exists()


def _all_tick(workers: list[Process], work: Workplace) -> bool:
    for worker in workers:
        _must_live(worker)
    return not workers or "worker" in {row.role for row in work.ledger.processes.all()}


def _must_live(process: Process) -> None:
    if not process.alive():
        raise ServerFailed(f"{process.log.stem} ended while starting:\n{process.tail()}")


def make_project(stack: Stack, title: str, images: int, **options: Any) -> TinyProject:
    """A connected project of drawn fields, with ``TINY`` options unless others are given."""
    studio = stack.work.studio
    created = control_of(studio).projects.create(
        title=title, label_config=label_config(CLASSES, UNKNOWN), maximum_annotations=1
    )
    fields = [draw_field(seed) for seed in range(images)]
    files = [(f"field-{seed}.png", png) for seed, (png, _) in enumerate(fields)]
    tasks = tuple(studio.upload(created.id, files))
    connected = connect_project(stack.work, created.id, {**TINY, **options})
    masks = {task_id: mask for task_id, (_, mask) in zip(tasks, fields, strict=True)}
    project = TinyProject(stack, created.id, connected.project.id, tasks, masks)
    stack.projects.append(project)
    return project


def draw_field(seed: int) -> tuple[bytes, Mask]:
    """(PNG, class indices): dark and bright discs on a grey that is uneven, with noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX]
    grey = 128 + 0.2 * (x - SIDE_PX / 2) + rng.normal(0, 4, (SIDE_PX, SIDE_PX))
    mask = np.zeros((SIDE_PX, SIDE_PX), dtype=np.uint8)
    for index in (1, 2, 1, 2, 1):
        cy, cx, radius = *rng.uniform(12, SIDE_PX - 12, 2), rng.uniform(7, 12)
        mask[(y - cy) ** 2 + (x - cx) ** 2 < radius**2] = index
    # How well a disc shows differs from field to field, so that some are hard.
    contrast = rng.uniform(15, 70)
    grey += np.choose(mask, [0, -contrast, contrast])
    image = np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue(), mask


def write_folder(root: Path, images: int) -> Path:
    """A labelled folder of drawn fields, for ``replay``; a corner of each mask is unknown."""
    for name in ("images", "masks"):
        _made(root / name)
    (root / "classes.txt").write_text("\n".join(CLASSES))
    for seed in range(images):
        png, mask = draw_field(seed)
        mask[:8, :8] = 255
        (root / "images" / f"field-{seed}.png").write_bytes(png)
        Image.fromarray(mask).save(root / "masks" / f"field-{seed}.png")
    return root
