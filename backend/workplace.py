"""What a process works with: settings, ledger, Label Studio's client, registry, image fetcher.

Built once at a process's entry and handed down. The registry, which brings torch, is opened
only by those who ask for it, so that the command line and a worker's parent stay light. Its store
brings none.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from backend.counters import Counters
from backend.data_dir import announced_names
from backend.label_studio.bulk import Studio
from backend.label_studio.images import ImageFetcher
from backend.ledger import Ledger
from backend.options import ProjectOptions, parse_options
from backend.settings import Settings
from training.config import NETWORKS

if TYPE_CHECKING:
    from redis import Redis

    from backend.ledger import Project
    from training.committee.registry import Registry
    from training.committee.store.store import Store

WEB_BUSY_S = 0.7
"""Longest wait of a web request for the ledger: Label Studio gives a webhook one second."""


class Workplace:
    """What one process works with.

    Args:
        settings: of this process.
        busy_s: longest wait for the ledger, seconds.
    """

    def __init__(self, settings: Settings, *, busy_s: float = 10.0) -> None:
        self.settings = settings
        # One is left for the thread that beats, or renews a lease, on a ledger of its own.
        self.ledger = Ledger(settings.ledger_url, busy_s, settings.ledger_connections - 1)
        self.counters = Counters(settings.redis)

    @cached_property
    def server(self) -> str:
        """Label Studio's URL, as the ledger keys its projects by."""
        return self.settings.label_studio()[0]

    @cached_property
    def studio(self) -> Studio:
        def count(error: str) -> None:
            self.counters.add("label_studio_errors", error)

        return Studio(*self.settings.label_studio(), on_error=count)

    @cached_property
    def images(self) -> ImageFetcher:
        allowed = self.settings.allowed_image_hosts
        return ImageFetcher(self.studio, allowed, names=self.studio_names)

    def studio_names(self) -> list[str]:
        """The addresses that Label Studio said it has, newest first."""
        # The file holds what releases up to 0.2 heard, which only their own host could read.
        earlier = announced_names(self.settings.data_dir, self.server)
        return list(dict.fromkeys([*self.ledger.projects.names(self.server), *earlier]))

    @cached_property
    def store(self) -> Store:
        """Where the registry's files lie."""
        return self.settings.store()

    @cached_property
    def registry(self) -> Registry:
        from training.committee.registry import Registry

        network = self.settings.network
        return Registry(
            self.store,
            engine=self.settings.engine,
            own_network=network if network not in NETWORKS else None,
            seal=self.settings.derived_key(b"compiled members"),
        )

    @cached_property
    def redis(self) -> Redis:
        from redis import Redis

        return Redis.from_url(self.settings.redis(), socket_timeout=30, socket_connect_timeout=5)

    def options(self, project: Project) -> ProjectOptions:
        """The project's options, the environment's defaults filled in."""
        options = parse_options(project.extra_params)
        defaults = {
            name: getattr(self.settings, name)
            for name in ("retrain_every", "members", "candidates", "queue_length")
            if getattr(options, name) is None
        }
        return options.model_copy(update=defaults)

    def close(self) -> None:
        self.ledger.close()
        if "store" in vars(self):
            self.store.close()
