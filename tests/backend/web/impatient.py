"""The web with short limits of time and a small buffer: no test takes long to reach them."""

from backend.settings import load_settings
from backend.web import server
from backend.web.serve import serve

HEAD_WITHIN_S = server.HEAD_WITHIN_S = 2.0
BODY_WITHIN_S = server.BODY_WITHIN_S = 2.0
SILENT_S = server.SILENT_S = 2
server.SEND_BUFFER_BYTES = 8 * 1024

if __name__ == "__main__":
    # Once for all processes, also those that replace a killed one: it takes each of them seconds.
    import backend.web.app  # noqa: F401

    serve(load_settings())
