"""The masks within Cellpose's ``_seg.npy``, read without unpickling anything.

The file is a pickle behind NumPy's header, and a pickle may name any function of this machine and
have it called. So its instructions are only walked through (``pickletools``): what they would call
becomes a note of the name and the arguments, nothing is imported and nothing is called. Of these
notes the one of the array "masks" is read, and of that its type, its shape and its bytes.
"""

from __future__ import annotations

import io
import math
import pickletools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.actions.masks.given import BadMask

MAX_FILE_BYTES = 2**31
"""The flows of a 4096 px image, which lie beside its masks, take some 500 MB."""

MOST_STEPS = 2_000_000
"""Instructions; a file has some 50, and a few for each cell."""

_HEAD = b"\x93NUMPY"
_ARRAYS = (("numpy._core.multiarray", "_reconstruct"), ("numpy.core.multiarray", "_reconstruct"))
_TYPES = ("b1", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8")

# Instructions that hold a value themselves.
_VALUES = frozenset(
    {
        *("INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT"),
        *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES"),
        *("BINBYTES", "BINBYTES8", "BYTEARRAY8", "STRING", "BINSTRING", "SHORT_BINSTRING"),
    }
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_MARK = object()


@dataclass(frozen=True)
class _Name:
    """Of a function or a class; never looked up."""

    module: str
    name: str


@dataclass
class _Call:
    """What a pickle would have called."""

    of: Any
    arguments: Any
    state: Any = None


class _Pairs(list[tuple[Any, Any]]):
    """A dictionary's; keys are not hashed."""


def read_cellpose(path: Path) -> NDArray[Any]:
    """[H, W] whole numbers: each pixel's cell, 0 where there is none.

    Raises:
        BadMask: it is no such file, or not as Cellpose writes it.
        OSError: it cannot be read.
    """
    with path.open("rb") as opened:
        data = opened.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise BadMask(f"it is larger than {MAX_FILE_BYTES / 2**30:.0f} GiB.")
    file = io.BytesIO(data)
    head = file.read(8)
    if head[:6] != _HEAD or len(head) < 8:
        raise BadMask("it is no file of NumPy's.")
    width = 2 if head[6] == 1 else 4
    file.seek(int.from_bytes(file.read(width), "little"), io.SEEK_CUR)
    try:
        return _masks(_walk(file))
    except (ValueError, TypeError, IndexError, OverflowError) as error:
        raise BadMask(
            "it is not as Cellpose writes its _seg.npy. In Python with Cellpose, write the masks "
            "as 16-bit PNG: cellpose.io.imsave('NAME.png', masks.astype('uint16'))."
        ) from error


def _walk(file: io.BytesIO) -> Any:
    """What the pickle holds, with notes in the place of calls."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for step, (code, value, _) in enumerate(pickletools.genops(file)):
        name = code.name
        if step > MOST_STEPS:
            raise ValueError("too many instructions")
        if name == "STOP":
            return stack.pop()
        if name in ("PROTO", "FRAME"):
            continue
        if name in _VALUES:
            stack.append(value)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
            memo[len(memo) if name == "MEMOIZE" else value] = stack[-1]  # type: ignore[index]  # a number
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            if value not in memo:
                raise ValueError("nothing was kept there")
            stack.append(memo[value])
        elif name == "GLOBAL":
            module, _, attribute = str(value).partition(" ")
            stack.append(_Name(module, attribute))
        else:
            _do(name, stack)
    raise ValueError("no end")


def _do(name: str, stack: list[Any]) -> None:
    """An instruction that works on what stands on the stack."""
    if name == "MARK":
        stack.append(_MARK)
    elif name in ("EMPTY_LIST", "EMPTY_DICT"):
        stack.append([] if name == "EMPTY_LIST" else _Pairs())
    elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
        count = int(name[-1])
        values = _popped(stack, len(stack) - count)
        stack.append(tuple(values))
    elif name in ("TUPLE", "LIST"):
        values = _marked(stack)
        stack.append(tuple(values) if name == "TUPLE" else values)
    elif name in ("APPEND", "APPENDS"):
        values = [stack.pop()] if name == "APPEND" else _marked(stack)
        stack[-1].extend(values) if type(stack[-1]) is list else _refuse(name)
    elif name in ("SETITEM", "SETITEMS"):
        values = _popped(stack, len(stack) - 2) if name == "SETITEM" else _marked(stack)
        pairs = zip(values[::2], values[1::2], strict=True)
        stack[-1].extend(pairs) if isinstance(stack[-1], _Pairs) else _refuse(name)
    elif name == "STACK_GLOBAL":
        attribute, module = stack.pop(), stack.pop()
        stack.append(_Name(str(module), str(attribute)))
    elif name in ("REDUCE", "NEWOBJ"):
        arguments, of = stack.pop(), stack.pop()
        stack.append(_Call(of, arguments))
    elif name == "BUILD":
        state = stack.pop()
        if not isinstance(stack[-1], _Call):
            _refuse(name)
        stack[-1].state = state
    else:
        _refuse(name)


def _refuse(name: str) -> None:
    raise ValueError(f"{name} does not stand there in a file of Cellpose's")


def _popped(stack: list[Any], start: int) -> list[Any]:
    if start < 0:
        raise ValueError("the stack is too short")
    values = stack[start:]
    del stack[start:]
    return values


def _marked(stack: list[Any]) -> list[Any]:
    for at in range(len(stack) - 1, -1, -1):
        if stack[at] is _MARK:
            values = stack[at + 1 :]
            del stack[at:]
            return values
    raise ValueError("no mark")


def _masks(found: Any) -> NDArray[Any]:
    # An array of one object, which is the dictionary.
    [held] = _state_of(found)[4]
    if not isinstance(held, _Pairs):
        raise TypeError("no dictionary")
    [masks] = [value for key, value in held if isinstance(key, str) and key == "masks"]
    _, shape, kind, by_column, data = _state_of(masks)
    if not isinstance(shape, tuple) or not all(type(n) is int and n > 0 for n in shape):
        raise TypeError("no shape")
    if len(shape) != 2:
        raise BadMask(f"its masks have {len(shape)} axes: only one plane (height, width) is read.")
    dtype = _dtype(kind)
    if type(data) is not bytes or len(data) != math.prod(shape) * dtype.itemsize:
        raise TypeError("other bytes than its shape has")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if by_column is True else "C")


def _state_of(array: Any) -> tuple[Any, ...]:
    """An array's: version, shape, type, whether it runs by columns, content."""
    if not isinstance(array, _Call) or not isinstance(array.of, _Name):
        raise TypeError("no array")
    if (array.of.module, array.of.name) not in _ARRAYS:
        raise TypeError("no array")
    if not isinstance(array.state, tuple) or len(array.state) != 5:
        raise TypeError("no array")
    return array.state


def _dtype(kind: Any) -> np.dtype[Any]:
    if not isinstance(kind, _Call) or kind.of != _Name("numpy", "dtype"):
        raise TypeError("no type")
    name, order = kind.arguments[0], kind.state[1]
    if name not in _TYPES or order not in ("<", ">", "|"):
        raise TypeError("no whole numbers")
    return np.dtype(f"{order}{name}")
