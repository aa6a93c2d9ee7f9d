"""Reading lists: which attributes a task reads, as CSV files from the image and from active software packages.

The first line names the columns. `obis`, `cls` and `attr` are required; `name`, `type`, `scaler`, `unit` and any other
are optional. `type` matters in two cases: `clock` and `dt` say that twelve octets are a date-time. `select` says which
rows of a profile, and `obis` may ask for values of billing resets (`1.0.1.8.0.VZ`), both as in
`agent.settings.reading_codes`. A list of an active software package takes the place of one of the same name in the
image. It belongs to that package: another one with a list of that name is not activated (`problem_of`). Where two are
active all the same, the one whose id comes first counts, and that is a problem (`problems`), as is a list that a task
wants and that is nowhere.
"""

from __future__ import annotations

import csv
import io
import logging
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.settings.reading_codes import ITEMS_MAX, ReadingItem, billing_of, rows_of
from dlms.cosem.obis import AttributeRef, Obis
from dlms.errors import DlmsError
from updateagent.layout import folder_name

LOG = logging.getLogger("agent.metering.scheduling.readinglist")

FILE_BYTES_MAX = 1 << 20
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
DATE_TIME_TYPES = ("dt", "clock")
NEEDED = ("obis", "cls", "attr")


class ReadingListError(Exception):
    """A list is missing or malformed; the text names file and line."""


@dataclass(frozen=True, slots=True)
class ReadingList:
    """A named list, each attribute once, in the order of the file."""

    name: str
    items: tuple[ReadingItem, ...]


def parse(name: str, text: str, file: str) -> ReadingList:
    """Parse the CSV in `text`. Raises `ReadingListError` with one line per mistake, each with `file` and line."""
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    mistakes: list[str] = []
    items: dict[tuple[AttributeRef, int | None], ReadingItem] = {}
    try:
        header = [column.strip().lower() for column in next(rows, [])]
        missing = [column for column in NEEDED if column not in header]
        if missing:
            raise ReadingListError(f"{file}:1: no column {', '.join(missing)}")
        for row in rows:
            if not any(cell.strip() for cell in row) or row[0].lstrip().startswith("#"):
                continue
            if len(items) >= ITEMS_MAX:
                raise ReadingListError(f"{file}:{rows.line_num}: more than {ITEMS_MAX} attributes")
            try:
                item = _item(dict(zip(header, row, strict=False)))
            except (ValueError, DlmsError) as error:
                mistakes.append(f"{file}:{rows.line_num}: {error}")
                continue
            if (item.ref, item.billing) in items:
                mistakes.append(f"{file}:{rows.line_num}: {item.ref} is listed twice")
            items[item.ref, item.billing] = item
    except csv.Error as error:
        mistakes.append(f"{file}:{rows.line_num}: {error}")
    if not items and not mistakes:
        mistakes.append(f"{file}:1: lists nothing")
    if mistakes:
        raise ReadingListError("\n".join(mistakes))
    return ReadingList(name, tuple(items.values()))


def _item(row: dict[str, str]) -> ReadingItem:
    def number(column: str, low: int, high: int) -> int:
        text = row.get(column, "").strip()
        if not re.fullmatch(r"-?[0-9]{1,6}", text) or not low <= int(text) <= high:
            raise ValueError(f"{column}: wanted {low} to {high}, got {text!r}")
        return int(text)

    obis, billing = billing_of(row.get("obis", "").strip())
    ref = AttributeRef(number("cls", 1, 65_535), Obis.parse(obis), number("attr", 1, 127))
    kind = row.get("type", "").strip().lower().partition(":")[0]
    selected = rows_of(ref, (row.get("select") or "").split())
    return ReadingItem(ref, row.get("name", "").strip(), kind in DATE_TIME_TYPES, billing, selected)


class ReadingLists:
    """All lists by name, read when first asked for. Thread-safe."""

    def __init__(self, image_dir: Path, software_dir: Path) -> None:
        self._image_dir = image_dir
        self._software_dir = software_dir
        self._lock = threading.Lock()
        self._cache: dict[str, ReadingList] = {}
        self._before: dict[str, ReadingList] = {}  # as they were when the set of active packages changed last
        self._wanted: dict[str, str] = {}

    def get(self, name: str) -> ReadingList:
        """Return the list of this name, read when first asked for. Raises `ReadingListError`."""
        with self._lock:
            found = self._cache.get(name)
        if found is not None:
            return found
        if not NAME.fullmatch(name):
            raise ReadingListError(f"reading list {name!r}: not a name of a list")
        for file in self._candidates(name):
            text = _read(file)
            if text is not None:
                try:
                    made = parse(name, text, str(file))
                except ReadingListError as error:
                    if name not in self._before:
                        raise
                    LOG.error("%s: the list of before stays in use", error, extra={"event": "lists.kept"})  # noqa: TRY400
                    made = self._before[name]
                with self._lock:
                    self._cache[name] = made
                return made
        raise ReadingListError(f"reading list {name}: in no active software package, and not in {self._image_dir}")

    def want(self, wanted: Mapping[str, str]) -> None:
        """Which lists tasks want, each with a task."""
        with self._lock:
            self._wanted = dict(wanted)

    def names(self) -> list[str]:
        """Return the names of all lists there are, sorted."""
        return sorted({file.stem for folder in self._folders() for file in _csv_files(folder)})

    def changed(self) -> None:
        """Forget what was read: the set of active software packages has changed."""
        with self._lock:
            self._before.update(self._cache)
            self._cache.clear()

    def problem_of(self, software_id: str, version: str) -> str:
        """Why this installed version must not become active; empty for nothing. Any list in it that is malformed, or
        that is another active package's already; a list that a task wants and that would be gone."""
        home = self._software_dir / software_id
        folder = home / folder_name([one.name for one in home.iterdir()] if home.is_dir() else [], version, "")
        try:
            for file in (*_csv_files(folder / "reading-lists"), *_csv_files(folder)):
                parse(file.stem, _read(file) or "", f"{version}/{file.relative_to(folder)}")
                owner = self._owner(file.stem)
                if owner not in ("", software_id):
                    return f"the reading list {file.stem} belongs to software {owner}"
        except ReadingListError as error:
            return str(error).splitlines()[0]
        left = {file.stem for file in (*_csv_files(folder / "reading-lists"), *_csv_files(folder))}
        left |= {file.stem for other in self._folders(without=software_id) for file in _csv_files(other)}
        gone = sorted((self._wanted.keys() & set(self.names())) - left)
        return f"the reading list {gone[0]}, which task {self._wanted[gone[0]]} reads, is not in it" if gone else ""

    def problems(self) -> list[str]:
        """What is wrong with the lists that are in use, one line for each, by name."""
        found: list[str] = []
        for name in self.names():
            try:
                file = next(file for file in self._candidates(name) if file.exists())
                parse(name, _read(file) or "", str(file))
            except (ReadingListError, StopIteration) as error:
                found.append(str(error).splitlines()[0] if str(error) else f"reading list {name}: gone")
            owners = self._owners(name)
            if len(owners) > 1:
                found.append(f"reading list {name}: in software {' and '.join(owners)}; that of {owners[0]} counts")
        gone = sorted(self._wanted.keys() - set(self.names()))
        return [*found, *(f"reading list {name}: nowhere, and task {self._wanted[name]} reads it" for name in gone)]

    def _owner(self, name: str) -> str:
        """The id of the active package that has this list; empty for none."""
        return next(iter(self._owners(name)), "")

    def _owners(self, name: str) -> list[str]:
        return [
            package.name for package in self._packages()
            if any((folder / f"{name}.csv").exists() for folder in (package / "reading-lists", package))
        ]  # fmt: skip

    def _candidates(self, name: str) -> Iterable[Path]:
        return (folder / f"{name}.csv" for folder in self._folders())

    def mark(self) -> tuple[tuple[str, str], ...]:
        """Which version of which package is active: another value when somebody has changed that."""
        return tuple((package.name, str(package.resolve())) for package in self._packages())

    def _packages(self) -> list[Path]:
        try:
            return sorted(path for path in (self._software_dir / "active").iterdir() if path.is_dir())
        except OSError:
            return []

    def _folders(self, without: str = "") -> Sequence[Path]:
        packages = [package for package in self._packages() if package.name != without]
        return [*(folder for package in packages for folder in (package / "reading-lists", package)), self._image_dir]


def _csv_files(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.suffix == ".csv" and NAME.fullmatch(path.stem)]
    except OSError:
        return []


def _read(file: Path) -> str | None:
    try:
        with file.open("rb") as stream:
            raw = stream.read(FILE_BYTES_MAX + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ReadingListError(f"{file}: cannot be read: {error.strerror}") from error
    if len(raw) > FILE_BYTES_MAX:
        raise ReadingListError(f"{file}: larger than {FILE_BYTES_MAX} bytes")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ReadingListError(f"{file}: not UTF-8 at byte {error.start}") from error
