"""A registry in an object store such as S3, by obstore.

Keys are the paths of a folder's files. Those of a version's files hold the beginning of their
SHA-256 as well, ``versions/<number>/<16 hex digits>/<name>``, so that two writers of one version
never write the same key with other contents. version.json comes last, by a put that fails where one
is there: a version is what it lists, and there is none without it.

Credentials are obstore's business: it reads the environment, or asks the machine for its role.
What it says in errors holds addresses and parts of them, and is never handed on.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    UnauthenticatedError,
)

from training.committee.checksums import (
    VERSION_FILE,
    DamagedVersion,
    UnknownVersion,
    parse_checksums,
    read_list,
)
from training.committee.folders import checked_name, may_be_project
from training.committee.store.folder_store import STALE_S
from training.committee.store.host_cache import HostCache
from training.committee.store.store import StoreUnavailable, VersionTaken
from training.files import MAX_FILE_BYTES

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ObjectStore as Client

T = TypeVar("T")

_ENDPOINT = re.compile(r"https?://([\w.-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?(/[\w./-]*)?")

AWAY_S = 5.0
"""After a failure nothing is asked for so long: who can do without must not wait each time."""

AT_ONCE = 8
"""Files that are written or read at the same time."""

_DIGEST = "sha256"
"""Name of the metadata that hold a file's SHA-256, but for files of versions."""


class ObjectStore:
    """See ``Store``.

    Args:
        url: s3://bucket/prefix, or gs:// or az:// likewise.
        cache: folder for this host's copies.
        cache_bytes: as for ``HostCache``.
    """

    def __init__(self, url: str, cache: Path, cache_bytes: int) -> None:
        self._url = url.rstrip("/")
        # Copies of another registry are not taken for this one's.
        self._cache = HostCache(
            cache / hashlib.sha256(self._url.encode()).hexdigest()[:16], cache_bytes
        )
        self._away: tuple[float, str] = (0.0, "")

    @property
    def url(self) -> str:
        return self._url

    @cached_property
    def _client(self) -> Client:
        # Not before it is used: what it starts does not survive the fork of a worker.
        from obstore.store import from_url

        for name in [name for name, value in os.environ.items() if not value]:
            if name.startswith("AWS_"):
                # As a Secret's line without a value leaves it. The library would take it for a key,
                # not ask for the machine's role, and panic at the address.
                del os.environ[name]
        for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"):
            if _ENDPOINT.fullmatch(os.environ.get(name, "http://host")) is None:
                # The library panics at what is no address; and one with a password is not shown.
                raise StoreUnavailable(
                    f"{name} must be an http:// or https:// address without user."
                )
        return from_url(
            self._url,
            client_options={
                "allow_http": True,  # where AWS_ENDPOINT_URL says so; otherwise it is HTTPS
                "connect_timeout": timedelta(seconds=3),
                "read_timeout": timedelta(seconds=10),
                "timeout": timedelta(seconds=300),
            },
            retry_config={"max_retries": 2, "retry_timeout": timedelta(seconds=15)},
        )

    def projects(self) -> list[str]:
        with self._asking():
            found = obstore.list_with_delimiter(self._client)["common_prefixes"]
        return sorted(filter(may_be_project, (name.strip("/") for name in found)))

    # Versions

    def versions(self, project: str) -> list[int]:
        return sorted(self.contents(project))

    def contents(self, project: str) -> dict[int, set[str]]:
        found: dict[int, set[str]] = {}
        for path in self._listed(f"{checked_name(project)}/versions"):
            number, name = path.split("/")[2], path.split("/")[-1]
            if number.isdecimal():
                found.setdefault(int(number), set()).add(name)
        return {number: names for number, names in found.items() if VERSION_FILE in names}

    def version_place(self, project: str, number: int) -> str:
        return f"{self._url}/{_place(project, number)}"

    def version_path(self, project: str, number: int) -> Path:
        folder = self._cache.path(project, f"versions/{number}")
        if not self._cache.hold(folder):
            with self._cache.filling(folder):
                if not self._cache.hold(folder):
                    self._cache.put_folder(folder, self._version(project, number))
        return folder

    def version_file(self, project: str, number: int, name: str) -> bytes:
        place = _place(project, number)
        manifest = self._manifest(project, number)
        if name == VERSION_FILE:
            return manifest
        checksums = parse_checksums(f"{self._url}/{place}/{VERSION_FILE}", manifest)[1]
        if name not in checksums:
            raise DamagedVersion(f"{self._url}/{place}/{VERSION_FILE} does not list {name}")
        return self._version_file(place, name, checksums[name])

    def put_version(
        self, project: str, number: int, files: Mapping[str, bytes], *, at_hand: bool = True
    ) -> Path:
        place, manifest = _place(project, number), files[VERSION_FILE]
        checksums = parse_checksums(f"{place}/{VERSION_FILE}", manifest)[1]
        keys = {name: _key(place, name, digest) for name, digest in checksums.items()}
        self._each(lambda name: self._put(keys[name], files[name]), keys)
        try:
            self._put(f"{place}/{VERSION_FILE}", manifest, create=True)
        except AlreadyExistsError:
            # The same one: written by an attempt that died, or of which the answer was lost.
            if self._manifest(project, number) != manifest:
                raise VersionTaken(
                    f"There is another version {number} in {self._url}/{place} already, so this "
                    "one is not kept: another installation writes to the same place, or wrote "
                    "there before. Give each installation a prefix of its own in REGISTRY_URL."
                ) from None
        if lost := set(keys.values()) - set(self._listed(place)):
            raise StoreUnavailable(
                f"{len(lost)} files of {self._url}/{place} were removed while it was written, such "
                f"as {min(lost)}: it is written again."
            )
        folder = self._cache.path(project, f"versions/{number}")
        if at_hand:
            with self._cache.filling(folder):
                if not self._cache.hold(folder) or read_list(folder) != manifest:
                    self._cache.forget(folder)
                    self._cache.put_folder(folder, files)
        else:
            self._cache.forget(folder)  # it would be another version's
        return folder

    def delete_version(self, project: str, number: int) -> None:
        place = _place(project, number)
        self._delete([f"{place}/{VERSION_FILE}"])  # from now on there is no such version
        self._delete(self._listed(place))
        self.forget_copy(project, f"versions/{number}")

    def prune_versions(self, project: str, keep: Collection[int]) -> None:
        found: dict[str, list[ObjectMeta]] = {}
        for meta in self._metas(f"{checked_name(project)}/versions"):
            found.setdefault(meta["path"].split("/")[2], []).append(meta)
        for number, metas in found.items():
            paths = [meta["path"] for meta in metas]
            if not number.isdecimal():
                continue  # nothing of ours
            if f"{project}/versions/{number}/{VERSION_FILE}" in paths:
                if int(number) not in keep:
                    self.delete_version(project, int(number))
            elif time.time() - max(m["last_modified"].timestamp() for m in metas) > STALE_S:
                self._delete(paths)  # its writer has died

    def forget_copy(self, project: str, path: str) -> bool:
        return self._cache.forget(self._cache.path(project, path))

    def _manifest(self, project: str, number: int) -> bytes:
        try:
            return self._get(f"{_place(project, number)}/{VERSION_FILE}")
        except FileNotFoundError:
            raise UnknownVersion(
                f"there is no version in {self.version_place(project, number)}"
            ) from None

    def _version(self, project: str, number: int) -> dict[str, bytes]:
        """All files of a version, compared with their checksums."""
        place, manifest = _place(project, number), self._manifest(project, number)
        checksums = parse_checksums(f"{self._url}/{place}/{VERSION_FILE}", manifest)[1]
        try:
            found = self._each(
                lambda name: self._version_file(place, name, checksums[name]), checksums
            )
        except DamagedVersion:
            self._manifest(project, number)  # it may just have been removed
            raise
        return {**found, VERSION_FILE: manifest}

    def _version_file(self, place: str, name: str, digest: str) -> bytes:
        key = _key(place, name, digest)
        try:
            data = self._get(key)
        except FileNotFoundError:
            raise DamagedVersion(
                f"{self._url}/{key} is missing: restore it or delete the version"
            ) from None
        if (found := hashlib.sha256(data).hexdigest()) != digest:
            raise DamagedVersion(
                f"{self._url}/{key} should have the SHA-256 {digest} and has {found}: restore it "
                "or delete the version"
            )
        return data

    # Other files

    def other_files(self, project: str) -> dict[str, int]:
        return {
            path.partition("/")[2]: meta["size"]
            for meta in self._metas(checked_name(project))
            if (path := meta["path"]).split("/")[1] != "versions"
        }

    def has(self, project: str, path: str) -> bool:
        try:
            with self._asking():
                obstore.head(self._client, f"{project}/{path}")
        except FileNotFoundError:
            return False
        return True

    def bring(self, project: str, paths: Collection[str]) -> None:
        def fetch(path: str) -> None:
            with suppress(OSError):  # whoever opens it is told
                self._cache.put_file(self._cache.path(project, path), self.read(project, path))

        self._each(fetch, [p for p in paths if not self._cache.path(project, p).exists()])

    @contextmanager
    def open(self, project: str, path: str) -> Iterator[BinaryIO]:
        cached = self._cache.path(project, path)
        with ExitStack() as opened:
            try:
                file = opened.enter_context(self._cache.open(cached))
            except FileNotFoundError:  # maybe just now, for another's copy
                data = self.read(project, path)
                self._cache.put_file(cached, data)
                file = io.BytesIO(data)
            yield file

    def read(self, project: str, path: str) -> bytes:
        return self._get(f"{project}/{path}")

    def write(self, project: str, path: str, data: bytes, *, at_hand: bool = False) -> None:
        self._put(f"{project}/{path}", data, noted=True)
        if at_hand:
            self._cache.put_file(self._cache.path(project, path), data)

    def remove(self, project: str, path: str) -> None:
        self._delete([f"{project}/{path}"])
        self.forget_copy(project, path)

    def prune_examples(self, project: str, keep: Collection[str]) -> int:
        gone = [
            p for p in self._listed(f"{checked_name(project)}/examples") if Path(p).stem not in keep
        ]
        self._delete(gone)
        for path in gone:
            self.forget_copy(project, path.partition("/")[2])
        return len(gone)

    def drop_round(self, project: str, round_id: int) -> None:
        self._delete(self._listed(f"{checked_name(project)}/rounds/{round_id}"))

    def prune_rounds(self, project: str, ended: Callable[[int], bool]) -> None:
        found = {p.split("/")[2] for p in self._listed(f"{checked_name(project)}/rounds")}
        for number in sorted(found):
            if number.isdecimal() and ended(int(number)):
                self.drop_round(project, int(number))

    def drop_project(self, project: str) -> None:
        found = self._listed(checked_name(project))
        self._delete([path for path in found if path.endswith(f"/{VERSION_FILE}")])
        self._delete(found)
        self._cache.forget_project(project)

    def check(self) -> None:
        key = f".check-{socket.gethostname()}-{os.getpid()}"
        self._put(key, b"committee")
        self._get(key)
        self._delete([key])

    def close(self) -> None:
        self._cache.close()

    # Requests

    def _put(self, key: str, data: bytes, *, create: bool = False, noted: bool = False) -> None:
        """Write an object.

        Args:
            create: only where there is none.
            noted: with its SHA-256, which is compared on reading.

        Raises:
            AlreadyExistsError: there is one.
        """
        with self._asking():
            obstore.put(
                self._client,
                key,
                data,
                mode="create" if create else "overwrite",
                attributes={_DIGEST: hashlib.sha256(data).hexdigest()} if noted else None,
            )

    def _get(self, key: str) -> bytes:
        with self._asking():
            got = obstore.get(self._client, key)
        if got.meta["size"] > MAX_FILE_BYTES:
            raise OSError(0, f"{self._url}/{key} is larger than {MAX_FILE_BYTES / 2**20:.0f} MiB")
        with self._asking():
            data = bytes(got.bytes())
        noted = got.attributes.get(_DIGEST)
        if noted is not None and noted != hashlib.sha256(data).hexdigest():
            raise OSError(0, f"{self._url}/{key} has another SHA-256 than when it was written")
        return data

    def _metas(self, prefix: str) -> list[ObjectMeta]:
        with self._asking():
            return [meta for chunk in obstore.list(self._client, prefix) for meta in chunk]

    def _listed(self, prefix: str) -> list[str]:
        return [meta["path"] for meta in self._metas(prefix)]

    def _delete(self, keys: Iterable[str]) -> None:
        if keys := sorted(keys):
            with self._asking(), suppress(FileNotFoundError):
                obstore.delete(self._client, keys)

    def _each(self, act: Callable[[str], T], names: Iterable[str]) -> dict[str, T]:
        """Do something for each name, some at the same time."""
        names = list(names)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return dict(zip(names, pool.map(act, names), strict=True))

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Turn what the library says into a sentence without its words."""
        until, said = self._away
        if time.monotonic() < until:
            raise StoreUnavailable(said)
        try:
            yield
        except AlreadyExistsError:
            raise
        except (BaseError, OSError, ValueError) as error:
            if isinstance(error, FileNotFoundError) and "NoSuchBucket" not in str(error):
                raise FileNotFoundError(0, "it is not there") from None
            said = self._describe(error)
            self._away = (time.monotonic() + AWAY_S, said)
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # Rust's, which no module gives
                raise
            said = (
                f"A variable for REGISTRY_URL={self._url}, such as AWS_ENDPOINT_URL or "
                "AWS_ACCESS_KEY_ID, holds what cannot be used, a wrong port or the end of a line: "
                "correct it, and start again."
            )
        else:
            return
        raise StoreUnavailable(said)

    def _describe(self, error: Exception) -> str:
        text, bucket = str(error), self._url.split("/")[2]
        found = re.search(r"<Code>(\w{1,60})</Code>", text)
        code = f" ({found[1]})" if found else ""
        refused = isinstance(error, PermissionDeniedError | UnauthenticatedError)
        if "NoSuchBucket" in text:
            return (
                f"There is no bucket {bucket!r} for REGISTRY_URL={self._url}: make it, or name "
                "another one."
            )
        if "169.254." in text:
            return (
                f"There are no credentials for REGISTRY_URL={self._url}: set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY in the environment, or give this machine a role."
            )
        if refused or re.search(r"status code: 40[13]", text):
            return (
                f"The object store refuses us at REGISTRY_URL={self._url}{code}: check "
                "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and what they may do there "
                "(get, put, list, delete)."
            )
        return (
            f"The object store of REGISTRY_URL={self._url} does not answer what was asked{code}: "
            "check AWS_ENDPOINT_URL, AWS_REGION and the network. It is asked again."
        )


def _place(project: str, number: int) -> str:
    return f"{checked_name(project)}/versions/{number}"


def _key(place: str, name: str, digest: str) -> str:
    return f"{place}/{digest[:16]}/{name}"
