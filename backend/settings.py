"""The settings of one process, read once at its start.

A value comes from the first of: keyword arguments, the environment, ``.env`` in the checkout, the
files of ``SECRETS_DIR``, what ``make run`` remembered in ``DATA_DIR`` (``backend.data_dir``), the
default. Nothing else reads the environment.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from backend import setting_values as values
from backend.data_dir import (
    bad_data_dir,
    derived_key,
    embedded_redis_url,
    load_secrets,
    prepare_data_dir,
    registry_cache,
    remembered,
)
from backend.documented_field import MOST, documented, expected_value, shown_default, whole_number
from backend.errors import BadSettings
from training.committee.store.store import Store, open_store
from training.config import NETWORKS

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_PORT = 9090  # what Label Studio's own examples use for a backend

MIN_PASSWORD = 12
"""Characters of the web's password where others can reach it. Wrong logins are answered 429
(backend.web.auth), which bounds the log and not the guesser; only the length protects."""

MIN_SHARED_SECRET = 32
"""Characters: 16 random bytes in hex. Keys are derived from it, and nobody types it."""

_Hosts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(values.comma_separated)]
_File = Annotated[Path, AfterValidator(values.existing_file)]
_Folder = Annotated[Path, AfterValidator(values.existing_folder)]
_WEB = "an http:// or https:// address without user, query or fragment"


def _default_workers() -> int:
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(4, cpus or 1))


class _SecretFiles(PydanticBaseSettingsSource):
    """What the files of SECRETS_DIR hold, each named as its setting in lower case."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False  # the base class asks for it; __call__ gives all at once

    def __call__(self) -> dict[str, Any]:
        try:
            folder = values.existing_folder(Path(self.current_state["secrets_dir"]))
        except (KeyError, TypeError, ValueError):
            return {}  # it is not set, or its own validator refuses it
        found = {name: _secret_in(folder / name) for name in self.settings_cls.model_fields}
        return {name: value for name, value in found.items() if value}


def _secret_in(path: Path) -> str:
    """The file's text without the end of its line; empty where there is no such file."""
    try:
        return path.read_text().rstrip("\r\n")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise BadSettings(
            f"{path} must be text in UTF-8 that this user can read ({type(error).__name__}): "
            f"correct that, or set {path.name.upper()} and remove the file."
        ) from error


class _RememberedSource(PydanticBaseSettingsSource):
    """Values that ``make run`` chose, for every field that nobody set."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False  # the base class asks for it; __call__ gives all at once

    def __call__(self) -> dict[str, Any]:
        given = self.current_state
        data_dir = Path(given.get("data_dir", "data"))
        try:
            data_dir = values.absolute_path(data_dir)
        except ValueError as error:
            raise bad_data_dir(data_dir, str(error)) from error
        prepare_data_dir(data_dir)
        local, secrets = remembered(data_dir), load_secrets(data_dir)
        found: dict[str, Any] = {
            "basic_auth_pass": secrets["basic_auth_pass"],
            "dashboard_pass": secrets.get("dashboard_pass"),  # where `make run` made one
        }
        if "port" in local:
            found["port"] = local["port"]
        if "valkey_port" in local:
            found["redis_url"] = embedded_redis_url(
                local["valkey_port"], secrets["valkey_password"]
            )
        # Both or neither: the local server's key must never go to another server.
        if not {"label_studio_url", "label_studio_api_key"} & given.keys():
            found["label_studio_url"] = local.get("label_studio_url")
            if found["label_studio_url"] is not None:
                found["label_studio_api_key"] = secrets["label_studio_token"]
        return {name: value for name, value in found.items() if value is not None}


class Settings(BaseSettings):
    """The settings of one process. Built once by ``load_settings``, handed down, never changed.

    ``label_studio_url`` with ``label_studio_api_key``, and ``redis_url``, are None until they
    are set or ``make run`` has started its own; ``label_studio()`` and ``redis()`` return them or
    raise. The other addresses are always complete after construction.
    """

    model_config = SettingsConfigDict(
        env_file=ROOT / ".env",
        env_ignore_empty=True,  # docker compose hands an unset variable down as ""
        extra="ignore",
        frozen=True,
        validate_default=True,
        hide_input_in_errors=True,
    )

    data_dir: Annotated[Path, AfterValidator(values.absolute_path)] = documented(
        Path("data"), "The folder that holds all state.", "a folder that can be written", "./data"
    )
    secrets_dir: _Folder | None = documented(
        None,
        "A folder with a file for each secret, named as its setting in lower case, as Docker and "
        "Kubernetes mount them; the environment and `.env` go first (docs/HOSTS.md).",
        "a folder that is there",
        "none",
    )
    shared_secret: SecretStr | None = documented(
        None,
        "What all hosts of an installation must have alike: the secrets of webhooks, the seal of "
        "compiled members and the dashboard's forms are derived from it (docs/HOSTS.md). Unset: "
        "made up once and kept in `DATA_DIR/secrets.json`, which is enough for one host.",
        f"at least {MIN_SHARED_SECRET} printable ASCII characters without blanks around them",
        "made up once",
    )
    host: Annotated[str, AfterValidator(values.host)] = documented(
        "127.0.0.1",
        "The address the web listens on; `0.0.0.0` for every interface.",
        "an IP address or a host name",
    )
    port: int = whole_number(
        DEFAULT_PORT,
        "The port of the web. If you set it, it is used, or an error says that it is taken. If the "
        "default is taken, `make run` chooses a free port once and remembers it.",
        65535,
    )
    backend_url: Annotated[str, AfterValidator(values.web_url)] = documented(
        "", "How Label Studio reaches the web.", _WEB, "`http://HOST:PORT`"
    )
    label_studio_url: Annotated[str, AfterValidator(values.web_url)] | None = documented(
        None, "Your Label Studio. Unset: `make run` starts a local one.", _WEB, "a local one"
    )
    local_label_studio_host: Annotated[str, AfterValidator(values.host)] = documented(
        "127.0.0.1",
        "The address that the Label Studio of `make run` listens on. On another one than the "
        "loopback everybody who reaches it can open its login page.",
        "an IP address or a host name",
    )
    label_studio_api_key: SecretStr | None = documented(
        None,
        "A personal access token or a legacy token of that Label Studio.",
        "one word of printable characters",
        "the local one's",
    )
    redis_url: Annotated[str, AfterValidator(values.redis_url)] | None = documented(
        None,
        "Redis or Valkey, for the jobs. Unset: `make run` starts an embedded Valkey.",
        "an address such as redis://host:6379/0",
        "an embedded Valkey",
        repr=False,  # it may hold a password
    )
    ledger_url: Annotated[str, AfterValidator(values.ledger_url)] = documented(
        "",
        "The ledger's database: a SQLite file, or PostgreSQL (docs/LEDGER.md).",
        "a SQLite file, sqlite:///path, or a database on PostgreSQL, "
        "postgresql+psycopg://user:password@host/name",
        "`sqlite:///DATA_DIR/ledger.sqlite3`",
        repr=False,  # it may hold a password
    )
    ledger_connections: int = documented(
        5,
        "Connections that one process opens to the ledger's PostgreSQL, at most; SQLite has none.",
        "an integer from 2 to 100",
        ge=2,
        le=100,
    )
    registry_url: Annotated[str, AfterValidator(values.registry_url)] = documented(
        "",
        "Where the versions are: a folder, as a path or `file://`, or an object store, as "
        "`s3://bucket/prefix` (docs/REGISTRY.md).",
        "a folder, as a path or as file:///path, or an object store, as s3://bucket/prefix "
        "without user, query or fragment (gs:// and az:// likewise)",
        "`DATA_DIR/registry`",
    )
    registry_cache_gb: int = whole_number(
        10,
        "Gigabytes that this host's copies of what an object store holds take in "
        "`DATA_DIR/cache/registry`, at most (docs/REGISTRY.md).",
        100_000,
    )
    basic_auth_user: str = documented(
        "committee",
        "The name that Label Studio and you give to the web.",
        # HTTP Basic ends the user at the first colon and leaves open how other letters are sent.
        "printable ASCII without a colon and without blanks around it",
    )
    basic_auth_pass: SecretStr = documented(
        SecretStr(""),
        "Its password. Unset: made up once and kept in `DATA_DIR/secrets.json`.",
        "printable ASCII without blanks around it",
        "made up once",
    )
    dashboard_user: str = documented(
        "owner",
        "The name of the dashboard's login, which may act (docs/DASHBOARD.md).",
        "printable ASCII without a colon and without blanks around it",
    )
    dashboard_pass: SecretStr | None = documented(
        None,
        "Its password. Unset: `make run` makes one up once, and otherwise the dashboard is off.",
        "printable ASCII without blanks around it",
        "made up once by `make run`",
    )
    dashboard_viewer_user: str = documented(
        "viewer",
        "The name of a second login of the dashboard, which may only read.",
        "printable ASCII without a colon and without blanks around it",
    )
    dashboard_viewer_pass: SecretStr | None = documented(
        None,
        "Its password. Unset: there is no second login.",
        "printable ASCII without blanks around it",
        "none",
    )
    dashboard_proxies: _Hosts = documented(
        (),
        "Addresses of proxies whose header `X-Forwarded-User` is believed for who acts on the "
        "dashboard, with commas between. It names a person and opens nothing: the proxy must send "
        "a login too.",
        "IP addresses with commas between",
        "none",
    )
    allowed_image_hosts: _Hosts = documented(
        (),
        "Hosts other than Label Studio that images may come from, with commas between; "
        "`name:port` for another port than 80 or 443. A name that leads to the loopback or the "
        "local link needs that address listed too.",
        "host names or IP addresses, with :port where it is not 80 or 443, with commas between, "
        "without http:// and paths",
        "none",
    )
    retrain_every: int = whole_number(
        10, "Changed annotations between two rounds of training.", MOST
    )
    members: int = whole_number(5, "Networks in the committee.", 20)
    candidates: int = whole_number(2000, "Images scored in a round, at most.", MOST)
    queue_length: int = whole_number(
        500, "Images published in a round, at most; never more than are scored.", MOST
    )
    network: Annotated[str, AfterValidator(values.network_name)] = documented(
        "shared",
        "The members' network: `shared`, `lite0`, `unet`, or your own as `package.module:factory` "
        "(docs/NETWORKS.md); a project's option `network` goes first.",
        "shared, lite0, unet or package.module:factory",
    )
    network_weights: _File | None = documented(
        None,
        "The weights that your own network starts from: a state dict, as safetensors or by "
        "`torch.save`.",
        "a file that is there",
        "none",
    )
    # Five members on two cores are three turns: a demo's round then ends within four minutes.
    fit_seconds: float = documented(
        40,
        "How long the training of one member may take, in seconds: as many steps as fit in, 100 "
        "at least, and no more than pay for the labels there are (docs/RECIPE.md).",
        "a number from 1 to 86400",
        ge=1,
        le=86400,
    )
    engine: Literal["auto", "openvino", "torch"] = documented(
        "auto",
        "What runs the members: `openvino`, `torch`, or `auto`: torch on a GPU, OpenVINO on a CPU.",
        "auto, openvino or torch",
    )
    metrics_token: SecretStr | None = documented(
        None,
        "What opens `/metrics` and nothing else, as a Bearer token (docs/METRICS.md). The web's "
        "user and password open it too.",
        "printable ASCII without blanks in it",
        "none",
    )
    log_format: Literal["text", "json"] = documented(
        "text",
        "What web and workers log: `text`, or `json`: an object a line, with the ids of request, "
        "project, round, part and job (docs/METRICS.md).",
        "text or json",
    )
    mlflow_tracking_uri: Annotated[str, AfterValidator(values.tracking_uri)] | None = documented(
        None,
        "The MLflow server, or the folder, that gets a run for each version (docs/METRICS.md).",
        "an http:// or https:// address without user, query or fragment, or file:///path",
        "none",
    )
    workers: int = whole_number(
        _default_workers(), "Worker processes that `make run` starts.", 64, "the CPUs, at most 4"
    )
    job_nice: int = documented(
        10,
        "How far the jobs of a round yield to the web, as a nice level: 0 is not at all.",
        "an integer from 0 to 19",
        ge=0,
        le=19,
    )

    @field_validator("backend_url", "ledger_url", "registry_url", mode="before")
    @classmethod
    def _fill_dependent_default(cls, value: object, info: ValidationInfo) -> object:
        """Defaults that follow from fields above; a refused one of those is reported once."""
        if value != "":
            return value
        data_dir = info.data.get("data_dir", ROOT)
        host, port = info.data.get("host", "127.0.0.1"), info.data.get("port", DEFAULT_PORT)
        return {
            "backend_url": f"http://{values.reachable(host)}:{port}",
            "ledger_url": f"sqlite:///{data_dir / 'ledger.sqlite3'}",
            "registry_url": str(data_dir / "registry"),
        }[info.field_name or ""]

    @field_validator("allowed_image_hosts")
    @classmethod
    def _check_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(values.host_and_port(host) for host in hosts)

    @field_validator("shared_secret")
    @classmethod
    def _check_shared_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            values.header_text(value.get_secret_value())
            if len(value.get_secret_value()) < MIN_SHARED_SECRET:
                raise ValueError("too short")
        return value

    @field_validator("dashboard_proxies")
    @classmethod
    def _check_addresses(cls, addresses: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(ipaddress.ip_address(address)) for address in addresses)

    @field_validator(
        *("basic_auth_user", "basic_auth_pass", "label_studio_api_key", "dashboard_user"),
        *("dashboard_pass", "dashboard_viewer_user", "dashboard_viewer_pass", "metrics_token"),
    )
    @classmethod
    def _check_header(
        cls, value: str | SecretStr | None, info: ValidationInfo
    ) -> str | SecretStr | None:
        if value is None:
            return None
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        name = info.field_name or ""
        one_word = name in ("label_studio_api_key", "metrics_token")
        forbidden = ":" if name.endswith("_user") else " " if one_word else ""
        values.header_text(text, forbidden)
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        ours = _SecretFiles(settings_cls), _RememberedSource(settings_cls)
        return init_settings, env_settings, dotenv_settings, *ours

    def derived_key(self, purpose: bytes) -> bytes:
        """A key that all hosts of this installation have alike, and that reveals no secret."""
        if self.shared_secret is None:
            return derived_key(self.data_dir, purpose)
        return hmac.digest(self.shared_secret.get_secret_value().encode(), purpose, "sha256")

    @property
    def ledger_path(self) -> Path | None:
        """The ledger's SQLite file; None: it is on PostgreSQL."""
        path = self.ledger_url.removeprefix("sqlite:///")
        return None if path == self.ledger_url else Path(path)

    @property
    def registry_path(self) -> Path | None:
        """The registry's folder; None: it is in an object store."""
        return None if "://" in self.registry_url else Path(self.registry_url)

    def store(self, url: str | None = None) -> Store:
        """Where the registry's files lie, or those of another one; nothing is opened yet."""
        most_bytes = self.registry_cache_gb * 10**9
        return open_store(url or self.registry_url, registry_cache(self.data_dir), most_bytes)

    def describe_dashboard(self) -> str:
        """Where the dashboard is, or how to switch it on."""
        logins = [
            user
            for user, secret in (
                (self.dashboard_user, self.dashboard_pass),
                (self.dashboard_viewer_user, self.dashboard_viewer_pass),
            )
            if secret is not None
        ]
        if not logins:
            return "The dashboard is off: DASHBOARD_PASS, a password of its own, switches it on."
        return f"The dashboard is at {self.backend_url}/, for the login {' or '.join(logins)}."

    def label_studio(self) -> tuple[str, str]:
        """Label Studio's address and our key for it.

        Raises:
            BadSettings: neither is set, and no ``make run`` has started a local one.
        """
        if self.label_studio_url is None or self.label_studio_api_key is None:
            raise BadSettings(
                "No Label Studio is known: set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY, or let "
                f"`make run` start a local one in {self.data_dir}."
            )
        return self.label_studio_url, self.label_studio_api_key.get_secret_value()

    def redis(self) -> str:
        """The address of Redis or Valkey, password included.

        Raises:
            BadSettings: it is not set, and no ``make run`` has started an embedded one.
        """
        if self.redis_url is None:
            raise BadSettings(
                "No Redis is known: set REDIS_URL, or let `make run` start an embedded Valkey in "
                f"{self.data_dir}."
            )
        return self.redis_url


def load_settings(**overrides: Any) -> Settings:
    """The settings of this process; makes DATA_DIR and its passwords when they are missing.

    Args:
        overrides: fields by name, before every other source; ``_env_file=None`` reads no .env.

    Raises:
        BadSettings: a sentence for each value that cannot be used.
    """
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        raise BadSettings("\n".join(_describe_refusal(e) for e in error.errors())) from error
    except UnicodeDecodeError as error:
        raise BadSettings(
            f"The file .env must be text in UTF-8; it holds invalid UTF-8 at byte {error.start}."
        ) from error
    check_reach(settings.host, settings)
    _check_dashboard(settings)
    if (settings.label_studio_url is None) != (settings.label_studio_api_key is None):
        given, missing = "LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"
        if settings.label_studio_url is None:
            given, missing = missing, given
        raise BadSettings(
            f"{missing} must be set when {given} is; set both to use your own Label Studio, "
            "or neither to have `make run` start a local one."
        )
    if settings.network_weights is not None and settings.network in NETWORKS:
        raise BadSettings(
            f"NETWORK_WEIGHTS is for a network of your own, and NETWORK is {settings.network}: set "
            "NETWORK=package.module:factory, or leave NETWORK_WEIGHTS out."
        )
    return settings


def check_reach(host: str, settings: Settings) -> None:
    """Refuse to listen where others can reach us behind a password that can be guessed.

    Raises:
        BadSettings: one is too short for ``host``.
    """
    if values.is_loopback(host):
        return
    for name in ("basic_auth_pass", "dashboard_pass", "dashboard_viewer_pass", "metrics_token"):
        secret: SecretStr | None = getattr(settings, name)
        if secret is None or len(secret.get_secret_value()) >= MIN_PASSWORD:
            continue
        unset = "have one made up" if name == "basic_auth_pass" else "do without it"
        raise BadSettings(
            f"{name.upper()} must have at least {MIN_PASSWORD} characters where HOST lets others "
            f"reach the web ({host}), got {len(secret.get_secret_value())}: set a longer one, "
            f"leave it out to {unset}, or set HOST=127.0.0.1."
        )


def _check_dashboard(settings: Settings) -> None:
    """Refuse logins of the dashboard that would not keep apart whom they should.

    Raises:
        BadSettings: two logins are alike.
    """
    main, viewer = settings.dashboard_pass, settings.dashboard_viewer_pass
    # Whoever has an account of Label Studio can obtain the web's password (docs/SECURITY.md).
    for name, secret in (("DASHBOARD_PASS", main), ("DASHBOARD_VIEWER_PASS", viewer)):
        if secret is not None and secret == settings.basic_auth_pass:
            raise BadSettings(
                f"{name} must differ from BASIC_AUTH_PASS, which every account of Label Studio "
                "can obtain: set another one."
            )
    if None not in (main, viewer) and settings.dashboard_user == settings.dashboard_viewer_user:
        raise BadSettings(
            "DASHBOARD_VIEWER_USER must differ from DASHBOARD_USER, got the same name for both."
        )


def _describe_refusal(error: Mapping[str, Any]) -> str:
    """``MEMBERS must be an integer from 1 to 20, got '0'.``"""
    name = str(error["loc"][0])
    expected = expected_value(Settings.model_fields[name])
    return f"{name.upper()} must be {expected}, got {_shown(name, error['input'])}."


def _shown(name: str, value: object) -> str:
    if name in ("label_studio_api_key", "metrics_token", "shared_secret") or name.endswith("_pass"):
        return "something else (not shown, because it is a secret)"
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    if name.endswith("_user"):
        text = re.sub(r"(?s):.*", ":***", text)  # somebody gave user:password
    return values.shown_without_password(text)


def settings_table() -> str:
    """The documentation's table of the environment, in Markdown: name, default, meaning."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        rows.append(f"| `{name.upper()}` | {shown_default(field)} | {field.description} |")
    return "\n".join(rows) + "\n"
