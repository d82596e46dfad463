"""`make run`: start what is missing, watch it, and stop all of it at the end.

The supervisor is the parent of everything it starts. By hand: a process manager would be one more
program to install, and knows neither our health checks nor our order.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from rich.console import Console

from backend.data_dir import load_secrets, remember, remembered
from backend.errors import BackendError
from backend.installation import EnvironmentFailed
from backend.label_studio.bulk import Studio
from backend.local.child import Child
from backend.local.demo.record import (
    address_checksum,
    recorded,
    remember_demo,
    source_of,
    still_exists,
)
from backend.local.errors import CannotRun
from backend.local.label_studio_server import (
    LABEL_STUDIO_USER,
    install_label_studio,
    local_label_studio,
)
from backend.local.ports import becomes_free, first_free_port
from backend.local.progress import ProgressReporter
from backend.local.readiness import answers_http, answers_redis
from backend.local.valkey import embedded_url, embedded_valkey
from backend.process_group import launcher
from backend.setting_values import reachable
from backend.settings import DEFAULT_PORT, ROOT, Settings, load_settings
from training.committee.store.store import StoreUnavailable

# Everything ends within 10 s of Ctrl-C; most of that goes to the web's open requests (5 s).
STOP_S = 6.5
STOP_VALKEY_S = 2.0

WATCH_EVERY_S = 0.5

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(settings: Settings, images: Path | None = None) -> int:
    """Start everything that is missing, and stop it all on Ctrl-C.

    Args:
        settings: as the environment says; children read the same environment.
        images: a folder to fill the demo project from, instead of drawn images.

    Returns:
        The exit status: 0 after Ctrl-C or SIGTERM, 1 after a failure that was explained.
    """
    console = Console(highlight=False, soft_wrap=True)
    supervisor = Supervisor(settings, ProgressReporter(console))
    for number in SIGNALS:
        signal.signal(number, _interrupt)
    try:
        with only_one(settings.data_dir):
            try:
                supervisor.start(images)
                supervisor.watch()
            finally:
                for number in SIGNALS:
                    signal.signal(number, signal.SIG_IGN)  # stopping takes seconds, and has limits
                supervisor.stop()
    except KeyboardInterrupt:
        console.print("Stopped; `make run` goes on where this one ended.")
        return 0
    except (BackendError, EnvironmentFailed) as error:
        console.print(f"\n{error}", markup=False, style="red")
        return 1
    return 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def only_one(data_dir: Path) -> Iterator[None]:
    """Lock DATA_DIR: two supervisors would run two Label Studios on one database.

    Raises:
        CannotRun: another supervisor holds it.
    """
    folder = data_dir / "run"
    folder.mkdir(mode=0o700, exist_ok=True)
    with (folder / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise CannotRun(
                f"`make run` is already running on {data_dir} (process {lock.read().strip()}); "
                "stop it with Ctrl-C there, or set another DATA_DIR here."
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


class Supervisor:
    """Starts the parts in order, keeps them running, and stops them."""

    def __init__(self, settings: Settings, progress: ProgressReporter) -> None:
        self._settings = settings
        self._data_dir = settings.data_dir
        self._progress = progress
        self._children: list[Child] = []  # in the order of their start
        self._valkey: Child | None = None
        self._environment = {**os.environ, "DATA_DIR": str(settings.data_dir)}
        local_studio = remembered(settings.data_dir).get("label_studio_url")
        self._own_studio = settings.label_studio_url in (None, local_studio)
        self._own_valkey = settings.redis_url in (None, embedded_url(settings.data_dir))

    def start(self, images: Path | None) -> None:
        """Start everything, in order; returns when all of it answers.

        Raises:
            CannotRun: a part cannot be started; the message says what to do.
        """
        if images is not None and not self._own_studio:
            raise CannotRun(
                "IMAGES fills the demo project of the local Label Studio, and LABEL_STUDIO_URL "
                "names another one: unset it, or import the images there."
            )
        self._check_given_servers()
        self._choose_port()
        load_secrets(self._data_dir, dashboard=True)
        waiting = []
        if self._own_studio:
            install_label_studio(self._progress)
            studio = local_label_studio(self._settings, self._environment, self._progress)
            waiting.append(self._launch(studio))
        if self._own_valkey:
            self._valkey = self._launch(embedded_valkey(self._data_dir, self._environment))
            self._wait_for([self._valkey])
        self._settings = load_settings(data_dir=self._data_dir)
        self._run_command("bringing the ledger up to date", "migrate")
        waiting += [self._launch(self._web()), self._launch(self._worker())]
        self._wait_for(waiting)
        project = self._demo_project(images) if self._own_studio else None
        self._progress.message(welcome(self._settings, self._own_studio, project))

    def watch(self) -> None:
        """Keep everything running until a signal comes."""
        while True:
            for child in self._children:
                child.keep_running(self._message)
            time.sleep(WATCH_EVERY_S)

    def stop(self) -> None:
        """End everything that was started: Valkey last, since the others use it."""
        self._progress.close()
        first = [child for child in self._children if child is not self._valkey]
        last = [child for child in self._children if child is self._valkey]
        for children, limit_s in ((first, STOP_S), (last, STOP_VALKEY_S)):
            for child in children:
                child.ask_to_stop()
            deadline = time.monotonic() + limit_s
            for child in children:
                child.stop_by(deadline)
        self._children.clear()

    def _message(self, text: str) -> None:
        with suppress(OSError):  # a closed terminal must not end what runs
            self._progress.message(text)

    def _check_given_servers(self) -> None:
        """Refuse servers that were named and do not answer, before anything is started."""
        if not self._own_valkey and not answers_redis(self._settings.redis()):
            raise CannotRun(
                "No Redis or Valkey answers at REDIS_URL: start it, correct the address or its "
                "password, or unset it for an embedded one."
            )
        if not self._own_studio:
            with Studio(*self._settings.label_studio()) as studio:
                studio.whoami()
        try:
            self._settings.store().check()
        except OSError as error:
            raise CannotRun(
                f"REGISTRY_URL must name a folder that can be written: {error}."
            ) from error
        except StoreUnavailable as error:
            raise CannotRun(str(error)) from error

    def _choose_port(self) -> None:
        """Find the web's port: a set or remembered one is used or refused, the default may move."""
        host, port = self._settings.host, self._settings.port
        if "port" in self._settings.model_fields_set:
            if not becomes_free(host, port):
                raise CannotRun(
                    f"PORT {port} at {host} is taken by another program: stop that one, or set "
                    "PORT to a free one."
                )
            return
        chosen = first_free_port(host, DEFAULT_PORT)
        remember(self._data_dir, port=chosen)
        if chosen != DEFAULT_PORT:
            self._progress.message(
                f"Port {DEFAULT_PORT} is taken: the backend listens on {chosen} from now on."
            )

    def _launch(self, child: Child) -> Child:
        self._children.append(child)
        try:
            child.start()
        except OSError as error:
            raise CannotRun(f"{child.name} cannot be started now: {error}.") from error
        return child

    def _wait_for(self, children: Sequence[Child]) -> None:
        for child in children:
            with self._progress.step(child.name) as report:
                report(f"Starting {child.name}")
                deadline = time.monotonic() + child.limit_s
                while not child.ready():
                    if not child.alive():
                        problem = "ended while it started"
                    elif time.monotonic() > deadline:
                        problem = f"was not ready after {child.limit_s:g} s"
                    else:
                        time.sleep(0.1)
                        continue
                    raise CannotRun(
                        f"{child.name} {problem}. The last lines of {child.log}:\n"
                        f"{child.log_tail()}Correct that and run the same command again."
                    )

    def _web(self) -> Child:
        url = f"http://{reachable(self._settings.host)}:{self._settings.port}/health"
        log = self._data_dir / "logs" / "web.log"
        command = [sys.executable, "-m", "backend", "serve"]
        return Child("web", command, log, self._environment, lambda _child: answers_http(url))

    def _worker(self) -> Child:
        folder = self._data_dir / "run"
        for left in folder.glob("worker-*.alive"):
            left.unlink(missing_ok=True)
        return Child(
            "worker",
            [sys.executable, "-m", "backend", "worker"],
            self._data_dir / "logs" / "worker.log",
            self._environment,
            lambda child: (folder / f"worker-{child.pid}.alive").exists(),
        )

    def _run_command(self, doing: str, *arguments: str) -> None:
        """Run one of our own commands to its end."""
        done = subprocess.run(
            [sys.executable, "-m", "backend", *arguments],
            cwd=ROOT,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise CannotRun(f"While {doing}:\n{(done.stderr or done.stdout).strip()}")

    def _demo_project(self, images: Path | None) -> int | None:
        """Make and connect the demo project; None if somebody has deleted it."""
        source = source_of(images)
        if not recorded(self._data_dir, source).done:
            self._make_demo(images)
        known = recorded(self._data_dir, source)
        with Studio(*self._settings.label_studio()) as studio:
            if not still_exists(studio, known):
                return None
        # Once, and again when our address has changed; a disconnected project stays disconnected.
        checksum = address_checksum(self._settings)
        if known.connected != checksum:
            with self._progress.step("the connection") as report:
                report("Connecting the demo project")
                self._run_command(
                    *("connecting the demo project", "connect", "--click", "--uncertainty-layer"),
                    *("--project", str(known.project)),
                )
            remember_demo(self._data_dir, source, connected=checksum)
        return known.project

    def _make_demo(self, images: Path | None) -> None:
        """Run the demo's maker in a process of its own, whose memory is free when it ends."""
        self._progress.close()
        command = [sys.executable, "-m", "backend.local.demo", *([str(images)] if images else [])]
        with subprocess.Popen(launcher(command), cwd=ROOT, env=self._environment) as process:
            try:
                code = process.wait()
            except KeyboardInterrupt:
                process.terminate()
                raise
        if code != 0:
            raise CannotRun(
                "The demo project is not complete (the reason stands above); run the same "
                "command again, and it goes on where it stopped."
            )


def welcome(settings: Settings, own_studio: bool, project: int | None) -> str:
    """What `make run` prints once everything runs: addresses, logins, what to do next."""
    lines = ["", "Everything is running.", ""]
    if own_studio:
        password = load_secrets(settings.data_dir)["label_studio_password"]
        if _writes_to_journal():  # no secret in a log
            password = f"label_studio_password in {settings.data_dir}/secrets.json"
        lines += [
            f"  Label Studio  {settings.label_studio_url}",
            f"  log in as     {LABEL_STUDIO_USER}",
            f"  password      {password}",
            "",
        ]
    secret = settings.dashboard_pass
    lines += [
        f"  dashboard     {settings.backend_url}/",
        f"  log in as     {settings.dashboard_user}",
        f"  password      {'' if secret is None else secret.get_secret_value()}",
        "",
        f"  backend       {settings.backend_url}",
        f"  logs          {settings.data_dir}/logs",
        "",
        *_next_steps(str(settings.label_studio_url), project),
        "",
        "Ctrl-C stops it all; nothing is lost.",
    ]
    return "\n".join(lines)


def _writes_to_journal() -> bool:
    """Whether systemd keeps what is printed: it names the stream by device and inode."""
    output = os.fstat(1)
    return os.environ.get("JOURNAL_STREAM") == f"{output.st_dev}:{output.st_ino}"


def _next_steps(label_studio_url: str, project: int | None) -> list[str]:
    python = ".venv/bin/python -m backend"
    if project is None:
        return [
            f"Next: `{python} connect --project ID` connects a project of {label_studio_url},",
            f"where ID is the number in its address; `{python} status` then shows its rounds.",
        ]
    return [
        f"Next: open {label_studio_url}/projects/{project}/data",
        "and press Label All Tasks. With some tasks labelled, a first round trains at",
        f"once (`{python} status` shows it); then every task opens with pre-annotations,",
        "and the next one served is the one that the committee would learn most from.",
    ]
