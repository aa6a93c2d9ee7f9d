"""Logging of the process: one line per event on the error output, in a bounded file, or in systemd's journal.

INFO and above are for what an operator acts on; such lines carry `extra={"event": "dm.session.end"}`, an id that stays
the same when the wording changes. Secrets that were told to `hide()` are blotted out wherever they would appear,
tracebacks included: the last line of defence, not the first.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

FILES_KEPT = 2  # dcu.log and one older: flash is small
SECRET_CHARS_MIN = 6  # shorter ones would redact ordinary words
MESSAGE_CHARS_MAX = 4096  # a peer's text quoted in a message must not fill the disk
REDACTED = "[secret]"

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class Secrets:
    """The texts that no log line may show."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hidden: tuple[str, ...] = ()

    def hide(self, *secrets: str | bytes) -> None:
        """Redact `secrets` from now on; bytes also in hexadecimal. Those below `SECRET_CHARS_MIN` are left alone."""
        forms: list[str] = []
        for secret in secrets:
            if isinstance(secret, bytes):
                forms += [secret.hex(), secret.hex().upper(), secret.decode("utf-8", "replace")]
            else:
                forms.append(secret)
        with self._lock:
            fresh = {form for form in forms if len(form) >= SECRET_CHARS_MIN}
            # Longest first, so that a secret which contains another one is replaced whole.
            self._hidden = tuple(sorted(fresh.union(self._hidden), key=len, reverse=True))

    def redact(self, text: str) -> str:
        for secret in self._hidden:
            if secret in text:
                text = text.replace(secret, REDACTED)
        return text


SECRETS = Secrets()  # one per process, like the logging tree that it guards


def hide(*secrets: str | bytes) -> None:
    """Keep `secrets` out of every log line of this process."""
    SECRETS.hide(*secrets)


class LineFormatter(logging.Formatter):
    """`2026-11-22T10:00:00.123Z INFO agent.dm dm.session.end: message`, one line per record but for tracebacks."""

    def __init__(self, secrets: Secrets = SECRETS, *, stamped: bool = True) -> None:
        super().__init__()
        self._secrets = secrets
        self._stamped = stamped

    def format(self, record: logging.LogRecord) -> str:
        event = getattr(record, "event", "")
        message = record.getMessage()
        if len(message) > MESSAGE_CHARS_MAX:
            message = message[:MESSAGE_CHARS_MAX] + "…"
        # A newline in text that came from a peer must not look like a line of ours.
        message = message.replace("\r", "\\r").replace("\n", "\\n")
        stamp = f"{_timestamp(record.created)} " if self._stamped else ""
        line = f"{stamp}{record.levelname} {record.name}{' ' + event if event else ''}: {message}"
        if record.exc_info:
            line = f"{line}\n{self.formatException(record.exc_info)}"
        return self._secrets.redact(line)


def _timestamp(created: float) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(created))}.{int(created * 1000) % 1000:03d}Z"


def setup(level: str, file: Path | None = None, file_bytes_max: int = 1 << 20, stream: TextIO | None = None) -> None:
    """Send this process's log to `file`, else to the journal where systemd runs us and its extra is installed, else to
    the error output. Raises `OSError` when `file` cannot be opened."""
    handler = _file_handler(file, file_bytes_max) if file else (_journal_handler() or _stream_handler(stream))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(_LEVELS[level])
    logging.captureWarnings(capture=True)
    logging.raiseExceptions = False  # a full disk below the log file must not reach the daemon's output for ever
    threading.excepthook = _thread_excepthook


def _file_handler(file: Path, file_bytes_max: int) -> logging.Handler:
    from logging.handlers import (
        RotatingFileHandler,  # brings pickle and queues; a log that goes elsewhere needs neither
    )

    file.parent.mkdir(parents=True, exist_ok=True)
    handler = RotatingFileHandler(file, maxBytes=file_bytes_max, backupCount=FILES_KEPT - 1, encoding="utf-8")
    handler.setFormatter(LineFormatter())
    return handler


def _stream_handler(stream: TextIO | None) -> logging.Handler:
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(LineFormatter())
    return handler


def _journal_handler() -> logging.Handler | None:
    """Return a handler for the journal when our error output *is* the journal (systemd.exec(5), JOURNAL_STREAM)."""
    declared = os.environ.get("JOURNAL_STREAM", "")
    try:
        here = os.fstat(2)
    except OSError:
        return None
    if declared != f"{here.st_dev}:{here.st_ino}":
        return None
    try:
        from systemd import journal
    except ImportError:
        return None
    return JournalHandler(journal.send)


class JournalHandler(logging.Handler):
    """Sends records to systemd's journal with fields to search by: `journalctl DCU_EVENT=dm.session.end`.

    systemd-python has a handler of its own, which also sends the arguments of a message as they are; secrets among them
    would get past the formatter. Hence only `send` of it is used.
    """

    def __init__(self, send: Callable[..., object]) -> None:
        super().__init__()
        self._send = send
        self.setFormatter(LineFormatter(stamped=False))

    def emit(self, record: logging.LogRecord) -> None:
        fields = {
            "PRIORITY": _priority(record.levelno),
            "SYSLOG_IDENTIFIER": "dcu-agent",
            "LOGGER": record.name,
            "THREAD_NAME": record.threadName or "",
            "CODE_FILE": record.pathname,
            "CODE_LINE": record.lineno,
            "CODE_FUNC": record.funcName,
        }
        event = getattr(record, "event", "")
        if event:
            fields["DCU_EVENT"] = event
        try:
            self._send(self.format(record), **fields)
        except (OSError, ValueError):  # the journal is down
            self.handleError(record)


def _priority(level: int) -> int:
    """Return the priority of syslog(3) for a level of `logging`."""
    for floor, priority in ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6)):
        if level >= floor:
            return priority
    return 7


def _thread_excepthook(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_value is not None:
        logging.getLogger("agent").critical(
            "uncaught exception in thread %s",
            arguments.thread.name if arguments.thread else "?",
            exc_info=arguments.exc_value,
            extra={"event": "thread.died"},
        )
