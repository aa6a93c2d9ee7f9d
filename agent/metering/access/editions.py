"""Which keys are provisioned for a meter, without saying them: what an order to change keys remembers of its ground."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from dlms.errors import LocalError

if TYPE_CHECKING:
    from agent.settings.provisioning import MeterAccess

EDITION_CHARS = 32  # 128 bits: as long as the keys of suite 0


class KeysChangedError(LocalError):
    """What is provisioned for the meter is not what the order was made upon. Nothing was sent."""


def edition_of(access: MeterAccess, salt: str) -> str:
    """A digest of the keys that can be transferred into a meter (BB 4.4.7), equal for equal keys and the same `salt`.

    Only of these, which are random: a password could be found out from its digest. The salt is another one for each
    meter of each order, so that nobody sees which meters have the same keys.
    """
    keys = (access.encryption_key, access.authentication_key, access.broadcast_key)
    named = json.dumps(["edition of keys", salt, *(key.hex() for key in keys)])
    return hashlib.sha256(named.encode()).hexdigest()[:EDITION_CHARS]
