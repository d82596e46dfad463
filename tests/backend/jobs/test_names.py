"""The names of workers."""

from __future__ import annotations

import pytest

from backend.jobs.names import ParentId, parent_of, worker_name


def test_a_workers_name_tells_its_parent() -> None:
    assert parent_of(worker_name("lab-3.local", 4026531836, 17, 2)) == ParentId(
        "lab-3.local", 4026531836, 17
    )


@pytest.mark.parametrize("name", ["", "lab-1-0", "lab-x-1-0", "1-2-3"])
def test_a_name_of_another_form_has_no_parent(name: str) -> None:
    assert parent_of(name) is None
