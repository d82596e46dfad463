"""While a registry is copied nothing is removed from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.discs import disc_examples
from training.committee.registry import Registry
from training.committee.removals import removals_held


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    filled = Registry(tmp_path)
    filled.put_example("p1", "a", disc_examples(1)[0])
    filled.put_round("p1", 4, "member-00.safetensors", b"weights")
    (tmp_path / "p1/versions/1").mkdir(parents=True)
    (tmp_path / "p1/versions/1/version.json").touch()
    return filled


def clear_up(registry: Registry) -> None:
    registry.prune_versions("p1", [])
    registry.prune_examples("p1", set())
    registry.prune_rounds("p1", lambda _: True)


def files(registry: Registry) -> set[str]:
    return {path.name for path in registry.root.rglob("[!.]*") if path.is_file()}


def test_nothing_goes_until_the_copy_is_made(registry: Registry) -> None:
    there = files(registry)
    assert len(there) == 3
    with removals_held(registry.root):
        clear_up(registry)
        registry.put_round("p1", 4, "more", b"")
        assert files(registry) == there | {"more"}
    clear_up(registry)
    assert files(registry) == set()


def test_a_link_in_the_place_of_the_lock_is_not_followed(registry: Registry) -> None:
    (registry.root / ".lock").symlink_to(registry.root.parent / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        clear_up(registry)
    assert not (registry.root.parent / "elsewhere").exists()
