"""Time limits by how fast the machine is, and which tests only `make soak` runs."""

from __future__ import annotations

import pytest
from hypothesis import settings

from tests.limits import scaled

# A busy machine takes longer than 200 ms for any example; pytest-timeout ends a test that hangs.
settings.register_profile("committee", deadline=None)
settings.load_profile("committee")


@pytest.hookimpl(tryfirst=True)  # before pytest-timeout reads it
def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("timeout") is None:
        config.option.timeout = scaled(float(config.getini("timeout")))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        marker = item.get_closest_marker("timeout")
        if marker is not None and marker.args:  # its limit is for two idle cores too
            item.add_marker(pytest.mark.timeout(scaled(marker.args[0])), append=False)
    if "soak" not in config.getoption("markexpr"):
        soak = [item for item in items if item.get_closest_marker("soak") is not None]
        config.hook.pytest_deselected(items=soak)
        items[:] = [item for item in items if item.get_closest_marker("soak") is None]
