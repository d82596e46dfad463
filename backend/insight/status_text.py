"""The status for a person at a terminal."""

from __future__ import annotations

from collections.abc import Mapping

from backend.insight.status import ProcessStatus, ProjectStatus, Quality, RoundStatus, Status
from backend.ledger.shapes import GroupQuality

SHOWN_PROBLEMS = 5


def describe_status(found: Status) -> str:
    """Some ten lines for each project, and one for each process."""
    lines: list[str] = []
    for project in found.projects:
        lines += _describe_project(project)
    if not found.projects:
        lines.append("No project is connected: `python -m backend connect --project ID`.")
    lines += ["", *(_describe_process(process) for process in found.processes)]
    if not found.processes:
        lines.append(
            "No web and no worker has reported that it is alive: start them by `make run`."
        )
    return "\n".join(lines)


def describe_quality(quality: Quality) -> str:
    """``foreground Dice 0.812, calibration error 0.012 (0.034 before)``; "" if not measured."""
    shown = []
    if quality.foreground_dice is not None:
        # A version of an old release does not say how it was measured: out of fold, as all were.
        where = "out-of-fold " if quality.out_of_fold in (None, True) else ""
        shown.append(f"{where}foreground Dice {quality.foreground_dice:.3f}")
    if quality.ece is not None and quality.ece_uncalibrated is not None:
        before = quality.ece_uncalibrated
        shown.append(f"calibration error {quality.ece:.3f} ({before:.3f} before)")
    return ", ".join(shown)


def describe_groups(groups: Mapping[str, GroupQuality]) -> list[str]:
    """A line for each group: its labels, and its quality on those that were measured."""
    return [f"{name!r}: {_describe_group(each)}" for name, each in groups.items()]


def _describe_group(found: GroupQuality) -> str:
    shown = [f"{found['labelled']} labelled"]
    if found["foreground_dice"] is not None:
        images = "" if found["measured"] == found["labelled"] else f" on {found['measured']}"
        shown.append(f"foreground Dice {found['foreground_dice']:.3f}{images}")
    if found["ece"] is not None:
        shown.append(f"calibration error {found['ece']:.3f}")
    return ", ".join(shown)


def _describe_process(process: ProcessStatus) -> str:
    where = f"{process.host} pid {process.pid}"
    return f"{process.role:7} {process.health:16} {process.address}  ({where})"


def _describe_project(project: ProjectStatus) -> list[str]:
    state = "connected" if project.connected else "not connected"
    if project.paused:
        state += ", paused"
    lines = [
        f"Project {project.project}, {project.title!r} on {project.server}: {state}",
        f"  next         {project.next.sentence}",
        f"  version      {_describe_version(project)}",
        *_describe_training(project),
        f"  serving      {project.publication or 'nothing yet'}",
        f"  labelled     {project.labelled} tasks, {project.changed} of them "
        "changed since the last round",
        f"  ranked left  {project.ranked_left}",
    ]
    if project.round is not None:
        lines.append(f"  round        {_describe_round(project.round)}")
        problems = project.round.problems
        lines += [f"               {problem}" for problem in problems[:SHOWN_PROBLEMS]]
        if len(problems) > SHOWN_PROBLEMS:
            more = len(problems) - SHOWN_PROBLEMS
            lines.append(f"               and {more} more (--json lists all)")
    if project.last_error:
        lines.append(f"  last error   {project.last_error}")
    return lines


def _describe_training(project: ProjectStatus) -> list[str]:
    lines = []
    if project.training:
        lines.append(f"  training     {project.training}")
    if project.elsewhere:
        lines.append(f"  elsewhere    {project.elsewhere}")
    lines += [f"  group        {said}" for said in describe_groups(project.groups)]
    if project.audit is not None and project.audit.words:
        lines.append(f"  audit        {project.audit.words}")
    if project.advice:
        lines.append(f"  advice       {project.advice}")
    return lines


def _describe_version(project: ProjectStatus) -> str:
    if project.version is None or project.quality is None:
        return project.first_queue or "none yet"
    return ": ".join(filter(None, (str(project.version), describe_quality(project.quality))))


def _describe_round(found: RoundStatus) -> str:
    name = f"{found.id} ({found.kind})"
    times = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in found.timings.items())
    after = f" ({times})" if times else ""
    if found.stage is None:
        error = f": {found.error}" if found.error else ""
        return f"{name} {found.state}{error}{after}"
    eta = "" if found.eta_s is None else f", about {found.eta_s:.0f} s to go"
    if found.eta_error is not None:
        eta += f" (usually within {found.eta_error:.0%})"
    if found.again_in_s is not None:
        eta = f", interrupted, again in {found.again_in_s:.0f} s"
    return (
        f"{name}: {found.stage}, {found.progress or 0.0:.0%}{eta}; "
        f"started because {found.reason}{after}"
    )
