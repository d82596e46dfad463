"""One sender of webhooks, a process of its own: threads of one would wait for each other.

``python sender.py HOST PORT COUNT PAUSE_S REQUEST_FILE`` says "ready", waits for a line, sends the
request ``COUNT`` times, each over a new connection as Label Studio does and ``PAUSE_S`` after the
last answer, and prints [[status, seconds], ...]. It sends bytes made before, so that the time is
the server's and not a client library's.
"""

from __future__ import annotations

import json
import re
import socket
import sys
import time
from pathlib import Path


def main() -> None:
    host, port, count, pause_s, request_file = sys.argv[1:]
    request = Path(request_file).read_bytes()
    print("ready", flush=True)
    sys.stdin.readline()
    answers = []
    for _ in range(int(count)):
        start = time.perf_counter()
        with socket.create_connection((host, int(port)), timeout=30) as link:
            link.sendall(request)
            status = read_answer(link)
        answers.append([status, time.perf_counter() - start])
        time.sleep(float(pause_s))
    print(json.dumps(answers), flush=True)


def read_answer(link: socket.socket) -> int:
    """Read one whole answer; its status. The connection is left open, as Label Studio does."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += link.recv(65536)
    head, body = answer.split(b"\r\n\r\n", 1)
    length = int(re.search(rb"(?i)\r\ncontent-length: (\d+)", head)[1])
    while len(body) < length:
        body += link.recv(65536)
    return int(head.split(b" ", 2)[1])


if __name__ == "__main__":
    main()
