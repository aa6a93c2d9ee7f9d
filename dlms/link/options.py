"""The data links by name, each made from one set of options. A new link is one more entry of `LINKS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dlms.errors import LocalError
from dlms.link.datalink import DataLink

BITS_AN_OCTET = 10  # on an asynchronous line: start, eight data, stop


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """What a data link may want to know. `server` is a SAP; for HDLC also `"upper/lower"`. Times are seconds.

    `info_max` and `window` are proposed for HDLC; `baudrate` is None where the port is no asynchronous line.
    """

    client: int = 16
    server: int | str = 1
    info_max: int = 128
    window: int = 1
    packet: bool = False
    baudrate: int | None = None
    timeout_s: float | None = None

    @property
    def sap(self) -> int:
        """The server's SAP: the upper part of an HDLC address."""
        text = str(self.server).partition("/")[0]
        if not text.isdigit():
            raise LocalError(f"{self.server!r} is not a server address")
        return int(text)


def _hdlc(options: LinkOptions) -> DataLink:
    from dlms.link.hdlc.primary import ACK_TIMEOUT_S, HdlcClientLink

    return HdlcClientLink(
        options.client,
        options.server,
        info_max=options.info_max,
        window=options.window,
        ack_timeout_s=options.timeout_s or ACK_TIMEOUT_S,
        octet_s=BITS_AN_OCTET / options.baudrate if options.baudrate else 0.0,
    )


def _wrapper(options: LinkOptions) -> DataLink:
    from dlms.link.wrapper import ANSWER_TIMEOUT_S, WrapperLink

    timeout_s = options.timeout_s or ANSWER_TIMEOUT_S
    return WrapperLink(options.client, options.sap, packet=options.packet, answer_timeout_s=timeout_s)


def _llc(options: LinkOptions) -> DataLink:
    from dlms.link.llc import ANSWER_TIMEOUT_S, LlcLink

    return LlcLink(options.client, options.sap, answer_timeout_s=options.timeout_s or ANSWER_TIMEOUT_S)


LINKS: dict[str, Callable[[LinkOptions], DataLink]] = {"hdlc": _hdlc, "wrapper": _wrapper, "llc": _llc}


def open_link(name: str, options: LinkOptions) -> DataLink:
    """The data link called `name`. Raises `LocalError` for an unknown name or unfit options."""
    factory = LINKS.get(name)
    if factory is None:
        raise LocalError(f"{name!r} is not a data link: use {', '.join(LINKS)}")
    return factory(options)
