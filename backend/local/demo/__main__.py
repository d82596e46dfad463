"""``python -m backend.local.demo [FOLDER]``: make the demo project of this environment."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from rich.console import Console

from backend.errors import BackendError
from backend.local.demo.project import make_demo
from backend.local.progress import ProgressReporter
from backend.settings import load_settings


def main() -> int:
    """Make the project; returns the exit status."""
    progress = ProgressReporter(Console(highlight=False, soft_wrap=True))
    images = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    try:
        make_demo(load_settings(), images, progress)
    except BackendError as error:
        progress.close()
        progress.message(str(error))
        return 1
    except KeyboardInterrupt:
        progress.close()
        return 130
    return 0


if __name__ == "__main__":
    # The supervisor sends SIGTERM; it ends the pool's processes as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
