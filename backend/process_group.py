"""Which processes live, and one that dies with its parent, however the parent dies."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def pid_space() -> int:
    """Which numbering of processes this one is in: each container has its own (Linux; else 0)."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116 - a link that leads to no path
    except OSError:
        return 0


def is_running(pid: int) -> bool:
    """Whether this machine has a process of that number, whoever's it is."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def die_with_parent(parent_pid: int | None = None) -> None:
    """Have the kernel kill this process when its parent ends (Linux; elsewhere nothing happens).

    Args:
        parent_pid: who the parent should be; if it is gone already, this process ends at once.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent_pid is not None and os.getppid() != parent_pid:
        os._exit(1)
