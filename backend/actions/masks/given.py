"""A mask that is to be imported, whatever file it is in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from backend.errors import BadRequest
from backend.label_studio.regions import ClassMask
from training.particles.instances import Instances


class BadMask(BadRequest):
    """A mask cannot be taken; the sentence goes on after the file's name."""


@dataclass(frozen=True)
class Labels:
    """What a mask says of its image.

    Attributes:
        mask: [H, W] the project's class indices, 255 unknown.
        found: its particles one by one, where the file tells them apart.
    """

    mask: ClassMask
    found: Instances | None = None


@dataclass(frozen=True)
class Given:
    """A mask that can be read.

    Attributes:
        name: by which its image is found, ``folder/stem``.
        source: its file, for messages.
        read: what it says. Raises BadMask, OSError.
    """

    name: str
    source: str
    read: Callable[[], Labels]
