"""The log: one line a record, a stable event id, and never a secret."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import pytest

from agent import log
from agent.log import LineFormatter, Secrets


def record(message: str, *args: object, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("agent.dm", logging.INFO, "x.py", 1, message, args, None)
    made.created = 1_800_000_000.25
    made.__dict__.update(extra)
    return made


def test_a_line_has_time_level_logger_event_and_message() -> None:
    line = LineFormatter(Secrets()).format(record("took %d s", 3, event="dm.session.end"))
    assert line == "2027-01-15T08:00:00.250Z INFO agent.dm dm.session.end: took 3 s"


def test_a_line_without_event_has_none() -> None:
    assert LineFormatter(Secrets(), stamped=False).format(record("hello")) == "INFO agent.dm: hello"


def test_text_of_a_peer_cannot_make_a_line_of_its_own() -> None:
    line = LineFormatter(Secrets()).format(record("server said %s", "x\n2027 INFO forged: all is well\r"))
    assert "\n" not in line
    assert "\r" not in line


def test_a_long_message_is_cut() -> None:
    assert len(LineFormatter(Secrets()).format(record("%s", "x" * 100_000))) < log.MESSAGE_CHARS_MAX + 200


@pytest.mark.parametrize("shown", ["token-4711-abc", "746f6b656e2d343731312d616263", "746F6B656E2D343731312D616263"])
def test_a_hidden_secret_never_appears_in_any_of_its_forms(shown: str) -> None:
    secrets = Secrets()
    secrets.hide(b"token-4711-abc")
    line = LineFormatter(secrets).format(record("header was %s", shown))
    assert shown not in line
    assert log.REDACTED in line


def test_a_secret_inside_a_traceback_is_hidden_too() -> None:
    secrets = Secrets()
    secrets.hide("correct horse")
    made = record("failed")
    try:
        int("bad password correct horse")
    except ValueError as error:
        made.exc_info = (type(error), error, error.__traceback__)
    assert "correct horse" not in LineFormatter(secrets).format(made)


def test_very_short_secrets_do_not_blot_out_ordinary_words() -> None:
    secrets = Secrets()
    secrets.hide("a")
    secrets.hide("")
    assert "[secret]" not in LineFormatter(secrets).format(record("a message"))


def test_output_goes_to_the_given_stream_at_the_given_level() -> None:
    stream = io.StringIO()
    log.setup("warning", stream=stream)
    logging.getLogger("agent.x").info("quiet")
    logging.getLogger("agent.x").warning("loud")
    assert "loud" in stream.getvalue()
    assert "quiet" not in stream.getvalue()


def test_a_log_file_stays_within_its_bound(tmp_path: Path) -> None:
    file = tmp_path / "logs" / "dcu.log"
    log.setup("info", file, file_bytes_max=4096)
    for number in range(500):
        logging.getLogger("agent.x").info("line %d of many", number)
    assert sorted(path.name for path in file.parent.iterdir()) == ["dcu.log", "dcu.log.1"]
    assert all(path.stat().st_size <= 4096 for path in file.parent.iterdir())


def test_setup_twice_does_not_log_twice(tmp_path: Path) -> None:
    stream = io.StringIO()
    log.setup("info", tmp_path / "old.log")
    log.setup("info", stream=stream)
    logging.getLogger("agent.x").warning("once")
    assert stream.getvalue().count("once") == 1
    assert "once" not in (tmp_path / "old.log").read_text()


class Journal:
    """What systemd's `journal.send` was called with."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, object]]] = []
        self.down = False

    def send(self, message: str, **fields: object) -> None:
        if self.down:
            raise OSError("no journal")
        self.sent.append((message, fields))


def test_the_journal_gets_fields_to_search_by_and_no_raw_arguments() -> None:
    journal = Journal()
    log.hide("token-4711-abc")
    handler = log.JournalHandler(journal.send)
    made = record("header was %s", "token-4711-abc", event="uplink.failed")
    made.levelno = logging.WARNING
    handler.emit(made)
    ((message, fields),) = journal.sent
    assert message == "INFO agent.dm uplink.failed: header was [secret]"
    assert (fields["DCU_EVENT"], fields["PRIORITY"], fields["LOGGER"]) == ("uplink.failed", 4, "agent.dm")
    assert all(name.isupper() for name in fields)
    assert "token-4711-abc" not in repr(fields)


def test_a_journal_that_is_down_stops_nobody() -> None:
    journal = Journal()
    journal.down = True
    logging.raiseExceptions = False
    log.JournalHandler(journal.send).emit(record("lost"))


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.DEBUG, 7), (logging.INFO, 6), (logging.WARNING, 4), (logging.ERROR, 3), (logging.CRITICAL, 2)],
)
def test_levels_become_the_priorities_of_syslog(level: int, priority: int) -> None:
    journal = Journal()
    made = record("x")
    made.levelno = level
    log.JournalHandler(journal.send).emit(made)
    assert journal.sent[0][1]["PRIORITY"] == priority
