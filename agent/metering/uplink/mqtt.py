"""MQTT 5 as a sink, so that systems in the same place can listen: over TLS, QoS 1, with a retained status.

Needs the extra `dcu-agent[mqtt]` (paho-mqtt). Topics and payloads: docs/mqtt.md. The client is driven on the worker's
own thread; after any trouble of the connection it is thrown away and made anew. What the broker said of each message
until then counts: it is told by the ids of the records, with the topic of what was refused.
"""

from __future__ import annotations

import json
import logging
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from agent.metering.uplink.sink import SinkError
from agent.metering.uplink.sink_progress import Delivery
from agent.metering.uplink.worker import ENCODER_ERRORS
from agent.settings.mqtt import MqttConfig
from agent.tls import TlsError

if TYPE_CHECKING:
    from paho.mqtt.client import Client

LOG = logging.getLogger("agent.metering.uplink.mqtt")

CONNECT_S = 20.0
ACKNOWLEDGED_S = 60.0  # for all messages of a batch
LOOP_S = 0.2
SILENT = "the broker does not answer all messages"
UNKNOWN = "unknown"  # in place of a meter: an event whose sender nobody knows
RECORDS_PER_MESSAGE_MAX = 100  # some 25 kB; brokers and listeners have bounds
PACKET_OCTETS = 64  # of a packet beside topic and payload: header, message id, properties
PACKET_OCTETS_MAX = 0xFFF_FFFF  # MQTT 5, 2.1.4
REFUSED_FROM = 0x80  # reason codes of MQTT 5 (2.4) from here on are errors
NOT_THIS_CONTENT = {0x95, 0x99}  # packet too large, payload format invalid: what one record may do to a whole message
MALFORMED = 0x81
# Malformed packet, protocol error, not authorized, topic name invalid, packet too large, quota exceeded, payload format
# invalid: with these a broker may also end the connection, without a word on which message it means (4.13).
ENDS_FOR_A_MESSAGE = {MALFORMED, 0x82, 0x87, 0x90, 0x95, 0x97, 0x99}

Records = Sequence[Mapping[str, object]]


@dataclass(slots=True)
class _Round:
    """One call of `deliver`: messages that are still to go, those on their way by their number, and what is known."""

    messages: list[tuple[str, Records]]
    waiting: dict[int, tuple[str, Records]] = field(default_factory=dict)
    taken: set[int] = field(default_factory=set)
    refused: dict[int, str] = field(default_factory=dict)
    never: dict[int, str] = field(default_factory=dict)

    def halve(self, topic: str, some: Records) -> None:
        middle = len(some) // 2
        self.messages[:0] = [(topic, some[:middle]), (topic, some[middle:])]

    def delivery(self, failed: str = "") -> Delivery:
        return Delivery(frozenset(self.taken), self.refused, self.never, failed)


class MqttSink:
    """Publishes batches to an MQTT 5 broker; a record is delivered once the broker has acknowledged it (QoS 1)."""

    name = "mqtt"

    def __init__(
        self,
        config: MqttConfig,
        device_id: str,
        password: str,
        context: ssl.SSLContext,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._device_id = device_id
        self._password = password
        self._context = context
        self._monotonic = monotonic
        self._root = f"{config.topic}/{topic_level(device_id)}"
        self._client: Client | None = None
        self._connected = False
        self._ended = ""
        self._ended_by = 0  # the reason code with which the broker ended the connection
        self._singly = False  # one message after the other: the broker has ended a connection for one of them
        self._results: dict[int, Any] = {}  # reason codes by message
        self._packet_max = PACKET_OCTETS_MAX  # as the broker says when it lets us in

    # --- the sink ---

    def deliver(self, store: str, records: Records) -> Delivery:
        """One message per meter and `RECORDS_PER_MESSAGE_MAX`; returns when the broker has answered all, or the
        connection is gone. Raises `SinkError` where there was none."""
        self._open()
        self._results.clear()
        done, end = _Round(self._messages(records)), self._monotonic() + ACKNOWLEDGED_S
        try:
            while done.messages or done.waiting:
                self._publish(store, done)
                self._until(lambda: done.waiting.keys() <= self._results.keys(), end - self._monotonic(), SILENT)
                self._judge(done)
        except SinkError as error:
            self._judge(done)
            failed = self._blame(done) or str(error)
            return done.delivery(failed)
        self._singly = False
        return done.delivery()

    def _publish(self, store: str, done: _Round) -> None:
        """Send what is to go; singly, the next message alone. Raises `SinkError`."""
        client = self._client
        while done.messages and client is not None and not (self._singly and done.waiting):
            topic, some = done.messages.pop(0)
            try:
                payload = _payload(store, some)
                if len(payload) + len(topic.encode()) + PACKET_OCTETS > self._packet_max:
                    raise ValueError(f"the broker takes packets of at most {self._packet_max} octets")
                message = client.publish(topic, payload, qos=1, properties=_json_properties())
            except ENCODER_ERRORS as error:  # no JSON, or more than MQTT or the broker carries: that costs one record
                if len(some) > 1:
                    done.halve(topic, some)
                else:
                    done.never[_id(some[0])] = f"{topic}: {error}"
                continue
            done.waiting[message.mid] = (topic, some)

    def _judge(self, done: _Round) -> None:
        """Note what the broker said of messages. Where one record may be at fault for others, these are asked for
        alone."""
        for mid in [mid for mid in done.waiting if mid in self._results]:
            (topic, some), code = done.waiting.pop(mid), self._results[mid]
            if code.value < REFUSED_FROM:
                done.taken.update(map(_id, some))
            elif code.value in NOT_THIS_CONTENT and len(some) > 1:
                done.halve(topic, some)
            else:
                done.refused.update(dict.fromkeys(map(_id, some), _refusal(topic, str(code), code.value)))

    def _blame(self, done: _Round) -> str:
        """The connection is gone. A broker that ends it for a message is asked singly from then on; then it is clear
        which one it means. Returns why the connection ended, where that is known better."""
        if self._ended_by not in ENDS_FOR_A_MESSAGE:
            return ""
        if not self._singly or len(done.waiting) != 1:
            self._singly = True
            return ""
        (topic, some) = next(iter(done.waiting.values()))
        why = _refusal(topic, "it ends the connection", self._ended_by)
        done.refused.update(dict.fromkeys(map(_id, some), why))
        return why

    def tend(self) -> None:
        client = self._open()
        self._loop(client, 0)  # pings, and whatever the broker says

    def close(self) -> None:
        """Say that the device is offline, and leave."""
        if self._client is not None and self._connected:
            self._publish_status(self._client, online=False)
            self._client.loop(LOOP_S)
            self._client.disconnect()  # an orderly one: the broker forgets the will
        self._drop()

    # --- inside ---

    def _messages(self, records: Records) -> list[tuple[str, Records]]:
        by_meter: dict[tuple[str, str], list[Mapping[str, object]]] = {}
        for record in records:
            kind = "events" if "event" in record else "readings"
            by_meter.setdefault((kind, str(record["meter"]) or UNKNOWN), []).append(record)
        return [
            (f"{self._root}/{kind}/{topic_level(meter)}", some[start : start + RECORDS_PER_MESSAGE_MAX])
            for (kind, meter), some in by_meter.items()
            for start in range(0, len(some), RECORDS_PER_MESSAGE_MAX)
        ]

    def _open(self) -> Client:
        """Return a connected client. Raises `SinkError`."""
        if self._client is not None and self._connected:
            return self._client
        self._drop()
        self._ended_by = 0
        client = self._client = self._make()
        try:
            client.connect(self._config.host, self._config.port, self._config.keepalive_s, clean_start=True)
        except TlsError as error:
            raise self._broken(f"{self._config.host}:{self._config.port}: TLS: {error}") from error
        except (OSError, ValueError) as error:
            raise self._broken(f"{self._config.host}:{self._config.port}: {error}") from error
        self._until(lambda: self._connected, CONNECT_S, "the broker does not answer")
        self._publish_status(client, online=True)
        LOG.info("connected to %s:%d", self._config.host, self._config.port, extra={"event": "mqtt.connected"})
        return client

    def _make(self) -> Client:
        from paho.mqtt.client import Client, MQTTv5
        from paho.mqtt.enums import CallbackAPIVersion

        client = Client(CallbackAPIVersion.VERSION2, client_id=self._device_id, protocol=MQTTv5)
        client.connect_timeout = CONNECT_S
        client.tls_set_context(self._context)
        if self._config.user:
            client.username_pw_set(self._config.user, self._password or None)
        client.will_set(f"{self._root}/status", _status(online=False), qos=1, retain=True)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        return client

    def _publish_status(self, client: Client, *, online: bool) -> None:
        client.publish(
            f"{self._root}/status", _status(online=online), qos=1, retain=True, properties=_json_properties()
        )

    def _until(self, reached: Callable[[], bool], seconds: float, why: str) -> None:
        """Let the client work until that is so. Raises `SinkError`."""
        assert self._client is not None  # noqa: S101 - made by the caller
        end = self._monotonic() + seconds
        while not reached():
            self._loop(self._client, LOOP_S)
            if self._monotonic() > end:
                raise self._broken(why)

    def _loop(self, client: Client, seconds: float) -> None:
        """Let the client work once. Raises `SinkError` when the connection is gone."""
        from paho.mqtt.client import error_string

        try:
            result = int(client.loop(seconds))
        except Exception as error:  # which ones paho raises for what is no packet of MQTT is not written down
            self._ended_by = MALFORMED
            raise self._broken(f"the broker says what cannot be read: {type(error).__name__}: {error}") from error
        if self._ended or result:
            raise self._broken(self._ended or error_string(result))

    def _broken(self, why: str) -> SinkError:
        self._drop()
        return SinkError(why)

    def _drop(self) -> None:
        client, self._client = self._client, None
        if client is not None and client.is_connected():
            client.disconnect(_with_will())
        self._connected, self._ended = False, ""

    def _on_connect(self, _client: Any, _data: object, _flags: object, code: Any, properties: Any) -> None:
        self._connected = not code.is_failure
        self._packet_max = getattr(properties, "MaximumPacketSize", PACKET_OCTETS_MAX)
        self._ended = f"the broker refuses the connection: {code}" if code.is_failure else ""

    def _on_disconnect(self, _client: Any, _data: object, _flags: object, code: Any, _properties: object) -> None:
        self._ended_by = int(code.value)
        self._connected, self._ended = False, self._ended or f"the connection ended: {code}"

    def _on_publish(self, _client: Any, _data: object, mid: int, code: Any, _properties: object) -> None:
        self._results[mid] = code


def topic_level(text: str) -> str:
    """Return text as one level of a topic: what a level cannot hold (/ + # and others) as %XX."""
    return quote(text, safe=":._-~ ", errors="replace")


def _id(record: Mapping[str, object]) -> int:
    return int(str(record["id"]))


def _refusal(topic: str, how: str, code: int) -> str:
    return f"the broker refuses {topic}: {how} ({code:#04x})"


def _payload(store: str, records: Records) -> bytes:
    """Return a message of records of one store. Raises one of `ENCODER_ERRORS` for what is no JSON."""
    return json.dumps({"store": store, "records": records}, separators=(",", ":"), allow_nan=False).encode()


def _status(*, online: bool) -> bytes:
    return json.dumps({"online": online}).encode()


def _with_will() -> Any:
    from paho.mqtt.packettypes import PacketTypes

    make = import_module("paho.mqtt.reasoncodes").ReasonCode
    return make(PacketTypes.DISCONNECT, "Disconnect with will message")


def _json_properties() -> Any:
    from paho.mqtt.packettypes import PacketTypes

    properties = import_module("paho.mqtt.properties").Properties(PacketTypes.PUBLISH)  # which has no types
    properties.ContentType = "application/json"
    properties.PayloadFormatIndicator = 1
    return properties
