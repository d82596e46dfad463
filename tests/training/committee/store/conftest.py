"""A place in a real S3 server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.training.committee.store.places import Place

if TYPE_CHECKING:
    from tests.s3 import Door, S3Server


@pytest.fixture
def s3_place(s3: S3Server, door: Door, tmp_path: Path) -> Iterator[Place]:
    place = Place(f"s3://{s3.new_bucket()}/some/where", tmp_path)
    yield place
    place.close()
