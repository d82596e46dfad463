"""Cellpose's files are read, and nothing in them is ever called."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.actions.masks import cellpose
from backend.actions.masks.cellpose import read_cellpose
from backend.actions.masks.given import BadMask

CELLS = np.array([[0, 1, 1], [2, 2, 0]], np.uint16)


def seg(**changes: Any) -> dict[str, Any]:
    """As Cellpose 3 and 4 write it."""
    return {
        "outlines": CELLS,
        "colors": np.zeros((2, 3), np.uint8),
        "masks": CELLS,
        "chan_choose": [0, 0],
        "ismanual": np.zeros(2, bool),
        "filename": "field.png",
        "flows": [np.zeros((1, 2, 3, 3), np.uint8), np.ones((2, 3), np.float32), [], None],
        "zdraw": [None, None],
        "model_path": 0,
        "flow_threshold": 0.4,
        "diameter": np.float64(30.0),
        "normalize_params": {"lowhigh": None, "percentile": (1.0, 99.0)},
        **changes,
    }


def saved(path: Path, content: object) -> Path:
    np.save(path, content, allow_pickle=True)  # type: ignore[arg-type]
    return path


def hostile(path: Path, program: bytes) -> Path:
    """A file of NumPy's with this pickle."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|O", "fortran_order": False, "shape": ()})
    path.write_bytes(head.getvalue() + program)
    return path


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.uint32, np.int32, np.int64, bool, ">u2"])
@pytest.mark.parametrize("protocol", [3, 4])
def test_the_masks_come_back_whatever_their_type(tmp_path: Path, kind: Any, protocol: int) -> None:
    cells = (CELLS > 0 if kind is bool else CELLS).astype(kind)
    array = np.array(seg(masks=np.asfortranarray(cells)), dtype=object)
    path = hostile(tmp_path / "a_seg.npy", pickle.dumps(array, protocol=protocol))
    np.testing.assert_array_equal(read_cellpose(path), cells)
    saved(path, seg(masks=cells))
    np.testing.assert_array_equal(read_cellpose(path), cells)


class Dangerous:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_what_a_file_wants_called_is_not_called(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    path = saved(tmp_path / "a_seg.npy", seg(model_path=Dangerous(trap)))
    np.testing.assert_array_equal(read_cellpose(path), CELLS)
    for content in (Dangerous(trap), seg(masks=Dangerous(trap)), [Dangerous(trap)]):
        saved(path, content)
        with pytest.raises(BadMask, match="not as Cellpose writes"):
            read_cellpose(path)
    assert not trap.exists()


def test_other_contents_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a_seg.npy"
    for content in (
        *(CELLS, seg(masks=CELLS.astype(float)), seg(masks=[1]), {"a": 1}, seg(masks="x")),
        seg(masks=np.array([None, "x"], object)),
    ):
        saved(path, content)
        with pytest.raises(BadMask):
            read_cellpose(path)
    saved(path, seg(masks=np.zeros((2, 3, 4), np.uint16)))
    with pytest.raises(BadMask, match="3 axes"):
        read_cellpose(path)
    path.write_bytes(b"no file of NumPy's")
    with pytest.raises(BadMask, match="no file of NumPy"):
        read_cellpose(path)


def test_damaged_and_endless_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "a_seg.npy", seg())
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for cut in rng.integers(0, len(whole), 20).tolist():
        path.write_bytes(whole[:cut])
        with pytest.raises(BadMask):
            read_cellpose(path)
    for at in rng.integers(128, len(whole), 100).tolist():
        path.write_bytes(whole[:at] + bytes(rng.integers(0, 256, 2, np.uint8)) + whole[at + 2 :])
        with suppress(BadMask):  # or what is read lies within its bounds
            assert read_cellpose(path).ndim == 2
    huge = struct.pack("<Q", 2**62)
    for program in (
        *(b"", b".", b"(" * 1000 + b".", b"t.", b"\x86.", b"0.", b"h\x05.", b"\x80\x04N."),
        *(b"\x8e" + huge + b".", b"\x8d" + huge, b"\x8b\xff\xff\xff\x7f.", b"Nr\xff\xff\xff\xff."),
        *(
            b"cos\nsystem\n(S'x'\ntR.",
            b"\x93.",
            b"NN\x93.",
            b"]]a]sb.",
            b"I" + b"9" * 9999 + b"\n.",
        ),
        *(b"\x82\x01.", b"P1\n.", b"\x97.", b"(i\nos\nsystem\n."),
    ):
        with pytest.raises(BadMask):
            read_cellpose(hostile(path, program))
    monkeypatch.setattr(cellpose, "MOST_STEPS", 100)
    with pytest.raises(BadMask):
        read_cellpose(hostile(path, b"N" * 200 + b"."))
    monkeypatch.setattr(cellpose, "MAX_FILE_BYTES", 10)
    with pytest.raises(BadMask, match="larger than"):
        read_cellpose(path)


def test_only_known_instructions_are_walked() -> None:
    known = {code.name for code in pickletools.opcodes}
    assert cellpose._VALUES | cellpose._CONSTANTS.keys() <= known
