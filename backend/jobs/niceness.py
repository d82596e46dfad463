"""How the jobs of a round yield the processors to what people wait for."""

from __future__ import annotations

import errno
import logging
import os
import time
from pathlib import Path

log = logging.getLogger(__name__)

NICE = 10
"""A ninth of what an ordinary process gets of a core that both want, all of it while none does.
Nicer jobs would starve beside any busy program, and hold the ledger's lock while they wait."""

AUTOGROUP = Path("/proc/self/autogroup")

ASK_AGAIN_S = 0.15
ASKED_AT_MOST = 20
"""Linux lets one process in 0.1 s do this, unless it is root's."""


def yield_to_serving() -> None:
    """Have this process, and the session that it is of, step back from a core that others want.

    Linux may first share the cores among sessions, and heeds nice within each alone (autogroup):
    every worker is a session of its own, and so would have as much as the whole web.
    """
    os.nice(NICE)
    for _ in range(ASKED_AT_MOST):
        try:
            AUTOGROUP.write_text(str(NICE))
        except FileNotFoundError:
            return  # a kernel that shares among processes
        except OSError as error:
            if error.errno != errno.EAGAIN:
                log.warning("jobs may hold up the web: %s cannot be written: %s", AUTOGROUP, error)
                return
            time.sleep(ASK_AGAIN_S)
        else:
            return
