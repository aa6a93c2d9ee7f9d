"""`dcuctl wbxml`: without a daemon; what is no document is one line and exit code 1."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from agent.cli.__main__ import EXIT_REFUSED, main
from agent.cli.wbxml import DOCUMENTS_MAX
from omadm.syncml import codec, wbxml
from omadm.syncml.codec import DM_WBXML, DM_XML
from omadm.syncml.document import TNDS_WBXML
from omadm.syncml.messages import Add, Item, Meta, Replace, SyncML
from tests.omadm.syncml.samples import EVERYTHING, HEADER, TREE, Generator


@pytest.fixture(autouse=True)
def no_daemon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DCU_CONTROL_SOCKET", str(tmp_path / "no socket"))


def run(
    capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch, what: str, data: bytes
) -> tuple[int, bytes, str]:
    """`dcuctl wbxml WHAT -` with this input: exit code, output, errors."""
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    try:
        code = main(["wbxml", what, "-"])
    except SystemExit as end:
        code = int(str(end.code))
    out, err = capsysbinary.readouterr()
    return code, out, err.decode()


MESSAGES = [EVERYTHING, SyncML(HEADER), *(Generator(seed).message() for seed in range(25))]


@pytest.mark.parametrize("message", MESSAGES)
def test_what_is_decoded_and_encoded_again_means_the_same(
    message: SyncML, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    binary = codec.encode(message, DM_WBXML)
    code, text, err = run(capsysbinary, monkeypatch, "decode", binary)
    assert (code, err) == (0, "")
    code, again, err = run(capsysbinary, monkeypatch, "encode", text)
    assert (code, err) == (0, "")
    assert codec.decode(again, DM_WBXML) == codec.decode(binary, DM_WBXML)


def test_an_xml_message_is_encoded_whatever_its_prefixes(
    capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    message = SyncML(HEADER, (Add("1", (Item(target="./x", meta=Meta("chr"), data="a < b"),)),))
    text = codec.encode(message, DM_XML)
    assert codec.decode(run(capsysbinary, monkeypatch, "encode", text)[1], DM_WBXML) == message


def test_a_document_inside_data_is_shown_as_elements_and_octets_as_base64(
    capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    items = (Item(target="./x", data=TREE), Item(target="./y", meta=Meta("bin"), data=b"\xff\x00"))
    binary = codec.encode(SyncML(HEADER, (Replace("1", items),)), DM_WBXML)
    _, text, _ = run(capsysbinary, monkeypatch, "decode", binary)
    assert b"<MgmtTree" in text
    assert b"<Data>/wA=</Data>" in text
    assert text.startswith(b"<?xml")
    assert b"\n  <SyncHdr>\n    <VerDTD>1.2</VerDTD>" in text


def test_a_tree_alone_is_a_document(
    capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    binary = codec.encode_tnds(TREE, TNDS_WBXML)
    _, text, _ = run(capsysbinary, monkeypatch, "decode", binary)
    _, again, _ = run(capsysbinary, monkeypatch, "encode", text)
    assert run(capsysbinary, monkeypatch, "decode", again)[1] == text


def test_unknown_tokens_and_pages_are_shown(
    capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, text, _ = run(
        capsysbinary, monkeypatch, "decode", b"\x02\xa4\x01\x6a\x05a<b&\0\x6d\x3f\x00\x07\x05\x04\x00\x01"
    )
    assert code == 0
    for name in (b"<unknown-0-0x3f/>", b"<unknown-7-0x05", b"<unknown-a-b-"):
        assert name in text


@pytest.mark.parametrize(
    ("what", "data"),
    [
        ("decode", b""),
        ("decode", b"<SyncML/>"),
        ("decode", b"\x02\xa4\x01\x6a\x00\x6d"),
        ("decode", b"\x02\xa4\x01\x6a\x00\x6d\x03a\x01b\0\x01"),
        ("decode", b"\x02" * ((1 << 20) + 1)),
        ("encode", b""),
        ("encode", b"<SyncML>"),
        ("encode", b"<Nothing/>"),
        ("encode", b"<!DOCTYPE SyncML><SyncML/>"),
        ("encode", b"\x02\xa4\x01\x6a\x00\x2d"),
    ],
)
def test_what_is_no_document_is_one_line_and_exit_code_1(
    what: str, data: bytes, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = run(capsysbinary, monkeypatch, what, data)
    assert (code, out) == (EXIT_REFUSED, b"")
    assert err.count("\n") == 1
    assert err.startswith("dcuctl: -: ")


def test_documents_inside_each_other_are_shown_to_a_depth_and_the_rest_as_base64(
    capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six kilobytes hold 600 of them: each was read within the one before, until Python gave up."""
    head = b"\x02\xa4\x01\x6a\x00"
    document = head + b"\x2d"
    for _ in range(600):
        document = head + b"\x6d\xc3" + wbxml.number(len(document)) + document + b"\x01"
    code, out, err = run(capsysbinary, monkeypatch, "decode", document)
    assert (code, err) == (0, "")
    assert out.count(b"<SyncML") == DOCUMENTS_MAX


def test_a_file_is_read_and_a_missing_one_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "message"
    file.write_bytes(codec.encode(SyncML(HEADER), DM_WBXML))
    assert main(["wbxml", "decode", str(file)]) == 0
    assert "<SyncHdr>" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        main(["wbxml", "decode", str(tmp_path / "absent")])
    assert end.value.code == EXIT_REFUSED
    assert capsys.readouterr().err == f"dcuctl: {tmp_path / 'absent'}: No such file or directory\n"


@pytest.mark.process
@pytest.mark.parametrize(
    ("redirected", "said"),
    [
        ("<&-", "dcuctl: -: standard input is closed\n"),
        ("<{file} >/dev/full", "dcuctl: standard output: No space left on device\n"),
    ],
)
def test_an_end_that_is_closed_or_full_is_one_line(tmp_path: Path, redirected: str, said: str) -> None:
    file = tmp_path / "document"
    file.write_bytes(codec.encode(SyncML(HEADER), DM_WBXML))
    command = f"{sys.executable} -m agent.cli wbxml decode - {redirected.format(file=file)}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)
