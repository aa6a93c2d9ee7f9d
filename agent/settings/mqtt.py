"""The section `mqtt` of dcu.yaml: a broker of the place that gets the readings as well (docs/mqtt.md)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent.clock_floor import CertificateTime
from agent.settings.reader import Section
from agent.tls import TlsContext, by_system_clock, client_context


@dataclass(frozen=True, slots=True)
class MqttConfig:
    """`certificate_file` and `certificate_key_file` are both given or neither; so are `user` and `password_file`, but
    a user may have no password. `topic` is what all topics begin with."""

    host: str
    port: int
    ca_file: Path
    certificate_file: Path | None
    certificate_key_file: Path | None
    user: str
    password_file: Path | None
    topic: str
    keepalive_s: int

    def context(self, certificate_time: Callable[[], CertificateTime] = by_system_clock) -> TlsContext:
        """Return the TLS context; `certificate_time`: see `agent.tls.client_context`. Raises `OSError`; `ssl.SSLError`
        among them."""
        context = client_context(self.ca_file, certificate_time)
        if self.certificate_file is not None:
            context.load_cert_chain(self.certificate_file, self.certificate_key_file)
        return context


def _is_ipv6(host: str) -> bool:
    from ipaddress import IPv6Address  # not at the top: a device without a broker has no use for it

    try:
        IPv6Address(host)
    except ValueError:
        return False
    return True


def mqtt_config(section: Section) -> MqttConfig | None:
    """Read the section; `None` without one: no broker is used."""
    if section.absent:
        return None
    config = MqttConfig(
        host=section.text("host", pattern=r"[A-Za-z0-9.:_-]{1,253}", wanted="a host name or address"),
        port=section.integer("port", 8883, 1, 65_535),
        ca_file=section.path("ca_file"),
        certificate_file=section.path("certificate_file") if section.has("certificate_file") else None,
        certificate_key_file=section.path("certificate_key_file") if section.has("certificate_key_file") else None,
        user=section.text("user", "", filled=False),
        password_file=section.path("password_file") if section.has("password_file") else None,
        topic=section.text("topic", "dcu", pattern=r"[^/+#$\x00][^+#\x00]{0,99}", wanted="a topic without + and #"),
        keepalive_s=section.integer("keepalive_s", 60, 15, 120),
    )
    if ":" in config.host and not _is_ipv6(config.host):
        section.note("host", f"wanted a host name or address, got {config.host!r}; the port is a key of its own")
    if (config.certificate_file is None) != (config.certificate_key_file is None):
        section.note("certificate_file", "goes together with certificate_key_file")
    if config.password_file is not None and not config.user:
        section.note("password_file", "is of no use without user")
    section.end()
    return config
