"""Finds what fails silently between Label Studio and us, says how to mend it, mends what it can.

``examine`` changes nothing: where Label Studio must be asked whether it would allow something,
the question holds a mistake of its own, so that nothing is made. What all projects share is looked
at in ``backend.insight.installation_checks``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import islice
from statistics import median
from urllib.parse import urlsplit

from backend.actions.connect import connect_project
from backend.errors import (
    BackendError,
    BadLabelConfig,
    BadOptions,
    BadRequest,
    ImageRefused,
    LedgerUnavailable,
    StudioRefused,
    StudioUnreachable,
    UnknownProject,
)
from backend.insight.finding import Finding, report
from backend.insight.installation_checks import (
    check_disk,
    check_label_studio,
    check_ledger,
    check_redis,
    check_web,
    check_workers,
)
from backend.label_studio.bulk import Project as StudioProject
from backend.label_studio.bulk import Stamp, Studio, Task
from backend.label_studio.client import Json
from backend.label_studio.connection import (
    BY_RANK,
    ORDERING,
    VIEW_TITLE,
    WITHOUT_MODEL,
    Connection,
    basic_auth,
    set_order,
)
from backend.label_studio.label_config import LabelConfig, parse_label_config
from backend.ledger import Project, Publication, upgrade
from backend.options import ProjectOptions, parse_options
from backend.predict import image_url
from backend.rounds.fallback import damage_of, describe_damage, whole_version
from backend.workplace import Workplace

__all__ = ["Finding", "examine", "mend", "report"]

EVENTS = frozenset(
    {
        "ANNOTATION_CREATED",
        "ANNOTATIONS_CREATED",
        "ANNOTATION_UPDATED",
        "ANNOTATIONS_DELETED",
        "TASKS_CREATED",
        "TASKS_DELETED",
        "PROJECT_UPDATED",
    }
)
"""What the webhook must bring (backend.web.model acts on these; importing that brings torch)."""

CHECKED_TASKS = 500
"""Tasks whose data are read: one page of Label Studio's."""

CHECKED_IMAGES = 6
"""Images that are fetched and decoded: each kind of address once, the rest by chance."""

EVENT_LATE_S = 120.0
"""A webhook comes within a second of its annotation; the clocks may differ by a minute."""

PASSED_OVER = 10
"""Each annotator holds one task, so that so many passed over have another cause."""


def examine(work: Workplace, project_ids: Sequence[int] | None = None) -> list[Finding]:
    """Look at everything.

    Args:
        project_ids: Label Studio's numbers; None: every project that the ledger has connected.
    """
    surroundings = [*check_label_studio(work), *check_ledger(work)]
    broken = {f.code for f in surroundings if f.severity == "error"}
    ledger_sound = not broken & {"ledger", "ledger-schema"}
    studio_sound = not any(code.startswith(("studio", "token")) for code in broken)
    projects: list[Finding] = []
    if studio_sound:
        chosen = _chosen(work, ledger_sound) if project_ids is None else project_ids
        if not chosen:
            projects.append(
                Finding(
                    "no-project",
                    "warning",
                    None,
                    "No project is connected.",
                    "Run `python -m backend connect --project ID`.",
                )
            )
        for studio_id in chosen:
            projects += _examine_project(work, studio_id, ledger_sound)
    reached = any(f.code == "connection" for f in projects)
    surroundings += [*check_web(work.settings, reached=reached), *check_redis(work)]
    if ledger_sound:
        surroundings += check_workers(work)
    surroundings.append(check_disk(work.settings.data_dir))
    return surroundings + projects


def _chosen(work: Workplace, ledger_sound: bool) -> list[int]:
    if not ledger_sound:
        return []
    rows = work.ledger.projects.all(connected_only=True)
    return sorted({row.studio_id for row in rows if row.server == work.server})


@dataclass
class _Case:
    """One project, with all that the checks look at; each part is read once, when needed.

    Attributes:
        row: the ledger's; None where it knows no such project.
    """

    work: Workplace
    project: StudioProject
    row: Project | None

    @property
    def id(self) -> int:
        return self.project.id

    @property
    def studio(self) -> Studio:
        return self.work.studio

    @cached_property
    def backends(self) -> list[Json]:
        """In the order in which Label Studio takes the first; asking makes it call each."""
        return sorted(self.studio.ml_backends(self.id), key=lambda b: int(b["id"]))

    @cached_property
    def ours(self) -> list[Json]:
        """Connections to BACKEND_URL."""
        url = self.work.settings.backend_url
        return [b for b in self.backends if _bare(b["url"]) == _bare(url)]

    @cached_property
    def remembered(self) -> Connection | None:
        text = None if self.row is None else self.row.connection
        return None if text is None else Connection.from_json(text)

    @cached_property
    def serving(self) -> Publication | None:
        return None if self.row is None else self.work.ledger.publications.serving(self.row.id)

    @cached_property
    def stored(self) -> int:
        """Predictions of the serving publication that Label Studio holds now."""
        if self.serving is None:
            return 0
        return self.studio.model_versions(self.id).get(self.serving.name, 0)

    @cached_property
    def stamps(self) -> dict[int, tuple[Stamp, ...]]:
        return self.studio.stamps(self.id)

    @cached_property
    def options(self) -> ProjectOptions | BadOptions:
        extra_params = self.ours[0]["extra_params"] if self.ours else None
        try:
            return parse_options(extra_params)
        except BadOptions as error:
            return error

    @cached_property
    def config(self) -> LabelConfig | BadLabelConfig:
        image = None if isinstance(self.options, BadOptions) else self.options.image
        try:
            return parse_label_config(self.project.label_config, image=image)
        except BadLabelConfig as error:
            return error

    def error(self, code: str, what: str, mend: str, *, fixable: bool = False) -> Finding:
        return Finding(code, "error", self.id, what, mend, fixable)

    def warning(self, code: str, what: str, mend: str, *, fixable: bool = False) -> Finding:
        return Finding(code, "warning", self.id, what, mend, fixable)

    def ok(self, code: str, what: str) -> Finding:
        return Finding(code, "ok", self.id, what)


def _examine_project(work: Workplace, studio_id: int, ledger_sound: bool) -> list[Finding]:
    findings: list[Finding] = []
    try:
        project = work.studio.project(studio_id)
        case = _Case(work, project, _row(work, project) if ledger_sound else None)
        for check in CHECKS:
            findings += check(case)
    except StudioRefused as error:
        gone = error.studio_status == 404
        what = f"Label Studio has no project {studio_id} that our user may see."
        findings.append(
            Finding(
                "project-gone" if gone else "project-refused",
                "error",
                studio_id,
                what if gone else str(error),
                f"If it was deleted: `python -m backend disconnect --project {studio_id}`."
                if gone
                else "Give our user the rights to change this project in Label Studio.",
            )
        )
    except (StudioUnreachable, LedgerUnavailable) as error:
        mend = "Run doctor again when it answers."
        findings.append(Finding("project-unread", "error", studio_id, str(error), mend))
    return findings


def _row(work: Workplace, project: StudioProject) -> Project | None:
    """The ledger's row of this very project, not of an older one that had its number."""
    try:
        row = work.ledger.projects.of_studio(work.server, project.id)
    except UnknownProject:
        return None
    return row if row.created == project.created else None


# Can they reach each other?


def check_connection(case: _Case) -> Iterator[Finding]:
    """One connection, ours, the first, with our password, and Connected."""
    connect_it = f"Run `python -m backend connect --project {case.id}`."
    if not case.ours:
        yield _no_connection(case, connect_it)
        return
    first = case.ours[0]
    if case.row is None or not case.row.connected:
        what = "Label Studio is connected to us, but our ledger does not know the project."
        yield case.error("not-connected", what, connect_it, fixable=True)
    if len(case.ours) > 1:
        what = f"{len(case.ours)} connections lead to us; Label Studio asks only one of them."
        yield case.error("connection-double", what, connect_it, fixable=True)
    if case.backends[0]["id"] != first["id"]:
        yield case.error(
            "backend-not-first",
            f"Another backend, {_title(case.backends[0])}, was connected before us, and Label "
            "Studio takes predictions from the first alone.",
            "Remove it in Settings > Model; Committee is then the first.",
        )
    elif len(case.backends) > len(case.ours):
        what = "Other backends are connected too; Label Studio never takes predictions from them."
        yield case.warning("several-backends", what, "Remove them in Settings > Model.")
    yield from _password_and_state(case, first, connect_it)


def _no_connection(case: _Case, connect_it: str) -> Finding:
    moved = case.remembered and any(b["id"] == case.remembered.backend_id for b in case.backends)
    if moved and case.remembered is not None:
        return case.error(
            "connection-elsewhere",
            f"The connection leads to {_shown(case.remembered.backend_url)}, but BACKEND_URL is "
            f"{case.work.settings.backend_url}.",
            connect_it,
            fixable=True,
        )
    return case.error(
        "not-connected",
        f"No connection of the project leads to {case.work.settings.backend_url}.",
        connect_it,
        fixable=True,
    )


def _password_and_state(case: _Case, first: Json, connect_it: str) -> Iterator[Finding]:
    user = case.work.settings.basic_auth_user
    said = str(first["error_message"] or "")
    if first["auth_method"] != "BASIC_AUTH" or not first["basic_auth_pass_is_set"]:
        what = "The connection has no user and password, so we refuse its calls."
        yield case.error("connection-without-password", what, connect_it, fixable=True)
    elif first["basic_auth_user"] != user or (first["state"] == "ER" and "401" in said):
        what = "The connection has a wrong user or password, so we refuse its calls."
        yield case.error("connection-password", what, connect_it, fixable=True)
    elif first["state"] == "ER":
        yield case.error(
            "connection-refused",
            f"We refuse Label Studio's /setup: {said[:300]}",
            "Mend the options or the labeling configuration named elsewhere in this list; the "
            "web's log has the sentence.",
        )
    elif first["state"] == "DI":
        yield case.error(
            "connection-down",
            f"Label Studio does not get an answer from {case.work.settings.backend_url} within a "
            "second, and shows Disconnected.",
            "See that the web runs and is quick, that its address is right as seen from Label "
            "Studio's machine, and that nothing below says that private addresses are blocked.",
        )
    else:
        yield case.ok("connection", f"Label Studio reaches us: {first['readable_state']}.")


def check_guards(case: _Case) -> Iterator[Finding]:
    """Whether Label Studio may call our address at all.

    Both questions would be refused for another reason even where the address is allowed.
    """
    url, studio = case.work.settings.backend_url, case.studio
    try:
        made = studio.create_ml_backend(project=case.id, url=url, auth_method="BASIC_AUTH")
        # Another release might not mind that there is no password.
        studio.delete_ml_backend(int(made["id"]))
    except StudioRefused as error:
        yield from _guard(case, "ML_BLOCK_LOCAL_IP", "asks no backend for predictions", error)
    try:
        made = studio.create_webhook(project=case.id, url=f"{url}/webhook", actions=["NOTHING"])
        studio.delete_webhook(int(made["id"]))
    except StudioRefused as error:
        yield from _guard(case, "SSRF_PROTECTION_ENABLED", "sends no webhook", error)


def _guard(case: _Case, setting: str, consequence: str, error: StudioRefused) -> Iterator[Finding]:
    said, url = str(error), case.work.settings.backend_url
    if error.studio_status == 403 and ("reserved network" in said or "private network" in said):
        yield case.error(
            "private-address-blocked",
            f"Label Studio {consequence} at {url}, because it is a private address "
            f"({setting} is on).",
            f"Start Label Studio with {setting}=false.",
        )
    elif error.studio_status == 403:
        mend = "Give our user the rights to change this project in Label Studio."
        yield case.error("project-refused", said, mend)
    elif "resolve hostname" in said and setting == "ML_BLOCK_LOCAL_IP":
        yield case.error(
            "backend-url-unknown",
            f"Label Studio's machine does not know the host name in {url}.",
            "Set BACKEND_URL to a name or an IP address that Label Studio's machine knows.",
        )


def check_webhook(case: _Case) -> Iterator[Finding]:
    """Exactly one webhook to us: active, with our password, payload and every event we need."""
    settings = case.work.settings
    target = f"{_bare(settings.backend_url)}/webhook"
    hooks = [h for h in case.studio.webhooks(case.id) if _bare(h["url"]) == target]
    mend = f"Run `python -m backend connect --project {case.id}`."
    if not hooks:
        what = "No webhook leads to us: labels are only noticed by the check every two minutes."
        yield case.error("webhook-missing", what, mend, fixable=True)
        return
    if len(hooks) > 1:
        what = f"{len(hooks)} webhooks lead to us, so every event comes {len(hooks)} times."
        yield case.error("webhook-double", what, mend, fixable=True)
    problems = [
        problem
        for hook in hooks
        for problem in _webhook_problems(hook, _expected_header(case.work))
    ]
    for code, what in dict.fromkeys(problems):
        yield case.error(code, what, mend, fixable=True)
    if len(hooks) == 1 and not problems:
        yield case.ok("webhook", "One webhook brings every event, with the password.")


def _expected_header(work: Workplace) -> str | None:
    """The Authorization header that our web asks for; None where it cannot be one."""
    settings = work.settings
    try:
        return basic_auth(settings.basic_auth_user, settings.basic_auth_pass.get_secret_value())
    except BadRequest:
        return None


def _webhook_problems(hook: Json, expected: str | None) -> Iterator[tuple[str, str]]:
    headers = {name.lower(): value for name, value in (hook["headers"] or {}).items()}
    if "authorization" not in headers:
        yield (
            "webhook-without-password",
            "The webhook carries no Authorization header, so we refuse every event (Label Studio "
            "makes it so when a backend is connected by hand).",
        )
    elif headers["authorization"] != expected:
        yield "webhook-password", "The webhook carries a wrong password: we refuse every event."
    if not hook["is_active"]:
        yield "webhook-inactive", "The webhook is switched off."
    if not hook["send_payload"]:
        yield "webhook-empty", "The webhook sends no payload, so its events name no project."
    if not hook["send_for_all_actions"] and (missing := EVENTS.difference(hook["actions"])):
        yield "webhook-events", f"The webhook leaves out {', '.join(sorted(missing))}."


def check_events(case: _Case) -> Iterator[Finding]:
    """Labels that no webhook told us of."""
    if case.row is None:
        return
    heard = case.work.ledger.events.last_at(case.row.id)
    times = [
        datetime.fromisoformat(stamp.updated_at).timestamp()
        for stamps in case.stamps.values()
        for stamp in stamps
    ]
    if heard is None or not times or max(times) < heard + EVENT_LATE_S:
        return
    yield case.warning(
        "events-lost",
        f"The newest annotation is {max(times) - heard:.0f} s younger than the last event that "
        "came: webhooks get lost, and Label Studio never repeats one.",
        "No label is lost, the check every two minutes finds it. See the webhook's and the web's "
        "findings for the cause.",
    )


# Is the order the ranking?


def check_order(case: _Case) -> Iterator[Finding]:
    """Sampling and model_version, which only together serve the ranking."""
    project, serving = case.project, case.serving
    by_hand = "Run `python -m backend doctor --fix`."
    if case.row is None:
        return
    if serving is None:
        if project.sampling != WITHOUT_MODEL:
            yield case.warning(
                "sampling-without-model",
                f"Nothing is ranked yet, and the sampling is {project.sampling!r} instead of "
                f"{WITHOUT_MODEL!r}: the first labels will be no fair sample.",
                by_hand,
                fixable=True,
            )
        return
    if project.sampling != BY_RANK:
        yield case.error(
            "sampling-off",
            f"The sampling is {project.sampling!r} instead of {BY_RANK!r}: the ranking is ignored.",
            by_hand,
            fixable=case.stored > 0,
        )
    if project.model_version != serving.name and not _being_published(case):
        yield case.error(
            "order-random",
            f"The project's model_version is {project.model_version!r} but {serving.name} "
            "serves: Label Studio finds no scores and serves tasks at random, silently.",
            by_hand,
            fixable=case.stored > 0,
        )
    if project.sampling == BY_RANK and project.model_version == serving.name:
        yield case.ok("order", f"Label Studio serves the ranking of {serving.name}.")


def _being_published(case: _Case) -> bool:
    """A publication that Label Studio serves already and our ledger will in a moment."""
    assert case.row is not None  # its caller looked
    return any(
        p.name == case.project.model_version and p.state == "prepared"
        for p in case.work.ledger.publications.all(case.row.id)
    )


def check_predictions(case: _Case) -> Iterator[Finding]:
    """Predictions that Label Studio dropped when they came, or lost since."""
    serving = case.serving
    if serving is None:
        return
    length, at_first = int(serving.length), serving.stored
    if case.stored == 0 and length > 0:
        yield case.error(
            "predictions-gone",
            f"Label Studio holds no prediction of {serving.name} any more: nothing is ranked "
            "and nothing pre-annotated.",
            "Run `python -m backend doctor --fix`: it has the pool ranked anew.",
            fixable=True,
        )
    elif at_first is not None and at_first < length:
        yield case.error(
            "predictions-dropped",
            f"Label Studio stored {at_first} of {length} predictions of {serving.name} and "
            "dropped the rest without a word.",
            "Usual causes are labels renamed while a round ran, and tasks deleted: "
            f"`python -m backend retrain --project {case.id}` publishes anew.",
        )
    elif case.stored < length:
        yield from _lost_since(case, serving)


def _lost_since(case: _Case, serving: Publication) -> Iterator[Finding]:
    """Predictions of deleted tasks went with them, and are no loss."""
    ranked = [row.task_id for row in case.work.ledger.publications.ranking(serving.id)]
    there = sum(1 for _ in case.studio.tasks(case.id, ranked))
    if case.stored < there:
        yield case.error(
            "predictions-dropped",
            f"Label Studio holds {case.stored} predictions of {serving.name} for {there} "
            "ranked tasks: somebody deleted some.",
            f"`python -m backend retrain --project {case.id}` publishes anew.",
        )


def check_version(case: _Case) -> Iterator[Finding]:
    """Whether the version that ranks is what was saved."""
    row = case.row
    promoted = None if row is None else case.work.ledger.versions.promoted(row.id)
    if row is None or promoted is None:
        return
    number = int(promoted.number)
    damage = damage_of(case.work, row, number)
    if damage is None:
        yield case.ok("version", f"The files of version {number} are what was saved.")
        return
    yield case.error(
        "version-damaged",
        describe_damage(number, damage, whole_version(case.work, row, number)),
        f"Restore its folder from a backup, or `python -m backend retrain --project {case.id}`.",
        fixable=True,
    )


def check_overlap(case: _Case) -> Iterator[Finding]:
    if case.project.maximum_annotations > 1:
        yield case.warning(
            "overlap",
            f"Each task wants {case.project.maximum_annotations} annotations: Label Studio serves "
            "half-done tasks first, whatever the ranking.",
            "Set Annotations per task to 1 in Settings > Quality where the order matters more.",
        )


def check_locks(case: _Case) -> Iterator[Finding]:
    """Locks cannot be read by API; what they leave behind can: tasks passed over."""
    yield case.ok(
        "locks",
        "A task that was served stays with its annotator for 24 h, whatever the ranking, unless "
        "TASK_LOCK_TTL (seconds, in Label Studio's environment) says otherwise.",
    )
    if case.serving is None:
        return
    ranked = case.work.ledger.publications.ranking(case.serving.id)
    labelled = [row.position for row in ranked if row.task_id in case.stamps]
    if len(labelled) < PASSED_OVER:
        return
    middle = median(labelled)
    passed = sum(r.position < middle and r.task_id not in case.stamps for r in ranked)
    if passed > PASSED_OVER:
        yield case.warning(
            "passed-over",
            f"{passed} tasks ranked before the middle one of the {len(labelled)} labelled are "
            "still unlabelled: long locks hold them, or people label outside the queue.",
            'Open tasks by "Label All Tasks", not "Label Tasks As Displayed" of another view or a '
            "bookmark; start Label Studio with a shorter TASK_LOCK_TTL, such as 3600.",
        )


def check_settings(case: _Case) -> Iterator[Finding]:
    """Project settings that work against the loop."""
    settings, mend = case.project.settings, "Run `python -m backend doctor --fix`."
    if (least := int(settings["min_annotations_to_start_training"] or 0)) > 0:
        what = f"Label Studio asks for training after every {least} annotations, inside a submit."
        yield case.warning("training-in-submit", what, mend, fixable=True)
    if not settings["show_collab_predictions"]:
        what = "Pre-annotations are not shown to annotators (show_collab_predictions is off)."
        yield case.error("predictions-hidden", what, mend, fixable=True)
    if settings["evaluate_predictions_automatically"]:
        what = "Every listing of tasks asks us for predictions first, which makes it slow."
        yield case.warning("predictions-in-listing", what, mend, fixable=True)


def check_view(case: _Case) -> Iterator[Finding]:
    mend = "Run `python -m backend doctor --fix`."
    views = [v["data"] for v in case.studio.views(case.id) if v["data"].get("title") == VIEW_TITLE]
    if not views:
        what = f"The shared view {VIEW_TITLE!r} is missing."
        yield case.warning("view-missing", what, mend, fixable=True)
    elif all((data.get("ordering") or [])[:1] != ORDERING for data in views):
        what = f"The shared view {VIEW_TITLE!r} is not in the ranking's order."
        yield case.warning("view-order", what, mend, fixable=True)


# Can it be learnt from?


def check_configuration(case: _Case) -> Iterator[Finding]:
    """Options and labeling configuration."""
    if isinstance(case.options, BadOptions):
        yield case.error(
            "bad-options",
            str(case.options),
            "Mend the extra parameters in Settings > Model, or by "
            f"`python -m backend connect --project {case.id} --options '{{...}}'`.",
        )
    elif isinstance(case.config, BadLabelConfig):
        mend = "Mend it in Settings > Labeling Interface."
        if "option image" in str(case.config):
            mend = (
                "Name the Image tag by the option: `python -m backend connect --project "
                f'{case.id} --options \'{{"image": "..."}}\'`.'
            )
        yield case.error("label-config", str(case.config), mend)


def check_images(case: _Case) -> Iterator[Finding]:
    """Fetch and decode a few images, each kind of address at least once."""
    if isinstance(case.config, BadLabelConfig) or isinstance(case.options, BadOptions):
        return
    if case.project.settings["evaluate_predictions_automatically"]:
        return  # listing the tasks would have them all predicted first; --fix turns that off
    tasks = list(islice(case.studio.tasks(case.id), CHECKED_TASKS))
    urls, without = _urls(tasks, case.config)
    if without:
        yield case.warning(
            "task-without-image",
            f"{len(without)} of {len(tasks)} tasks looked at hold no image under "
            f"'{case.config.data_key}', task {without[0]} for one.",
            "Import them again with that key, or delete them: no round can use them.",
        )
    refused: dict[tuple[str, str], list[str]] = {}
    chosen = _sample(urls)
    for url in chosen:
        problem = _image_problem(case.work, url)
        if problem is not None:
            refused.setdefault((problem[0], _place(url)), []).append(problem[1])
    for (code, _), said in refused.items():
        what = f"{len(said)} of {len(chosen)} images tried cannot be used. {said[0]}"
        yield case.error(code, what, _IMAGE_MEND[code])
    if chosen and not refused:
        yield case.ok("images", f"{len(chosen)} images were fetched and decoded.")


_IMAGE_MEND: Mapping[str, str] = {
    "image-host": "Add the host to ALLOWED_IMAGE_HOSTS if you trust it, and start us again.",
    "image-refused": "Open the task in Label Studio: is its image shown? See that our user may "
    "see it, and that its storage is connected.",
    "image-unreadable": "Replace the file: PNG, JPEG, TIFF and WebP are read.",
}


def _urls(tasks: Sequence[Task], config: LabelConfig) -> tuple[list[str], list[int]]:
    """The tasks' image addresses, and the ids of those that have none."""
    urls: list[str] = []
    without: list[int] = []
    for task in tasks:
        try:
            urls.append(image_url(task.data, config))
        except BadRequest:
            without.append(task.id)
    return urls, without


def _sample(urls: Sequence[str]) -> list[str]:
    """The first of each place, then others by seeded chance: LOOKED_AT_IMAGES at most."""
    firsts = list({_place(url): url for url in reversed(urls)}.values())[:CHECKED_IMAGES]
    rest = [url for url in urls if url not in firsts]
    more = min(len(rest), CHECKED_IMAGES - len(firsts))
    return firsts + random.Random(0).sample(rest, more)


def _place(url: str) -> str:
    """Host and first two folders: what decides how an image is fetched."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "no address"
    return f"{parts.scheme}://{parts.netloc}/" + "/".join(parts.path.split("/")[1:-1][:2])


def _image_problem(work: Workplace, url: str) -> tuple[str, str] | None:
    from training.images import UnreadableImage, decode_image

    try:
        decode_image(work.images.fetch(url))
    except ImageRefused as error:
        host = "ALLOWED_IMAGE_HOSTS" in str(error)
        return "image-host" if host else "image-refused", str(error)
    except UnreadableImage as error:
        return "image-unreadable", str(error)
    return None


# How did it go so far?


def check_rounds(case: _Case) -> Iterator[Finding]:
    """What the ledger says went wrong, and keeps going wrong."""
    row = case.row
    if row is None:
        return
    if row.paused:
        what = "Rounds are paused: labels are counted, nothing trains."
        yield case.warning("paused", what, f"`python -m backend resume --project {case.id}`.")
    if row.last_error and row.failures > 1:
        yield case.error(
            "round-failing",
            f"Rounds failed {row.failures} times in a row; the last said: {row.last_error}",
            f"Mend what it says, then `python -m backend retrain --project {case.id}`.",
        )
    elif row.last_error:
        yield case.warning(
            "last-error", str(row.last_error), "It is tried again by itself; watch `status`."
        )
    last = case.work.ledger.rounds.last(row.id)
    if last is not None and last.problems:
        more = len(last.problems) - 1
        yield case.warning(
            "round-problems",
            f"The last round left something out: {last.problems[0]}"
            + (f" (and {more} more)" if more else ""),
            "`python -m backend status --json` lists all of it.",
        )


CHECKS: tuple[Callable[[_Case], Iterator[Finding]], ...] = (
    check_connection,
    check_guards,
    check_webhook,
    check_order,
    check_predictions,
    check_version,
    check_settings,
    check_view,
    check_overlap,
    check_configuration,
    check_images,
    check_rounds,
    check_events,
    check_locks,
)


def _bare(url: str) -> str:
    return url.rstrip("/")


def _shown(url: str) -> str:
    """An address of somebody's choosing, without what may be a password in it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _title(backend: Json) -> str:
    return f"{str(backend['title'])[:60]!r} at {_shown(backend['url'])}"


# Mending


def mend(work: Workplace, finding: Finding) -> str:
    """Mend one finding; a sentence on what was done, or why it could not be."""
    fix = _FIXES.get(finding.code) if finding.fixable else None
    if fix is None:
        return f"{finding.code} cannot be mended from here. {finding.mend}"
    try:
        return fix(work, finding.project or 0)
    except BackendError as error:
        return f"{finding.code} could not be mended: {error}"


def _connect(work: Workplace, project: int) -> str:
    connect_project(work, project)
    return f"Project {project}: connection, webhook, settings and view are set anew."


def _order(work: Workplace, project: int) -> str:
    row = work.ledger.projects.of_studio(work.server, project)
    serving = work.ledger.publications.serving(row.id)
    name = None if serving is None else str(serving.name)
    set_order(work.studio, project, name)
    if name is None:
        return f"Project {project}: tasks are served uniformly until the first ranking."
    return f"Project {project}: tasks are served in the order of {name}."


def _settings(work: Workplace, project: int) -> str:
    work.studio.update_project(
        project,
        min_annotations_to_start_training=0,
        show_collab_predictions=True,
        evaluate_predictions_automatically=False,
    )
    return (
        f"Project {project}: pre-annotations are shown, and Label Studio asks for neither "
        "training nor predictions by itself."
    )


def _rank_anew(work: Workplace, project: int) -> str:
    """The next check makes a ranking where a version is there and nothing serves."""
    row = work.ledger.projects.of_studio(work.server, project)
    serving = work.ledger.publications.serving(row.id)
    if serving is not None:
        work.ledger.publications.set_state(serving.id, "failed")
    set_order(work.studio, project, None)
    work.ledger.events.add(row.id, "PREDICTIONS_GONE")
    return f"Project {project}: the pool is ranked anew within a minute; see `status`."


def _retrain(work: Workplace, project: int) -> str:
    row = work.ledger.projects.of_studio(work.server, project)
    work.ledger.events.add(row.id, "RETRAIN")
    return f"Project {project}: a round makes another version; see `status`."


def _migrate(work: Workplace, _project: int) -> str:
    upgrade(work.settings.ledger_url)
    return "The ledger has this release's schema."


_FIXES: Mapping[str, Callable[[Workplace, int], str]] = {
    "ledger-schema": _migrate,
    **dict.fromkeys(
        (
            "not-connected",
            "connection-elsewhere",
            "connection-double",
            "connection-without-password",
            "connection-password",
            "webhook-missing",
            "webhook-double",
            "webhook-without-password",
            "webhook-password",
            "webhook-inactive",
            "webhook-empty",
            "webhook-events",
        ),
        _connect,
    ),
    **dict.fromkeys(
        ("sampling-without-model", "sampling-off", "order-random", "view-missing", "view-order"),
        _order,
    ),
    **dict.fromkeys(
        ("training-in-submit", "predictions-hidden", "predictions-in-listing"), _settings
    ),
    "predictions-gone": _rank_anew,
    "version-damaged": _retrain,
}
