"""Reading lists: what a CSV file asks for, and mistakes named by file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.metering.scheduling.readinglist import ReadingListError, ReadingLists, parse
from agent.settings.reading_codes import ITEMS_MAX
from dlms.cosem.obis import AttributeRef

REPO = Path(__file__).resolve().parents[4]


def test_the_residential_list_has_its_108_codes() -> None:
    lists = ReadingLists(REPO / "etc" / "reading-lists", Path("/nonexistent"))
    found = lists.get("residential-108")
    assert len(found.items) == 108
    assert found.items[0].ref == AttributeRef.parse("1/0.0.42.0.0.255/2")
    assert [str(item.ref) for item in found.items if item.date_time][:1] == ["8/0.0.1.0.0.255/2"]
    assert sum(item.date_time for item in found.items) == 9


def test_columns_may_stand_in_any_order_and_more_of_them_are_ignored() -> None:
    made = parse("x", "Attr,note,OBIS,cls\n2,hello,1-0:1.8.0,3\n\n# a remark\n", "x.csv")
    assert [str(item.ref) for item in made.items] == ["3/1.0.1.8.0.255/2"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "x.csv:1: no column obis, cls, attr"),
        ("obis,cls\n", "x.csv:1: no column attr"),
        ("obis,cls,attr\n", "x.csv:1: lists nothing"),
        ("obis,cls,attr\n1.0.1.8.0.255,3\n", "x.csv:2: attr: wanted 1 to 127, got ''"),
        ("obis,cls,attr\n1.0.1.8.0.255,3,0\n", "x.csv:2: attr: wanted 1 to 127, got '0'"),
        ("obis,cls,attr\n1.0.1.8.0.255,x,2\n", "x.csv:2: cls: wanted 1 to 65535, got 'x'"),
        ("obis,cls,attr\n1.0.1.8.0.256,3,2\n", "x.csv:2: '1.0.1.8.0.256': a value group is more than 255"),
        ("obis,cls,attr\nwhat,3,2\n", "x.csv:2: 'what' is not an OBIS code such as 1.0.1.8.0.255"),
        (
            "obis,cls,attr\n1.0.1.8.0.255,3,2\n1-0:1.8.0,3,2\n",
            "x.csv:3: 3/1.0.1.8.0.255/2 is listed twice",
        ),
        ('obis,cls,attr\n"1.0.1.8.0.255,3,2\n', "x.csv:2: unexpected end of data"),
    ],
)
def test_a_mistake_is_named_with_file_and_line(text: str, error: str) -> None:
    with pytest.raises(ReadingListError) as caught:
        parse("x", text, "x.csv")
    assert str(caught.value) == error


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(ReadingListError) as caught:
        parse("x", "obis,cls,attr\nbad,3,2\n1.0.1.8.0.255,3,2\n1.0.2.8.0.255,3,zwei\n", "x.csv")
    assert [line.split(": ")[0] for line in str(caught.value).splitlines()] == ["x.csv:2", "x.csv:4"]


@pytest.mark.slow
def test_a_list_without_end_is_refused() -> None:
    rows = "".join(f"1.0.{n // 250}.{n % 250}.0.255,3,2\n" for n in range(ITEMS_MAX + 1))
    with pytest.raises(ReadingListError, match="more than"):
        parse("x", "obis,cls,attr\n" + rows, "x.csv")


def folders(tmp_path: Path) -> ReadingLists:
    (tmp_path / "image").mkdir()
    (tmp_path / "image" / "a.csv").write_text("obis,cls,attr\n1.0.1.8.0.255,3,2\n")
    return ReadingLists(tmp_path / "image", tmp_path / "software")


def test_a_list_of_an_active_software_package_takes_the_place_of_the_image_s(tmp_path: Path) -> None:
    lists = folders(tmp_path)
    assert str(lists.get("a").items[0].ref) == "3/1.0.1.8.0.255/2"
    installed = tmp_path / "software" / "store" / "lists-2"
    (installed / "reading-lists").mkdir(parents=True)
    (installed / "reading-lists" / "a.csv").write_text("obis,cls,attr\n1.0.2.8.0.255,3,2\n")
    (installed / "b.csv").write_text("obis,cls,attr\n1.0.3.8.0.255,3,2\n")
    (tmp_path / "software" / "active").mkdir()
    (tmp_path / "software" / "active" / "lists").symlink_to(installed)
    assert str(lists.get("a").items[0].ref) == "3/1.0.1.8.0.255/2", "read again only when told"
    lists.changed()
    assert str(lists.get("a").items[0].ref) == "3/1.0.2.8.0.255/2"
    assert str(lists.get("b").items[0].ref) == "3/1.0.3.8.0.255/2"
    assert lists.names() == ["a", "b"]


@pytest.mark.parametrize("name", ["../a", "a/b", "", ".hidden", "x" * 65])
def test_a_name_cannot_lead_out_of_the_folders(tmp_path: Path, name: str) -> None:
    with pytest.raises(ReadingListError, match="not a name"):
        folders(tmp_path).get(name)


def test_an_unknown_list_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ReadingListError, match="in no active software package, and not in"):
        folders(tmp_path).get("none")


def test_a_list_that_is_no_text_is_refused(tmp_path: Path) -> None:
    lists = folders(tmp_path)
    (tmp_path / "image" / "bad.csv").write_bytes(b"obis,cls,attr\n\xff\xfe")
    with pytest.raises(ReadingListError, match="not UTF-8 at byte 14"):
        lists.get("bad")


def test_a_list_selects_rows_and_asks_for_values_of_billing_resets() -> None:
    rows = ("1.0.99.1.0.255,7,2,last 96 columns 1.0.1.8.0.255", "1.0.1.8.0.VZ-1,3,2,", "1.0.1.8.0.255,3,2,")
    text = "\n".join(("obis,cls,attr,select", *rows))
    load, before, now = parse("x", text, "x.csv").items
    assert (load.rows.last, [str(name) for name in load.rows.columns]) == (96, ["1.0.1.8.0.255"])
    assert (before.billing, now.billing) == (1, None)
    assert before.ref == now.ref
    with pytest.raises(ReadingListError, match=r"x.csv:2: .*only the buffer"):
        parse("x", "obis,cls,attr,select\n1.0.1.8.0.255,3,2,last 3\n", "x.csv")


GOOD = "obis,cls,attr\n1.0.1.8.0.255,3,2\n"
OTHER = "obis,cls,attr\n1.0.2.8.0.255,3,2\n"
BROKEN = "obis,cls,attr\nwhat,3,2\n"


class Installed:
    """Software packages with reading lists, beside a list of the image."""

    def __init__(self, folder: Path) -> None:
        self.software = folder / "software"
        (self.software / "active").mkdir(parents=True)
        image = folder / "image"
        image.mkdir()
        (image / "base.csv").write_text(GOOD)
        self.lists = ReadingLists(image, self.software)

    def install(self, software_id: str, version: str, text: str, name: str = "base") -> None:
        folder = self.software / software_id / version / "reading-lists"
        folder.mkdir(parents=True)
        (folder / f"{name}.csv").write_text(text)

    def activate(self, software_id: str, version: str) -> None:
        link = self.software / "active" / software_id
        link.unlink(missing_ok=True)
        link.symlink_to(f"../{software_id}/{version}")
        self.lists.changed()

    def read(self, name: str = "base") -> str:
        return str(self.lists.get(name).items[0].ref)


def test_a_version_with_a_broken_list_is_named_before_it_is_active(tmp_path: Path) -> None:
    installed = Installed(tmp_path)
    installed.install("a", "1", GOOD)
    installed.install("a", "2", BROKEN)
    assert installed.lists.problem_of("a", "1") == ""
    said = "2/reading-lists/base.csv:2: 'what' is not an OBIS code such as 1.0.1.8.0.255"
    assert installed.lists.problem_of("a", "2") == said


def test_a_list_belongs_to_the_package_that_has_it(tmp_path: Path) -> None:
    installed = Installed(tmp_path)
    installed.install("b", "1", OTHER)
    assert installed.lists.problem_of("b", "1") == ""  # in the place of the image's, which is nobody's
    installed.activate("b", "1")
    assert installed.read() == "3/1.0.2.8.0.255/2"
    installed.install("a", "1", GOOD)
    assert installed.lists.problem_of("a", "1") == "the reading list base belongs to software b"
    installed.install("b", "2", GOOD)
    assert installed.lists.problem_of("b", "2") == ""


def test_a_version_without_a_list_that_a_task_reads_is_named_before_it_is_active(tmp_path: Path) -> None:
    """It was activated, the task stopped, and nothing but a line of the log said so."""
    installed = Installed(tmp_path)
    for version, name in (("1", "load"), ("2", "other"), ("3", "Load")):
        installed.install("a", version, GOOD, name)
    installed.activate("a", "1")
    assert installed.lists.problem_of("a", "2") == ""  # nobody reads it
    installed.lists.want({"load": "t1", "base": "t2"})
    gone = "the reading list load, which task t1 reads, is not in it"
    assert [installed.lists.problem_of("a", version) for version in ("1", "2", "3")] == ["", gone, gone]
    installed.activate("a", "2")  # by hand
    assert installed.lists.problems() == ["reading list load: nowhere, and task t1 reads it"]
    assert installed.lists.problem_of("a", "3") == ""  # it is no worse with that
    installed.activate("a", "1")
    assert installed.lists.problems() == []


def test_a_list_that_two_active_packages_have_is_a_problem(tmp_path: Path) -> None:
    installed = Installed(tmp_path)
    for software_id in ("a", "b"):
        installed.install(software_id, "1", GOOD, "load")
        installed.activate(software_id, "1")  # by hand
    assert installed.lists.problems() == ["reading list load: in software a and b; that of a counts"]


def test_a_list_that_breaks_by_hand_leaves_the_one_of_before_in_use_and_is_named(tmp_path: Path) -> None:
    installed = Installed(tmp_path)
    installed.install("a", "1", OTHER)
    installed.install("a", "2", BROKEN)
    installed.activate("a", "1")
    mark = installed.lists.mark()
    assert installed.read() == "3/1.0.2.8.0.255/2"
    assert installed.lists.problems() == []
    installed.activate("a", "2")
    assert installed.lists.mark() != mark
    assert installed.read() == "3/1.0.2.8.0.255/2"
    (problem,) = installed.lists.problems()
    assert "a/reading-lists/base.csv:2: 'what'" in problem
