"""The local Label Studio of `make run`: its environment, its port, how it is started."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from backend.data_dir import label_studio_folder, load_secrets, remember, remembered
from backend.installation import ensure_environment
from backend.local.child import Child
from backend.local.errors import CannotRun
from backend.local.label_studio_guard import guard_environment
from backend.local.ports import becomes_free, first_free_port
from backend.local.progress import ProgressReporter
from backend.local.readiness import answers_http, listens_on
from backend.setting_values import EVERY_INTERFACE, is_loopback, reachable
from backend.settings import ROOT, Settings

LABEL_STUDIO_ENV = ROOT / ".venv-label-studio"
LABEL_STUDIO_USER = "admin@committee.local"
LABEL_STUDIO_PORT = 8080  # its own default

# A first start was measured at 50-70 s on two idle cores, an ordinary one at 4-6 s.
LABEL_STUDIO_LIMIT_S = 300.0

# How long a served task is reserved for its annotator. Label Studio's own 24 h would keep the most
# wanted tasks from everybody else for a day.
TASK_LOCK_TTL_S = 3600


def install_label_studio(progress: ProgressReporter) -> None:
    """Make the virtual environment that Label Studio needs for itself, once.

    Raises:
        EnvironmentFailed: it could not be made.
    """
    with progress.step("Label Studio's environment") as report:
        ensure_environment(
            LABEL_STUDIO_ENV,
            [],
            locks=[ROOT / "constraints-label-studio.txt"],
            sources=[ROOT / "requirements-label-studio-source.txt"],
            progress=lambda _seconds, doing: report(
                f"Installing Label Studio, once (1 GB, some minutes): {doing}"
            ),
        )


def local_label_studio(
    settings: Settings, environment: Mapping[str, str], progress: ProgressReporter
) -> Child:
    """Label Studio on this machine, with its data in DATA_DIR/label-studio; not started yet.

    Raises:
        CannotRun: the port that it always had is taken, or it would listen on another address.
    """
    data_dir, host = settings.data_dir, settings.local_label_studio_host
    url, port = _address(data_dir, host)
    folder = label_studio_folder(data_dir)
    folder.mkdir(mode=0o700, exist_ok=True)
    if not (folder / "label_studio.sqlite3").exists():
        progress.message("Label Studio's first start makes its database: about a minute.")
    return Child(
        "Label Studio",
        [
            str(LABEL_STUDIO_ENV / "bin" / "python"),
            str(LABEL_STUDIO_ENV / "bin" / "label-studio"),
            *("start", "--no-browser", "--internal-host", host, "--port", str(port)),
            *("--data-dir", str(folder), "--enable-legacy-api-token"),
        ],
        data_dir / "logs" / "label-studio.log",
        label_studio_environment(environment, folder, load_secrets(data_dir), settings.backend_url),
        # Label Studio silently replaces a taken port by the next one, and then another program
        # answers on this one.
        lambda child: listens_on(child.pid, port) and answers_http(f"{url}/health"),
        LABEL_STUDIO_LIMIT_S,
    )


def _address(data_dir: Path, host: str) -> tuple[str, int]:
    url: str | None = remembered(data_dir).get("label_studio_url")
    if url is None:
        port = first_free_port(host, LABEL_STUDIO_PORT)
        url = f"http://{reachable(host)}:{port}"
        remember(data_dir, label_studio_url=url)
        return url, port
    named, port = urlsplit(url).hostname, int(url.rsplit(":", 1)[1])
    loopback = is_loopback(host) and is_loopback(named or "")
    if host not in EVERY_INTERFACE and named != host and not loopback:
        raise CannotRun(
            f"The local Label Studio of this DATA_DIR has the address {url}, and would listen on "
            f"{host}: set LOCAL_LABEL_STUDIO_HOST={named} (whoever reaches that address can open "
            "its login page), or start with another DATA_DIR."
        )
    # The ledger keys projects by the server's address: another port would lose them.
    if not becomes_free(host, port):
        raise CannotRun(
            f"Port {port}, which the local Label Studio has had from its first start, is "
            "taken by another program: stop that one."
        )
    return url, port


def label_studio_environment(
    ours: Mapping[str, str], folder: Path, passwords: Mapping[str, str], backend_url: str
) -> dict[str, str]:
    """The environment variables of the local Label Studio.

    The names of our own settings are removed: Label Studio would read HOST, PORT and DATA_DIR as
    its own. Password and token go through the environment, since everybody on the machine can
    read a command line.
    """
    our_names = {name.upper() for name in Settings.model_fields}
    return {
        **{name: value for name, value in ours.items() if name not in our_names},
        "LABEL_STUDIO_USERNAME": LABEL_STUDIO_USER,
        "LABEL_STUDIO_PASSWORD": passwords["label_studio_password"],
        "LABEL_STUDIO_USER_TOKEN": passwords["label_studio_token"],
        "LABEL_STUDIO_COLLECT_ANALYTICS": "0",
        "LABEL_STUDIO_LATEST_VERSION_CHECK": "0",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        "FEATURE_FLAGS_OFFLINE": "1",
        # Else whoever reaches it could join, and every user sees every project.
        "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
        **guard_environment(backend_url),
        "TASK_LOCK_TTL": str(TASK_LOCK_TTL_S),
        # Its user-wide configuration belongs to the person at this machine.
        "XDG_CONFIG_HOME": str(folder / "config"),
        **_no_proxy_here(ours),
    }


def _no_proxy_here(ours: Mapping[str, str]) -> dict[str, str]:
    """NO_PROXY with this machine added: Label Studio calls our web on it."""
    # requests prefers the lower case.
    given = ours.get("no_proxy") or ours.get("NO_PROXY") or ""
    listed = given if given == "*" else f"{given},localhost,127.0.0.1,::1".lstrip(",")
    return {"no_proxy": listed, "NO_PROXY": listed}
