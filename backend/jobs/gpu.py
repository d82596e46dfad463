"""Whether members can be trained on a GPU here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from backend.redis_queue import QUEUES, TRAIN_GPU

# NVIDIA's driver, the same within WSL, and AMD's.
_DEVICES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")

_ASK = "import sys, torch; sys.exit(not torch.cuda.is_available())"


def torch_finds_gpu() -> bool:
    """Ask in a process of its own: a worker's parent imports no torch."""
    return subprocess.run([sys.executable, "-c", _ASK], check=False).returncode == 0


def queues_here() -> tuple[str, ...]:
    """The queues whose jobs this machine can do. Without a driver's device torch is not asked,
    which takes seconds."""
    has_gpu = any(Path(device).exists() for device in _DEVICES) and torch_finds_gpu()
    return tuple(queue for queue in QUEUES if has_gpu or queue != TRAIN_GPU)
