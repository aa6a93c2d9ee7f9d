"""What the DM client needs from the rest of the daemon, as values and callables that the composition root fills in.

The DM code imports no configuration file, no metering code and no supervisor.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from agent.clock import Clock
from agent.dm.trial import Network, NoNetwork
from agent.mo.objects import DeviceObjects
from agent.settings.provisioning import Provisioning
from agent.status import StatusBoard
from agent.tree.persistence import ManagementTree
from omadm.syncml.codec import DM_WBXML
from updateagent.disk import Disk

if TYPE_CHECKING:
    from agent.clock_floor import Validity
    from agent.https import Response

POLL_EVERY_S = 3600.0


class Https(Protocol):
    """The part of `agent.https.HttpsClient` that a DM session uses. Raises `agent.https.HttpsError`."""

    def request(
        self, method: str, url: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Response: ...


@dataclass(frozen=True, slots=True)
class DmConfig:
    """Fixed facts. `state_dir/dm` holds the nonces, beside the tree.

    `poll_every_s` is the longest time without a session; after a failure the next attempt is `backoff_min_s` away,
    doubling up to `backoff_max_s`. `auth_types` are the kinds of credentials that an account may ask for.
    `standard_notifications`: notifications of a server of another make, which have no counter, are taken as well.
    `boot_id` tells one boot from the other; empty where nothing does.
    """

    device_id: str
    state_dir: Path
    poll_every_s: float = POLL_EVERY_S
    backoff_min_s: float = 5.0
    backoff_max_s: float = 3600.0
    content_type: str = DM_WBXML
    mac_algorithms: tuple[str, ...] = ("SHA-256",)
    auth_types: tuple[str, ...] = ("HMAC",)
    standard_notifications: bool = False
    boot_id: str = ""


@dataclass(frozen=True, slots=True)
class DmDeps:
    """Everything else the DM client calls.

    * `tree`, `objects`: the management tree and what its nodes do.
    * `register(held)`: gets the bootstrap document, from the security server or from a file; raises `SsmpRefused`,
      `SsmpError` or `BootstrapError`. `held` is the fingerprint of the account that the device has, empty for none.
    * `health(name, ok, detail)`: one health check result, for the Update Agent's trial boot.
    * `on_provisioning(p)`: called from the DM thread at start and after each change; must not block.
    * `on_commands()`: called from the DM thread when what a message asked for is done and handed to `on_provisioning`,
      and before the next message; must not block.
    * `request_reboot()`: asks the supervisor to reboot the board; returns at once.
    * `time_told(told, sent, received, valid)`: the DM server has told the time in a message with its MAC, see
      `agent.clock.SystemClock.session_time`.
    * `time_doubted()`: returns, once, whether a certificate was refused for its time since. `ask_time()` then asks the
      security server for the time, and raises as `register` does; `None` where there is none.
    * `push_url()`: where notifications reach this device now, empty for nowhere; called from the DM thread.
    * `network`: puts changes of how the head-end is reached into effect.
    """

    tree: ManagementTree
    objects: DeviceObjects
    https: Https
    disk: Disk
    clock: Clock
    board: StatusBoard
    register: Callable[[bytes], bytes]
    health: Callable[[str, bool, str], None]
    on_provisioning: Callable[[Provisioning], None]
    request_reboot: Callable[[], None]
    push_url: Callable[[], str] = lambda: ""
    on_commands: Callable[[], None] = lambda: None
    renewal_due: Callable[[], bool] = lambda: False
    time_told: Callable[[float, float, float, Validity | None], None] = lambda *_: None
    time_doubted: Callable[[], bool] = lambda: False
    ask_time: Callable[[], None] | None = None
    network: Network = field(default_factory=NoNetwork)
    rng: random.Random = field(default_factory=random.SystemRandom)
    entropy: Callable[[int], bytes] = os.urandom
