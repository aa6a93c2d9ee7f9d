"""What the MQTT sink makes of a broker's reason codes, with a client that answers what the test says: brokers differ in
which code they give, and in whether they end the connection for it."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from agent.metering.uplink.mqtt import MqttSink
from agent.settings.mqtt import MqttConfig

DEVICE = "urn:dcu:1"
ROOT = f"dcu/{DEVICE}/readings"
SUCCESS = "Success"
Verdict = Callable[[str, bytes], str]


@dataclass
class Message:
    mid: int


class Broker:
    """In the place of paho's client. `verdict` says for a topic and a payload which reason the broker gives;
    `disconnects`: with these it ends the connection instead."""

    def __init__(self, sink: MqttSink, verdict: Verdict, disconnects: tuple[str, ...] = ()) -> None:
        self._sink = sink
        self._verdict = verdict
        self._disconnects = disconnects
        self._queue: list[tuple[int, str]] = []
        self.published: list[str] = []
        self.connected = 0
        sink._make = lambda: self  # type: ignore[method-assign, assignment, return-value]

    def connect(self, *_: object, **__: object) -> None:
        self._queue.clear()
        self.connected += 1
        self._sink._on_connect(self, None, None, ReasonCode(PacketTypes.CONNACK, SUCCESS), None)

    def publish(self, topic: str, payload: bytes, **_: object) -> Message:
        message = Message(len(self.published) + 1)
        self.published.append(topic)
        if not topic.endswith("/status"):
            self._queue.append((message.mid, self._verdict(topic, payload)))
        return message

    def loop(self, _: float) -> int:
        waiting, self._queue = self._queue, []
        for mid, reason in waiting:
            if reason in self._disconnects:
                self._sink._on_disconnect(self, None, None, ReasonCode(PacketTypes.DISCONNECT, reason), None)
                return 0
            self._sink._on_publish(self, None, mid, ReasonCode(PacketTypes.PUBACK, reason), None)
        return 0

    def is_connected(self) -> bool:
        return False


def sink_of(verdict: Verdict, disconnects: tuple[str, ...] = ()) -> tuple[MqttSink, Broker]:
    config = MqttConfig(
        host="broker",
        port=8883,
        ca_file=Path("ca"),
        certificate_file=None,
        certificate_key_file=None,
        user="",
        password_file=None,
        topic="dcu",
        keepalive_s=60,
    )
    sink = MqttSink(config, DEVICE, "", ssl.create_default_context())
    return sink, Broker(sink, verdict, disconnects)


def records(**meters: int) -> list[Mapping[str, object]]:
    """So many records of each meter, with ids that go on."""
    names = [meter for meter, count in meters.items() for _ in range(count)]
    return [{"id": number, "meter": meter, "raw": f"<{number}>"} for number, meter in enumerate(names, 1)]


@pytest.mark.parametrize(
    ("reason", "code"),
    [("Not authorized", 0x87), ("Topic name invalid", 0x90), ("Quota exceeded", 0x97), ("Unspecified error", 0x80)],
)
def test_a_refused_topic_is_named_and_costs_itself_alone(reason: str, code: int) -> None:
    sink, broker = sink_of(lambda topic, _: reason if topic.endswith("m2") else SUCCESS)
    delivery = sink.deliver("s", records(m1=2, m2=3, m3=1))
    assert delivery.taken == {1, 2, 6}
    assert delivery.refused == dict.fromkeys([3, 4, 5], f"the broker refuses {ROOT}/m2: {reason} ({code:#04x})")
    assert (delivery.never, delivery.failed, broker.connected) == ({}, "", 1)


def test_of_a_message_that_one_record_spoils_the_others_are_taken() -> None:
    sink, _ = sink_of(lambda _, payload: "Payload format invalid" if b"<37>" in payload else SUCCESS)
    delivery = sink.deliver("s", records(m1=90))
    assert delivery.refused.keys() == {37}
    assert delivery.taken == set(range(1, 91)) - {37}


@pytest.mark.parametrize(
    ("reason", "code"), [("Not authorized", 0x87), ("Packet too large", 0x95), ("Malformed packet", 0x81)]
)
def test_a_broker_that_ends_the_connection_for_a_message_is_asked_singly_until_it_is_clear_which_one(
    reason: str, code: int
) -> None:
    """Of those that are on their way together nobody knows which one it was; one that is alone it was."""
    sink, broker = sink_of(lambda topic, _: reason if topic.endswith("m2") else SUCCESS, (reason,))
    first = sink.deliver("s", records(m2=1, m1=1, m3=1))
    assert (first.taken, first.refused, first.failed) == (set(), {}, f"the connection ended: {reason}")
    second = sink.deliver("s", records(m2=1, m1=1, m3=1))
    why = f"the broker refuses {ROOT}/m2: it ends the connection ({code:#04x})"
    assert (second.taken, second.refused, second.failed) == (set(), {1: why}, why)
    third = sink.deliver("s", [each for each in records(m2=1, m1=1, m3=1) if each["meter"] != "m2"])
    assert (third.taken, third.refused, third.failed) == ({2, 3}, {}, "")
    assert broker.connected == 3


def test_a_code_that_paho_does_not_know_is_an_answer_to_one_message_as_well() -> None:
    sink, _ = sink_of(lambda topic, _: "no such reason" if topic.endswith("m2") else SUCCESS)
    first = sink.deliver("s", records(m2=1, m1=1))
    assert first.failed.startswith("the broker says what cannot be read: KeyError")
    second = sink.deliver("s", records(m2=1, m1=1))
    assert second.refused == {1: f"the broker refuses {ROOT}/m2: it ends the connection (0x81)"}


def test_what_was_acknowledged_before_the_connection_ended_is_taken() -> None:
    sink, _ = sink_of(lambda topic, _: "Server busy" if topic.endswith("m3") else SUCCESS, ("Server busy",))
    delivery = sink.deliver("s", records(m1=2, m2=2, m3=1, m4=1))
    assert (delivery.taken, delivery.refused) == ({1, 2, 3, 4}, {})
    assert delivery.failed == "the connection ended: Server busy"


def test_a_broker_that_answers_some_messages_only_is_told_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    sink, broker = sink_of(lambda _topic, _payload: SUCCESS)
    sink._monotonic = lambda: now[0]
    answer = broker.loop

    def slow(seconds: float) -> int:
        now[0] += 30.0
        broker._queue = broker._queue[:1]
        return answer(seconds)

    monkeypatch.setattr(broker, "loop", slow)
    delivery: Any = sink.deliver("s", records(m1=1, m2=1))
    assert (delivery.taken, delivery.failed) == ({1}, "the broker does not answer all messages")
