"""The MQTT sink against Debian's mosquitto: over TLS, acknowledged, with a retained status that tells the truth."""

from __future__ import annotations

import json
import random
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from agent.clock import SystemClock
from agent.metering.scheduling.schedule import Backoff
from agent.metering.store.reading_store import Store
from agent.metering.uplink.mqtt import MqttSink, topic_level
from agent.metering.uplink.sink import SinkError, SinkWorker
from agent.settings.mqtt import MqttConfig
from headend import pki
from tests.agent.metering.readings import event, visit

MOSQUITTO = shutil.which("mosquitto") or ("/usr/sbin/mosquitto" if Path("/usr/sbin/mosquitto").exists() else "")
DEVICE = "urn:dcu:KR-000042"
WAIT_S = 20.0

pytestmark = [pytest.mark.process, pytest.mark.skipif(not MOSQUITTO, reason="mosquitto is not installed")]


class Broker:
    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        made = pki.make(folder, ["127.0.0.1"])
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.ca = folder / made["ca"]
        self.file = folder / "mosquitto.conf"
        users = folder / "users"
        users.touch(0o600)
        subprocess.run(["mosquitto_passwd", "-b", str(users), "dcu", "secret"], check=True, capture_output=True)
        self.allow("#")
        self.file.write_text(
            f"listener {self.port} 127.0.0.1\n"
            f"certfile {folder / made['certificate']}\nkeyfile {folder / made['key']}\n"
            f"allow_anonymous false\npassword_file {users}\n"
            f"persistence false\nuser root\nacl_file {folder / 'acl'}\n"
        )
        self.start()

    def allow(self, *topics: str) -> None:
        """Let the device write these below its name; what it listens to is free. Counts from the next `start` on."""
        writes = "".join(f"topic write dcu/{DEVICE}/{topic}\n" for topic in topics)
        self.file.with_name("acl").write_text(f"user dcu\ntopic read #\n{writes}")
        self.file.with_name("acl").chmod(0o600)

    def start(self) -> None:
        self.process = subprocess.Popen(
            [MOSQUITTO, "-c", str(self.file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for(self._listens)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def config(self, **changes: Any) -> MqttConfig:
        values: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": self.port,
            "ca_file": self.ca,
            "certificate_file": None,
            "certificate_key_file": None,
            "user": "dcu",
            "password_file": None,
            "topic": "dcu",
            "keepalive_s": 60,
        }
        return MqttConfig(**{**values, **changes})

    def sink(self, password: str = "secret", **changes: Any) -> MqttSink:
        config = self.config(**changes)
        return MqttSink(config, DEVICE, password, config.context())


class Listener:
    """A system of the place: subscribes to everything and keeps it."""

    def __init__(self, broker: Broker) -> None:
        self.messages: list[tuple[str, dict[str, Any], bool]] = []
        ready: list[bool] = []
        self.client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
        self.client.tls_set_context(ssl.create_default_context(cafile=str(broker.ca)))
        self.client.username_pw_set("dcu", "secret")
        self.client.on_message = self._message
        self.client.on_subscribe = lambda *_: ready.append(True)
        self.client.connect("127.0.0.1", broker.port)
        self.client.subscribe("dcu/#", qos=1)
        self.client.loop_start()
        wait_for(lambda: bool(ready))

    def _message(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        self.messages.append((message.topic, json.loads(message.payload), message.retain))

    def raws(self) -> list[object]:
        return [
            record["raw"] for topic, body, _ in self.messages if "/readings/" in topic for record in body["records"]
        ]

    def statuses(self) -> list[bool]:
        return [body["online"] for topic, body, _ in self.messages if topic == f"dcu/{DEVICE}/status"]

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def wait_for(reached: Callable[[], bool]) -> None:
    """Real processes: there is no virtual time here."""
    end = time.monotonic() + WAIT_S
    while not reached():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    made = Broker(tmp_path / "broker")
    yield made
    made.stop()


@pytest.fixture
def listener(broker: Broker) -> Iterator[Listener]:
    made = Listener(broker)
    yield made
    made.close()


def test_readings_arrive_by_meter_and_the_status_is_retained(
    broker: Broker, listener: Listener, tmp_path: Path
) -> None:
    store = Store(tmp_path / "readings.db", SystemClock(), records_max=10_000, keep_forwarded_max=0)
    sink = broker.sink()
    worker = SinkWorker(store, sink, SystemClock(), backoff=Backoff(1, 2), rng=random.Random(1))
    worker.step()
    store.append(visit(0, 250, "KEP/1+#"))
    store.append(visit(250, 10, "KEP2"))
    while worker.step() == 0.0:
        pass
    wait_for(lambda: len(listener.raws()) == 260)
    assert listener.raws() == list(range(260))
    topics = {topic for topic, _, _ in listener.messages}
    root = f"dcu/{DEVICE}"
    assert topics == {f"{root}/status", f"{root}/readings/KEP%2F1%2B%23", f"{root}/readings/KEP2"}
    body = next(body for topic, body, _ in listener.messages if topic.endswith("KEP2"))
    assert body["store"] == store.stats().uuid
    assert body["records"][0]["id"] == 251
    assert store.stats().pending == 260, "the head-end has none of it"
    late = Listener(broker)
    wait_for(lambda: bool(late.statuses()))
    assert (late.statuses(), late.raws()) == ([True], [])
    late.close()
    sink.close()
    wait_for(lambda: listener.statuses() == [True, False])


def test_a_broker_that_dies_gets_everything_when_it_is_back(broker: Broker, tmp_path: Path) -> None:
    store = Store(tmp_path / "readings.db", SystemClock(), records_max=10_000, keep_forwarded_max=0)
    sink = broker.sink()
    worker = SinkWorker(store, sink, SystemClock(), backoff=Backoff(0.01, 0.02), rng=random.Random(1))
    worker.step()
    broker.stop()
    store.append(visit(0, 30))
    assert worker.step() > 0
    assert store.sink_batch("mqtt", 100) is not None, "its place has not moved"
    broker.start()
    listener = Listener(broker)
    wait_for(lambda: worker.step() == 0.0)
    wait_for(lambda: len(listener.raws()) >= 30)
    assert set(listener.raws()) == set(range(30))
    assert store.sink_states()["mqtt"].missed == 0
    sink.close()
    listener.close()


def test_a_device_that_vanishes_is_offline(broker: Broker, listener: Listener) -> None:
    sink = broker.sink()
    sink.tend()
    wait_for(lambda: listener.statuses() == [True])
    client = sink._client
    assert client is not None
    line = client.socket()
    assert isinstance(line, socket.socket)
    line.shutdown(socket.SHUT_RDWR)
    wait_for(lambda: listener.statuses() == [True, False])
    with pytest.raises(SinkError):
        for _ in range(3):
            sink.tend()
    sink.close()


# paho leaves the socket of a handshake that failed to the collector.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_broker_of_another_authority_is_refused(broker: Broker, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(SinkError, match="TLS: the server's certificate is not from an authority"):
        broker.sink(ca_file=other / pki.make(other, ["127.0.0.1"])["ca"]).tend()


def test_a_wrong_password_is_said(broker: Broker) -> None:
    with pytest.raises(SinkError, match="refuses the connection: Not authorized"):
        broker.sink("wrong").tend()


def test_events_have_topics_of_their_own_and_those_of_strangers_one(
    broker: Broker, listener: Listener, tmp_path: Path
) -> None:
    store = Store(tmp_path / "readings.db", SystemClock(), records_max=10_000, keep_forwarded_max=0)
    sink = broker.sink()
    worker = SinkWorker(store, sink, SystemClock(), backoff=Backoff(1, 2), rng=random.Random(1))
    worker.step()
    store.append(visit(0, 1), urgent=[event("a"), event("b", meter="")])
    while worker.step() == 0.0:
        pass
    wait_for(lambda: len(listener.messages) >= 4)
    root = f"dcu/{DEVICE}"
    assert {topic for topic, _, _ in listener.messages} >= {
        f"{root}/events/m1",
        f"{root}/events/unknown",
        f"{root}/readings/m1",
    }
    sink.close()


def test_a_topic_that_the_broker_does_not_let_us_write_costs_its_own_readings_only(
    broker: Broker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Reason code 0x87, not authorized. The readings of other meters come once, those of this one are set aside."""
    broker.stop()
    broker.allow("status", "readings/m1")
    broker.start()
    listener = Listener(broker)
    store = Store(tmp_path / "readings.db", SystemClock(), records_max=10_000, keep_forwarded_max=0)
    sink = broker.sink()
    worker = SinkWorker(store, sink, SystemClock(), backoff=Backoff(0.01, 0.02), rng=random.Random(1))
    worker.step()
    store.append(visit(0, 120))
    store.append(visit(120, 130, "m2"))
    assert worker.step() == 0.0
    topic = f"dcu/{DEVICE}/readings/m2"
    why = f"the broker refuses {topic}: Not authorized (0x87)"
    assert worker.sink_status().last_error == why
    store.append(visit(250, 3))
    wait_for(lambda: worker.step() >= 0 and store.sink_states()["mqtt"].waiting == 0)
    wait_for(lambda: len(listener.raws()) >= 123)
    assert listener.raws() == [*range(120), *range(250, 253)]
    state = store.sink_states()["mqtt"]
    assert (state.missed, state.refused, state.refused_why) == (
        130,
        130,
        f"the broker refuses {topic}: Not authorized (0x87)",
    )
    assert [entry.getMessage() for entry in caplog.records if entry.levelname == "ERROR"] == [
        f"sink-mqtt: 130 readings are set aside (the first one is 121): {why}"
    ]
    sink.close()
    listener.close()


def test_a_topic_that_is_allowed_in_time_loses_nothing(broker: Broker, tmp_path: Path) -> None:
    """A mistake in the access list refuses all readings; nothing is set aside, and all come once it is repaired."""
    broker.stop()
    broker.allow("status")
    broker.start()
    store = Store(tmp_path / "readings.db", SystemClock(), records_max=10_000, keep_forwarded_max=0)
    sink = broker.sink()
    worker = SinkWorker(store, sink, SystemClock(), backoff=Backoff(0.01, 0.02), rng=random.Random(1))
    worker.step()
    store.append(visit(0, 120))
    store.append(visit(120, 130, "m2"))
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        worker.step()
    assert worker.sink_status().held == 250
    broker.stop()
    broker.allow("#")
    broker.start()
    listener = Listener(broker)
    wait_for(lambda: worker.step() >= 0 and store.sink_states()["mqtt"].waiting == 0)
    wait_for(lambda: len(listener.raws()) >= 250)
    assert sorted(map(str, listener.raws())) == sorted(map(str, range(250)))
    assert store.sink_states()["mqtt"].missed == 0
    sink.close()
    listener.close()


@pytest.mark.parametrize("bad", [float("nan"), "\ud800"], ids=["no number of JSON", "no text"])
def test_a_record_that_is_no_json_costs_itself_alone(broker: Broker, listener: Listener, bad: object) -> None:
    sink = broker.sink()
    records: list[dict[str, object]] = [{"id": number, "meter": "m1", "raw": number} for number in range(1, 6)]
    records[2]["raw"] = bad
    text = isinstance(bad, str)  # which JSON escapes: any text can be sent
    delivery = sink.deliver("s", [*records, {"id": 9, "meter": "\ud800", "raw": 9}])
    assert delivery.never.keys() == (set() if text else {3})
    assert set(delivery.taken) == {1, 2, 4, 5, 9} | ({3} if text else set())
    wait_for(lambda: len(listener.raws()) >= (6 if text else 5))
    assert sorted(raw for raw in listener.raws() if raw != bad) == [1, 2, 4, 5, 9]  # type: ignore[type-var]
    sink.close()


def test_a_broker_that_takes_small_packets_only_gets_small_ones(broker: Broker, tmp_path: Path) -> None:
    """It says so when it lets the device in. What it would not take even alone is missed, and holds up nothing."""
    broker.stop()
    broker.file.write_text(broker.file.read_text() + "max_packet_size 2000\n")
    broker.start()
    listener = Listener(broker)
    sink = broker.sink()
    records: list[dict[str, object]] = [{"id": number, "meter": "m1", "raw": number} for number in range(1, 301)]
    records[100]["raw"] = "x" * 3000
    assert sink.deliver("s", records).never.keys() == {101}
    wait_for(lambda: len(listener.raws()) >= 299)
    assert sorted(listener.raws()) == [number for number in range(1, 301) if number != 101]  # type: ignore[type-var]
    sink.close()
    listener.close()


@pytest.mark.parametrize(
    ("text", "level"), [("KR1", "KR1"), ("a/b", "a%2Fb"), ("+#%\0", "%2B%23%25%00"), ("\u00e9", "%C3%A9")]
)
def test_a_name_is_one_level_of_a_topic(text: str, level: str) -> None:
    assert topic_level(text) == level
