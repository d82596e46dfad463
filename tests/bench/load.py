"""A laboratory at work, as one process: `python load.py PLAN_FILE` says "ready", waits for a line,
sends what the plan says, and prints what came of it as JSON.

The plan is JSON: ``host``, ``port``, ``seconds``; ``streams``, each ``name``, ``every_s`` and
``file``, a request's bytes, sent anew over a connection of its own at each of its times; and
``visits``, each ``name``, ``first_s``, ``every_s`` and ``files``, requests of which each is sent
when the former is answered and only the last is timed, as Label Studio does for a task that
somebody opens. A request of a stream is due at its time whatever became of those before it, and its
wait counts from then: a server that stalls is not spared.

The answer is JSON: ``waits``, seconds by name; ``refused``, how often each other answer than 200
and 201 came, by name; ``cpu_s`` of this process, and ``wall_s``.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

ANSWER_WITHIN_S = 100.0
"""Of Label Studio's own limits the longest, that of /predict."""


class Exchange(asyncio.Protocol):
    """One request and its answer; ``status`` is known when the whole answer is there."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._answer = b""
        self._link: asyncio.Transport | None = None
        self.status: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._link = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, end, body = self._answer.partition(b"\r\n\r\n")
        if not end or self.status.done():
            return
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        if length is not None and len(body) >= int(length[1]):
            self.status.set_result(int(head.split(b" ", 2)[1]))
            assert self._link is not None
            self._link.close()

    def connection_lost(self, _error: Exception | None) -> None:
        if not self.status.done():
            self.status.set_result(0)


class Laboratory:
    """What is sent, and what came of it."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self._plan = plan
        self.waits: dict[str, list[float]] = defaultdict(list)
        self.refused: dict[str, Counter[str]] = defaultdict(Counter)

    async def work(self) -> None:
        start = time.perf_counter()
        sent = [asyncio.create_task(self._stream(each, start)) for each in self._plan["streams"]]
        sent += [asyncio.create_task(self._visits(each, start)) for each in self._plan["visits"]]
        await asyncio.gather(*sent)

    async def _stream(self, stream: dict[str, Any], start: float) -> None:
        request = Path(stream["file"]).read_bytes()
        under_way = []
        for number in range(round(self._plan["seconds"] / stream["every_s"])):
            due = start + number * stream["every_s"]
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            under_way.append(asyncio.create_task(self._timed(stream["name"], request, due)))
        await asyncio.gather(*under_way)

    async def _visits(self, visits: dict[str, Any], start: float) -> None:
        requests = [Path(file).read_bytes() for file in visits["files"]]
        due = start + visits["first_s"]
        while due < start + self._plan["seconds"]:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            for request in requests[:-1]:
                self._count(visits["name"], await self._answer_to(request))
            await self._timed(visits["name"], requests[-1], time.perf_counter())
            # A person who waited longer labels later, and not in half the time.
            due = max(due + visits["every_s"], time.perf_counter())

    async def _timed(self, name: str, request: bytes, due: float) -> None:
        self._count(name, await self._answer_to(request))
        self.waits[name].append(time.perf_counter() - due)

    async def _answer_to(self, request: bytes) -> int | str:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                host, port = self._plan["host"], self._plan["port"]
                _, exchange = await loop.create_connection(lambda: Exchange(request), host, port)
                return await exchange.status
        except (OSError, TimeoutError) as error:
            return type(error).__name__

    def _count(self, name: str, status: int | str) -> None:
        if status not in (200, 201):
            self.refused[name][str(status)] += 1


def main() -> None:
    laboratory = Laboratory(json.loads(Path(sys.argv[1]).read_bytes()))
    print("ready", flush=True)
    sys.stdin.readline()
    wall, cpu = time.perf_counter(), time.process_time()
    asyncio.run(laboratory.work())
    found = {
        "waits": laboratory.waits,
        "refused": laboratory.refused,
        "cpu_s": time.process_time() - cpu,
        "wall_s": time.perf_counter() - wall,
    }
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
