"""The supervisor's parts: children, ports, the lock, what Label Studio is started with."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner
from rich.console import Console

from backend.cli import cli
from backend.data_dir import load_secrets, remember, remembered
from backend.local import child as child_module
from backend.local import ports
from backend.local import supervisor as supervisor_module
from backend.local.child import Child
from backend.local.errors import CannotRun
from backend.local.label_studio_server import label_studio_environment, local_label_studio
from backend.local.progress import ProgressReporter
from backend.local.supervisor import Supervisor, only_one, welcome
from backend.settings import ROOT, Settings, load_settings
from tests.limits import wait_until

WAIT = "import time, signal; {} print('up', flush=True); time.sleep(600)"


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(ports, "PORT_PATIENCE_S", 0.1)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[Child]]:
    children: list[Child] = []
    yield children
    for child in children:
        child.stop_by(0)


def child_of(code: str, tmp_path: Path, started: list[Child]) -> Child:
    """A running Python that is ready once it printed "up"."""
    log = tmp_path / "child.log"
    child = Child(
        "part",
        [sys.executable, "-c", code],
        log,
        os.environ,
        lambda child: "up" in child.log_tail(),
    )
    started.append(child)
    child.start()
    return child


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        yield other.getsockname()[1]


def supervisor(tmp_path: Path, **overrides: object) -> Supervisor:
    settings = load_settings(_env_file=None, data_dir=tmp_path, **overrides)
    with (tmp_path / "console.txt").open("w") as file:
        return Supervisor(settings, ProgressReporter(Console(file=file, quiet=True)))


def test_a_child_that_ends_starts_again_and_shows_its_last_lines(
    tmp_path: Path, started: list[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_module, "BACKOFF_S", (0.05,))
    child = child_of(WAIT.format(""), tmp_path, started)
    wait_until(child.ready, 20, "the child")
    first = child.pid
    os.kill(first, signal.SIGKILL)
    messages: list[str] = []

    def again() -> bool:
        child.keep_running(messages.append)
        return child.alive() and child.pid != first

    wait_until(lambda: not child.alive(), 5, "its end")
    wait_until(again, 20, "its second start")
    assert len(messages) == 1
    assert "part ended (signal 9); it starts again in 0.05 s" in messages[0]
    assert "| up" in messages[0]


def test_a_child_that_started_again_and_is_never_ready_starts_once_more(
    tmp_path: Path, started: list[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_module, "BACKOFF_S", (0.05,))
    log = tmp_path / "child.log"
    hangs = [sys.executable, "-c", "import time; time.sleep(600)"]
    child = Child("part", hangs, log, os.environ, lambda child: False, limit_s=0.2)
    started.append(child)
    child.start()
    first = child.pid
    messages: list[str] = []

    def again() -> bool:
        child.keep_running(messages.append)
        return child.alive() and child.pid != first

    wait_until(again, 20, "its second start")
    assert messages[0] == "part was not ready after 0.2 s, so it is ended."
    assert "part ended (signal 9); it starts again in 0.05 s" in messages[-1]


def test_a_child_that_ends_at_once_waits_longer_each_time(
    tmp_path: Path, started: list[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_module, "BACKOFF_S", (0.01, 0.02, 0.03))
    child = child_of("raise SystemExit(3)", tmp_path, started)
    messages: list[str] = []

    def four_ends() -> bool:
        child.keep_running(messages.append)
        return len(messages) == 4

    wait_until(four_ends, 30, "four ends", every_s=0.01)
    assert [text.split(" starts again in ")[1].split(" s.")[0] for text in messages] == [
        "0.01",
        "0.02",
        "0.03",
        "0.03",
    ]


def test_a_child_that_ignores_sigterm_is_killed_with_its_children(
    tmp_path: Path, started: list[Child]
) -> None:
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN); import os; os.fork();"
    child = child_of(WAIT.format(deaf), tmp_path, started)
    wait_until(child.ready, 20, "the child")
    family = psutil.Process(child.pid).children(recursive=True)
    assert family
    child.ask_to_stop()
    assert not child.stop_by(0)
    assert not child.alive()
    _, left = psutil.wait_procs(family, timeout=5)
    assert left == []


def test_nothing_survives_a_killed_supervisor(tmp_path: Path) -> None:
    log = tmp_path / "child.log"
    code = f"""
import os, time
from pathlib import Path
from backend.local.child import Child
child = Child("part", [{sys.executable!r}, "-c", {WAIT.format("")!r}], Path({str(log)!r}),
              os.environ, lambda child: "up" in child.log_tail())
child.start()
while not child.ready(): time.sleep(0.05)
print(child.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        psutil.wait_procs([child], timeout=5)
        # Orphans are reaped by whoever adopts them: a zombie does nothing any more.
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_child_that_cannot_start_is_explained_with_its_log(
    tmp_path: Path, started: list[Child]
) -> None:
    child = child_of("raise SystemExit('no room left')", tmp_path, started)
    with pytest.raises(CannotRun, match=r"part ended while it started(.|\n)*no room left"):
        supervisor(tmp_path)._wait_for([child])


def test_a_child_that_is_never_ready_is_given_up(tmp_path: Path, started: list[Child]) -> None:
    child = child_of("import time; time.sleep(600)", tmp_path, started)
    child.limit_s = 0.3
    with pytest.raises(CannotRun, match=r"was not ready after 0\.3 s"):
        supervisor(tmp_path)._wait_for([child])


def test_a_long_log_is_moved_aside(
    tmp_path: Path, started: list[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_module, "LOG_BYTES", 10)
    (tmp_path / "child.log").write_text("yesterday " * 5)
    child = child_of(WAIT.format(""), tmp_path, started)
    wait_until(child.ready, 20, "the child")
    assert "yesterday" in (tmp_path / "child.1.log").read_text()
    assert "yesterday" not in child.log_tail()


def test_a_long_log_is_emptied_where_there_is_no_room_for_a_copy(
    tmp_path: Path, started: list[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_module, "LOG_BYTES", 10)
    (tmp_path / "child.1.log").mkdir()  # no more to be written to than a full disk
    (tmp_path / "child.log").write_text("yesterday " * 5)
    child = child_of(WAIT.format(""), tmp_path, started)
    wait_until(child.ready, 20, "the child")
    assert "yesterday" not in child.log_tail()
    child.log.write_text("today " * 5)
    child.keep_running(pytest.fail)
    assert child.alive()
    assert child.log.stat().st_size == 0


def test_a_child_whose_log_cannot_be_written_is_reported_and_started_once_it_can(
    tmp_path: Path, started: list[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_module, "BACKOFF_S", (0.05,))
    monkeypatch.setattr(child_module, "RETRY_AFTER_OSERROR_S", 0.05)
    child = child_of(WAIT.format(""), tmp_path, started)
    wait_until(child.ready, 20, "the child")
    child.log.unlink()
    child.log.mkdir()
    os.kill(child.pid, signal.SIGKILL)
    messages: list[str] = []

    def reported() -> bool:
        child.keep_running(messages.append)
        return any("cannot be watched" in each for each in messages)

    wait_until(reported, 20, "the child to be given up for now")
    assert "the log cannot be read" in messages[0]
    assert not child.alive()
    child.log.rmdir()

    def ready() -> bool:
        child.keep_running(messages.append)
        return child.ready()

    wait_until(ready, 20, "the child again")


def test_a_child_that_cannot_be_started_at_all_is_explained(tmp_path: Path) -> None:
    (tmp_path / "child.log").mkdir()
    child = Child("part", [sys.executable], tmp_path / "child.log", os.environ, bool)
    with pytest.raises(CannotRun, match="part cannot be started now"):
        supervisor(tmp_path)._launch(child)


def test_only_one_supervisor_works_on_a_data_folder(tmp_path: Path) -> None:
    with (
        only_one(tmp_path),
        pytest.raises(CannotRun, match=f"already running on .* \\(process {os.getpid()}\\)"),
        only_one(tmp_path),
    ):
        pass
    with only_one(tmp_path):
        pass


def test_a_set_port_that_is_taken_is_refused(tmp_path: Path, taken: int) -> None:
    with pytest.raises(CannotRun, match=f"PORT {taken} at 127.0.0.1 is taken"):
        supervisor(tmp_path, port=taken)._choose_port()
    assert remembered(tmp_path) == {}


def test_the_default_port_steps_aside_once_and_is_remembered(
    tmp_path: Path, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "DEFAULT_PORT", taken)
    supervisor(tmp_path)._choose_port()
    chosen = remembered(tmp_path)["port"]
    assert chosen > taken
    assert load_settings(_env_file=None, data_dir=tmp_path).port == chosen
    with socket.socket() as other:
        other.bind(("127.0.0.1", chosen))
        other.listen(1)
        with pytest.raises(CannotRun, match="is taken"):
            supervisor(tmp_path)._choose_port()


def test_an_address_of_another_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotRun, match="HOST must be an address of this machine"):
        supervisor(tmp_path, host="192.0.2.1", port=9090)._choose_port()


def test_images_do_not_go_with_another_label_studio(tmp_path: Path) -> None:
    elsewhere = supervisor(tmp_path, label_studio_url="http://x", label_studio_api_key="k")
    with pytest.raises(CannotRun, match="LABEL_STUDIO_URL names another one"):
        elsewhere.start(tmp_path)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "localhost,127.0.0.1,::1"),
        ({"NO_PROXY": "lab.test"}, "lab.test,localhost,127.0.0.1,::1"),
        ({"no_proxy": "*", "NO_PROXY": "lab.test"}, "*"),
    ],
)
def test_the_local_label_studio_calls_our_web_without_a_proxy(
    tmp_path: Path, given: dict[str, str], expected: str
) -> None:
    ours = {"HTTP_PROXY": "http://proxy.test:3128", **given}
    environment = label_studio_environment(
        ours, tmp_path, load_secrets(tmp_path), "http://127.0.0.1:9090"
    )
    assert environment["no_proxy"] == environment["NO_PROXY"] == expected
    assert environment["HTTP_PROXY"] == "http://proxy.test:3128"


def test_label_studio_gets_none_of_our_names_and_no_password_on_its_command_line(
    tmp_path: Path,
) -> None:
    kept = load_secrets(tmp_path)
    ours = {"HOST": "0.0.0.0", "PORT": "9090", "DATA_DIR": "x", "PATH": "/bin"}
    environment = label_studio_environment(ours, tmp_path, kept, "http://127.0.0.1:9090")
    assert not {"HOST", "PORT", "DATA_DIR"} & environment.keys()
    assert environment["PATH"] == "/bin"
    command = local_studio(tmp_path, ours)
    assert not any(secret in word for secret in kept.values() for word in command)


def local_studio(
    tmp_path: Path, ours: dict[str, str] | None = None, **settings: object
) -> list[str]:
    """The command of the local Label Studio."""
    reporter = ProgressReporter(Console(quiet=True))
    loaded = load_settings(_env_file=None, data_dir=tmp_path, **settings)
    return local_label_studio(loaded, ours or {}, reporter).command


def test_the_dashboard_and_its_login_are_printed(tmp_path: Path) -> None:
    password = load_secrets(tmp_path, dashboard=True)["dashboard_pass"]
    said = welcome(load_settings(_env_file=None, data_dir=tmp_path), own_studio=False, project=None)
    lines = [line.split() for line in said.splitlines()]
    assert ["dashboard", "http://127.0.0.1:9090/"] in lines
    assert ["log", "in", "as", "owner"] in lines
    assert ["password", password] in lines


def test_label_studio_listens_on_the_loopback_wherever_the_web_does(tmp_path: Path) -> None:
    open_to_all = {"host": "0.0.0.0", "basic_auth_pass": "x" * 20}
    command = local_studio(tmp_path, **open_to_all)
    assert command[command.index("--internal-host") + 1] == "127.0.0.1"
    command = local_studio(tmp_path, **open_to_all, local_label_studio_host="0.0.0.0")
    assert command[command.index("--internal-host") + 1] == "0.0.0.0"


@pytest.mark.parametrize("former", ["192.0.2.7", "laboratory.example"])
def test_a_label_studio_that_had_another_address_is_not_moved_silently(
    tmp_path: Path, former: str
) -> None:
    """Earlier releases had it follow HOST. The ledger knows its projects by that address."""
    remember(tmp_path, label_studio_url=f"http://{former}:8080")
    with pytest.raises(CannotRun, match=f"set LOCAL_LABEL_STUDIO_HOST={former} "):
        local_studio(tmp_path)


def test_label_studio_lets_nobody_sign_up_and_reaches_our_web_alone(tmp_path: Path) -> None:
    kept = load_secrets(tmp_path)
    # Somebody's own Label Studio may have others in the same environment.
    ours = {"SSRF_PROTECTION_ENABLED": "false", "LABEL_STUDIO_ML_BLOCK_LOCAL_IP": "false"}
    found = label_studio_environment(ours, tmp_path, kept, "http://192.168.3.4:9090")
    on = ("DISABLE_SIGNUP_WITHOUT_LINK", "ML_BLOCK_LOCAL_IP", "SSRF_PROTECTION_ENABLED")
    assert [found[f"LABEL_STUDIO_{name}"] for name in on] == ["true"] * 3
    assert found["LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS"] == "false"
    banned = found["LABEL_STUDIO_USER_ADDITIONAL_BANNED_SUBNETS"].split(",")
    assert "192.168.3.4/32" not in banned
    assert {"192.168.3.5/32", "127.0.0.0/8", "::1/128", "169.254.0.0/16"} <= set(banned)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"REDIS_URL": "redis://127.0.0.1:1/0"}, "No Redis or Valkey answers at REDIS_URL"),
        (
            {"LABEL_STUDIO_URL": "http://127.0.0.1:1", "LABEL_STUDIO_API_KEY": "a" * 40},
            "http://127.0.0.1:1",
        ),
        ({"REGISTRY_URL": "/proc/none"}, "REGISTRY_URL must name a folder that can be written"),
    ],
)
def test_servers_that_are_named_and_do_not_answer_are_refused_before_anything_starts(
    given: dict[str, str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"DATA_DIR": str(tmp_path), **given}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(supervisor_module, "SIGNALS", ())  # those of this process stay as they are
    done = CliRunner().invoke(cli, ["run"])
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    assert sentence in " ".join(done.output.split())
    assert not (tmp_path / "logs").exists()
