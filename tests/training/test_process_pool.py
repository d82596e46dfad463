import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from training.process_pool import process_pool

START = """
import os, time
from training.process_pool import process_pool
if __name__ == "__main__":
    pool = process_pool(1)
    print(pool.submit(os.getpid).result(), flush=True)
    time.sleep(600)
"""


def test_a_pool_works():
    with process_pool(1) as pool:
        assert pool.submit(os.getppid).result() == os.getpid()


def test_its_processes_end_when_their_parent_is_killed(tmp_path):
    script = tmp_path / "start.py"
    script.write_text(START)
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )
    assert parent.stdout is not None
    with parent.stdout:
        worker = psutil.Process(int(parent.stdout.readline()))
    parent.send_signal(signal.SIGKILL)
    parent.wait(timeout=30)
    deadline = time.monotonic() + 30
    while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "it lives on"
        time.sleep(0.05)
