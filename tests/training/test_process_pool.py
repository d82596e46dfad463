import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from tests.limits import scaled, wait_until
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
    parent.wait(scaled(30))
    wait_until(
        lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, 30, "its end"
    )
