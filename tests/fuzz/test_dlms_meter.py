"""Every target of the meter, of files and of small decoders, over a fixed number of mutations; and that no decoder of
the package is without a target."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from types import FrameType

import pytest

from tests.fuzz import dlms_app, dlms_meter, serial_links
from tests.fuzz.dlms_meter import TARGETS
from tests.fuzz.guided import Target, exercise

DLMS = Path(__file__).parents[2] / "dlms"
MUTATIONS = {"living": 250, "counters": 300, "codes": 500, "key-file": 400}
MUTATIONS_ELSEWHERE = 1000

DECODER_NAMES = ("parse", "decode", "load", "read", "open", "unwrap", "unprotect", "explain", "receive")
OTHER_DECODERS = {
    "objects_of",
    "names_of",
    "columns_of",
    "rows_from_csv",
    "refs_from_csv",
    "objects_from_csv",
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
    "link.options.open_link": "options of the caller",
    "link.port.open_port": "a URL of the caller",
    "link.mode_e.port.open_with_greeting": "a driver around ModeEOpening",
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
    "simulator.meter.SimulatedMeter.receive_apdu": "one line around SimulatedConnection",
    "link.datalink.DataLink.receive": "a protocol",
}


def decoders() -> set[str]:
    """Public functions and methods of the package whose name says that they take something in."""
    found: set[str] = set()
    for path in sorted(DLMS.rglob("*.py")):
        module = ".".join(path.relative_to(DLMS).with_suffix("").parts)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            body = node.body if isinstance(node, ast.ClassDef) else [node]
            prefix = f"{module}.{node.name}." if isinstance(node, ast.ClassDef) else f"{module}."
            for each in body:
                if isinstance(each, ast.FunctionDef) and not prefix.split(".")[-2].startswith("_"):
                    name = each.name
                    word = name.split("_")[0]
                    if (word in DECODER_NAMES or name in OTHER_DECODERS) and name != "receive_eof":
                        found.add(prefix + name)
    return found


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_changed_bytes_give_success_or_a_typed_error(name: str) -> None:
    exercise(TARGETS[name], name, MUTATIONS.get(name, MUTATIONS_ELSEWHERE))


def reached(targets: dict[str, Target]) -> set[str]:
    """Functions of the package that the seeds of these targets enter."""
    seen: set[str] = set()

    def enter(frame: FrameType, event: str, _argument: object) -> None:
        path = frame.f_code.co_filename
        if event == "call" and path.startswith(str(DLMS)):
            module = ".".join(Path(path).relative_to(DLMS).with_suffix("").parts)
            seen.add(f"{module}.{frame.f_code.co_qualname}" if sys.version_info >= (3, 11) else "")

    for target in targets.values():
        seeds = target.seeds()
        sys.setprofile(enter)
        try:
            for seed in seeds:
                target.outcome(seed)
        finally:
            sys.setprofile(None)
    return seen


def test_every_decoder_is_reached_by_a_fuzz_target() -> None:
    seen = reached({**serial_links.TARGETS, **dlms_app.TARGETS, **TARGETS})
    missing = decoders() - seen - set(NO_DECODERS)
    assert not missing
    assert set(NO_DECODERS) <= decoders()


def test_the_programs_run_every_target() -> None:
    makefile = (DLMS.parent / "Makefile").read_text(encoding="utf-8")
    for module in (serial_links, dlms_app, dlms_meter):
        assert f"-m {module.__name__} all" in makefile
