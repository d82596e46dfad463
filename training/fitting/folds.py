"""Which member never trains on an example."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def fold(key: str, members: int) -> int:
    """The member that never trains on this key: the same on every machine, for good."""
    digest = hashlib.sha256(f"fold:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % members


def training_keys(keys: Sequence[str], members: int, member: int) -> list[str]:
    """The keys that a member trains on, sorted; a lone member trains on all."""
    return sorted(key for key in keys if members == 1 or fold(key, members) != member)
