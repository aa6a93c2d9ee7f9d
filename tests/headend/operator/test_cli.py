"""`dcu-headend`, as far as it needs no running servers."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
import yaml
from click.testing import CliRunner, Result

from headend import pki
from headend.cli import main
from headend.operator import commands
from headend.operator.client import OperatorClient, OperatorError, device_path
from headend.operator.show import CELL_CHARS_MAX, table


@pytest.fixture(autouse=True)
def same_logging_after() -> Iterator[None]:
    """`serve` sets up logging for a process of its own; here the process goes on."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def dcu_headend(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    assert dcu_headend("init", "--dir", tmp_path / "he").exit_code == 0
    return tmp_path / "he" / "headend.yaml"


def test_init_says_where_things_are_and_not_what_the_token_is(tmp_path: Path) -> None:
    done = dcu_headend("init", "--dir", tmp_path / "he")
    token = (tmp_path / "he" / "operator.token").read_text().strip()
    assert len(token) >= 43
    assert token not in done.output
    assert all(str(tmp_path / "he" / name) in done.output for name in ("headend.yaml", "operator.token", "ca.pem"))


def test_init_chooses_a_port_for_each_server(config: Path) -> None:
    servers = yaml.safe_load(config.read_text())["servers"]
    ports = [server["port"] for server in servers.values()]
    assert len(set(ports)) == 5
    assert all(1024 <= port <= 65535 for port in ports)


def test_init_leaves_a_head_end_alone(config: Path) -> None:
    before = config.read_bytes()
    again = dcu_headend("init", "--dir", config.parent)
    assert again.exit_code == 1
    assert "exists already" in again.output
    assert config.read_bytes() == before


def test_init_takes_given_certificates(tmp_path: Path) -> None:
    pki.make(tmp_path, ["headend.example"])
    files = ["--certificate", tmp_path / "server.pem", "--key", tmp_path / "server.key", "--ca", tmp_path / "ca.pem"]
    assert dcu_headend("init", "--dir", tmp_path / "he", *files).exit_code == 0
    document = yaml.safe_load((tmp_path / "he" / "headend.yaml").read_text())
    assert document["tls"]["certificate"] == str(tmp_path / "server.pem")
    assert not (tmp_path / "he" / "ca.key").exists()
    assert dcu_headend("init", "--dir", tmp_path / "x", *files[:2]).exit_code == 2


def test_a_wrong_configuration_is_told_with_every_problem(config: Path) -> None:
    document = yaml.safe_load(config.read_text()) | {"colour": "red", "server_id": 5}
    config.write_text(yaml.safe_dump(document))
    done = dcu_headend("serve", "--config", config)
    assert done.exit_code == 2
    assert f"{config}: colour: unknown key" in done.output
    assert f"{config}: server_id: str is expected" in done.output


def test_missing_certificates_are_told(config: Path) -> None:
    (config.parent / "server.key").unlink()
    done = dcu_headend("serve", "--config", config, "--only", "metering")
    assert done.exit_code == 2
    assert "server.key" in done.output


def test_an_empty_operator_token_is_no_token(config: Path) -> None:
    (config.parent / "operator.token").write_text("\n")
    done = dcu_headend("serve", "--config", config, "--only", "operator")
    assert done.exit_code == 2
    assert "operator.token: empty" in done.output


def test_a_database_that_cannot_be_opened_is_told(config: Path) -> None:
    document = yaml.safe_load(config.read_text()) | {"database": "missing/folder/x.db"}
    config.write_text(yaml.safe_dump(document))
    done = dcu_headend("serve", "--config", config)
    assert done.exit_code == 2
    assert "the database cannot be used" in done.output


class FakeClient:
    """Answers as a head-end whose device does, or does not, say how far an order is."""

    def __init__(self, state: str) -> None:
        self.job = {"id": 7, "device_id": "d", "kind": "get", "state": state}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def post(self, path: str, document: object = None) -> dict[str, Any]:
        del document
        return {"session_id": 1} if path.endswith("/push") else dict(self.job)

    def get(self, path: str) -> dict[str, Any]:
        return dict(self.job) if path == "/v1/jobs/7" else {"id": 3, "meters": []}


@pytest.mark.parametrize(("state", "code"), [("done", 0), ("failed", 1)])
def test_an_order_that_is_asked_for_is_one_document(
    config: Path, monkeypatch: pytest.MonkeyPatch, state: str, code: int
) -> None:
    """The job that asks for it was another one in front of it, which no script could read."""
    monkeypatch.setattr("headend.operator.commands.asking", lambda _config: FakeClient(state))
    done = dcu_headend("show-order", "--config", config, "--ask", "3")
    assert done.exit_code == code
    assert json.loads(done.stdout) == {"id": 3, "meters": []}
    assert ("has not said how far it is: job 7 is failed" in done.stderr) == (code == 1)


@pytest.mark.parametrize(
    "command", ["devices", "meters", "readings", "jobs", "alerts", "values", "sessions", "packages"]
)
def test_asking_a_head_end_that_does_not_run_is_told(config: Path, command: str) -> None:
    done = dcu_headend(command, "--config", config)
    assert done.exit_code == 1
    assert "no head-end seems to run" in done.output


def test_a_head_end_that_went_away_is_told(config: Path) -> None:
    (config.parent / "ports.json").write_text(json.dumps({"operator": 1}))
    done = dcu_headend("devices", "--config", config)
    assert done.exit_code == 1
    assert "https://127.0.0.1:1" in done.output


def test_a_key_comes_from_a_file_or_goes_into_one(config: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("00" * 32)
    both = ["--key-file", tmp_path / "key", "--new-key-file", tmp_path / "new"]
    assert dcu_headend("enrol", "--config", config, "urn:dcu:X", *both).exit_code == 2
    assert dcu_headend("enrol", "--config", config, "urn:dcu:X").exit_code == 2
    for two in (["--by-authority", "--certificate", tmp_path / "key"], [*both[:2], "--by-authority"]):
        assert dcu_headend("enrol", "--config", config, "urn:dcu:X", *two).exit_code == 2
    absent = dcu_headend("enrol", "--config", config, "urn:dcu:X", "--certificate", tmp_path / "none")
    assert (absent.exit_code, "none" in absent.output) == (1, True)
    missing = dcu_headend("enrol", "--config", config, "urn:dcu:X", "--key-file", tmp_path / "none")
    assert missing.exit_code == 1
    assert "none" in missing.output


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--default", "--nowhere"],
        ["--network", "10.0.0.0/8", "--default"],
        ["--nowhere", "--port", "80"],
        ["--port", "80"],
    ],
)
def test_a_push_policy_is_said_in_one_way(config: Path, options: list[str]) -> None:
    done = dcu_headend("push-policy", "--config", config, "urn:dcu:X", *options)
    assert (done.exit_code, "--nowhere or --default" in done.output) == (2, True)


def test_parameters_of_a_job_are_json(config: Path) -> None:
    assert dcu_headend("job", "--config", config, "urn:dcu:X", "get", "--params", "{").exit_code == 2


def test_a_release_is_a_job_s_parameter_and_its_options_go_with_it(config: Path) -> None:
    for option in ("--no-delta", "--full-after-delta"):
        done = dcu_headend("job", "--config", config, "urn:dcu:X", "firmware", option)
        assert (done.exit_code, "go with --release" in done.output) == (2, True)


# ---- for people


ROWS = [
    {"id": 7, "name": "a", "updated": 0, "last": {"state": "done"}, "other": 1},
    {"id": 12345, "name": "\x1b[31mred\n", "updated": None, "last": None, "other": {"x": "ü"}},
]


def test_a_table_is_as_wide_as_its_content_and_tells_a_terminal_nothing() -> None:
    lines = table(ROWS, ("id", "name", "last.state", "other", "missing")).splitlines()
    assert lines == [
        "   id  name       last state  other       missing",
        "    7  a          done        1",
        '12345  \ufffd[31mred\ufffd              {"x": "ü"}',
    ]


def test_a_table_without_rows_says_so_and_long_values_are_cut() -> None:
    assert table([], ("id",)) == "nothing to show"
    assert len(table([{"value": "x" * 1000}], ("value",)).splitlines()[1]) == CELL_CHARS_MAX


@pytest.mark.parametrize("at", [1e300, -1e300, float("inf")])
def test_a_time_that_no_calendar_has_stays_a_number(at: float) -> None:
    assert table([{"updated": at}], ("updated",)).splitlines()[1].strip() == str(at)


def test_a_key_file_that_cannot_be_one_is_told_before_anything_is_asked(config: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("abc")
    (config.parent / "ports.json").write_text(json.dumps({"operator": 1}))
    done = dcu_headend("enrol", "--config", config, "urn:dcu:X", "--key-file", tmp_path / "key")
    assert (done.exit_code, "64 hexadecimal digits" in done.output) == (1, True)


def test_a_new_key_does_not_stay_when_the_enrolment_failed(config: Path, tmp_path: Path) -> None:
    (config.parent / "ports.json").write_text(json.dumps({"operator": 1}))
    done = dcu_headend("enrol", "--config", config, "urn:dcu:X", "--new-key-file", tmp_path / "new")
    assert done.exit_code == 1
    assert not (tmp_path / "new").exists()
    (tmp_path / "new").write_text("mine")
    again = dcu_headend("enrol", "--config", config, "urn:dcu:X", "--new-key-file", tmp_path / "new")
    assert "File exists" in again.output
    assert (tmp_path / "new").read_text() == "mine"


def test_init_says_what_comes_next(tmp_path: Path) -> None:
    output = dcu_headend("init", "--dir", tmp_path / "he").output
    servers = yaml.safe_load((tmp_path / "he" / "headend.yaml").read_text())["servers"]
    assert f"https://127.0.0.1:{servers['operator']['port']}/" in output
    assert f"security_server.url: https://127.0.0.1:{servers['security']['port']}/ssmp" in output
    assert f"dcu-headend serve --config {tmp_path / 'he' / 'headend.yaml'}" in output


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--until", "5"], "--until goes with --since"),
        (["--first", "1", "--last", "2"], "--store, --first and --last go together"),
        (["--since", "5", "--store", "ab"], "do not go with"),
        (["--since", "yesterday"], "'yesterday' is neither"),
    ],
)
def test_a_range_that_is_asked_for_once_more_is_whole(config: Path, arguments: list[str], why: str) -> None:
    done = dcu_headend("resend", "--config", config, "urn:dcu:1", *arguments)
    assert done.exit_code == 2
    assert why in done.output


@pytest.mark.parametrize(
    ("text", "seconds"), [("1795341604.5", 1795341604.5), ("2026-11-22T10:00:04+01:00", 1795338004.0)]
)
def test_a_time_is_written_as_seconds_or_by_iso_8601(text: str, seconds: float) -> None:
    assert commands._seconds(None, None, text) == seconds  # type: ignore[arg-type]


@pytest.mark.parametrize("document", [{"a": "\ud800"}, {"\ud800": 1}, {"a": float("nan")}, {"a": float("inf")}])
def test_what_cannot_be_sent_is_said_in_a_sentence(config: Path, document: object) -> None:
    client = OperatorClient("https://127.0.0.1:1", "token", config.parent / "ca.pem")
    with pytest.raises(OperatorError, match="cannot be sent"):
        client.post("/v1/devices", document)
    with pytest.raises(OperatorError, match="cannot be sent"):
        client.get("/v1/jobs", device="\ud800")
    client.close()
    assert device_path("a\udcff/b") == "/v1/devices/a%FF%2Fb"


@pytest.mark.parametrize(
    ("params", "why"),
    [
        ('{"paths": [], "paths": ["./A"]}', "paths: stands more than once"),
        ('{"paths": ["\\ud800"]}', "paths[0]: the character U+D800"),
        ("{", "not JSON"),
        ("[]", "a JSON object is expected"),
        ('{"x": NaN}', "not JSON"),
        ('{"x": 1e999}', "x: inf is no number"),
    ],
)
def test_parameters_that_are_no_good_are_named(config: Path, params: str, why: str) -> None:
    for command in (("job", "urn:dcu:1", "get"), ("order", "urn:dcu:1", "read", "K")):
        done = dcu_headend(*command, "--config", config, "--params", params)
        assert (done.exit_code, why in done.output) == (2, True), done.output


def test_an_answer_with_what_no_terminal_can_show_is_shown_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    commands.show({"a": "\ud800 \u00e9"})
    assert json.loads(capsys.readouterr().out) == {"a": "\ud800 \u00e9"}
