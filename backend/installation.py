"""Make a virtual environment and fill it from requirement files, once.

``python3 backend/installation.py FOLDER [REQUIREMENTS...] [--no-deps REQUIREMENTS]
[--source REQUIREMENTS] --lock FILE...``

Run by make and by docker/Dockerfile with the machine's own Python before anything is installed, so
it imports the standard library alone. A stamp inside the environment holds the checksum of what was
installed: the second time costs one comparison, and a half-made environment is completed.

pip chooses what this machine needs of the versions in the locks, then installs exactly that with
``--require-hashes``. It cannot do both at once: a lock names what every platform needs, such as
the CUDA libraries of one build of torch, and with hashes pip prefers the files of the package
index to a build of torch that lies on this machine. Only wheels are chosen from, which run no code.
Label Studio's lock has no such choice and is installed whole.
"""

# ruff: noqa: T201 - speaks to a person at a terminal

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

OLDEST_PYTHON = (3, 11)
_REPORT_EVERY_S = 15.0  # where there is no terminal to rewrite a line on

Say = Callable[[str], None]


class EnvironmentFailed(Exception):
    """The environment could not be made; the message ends with the tail of pip's output."""


def ensure_environment(
    folder: Path,
    requirements: Sequence[Path],
    no_deps: Sequence[Path] = (),
    *,
    locks: Sequence[Path],
    sources: Sequence[Path] = (),
    python: str = sys.executable,
    announce: str = "",
    progress: Callable[[float, str], None] | None = None,
) -> bool:
    """Make ``folder`` a virtual environment that holds ``requirements``.

    Args:
        requirements: installed together, so that pip sees all pins at once; none means all that
            the locks name for this platform.
        no_deps: installed after them without what they ask for.
        locks: files that say which version of everything is taken, and the hashes of its files.
        sources: what comes as source alone, and before it what builds it; each line is installed
            by itself before the rest, since building runs its code.
        python: the interpreter to build it with.
        announce: printed before a build, not when all is there.
        progress: called about twice a second with the seconds so far and what is going on.

    Returns:
        Whether anything had to be installed.

    Raises:
        EnvironmentFailed: no venv module, no network, no matching package, a file whose hash is
            not in the locks, a full disk.
    """
    wanted = _checksum([*requirements, *no_deps, *sources, *locks])
    stamp = folder / f".committee-{(requirements or locks)[-1].stem}"
    if _stamped(stamp, wanted):
        return False
    if announce:
        print(announce, flush=True)
    report = progress or _Line()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".committee-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another `make` may be filling it at this moment
        if _stamped(stamp, wanted):
            return False
        log = folder / "install.log"
        log.write_text("")
        started = time.monotonic()

        def run(what: str, command: Sequence[str]) -> None:
            _run(command, log, lambda last: report(time.monotonic() - started, last or what))

        pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
        if not _works(pip):
            # Removed by hand: `venv --clear` would take the lock away with the rest.
            for left in ("bin", "lib", "lib64", "include"):
                _remove(folder / left)
            run(f"making {folder.name}", [python, "-m", "venv", str(folder)])
        _fill(folder, pip, run, requirements, no_deps, locks, sources)
        stamp.write_text(wanted)
        if isinstance(report, _Line):
            report.end(time.monotonic() - started, folder)
    return True


def _checksum(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def _stamped(stamp: Path, wanted: str) -> bool:
    # The interpreter is a link: a machine whose Python was upgraded leaves it dangling.
    alive = (stamp.parent / "bin" / "python").exists()
    return alive and stamp.exists() and stamp.read_text() == wanted


def _works(pip: Sequence[str]) -> bool:
    try:
        return subprocess.run([*pip, "--version"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def _fill(
    folder: Path,
    pip: Sequence[str],
    run: Callable[[str, Sequence[str]], None],
    requirements: Sequence[Path],
    no_deps: Sequence[Path],
    locks: Sequence[Path],
    sources: Sequence[Path],
) -> None:
    """Install by hash what ``ensure_environment`` is asked for; ``run`` does one command."""
    install = [*pip, "install", "--progress-bar", "off", "--no-input"]
    versions, hashes = _read_pins(locks)
    constraints = folder / ".committee-constraints.txt"
    constraints.write_text("\n".join(versions))  # with hashes pip would ask for one of everything
    report = folder / ".committee-report.json"
    exact = folder / ".committee-exact.txt"

    def choose(*wanted: str) -> set[str]:
        wheels = ["--only-binary", ":all:", "-c", str(constraints)]
        run("choosing", [*install, "--dry-run", "--report", str(report), *wheels, *wanted])
        found = [item["metadata"] for item in json.loads(report.read_text())["install"]]
        return {f"{each['name']}=={each['version']}" for each in found}

    def install_exactly(pins: Sequence[str]) -> None:
        # Every hash that is allowed; pip refuses a pin without.
        lines = [" ".join([pin, *hashes.get(_name(pin), ())]) for pin in pins]
        exact.write_text("\n".join(lines))
        by_hash = ["--require-hashes", "--no-deps", "--no-build-isolation", "--use-pep517"]
        run("installing", [*install, *by_hash, "-r", str(exact)])

    for pin in _read_pins(sources)[0]:
        install_exactly([pin])
    chosen = choose(*_each("-r", requirements)) if requirements else set(versions)
    if no_deps:
        chosen |= choose("--no-deps", *_each("-r", no_deps))
    if chosen:
        install_exactly(sorted(chosen))


def _read_pins(files: Sequence[Path]) -> tuple[list[str], dict[str, list[str]]]:
    """The pins without their hashes, and the hashes of each package as pip's options."""
    pins: list[str] = []
    hashes: dict[str, list[str]] = {}
    for line in "\n".join(file.read_text() for file in files).splitlines():
        text = line.rstrip(" \\")
        if text.startswith("    --hash="):
            hashes.setdefault(_name(pins[-1]), []).append(text.strip())
        elif text and not text.startswith("#"):
            pins.append(text)
    return pins, hashes


def _name(pin: str) -> str:
    return re.sub("[-_.]+", "-", pin.partition("==")[0]).lower()


def _each(flag: str, files: Sequence[Path]) -> list[str]:
    return [part for file in files for part in (flag, str(file))]


def _run(command: Sequence[str], log: Path, report: Say) -> None:
    with log.open("a") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            while True:
                try:
                    code = process.wait(0.5)
                    break
                except subprocess.TimeoutExpired:
                    report(_last_line(log))
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if code != 0:
        tail = "\n".join(f"  {line}" for line in log.read_text(errors="replace").splitlines()[-15:])
        hint = (
            "On Debian and Ubuntu, `apt-get install python3-venv` brings what is missing."
            if "venv" in command and "ensurepip" in tail
            else "Correct that and run the same command again: it continues where it stopped."
        )
        raise EnvironmentFailed(
            f"`{' '.join(command)}` failed with status {code}:\n{tail}\n{hint} (all of it: {log})"
        )


def _last_line(log: Path) -> str:
    """What pip is doing, in a few words."""
    lines = log.read_text(errors="replace").split("\n")
    for line in reversed(lines):
        text = line.strip()
        if text.startswith(("Collecting", "Downloading", "Using cached", "Installing", "Building")):
            first, _, rest = text.partition(" ")
            if first == "Installing":
                return f"unpacking {rest.count(',') + 1} packages"
            rest = rest.removeprefix("cached ").split("/")[-1]
            return f"{first.lower()} {rest.split(' (from')[0]}"[:70]
    return ""


class _Line:
    """Progress on one line of a terminal, or now and then a line of a log."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._next = _REPORT_EVERY_S

    def __call__(self, elapsed_s: float, doing: str) -> None:
        if self._terminal:
            print(f"\r\x1b[K  {elapsed_s:4.0f} s  {doing}", end="", flush=True)
        elif elapsed_s >= self._next:
            self._next = elapsed_s + _REPORT_EVERY_S
            print(f"  {elapsed_s:4.0f} s  {doing}", flush=True)

    def end(self, elapsed_s: float, folder: Path) -> None:
        print(
            f"{chr(13) + chr(27) + '[K' if self._terminal else ''}  {folder.name} is ready", end=""
        )
        print(f" after {elapsed_s:.0f} s.", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of make; returns the exit status."""
    if sys.version_info < OLDEST_PYTHON:
        found = ".".join(map(str, sys.version_info[:3]))
        print(
            f"Python 3.11 or newer is needed, {sys.executable} is {found}; "
            "name another one with `make PYTHON=/path/to/python3.12 ...`.",
            file=sys.stderr,
        )
        return 1
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("requirements", type=Path, nargs="*")
    parser.add_argument("--no-deps", type=Path, action="append", default=[])
    parser.add_argument("--source", type=Path, action="append", default=[])
    parser.add_argument("--lock", type=Path, action="append", required=True)
    given = parser.parse_args(arguments)
    files = [*given.requirements, *given.no_deps] or given.lock
    names = ", ".join(path.name for path in files)
    announce = f"Installing {names} into {given.folder} (only the first time; some minutes)."
    try:
        ensure_environment(
            given.folder,
            given.requirements,
            given.no_deps,
            locks=given.lock,
            sources=given.source,
            announce=announce,
        )
    except EnvironmentFailed as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; the next `make` goes on where this one stopped.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
