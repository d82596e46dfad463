"""What the classes of masks from elsewhere are called in a project."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from acquisition.masks import BACKGROUND, UNKNOWN
from backend.errors import BadRequest
from backend.label_studio.label_config import is_background

UNKNOWN_NAMES = ("unknown", "ignore")
"""What pixels of which nobody knows the class are called, in small letters."""


class ClassNames:
    """From another tool's names and values to a project's class indices.

    Args:
        classes: the project's, background first.
        aliases: other names of these, as the option has them.
        chosen: what ``--map`` says: a value or a name, to a label.

    Raises:
        BadRequest: ``chosen`` leads to a label that the project does not have.
    """

    def __init__(
        self, classes: Sequence[str], aliases: Mapping[str, str], chosen: Mapping[str, str]
    ) -> None:
        self.classes = tuple(classes)
        self._exact = {name: index for index, name in enumerate(classes)}
        self._alike = {_plain(name): index for index, name in enumerate(classes)}
        self._aliases = aliases
        self._chosen = {key: self.label(name) for key, name in chosen.items()}

    @property
    def labels(self) -> str:
        return ", ".join([*self.classes[1:], "background", "unknown"])

    def label(self, name: str) -> int:
        """The index of one of the project's labels, or of "background" or "unknown".

        Raises:
            BadRequest: there is none of that name.
        """
        index = self._of(name)
        if index is None:
            raise BadRequest(f"The project has no label {name!r}: it has {self.labels}.")
        return index

    def named(self, name: str) -> int | None:
        """The index for another tool's class name; None where nothing says what it is."""
        if name in self._chosen:
            return self._chosen[name]
        return self._of(name)

    def valued(self, value: int, names: Mapping[int, str]) -> int | None:
        """The index for a value of a mask, where the folder's own list calls it ``names``.

        Without such a list 0 is background; of other values only ``chosen`` can tell.
        """
        if self.is_chosen(value):
            return self._chosen[str(value)]
        if value in names:
            return self.named(names[value])
        return {0: BACKGROUND, UNKNOWN: UNKNOWN}.get(value)

    def is_chosen(self, value: int) -> bool:
        """Whether ``chosen`` says what a value is."""
        return str(value) in self._chosen

    def _of(self, name: str) -> int | None:
        name = self._aliases.get(name, name) if name not in self._exact else name
        if name in self._exact:
            return self._exact[name]
        if is_background(name):
            return BACKGROUND
        found = self._alike.get(_plain(name))
        return UNKNOWN if found is None and _plain(name) in UNKNOWN_NAMES else found


def _plain(name: str) -> str:
    """As people write a label in the name of a file or a folder."""
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()
