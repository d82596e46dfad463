"""The secret that a project's webhook carries.

Every user of Label Studio can read a webhook's headers, so it is not the web's password: it opens
``/webhook`` alone, and only for the project that it was made for. It is a random name with the
name's HMAC: the HMAC tells without the ledger, before a body is read, that we made it; the
ledger keeps the name, and so tells for which project it was made last.
"""

from __future__ import annotations

import hmac
import json
import secrets
from hashlib import sha256

from backend.settings import Settings


def new_name() -> str:
    """The name of a new secret."""
    return secrets.token_hex(16)


def webhook_key(settings: Settings) -> bytes:
    """The key of all secrets of this installation."""
    return settings.derived_key(b"webhooks")


def webhook_header(key: bytes, name: str) -> str:
    """The Authorization header of the secret of that name."""
    return f"Bearer {name}.{hmac.digest(key, name.encode(), sha256).hex()}"


def name_in(key: bytes, header: str) -> str | None:
    """The name of the secret in an Authorization header; None if we made none such."""
    name = header.removeprefix("Bearer ").partition(".")[0]
    right = webhook_header(key, name)
    return name if hmac.compare_digest(right.encode(), header.encode()) else None


def name_of(connection: str | None) -> str | None:
    """The name of the secret of a connection as the ledger keeps it.

    None where there is no connection, or one by a release whose webhooks carried the password.
    """
    name = None if connection is None else json.loads(connection).get("webhook_secret")
    return name or None
