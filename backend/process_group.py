"""Which processes live, and processes that die with their parent, however the parent dies.

A pool of Python processes ends with its parent by ``training.process_pool``, on every platform;
what is here serves forks and other programs, by Linux's parent-death signal.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def pid_space() -> int:
    """Which numbering of processes this one is in: each container and each start of a machine has
    its own (Linux; else 0)."""
    try:
        container = os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116 - a link that leads to no path
        # The first numbering of every machine has the same inode, and two may share a name.
        started = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        return 0
    return zlib.crc32(started) << 32 | container


def is_running(pid: int) -> bool:
    """Whether this machine has a process of that number, whoever owns it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def die_with_parent(parent_pid: int | None = None) -> None:
    """Have the kernel kill this process when its parent ends (Linux alone).

    Args:
        parent_pid: who the parent should be; if it is gone already, this process ends at once.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # The parent may be gone before the signal was asked for: then nobody would ever send it.
    if parent_pid is not None and os.getppid() != parent_pid:
        os._exit(1)


def launcher(command: Sequence[str]) -> list[str]:
    """The command, to be started by this process, that the kernel kills when this process ends.

    The signal survives exec, so any program can be started this way (Linux; elsewhere it is just
    started).
    """
    # As a file, isolated: the environment and the working folder are the program's own affair.
    return [sys.executable, "-I", __file__, str(os.getpid()), *command]


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - the command that launcher was given
