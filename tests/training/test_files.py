"""Files that a reader sees whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

import training.files
from training.files import read_plain_file, remove_folder, write_atomically, write_folder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_is_written_in_a_folder_that_is_made(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a" / "b.json", b"{}")
    assert (tmp_path / "a" / "b.json").read_bytes() == b"{}"
    assert names(tmp_path / "a") == {"b.json"}


def test_a_write_that_dies_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kept"
    write_atomically(path, b"old")

    def dies(path: Path, data: bytes) -> None:
        path.write_bytes(data[:1])
        raise OSError("disk full")

    monkeypatch.setattr(training.files, "write_durably", dies)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == {"kept"}


def test_a_private_file_is_its_owners_alone(tmp_path: Path) -> None:
    write_atomically(tmp_path / "secret", b"x", private=True)
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


def test_without_replace_the_first_file_stays(tmp_path: Path) -> None:
    for data in (b"first", b"second"):
        write_atomically(tmp_path / "one", data, replace=False)
    assert (tmp_path / "one").read_bytes() == b"first"
    assert names(tmp_path) == {"one"}


def test_a_folder_replaces_the_one_before_as_a_whole(tmp_path: Path) -> None:
    write_folder(tmp_path / "v", {"a": b"1", "b": b"2"})
    write_folder(tmp_path / "v", {"a": b"3"})
    assert names(tmp_path / "v") == {"a"}
    remove_folder(tmp_path / "v")
    remove_folder(tmp_path / "v")
    assert names(tmp_path) == set()


def test_only_plain_files_of_bounded_size_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tmp_path / "plain"
    plain.write_bytes(b"12345")
    assert read_plain_file(plain) == b"12345"
    (tmp_path / "link").symlink_to(plain)
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (
        ("link", "symbolic links"),
        ("pipe", "no plain file"),
        ("missing", "No such file"),
    ):
        with pytest.raises(OSError, match=reason):
            read_plain_file(tmp_path / name)
    monkeypatch.setattr(training.files, "MAX_FILE_BYTES", 4)
    with pytest.raises(OSError, match="larger than"):
        read_plain_file(plain)
