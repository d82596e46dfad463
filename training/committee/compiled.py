"""Compiled members, kept in their version's folder between starts."""

from __future__ import annotations

import hmac
import logging
from dataclasses import dataclass
from pathlib import Path

from training.committee.checksums import VERSION_FILE
from training.files import read_plain_file, write_atomically

log = logging.getLogger(__name__)

COMPILED_FILES = "compiled-*.blob"
"""Made anew where they are missing."""


@dataclass(frozen=True)
class CompiledCache:
    """Compiled members of one version, each file behind its checksum.

    Attributes:
        folder: the version's.
        binding: key of the checksums. It ties a file to the version's own files and to a secret
            of this installation: OpenVINO reads compiled members with no guard against malice.
    """

    folder: Path
    binding: bytes

    @classmethod
    def of_version(cls, folder: Path, seal: bytes) -> CompiledCache:
        """The cache of a version whose files lie in this folder.

        Args:
            seal: a secret of this installation; files that were kept under another are not read.
        """
        # version.json holds the checksums of all files of the version.
        return cls(folder, hmac.digest(seal, (folder / VERSION_FILE).read_bytes(), "sha256"))

    def read(self, precision: str, release: str) -> bytes | None:
        """What ``keep`` wrote; None if there is nothing, or it is damaged or not ours."""
        path = self._path(precision, release)
        try:
            kept = read_plain_file(path)
        except OSError:
            return None
        digest, data = kept[:32], kept[32:]
        if not hmac.compare_digest(hmac.digest(self.binding, data, "sha256"), digest):
            log.warning("%s is damaged, or not made here for this version: compiling anew", path)
            return None
        return data

    def keep(self, precision: str, release: str, data: bytes) -> None:
        """Write compiled members.

        Nothing happens if the folder was deleted meanwhile; one that cannot be written only costs
        time at the next start.

        Args:
            precision: "f32" or "bf16".
            release: of the OpenVINO that compiled them.
        """
        if not self.folder.exists():
            return
        try:
            path = self._path(precision, release)
            write_atomically(path, hmac.digest(self.binding, data, "sha256") + data)
        except OSError as error:
            log.warning("the compiled members are not kept, and compiled at each start: %s", error)

    def _path(self, precision: str, release: str) -> Path:
        return self.folder / f"compiled-{precision}-{release}.blob"
