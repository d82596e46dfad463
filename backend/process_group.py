"""Which processes live, and processes that die with their parent, however the parent dies.

A pool of Python processes ends with its parent by ``training.process_pool``, on every platform;
what is here serves forks and other programs, by Linux's parent-death signal.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def pid_space() -> int:
    """Which numbering of processes this one is in: each container has its own (Linux; else 0)."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116 - a link that leads to no path
    except OSError:
        return 0


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
