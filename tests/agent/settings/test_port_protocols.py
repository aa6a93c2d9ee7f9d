"""The registry of port protocols: the built-in ones, those of other distributions, and the ways to get it wrong.

The third party's protocol is the example of docs/configuration.md, installed as a distribution into a folder.
"""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.daemon.check import problems as found_by_check
from agent.metering.ports.opening import bridge_to
from agent.settings.config import ConfigError, PortConfig, load
from dlms.errors import LocalError
from dlms.link.datalink import LineSettings
from dlms.link.hdlc.frames import HdlcAddress
from dlms.link.hdlc.primary import HdlcClientLink
from dlms.link.llc import LlcLink
from dlms.link.mode_e.link import ModeELink
from dlms.link.wrapper import WrapperLink, WrapperUdpLink
from plc.errors import AmbiguousProtocolError, BrokenProtocolError, PlcProtocolError, UnknownProtocolError
from plc.protocols import (
    BUILT_IN,
    HDLC,
    PRIME_USI,
    Asking,
    LinkRequest,
    Option,
    PortProtocol,
    find_protocol,
    shadowed_protocols,
)

REPO = Path(__file__).resolve().parents[3]
DOCUMENT = (REPO / "docs" / "configuration.md").read_text(encoding="utf-8")


def documented(language: str) -> str:
    """The one block of this language that is about the radio."""
    section = DOCUMENT[DOCUMENT.index("### A protocol of your own") :]
    found = re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found[1]


class Site:
    """A folder of installed distributions on the path of this interpreter."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(self, distribution: str, entry_points: dict[str, str], modules: dict[str, str] | None = None) -> None:
        info = self.folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        lines = [f"{name} = {value}" for name, value in entry_points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[dcu_agent.port_protocols]", *lines, ""]))
        for name, text in (modules or {}).items():
            (self.folder / f"{name}.py").write_text(text)
        importlib.invalidate_caches()

    def install_the_example(self) -> None:
        project = tomllib.loads(documented("toml"))["project"]
        entry_points = project["entry-points"]["dcu_agent.port_protocols"]
        self.install(project["name"], entry_points, {"acme_radio": documented("python")})


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    loaded = set(sys.modules)
    yield Site(folder)
    for name in set(sys.modules) - loaded:
        if getattr(sys.modules[name], "__file__", None) and str(folder) in str(sys.modules[name].__file__):
            del sys.modules[name]


def configuration(tmp_path: Path, ports: str) -> Path:
    file = tmp_path / "dcu.yaml"
    file.write_text(
        "device: {id: x, key_file: k, man: m, mod: m, hw_version: A}\n"
        "security_server: {url: 'https://h/', ca_file: c}\n"
        "update: {compatible: board}\n" + ports
    )
    return file


def port(tmp_path: Path, keys: str) -> PortConfig:
    return load(configuration(tmp_path, f"ports: [{{name: a, url: /dev/x, {keys}}}]\n")).ports[0]


def mistakes(tmp_path: Path, keys: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        port(tmp_path, keys)
    return [f"{problem.path}: {problem.text}" for problem in caught.value.problems]


# --- meters that differ ---

BUS = "protocol: hdlc, scan: {first: 1, last: 30}, baudrate: 9600"


def test_a_meter_of_a_bus_has_what_its_entry_says_and_else_what_the_port_says(tmp_path: Path) -> None:
    entries = "[{address: 18, baudrate: 2400, parity: even}, {address: 19, mode_e: true, mode_e_address: '7'}]"
    bus = port(tmp_path, f"{BUS}, parity: odd, meters: {entries}")
    assert bus.line(17) == LineSettings(9600, "odd")
    assert bus.line(18) == LineSettings(2400, "even")
    assert isinstance(bus.data_link(18), HdlcClientLink)
    opened = bus.data_link(19)
    assert isinstance(opened, ModeELink)
    opened.connect(0.0)
    assert bytes(octet & 0x7F for octet in opened.take_output()) == b"/?7!\r\n"


def test_meters_of_the_wrapper_have_an_address_each(tmp_path: Path) -> None:
    entries = "[{address: 1, url: 'socket://h:4059'}, {address: 2, url: 'socket://h:4060'}]"
    file = configuration(tmp_path, f"ports: [{{name: lan, protocol: wrapper, meters: {entries}}}]\n")
    lan = load(file).ports[0]
    assert [(meter.address, meter.url) for meter in lan.meters] == [(1, "socket://h:4059"), (2, "socket://h:4060")]
    assert lan.where == "2 meters"
    assert list(found_by_check(load(file))) == list(found_by_check(load(configuration(tmp_path, ""))))
    opened = bridge_to(lan)
    assert not opened.shared_bus
    opened.close()


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        (f"{BUS}, parity: mark", ["parity: wanted one of none, even, odd, got 'mark'"]),
        (f"{BUS}, meters: [{{address: 0}}]", ["meters[0].address: wanted 1 to 16381, got 0"]),
        (f"{BUS}, meters: [{{}}]", ["meters[0].address: is missing"]),
        (
            f"{BUS}, meters: [{{address: 1}}, {{address: 1}}]",
            ["meters[1].address: another meter of this port has the address 1"],
        ),
        (
            f"{BUS}, meters: [{{address: 1, mode_e_address: '7'}}]",
            ["meters[0].mode_e_address: has no use without mode_e: true"],
        ),
        (
            f"{BUS}, meters: [{{address: 1, mode_e: true, mode_e_address: 'a b'}}]",
            ["meters[0].mode_e_address: wanted up to 32 letters and digits, got 'a b'"],
        ),
        (
            f"{BUS}, meters: [{{address: 1, mode_e: true, parity: even}}]",
            ["meters[0].parity: has no use with mode_e, which ends in HDLC without parity"],
        ),
        (
            f"{BUS}, meters: [{{address: 1, mode_e: true, mode_e_address: '7'}}, {{address: 2, mode_e: true}}]",
            ["meters: where several have mode_e, each needs its mode_e_address: without one all of them answer"],
        ),
        (f"{BUS}, meters: [{{address: 1, url: 'socket://h:1'}}]", ["meters[0].url: unknown key"]),
    ],
)
def test_what_is_wrong_with_an_entry_is_said_of_it(tmp_path: Path, keys: str, found: list[str]) -> None:
    said = [problem.removeprefix("ports[0].").partition(";")[0] for problem in mistakes(tmp_path, keys)]
    assert said == found


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ("", "ports[0].meters: is missing or empty: each meter of wrapper ports has a URL of its own"),
        ("meters: [], url: 'socket://h:1'", "ports[0].url: unknown key"),
        ("meters: [{address: 1}]", "ports[0].meters[0].url: is missing: each meter has a URL of its own"),
        ("meters: [{address: 1, url: /dev/x}]", "ports[0].meters[0].url: /dev/x: wanted socket://host:port"),
        (
            "meters: [{address: 1, url: 'socket://h:1'}, {address: 2, url: 'socket://h:1'}]",
            "ports[0].meters[1].url: another meter of this port has the URL 'socket://h:1'",
        ),
        ("meters: [{address: 1, url: 'socket://h:1', mode_e: true}]", "ports[0].meters[0].mode_e: unknown key"),
        ("meters: [{address: 70000, url: 'socket://h:1'}]", "ports[0].meters[0].address: wanted 1 to 65535, got 70000"),
    ],
)
def test_what_is_wrong_with_a_meter_of_the_wrapper_is_said_of_it(tmp_path: Path, keys: str, found: str) -> None:
    file = configuration(tmp_path, f"ports: [{{name: lan, protocol: wrapper, {keys}}}]\n")
    with pytest.raises(ConfigError) as caught:
        load(file)
    said = [f"{problem.path}: {problem.text}".partition(";")[0] for problem in caught.value.problems]
    assert found in said


@pytest.mark.parametrize("entry", ["{address: 1, mode_e: true}", "{address: 1, baudrate: 300}"])
def test_behind_a_socket_nobody_can_set_a_line(tmp_path: Path, entry: str) -> None:
    text = f"ports: [{{name: a, url: 'socket://h:1', {BUS}, meters: [{entry}]}}]\n"
    with pytest.raises(ConfigError, match="nobody can set a line behind a socket"):
        load(configuration(tmp_path, text))
    load(configuration(tmp_path, text.replace("socket:", "rfc2217:")))


def test_the_check_finds_an_entry_whose_address_does_not_fit(tmp_path: Path) -> None:
    text = f"ports: [{{name: a, url: 'socket://h:1', {BUS}, meters: [{{address: 300}}]}}]\n"
    said = list(found_by_check(load(configuration(tmp_path, text))))
    assert any(problem.startswith("ports[0].meters[0]: HDLC address 1/300") for problem in said)


# --- built in ---


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_every_built_in_protocol_makes_its_core_and_a_link_to_a_meter(name: str) -> None:
    protocol = find_protocol(name)
    core = protocol.make_core()
    assert core.take_output() == b""
    request = LinkRequest(16, 1, 17, protocol.baudrate, protocol.response_timeout_s, protocol.with_defaults({}))
    link = protocol.make_link(request)
    link.connect(0.0)
    # A bus is asked who is there; a packet link has nothing to say before its first APDU.
    assert bool(link.take_output()) == (protocol.scan is not None) == core.shared_bus
    links = {
        "hdlc": HdlcClientLink,
        "prime-usi": LlcLink,
        "dlmsotcp": LlcLink,
        "wrapper": WrapperLink,
        "wrapper-udp": WrapperUdpLink,
    }
    assert isinstance(link, links[name])


def test_the_document_has_the_defaults_of_the_registry() -> None:
    for protocol in BUILT_IN.values():
        row = next(line for line in DOCUMENT.splitlines() if re.match(rf"\| `{protocol.name}` \|", line))
        assert row.endswith(f"| {protocol.baudrate} | {protocol.response_timeout_s:g} |")
        for option in protocol.options:
            assert f"`{option.name}`" in DOCUMENT


def test_an_hdlc_address_of_one_octet_is_the_upper_part_alone() -> None:
    def octets(**options: int) -> bytes:
        request = LinkRequest(16, 1, 17, 9600, 1.5, HDLC.with_defaults(options))
        link = HDLC.make_link(request)
        link.connect(0.0)
        return link.take_output()

    assert octets(address_bytes=1)[3:4] == HdlcAddress(17).emit()
    assert octets(address_bytes=4, logical_device=3)[3:7] == HdlcAddress(3, 17, size=4).emit()


def test_an_address_that_does_not_fit_is_the_callers_mistake(tmp_path: Path) -> None:
    bus = port(tmp_path, "protocol: hdlc, address_bytes: 2, scan: {first: 1, last: 300}")
    with pytest.raises(LocalError):
        bus.data_link(300)


def test_a_link_repeats_as_often_as_it_is_asked_to(tmp_path: Path) -> None:
    def frames_sent(tries: int | None) -> int:
        bus = port(tmp_path, "protocol: hdlc, scan: {first: 1, last: 3}")
        link = bus.data_link(1, asking=Asking(tries=tries))
        link.connect(0.0)
        sent = 0
        while link.take_output():
            sent += 1
            deadline = link.next_deadline()
            assert deadline is not None
            link.on_deadline(deadline)
        return sent

    assert [frames_sent(tries) for tries in (1, 2)] == [1, 2]
    assert frames_sent(None) > 2


def test_a_key_of_another_protocol_has_no_effect_and_the_check_says_so(tmp_path: Path) -> None:
    """Versions before 0.2.0 took such keys silently: a file that has them must not stop the one after an update."""
    found = port(tmp_path, "protocol: prime-usi, window: 3, scan: {first: 1, last: 2}")
    assert (found.unused, found.scan) == (("scan", "window"), None)
    assert "window" not in found.options
    said = found_by_check(load(tmp_path / "dcu.yaml"))
    assert "ports[0].window: has no effect on a port of protocol prime-usi" in said


def test_a_key_of_no_protocol_is_a_mistake(tmp_path: Path) -> None:
    assert mistakes(tmp_path, "protocol: prime-usi, windows: 3")[0].startswith("ports[0].windows: unknown key")


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ("address_bytes: 3", "address_bytes: wanted 1, 2 or 4 (IEC 62056-46, 6.4.2.2), got 3"),
        ("address_bytes: 9", "address_bytes: wanted 1 to 4, got 9"),
        ("window: 8", "window: wanted 1 to 7, got 8"),
        ("window: wide", "window: wanted a whole number, got text 'wide'"),
    ],
)
def test_an_option_is_held_to_its_type_bounds_and_choices(tmp_path: Path, keys: str, complaint: str) -> None:
    assert mistakes(tmp_path, f"protocol: hdlc, scan: {{first: 1, last: 2}}, {keys}") == [f"ports[0].{complaint}"]


# --- from elsewhere ---


def test_the_documented_protocol_is_found_by_its_name_and_reads_its_own_keys(site: Site, tmp_path: Path) -> None:
    site.install_the_example()
    radio = load(configuration(tmp_path, documented("yaml"))).ports[0]
    assert (radio.protocol.name, radio.baudrate, radio.response_timeout_s) == ("acme-radio", 19_200, 4.0)
    assert radio.options == {**HDLC.with_defaults({}), "channel": 7}
    core = radio.protocol.make_core()
    core.start(0.0)
    core.send(16, b"~snrm~", 1, 16, 0.0)
    assert core.take_output() == b"AT+TRANSPARENT\r~snrm~"
    assert core.take_output() == b""
    assert isinstance(radio.data_link(16), HdlcClientLink)


@pytest.mark.parametrize(
    ("text", "value", "complaint"),
    [
        ("power: high", "high", ""),
        ("power: loud", "", "power: wanted low or high, got loud"),
        ("factor: 0.5", 0.5, ""),
        ("factor: 2", "", "factor: wanted 0 to 1, got 2"),
        ("relay: true", True, ""),
        ("relay: 1", "", "relay: wanted true or false, got a whole number '1'"),
    ],
)
def test_options_may_be_text_numbers_and_flags(
    site: Site, tmp_path: Path, text: str, value: object, complaint: str
) -> None:
    module = (
        "from dataclasses import replace\nfrom plc.protocols import PRIME_USI, Option\n"
        "OPTIONS = (Option('power', 'low', choices=('low', 'high')), Option('factor', 1.0, 0, 1), "
        "Option('relay', False))\n"
        "PROTOCOL = replace(PRIME_USI, name='mesh', options=OPTIONS)\n"
    )
    site.install("mesh", {"mesh": "mesh_of_test:PROTOCOL"}, {"mesh_of_test": module})
    if complaint:
        assert mistakes(tmp_path, f"protocol: mesh, {text}") == [f"ports[0].{complaint}"]
    else:
        assert port(tmp_path, f"protocol: mesh, {text}").options[text.partition(":")[0]] == value


def test_nothing_is_looked_for_while_only_built_in_protocols_are_named(tmp_path: Path) -> None:
    file = configuration(tmp_path, "ports: [{name: a, url: /dev/x, protocol: prime-usi}]\n")
    code = (
        "import sys; from pathlib import Path; from agent.settings.config import load; "
        f"load(Path({str(file)!r})); print('importlib.metadata' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO, check=True)
    assert run.stdout == "False\n"


def test_an_unknown_name_is_told_with_all_that_are_known(site: Site, tmp_path: Path) -> None:
    site.install_the_example()
    with pytest.raises(UnknownProtocolError) as caught:
        find_protocol("smoke-signals")
    assert caught.value.known == ("prime-usi", "hdlc", "dlmsotcp", "wrapper", "wrapper-udp", "acme-radio")
    known = "prime-usi, hdlc, dlmsotcp, wrapper, wrapper-udp, acme-radio"
    assert mistakes(tmp_path, "protocol: smoke-signals, puffs: 3") == [
        f"ports[0].protocol: wanted one of {known}, got 'smoke-signals'"
    ]


@pytest.mark.parametrize(
    ("module", "why"),
    [
        ("import a_library_that_is_not_there\n", "ModuleNotFoundError"),
        ("1 / 0\n", "ZeroDivisionError"),
        ("OTHER = 1\n", "AttributeError"),
        ("PROTOCOL = 'prime'\n", "a str, not a PortProtocol"),
        ("from plc.protocols import PRIME_USI as PROTOCOL\n", "calls itself prime-usi"),
        ("from plc.protocols import Option\nOption('window', 9, 1, 7)\n", "the default 9 is not 1 to 7"),
        ("from plc.protocols import Option\nOption('power', 'x', choices=('y',))\n", "not one of the choices"),
        ("from plc.protocols import Option\nOption('a b', 1, 1, 7)\n", "not a name"),
    ],
)
def test_a_broken_package_is_a_mistake_in_the_configuration_and_says_why(
    site: Site, tmp_path: Path, module: str, why: str
) -> None:
    site.install("acme-radio", {"acme": "broken_of_test:PROTOCOL"}, {"broken_of_test": module})
    with pytest.raises(BrokenProtocolError, match=why):
        find_protocol("acme")
    (found,) = mistakes(tmp_path, "protocol: acme")
    assert found.startswith("ports[0].protocol: 'acme' cannot be used: broken_of_test:PROTOCOL of acme-radio")


def test_an_option_may_not_have_the_name_of_a_key_that_every_port_has(site: Site, tmp_path: Path) -> None:
    module = (
        "from dataclasses import replace\nfrom plc.protocols import PRIME_USI, Option\n"
        "PROTOCOL = replace(PRIME_USI, name='acme', options=(Option('health', True),))\n"
    )
    site.install("acme-radio", {"acme": "taken_of_test:PROTOCOL"}, {"taken_of_test": module})
    assert mistakes(tmp_path, "protocol: acme") == [
        "ports[0].protocol: 'acme' cannot be used: every port has a key health already"
    ]


def test_an_option_is_declared_once() -> None:
    with pytest.raises(ValueError, match="declared twice"):
        replace(PRIME_USI, options=(Option("a", 1, 1, 2), Option("a", 2, 1, 2)))


def test_two_packages_with_one_name_are_a_mistake_that_names_both(site: Site) -> None:
    site.install("acme-radio", {"acme": "acme_radio:PROTOCOL"}, {"acme_radio": documented("python")})
    site.install("zeta-radio", {"acme": "acme_radio:PROTOCOL"})
    with pytest.raises(AmbiguousProtocolError) as caught:
        find_protocol("acme")
    assert caught.value.distributions == ("acme-radio", "zeta-radio")
    assert isinstance(caught.value, PlcProtocolError)


def test_a_built_in_protocol_cannot_be_replaced_and_the_check_says_who_tries(site: Site, tmp_path: Path) -> None:
    site.install("acme-radio", {"hdlc": "acme_radio:PROTOCOL"}, {"acme_radio": documented("python")})
    assert find_protocol("hdlc") is HDLC
    assert shadowed_protocols() == [("hdlc", "acme-radio")]
    config = load(configuration(tmp_path, ""))
    assert "ports: acme-radio offers a protocol hdlc, which is built in: it is never used" in found_by_check(config)


def test_the_built_in_names_are_those_of_their_protocols() -> None:
    assert all(isinstance(protocol, PortProtocol) and protocol.name == name for name, protocol in BUILT_IN.items())
