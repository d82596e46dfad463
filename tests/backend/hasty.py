"""The web's own worker with little patience, so that a test need not wait a minute for its end."""

from backend.web import web_worker
from backend.web.web_worker import WebWorker

HEAD_WITHIN_S = web_worker.HEAD_WITHIN_S = 2.0
BODY_WITHIN_S = web_worker.BODY_WITHIN_S = 2.0

__all__ = ["WebWorker"]
