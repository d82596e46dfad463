"""The log as JSON: one object a line, with the ids of what the code is at work for."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from backend.errors import LedgerUnavailable
from backend.jobs import run_part
from backend.jobs.parts import do_part
from backend.jobs.worker import release_parts
from backend.ledger import Outcome
from backend.logs import JsonLines, bind, bound
from backend.rounds import stages
from backend.settings import ROOT
from backend.workplace import Workplace
from tests.backend.workplaces import SERVER, brush_config, open_client


class Lines(logging.Handler):
    """Keeps what a process would write."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonLines())
        self.written: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.written.append(self.format(record))

    def of_round(self, number: int) -> list[str]:
        """What one grep finds."""
        found = [line for line in self.written if f'"round": {number},' in line]
        return [json.loads(line)["message"] for line in found]


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler, root = Lines(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


log = logging.getLogger("backend.test")


def test_a_record_is_one_line_whatever_it_holds(lines: Lines) -> None:
    bind(task=1)  # outside of a block
    with bound(project=3), bound(round=17):
        bind(part=5)
        log.info("a name\nwith\u2028lines and %s", "\ud800")
    log.info("later")
    first, second = map(json.loads, lines.written)
    assert "\n" not in lines.written[0]
    assert lines.written[0].isascii()
    assert {name: first[name] for name in ("project", "round", "part")} == {
        "project": 3,
        "round": 17,
        "part": 5,
    }
    assert first["message"] == "a name\nwith\u2028lines and \ud800"
    assert first["time"].endswith("+00:00")
    assert (first["level"], first["logger"]) == ("INFO", "backend.test")
    assert set(second) == {"time", "level", "logger", "process", "message"}


def test_a_traceback_stays_in_its_line(lines: Lines) -> None:
    try:
        raise LedgerUnavailable("full")
    except LedgerUnavailable:
        log.exception("failed")
    (line,) = lines.written
    assert "LedgerUnavailable: full" in json.loads(line)["traceback"]


def test_threads_do_not_share_ids(lines: Lines) -> None:
    def work(number: int) -> None:
        with bound(request=str(number)):
            log.info("%d", number)

    threads = [Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(each["request"] == each["message"] for each in map(json.loads, lines.written))


def test_each_request_has_an_id_and_the_project_that_it_concerns(
    work: Workplace, lines: Lines
) -> None:
    row = work.ledger.projects.ensure(SERVER, 7, 1, label_config=brush_config("cell"))
    with open_client(work.settings) as client:
        for _ in range(2):
            login = (work.settings.basic_auth_user, "throwaway-8731")
            body = {
                "action": "A_NEW_ONE",
                "project": {"id": 7, "created_at": "1970-01-01T00:00:01Z"},
            }
            assert client.post("/webhook", json=body, auth=login).status_code == 201
    told = [each for each in map(json.loads, lines.written) if "not known" in each["message"]]
    assert [each["project"] for each in told] == [row.id] * 2
    assert len({each["request"] for each in told}) == 2


def start_round(work: Workplace) -> tuple[int, int]:
    """A round under way, and its part."""
    row = work.ledger.projects.ensure(SERVER, 7, 1, title="x")
    started = work.ledger.rounds.start(row.id, "rank", "test", "publish")
    assert started is not None
    (part,) = work.ledger.parts.of_round(started.id)
    return started.id, part.id


def test_one_grep_tells_a_rounds_story(
    work: Workplace, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    number, part_id = start_round(work)
    ends: list[Any] = [LedgerUnavailable("The ledger is away."), None]

    def publish(*_: Any) -> Outcome:
        if (error := ends.pop(0)) is not None:
            raise error
        log.info("at work")  # in whichever module
        return Outcome()

    monkeypatch.setattr(stages, "RUN", {"publish": publish})
    monkeypatch.setattr(stages, "clear_up", lambda _work, _round: None)
    counted: list[tuple[str, ...]] = []
    monkeypatch.setattr(
        work.counters, "observe", lambda name, labels, _s: counted.append((name, *labels))
    )
    taken = work.ledger.parts.take(part_id, "worker-killed")
    assert taken is not None
    release_parts(work.ledger, {"worker-killed"})
    for ended_well in (False, True):
        taken = work.ledger.parts.take(part_id, "worker-2")
        assert taken is not None
        assert do_part(work, taken) is ended_well
    story = lines.of_round(number)
    assert story[0] == f"publish of round {number} waits again: its worker ended, attempt 1"
    assert story[1].startswith(f"publish of round {number} again in 10 s: The ledger is away.")
    assert f"publish of round {number}, part 0: again after" in story[2]
    assert story[3] == "at work"
    assert story[4].endswith(", and the round has ended well")
    assert counted == [("part_seconds", "publish", "again"), ("part_seconds", "publish", "done")]


def test_a_job_logs_its_name(
    work: Workplace, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Job:
        id, worker_name = "part-1-0", "worker-1"

    def fail(*_: Any) -> Outcome:
        raise LedgerUnavailable("The ledger is away.")

    number, part_id = start_round(work)
    jobs = sys.modules["backend.jobs.jobs"]
    monkeypatch.setattr(jobs, "get_current_job", Job)
    monkeypatch.setattr(jobs, "load_settings", lambda: work.settings)
    monkeypatch.setattr(jobs, "deliver_parts", lambda _work: None)
    monkeypatch.setattr(stages, "RUN", {"publish": fail})
    run_part(part_id)
    told = [json.loads(line) for line in lines.written]
    assert {each["job"] for each in told if each.get("round") == number} == {"part-1-0"}
    assert number in {each.get("round") for each in told}


def test_a_process_logs_in_the_format_that_is_set(tmp_path: Path) -> None:
    program = (
        "import sys, logging, warnings\n"
        "from backend.logs import log_to_stderr\n"
        "log_to_stderr(sys.argv[1])\n"
        "logging.getLogger('a').info('told')\n"
        "warnings.warn('odd')\n"
    )

    def told(log_format: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", program, log_format],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stderr.splitlines()

    assert told("text")[0].endswith("INFO a: told")
    first, second = map(json.loads, told("json"))
    assert first["message"] == "told"
    assert "odd" in second["message"]
