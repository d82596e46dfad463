"""How the jobs of a round yield to the web, and to the web alone."""

from __future__ import annotations

import os


def yield_to_web(nice: int) -> None:
    """Raise this process's nice level by ``nice``.

    Linux with autogroups shares the cores among sessions first, and nice counts only between the
    processes of one session. `make run` therefore keeps the web, the workers and their jobs in the
    session that it was started in: a job gives way to the web, and to other programs only as much
    as the session's share asks for. In 0.1.0 every job lowered the share of a session of its
    own, and beside two busy programs a fit took 8 times as long.
    """
    os.nice(nice)
