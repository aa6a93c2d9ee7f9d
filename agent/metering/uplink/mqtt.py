"""MQTT 5 as a sink, so that systems in the same place can listen: over TLS, QoS 1, with a retained status.

Needs the extra `dcu-agent[mqtt]` (paho-mqtt). Topics and payloads: docs/mqtt.md. The client is driven on the worker's
own thread; after any trouble it is thrown away and made anew, and what was not acknowledged is published again.
"""

from __future__ import annotations

import json
import logging
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from agent.metering.uplink.sink import SinkError
from agent.metering.uplink.worker import ENCODER_ERRORS
from agent.settings.mqtt import MqttConfig
from agent.tls import TlsError

if TYPE_CHECKING:
    from paho.mqtt.client import Client

LOG = logging.getLogger("agent.metering.uplink.mqtt")

CONNECT_S = 20.0
ACKNOWLEDGED_S = 60.0  # for all messages of a batch
LOOP_S = 0.2
UNKNOWN = "unknown"  # in place of a meter: an event whose sender nobody knows
RECORDS_PER_MESSAGE_MAX = 100  # some 25 kB; brokers and listeners have bounds
PACKET_OCTETS = 64  # of a packet beside topic and payload: header, message id, properties
PACKET_OCTETS_MAX = 0xFFF_FFFF  # MQTT 5, 2.1.4
REFUSED_FROM = 0x80  # reason codes of MQTT 5 (2.4) from here on are errors
NEVER_TAKEN = {0x90, 0x95, 0x99}  # topic name invalid, packet too large, payload format invalid


class MqttSink:
    """Publishes batches to an MQTT 5 broker; a batch is delivered once the broker has acknowledged it (QoS 1)."""

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
        self._results: dict[int, int] = {}  # reason codes by message
        self._packet_max = PACKET_OCTETS_MAX  # as the broker says when it lets us in

    # --- the sink ---

    def deliver(self, store: str, records: Sequence[Mapping[str, object]]) -> int:
        """One message per meter and `RECORDS_PER_MESSAGE_MAX`; returns when the broker has acknowledged all. Returns
        how many records it will never take. Raises `SinkError`."""
        client = self._open()
        waiting: dict[int, int] = {}  # number of records by message
        untaken = 0
        self._results.clear()
        messages = self._messages(records)
        while messages:
            topic, some = messages.pop(0)
            try:
                payload = _payload(store, some)
                if len(payload) + len(topic.encode()) + PACKET_OCTETS > self._packet_max:
                    raise ValueError(f"the broker takes packets of at most {self._packet_max} octets")
                message = client.publish(topic, payload, qos=1, properties=_json_properties())
            except ENCODER_ERRORS as error:  # no JSON, or more than MQTT or the broker carries: that costs one record
                if len(some) > 1:
                    middle = len(some) // 2
                    messages[:0] = [(topic, some[:middle]), (topic, some[middle:])]
                    continue
                untaken += 1
                LOG.debug("record %s: %s", some[0].get("id"), error)
                continue
            waiting[message.mid] = len(some)
        self._until(lambda: waiting.keys() <= self._results.keys(), ACKNOWLEDGED_S, "the broker acknowledged nothing")
        refused = {mid: code for mid in waiting if (code := self._results[mid]) >= REFUSED_FROM}
        if temporary := sorted(set(refused.values()) - NEVER_TAKEN):
            raise self._broken(f"the broker refuses a message (reason code {temporary[0]:#04x})")
        return untaken + sum(waiting[mid] for mid in refused)

    def tend(self) -> None:
        client = self._open()
        self._check(int(client.loop(0)))  # pings, and whatever the broker says

    def close(self) -> None:
        """Say that the device is offline, and leave."""
        if self._client is not None and self._connected:
            self._publish_status(self._client, online=False)
            self._client.loop(LOOP_S)
            self._client.disconnect()  # an orderly one: the broker forgets the will
        self._drop()

    # --- inside ---

    def _messages(self, records: Sequence[Mapping[str, object]]) -> list[tuple[str, Sequence[Mapping[str, object]]]]:
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
            self._check(int(self._client.loop(LOOP_S)))
            if self._monotonic() > end:
                raise self._broken(why)

    def _check(self, result: int) -> None:
        from paho.mqtt.client import error_string

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
        self._connected, self._ended = False, self._ended or f"the connection ended: {code}"

    def _on_publish(self, _client: Any, _data: object, mid: int, code: Any, _properties: object) -> None:
        self._results[mid] = int(code.value)


def topic_level(text: str) -> str:
    """Return text as one level of a topic: what a level cannot hold (/ + # and others) as %XX."""
    return quote(text, safe=":._-~ ", errors="replace")


def _payload(store: str, records: Sequence[Mapping[str, object]]) -> bytes:
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
