"""Bodies that a real Label Studio sent, where ../shared holds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

CAPTURES = Path(__file__).resolve().parents[2] / "shared" / "label_studio" / "captures"


def captured(name: str) -> Any:
    """The body of one captured request; skips where the captures are not at hand."""
    path = CAPTURES / f"{name}.json"
    if not path.exists():
        pytest.skip("../shared/label_studio/captures is not on this machine")
    found = json.loads(path.read_text())
    return found.get("body", found) if "path" in found else found
