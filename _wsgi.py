"""Read the environment, build the app, say that this process lives; nothing else.

``label-studio-ml start .`` runs this file with the options of its own server: Flask's then serves
the app, for development only. ``python -m backend serve`` builds the same app by itself.
"""

import argparse
from functools import partial

from backend.errors import BadSettings
from backend.ledger import Ledger
from backend.ledger.agreement import facts_of
from backend.ledger.heartbeat import Heartbeat
from backend.setting_values import is_loopback
from backend.settings import check_reach, load_settings
from backend.web.app import build_app

settings = load_settings()
app = build_app(settings)
Heartbeat(
    *(Ledger(settings.ledger_url), "web", settings.backend_url), partial(facts_of, settings, "web")
).in_background()

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Committee, served for development")
    parser.add_argument("-p", "--port", type=int, default=settings.port)
    parser.add_argument("--host", default=settings.host)
    parser.add_argument("-d", "--debug", action="store_true")
    arguments, unused = parser.parse_known_args()
    if unused:
        parser.error(f"not options of this backend: {' '.join(unused)}")
    try:
        check_reach(arguments.host, settings)
    except BadSettings as error:
        parser.error(str(error))
    if arguments.debug and not is_loopback(arguments.host):
        parser.error("--debug lets a browser run code here: only with --host 127.0.0.1")
    app.run(host=arguments.host, port=arguments.port, debug=arguments.debug, threaded=True)
