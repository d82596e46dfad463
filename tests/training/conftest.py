"""What many tests of training share, and what takes seconds to make."""

from __future__ import annotations

import pytest

from tests.training.trained import Trained, train


@pytest.fixture(scope="session")
def trained() -> Trained:
    return train()
