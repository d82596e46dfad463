"""Checks that Label Studio and we reach each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from backend.actions.connect import connect_project
from backend.errors import StudioRefused
from backend.insight.findings.case import ProjectCase, bare_address, shown_address
from backend.insight.findings.finding import Finding, Fix
from backend.label_studio.connection import basic_auth
from backend.label_studio.control import id_of
from backend.label_studio.webhook_events import OF_ANNOTATIONS, OF_TASKS, PROJECT_UPDATED
from backend.label_studio.webhook_secret import webhook_header, webhook_key
from backend.workplace import Workplace

if TYPE_CHECKING:
    from label_studio_sdk.types.ml_backend import MlBackend
    from label_studio_sdk.types.webhook import Webhook

EVENTS = OF_ANNOTATIONS | OF_TASKS | {PROJECT_UPDATED}
"""What the webhook must bring: what ``backend.web.events`` keeps."""


def check_connection(case: ProjectCase) -> Iterator[Finding]:
    """One connection leads to us, and the ledger knows it."""
    if not case.ours:
        yield _no_connection(case)
        return
    if case.known is None or not case.known.connected:
        what = "Label Studio is connected to us, but our ledger does not know the project."
        yield case.error("not-connected", what, _connect_by_hand(case), fixable=True)
    if len(case.ours) > 1:
        what = f"{len(case.ours)} connections lead to us; Label Studio asks only one of them."
        yield case.error("connection-double", what, _connect_by_hand(case), fixable=True)


def check_first_backend(case: ProjectCase) -> Iterator[Finding]:
    """Label Studio takes predictions from the first backend alone."""
    if not case.ours:
        return
    if case.backends[0].id != case.ours[0].id:
        yield case.error(
            "backend-not-first",
            f"Another backend, {_title(case.backends[0])}, was connected before us, and Label "
            "Studio takes predictions from the first alone.",
            "Remove it in Settings > Model; Committee is then the first.",
        )
    elif len(case.backends) > len(case.ours):
        what = "Other backends are connected too; Label Studio never takes predictions from them."
        yield case.warning("several-backends", what, "Remove them in Settings > Model.")


def _connect_by_hand(case: ProjectCase) -> str:
    return f"Run `python -m backend connect --project {case.id}`."


def _no_connection(case: ProjectCase) -> Finding:
    former = case.remembered
    if former is not None and any(b.id == former.backend_id for b in case.backends):
        return case.error(
            "connection-elsewhere",
            f"The connection leads to {shown_address(former.backend_url)}, but BACKEND_URL is "
            f"{case.work.settings.backend_url}.",
            _connect_by_hand(case),
            fixable=True,
        )
    return case.error(
        "not-connected",
        f"No connection of the project leads to {case.work.settings.backend_url}.",
        _connect_by_hand(case),
        fixable=True,
    )


def check_connection_state(case: ProjectCase) -> Iterator[Finding]:
    """The connection has our password, and Label Studio shows it as Connected."""
    if not case.ours:
        return
    first, by_hand = case.ours[0], _connect_by_hand(case)
    settings = case.work.settings
    message = str(first.error_message or "")
    refused = first.state == "ER"
    if first.auth_method != "BASIC_AUTH" or not first.basic_auth_pass_is_set:
        what = "The connection has no user and password, so we refuse its calls."
        yield case.error("connection-without-password", what, by_hand, fixable=True)
    elif first.basic_auth_user != settings.basic_auth_user or (refused and "401" in message):
        what = "The connection has a wrong user or password, so we refuse its calls."
        yield case.error("connection-password", what, by_hand, fixable=True)
    elif refused:
        yield case.error(
            "connection-refused",
            f"We refuse Label Studio's /setup: {message[:300]}",
            "Correct the options or the label config named elsewhere in this list; the "
            "web's log has the sentence.",
        )
    elif first.state == "DI":
        yield case.error(
            "connection-down",
            f"Label Studio does not get an answer from {settings.backend_url} within a "
            "second, and shows Disconnected.",
            "Check that the web runs and is quick, that its address is right as seen from Label "
            "Studio's machine, and that nothing below says that private addresses are blocked.",
        )
    else:
        yield case.ok("connection", f"Label Studio reaches us: {first.readable_state}.")


def _title(backend: MlBackend) -> str:
    return f"{str(backend.title)[:60]!r} at {shown_address(backend.url)}"


def check_predictions_allowed(case: ProjectCase) -> Iterator[Finding]:
    """Whether Label Studio may call a backend at our address.

    The request would be refused for another reason even where the address is allowed.
    """
    try:
        made = case.control.ml.create(
            project=case.id, url=case.work.settings.backend_url, auth_method="BASIC_AUTH"
        )
        # Another release might not mind that there is no password.
        case.control.ml.delete(id_of(made))
    except StudioRefused as error:
        yield from _blocked(case, "ML_BLOCK_LOCAL_IP", "asks no backend for predictions", error)


def check_webhooks_allowed(case: ProjectCase) -> Iterator[Finding]:
    """Whether Label Studio may send webhooks to our address; asked in the same way."""
    url = f"{case.work.settings.backend_url}/webhook"
    try:
        made = case.control.webhooks.create(project=case.id, url=url, actions=["NOTHING"])
        case.control.webhooks.delete(id_of(made))
    except StudioRefused as error:
        yield from _blocked(case, "SSRF_PROTECTION_ENABLED", "sends no webhook", error)


def _blocked(
    case: ProjectCase, setting: str, consequence: str, error: StudioRefused
) -> Iterator[Finding]:
    message, url = str(error), case.work.settings.backend_url
    private = "reserved network" in message or "private network" in message
    if error.studio_status == 403 and private:
        yield case.error(
            "private-address-blocked",
            f"Label Studio {consequence} at {url}, because it is a private address "
            f"({setting} is on).",
            f"Start Label Studio with {setting}=false, or open that address alone "
            "(docs/SECURITY.md).",
        )
    elif error.studio_status == 403:
        fix = "Give our user the rights to change this project in Label Studio."
        yield case.error("project-refused", message, fix)
    elif "resolve hostname" in message and setting == "ML_BLOCK_LOCAL_IP":
        yield case.error(
            "backend-url-unknown",
            f"Label Studio's machine does not know the host name in {url}.",
            "Set BACKEND_URL to a name or an IP address that Label Studio's machine knows.",
        )


def check_webhook(case: ProjectCase) -> Iterator[Finding]:
    """Exactly one webhook to us: active, with its secret, payload and every event we need."""
    settings = case.work.settings
    target = f"{bare_address(settings.backend_url)}/webhook"
    hooks = [
        hook
        for hook in case.control.webhooks.list(project=str(case.id))
        if bare_address(hook.url) == target
    ]
    fix = _connect_by_hand(case)
    if not hooks:
        what = "No webhook leads to us: labels are only noticed by the check every two minutes."
        yield case.error("webhook-missing", what, fix, fixable=True)
        return
    if len(hooks) > 1:
        what = f"{len(hooks)} webhooks lead to us, so every event comes {len(hooks)} times."
        yield case.error("webhook-double", what, fix, fixable=True)
    problems = [problem for hook in hooks for problem in _webhook_problems(hook, case)]
    for code, what in dict.fromkeys(problems):
        find = case.warning if code == "webhook-shares-password" else case.error
        yield find(code, what, fix, fixable=True)
    if len(hooks) == 1 and not problems:
        yield case.ok("webhook", "One webhook brings every event, with its own secret.")


def _webhook_problems(hook: Webhook, case: ProjectCase) -> Iterator[tuple[str, str]]:
    settings = case.work.settings
    user, password = settings.basic_auth_user, settings.basic_auth_pass.get_secret_value()
    secret = case.remembered.webhook_secret if case.remembered else ""
    headers = {name.lower(): value for name, value in (hook.headers or {}).items()}
    if headers.get("authorization") == basic_auth(user, password):
        yield (
            "webhook-shares-password",
            "The webhook carries the web's password, which every user of Label Studio can read "
            "there (an earlier release made it so).",
        )
    elif "authorization" not in headers:
        yield (
            "webhook-without-password",
            "The webhook carries no Authorization header, so we refuse every event (Label Studio "
            "makes it so when a backend is connected by hand).",
        )
    elif headers["authorization"] != webhook_header(webhook_key(settings), secret):
        yield "webhook-password", "The webhook carries a wrong secret: we refuse every event."
    if not hook.is_active:
        yield "webhook-inactive", "The webhook is switched off."
    if not hook.send_payload:
        yield "webhook-empty", "The webhook sends no payload, so its events name no project."
    if not hook.send_for_all_actions and (missing := EVENTS.difference(hook.actions or ())):
        yield "webhook-events", f"The webhook leaves out {', '.join(sorted(missing))}."


def _reconnect(work: Workplace, project: int) -> str:
    connect_project(work, project)
    return f"Project {project}: connection, webhook, settings and view are set anew."


FIXES: Mapping[str, Fix] = dict.fromkeys(
    (
        *("not-connected", "connection-elsewhere", "connection-double"),
        *("connection-without-password", "connection-password"),
        *("webhook-missing", "webhook-double", "webhook-without-password", "webhook-password"),
        "webhook-shares-password",
        *("webhook-inactive", "webhook-empty", "webhook-events"),
    ),
    _reconnect,
)
