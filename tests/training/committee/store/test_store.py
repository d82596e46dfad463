"""What both stores promise, on a folder and on a real S3 server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.training.committee.store.places import Place, damage, files_of, version
from training.committee.checksums import VERSION_FILE, DamagedVersion, UnknownVersion, check_files
from training.committee.store.copying import copy_registry
from training.committee.store.folder_store import STALE_S, FolderStore
from training.committee.store.store import VersionTaken, read_whole


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "folder":
        made = Place(str(tmp_path / "registry"), tmp_path)
    else:
        made = request.getfixturevalue("s3_place")
    yield made
    made.close()


def test_a_version_is_read_on_another_host_as_it_was_put(place: Place) -> None:
    files = version(3, b"weights")
    store, other = place.host("a"), place.host("b")
    assert (store.projects(), store.versions("p1"), store.contents("p1")) == ([], [], {})
    assert files_of(store.put_version("p1", 3, files)) == files
    assert files_of(other.version_path("p1", 3)) == files
    assert (other.projects(), other.versions("p1")) == (["p1"], [3])
    assert other.contents("p1") == {3: set(files)}
    for name, data in files.items():
        assert other.version_file("p1", 3, name) == data
    with pytest.raises(DamagedVersion, match="does not list other"):
        other.version_file("p1", 3, "other")
    with pytest.raises(UnknownVersion, match="no version in"):
        other.version_file("p1", 4, VERSION_FILE)
    assert other.version_place("p1", 3) == f"{place.url}/p1/versions/3"


@pytest.mark.parametrize("puts", [0, 2, 3])
def test_a_version_whose_writer_is_killed_is_absent_and_can_be_written(
    place: Place, puts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.dies_after(puts)
    store = place.host()
    assert store.versions("p1") == []
    with pytest.raises(UnknownVersion):
        check_files(store.version_path("p1", 1))
    whole = version(2, b"whole")
    store.put_version("p1", 2, whole)
    later = time.time() + STALE_S + 60
    monkeypatch.setattr("training.committee.store.folder_store.time.time", lambda: later)
    store.prune_versions("p1", [2])  # what it left goes
    monkeypatch.undo()
    assert store.versions("p1") == [2]
    assert files_of(store.put_version("p1", 1, version(1, b"again"))) == version(1, b"again")


def test_of_two_writers_of_a_version_one_wins_and_readers_see_one_of_them(place: Place) -> None:
    store, other = place.host("a"), place.host("b")
    first, second = version(1, b"first"), version(1, b"second")
    store.put_version("p1", 1, first)
    store.put_version("p1", 1, first)  # by an attempt of which the answer was lost
    if place.is_folder:
        other.put_version("p1", 1, second)
        assert files_of(store.version_path("p1", 1)) == second
        return
    with pytest.raises(VersionTaken, match="another version 1 in s3://"):
        other.put_version("p1", 1, second)
    for each in (store, other):
        assert files_of(each.version_path("p1", 1)) == first


def test_changed_bytes_are_found(place: Place) -> None:
    place.host("a").put_version("p1", 1, version(1, b"weights"))
    place.host("a").write("p1", "rounds/4/member-00.safetensors", b"weights")
    damage(place, "p1", "versions/1/file-1.bin")
    with pytest.raises(DamagedVersion, match=r"file-1\.bin should have the SHA-256"):
        read_whole(place.host("b"), "p1", 1, check_files)
    with pytest.raises(DamagedVersion, match=r"file-1\.bin"):
        place.host("b").version_file("p1", 1, "file-1.bin")
    if not place.is_folder:  # safetensors hold no checksum: in a folder the disk is trusted
        damage(place, "p1", "rounds/4/member-00.safetensors")
        with pytest.raises(OSError, match="another SHA-256"):
            place.host("b").read("p1", "rounds/4/member-00.safetensors")


def test_what_is_deleted_or_not_kept_is_gone(place: Place) -> None:
    store = place.host()
    for number in (1, 2, 3):
        store.put_version("p1", number, version(number, b"x"))
    store.delete_version("p1", 1)
    store.delete_version("p1", 1)
    with pytest.raises(UnknownVersion):
        check_files(store.version_path("p1", 1))
    store.prune_versions("p1", [3])
    assert store.versions("p1") == [3]


def test_other_files_come_back_and_go(place: Place) -> None:
    store, other = place.host("a"), place.host("b")
    for path in ("examples/d1.npz", "examples/d2.npz", "rounds/4/a", "rounds/4/b", "rounds/5/a"):
        store.write("p1", path, path.encode(), at_hand=path.startswith("examples"))
    store.write("p1", "rounds/4/b", b"replaced")
    assert other.read("p1", "rounds/4/b") == b"replaced"
    other.bring("p1", ["examples/d1.npz", "examples/none.npz"])
    with other.open("p1", "examples/d1.npz") as file:
        assert file.read() == b"examples/d1.npz"
    assert [other.has("p1", path) for path in ("rounds/4/a", "rounds/4/c")] == [True, False]
    for missing in (lambda: other.read("p1", "rounds/4/c"), lambda: other.read("p2", "steps.json")):
        with pytest.raises(FileNotFoundError):
            missing()
    assert store.prune_examples("p1", {"d2"}) == 1
    store.prune_rounds("p1", lambda number: number == 4)
    assert store.other_files("p1") == {"examples/d2.npz": 15, "rounds/5/a": 10}
    store.remove("p1", "examples/d2.npz")
    store.remove("p1", "examples/d2.npz")
    store.drop_round("p1", 5)
    assert store.other_files("p1") == {}
    store.check()


def test_a_dropped_project_is_gone_and_no_other(place: Place) -> None:
    store = place.host()
    for project in ("p1", "p10"):
        store.put_version(project, 1, version(1, b"x"))
        store.write(project, "examples/d.npz", b"x", at_hand=True)
    store.drop_project("p1")
    store.drop_project("p1")
    assert store.projects() == ["p10"]
    assert store.versions("p10") == [1]
    assert not list(place.root.glob("a/*/p1"))


def test_a_registry_is_copied_there_and_back(place: Place, tmp_path: Path) -> None:
    source = FolderStore(tmp_path / "old")
    for number in (1, 2):
        source.put_version("p1", number, version(number, b"weights"))
    source.write("p1", "examples/d.npz", b"example")
    source.write("p1", "rounds/4/member", b"member")
    (source.root / "p1/versions/2/file-0.bin").write_bytes(b"damaged")
    target = place.host()
    done = copy_registry(source, target)
    assert (done.versions, done.files, done.copied) == (1, 2, 3)
    assert len(done.problems) == 1
    assert "Version 2 of p1 is not copied" in done.problems[0]
    source.put_version("p1", 2, version(2, b"weights"))
    target.write("p1", "examples/d.npz", b"changed")  # of the same length
    done = copy_registry(source, target)
    assert (done.versions, done.files, done.copied, done.problems) == (2, 2, 2, [])
    back = FolderStore(tmp_path / "back")
    done = copy_registry(target, back)
    assert (done.versions, done.files) == (2, 2)
    for path in source.root.rglob("*"):
        if path.is_file():
            assert (back.root / path.relative_to(source.root)).read_bytes() == path.read_bytes()
    back.put_version("p1", 2, version(2, b"another"))
    with pytest.raises(VersionTaken, match="another version 2 of p1"):
        copy_registry(back, target)


def test_what_is_no_project_is_passed_over(place: Place, tmp_path: Path) -> None:
    store = place.host()
    store.put_version("p1", 1, version(1, b"x"))
    if isinstance(store, FolderStore):
        (store.root / "lost+found").mkdir()
    else:
        import obstore

        obstore.put(store._client, "lost+found/file", b"x")  # type: ignore[attr-defined]
    assert store.projects() == ["p1"]
    assert copy_registry(store, FolderStore(tmp_path / "copy")).versions == 1
