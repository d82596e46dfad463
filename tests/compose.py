"""Compose files as `docker compose -f ... -f ...` reads them, without Docker."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from backend.settings import Settings


def unknown_settings(variables: Iterable[str]) -> set[str]:
    """Those that are no setting of ours, nor read by the library that speaks to S3."""
    settings = {name.upper() for name in Settings.model_fields}
    return {name for name in variables if not name.startswith("AWS_")} - settings


def read_compose(*files: Path) -> dict[str, Any]:
    """The files put together, later ones on top, with `extends` resolved."""
    merged: dict[str, Any] = {}
    for file in files:
        read = dict(YAML(typ="safe").load(file))
        for name, service in read["services"].items():
            if extended := service.pop("extends", None):
                base = read_compose(file.parent / extended["file"])
                read["services"][name] = _merge(base["services"][extended["service"]], service)
        merged = _merge(merged, read)
    return merged


def _merge(below: Any, above: Any, key: str = "") -> Any:
    """Mappings are merged, mounts replaced by their target, and all else replaced."""
    if key in ("networks", "depends_on"):
        below, above = _by_name(below), _by_name(above)
    if isinstance(below, dict) and isinstance(above, dict):
        return below | {
            name: _merge(below[name], value, name) if name in below else value
            for name, value in above.items()
        }
    if key == "volumes":
        targets = {mount.split(":")[1] for mount in above}
        return [mount for mount in below if mount.split(":")[1] not in targets] + above
    return above


def _by_name(value: Any) -> Any:
    return {name: {} for name in value} if isinstance(value, list) else value


def assert_confined(compose: dict[str, Any]) -> None:
    """No service has a privilege, or may fill the machine."""
    for name, service in compose["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["mem_limit"], name
        assert service["pids_limit"] > 0, name
        # docker's own default keeps what is logged for ever
        assert set(service["logging"]["options"]) == {"max-size", "max-file"}, name
        assert service.get("read_only") or name == "label-studio", name
