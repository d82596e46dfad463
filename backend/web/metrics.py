"""GET /metrics: what Prometheus scrapes, in the text format of prometheus-client (docs/METRICS.md).

What the ledger holds as a fact comes from the ledger, and so is the same whichever process of
whichever host is asked. What happens in workers and cannot be read off there is counted in Redis
(``backend.counters``), and the latency of requests in memory that the web processes of a host
share (``backend.web.latency``). Where the ledger or Redis is away, the rest is told all the same.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from backend import __version__
from backend.counters import BOUNDS_S as PART_BOUNDS_S
from backend.errors import BadSettings, LedgerUnavailable
from backend.insight.status import SILENT_AFTER_S
from backend.ledger.totals import Totals, read_totals
from backend.options import FALLBACK
from backend.redis_queue import QUEUES, redis_name
from backend.web.latency import BOUNDS_S, Latencies
from backend.workplace import Workplace

if TYPE_CHECKING:
    from prometheus_client.core import HistogramMetricFamily, Metric

QUEUE_PREFIX = "rq:queue:"
"""Where RQ keeps its queues."""

_INFINITY = float("inf")
_Counts = Mapping[tuple[str, ...], float]

_Row = tuple[Sequence[object], float | None]
"""The values of a sample's labels, and its own."""


def exposition(work: Workplace, latencies: Latencies) -> tuple[bytes, str]:
    """All metrics in Prometheus' text format, and its content type."""
    # Here, since few web processes are ever asked: they start without it.
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

    return generate_latest(_Collector(work, latencies)), CONTENT_TYPE_LATEST


class _Collector:
    """What ``generate_latest`` asks for the metrics of one scrape."""

    def __init__(self, work: Workplace, latencies: Latencies) -> None:
        self._work = work
        self._latencies = latencies

    def collect(self) -> Iterator[Metric]:
        began = time.perf_counter()
        yield _gauge("committee_build_info", "The release.", {"version": __version__}, 1)
        yield _requests(self._latencies)
        yield from self._of_ledger()
        yield from self._of_redis()
        took_s = time.perf_counter() - began
        yield _gauge("committee_scrape_seconds", "What this answer took.", {}, took_s)

    def _of_ledger(self) -> Iterator[Metric]:
        try:
            totals = read_totals(self._work.ledger.database)
        except LedgerUnavailable:
            totals = None
        up = totals is not None
        yield _gauge("committee_ledger_up", "Whether the ledger can be read.", {}, up)
        if totals is not None:
            yield from _facts(totals, time.time())

    def _of_redis(self) -> Iterator[Metric]:
        from redis.exceptions import RedisError

        counters = self._work.counters
        try:
            counts = counters.read()
            queues = {
                name: counters.redis.llen(f"{QUEUE_PREFIX}{redis_name(name)}") for name in QUEUES
            }
        except (RedisError, BadSettings):
            yield _gauge("committee_redis_up", "Whether Redis answers.", {}, 0)
            return
        yield _gauge("committee_redis_up", "Whether Redis answers.", {}, 1)
        yield _gauges(
            "committee_jobs_queued",
            "Jobs that wait in Redis for a worker.",
            ("queue",),
            [((name,), length) for name, length in queues.items()],
        )
        yield from _counted(counts)


def _gauges(name: str, meaning: str, labels: Sequence[str], rows: Sequence[_Row]) -> Metric:
    """A gauge; a row whose value is None is not told."""
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(name, meaning, labels=labels)
    for values, value in rows:
        if value is not None:
            family.add_metric([str(each) for each in values], float(value))
    return family


def _gauge(name: str, meaning: str, labels: Mapping[str, str], value: float) -> Metric:
    return _gauges(name, meaning, tuple(labels), [(tuple(labels.values()), value)])


def _counter(name: str, meaning: str, labels: Sequence[str], rows: Sequence[_Row]) -> Metric:
    from prometheus_client.core import CounterMetricFamily

    family = CounterMetricFamily(name, meaning, labels=labels)
    for values, value in rows:
        family.add_metric([str(each) for each in values], value or 0.0)
    return family


def _facts(totals: Totals, now: float) -> Iterator[Metric]:
    """What the ledger says of the connected projects and of the processes."""
    projects = {row.id: row for row in totals.projects if row.connected}
    slugs = {project_id: row.slug for project_id, row in projects.items()}

    def gauge(name: str, meaning: str, values: Mapping[int, float | None]) -> Metric:
        rows: list[_Row] = [((slugs[key],), value) for key, value in values.items() if key in slugs]
        return _gauges(f"committee_{name}", meaning, ("project",), rows)

    def of_rows(rows: Sequence[tuple[int, *tuple[str, ...], float]]) -> list[_Row]:
        """(project, label, ..., value) with the project's name."""
        return [
            ((slugs[project_id], *labels), value)
            for project_id, *labels, value in rows
            if project_id in slugs
        ]

    yield _gauges(
        "committee_project_info",
        "A connected project: Label Studio's number and title.",
        ("project", "number", "title"),
        [((row.slug, row.studio_id, row.title), 1) for row in projects.values()],
    )
    for name, meaning, attribute in (
        ("project_paused", "Whether it is paused.", "paused"),
        ("labels", "Labelled tasks.", "labelled"),
        ("labels_changed", "Labelled tasks that changed since the last round.", "changed"),
        ("queue_left", "Ranked tasks that are not labelled yet.", "ranked_left"),
        ("pool_tasks", "Tasks when the pool was last ranked.", "pool"),
        ("training_failures", "Training rounds that failed in a row.", "failures"),
    ):
        yield gauge(name, meaning, {key: getattr(row, attribute) for key, row in projects.items()})
    yield gauge(
        "check_age_seconds",
        "Since Label Studio was last compared with the ledger.",
        {key: _age(row.checked_at, now) for key, row in projects.items()},
    )
    yield _counter(
        "committee_rounds",
        "Rounds that have ended, and the stage that they had come to.",
        ("project", "kind", "stage", "outcome"),
        [(labels, value) for labels, value in of_rows(totals.rounds) if labels[-1] != "active"],
    )
    active = [(key, row) for key, row in totals.active.items() if key in slugs]
    for name, meaning, attribute in (
        ("round_active_seconds", "Since the round under way began.", "started_at"),
        ("stage_active_seconds", "Since its stage began.", "stage_started_at"),
    ):
        yield _gauges(
            f"committee_{name}",
            meaning,
            ("project", "kind", "stage"),
            [
                ((slugs[key], row.kind, row.stage), _age(getattr(row, attribute), now))
                for key, row in active
            ],
        )
    yield _gauges(
        "committee_stage_seconds",
        "What each stage of the last training round took that ended well.",
        ("project", "stage"),
        [
            ((slugs[key], stage), seconds)
            for key, timings in totals.timings.items()
            for stage, seconds in timings.items()
            if key in slugs
        ],
    )
    yield _gauges(
        "committee_parts",
        "Parts of the stage under way that wait for a worker, or that one holds.",
        ("project", "stage", "state"),
        of_rows(totals.parts),
    )
    waiting = {row[0] for row in totals.parts if row[2] == "waiting"}
    yield gauge(
        "part_wait_seconds",
        "How long the part that waits longest has waited, at most: since its stage began.",
        {key: _age(row.stage_started_at, now) for key, row in active if key in waiting},
    )
    yield gauge("events", "Events not handled yet.", {row[0]: row[1] for row in totals.events})
    yield gauge(
        "event_age_seconds",
        "Since the oldest of them came.",
        {row[0]: _age(row[2], now) for row in totals.events},
    )
    yield _gauges(
        "committee_versions",
        "Versions by what became of them.",
        ("project", "state"),
        of_rows(totals.versions),
    )
    promoted = totals.promoted
    for name, meaning, attribute in (
        ("version", "Number of the version that ranks.", "number"),
        ("version_labels", "Labelled images that it learnt from.", "examples"),
        ("foreground_dice", "Its foreground Dice, out of fold.", "foreground_dice"),
        ("calibration_error", "Its expected calibration error, out of fold.", "ece"),
        ("audit_images", "Audit images that it was measured on.", "audit_images"),
    ):
        yield gauge(name, meaning, {key: getattr(row, attribute) for key, row in promoted.items()})
    yield gauge(
        "version_age_seconds",
        "Since it was made.",
        {key: _age(row.created_at, now) for key, row in promoted.items()},
    )
    yield _gauges(
        "committee_audit_dice",
        "Its foreground Dice on the audit images, and both ends of the 95 % interval.",
        ("project", "end"),
        [
            ((slugs[key], end), value)
            for key, row in promoted.items()
            for end, value in zip(("value", "low", "high"), row.audit_dice, strict=True)
            if key in slugs
        ],
    )
    serving = totals.serving
    for name, meaning, values in (
        ("serving_version", "The version that ranked what serves; 0: none yet.", "version"),
        ("queue_length", "Tasks in the queue that serves.", "length"),
    ):
        yield gauge(name, meaning, {key: getattr(row, values) for key, row in serving.items()})
    yield gauge(
        "ranking_by_chance",
        "1 while chance ranks because the labels asked for do harm.",
        {key: row.mode == FALLBACK for key, row in serving.items()},
    )
    alive = Counter(role for role, seen in totals.processes if now - seen < SILENT_AFTER_S)
    yield _gauges(
        "committee_processes",
        "Processes that gave a sign of life within half a minute, on all hosts.",
        ("role",),
        [((role,), alive[role]) for role in ("web", "worker")],
    )


def _age(at: float | None, now: float) -> float | None:
    return None if at is None else max(0.0, now - at)


def _counted(counts: _Counts) -> Iterator[Metric]:
    """What all processes have counted in Redis."""
    from prometheus_client.core import HistogramMetricFamily

    for name, meaning, labels in (
        (
            "label_studio_errors",
            "Calls of Label Studio that failed: unreachable, or the HTTP status that came.",
            ("error",),
        ),
        (
            "fallbacks",
            "How often an earlier version was loaded because a newer one's files are damaged, or "
            "in an object store that is away.",
            ("project",),
        ),
        ("mlflow_failures", "How often MLflow could not be told of a version.", ()),
    ):
        rows: list[_Row] = [
            (key[1:], value)
            for key, value in sorted(counts.items())
            if key[0] == name and len(key) == len(labels) + 1
        ]
        yield _counter(f"committee_{name}", meaning, labels, rows or ([] if labels else [((), 0)]))
    parts = HistogramMetricFamily(
        "committee_part_seconds",
        "What an attempt at a part of a round took, by how it ended.",
        labels=("stage", "outcome"),
    )
    kinds = {key[1:3] for key in counts if key[0] == "part_seconds" and len(key) == 4}
    bounds = (*PART_BOUNDS_S, _INFINITY)
    for kind in sorted(kinds):
        buckets = [counts.get(("part_seconds", *kind, f"{most:g}"), 0.0) for most in bounds]
        _add_histogram(parts, kind, bounds, buckets, counts.get(("part_seconds_sum", *kind), 0.0))
    yield parts


def _requests(latencies: Latencies) -> Metric:
    from prometheus_client.core import HistogramMetricFamily

    family = HistogramMetricFamily(
        "committee_request_seconds",
        "How long requests of Label Studio took on this host, once they had arrived whole.",
        labels=("route", "outcome"),
    )
    for route, outcome, buckets, seconds in latencies.read():
        _add_histogram(family, (route, outcome), (*BOUNDS_S, _INFINITY), buckets, seconds)
    return family


def _add_histogram(
    family: HistogramMetricFamily,
    labels: Sequence[str],
    bounds: Sequence[float],
    buckets: Sequence[float],
    seconds: float,
) -> None:
    """Add what was counted by each bound alone; Prometheus counts all up to each."""
    so_far, cumulative = 0.0, []
    for most, count in zip(bounds, buckets, strict=True):
        so_far += count
        cumulative.append(("+Inf" if most == _INFINITY else str(most), so_far))
    family.add_metric(labels, buckets=cumulative, sum_value=seconds)
