"""A registry's place in either store, as several hosts see it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from training.committee.checksums import VERSION_FILE
from training.committee.store.folder_store import FolderStore
from training.committee.store.store import Store, open_store

CHILD = """
import os, sys
from pathlib import Path
from tests.training.committee.store.places import version
from training.committee.store import store as stores
import training.files

url, cache, dies_after = sys.argv[1:]
left = int(dies_after)

def counted(write):
    def act(*args, **options):
        global left
        if left == 0:
            os._exit(9)
        left -= 1
        return write(*args, **options)
    return act

store = stores.open_store(url, Path(cache), 10**9)
if "://" in url:
    import obstore
    obstore.put = counted(obstore.put)
    from training.committee.store import object_store
    object_store.AT_ONCE = 1
else:
    training.files.write_durably = counted(training.files.write_durably)
store.put_version("p1", 1, version(1, b"half"))
"""


def version(number: int, data: bytes, files: int = 3) -> dict[str, bytes]:
    """A version's files, version.json last."""
    made = {f"file-{n}.bin": data * (n + 1) for n in range(files)}
    sums = {name: hashlib.sha256(each).hexdigest() for name, each in made.items()}
    return {**made, VERSION_FILE: json.dumps({"version": number, "files": sums}).encode()}


@dataclass
class Place:
    """A store's address, and the hosts that use it."""

    url: str
    root: Path
    cache_bytes: int = 10**9
    opened: list[Store] = field(default_factory=list)

    @property
    def is_folder(self) -> bool:
        return "://" not in self.url

    def host(self, name: str = "a") -> Store:
        """A process on this host."""
        store = open_store(self.url, self.root / name, self.cache_bytes)
        self.opened.append(store)
        return store

    def dies_after(self, puts: int) -> None:
        """A process is killed while it saves version 1, after so many of its files."""
        command = [sys.executable, "-c", CHILD, self.url, str(self.root / "dead"), str(puts)]
        assert subprocess.run(command, check=False, timeout=60).returncode == 9

    def close(self) -> None:
        for store in self.opened:
            store.close()


def damage(place: Place, project: str, path: str) -> None:
    """Change a byte of a file where it lies."""
    store = place.host()
    if isinstance(store, FolderStore):
        file = store.root / project / path
        file.write_bytes(b"?" + file.read_bytes()[1:])
        return
    import obstore

    client = store._client  # type: ignore[attr-defined]
    [key] = [
        meta["path"]
        for chunk in obstore.list(client, project)
        for meta in chunk
        if meta["path"].startswith(f"{project}/{path.rpartition('/')[0]}")
        and meta["path"].endswith(path.rpartition("/")[2])
    ]
    got = obstore.get(client, key)
    data = bytes(got.bytes())
    obstore.put(client, key, b"?" + data[1:], attributes=got.attributes)


def files_of(folder: Path) -> Mapping[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
