"""What the log of a process looks like, and the ids that each line of JSON carries.

The ids are those of the request, project, round, part and job that the code is at work for. They
are bound where that work begins, in the web for each request and in a worker for each job, so
nobody in between hands them on. A thread that works for them is started by ``copy_context().run``.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType

_NONE: Mapping[str, int | str] = MappingProxyType({})
_IDS: ContextVar[Mapping[str, int | str]] = ContextVar("ids", default=_NONE)

TEXT = "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"


@contextmanager
def bound(**ids: int | str) -> Iterator[None]:
    """What is logged in the block carries these ids, beside those of the blocks around it."""
    token = _IDS.set({**_IDS.get(), **ids})
    try:
        yield
    finally:
        _IDS.reset(token)


def bind(**ids: int | str) -> None:
    """Add ids until the ``bound`` block around this one ends; outside of one nothing happens."""
    if _IDS.get() is not _NONE:
        _IDS.set({**_IDS.get(), **ids})


class JsonLines(logging.Formatter):
    """A line of JSON for each record: time, level, logger, process, the ids and the message."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, int | str] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process or 0,
            **_IDS.get(),
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        # ASCII alone: whatever a name or an address holds, it stays one line that anybody reads.
        return json.dumps(line)


def log_to_stderr(log_format: str) -> None:
    """Log to stderr from now on.

    Args:
        log_format: LOG_FORMAT, "text" or "json".
    """
    handler = logging.StreamHandler(sys.stderr)
    as_json = log_format == "json"
    handler.setFormatter(JsonLines() if as_json else logging.Formatter(TEXT))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.captureWarnings(as_json)  # else Python writes them as text, between the lines of JSON
