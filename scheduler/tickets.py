"""Tickets: with one, a remote node fetches the keys of its workflow, once.

The broker derives a node's ticket from the node's token, so that after a crash it launches the same
node with the same user data. The node gets it in its user data, the driver with its orders; the
driver takes each ticket once, while the node boots, so reading user data later is of no use.
"""

import hashlib
import hmac

from scsched.db.session import Store


class Tickets:
    """Makes the tickets of one deployment."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @classmethod
    def of(cls, store: Store) -> "Tickets":
        return cls(store.secret())

    def ticket(self, token: str) -> str:
        """64 hexadecimal digits; the same token always gives the same ones."""
        return hmac.new(self._secret, f"ticket {token}".encode(), hashlib.sha256).hexdigest()
