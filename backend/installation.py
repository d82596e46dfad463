"""Make a virtual environment and fill it from requirement files, once.

``python3 backend/installation.py FOLDER REQUIREMENTS... [--no-deps REQUIREMENTS]
[--constraints FILE]``

Run by make with the machine's own Python before anything is installed, so it imports the
standard library alone. A stamp inside the environment holds the checksum of what was installed:
the second time costs one comparison, and a half-made environment is completed.
"""

# ruff: noqa: T201 - speaks to a person at a terminal

from __future__ import annotations

import argparse
import fcntl
import hashlib
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
    constraints: Sequence[Path] = (),
    python: str = sys.executable,
    announce: str = "",
    progress: Callable[[float, str], None] | None = None,
) -> bool:
    """Make ``folder`` a virtual environment that holds ``requirements``.

    Args:
        requirements: installed together, so that pip sees all pins at once.
        no_deps: installed after them without what they ask for.
        constraints: files that say which version of whatever else is asked for is taken.
        python: the interpreter to build it with.
        announce: printed before a build, not when all is there.
        progress: called about twice a second with the seconds so far and what is going on.

    Returns:
        Whether anything had to be installed.

    Raises:
        EnvironmentFailed: no venv module, no network, no matching package, a full disk.
    """
    wanted = _checksum([*requirements, *no_deps, *constraints])
    stamp = folder / f".committee-{requirements[-1].stem}"
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
        install = [*pip, "install", "--progress-bar", "off", "--no-input"]
        install += _each("-c", constraints)
        run("installing", [*install, *_each("-r", requirements)])
        if no_deps:
            run("installing", [*install, "--no-deps", *_each("-r", no_deps)])
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
    parser.add_argument("requirements", type=Path, nargs="+")
    parser.add_argument("--no-deps", type=Path, action="append", default=[])
    parser.add_argument("--constraints", type=Path, action="append", default=[])
    given = parser.parse_args(arguments)
    names = ", ".join(path.name for path in [*given.requirements, *given.no_deps])
    announce = f"Installing {names} into {given.folder} (only the first time; some minutes)."
    try:
        ensure_environment(
            given.folder,
            given.requirements,
            given.no_deps,
            constraints=given.constraints,
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
