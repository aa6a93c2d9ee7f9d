"""Messages for the codec tests: one of each kind, and any number from a seed."""

from __future__ import annotations

import random
from dataclasses import replace

from omadm.syncml.messages import (
    Add,
    Alert,
    Atomic,
    Chal,
    Command,
    Copy,
    Cred,
    Delete,
    Exec,
    Get,
    Item,
    Meta,
    MgmtTree,
    Replace,
    Results,
    Sequence,
    Status,
    SyncHdr,
    SyncML,
    TndsNode,
)

TNDS_WBXML = "application/vnd.syncml.dmtnds+wbxml"

HEADER = SyncHdr(
    "1A2",
    1,
    target="https://dm.example/dm",
    source="urn:dcu:KR-000042",
    source_name="urn:dcu:KR-000042",
    meta=Meta(max_msg_size=16_384, max_obj_size=65_536),
)

TREE = MgmtTree(
    (
        TndsNode(
            "main",
            path="./DMAcc",
            format="node",
            type="urn:oma:mo:oma-dm-dmacc:1.0",
            acl="Get=headend&Replace=headend",
            children=(
                TndsNode("AppID", format="chr", type="text/plain", value="w7"),
                TndsNode("Nonce", format="bin", value=b"\x00\xff\x10"),
                TndsNode("Count", format="int", value="7", ver_no=3, size=1, tstamp="20260102T030405Z", title="Zähler"),
                TndsNode("Empty", format="node"),
            ),
        ),
        TndsNode("Name", path="./AMI", format="chr", value="", type="text/plain"),
    ),
    man="KETI",
    mod="DCU-1",
)

EVERY_KIND: tuple[Command, ...] = (
    Alert("1", 1201),
    Replace("2", (Item(source="./DevInfo/Man", meta=Meta("chr", "text/plain"), data="K & <Söhne>\r\n\t]]>"),)),
    Add("3", (Item(target="./A/B", meta=Meta("int"), data="5"), Item(target="./A/C", meta=Meta("node")))),
    Add("4", (Item(target="./Inbox", meta=Meta("bin", TNDS_WBXML), data=TREE),)),
    Replace("5", (Item(target="./A/bin", data=b"\x00\x01\xfe\xff"),), meta=Meta("bin", "application/octet-stream")),
    Delete("6", (Item(target="./A/B"),), no_resp=True),
    Copy("7", (Item(target="./A/E", source="./A/C"),)),
    Get("8", (Item(target="./DevDetail?list=Struct"),)),
    Exec("9", (Item(target="./FUMO/Firmware/DownloadAndUpdate"),), correlator="c-17"),
    Atomic(
        "10", (Replace("11", (Item(target="./X", data="1"),)), Sequence("12", (Delete("13", (Item(target="./Y"),)),)))
    ),
    Alert(
        "14",
        1226,
        (Item(source="./FUMO/Firmware", meta=Meta("chr", "org.example.alert", "critical"), data="<ResultCode>200</>"),),
        correlator="c-17",
    ),
    Alert("15", None),
    Status("16", "1", "0", "SyncHdr", 200, ("t",), ("s",), Chal("syncml:auth-MAC", "b64", b"\x01\x02nonce")),
    Status("17", "1", "2", "Replace", 401, cred=Cred("dTpw", "syncml:auth-basic"), items=(Item(data="why"),)),
    Results(
        "18",
        "8",
        (Item(source="./DevInfo", meta=Meta("node"), data="Man/Mod"), Item(source="./DevInfo/Man", data="")),
        msg_ref="1",
        meta=Meta(type="text/plain"),
        target_ref="./DevInfo",
        source_ref="./DevInfo",
    ),
    Replace("19", (Item(target="./Big", meta=Meta("chr", size=100_000), data="first part", more_data=True),)),
)

EVERYTHING = SyncML(
    replace(HEADER, cred=Cred("abc=", "syncml:auth-md5"), resp_uri="https://dm.example/dm?s=1", target_name="Srv"),
    EVERY_KIND,
    final=False,
)


class Generator:
    """Random messages that both encodings carry unchanged."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def message(self) -> SyncML:
        pick = self._random
        header = replace(
            HEADER,
            session_id=f"{pick.randrange(0x10000):X}",
            msg_id=pick.randrange(1000),
            meta=pick.choice([None, Meta(max_msg_size=pick.randrange(1, 1 << 20))]),
        )
        commands = tuple(self._command(depth=0) for _ in range(pick.randrange(8)))
        return SyncML(header, commands, final=pick.random() < 0.5)

    def _command(self, depth: int) -> Command:
        pick, cmd_id = self._random, str(self._random.randrange(1, 10_000))
        kinds: tuple[type[Add | Replace | Delete | Copy | Get], ...] = (Add, Replace, Delete, Copy, Get)
        choice = pick.randrange(10 if depth < 3 else 8)
        if choice < 5:
            return kinds[choice](cmd_id, self._items(), self._meta(), pick.random() < 0.2)
        if choice == 5:
            return Exec(cmd_id, self._items(), pick.choice([None, "corr"]), self._meta())
        if choice == 6:
            return Alert(cmd_id, pick.choice([None, 1201, 1226]), self._items(), pick.choice([None, "c"]))
        if choice == 7:
            return Status(cmd_id, "1", "2", "Get", pick.randrange(200, 520), ("./a",), (), items=self._items())
        inner = tuple(self._command(depth + 1) for _ in range(pick.randrange(4)))
        if choice == 8:
            return Atomic(cmd_id, inner, self._meta())
        return Sequence(cmd_id, inner, self._meta())

    def _items(self) -> tuple[Item, ...]:
        return tuple(self._item() for _ in range(self._random.randrange(3)))

    def _item(self) -> Item:
        pick = self._random
        data_format = pick.choice(["bin", "chr", "int", "b64"])
        data: str | bytes | None = pick.choice([None, self._text()])
        if data_format in ("bin", "b64"):
            data = pick.randbytes(pick.randrange(20))
        return Item(
            target=pick.choice([None, "./A/" + (self._word() or "x")]),
            source=pick.choice([None, "./B"]),
            target_name=None,
            meta=Meta(data_format, pick.choice([None, "text/plain"]), size=pick.choice([None, 0, 70_000])),
            data=data,
            more_data=pick.random() < 0.1,
        )

    def _meta(self) -> Meta | None:
        return self._random.choice([None, Meta(type="text/plain", mark="minor")])

    def _word(self) -> str:
        return "".join(self._random.choice("abcXYZ09._-äé漢") for _ in range(self._random.randrange(12)))

    def _text(self) -> str:
        return "".join(self._random.choice("ab <>&\"']\t\n\r;äé漢🙂") for _ in range(self._random.randrange(30)))
