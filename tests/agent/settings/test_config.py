"""The configuration file: what is right is a value, what is wrong is named with file, line and key, all at once."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.settings import config as configuration
from agent.settings.config import Config, ConfigError, EventsConfig, ListenConfig, load
from agent.settings.identity import SecretError, device_info, read_release, read_secret
from agent.settings.mqtt import MqttConfig
from plc.protocols import BUILT_IN

REPO = Path(__file__).resolve().parents[3]

MINIMAL = """\
device:
  id: urn:dcu:KR-000042
  key_file: device.key
  man: Example
  mod: DCU-1
  hw_version: A
security_server:
  url: https://127.0.0.1:8443/ssmp
  ca_file: ca.pem
update: {compatible: board-1}
"""

FULL = (
    MINIMAL
    + """\
dm:
  poll_every_s: 60
  content_type: xml
  push_listen: {host: 127.0.0.1, port: 0}
ports:
  - {name: plc0, protocol: prime-usi, url: /dev/ttyS1}
  - name: rs485
    protocol: hdlc
    url: /dev/ttyS2
    baudrate: 19200
    scan: {first: 17, last: 20}
reboot_command: [dcu-reboot, now]
log: {level: debug, file: dcu.log}
"""
)


def read(tmp_path: Path, text: str | bytes) -> Config:
    file = tmp_path / "dcu.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load(file)


def problems(tmp_path: Path, text: str | bytes) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    prefix = f"{tmp_path / 'dcu.yaml'}:"
    lines = str(caught.value).splitlines()
    assert all(line.startswith(prefix) for line in lines)
    return [line.removeprefix(prefix) for line in lines]


def test_a_minimal_file_gets_every_default(tmp_path: Path) -> None:
    config = read(tmp_path, MINIMAL)
    assert config.device.id == "urn:dcu:KR-000042"
    assert config.ports == ()
    assert config.dm.poll_every_s == 3600
    assert config.dm.content_type == "application/vnd.syncml.dm+wbxml"
    assert config.dm.push_listen is None
    assert config.state_dir == Path("/var/lib/dcu")
    assert config.metering.store_file == Path("/var/lib/dcu/readings.db")
    assert config.reboot_command == ("reboot",)
    assert config.log.file is None


def test_a_full_file_is_read_as_written(tmp_path: Path) -> None:
    config = read(tmp_path, FULL)
    assert config.dm.content_type == "application/vnd.syncml.dm+xml"
    assert config.dm.push_listen == configuration.PushConfig(host="127.0.0.1", port=0)
    assert [(port.name, port.protocol.name, port.baudrate) for port in config.ports] == [
        ("plc0", "prime-usi", 115_200),
        ("rs485", "hdlc", 19_200),
    ]
    assert config.ports[1].scan == configuration.ScanConfig(first=17, last=20)
    assert config.reboot_command == ("dcu-reboot", "now")


# Every setting that names a file, folder, device or program: key, YAML around it, and where its value is found. What
# `%s` becomes is `place/it`, relative, or what is right without it.
PATHS: dict[str, tuple[str, Callable[[Config], object]]] = {
    "security_module.key_file": ("", lambda c: c.security_module.secret),
    "security_module.certificate_file": ("", lambda c: c.security_module.certificate_file),
    "device.release_file": ("", lambda c: c.device.release_file),
    "security_server.ca_file": ("", lambda c: c.security_server.ca_file),
    "metering.reading_lists_dir": ("", lambda c: c.metering.reading_lists_dir),
    "metering.store_file": ("", lambda c: c.metering.store_file),
    "metering.registry_file": ("", lambda c: c.metering.registry_file),
    "update.dir": ("", lambda c: c.update.dir),
    "update.run_dir": ("", lambda c: c.update.run_dir),
    "update.boot_id_file": ("", lambda c: c.update.boot_id_file),
    "update.roots": ("", lambda c: c.update.roots),
    "update.software_dir": ("", lambda c: c.update.software_dir),
    "update.command": ("[%s, --quiet]", lambda c: c.update.command[0]),
    "services.unit_dir": ("", lambda c: c.services.unit_dir),
    "watchdog.device": ("", lambda c: c.watchdog.device),
    "log.file": ("", lambda c: c.log.file),
    "state_dir": ("", lambda c: c.state_dir),
    "control_socket": ("", lambda c: c.control_socket),
    "reboot_command": ("[%s]", lambda c: c.reboot_command[0]),
    "ports": ("[{name: a, protocol: prime-usi, url: %s}]", lambda c: c.ports[0].url),
}


def with_paths(value: str) -> str:
    """A configuration that gives `value` to every setting of `PATHS`."""
    document: dict[str, Any] = yaml.safe_load(MINIMAL)
    for key, (around, _) in PATHS.items():
        section, _, name = key.rpartition(".")
        place = document.setdefault(section, {}) if section else document
        place[name] = yaml.safe_load((around or "%s") % value)
    return yaml.safe_dump(document)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("place/it", "{home}/place/it"),
        ("./it", "{home}/it"),
        ("/opt/it", "/opt/it"),
        ("~root/it", "/root/it"),
        ("~no-such-person/it", "{home}/~no-such-person/it"),
    ],
)
@pytest.mark.parametrize("how", ["absolute", "relative", "bare"])
def test_a_relative_path_of_any_setting_starts_at_the_folder_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, value: str, found: str
) -> None:
    home = tmp_path / "conf"
    home.mkdir()
    (home / "dcu.yaml").write_text(with_paths(value))
    monkeypatch.chdir(home if how == "bare" else tmp_path)
    file = {"absolute": home / "dcu.yaml", "relative": Path("conf/dcu.yaml"), "bare": Path("dcu.yaml")}[how]
    config = load(file)
    monkeypatch.chdir("/")
    for key, (_, value_of) in PATHS.items():
        assert str(value_of(config)) == found.format(home=home), key


def test_what_lies_in_the_state_folder_by_default_lies_in_it_however_the_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "dcu.yaml").write_text(MINIMAL + "state_dir: state\n")
    monkeypatch.chdir(tmp_path)
    config = load(Path("conf/dcu.yaml"))
    state = tmp_path / "conf" / "state"
    assert config.state_dir == state
    assert config.metering.store_file == state / "readings.db"
    assert config.metering.registry_file == state / "meters.json"
    assert (config.update.dir, config.update.software_dir) == (state / "update", state / "software")


def paths_in(value: object, name: str = "") -> Iterator[str]:
    """The dotted names of all paths in a configuration."""
    if isinstance(value, Path):
        yield name
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from paths_in(getattr(value, field.name), f"{name}.{field.name}".removeprefix("."))


def test_the_table_of_paths_has_every_path_of_the_configuration(tmp_path: Path) -> None:
    config = read(tmp_path, with_paths("it"))
    named = {"security_module.secret": "security_module.key_file"}
    assert {named.get(name, name) for name in paths_in(config)} - {"file"} <= set(PATHS)


@pytest.mark.parametrize("url", ["socket://h:1", "rfc2217://h:1", "loop://", "udp://h:4059"])
def test_a_url_with_a_scheme_is_no_path(tmp_path: Path, url: str) -> None:
    config = read(tmp_path, MINIMAL + f"ports: [{{name: a, protocol: prime-usi, url: '{url}'}}]\n")
    assert config.ports[0].url == url


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("socket://h:1#a", "has a fragment (#)"),
        ("socket:// h:1", "holds a space"),
        ("rfc2217://me:pw@h:1", "names a user"),
        ("socket://h:0", "is no URL with a host and a port that exist"),
        ("socket://:4001", "is no URL with a host and a port that exist"),
        ("socket://h:70000", "is no URL with a host and a port that exist"),
    ],
)
def test_the_url_of_a_port_is_read_alike_by_everybody(tmp_path: Path, url: str, why: str) -> None:
    ports = f"ports: [{{name: a, protocol: prime-usi, url: '{url}'}}]\n"
    assert problems(tmp_path, MINIMAL + ports) == [f"11: ports[0].url: is no URL of a port: it {why}"]
    ports = f"ports: [{{name: a, protocol: wrapper, meters: [{{address: 1, url: '{url}'}}]}}]\n"
    assert ["ports[0].meters[0].url" in line for line in problems(tmp_path, MINIMAL + ports)] == [True]


def test_the_url_of_a_meter_has_a_host_and_a_port_and_no_more(tmp_path: Path) -> None:
    for url in ("socket://h:1/x", "socket://h:1?logging=debug"):
        ports = f"ports: [{{name: a, protocol: wrapper, meters: [{{address: 1, url: '{url}'}}]}}]\n"
        assert problems(tmp_path, MINIMAL + ports) == [
            "11: ports[0].meters[0].url: is no URL of a meter: it has more than a host and a port"
        ]


def test_a_program_without_a_slash_is_looked_for_where_programs_are(tmp_path: Path) -> None:
    config = read(tmp_path, MINIMAL + "reboot_command: [reboot, ./now]\n")
    assert config.reboot_command == ("reboot", "./now")


def test_one_device_under_two_spellings_is_one_url(tmp_path: Path) -> None:
    ports = "ports:\n- {name: a, protocol: prime-usi, url: dev/a}\n- {name: b, protocol: prime-usi, url: ./dev/a}\n"
    assert problems(tmp_path, MINIMAL + ports) == [f"13: ports[1].url: another port has the URL '{tmp_path}/dev/a'"]


def two_ports(first: str, second: str) -> str:
    return MINIMAL + (
        f"ports:\n- {{name: a, protocol: prime-usi, url: '{first}'}}\n"
        f"- {{name: b, protocol: prime-usi, url: '{second}'}}\n"
    )


def test_one_device_under_two_names_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ttyUSB0").touch()
    (tmp_path / "by-id").mkdir()
    (tmp_path / "by-id" / "usb-FTDI").symlink_to("../ttyUSB0")
    first, second = tmp_path / "ttyUSB0", tmp_path / "by-id" / "usb-FTDI"
    assert problems(tmp_path, two_ports(str(first), str(second))) == [
        f"13: ports[1].url: '{second}' of port b is the same as '{first}' of port a"
    ]


def test_two_nodes_of_one_device_are_refused(tmp_path: Path) -> None:
    assert problems(tmp_path, two_ports("/dev/null", "/proc/self/root/dev/null")) == [
        "13: ports[1].url: '/proc/self/root/dev/null' of port b is the same as '/dev/null' of port a"
    ]
    assert read(tmp_path, two_ports("/dev/null", "/dev/zero")).ports[1].url == "/dev/zero"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("socket://Host:4059", "socket://host:4059"),
        ("socket://host:4059", "socket://host.:4059"),
        ("socket://host:4059", "rfc2217://HOST:4059?poll_modem"),
        ("socket://localhost:1", "socket://127.0.0.1:1"),
        ("socket://[fe80::0:1]:1", "socket://[FE80::1]:1"),
        ("socket://[::ffff:10.0.0.1]:1", "socket://10.0.0.1:1"),
        ("udp://Host:4059", "udp://host:4059"),
    ],
)
def test_one_place_on_the_network_under_two_spellings_is_refused(tmp_path: Path, first: str, second: str) -> None:
    assert problems(tmp_path, two_ports(first, second)) == [
        f"13: ports[1].url: {second!r} of port b is the same as {first!r} of port a"
    ]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("socket://host:4059", "socket://host:4060"),
        ("socket://host:4059", "udp://host:4059"),
        ("socket://host:4059", "socket://host2:4059"),
        ("socket://[fe80::1%eth0]:1", "socket://[fe80::1%eth1]:1"),
        ("/dev/ttyS8", "/dev/ttyS9"),
    ],
)
def test_two_places_are_two(tmp_path: Path, first: str, second: str) -> None:
    assert [port.url for port in read(tmp_path, two_ports(first, second)).ports] == [first, second]


def test_a_meter_at_the_place_of_another_port_or_meter_is_refused(tmp_path: Path) -> None:
    ports = (
        "ports:\n- {name: a, protocol: prime-usi, url: 'socket://Host:1'}\n"
        "- {name: b, protocol: wrapper, meters: [{address: 1, url: 'socket://host:1'}]}\n"
        "- {name: c, protocol: wrapper, meters: [{address: 7, url: 'socket://g:1'}, {address: 8, url: 'socket://G:1'}]}\n"
        "- {name: d, protocol: wrapper, meters: [{address: 9, url: 'socket://G:1'}]}\n"
    )
    assert [line.partition(": ")[2] for line in problems(tmp_path, MINIMAL + ports)] == [
        "ports[1].meters: 'socket://host:1' of meter 1 of port b is the same as 'socket://Host:1' of port a",
        "ports[2].meters[1].url: 'socket://G:1' is the same as 'socket://g:1' of meter 7",
        "ports[3].meters: 'socket://G:1' of meter 9 of port d is the same as 'socket://G:1' of meter 8 of port c",
    ]


def test_the_value_is_immutable(tmp_path: Path) -> None:
    config = read(tmp_path, MINIMAL)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.device.man = "Other"  # type: ignore[misc]


def test_all_errors_are_reported_at_once_in_the_order_of_their_lines(tmp_path: Path) -> None:
    text = MINIMAL.replace("man: Example", "man: 5").replace("mod: DCU-1", "mdo: DCU-1") + (
        "dm:\n  poll_every_s: often\nports:\n  - {name: a b, protocol: modbus, url: /dev/ttyS1}\nstate: /tmp\n"
    )
    assert problems(tmp_path, text) == [
        "2: device.mod: is missing",
        "4: device.man: wanted text, got a whole number '5' (quote it)",
        "5: device.mdo: unknown key; did you mean mod?",
        "12: dm.poll_every_s: wanted a whole number, got text 'often'",
        f"14: ports[0].protocol: wanted one of {', '.join(BUILT_IN)}, got 'modbus'",
        "14: ports[0].name: wanted up to 32 letters, digits, - and _, got 'a b'",
        "15: state: unknown key; did you mean state_dir?",
    ]


def test_keys_of_a_later_version_do_not_keep_a_program_from_starting_unless_it_checks(tmp_path: Path) -> None:
    text = MINIMAL.replace("mod: DCU-1", "mod: DCU-1\n  colour: red") + "seal: {of: 1}\n"
    assert len(problems(tmp_path, text)) == 2
    config = load(tmp_path / "dcu.yaml", strict=False)
    assert [problem.path for problem in config.unknown] == ["device.colour", "seal"]
    assert problems(tmp_path, text + "log: {level: 5}\n")[-1].startswith("13: log.level")
    with pytest.raises(ConfigError, match="wanted text"):
        load(tmp_path / "dcu.yaml", strict=False)


def test_a_key_given_twice_is_an_error_at_its_second_line(tmp_path: Path) -> None:
    assert problems(tmp_path, MINIMAL + "state_dir: /a\nstate_dir: /b\n") == [
        "12: state_dir: given twice, first on line 11"
    ]


def test_missing_sections_are_named(tmp_path: Path) -> None:
    found = problems(tmp_path, "state_dir: /a\n")
    assert "1: device: is missing" in found
    assert "1: security_server: is missing" in found
    assert "1: update: is missing" in found


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("dm: {poll_every_s: 010}", "dm.poll_every_s: wanted a decimal whole number, got '010'"),
        ("dm: {poll_every_s: 1:30}", "dm.poll_every_s: wanted a decimal whole number, got '1:30'"),
        ("dm: {poll_every_s: 0}", "dm.poll_every_s: wanted 1 to 2678400, got 0"),
        ("dm: {backoff_min_s: .nan}", "dm.backoff_min_s: wanted a decimal number, got '.nan'"),
        (
            "dm: {mac_algorithms: [SHA-256, MD4]}",
            "dm.mac_algorithms: wanted SHA-256, MD5 or both, once each, got 'MD4'",
        ),
        (
            "dm: {mac_algorithms: [MD5, MD5]}",
            "dm.mac_algorithms: wanted SHA-256, MD5 or both, once each, got 'MD5'",
        ),
        ("dm: {mac_algorithms: []}", "dm.mac_algorithms: is an empty list"),
        (
            "dm: {auth_types: [HMAC, X509]}",
            "dm.auth_types: wanted HMAC, DIGEST, BASIC, TRANSPORT, once each, got 'X509'",
        ),
        (
            "dm: {auth_types: [BASIC, BASIC]}",
            "dm.auth_types: wanted HMAC, DIGEST, BASIC, TRANSPORT, once each, got 'BASIC'",
        ),
        (
            "dm: {account: {file: /a, mac: 'xy', security: USERPIN, secret_file: /b}}",
            "dm.account.mac: wanted 40 hexadecimal digits, got 'xy'",
        ),
        (f"dm: {{account: {{file: /a, mac: '{'a' * 40}', secret_file: /b}}}}", "dm.account.security: is missing"),
        (
            f"dm: {{account: {{file: /a, mac: '{'a' * 40}', security: USERPIN}}}}",
            "dm.account.secret_file: is missing",
        ),
        ("dm: {account: {file: /a, security: USERPIN}}", "dm.account.security: unknown key; known here: file, mac"),
        (
            "dm: {push_listen: {port: 1, advertise: 'http://a/\u00e9'}}",
            "dm.push_listen.advertise: wanted an http or https URL: it holds a character that is not ASCII",
        ),
        ("dm: [1, 2]", "dm: wanted a section of keys, got a list"),
        ("dm: yes", "dm: wanted a section of keys, got true or false 'yes'"),
        ("ports: none", "ports: wanted a list of sections, got text 'none'"),
        ("ports: [none]", "ports[0]: wanted a section of keys, got text 'none'"),
        ("reboot_command: reboot", "reboot_command: wanted a list of texts, got text 'reboot'"),
        ("reboot_command: []", "reboot_command: is an empty list"),
        ("reboot_command: [reboot, 5]", "reboot_command[1]: wanted text, got a whole number '5' (quote it)"),
        ("reboot_command: ['']", "reboot_command[0]: is empty"),
        ("state_dir: ''", "state_dir: wanted a path"),
        ("log: {level: loud}", "log.level: wanted one of debug, info, warning, error, got 'loud'"),
        (
            f"control_socket: /{'x' * 107}",
            "control_socket: longer than the 107 bytes that a socket's path may have",
        ),
        (
            "ports: [{name: a, protocol: hdlc, url: /dev/x}]",
            "ports[0].scan: is missing: meters of hdlc ports are found by asking addresses",
        ),
        (
            "ports: [{name: a, protocol: hdlc, url: /dev/x, scan: {first: 9, last: 3}}]",
            "ports[0].scan.last: is lower than first (9)",
        ),
    ],
)
def test_a_wrong_value_names_line_key_and_reason(tmp_path: Path, line: str, complaint: str) -> None:
    assert problems(tmp_path, MINIMAL + line + "\n") == [f"11: {complaint}"]


@pytest.mark.parametrize("identity", ["urn dcu", "urn:dcu:\u00e9", "x" * 129, "a/b"])
def test_a_device_id_that_no_server_can_enrol_is_refused_at_its_line(tmp_path: Path, identity: str) -> None:
    text = MINIMAL.replace("id: urn:dcu:KR-000042", f"id: {identity}")
    (found,) = problems(tmp_path, text)
    assert found.endswith(f"device.id: wanted up to 128 letters, digits and :._-, got {identity!r}")
    assert found.partition(":")[0] == str(1 + text[: text.index("id:")].count("\n"))


@pytest.mark.parametrize("key", ["man", "mod", "hw_version"])
@pytest.mark.parametrize("value", ["x" * 257, "\u00e9" * 129, '"a\\x07b"'])
def test_what_the_registration_cannot_carry_is_refused(tmp_path: Path, key: str, value: str) -> None:
    (found,) = problems(tmp_path, re.sub(rf"\b{key}: [^,}}\n]+", lambda _: f"{key}: {value}", MINIMAL))
    assert found.endswith(f"device.{key}: wanted up to 256 bytes of printable text")


def test_a_full_package_in_place_of_a_delta_is_never_fetched_by_default(tmp_path: Path) -> None:
    config = read(tmp_path, MINIMAL)
    assert (config.update.full_instead_of_delta, config.update.full_bytes_max) == ("never", 1 << 30)


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ("  full_instead_of_delta: sometimes\n", "wanted one of never, always, got 'sometimes'"),
        ("  full_instead_of_delta: always\n  full_bytes_max: 0\n", "wanted 1 to 1073741824, got 0"),
        ("  full_bytes_max: 5\n", "has no use while full_instead_of_delta is never"),
    ],
)
def test_a_policy_for_full_packages_that_is_none_is_refused(tmp_path: Path, lines: str, complaint: str) -> None:
    assert (
        complaint
        in problems(tmp_path, MINIMAL.replace("{compatible: board-1}", f"\n  compatible: board-1\n{lines}"))[0]
    )


def test_two_ports_may_not_share_name_or_device(tmp_path: Path) -> None:
    text = MINIMAL + (
        "ports:\n  - {name: a, protocol: prime-usi, url: /dev/x}\n  - {name: a, protocol: prime-usi, url: /dev/x}\n"
    )
    assert problems(tmp_path, text) == [
        "13: ports[1].name: another port has the name 'a'",
        "13: ports[1].url: another port has the URL '/dev/x'",
    ]


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://server/ssmp", "is no https URL"),
        ("https://", "is no URL with a host and a port that exist"),
        ("https://user@server/", "names a user"),
        ("server", "is no https URL"),
        ("https://server/a b", "holds a space"),
        ('"https://server/\\t"', "holds a control character"),
        ('"https://server/#x"', "has a fragment (#)"),
    ],
)
def test_the_security_server_is_reached_by_https_only(tmp_path: Path, url: str, why: str) -> None:
    found = problems(tmp_path, MINIMAL.replace("https://127.0.0.1:8443/ssmp", url))
    assert found == [f"8: security_server.url: wanted an https URL: it {why}"]


@pytest.mark.parametrize("url", ["http://h/a b", "http://h/#x", "ftp://h/", "http://u@h/", "http://h/" + "x" * 240])
def test_what_the_head_end_is_told_is_an_address(tmp_path: Path, url: str) -> None:
    (found,) = problems(tmp_path, MINIMAL + f'dm:\n  push_listen: {{port: 1, advertise: "{url}"}}\n')
    assert "dm.push_listen.advertise: wanted an http or https URL: it " in found


@pytest.mark.parametrize(
    ("text", "start"),
    [
        (b"", "1: the top of the file"),
        (b"- a\n- b\n", "1: the top of the file"),
        (b"device: {\n", "2: not YAML"),
        (b"a: 1\n  b: 2\n", "2: not YAML"),
        (b"\xff\xfe\x00", "1: not YAML"),
        (b"a: \x00\n", "1: not YAML"),
        (b"a: 1\n---\nb: 2\n", "2: not YAML"),
        (b"[" * 900, "1: not YAML"),
        (b"#" * ((1 << 20) + 1), "1: larger than"),
    ],
)
def test_what_is_no_mapping_of_sections_is_one_error(tmp_path: Path, text: bytes, start: str) -> None:
    found = problems(tmp_path, text)
    assert len(found) == 1
    assert found[0].startswith(start)


def test_a_key_that_is_no_text_and_an_unknown_section_do_not_crash(tmp_path: Path) -> None:
    found = problems(tmp_path, MINIMAL + "? [a, b]\n: 1\n<<: {x: 1}\n")
    assert found[0] == "11: a key is plain text"
    assert found[1].startswith("13: <<: unknown key")


def test_a_missing_file_is_an_error_of_the_same_kind(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "absent.yaml")


def test_the_documented_example_is_valid_and_shows_every_key() -> None:
    file = REPO / "etc" / "dcu.yaml"
    config = load(file)
    text = file.read_text(encoding="utf-8")
    for section in (config.device, config.dm, config.metering, config.update, config.log, config.watchdog):
        for field in dataclasses.fields(section):
            assert f"{field.name}:" in text, f"{type(section).__name__}.{field.name} is not in the example"
    for field in dataclasses.fields(MqttConfig):
        assert f"#   {field.name}:" in text
    keys = {field.name for field in dataclasses.fields(configuration.PortConfig)} - {"options", "unused"}
    for name in keys | {option.name for protocol in BUILT_IN.values() for option in protocol.options}:
        assert f"{name}:" in text


# --- secrets and the release file ---


def secret(tmp_path: Path, content: bytes, mode: int = 0o600) -> Path:
    file = tmp_path / "device.key"
    file.write_bytes(content)
    file.chmod(mode)
    return file


def test_a_secret_is_hexadecimal_text_in_a_file_of_its_own(tmp_path: Path) -> None:
    assert read_secret(secret(tmp_path, bytes(range(32)).hex().encode() + b"\n")) == bytes(range(32))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666])
def test_a_secret_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(SecretError, match="chmod it to 0600"):
        read_secret(secret(tmp_path, b"00" * 32, mode))


def test_a_secret_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = secret(tmp_path, b"00" * 32, 0o600)
    if os.geteuid() == 0:
        os.chown(file, 4711, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(SecretError, match="belongs to user"):
        read_secret(file)


@pytest.mark.parametrize("content", [b"", b"00" * 16, b"00" * 33, b"not hexadecimal at all!!", b"\xff" * 32])
def test_a_malformed_secret_is_refused_without_showing_it(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(SecretError) as caught:
        read_secret(secret(tmp_path, content))
    assert "hexadecimal at all" not in str(caught.value)


def test_a_missing_secret_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SecretError, match="cannot be read"):
        read_secret(tmp_path / "none")
    with pytest.raises(SecretError, match="is not a file"):
        read_secret(tmp_path)


def test_the_firmware_version_comes_from_the_release_file(tmp_path: Path) -> None:
    release = tmp_path / "release"
    release.write_text('# made by the image\nNAME="DCU"\nVERSION=7\nODD\n')
    assert read_release(release) == {"NAME": "DCU", "VERSION": "7"}
    config = dataclasses.replace(read(tmp_path, MINIMAL).device, release_file=release)
    assert device_info(config, "0.1.0").fw_version == "7"
    assert device_info(dataclasses.replace(config, release_file=tmp_path / "no"), "0.1.0").fw_version == "unknown"


def test_events_are_marked_unless_they_are_to_be_refused_and_listened_for_where_that_is_said(tmp_path: Path) -> None:
    assert read(tmp_path, MINIMAL).events == EventsConfig("mark", None)
    config = read(
        tmp_path, MINIMAL + "events: {plain_push: refuse, listen: {host: 127.0.0.1, port: 4060, udp: true}}\n"
    )
    assert config.events == EventsConfig("refuse", ListenConfig("127.0.0.1", 4060, udp=True))
    (problem,) = problems(tmp_path, MINIMAL + "events: {plain_push: drop}\n")
    assert "events.plain_push" in problem


def test_the_list_of_meters_and_what_they_are_asked(tmp_path: Path) -> None:
    config = read(tmp_path, MINIMAL).metering
    assert (config.whitelist, config.inventory, config.device_type) == ((), True, None)
    text = 'metering: {whitelist: ["KEP*", plc0/5], inventory: false, device_type: 1/0.0.96.1.2.255/2}\n'
    config = read(tmp_path, MINIMAL + text).metering
    assert (config.whitelist, config.inventory) == (("KEP*", "plc0/5"), False)
    assert str(config.device_type) == "1/0.0.96.1.2.255/2"
    assert "metering.device_type" in problems(tmp_path, MINIMAL + "metering: {device_type: serial}\n")[0]


def test_meters_of_a_g3_network_are_found_by_their_short_address(tmp_path: Path) -> None:
    g3 = "ports:\n  - {name: g3, protocol: wrapper-udp, pan_id: 0x781D, interface: plc0, meters: [%s]}\n"
    (port,) = read(tmp_path, MINIMAL + g3 % "{address: 0x12, wport: 17}").ports
    endpoint = port.endpoint(0x12)
    assert endpoint is not None
    assert (endpoint.host, endpoint.port) == ("fe80::781d:ff:fe00:12%plc0", 4059)
    assert port.endpoint(0x13) is None
    assert problems(tmp_path, MINIMAL + g3 % "{address: 0xFFFE}")[0].endswith("0x0000 to 0xfffd")
    without = "ports:\n  - {name: g3, protocol: wrapper-udp, meters: [{address: 1}]}\n"
    assert "url: is missing: a url, or a pan_id of the port, is due" in problems(tmp_path, MINIMAL + without)[0]
