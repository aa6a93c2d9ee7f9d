"""The XML reader's limits and refusals."""

from __future__ import annotations

import random

import pytest

from omadm.syncml import xml
from omadm.syncml.codec import DM_XML, decode, encode
from omadm.syncml.element import BODY_BYTES_MAX, DEPTH_MAX, ELEMENTS_MAX, Element
from omadm.syncml.errors import SyncmlError
from omadm.syncml.messages import SyncmlValueError
from tests.omadm.syncml.samples import EVERYTHING, Generator


@pytest.mark.parametrize(
    "document",
    [
        b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>',
        b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>',
        b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
        b"<!DOCTYPE SyncML><SyncML/>",
    ],
)
def test_document_types_and_entities_are_refused(document: bytes) -> None:
    with pytest.raises(SyncmlError, match="document type"):
        xml.read(document)


@pytest.mark.parametrize(
    "document",
    [b"", b" ", b"text", b"<a>", b"<a></b>", b"<a/><b/>", b"<a>&undefined;</a>", b"<a b=1/>", b"<p:a/>", b"\xff\xfe<"],
)
def test_what_is_not_xml_is_refused(document: bytes) -> None:
    with pytest.raises(SyncmlError):
        xml.read(document)


def test_an_encoding_nobody_knows_is_refused() -> None:
    with pytest.raises(SyncmlError):
        xml.read(b"<?xml version='1.0' encoding='klingon'?><a/>")


@pytest.mark.slow
def test_depth_number_and_size_are_limited() -> None:
    deep = DEPTH_MAX + 1
    with pytest.raises(SyncmlError, match="deeper"):
        xml.read(b"<a>" * deep + b"</a>" * deep)
    with pytest.raises(SyncmlError, match="elements"):
        xml.read(b"<a>" + b"<b/>" * ELEMENTS_MAX + b"</a>")
    with pytest.raises(SyncmlError, match="longer"):
        xml.read(b"<a>" + b" " * BODY_BYTES_MAX + b"</a>")


def test_the_error_names_the_byte() -> None:
    with pytest.raises(SyncmlError) as caught:
        xml.read(b"<a><b></a>")
    assert caught.value.where == 8


def test_comments_and_processing_instructions_are_skipped() -> None:
    root = xml.read(b"<?xml version='1.0'?><!-- c --><a>x<?pi y?><!-- d -->z</a>")
    assert root.text() == "xz"


def test_binary_left_in_the_tree_is_our_mistake() -> None:
    with pytest.raises(SyncmlValueError):
        xml.write(Element("Data", content=[b"\x00"]))


@pytest.mark.parametrize("seed", range(40))
def test_damaged_documents_are_read_or_refused_and_nothing_else(seed: int) -> None:
    pick = random.Random(seed)
    body = bytearray(encode(EVERYTHING if seed % 2 else Generator(seed).message(), DM_XML))
    for _ in range(20):
        damaged = bytearray(body)
        for _ in range(pick.randrange(1, 4)):
            at = pick.randrange(len(damaged))
            damaged[at : at + pick.randrange(3)] = pick.randbytes(pick.randrange(3))
        try:
            decode(bytes(damaged), DM_XML)
        except SyncmlError:
            continue
