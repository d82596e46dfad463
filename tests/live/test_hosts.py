"""A round on two worker hosts, each cut off once, and what comes of it; `make soak` runs it.

The web, Label Studio, PostgreSQL and Valkey are on this machine, the workers in network namespaces
of their own. `-s` prints the figures. What is not cut is the registry: all hosts have its folder
mounted.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from backend.insight.findings.finding import Installation
from backend.insight.findings.hosts import check_hosts
from backend.jobs.names import parent_of
from backend.ledger import Part, upgrade
from backend.ledger.parts import LEASE_S
from backend.local.label_studio_guard import guard_environment
from backend.settings import load_settings
from backend.workplace import Workplace
from tests.backend.postgresql import PASSWORD, PostgreSQL, why_no_postgresql
from tests.limits import scaled
from tests.live.harness.hosts import ADDRESS, Host, hosts, why_no_hosts
from tests.live.harness.servers import (
    Process,
    free_port,
    start_label_studio,
    start_valkey,
)
from tests.live.harness.stack import NETWORK, Stack, TinyProject, make_project, start_role

T = TypeVar("T")

pytestmark = [pytest.mark.live, pytest.mark.soak, pytest.mark.timeout(1200)]

IMAGES, LABELLED = 110, 6
STEPS = 300
"""A member then trains for longer than it takes to renew a lease, and is met half done."""

AFTER_LEASE_S = 60.0
HEARD_S = 15.0


@dataclass(frozen=True)
class Laboratory:
    """A running system on three hosts; ``hosts`` are the workers', by name, with their workers."""

    stack: Stack
    hosts: Mapping[str, tuple[Host, Process]]
    project: TinyProject

    def wait(self, condition: Callable[[], T | None], what: str) -> T:
        return wait(self.stack, self.hosts, condition, what)

    def parts(self, stage: str) -> list[Part]:
        last = self.stack.last_train(self.project)
        return [] if last is None else self.stack.work.ledger.parts.of_round(last.id, stage)


def wait(
    stack: Stack,
    workers: Mapping[str, tuple[Host, Process]],
    condition: Callable[[], T | None],
    what: str,
) -> T:
    """``stack.wait``, with the ends of the workers' logs where it was in vain."""
    try:
        return stack.wait(condition, what)
    except TimeoutError as error:
        tails = [f"{name}:\n{process.tail()}" for name, (_, process) in workers.items()]
        raise TimeoutError("\n".join([str(error), *tails])) from None


def heard(work: Workplace) -> set[str]:
    """The hosts whose processes have been heard of lately."""
    since = time.time() - HEARD_S
    return {each.host for each in work.ledger.processes.all() if each.seen_at > since}


def host_of(part: Part) -> str:
    """Whose worker holds the part, or held it last."""
    parent = parent_of(str(part.holder))
    return "" if parent is None else parent.host


@pytest.fixture(scope="module")
def laboratory(
    label_studio_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Laboratory]:
    for reason in (why_no_hosts(), why_no_postgresql()):
        if reason is not None:
            pytest.skip(reason)
    folder = tmp_path_factory.mktemp("hosts")
    with hosts("worker-a", "worker-b") as made, ExitStack() as undo:
        yield _start(folder, label_studio_template, made, undo)


def _start(folder: Path, template: Path, made: list[Host], undo: ExitStack) -> Laboratory:
    web_url = f"http://{ADDRESS}:{free_port()}"
    postgresql = PostgreSQL(ADDRESS)
    undo.callback(postgresql.close)
    (folder / "valkey").mkdir()
    valkey = start_valkey(folder / "valkey", host=ADDRESS)
    undo.callback(valkey.stop)
    label_studio = start_label_studio(
        folder / "label-studio",
        template=template,
        host=ADDRESS,
        environment=guard_environment(web_url),
    )
    undo.callback(label_studio.stop)
    # What all hosts are given alike; each has a DATA_DIR of its own.
    shared: dict[str, Any] = {
        "label_studio_url": label_studio.url,
        "label_studio_api_key": label_studio.api_key,
        "redis_url": valkey.url,
        "ledger_url": f"postgresql+psycopg://ledger:{PASSWORD}@{ADDRESS}:{postgresql.port}/postgres",
        "registry_url": str(folder / "registry"),
        "shared_secret": "throwaway-" * 4,
        "basic_auth_pass": "throwaway-5432",
        "backend_url": web_url,
        "network": NETWORK,
        "engine": "torch",
        "workers": 1,
        "retrain_every": 1000,
    }
    own = {"host": ADDRESS, "port": int(web_url.rpartition(":")[2]), "data_dir": folder / "web"}
    settings = load_settings(_env_file=None, **shared, **own)
    upgrade(settings.ledger_url)
    environment = {name.upper(): str(value) for name, value in {**shared, **own}.items()}
    web = start_role("serve", folder, environment)
    undo.callback(web.stop)
    workers = {}
    for host in made:
        given = {**shared, "data_dir": folder / host.name}
        process = host.start(
            [sys.executable, "-m", "backend", "worker"],
            folder / f"{host.name}.log",
            {name.upper(): str(value) for name, value in given.items()},
        )
        undo.callback(process.stop)
        workers[host.name] = (host, process)
    work = Workplace(settings)
    undo.callback(work.close)
    stack = Stack(
        settings, work, label_studio, valkey, web, workers[made[0].name][1], folder, environment
    )
    wait(stack, workers, lambda: len(heard(work)) == 3, "web and workers to be heard of")
    return Laboratory(stack, workers, make_project(stack, "Three hosts", IMAGES, steps=STEPS))


@dataclass(frozen=True)
class Cut:
    """A host that was cut off at a part.

    Attributes:
        lease_until: of that part, as it was then; unix seconds as ``at`` is.
    """

    host: str
    part_id: int
    at: float
    lease_until: float


def cut_at(lab: Laboratory, stage: str, progress: float) -> Cut:
    """Cut off the host that has done so much of a part of the stage; another one is heard of."""

    def begun() -> Part | None:
        alive = heard(lab.stack.work)
        for part in lab.parts(stage):
            half_done = part.state == "leased" and part.progress >= progress
            if half_done and lab.hosts.keys() <= alive:
                return part
        return None

    part = lab.wait(begun, f"a part of {stage} to be at work")
    host, _ = lab.hosts[host_of(part)]
    host.cut()
    return Cut(host.name, part.id, time.time(), part.lease_until or 0.0)


def taken_elsewhere(lab: Laboratory, stage: str, cut: Cut) -> bool:
    (part,) = (each for each in lab.parts(stage) if each.id == cut.part_id)
    return host_of(part) not in ("", cut.host)


def weights_of(lab: Laboratory, version: int) -> dict[str, bytes]:
    """The members' files, once the version is there: whole, or not at all."""
    row = lab.stack.work.ledger.projects.get(lab.project.row_id)
    folder = lab.stack.settings.registry_path / row.slug / "versions" / str(version)
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def test_a_round_on_two_hosts_survives_the_loss_of_either_and_gives_the_same_weights(
    laboratory: Laboratory,
) -> None:
    lab = laboratory
    ledger, project = lab.stack.work.ledger, lab.project
    project.label(*project.few(LABELLED))
    ledger.events.add(project.row_id, "RETRAIN")
    fit = cut_at(lab, "fit", progress=0.1)
    trained_on = {host_of(part) for part in lab.parts("fit")}
    lab.wait(lambda: taken_elsewhere(lab, "fit", fit), "the other host to train the member")
    again_s = time.time() - fit.lease_until
    lab.hosts[fit.host][0].mend()
    score = cut_at(lab, "score", progress=0.0)
    first = lab.stack.await_round(project, 1)
    after_s = (first.ended_at or 0.0) - score.lease_until
    lab.hosts[score.host][0].mend()
    print(
        f"\ncut in fit: {fit.host}, its lease ended {fit.lease_until - fit.at:.0f} s later and "
        f"the other host went on {again_s:.1f} s after that"
        f"\ncut in score: {score.host}, the round ended {(first.ended_at or 0.0) - score.at:.0f} s "
        f"later, {after_s:.1f} s after the lease"
        f"\nstages in seconds: {first.timings}"
    )
    assert first.state == "succeeded", first.error
    assert trained_on == set(lab.hosts)
    assert 0 < fit.lease_until - fit.at <= LEASE_S
    assert again_s < scaled(AFTER_LEASE_S)
    assert after_s < scaled(AFTER_LEASE_S)

    def agree() -> bool:
        found = [finding.code for finding in check_hosts(Installation(lab.stack.work))]
        return found == ["hosts"] and len(heard(lab.stack.work)) == 3

    lab.wait(agree, "all hosts to be back, and to agree")
    # On one host alone, with the same labels and the same seeds; the other is told to end.
    _, gone = lab.hosts["worker-a"]
    gone.stop(scaled(20))
    assert gone.popen.returncode == 0
    assert "worker-a" not in heard(lab.stack.work)
    ledger.events.add(project.row_id, "RETRAIN")
    ours = weights_of(lab, 1)
    alone = lab.wait(lambda: weights_of(lab, 2), "the same to be trained on one host")
    assert {host_of(part) for part in lab.parts("fit")} == {"worker-b"}
    assert len(ours) == project.members
    assert ours == alone
