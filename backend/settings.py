"""What one process needs to know of the world around it, read once at its start.

A value comes from the first of: keyword arguments, the environment, ``.env`` in the checkout,
what ``make run`` remembered in ``DATA_DIR`` (``local.json``: the ports it chose; ``secrets.json``:
the passwords it made up), the default. Nothing else reads the environment.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from backend.errors import BackendError
from training.config import NETWORKS, is_network
from training.files import write_atomically

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_PORT = 9090  # what Label Studio's own examples use for a backend

_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*\.?")


MIN_PASSWORD = 12
"""Characters of the web's password where others can reach it: guesses are counted and answered 429
(login.py), which bounds the log and not the guesser; the password's length is what protects."""


class BadSettings(BackendError):
    """Values of the environment that cannot be used: one sentence per value, a line each."""

    status = 503  # where the web meets it: an operator must mend it


# ---- the forms a value may have ------------------------------------------------------------


def _absolute(path: Path) -> Path:
    try:
        # resolve() would follow links.
        return Path(os.path.abspath(path.expanduser()))  # noqa: PTH100
    except RuntimeError as error:  # ~name of somebody who has no home here
        raise ValueError("nobody of that name has a home here") from error


def _host(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        if _HOST_NAME.fullmatch(host) is None:
            raise
        return host.lower()


def _host_and_port(text: str) -> str:
    """``name`` or ``name:port``, as ``ImageFetcher`` compares them."""
    name, colon, port = text.rpartition(":")
    if not colon or ":" in name:  # none, or an IPv6 address
        return _host(text)
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError("no port")
    return f"{_host(name)}:{int(port)}"


def _web_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("no http(s) address")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("a user, a query or a fragment in the address")
    if parts.port == 0:  # reading it raises ValueError beyond 65535
        raise ValueError("port 0")
    return url.rstrip("/")


def _redis_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme == "unix":
        if not parts.path.startswith("/"):
            raise ValueError("no socket path")
        return url
    if parts.scheme not in ("redis", "rediss") or not parts.hostname or parts.port == 0:
        raise ValueError("no Redis address")
    return url


def _ledger_url(url: str) -> str:
    prefix = "sqlite:///"
    path = url.removeprefix(prefix)
    if path == url or not path or path.startswith((":memory:", "file:")) or "?" in path:
        raise ValueError("not a SQLite file")
    return prefix + str(_absolute(Path(path)))


def _registry_url(url: str) -> str:
    if "://" not in url:
        return str(_absolute(Path(url)))
    parts = urlsplit(url)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or len(parts.path) < 2:
        raise ValueError("not a folder")
    return str(_absolute(Path(unquote(parts.path))))


def _network(name: str) -> str:
    if not is_network(name):
        raise ValueError("no network")
    return name


def _file(path: Path) -> Path:
    found = _absolute(path)
    try:
        there = found.is_file()
    except OSError as error:  # a name too long, or a folder that may not be looked into
        raise ValueError("no file") from error
    if not there:
        raise ValueError("no file")
    return found


def _names(value: object) -> object:
    if isinstance(value, str):
        return tuple(name.strip() for name in value.split(",") if name.strip())
    return value


def _default_workers() -> int:
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(4, cpus or 1))


def _field(default: object, meaning: str, expected: str, shown: str = "", **more: Any) -> Any:
    """A field whose refusal and whose line in the README are written in one place."""
    extra: JsonDict = {"expected": expected, "shown": shown or str(default)}
    return Field(default, description=meaning, json_schema_extra=extra, **more)


_POSITIVE = "a positive integer"
_WEB = "an http:// or https:// address without user, query or fragment"


class Settings(BaseSettings):
    """All that steers a process. Built once by ``load_settings``, handed down, never changed.

    ``label_studio_url`` with ``label_studio_api_key``, and ``redis_url``, are None until they
    are set or ``make run`` has started its own; ``label_studio()`` and ``redis()`` give them or
    a sentence. The other addresses are always complete after construction.
    """

    model_config = SettingsConfigDict(
        env_file=ROOT / ".env",
        env_ignore_empty=True,  # docker compose hands an unset variable down as ""
        extra="ignore",
        frozen=True,
        validate_default=True,
        hide_input_in_errors=True,
    )

    data_dir: Annotated[Path, AfterValidator(_absolute)] = _field(
        Path("data"), "The folder that holds all state.", "a folder that can be written", "./data"
    )
    host: Annotated[str, AfterValidator(_host)] = _field(
        "127.0.0.1",
        "The address the web listens on; `0.0.0.0` for every interface.",
        "an IP address or a host name",
    )
    port: int = _field(
        DEFAULT_PORT,
        "The port of the web. A set one is obeyed or refused; the default steps aside once when "
        "it is taken, and the choice is remembered.",
        "an integer from 1 to 65535",
        ge=1,
        le=65535,
    )
    backend_url: Annotated[str, AfterValidator(_web_url)] = _field(
        "", "How Label Studio reaches the web.", _WEB, "`http://HOST:PORT`"
    )
    label_studio_url: Annotated[str, AfterValidator(_web_url)] | None = _field(
        None, "Your Label Studio. Unset: `make run` starts a local one.", _WEB, "a local one"
    )
    label_studio_api_key: SecretStr | None = _field(
        None,
        "A personal access token or a legacy token of that Label Studio.",
        "one word of printable characters",
        "the local one's",
    )
    redis_url: Annotated[str, AfterValidator(_redis_url)] | None = _field(
        None,
        "Redis or Valkey, for the jobs. Unset: `make run` starts an embedded Valkey.",
        "an address such as redis://host:6379/0",
        "an embedded Valkey",
        repr=False,  # it may hold a password
    )
    ledger_url: Annotated[str, AfterValidator(_ledger_url)] = _field(
        "",
        "The ledger's database; only SQLite for now.",
        "a SQLite file, sqlite:///path (other databases are not supported yet)",
        "`sqlite:///DATA_DIR/ledger.sqlite3`",
    )
    registry_url: Annotated[str, AfterValidator(_registry_url)] = _field(
        "",
        "The folder of the versions; a path or `file://`.",
        "a folder, as a path or as file:///path (object stores are not supported yet)",
        "`DATA_DIR/registry`",
    )
    basic_auth_user: str = _field(
        "committee",
        "The name that Label Studio and you give to the web.",
        # Label Studio encodes other letters in two ways, and strips blanks in one of two places.
        "printable ASCII without a colon and without blanks around it",
    )
    basic_auth_pass: SecretStr = _field(
        SecretStr(""),
        "Its password. Unset: made up once and kept in `DATA_DIR/secrets.json`.",
        "printable ASCII without blanks around it",
        "made up once",
    )
    allowed_image_hosts: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)] = _field(
        (),
        "Hosts other than Label Studio that images may come from, with commas between; "
        "`name:port` for another port than 80 or 443. A name that leads to the loopback or the "
        "local link needs that address listed too.",
        "host names or IP addresses, with :port where it is not 80 or 443, with commas between, "
        "without http:// and paths",
        "none",
    )
    retrain_every: int = _field(
        10, "Changed annotations between two rounds of training.", _POSITIVE, ge=1
    )
    members: int = _field(5, "Networks in the committee.", "an integer from 1 to 20", ge=1, le=20)
    candidates: int = _field(2000, "Images scored in a round, at most.", _POSITIVE, ge=1)
    queue_length: int = _field(
        500, "Images published in a round, at most; never more than are scored.", _POSITIVE, ge=1
    )
    network: Annotated[str, AfterValidator(_network)] = _field(
        "shared",
        "The members' network: `shared`, `lite0`, `unet`, or your own as `package.module:factory` "
        "(docs/NETWORKS.md); a project's option `network` goes first.",
        "shared, lite0, unet or package.module:factory",
    )
    network_weights: Annotated[Path, AfterValidator(_file)] | None = _field(
        None,
        "The weights that your own network starts from: a state dict, as safetensors or by "
        "`torch.save`.",
        "a file that is there",
        "none",
    )
    # Five members on two cores are three turns: a demo's round then ends within four minutes.
    fit_seconds: float = _field(
        40,
        "How long the training of one member may take, in seconds: the steps that take so long, "
        "100 to 2,000, are found at a project's first round and kept.",
        "a number from 1 to 86400",
        ge=1,
        le=86400,
    )
    engine: Literal["auto", "openvino", "torch"] = _field(
        "auto",
        "What runs the members: `openvino`, `torch`, or `auto`: torch on a GPU, OpenVINO on a CPU.",
        "auto, openvino or torch",
    )
    workers: int = _field(
        _default_workers(),
        "Worker processes that `make run` starts.",
        "an integer from 1 to 64",
        "the CPUs, at most 4",
        ge=1,
        le=64,
    )

    @field_validator("backend_url", "ledger_url", "registry_url", mode="before")
    @classmethod
    def _follow(cls, value: object, info: ValidationInfo) -> object:
        """Defaults that follow from fields above; a refused one of those is complained of once."""
        if value != "":
            return value
        data_dir = info.data.get("data_dir", ROOT)
        host, port = info.data.get("host", "127.0.0.1"), info.data.get("port", DEFAULT_PORT)
        return {
            "backend_url": f"http://{reachable(host)}:{port}",
            "ledger_url": f"sqlite:///{data_dir / 'ledger.sqlite3'}",
            "registry_url": str(data_dir / "registry"),
        }[info.field_name or ""]

    @field_validator("allowed_image_hosts")
    @classmethod
    def _check_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_host_and_port(host) for host in hosts)

    @field_validator("basic_auth_user", "basic_auth_pass", "label_studio_api_key")
    @classmethod
    def _check_header(
        cls, value: str | SecretStr | None, info: ValidationInfo
    ) -> str | SecretStr | None:
        """What travels in an Authorization header."""
        if value is None:
            return None
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        wrong = {"basic_auth_user": ":", "label_studio_api_key": " "}.get(info.field_name or "")
        if not text or not text.isascii() or not text.isprintable() or text != text.strip():
            raise ValueError("not printable ASCII")
        if wrong is not None and wrong in text:
            raise ValueError("a character that cannot be there")
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
        return init_settings, env_settings, dotenv_settings, _Remembered(settings_cls)

    @property
    def ledger_path(self) -> Path:
        """The ledger's SQLite file."""
        return Path(self.ledger_url.removeprefix("sqlite:///"))

    @property
    def registry_path(self) -> Path:
        """The registry's folder."""
        return Path(self.registry_url)

    def label_studio(self) -> tuple[str, str]:
        """Label Studio's address and our key for it.

        Raises:
            BadSettings: neither is set, and no ``make run`` has started a local one.
        """
        if self.label_studio_url is None or self.label_studio_api_key is None:
            raise BadSettings(
                "LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY must be set, or `make run` must have "
                f"started a local Label Studio in {self.data_dir}; neither is so."
            )
        return self.label_studio_url, self.label_studio_api_key.get_secret_value()

    def redis(self) -> str:
        """The address of Redis or Valkey, password included.

        Raises:
            BadSettings: it is not set, and no ``make run`` has started an embedded one.
        """
        if self.redis_url is None:
            raise BadSettings(
                "REDIS_URL must be set, or `make run` must have started an embedded Valkey in "
                f"{self.data_dir}; neither is so."
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
        raise BadSettings("\n".join(_sentence(e) for e in error.errors())) from error
    except UnicodeDecodeError as error:
        raise BadSettings(
            f"The file .env must be text in UTF-8; byte {error.start} of it is none."
        ) from error
    check_reach(settings.host, settings)
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


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # another name may be anything


def check_reach(host: str, settings: Settings) -> None:
    """Refuse to listen where others can reach us behind a password that can be guessed.

    Raises:
        BadSettings: it is too short for ``host``.
    """
    password = settings.basic_auth_pass.get_secret_value()
    if not is_loopback(host) and len(password) < MIN_PASSWORD:
        raise BadSettings(
            f"BASIC_AUTH_PASS must have at least {MIN_PASSWORD} characters where HOST lets others "
            f"reach the web ({host}), got {len(password)}: set a longer one, leave it out to have "
            "one made up, or set HOST=127.0.0.1."
        )


def _sentence(error: Mapping[str, Any]) -> str:
    """``RETRAIN_EVERY must be a positive integer, got '0'.``"""
    name = str(error["loc"][0])
    extra = Settings.model_fields[name].json_schema_extra
    expected = extra["expected"] if isinstance(extra, dict) else "another value"
    return f"{name.upper()} must be {expected}, got {_shown(name, error['input'])}."


def _shown(name: str, value: object) -> str:
    """The refused value, without the passwords it may hold, cut where a reader would stop."""
    if name in ("label_studio_api_key", "basic_auth_pass"):
        return "something else (not shown, because it is a secret)"
    if isinstance(value, tuple):
        value = ",".join(map(str, value))
    text = str(value)
    if name == "basic_auth_user":
        text = re.sub(r"(?s):.*", ":***", text)  # somebody gave user:password
    # An address that is refused may be malformed: all before its last @ could be the password,
    # and a query may hold one as well.
    text = re.sub(r"(?s)^(\w[\w+.-]*://)?.*@", r"\1***@", text)
    text = re.sub(r"(?s)[?#].*", "?***", text)
    return repr(text if len(text) <= 120 else text[:120] + "...")


def reachable(host: str) -> str:
    """The host to put into an address for something that listens on ``host``."""
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def settings_table() -> str:
    """The README's table of the environment, in Markdown: name, default, meaning."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        extra = field.json_schema_extra
        shown = extra["shown"] if isinstance(extra, dict) else ""
        rows.append(f"| `{name.upper()}` | {shown} | {field.description} |")
    return "\n".join(rows) + "\n"


# ---- what DATA_DIR remembers ---------------------------------------------------------------


class _Remembered(PydanticBaseSettingsSource):
    """Values that ``make run`` chose, for every field that nobody set."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False  # the base class asks for it; __call__ gives all at once

    def __call__(self) -> dict[str, Any]:
        given = self.current_state
        data_dir = Path(given.get("data_dir", "data"))
        try:
            data_dir = _absolute(data_dir)
        except ValueError as error:
            raise _no_folder(data_dir, str(error)) from error
        prepare_data_dir(data_dir)
        local, kept = remembered(data_dir), load_secrets(data_dir)
        values: dict[str, Any] = {"basic_auth_pass": kept["basic_auth_pass"]}
        if "port" in local:
            values["port"] = local["port"]
        if "valkey_port" in local:
            password = kept["valkey_password"]
            values["redis_url"] = f"redis://:{password}@127.0.0.1:{local['valkey_port']}/0"
        # Both or neither: the local server's key must never go to another server.
        if not {"label_studio_url", "label_studio_api_key"} & given.keys():
            values["label_studio_url"] = local.get("label_studio_url")
            if values["label_studio_url"] is not None:
                values["label_studio_api_key"] = kept["label_studio_token"]
        return {name: value for name, value in values.items() if value is not None}


def prepare_data_dir(data_dir: Path) -> None:
    """Make DATA_DIR, for its owner alone: it will hold images of patients and passwords.

    Raises:
        BadSettings: it is a file, or cannot be made or written.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in it
        raise _no_folder(
            data_dir, (error.strerror if isinstance(error, OSError) else None) or str(error)
        ) from error
    if not os.access(data_dir, os.R_OK | os.W_OK | os.X_OK):
        raise _no_folder(data_dir, "this user may not write there")


def _no_folder(data_dir: Path, why: str) -> BadSettings:
    return BadSettings(
        f"DATA_DIR must be a folder that can be written, got {_shown('data_dir', data_dir)} "
        f"({why})."
    )


def remembered(data_dir: Path) -> dict[str, Any]:
    """What ``make run`` chose in this DATA_DIR, from local.json; {} before its first time.

    Keys: ``port``, ``valkey_port``, ``label_studio_url``.
    """
    return _read_json(data_dir / "local.json", "the ports are then chosen anew") or {}


def remember(data_dir: Path, **values: Any) -> None:
    """Add values to local.json; a value of None is forgotten."""
    merged = {**remembered(data_dir), **values}
    kept = {name: value for name, value in merged.items() if value is not None}
    _write_json(data_dir / "local.json", kept, replace=True)


def load_secrets(data_dir: Path) -> dict[str, str]:
    """The passwords of this DATA_DIR, from secrets.json (mode 0600), made up when missing.

    Keys: ``basic_auth_pass``, ``valkey_password``, ``label_studio_password``,
    ``label_studio_token`` (40 hex digits, as Label Studio's legacy tokens are).

    Raises:
        BadSettings: the file is damaged.
    """
    path = data_dir / "secrets.json"
    found = _read_json(path, "new passwords are then made, and `connect` must be run again")
    fresh = {
        "basic_auth_pass": secrets.token_urlsafe(24),
        "valkey_password": secrets.token_hex(24),
        "label_studio_password": secrets.token_urlsafe(12),
        "label_studio_token": secrets.token_hex(20),
    }
    if found is None:
        # Two processes may start at once: the first file stays, and both read that one.
        _write_json(path, fresh, replace=False)
        found = _read_json(path, "new passwords are then made") or {}
    if fresh.keys() - found.keys():
        found = {**fresh, **found}
        _write_json(path, found, replace=True)
    return {name: str(value) for name, value in found.items()}


def _read_json(path: Path, consequence: str) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise BadSettings(
            f"{path} must be a JSON file that this user can read ({error}); delete it "
            f"({consequence})."
        ) from error
    if not isinstance(found, dict):
        raise BadSettings(f"{path} must hold a JSON object; delete it ({consequence}).")
    return found


def _write_json(path: Path, values: Mapping[str, Any], *, replace: bool) -> None:
    """Write a JSON object that its owner alone may read.

    Args:
        replace: False leaves a file that is already there as it is.
    """
    write_atomically(path, json.dumps(values, indent=2).encode(), private=True, replace=replace)
