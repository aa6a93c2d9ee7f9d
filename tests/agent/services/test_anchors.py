"""Certificates of software packages as trust anchors of this device's TLS: while their component is active."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from agent.clock_floor import CertificateTime
from agent.https import HttpsClient, HttpsRefused, KeptConnection
from agent.services.active import Components
from agent.services.worker import ServiceWorker
from agent.status import Status, StatusBoard
from agent.tls import Fault
from tests.agent.certificates import DAY, authority
from tests.agent.services.packages import Installed
from tests.agent.services.test_worker import Remembering
from tests.agent.test_https import Server
from tests.agent.virtual import VirtualClock

NOW = 1_800_000_000.0
VALID = (NOW - 100 * DAY, NOW + 100 * DAY)
OLD = (NOW - 100 * DAY, NOW - 50 * DAY)
ANCHOR = {"format": 1, "kind": "trust-anchor", "certificates": ["ca.pem"]}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (authority(VALID).ca_pem(), ""),
        (authority(VALID).ca_pem() + authority(VALID, name="Next").ca_pem(), ""),
        (authority(VALID).issue(VALID).ca_pem(), "authorities, and nothing else"),
        (authority(VALID).ca_pem() + authority(VALID).issue(VALID).ca_pem(), "authorities, and nothing else"),
        (authority(VALID).ca_pem() + authority(VALID).revocation_list(), "authorities, and nothing else"),
        (authority(OLD).ca_pem(), "expired at"),
        (b"-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----\n", "no certificate"),
        (b"", "no certificate"),
        (b"x" * (300 << 10), "larger than"),
        (b"".join(authority(VALID, name=str(number)).ca_pem() for number in range(17)), "16 are allowed"),
    ],
)
def test_only_authorities_that_can_still_be_valid_become_anchors(tmp_path: Path, content: bytes, why: str) -> None:
    installed = Installed(tmp_path / "software")
    (installed.put("roots", "1", ANCHOR, {}) / "ca.pem").write_bytes(content)
    problem = Components(installed.folder, lambda: CertificateTime(NOW, None)).problem_of("roots", "1")
    assert (why in problem) if why else (problem == "")
    assert bool(problem) == bool(why)


def test_whether_one_has_expired_is_judged_by_the_floor_and_not_by_the_clock(tmp_path: Path) -> None:
    """The clock says 1970; what was built, or signed, later than a certificate's end says that it has expired."""
    installed = Installed(tmp_path / "software")
    (installed.put("roots", "1", ANCHOR, {}) / "ca.pem").write_bytes(authority(OLD).ca_pem())
    for earliest, fine in ((0.0, True), (NOW - 60 * DAY, True), (NOW - 40 * DAY, False)):
        components = Components(installed.folder, partial(CertificateTime, earliest, None))
        assert (components.problem_of("roots", "1") == "") == fine


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[Server, Server]]:
    made = Server(tmp_path / "own"), Server(tmp_path / "new")
    yield made
    for one in made:
        one.close()


def fault_of(client: HttpsClient, server: Server) -> Fault | None:
    try:
        client.request("GET", server.url)
    except HttpsRefused as error:
        return error.fault
    return None


@pytest.mark.process
def test_an_active_components_authority_is_believed_beside_the_configured_ones(
    tmp_path: Path, servers: tuple[Server, Server]
) -> None:
    own, new = servers
    installed = Installed(tmp_path / "software")
    (installed.put("roots", "1", ANCHOR, {}) / "ca.pem").write_bytes(new.ca.read_bytes())
    client = HttpsClient(own.ca)
    worker = ServiceWorker(
        Components(installed.folder), Remembering, StatusBoard(Status()), VirtualClock(), on_anchors=client.trust_also
    )

    def believed() -> list[Fault | None]:
        worker.reload()
        worker.step()
        return [fault_of(client, server) for server in servers]

    assert believed() == [None, Fault.UNKNOWN_ISSUER]
    installed.activate("roots", "1")
    assert believed() == [None, None]
    installed.activate("roots", None)
    assert believed() == [None, Fault.UNKNOWN_ISSUER]


@pytest.mark.process
def test_a_kept_connection_does_not_outlive_the_anchor_that_it_was_verified_by(servers: tuple[Server, Server]) -> None:
    own, new = servers
    client = HttpsClient(own.ca)
    client.trust_also([new.ca.read_text()])
    kept = KeptConnection(client)
    assert kept.request("GET", new.url).status == 200
    client.trust_also([])
    with pytest.raises(HttpsRefused):
        kept.request("GET", new.url)


def test_an_anchor_that_cannot_be_loaded_changes_nothing(tmp_path: Path) -> None:
    """The components are read first, so that this takes a file that changes under the reader's hands."""
    installed = Installed(tmp_path / "software")
    (installed.put("roots", "1", ANCHOR, {}) / "ca.pem").write_bytes(authority(VALID).ca_pem())
    told: list[list[str]] = []

    def refuse(texts: object) -> None:
        told.append(list(texts))  # type: ignore[call-overload]
        raise OSError("the authorities' file is gone")

    worker = ServiceWorker(
        Components(installed.folder), Remembering, StatusBoard(Status()), VirtualClock(), on_anchors=refuse
    )
    installed.activate("roots", "1")
    worker.look_at_anchors()
    worker.look_at_anchors()
    assert len(told) == 2  # tried again with each look
