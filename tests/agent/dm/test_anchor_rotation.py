"""Trust anchors rotate with an overlap, each step on trial: over real TLS, old, then old and new, then new."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from agent.daemon.network import SystemNetwork
from agent.https import HttpsClient, HttpsError, Response
from agent.mo.connectivity import trial
from agent.settings.config import ConnectivityConfig
from tests.agent.certificates import TlsServer, authority
from tests.agent.dm.server import FakeDmServer, execute, get, put
from tests.agent.dm_device import Device
from updateagent.disk import RealDisk

YEARS = (1e9, 4e9)
OLD, NEW = authority(YEARS, name="old"), authority(YEARS, name="new")


class TlsFrontedServer(FakeDmServer):
    """A DM server that hears a device only where the TLS server in front of it is believed."""

    def __init__(self, https: HttpsClient) -> None:
        super().__init__()
        self.https = https
        self.front = ""

    def request(
        self, method: str, url: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        self.https.reach(self.front)
        return super().request(method, url, body=body, headers=headers)


def propose(one: Device, pem: bytes, correlator: str) -> None:
    one.session([put("./ConnMO/Proposed/Anchors", pem.decode()), execute("./ConnMO/Operations/Try", correlator)])


def live_on(one: Device, seconds: int) -> None:
    for _ in range(0, seconds, 30):
        one.clock.advance(30)
        one.server.packages = []
        one.turn()


def state_of(one: Device) -> str:
    return trial.load(one.tree.view()).state


def test_authorities_rotate_with_an_overlap_and_a_bundle_that_leads_to_no_session_is_taken_back(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(OLD.ca_pem())
    https = HttpsClient(tmp_path / "ca.pem")
    config = ConnectivityConfig((), None, ())
    network = SystemNetwork(config, https, RealDisk(), tmp_path / "state", tmp_path / "ca.pem", lambda _, __: "")
    server = TlsFrontedServer(https)
    with contextlib.closing(TlsServer(tmp_path, OLD.issue(YEARS))) as front:
        server.front = front.url
        one = Device(server, network=network).registered()
        propose(one, NEW.ca_pem(), "early")  # the servers still show the old authority's certificate
        assert state_of(one) == "trial"
        live_on(one, 960)
        assert state_of(one) == "reverted"
        assert network.anchors() is None
        propose(one, OLD.ca_pem() + NEW.ca_pem(), "both")
        live_on(one, 60)
        assert state_of(one) == "confirmed"
    with contextlib.closing(TlsServer(tmp_path, NEW.issue(YEARS))) as front:
        server.front = front.url
        one.session([get("./DevInfo/DevId")])
        assert one.last_result == "ok"
        propose(one, NEW.ca_pem(), "new")
        live_on(one, 60)
        assert state_of(one) == "confirmed"
        assert network.anchors() is not None
    with contextlib.closing(TlsServer(tmp_path, OLD.issue(YEARS))) as front, contextlib.suppress(HttpsError):
        server.front = front.url
        one.session([get("./DevInfo/DevId")])
        assert one.last_result != "ok"
