"""No decoder of a package is without a fuzz target."""

from __future__ import annotations

from tests.fuzz.reach import decoders, reached
from tests.fuzz.targets import dlms_app, dlms_meter, serial_links

OTHER_DECODERS = {
    "objects_of",
    "names_of",
    "columns_of",
    "rows_from_csv",
    "refs_from_csv",
    "key_of",
    "public_key",
}
# What has such a name and takes nothing that a peer or a disk made up, or is a line around a decoder of this list.
NO_DECODERS = {
    "client.meter.Meter.read": "arguments of the caller",
    "client.meter.Meter.read_many": "arguments of the caller",
    "client.meter.Meter.open": "arguments of the caller",
    "client.services.MeterServices.read": "the protocol of Meter.read",
    "client.services.MeterServices.read_many": "the protocol of Meter.read_many",
    "client.session.MeterSession.open": "arguments of the caller",
    "client.session.MeterSession.read": "arguments of the caller",
    "client.profile.read_profile": "arguments of the caller; the rows are decoded by RowDecoder",
    "link.registry.open_link": "options of the caller",
    "link.port.open_port": "a URL of the caller",
    "link.mode_e.port.open_mode_e": "a driver around ModeEOpening",
    "security.settings.open_auth": "options of the caller",
    "cli.listeners.open_listener": "options of the caller",
    "cli.connect.open_meter": "options of the caller",
    "cli.query.read": "a command",
    "cli.decode.decode": "a command around explain_bytes and parse_trace",
    "cli.keys.read_secret": "a secret is any octets",
    "cli.keys.read_hex": "one call of bytes.fromhex",
    "cli.connect.open_connection": "options of the caller",
    "cli.listeners.Server.receive": "a driver around a link and a meter, each with a target",
    "link.port.Port.read": "a protocol",
    "link.port.SerialPort.read": "octets as they come",
    "link.port.SocketPort.read": "octets as they come",
    "link.port.open_serial": "options of the caller",
    "link.trace.ReplayPort.read": "plays back what parse_trace gave",
    "link.datalink.DataLink.receive": "a protocol",
}


def test_every_decoder_is_reached_by_a_fuzz_target() -> None:
    targets = [*serial_links.TARGETS.values(), *dlms_app.TARGETS.values(), *dlms_meter.TARGETS.values()]
    found = decoders("dlms", OTHER_DECODERS)
    assert not found - reached("dlms", targets) - set(NO_DECODERS)
    assert set(NO_DECODERS) <= found
