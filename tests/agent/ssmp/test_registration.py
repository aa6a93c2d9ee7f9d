"""`Registrar`: the device's core over a transport that can fail."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import cast

import pytest

from agent.https import HttpsClient, HttpsError, Response
from agent.settings.device import DeviceInfo
from agent.ssmp.registration import Registrar
from omadm.ssmp import wire
from omadm.ssmp.errors import SsmpError, SsmpRefused
from omadm.ssmp.identity import SharedKey
from omadm.ssmp.server_core import Authenticated, Challenger, Confirmed, SessionTable

DEVICE = DeviceInfo("urn:dcu:T-1", "Maker", "Model", "H", "F", "S")
KEY = bytes(range(32))
HELD = bytes(range(16))
HEADERS = {"content-type": "application/vnd.dcu.ssmp; charset=binary"}


class Server:
    """Answers like the security server; `wrap` may change an answer. It knows nothing later than `latest`."""

    def __init__(
        self, wrap: Callable[[int, Response], Response] = lambda _, response: response, *, latest: int = wire.VERSION
    ) -> None:
        self._challenger = Challenger(random.Random(4).randbytes)
        self._table = SessionTable(random.Random(5).randbytes)
        self._latest = latest
        self.held: bytes | None = None
        self._wrap = wrap
        self.requests: list[tuple[str, str]] = []
        self.info: wire.RegistrationInfo | None = None

    def request(
        self, method: str, url: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        self.requests.append((method, url))
        assert headers == {"Content-Type": wire.CONTENT_TYPE}
        assert body is not None
        return self._wrap(len(self.requests), Response(200, HEADERS, self._answer(body)))

    def _answer(self, body: bytes) -> bytes:
        message = wire.parse(body)
        match message:
            case wire.Hello() if message.version > self._latest:
                return wire.Error(400 if self._latest == 1 else 505, "not spoken here", 1).emit()
            case wire.Hello(version=wire.VERSION_1):
                return self._table.open(body, KEY, "net", known=True, now=0.0).challenge
            case wire.Hello():
                return self._challenger.challenge(body, "net", 0.0, message.version)
            case wire.Auth() | wire.AuthV2():
                session = self._table.prepare(self._challenger.opening(message, "net", 0.0), KEY, known=True, now=0.0)
            case wire.AuthV1() | wire.Confirm():
                session = self._table.find(message.session, 0.0)
            case _:
                raise AssertionError(message)
        try:
            session.receive(body, 0.0)
        except SsmpRefused as refusal:
            return wire.Error(refusal.code, refusal.text, message.version).emit()
        self._table.settle(session)
        match session.next_event():
            case Authenticated(_, info, held):
                self.info, self.held = info, held
                session.provide(b"document")
            case Confirmed():
                session.acknowledge()
        return session.take_output()


def registered(server: Server, key: bytes = KEY) -> bytes:
    registrar = Registrar(cast("HttpsClient", server), "https://s/ssmp", DEVICE)
    return registrar.register(SharedKey(key), "http://d/push", HELD)


def test_three_round_trips_bring_the_document_and_tell_who_the_device_is() -> None:
    server = Server()
    assert registered(server) == b"document"
    assert server.requests == [("POST", "https://s/ssmp")] * 3
    assert server.info == wire.RegistrationInfo("Maker", "Model", "H", "F", "S", "http://d/push")
    assert server.held == HELD


@pytest.mark.parametrize(("latest", "round_trips", "held"), [(2, 4, HELD), (1, 5, None)])
def test_a_server_of_an_older_version_takes_more_round_trips(latest: int, round_trips: int, held: bytes | None) -> None:
    server = Server(latest=latest)
    assert registered(server) == b"document"
    assert len(server.requests) == round_trips
    assert server.held == held


def test_a_wrong_key_is_a_refusal_with_its_code() -> None:
    with pytest.raises(SsmpRefused) as refusal:
        registered(Server(), bytes(32))
    assert refusal.value.code == wire.ErrorCode.REFUSED


@pytest.mark.parametrize("broken", [1, 2, 3])
def test_a_line_that_breaks_is_an_error_of_ours(broken: int) -> None:
    def wrap(number: int, response: Response) -> Response:
        if number == broken:
            raise HttpsError("gone")
        return response

    with pytest.raises(SsmpError, match="gone"):
        registered(Server(wrap))


def test_an_answer_that_is_no_ssmp_is_named_with_its_status() -> None:
    with pytest.raises(SsmpError, match="HTTP 502 with text/html"):
        registered(Server(lambda _, __: Response(502, {"content-type": "text/html"}, b"<html>")))


def test_a_server_that_repeats_itself_is_given_up() -> None:
    first: list[Response] = []

    def wrap(_: int, response: Response) -> Response:
        first.append(response)
        return first[0]

    with pytest.raises(SsmpError, match="sent CHALLENGE while AUTH_SENT"):
        registered(Server(wrap))
