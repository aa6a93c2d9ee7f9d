"""The data links by name: the one list that client, tool and settings ask.

To add a data link, write its module (a class that is a `dlms.link.datalink.DataLink`, with a classmethod
`from_options`) and add one entry to `DATA_LINKS`; with a meter's side, `dlms simulate` offers it, too. `LinkOptions`
grows where the link needs an option of its own.

The module of a link is loaded when the link is first opened, so that a program pays only for the links that it uses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dlms.errors import LocalError
from dlms.link.datalink import DataLink, ServerLink
from dlms.link.options import LinkOptions


@dataclass(frozen=True, slots=True)
class DataLinkType:
    """One kind of data link. `open` makes the client's end of it from options, `serve` the meter's (None: not here).

    `title` is for people. `mode_e` says that the link may begin with the opening of IEC 62056-21 mode E. `on_port` is
    False for a link that cannot use a port by itself, since a PLC bridge stands between.
    """

    name: str
    title: str
    open: Callable[[LinkOptions], DataLink]
    serve: Callable[[LinkOptions], ServerLink] | None = None
    mode_e: bool = False
    on_port: bool = True


def _hdlc(options: LinkOptions) -> DataLink:
    from dlms.link.hdlc.primary import HdlcClientLink

    return HdlcClientLink.from_options(options)


def _hdlc_meter(options: LinkOptions) -> ServerLink:
    from dlms.link.hdlc.bus import HdlcServerBus
    from dlms.link.hdlc.frames import HdlcAddress

    return HdlcServerBus(
        HdlcAddress.of(options.server),
        info_max=options.info_max,
        window=options.window,
        inactivity_timeout_s=options.inactivity_s,
    )


def _wrapper(options: LinkOptions) -> DataLink:
    from dlms.link.wrapper import WrapperLink

    return WrapperLink.from_options(options)


def _wrapper_udp(options: LinkOptions) -> DataLink:
    from dlms.link.wrapper import WrapperUdpLink

    return WrapperUdpLink.from_options(options)


def _wrapper_udp_meter(options: LinkOptions) -> ServerLink:
    from dlms.link.wrapper import WrapperServerLink

    return WrapperServerLink(options.sap_alone, packet=True)


def _wrapper_meter(options: LinkOptions) -> ServerLink:
    from dlms.link.wrapper import WrapperServerLink

    return WrapperServerLink(options.sap_alone, packet=options.packet)


def _llc(options: LinkOptions) -> DataLink:
    from dlms.link.llc import LlcLink

    return LlcLink.from_options(options)


DATA_LINKS: dict[str, DataLinkType] = {
    link.name: link
    for link in (
        DataLinkType("hdlc", "HDLC (IEC 62056-46) over a serial line or TCP", _hdlc, _hdlc_meter, mode_e=True),
        DataLinkType("wrapper", "COSEM wrapper (IEC 62056-47) over TCP or UDP", _wrapper, _wrapper_meter),
        DataLinkType("wrapper-udp", "COSEM wrapper over UDP, duplicates dropped", _wrapper_udp, _wrapper_udp_meter),
        # A base node's DLMS over TCP has the wrapper's layout, with the node where the SAP is.
        DataLinkType("llc", "4-32 LLC (IEC 61334-4-32) through a PLC bridge", _llc, _wrapper_meter, on_port=False),
    )
}


def data_link(name: str) -> DataLinkType:
    """The kind of data link called `name`. Raises `LocalError` for an unknown name."""
    found = DATA_LINKS.get(name)
    if found is None:
        raise LocalError(f"{name!r} is not a data link: use {', '.join(DATA_LINKS)}")
    return found


def open_link(name: str, options: LinkOptions) -> DataLink:
    """The client's end of the data link called `name`. Raises `LocalError` for an unknown name or unfit options."""
    return data_link(name).open(options)
