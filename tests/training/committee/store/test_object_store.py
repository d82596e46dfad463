"""What an object store adds: the host's cache, being away, and credentials that stay secret."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.training.committee.store.places import Place, damage, files_of, version
from tests.training.trained import TINY, Trained
from training.committee.checksums import VERSION_FILE, check_files
from training.committee.registry import Registry
from training.committee.store import object_store
from training.committee.store.store import StoreUnavailable, VersionTaken, read_whole
from training.committee.version import read_version

if TYPE_CHECKING:
    from tests.s3 import Door, S3Server

READER = """
import sys
from pathlib import Path
from training.committee.store.store import open_store
print(sorted(p.name for p in open_store(*sys.argv[1:2], Path(sys.argv[2]), 10**9)
    .version_path("p1", 1).iterdir()))
"""


def versions_here(place: Place, host: str = "a") -> list[str]:
    return sorted(path.name for path in (place.root / host).glob("*/*/versions/[!.]*"))


def test_a_writer_that_is_overtaken_says_so_and_the_winner_stays(
    s3_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, fast = s3_place.host("a"), s3_place.host("b")
    put = object_store.ObjectStore._put

    def overtaken(store: Any, key: str, data: bytes, **options: bool) -> None:
        if store is slow and key.endswith(VERSION_FILE):
            fast.put_version("p1", 1, version(1, b"fast"))
        put(store, key, data, **options)

    monkeypatch.setattr(object_store.ObjectStore, "_put", overtaken)
    with pytest.raises(VersionTaken, match="this one is not kept"):
        slow.put_version("p1", 1, version(1, b"slow"))
    assert files_of(s3_place.host("c").version_path("p1", 1)) == version(1, b"fast")


def test_the_cache_stays_within_its_bound_and_the_oldest_goes(s3_place: Place) -> None:
    s3_place.cache_bytes = 4_000
    writer = s3_place.host("writer")
    for number in range(1, 9):
        writer.put_version("p1", number, version(number, b"x" * 100))  # 600 bytes, and a list
    store = s3_place.host("a")
    for number in range(1, 9):
        store.version_path("p1", number)
        store.write("p1", f"examples/d{number}.npz", b"e" * 300, at_hand=True)
        here = [path for path in (s3_place.root / "a").rglob("*") if path.is_file()]
        assert sum(path.stat().st_size for path in here) <= 4_000
    there = versions_here(s3_place)
    assert "8" in there
    assert "1" not in there
    assert files_of(store.version_path("p1", 1)) == version(1, b"x" * 100)  # brought again


def test_a_version_in_use_is_not_removed_under_a_process(s3_place: Place) -> None:
    s3_place.cache_bytes = 1_500
    for number in range(1, 8):
        s3_place.host("writer").put_version("p1", number, version(number, b"x" * 100))
    reader, other = s3_place.host("a"), s3_place.host("a")
    folder = reader.version_path("p1", 1)
    for number in range(2, 8):
        other.version_path("p1", number)
    assert files_of(folder) == version(1, b"x" * 100)
    reader.close()  # as when it ends
    other.close()
    last = s3_place.host("a")
    last.version_path("p1", 2)
    last.version_path("p1", 3)
    assert not folder.exists()


def test_processes_share_the_cache_and_ask_nobody_for_what_is_in_it(
    s3_place: Place, door: Door
) -> None:
    s3_place.host("writer").put_version("p1", 1, version(1, b"weights"))
    command = [sys.executable, "-c", READER, s3_place.url, str(s3_place.root / "a")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    listed = str(sorted(version(1, b"weights")))
    assert [each.communicate()[0].strip() for each in both] == [listed] * 2
    door.shut()
    assert files_of(s3_place.host("a").version_path("p1", 1)) == version(1, b"weights")


def test_a_damaged_copy_is_brought_again(s3_place: Place) -> None:
    store = s3_place.host()
    folder = store.put_version("p1", 1, version(1, b"weights"))
    (folder / "file-0.bin").write_bytes(b"damaged")
    read_whole(store, "p1", 1, check_files)
    assert files_of(folder) == version(1, b"weights")


def test_a_store_that_is_away_is_said_and_used_again_when_it_is_back(
    s3_place: Place, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = s3_place.host("b")
    s3_place.host("a").put_version("p1", 1, version(1, b"weights"))
    door.shut()
    with pytest.raises(StoreUnavailable, match="does not answer"):
        store.version_path("p1", 1)
    with pytest.raises(StoreUnavailable, match="does not answer"):
        store.write("p1", "rounds/4/member", b"weights")
    door.open()
    with pytest.raises(StoreUnavailable):  # for some seconds nobody waits for it again
        store.versions("p1")
    monkeypatch.setattr(store, "_away", (0.0, ""))  # as after these seconds
    assert files_of(store.version_path("p1", 1)) == version(1, b"weights")


def test_what_is_wrong_is_said_without_credentials(
    s3_place: Place,
    s3: S3Server,
    door: Door,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tests.s3 import KEY_ID, SECRET

    said = {}
    none = Place(s3_place.url.replace("bucket-", "no-bucket-"), tmp_path / "none")
    for name in ("versions", "projects"):
        with pytest.raises(StoreUnavailable, match="There is no bucket 'no-bucket-") as error:
            getattr(none.host(), name)(*(["p1"] if name == "versions" else []))
        said[name] = error.value
    with pytest.raises(StoreUnavailable, match="There is no bucket") as error:
        none.host().put_version("p1", 1, version(1, b"x"))
    said["put"] = error.value
    with pytest.raises(StoreUnavailable, match="There is no bucket") as error:
        none.host().read("p1", "steps.json")
    said["get"] = error.value
    with (
        s3.asking_for_credentials(),
        pytest.raises(StoreUnavailable, match=r"refuses us .*\(InvalidAccessKeyId\)") as error,
    ):
        s3_place.host().versions("p1")
    said["refused"] = error.value
    door.shut()
    with pytest.raises(StoreUnavailable, match="does not answer") as error:
        s3_place.host().check()
    said["away"] = error.value
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://lab:{SECRET}@127.0.0.1:{door.port}")
    with pytest.raises(StoreUnavailable, match="AWS_ENDPOINT_URL must be") as error:
        s3_place.host().check()
    said["endpoint"] = error.value
    for each in said.values():
        shown = "".join(traceback.format_exception(each)) + repr(each)
        assert KEY_ID not in shown
        assert SECRET not in shown


def test_a_version_fitted_on_one_host_predicts_the_same_on_another(
    s3_place: Place, trained: Trained
) -> None:
    here = Registry(s3_place.host("a"), engine="torch")
    there = Registry(s3_place.host("b"), engine="torch")
    example = trained.examples[0]
    here.put_example("p1", "d1", example, "a note")
    here.put_round("p1", 4, "member-00.safetensors", b"weights")
    assert there.example_note("p1", "d1") == "a note"
    assert there.get_round("p1", 4, "member-00.safetensors") == b"weights"
    folder = here.save_version("p1", 1, trained.weights, TINY, {}, {"temperature": 1.0})
    assert folder.is_relative_to(s3_place.root / "a")
    ours, theirs = here.load("p1", 1), there.load("p1", 1)
    assert ours is not theirs
    found = [each.predict(there.get_example("p1", "d1").image) for each in (ours, theirs)]
    np.testing.assert_array_equal(found[0].probs, found[1].probs)
    assert there.files("p1", 1) == here.files("p1", 1)
    assert read_version(there.version_path("p1", 1)).config == TINY


def test_a_damaged_example_is_brought_again_or_made_anew(s3_place: Place, trained: Trained) -> None:
    from training.committee.registry import UnknownExample

    registry = Registry(s3_place.host("a"))
    registry.put_example("p1", "d1", trained.examples[0])
    [copy] = (s3_place.root / "a").glob("*/p1/examples/d1.npz")
    copy.write_bytes(copy.read_bytes()[:-200])
    np.testing.assert_array_equal(registry.get_mask("p1", "d1"), trained.examples[0].mask)
    damage(s3_place, "p1", "examples/d1.npz")
    copy.unlink()
    with pytest.raises(UnknownExample, match="damaged"):
        registry.get_example("p1", "d1")
    assert not registry.store.has("p1", "examples/d1.npz")


def test_a_variable_without_a_value_is_as_if_it_were_not_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from obstore.store import S3Store

    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "")
    store = object_store.ObjectStore("s3://bucket/lab", tmp_path, 1)
    assert isinstance(store._client, S3Store)
    assert "endpoint" not in store._client.config
    assert not any(name.startswith("AWS_") and not os.environ[name] for name in os.environ)


@pytest.mark.parametrize(
    ("name", "value"),
    [("AWS_ENDPOINT_URL", "http://127.0.0.1:99999"), ("AWS_ACCESS_KEY_ID", "a key of a file\n")],
)
def test_a_variable_that_the_library_panics_at_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv(name, value)
    store = object_store.ObjectStore("s3://bucket/lab", tmp_path, 1)
    with pytest.raises(StoreUnavailable, match=f"{name}.* cannot be used") as error:
        store.projects()
    assert value not in "".join(traceback.format_exception(error.value))


def test_a_copy_that_makes_room_just_now_is_read_from_the_store(
    s3_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = s3_place.host("a")
    store.write("p1", "examples/d1.npz", b"an image")
    monkeypatch.setattr(Path, "exists", lambda _path: True)  # as it was a moment ago
    with store.open("p1", "examples/d1.npz") as file:
        assert file.read() == b"an image"
