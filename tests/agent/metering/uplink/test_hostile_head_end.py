"""The real uplink, store and connection against a head-end that does everything wrong, over TLS on loopback."""

from __future__ import annotations

import gzip
import json
import random
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.https import BODY_BYTES_MAX, HttpsClient, KeptConnection
from agent.metering.scheduling.schedule import Backoff
from agent.metering.uplink.worker import Uplink
from agent.settings.provisioning import UplinkSettings
from headend import pki
from tests.agent.metering.readings import event, visit
from tests.agent.metering.uplink.rig import AT_ONCE, Rig

pytestmark = pytest.mark.process
BATCH = 20


class HostileHeadEnd:
    """Answers as `moods` say, one per request; then all is well. `kept` has what it has committed."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        made = pki.make(folder, ["127.0.0.1"])
        self.ca = folder / made["ca"]
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(folder / made["certificate"], folder / made["key"])
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self.listener.getsockname()[1]}/metering"
        self.kept: dict[tuple[str, int], object] = {}
        self.moods: list[str] = []
        self.orders: list[dict[str, object]] = []
        self.paths: list[str] = []
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self.listener.accept()
            except OSError:
                return
            try:
                with self.context.wrap_socket(plain, server_side=True) as line:
                    while self._one(line):
                        pass
            except (OSError, ValueError):
                plain.close()

    def _one(self, line: ssl.SSLSocket) -> bool:
        """Take a request. Returns whether another may follow."""
        got = b""
        while b"\r\n\r\n" not in got:
            piece = line.recv(65_536)
            if not piece:
                return False
            got += piece
        head, _, body = got.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        while len(body) < length:
            body += line.recv(65_536)
        self.paths.append(head.split()[1].decode())
        document = json.loads(gzip.decompress(body) if b"gzip" in head.lower() else body)
        mood = self.moods.pop(0) if self.moods else "well"
        return getattr(self, "_" + mood.replace(" ", "_"))(line, document) is not False

    def commit(self, document: dict[str, object], upto: int | None = None) -> int:
        records = document["records"]
        assert isinstance(records, list)
        for record in records:
            if upto is None or record["id"] <= upto:
                self.kept[str(document["store"]), record["id"]] = record.get("raw", record.get("key"))
        return int(records[-1]["id"]) if records else 0

    def answer(self, line: ssl.SSLSocket, document: object, status: str = "200 OK", headers: str = "") -> None:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        line.sendall(self.encoded(body, status, headers))

    @staticmethod
    def encoded(body: bytes, status: str = "200 OK", headers: str = "") -> bytes:
        return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body

    # --- moods ---

    def _well(self, line: ssl.SSLSocket, document: dict[str, object]) -> None:
        last = self.commit(document) or None
        self.answer(
            line,
            {"acknowledged": last, "resend": self.orders, "listed": "agreed"},
            headers="DCU-Accepts: reading, event\r\n",
        )

    def _fails(self, line: ssl.SSLSocket, document: dict[str, object]) -> None:
        self.answer(line, b"<h1>oops</h1>", "500 Internal Server Error")

    def _redirects(self, line: ssl.SSLSocket, document: dict[str, object]) -> None:
        self.answer(line, b"", "307 Temporary Redirect", "Location: /elsewhere\r\n")

    def _commits_and_dies(self, line: ssl.SSLSocket, document: dict[str, object]) -> bool:
        self.commit(document)
        return False

    def _dies_amid_its_answer(self, line: ssl.SSLSocket, document: dict[str, object]) -> bool:
        text = b'HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n{"acknowledged": %d' % self.commit(document)
        line.sendall(text)
        return False

    def _resets(self, line: ssl.SSLSocket, document: dict[str, object]) -> bool:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False

    def _says_too_much(self, line: ssl.SSLSocket, document: dict[str, object]) -> None:
        self.answer(line, {"acknowledged": self._last(document) + 1})

    def _says_too_little(self, line: ssl.SSLSocket, document: dict[str, object]) -> None:
        self.answer(line, {"acknowledged": self._first(document) - 1})

    def _takes_a_part(self, line: ssl.SSLSocket, document: dict[str, object]) -> None:
        self.commit(document, self._first(document))
        self.answer(line, {"acknowledged": self._first(document)})

    def _says_a_text(self, line: ssl.SSLSocket, document: dict[str, object]) -> None:
        self.answer(line, {"acknowledged": str(self._last(document))})

    def _says_a_fraction(self, line: ssl.SSLSocket, document: dict[str, object]) -> None:
        self.answer(line, {"acknowledged": float(self._last(document))})

    def _says_nothing_known(self, line: ssl.SSLSocket, document: dict[str, object]) -> None:
        self.answer(line, [self._last(document)])

    def _says_a_number_without_end(self, line: ssl.SSLSocket, document: dict[str, object]) -> None:
        self.answer(line, b'{"acknowledged": ' + b"9" * 5000 + b"}")

    def _nests_without_end(self, line: ssl.SSLSocket, document: dict[str, object]) -> None:
        self.answer(line, b"[" * 100_000)

    def _sends_a_flood(self, line: ssl.SSLSocket, document: dict[str, object]) -> bool:
        self.answer(line, bytes(BODY_BYTES_MAX + 1))
        return False

    def _speaks_no_http(self, line: ssl.SSLSocket, document: dict[str, object]) -> bool:
        line.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
        return False

    def _answers_twice(self, line: ssl.SSLSocket, document: dict[str, object]) -> None:
        """In one record of TLS, so that nobody has to wait for the second."""
        last = self.commit(document)
        answers = [{"acknowledged": last, "filler": "x" * 9000}, {"acknowledged": last + BATCH}]
        line.sendall(b"".join(self.encoded(json.dumps(each).encode()) for each in answers))

    def _refuses_everything(self, line: ssl.SSLSocket, document: dict[str, object]) -> None:
        self.answer(line, {"error": "no"}, "400 Bad Request")

    def _is_busy_for_ever(self, line: ssl.SSLSocket, document: dict[str, object]) -> None:
        self.answer(line, b"", "503 Service Unavailable", f"Retry-After: {'9' * 400}\r\n")

    def _says_again_first(self, line: ssl.SSLSocket, document: dict[str, object]) -> None:
        line.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 3)
        self._well(line, document)

    def _orders_nonsense(self, line: ssl.SSLSocket, document: dict[str, object]) -> None:
        bad = [{"request": 1, "first": 9, "last": 1}, {"request": True, "since": 1, "until": 2}, 7]
        self.answer(line, {"acknowledged": self.commit(document) or None, "resend": bad})

    @staticmethod
    def _last(document: dict[str, object]) -> int:
        return int(document["records"][-1]["id"]) if document["records"] else 0  # type: ignore[index]

    @staticmethod
    def _first(document: dict[str, object]) -> int:
        return int(document["records"][0]["id"]) if document["records"] else 0  # type: ignore[index]

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(10)


MOODS = [
    "fails", "redirects", "commits and dies", "dies amid its answer", "resets", "says too much", "says too little",
    "takes a part", "says a text", "says a fraction", "says nothing known", "says a number without end",
    "nests without end", "sends a flood", "speaks no http", "answers twice", "refuses everything", "is busy for ever",
    "says again first", "orders nonsense",
]  # fmt: skip


class Town(Rig):
    """The uplink with the connection that the daemon has."""

    def __init__(self, tmp_path: Path, head: HostileHeadEnd) -> None:
        self.head = head
        self.connection: KeptConnection | None = None
        super().__init__(tmp_path, BATCH, url=head.url, keep=1000)

    def start(self) -> None:
        if self.connection is not None:
            self.connection.close()
        self.connection = KeptConnection(HttpsClient(self.head.ca))
        self.uplink = Uplink(
            self.store, self.connection, self.clock, device_id="urn:dcu:1", backoff=Backoff(2.0, 60.0), rng=self.rng,
            replay=AT_ONCE, publish=self.published.append,
        )  # fmt: skip
        self.uplink.configure(UplinkSettings(self.head.url, "secret-token", BATCH))

    def undelivered(self) -> set[int]:
        """What the store has let go, and the head-end has not committed."""
        refused = {refusal.id for refusal in self.store.refused(1000)}
        gone = set(range(1, self.store.next_id())) - {number for _, number in self.head.kept} - refused
        waiting: set[int] = set()
        first = 1
        while (batch := self.store.batch(10_000, first=first)) is not None:
            waiting |= {int(str(record["id"])) for record in batch.records}
            first = batch.last + 1
        return gone - waiting


@pytest.fixture
def head(tmp_path: Path) -> Iterator[HostileHeadEnd]:
    made = HostileHeadEnd(tmp_path / "head")
    yield made
    made.close()


@pytest.fixture
def town(tmp_path: Path, head: HostileHeadEnd) -> Iterator[Town]:
    made = Town(tmp_path, head)
    yield made
    assert made.connection is not None
    made.connection.close()


@pytest.mark.parametrize("mood", MOODS)
def test_whatever_it_does_nothing_is_let_go_that_it_does_not_have_and_all_arrives_in_the_end(
    town: Town, head: HostileHeadEnd, mood: str
) -> None:
    town.store.append(visit(0, 50), urgent=[event("a")])
    town.uplink.step()
    head.moods = [mood] * 3
    for _ in range(4):
        town.uplink.step()
        assert town.undelivered() == set()
        town.clock.advance(3601)
    town.run(4000)
    assert town.undelivered() == set()
    assert (town.store.stats().pending, town.store.stats().refused) == (0, 0)
    assert len(head.kept) == 51
    assert set(head.paths) == {"/metering"}, "the token goes nowhere else"


@pytest.mark.parametrize("seed", range(6))
def test_moods_in_any_order_and_restarts_in_between_lose_nothing(town: Town, head: HostileHeadEnd, seed: int) -> None:
    rng = random.Random(seed)
    made = 0
    for number in range(25):
        count = rng.randint(0, 30)
        if count:
            town.store.append(visit(made, count), urgent=[event(f"{number}")] if rng.random() < 0.3 else [])
            made += count
        head.moods = [rng.choice(MOODS) for _ in range(rng.randint(0, 4))]
        head.orders = [
            {"request": number + 1, "store": town.store.file.uuid, "first": 1, "last": rng.randint(1, made + 9)}
        ]
        for _ in range(4):
            town.uplink.step()
            town.clock.advance(rng.choice([0.5, 70, 4000]))
        if rng.random() < 0.2:
            town.start()
        assert town.undelivered() == set()
    head.moods, head.orders = [], []
    for _ in range(40):
        town.store.append(visit(made, 1))  # something fresh, which is taken: then a verdict is believed
        made += 1
        town.run(120)
        if not town.store.stats().pending:
            break
    assert town.undelivered() == set()
    assert town.store.stats().pending == 0
    assert town.store.stats().lost == 0
    delivered = {int(str(raw)) for raw in head.kept.values() if str(raw).isdigit() and not isinstance(raw, str)}
    refused = {refusal.record.get("raw") for refusal in town.store.refused(1000)}
    assert delivered | refused >= set(range(made))
