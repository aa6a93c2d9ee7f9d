"""`dcuctl network` and the parts of `dcuctl meters` that are about one meter."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

from agent.cli.client import RefusedError
from agent.cli.show import age, facts, printable, stamp, table, when
from omadm.orders import NETWORK_ORDERS

ANSWER_S = 15.0  # a base node has 5 s for each order, and others may be before this one
ASK_EVERY_S = 0.3


def number(text: str) -> int:
    """A whole number, decimal or 0x…. Raises `ValueError`."""
    return int(text, 0)


@click.command()
@click.argument("port", default="")
@click.option("--history", "limit", type=click.IntRange(0, 512), default=20, show_default=True, help="Events shown.")
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
@click.pass_obj
def network(context: Any, port: str, limit: int, as_json: bool) -> None:
    """The networks behind the ports: nodes by level, signal, and what happened."""
    found = context.ask("network", port=port, limit=limit)
    context.tell(found, as_json, lambda: show_networks(found, time.time(), one=bool(port)))


@click.command("base-node")
@click.argument("port")
@click.argument("kind", type=click.Choice(NETWORK_ORDERS))
@click.argument("what")
@click.argument("value", default="")
@click.pass_obj
def base_node(context: Any, port: str, kind: str, what: str, value: str) -> None:
    """Give the base node of PORT an order and wait for its answer.

    \b
    get ATTRIBUTE          read an attribute of its PIB, such as 0x0050
    set ATTRIBUTE OCTETS   write one, the value in hexadecimal
    promote, demote EUI    have a node become a switch, or a terminal again
    allow, deny EUI        put a node on the base node's own whitelist, or take it off
    """
    if kind in ("get", "set"):
        try:
            pib = int(what, 0)
        except ValueError as error:
            raise click.UsageError(f"{what!r} is not the number of an attribute") from error
        arguments: dict[str, object] = {"pib": pib, "value": value}
    else:
        arguments = {"value": what}
    order = context.ask("network-order", port=port, kind=kind, **arguments)
    until = time.monotonic() + ANSWER_S
    while order["state"] == "waiting" and time.monotonic() < until:
        time.sleep(ASK_EVERY_S)
        order = context.ask("network-result", number=order["number"])
    if order["state"] != "done":
        raise RefusedError(f"{order['state']}: {order['answer'] or 'no answer yet'}")
    click.echo(order["answer"] or "done")


@click.command("show")
@click.argument("meter")
@click.option("--objects", is_flag=True, help="With the list of its objects.")
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
@click.pass_obj
def show_meter(context: Any, meter: str, objects: bool, as_json: bool) -> None:
    """Everything that is known of METER: id, EUI-48, or port/address."""
    found = context.ask("meter", meter=meter, objects=objects)
    context.tell(found, as_json, lambda: meter_text(found, time.time()))


@click.command("add")
@click.argument("port")
@click.option("--address", type=number, default="0", help="On the bus or among the port's meters.")
@click.option("--eui", "eui48", default="", help="EUI-48 of the modem, behind a base node.")
@click.option("--url", default="", help="socket://host:port, or udp://address:port, for meters with the COSEM wrapper.")
@click.option("--wport", type=number, default="0", help="Its logical device behind the wrapper.  [default: 1]")
@click.option("--baudrate", type=number, default="0", help="Of this meter.  [default: the port's]")
@click.option("--parity", type=click.Choice(("none", "even", "odd")), help="Of this meter.  [default: the port's]")
@click.option("--mode-e", "mode_e", is_flag=True, help="It begins with the opening of IEC 62056-21 mode E.")
@click.option("--mode-e-address", default="", help="Its number in that opening.")
@click.pass_obj
def add_meter(
    context: Any,
    port: str,
    address: int,
    eui48: str,
    url: str,
    wport: int,
    baudrate: int,
    parity: str | None,
    mode_e: bool,
    mode_e_address: str,
) -> None:
    """Know a meter of PORT before it is heard."""
    if mode_e_address and not mode_e:
        raise click.UsageError("--mode-e-address has no use without --mode-e")
    found = context.ask(
        "add-meter",
        port=port,
        address=address,
        eui48=eui48,
        url=url,
        wport=wport,
        baudrate=baudrate,
        parity=parity or "",
        mode_e=mode_e_address if mode_e else None,
    )
    click.echo(f"added: {found['added']}")


def show_networks(found: Sequence[Mapping[str, Any]], now: float, *, one: bool) -> str:
    """Return the networks as text; where all are shown, ports without anything to tell are left out."""
    shown = [network_text(it, now) for it in found if one or it["at"] or it["history"]]
    return "\n\n".join(shown) or "no base node has told anything of its network yet"


def network_text(found: Mapping[str, Any], now: float) -> str:
    """Return one network: its nodes level by level, then its newest events."""
    nodes = found["nodes"]
    here = sum(node["registered"] for node in nodes)
    switches = sum(node["registered"] and node["state"] == "switch" for node in nodes)
    listed = f", listed {age(now - found['listed'])}" if found["listed"] else ", not listed yet"
    head = f"port {found['port']}: {here} nodes of {len(nodes)} known, {switches} of them switches"
    parts = [f"{head}{listed}" if found["at"] else f"port {found['port']}: nothing known of its network"]
    if nodes:
        parts.append(table(_NODE_HEAD, [_node_row(node, now) for node in nodes]))
    if found["history"]:
        rows = [
            (stamp(change["at"]), change["kind"], change["eui48"], _switch(change["sid"]), printable(change["detail"]))
            for change in found["history"]
        ]
        parts.append(table(("when", "event", "node", "below", ""), rows))
    return "\n\n".join(parts)


_NODE_HEAD = ("level", "node", "meter", "state", "below", "signal", "SNR", "modulation", "promoted", "last heard")


def _node_row(node: Mapping[str, Any], now: float) -> tuple[object, ...]:
    level = "?" if node["level"] is None else str(node["level"])
    return (
        level,
        f"{'  ' * (node['level'] or 0)}{node['eui48']}",
        printable(node["meter_id"]) or "-",
        node["state"] if node["registered"] else "gone",
        node["path"][0] if node["path"] else _switch(node["sid"]),
        "-" if node["rx_level"] is None else str(node["rx_level"]),
        "-" if node["snr"] is None else str(node["snr"]),
        node["modulation"] or "-",
        node["promotions"],
        when(node["last_heard"], now),
    )


def _switch(sid: int) -> str:
    return "-" if sid < 0 else "base node" if sid == 0 else f"switch {sid}"


def meter_text(found: Mapping[str, Any], now: float) -> str:
    """Return everything that is known of one meter."""
    counters, offered, objects, node = (found[name] for name in ("counters", "offered", "objects", "node"))
    failures = ", ".join(f"{count} {kind}" for kind, count in counters.items() if kind != "read" and count)
    listed = f"{objects['count']}, digest {objects['digest'][:16]}" if objects["digest"] else objects["why_none"]
    pairs: list[tuple[str, object]] = [
        ("meter", printable(found["meter_id"])),
        ("model", printable(found["model"] or "not known")),
        ("firmware", printable(found["firmware"]) or "not known"),
        ("reached", f"{found['key']}, address {found['address']}{', added by hand' if found['added'] else ''}"),
        ("state", found["state"]),
        ("first heard", when(found["joined"], now)),
        ("last read", when(found["last_success"], now)),
        ("last error", printable(found["last_error"]) or "none"),
        ("security", found["security"] or "not known"),
        ("visits", f"{counters['read']} good; {failures or 'none failed'}"),
    ]
    if offered:
        lists = "no lists" if not offered["get_with_list"] else "lists"
        pairs += [
            ("takes", f"APDUs of {offered['pdu_size']} octets, {lists}"),
            ("services", ", ".join(offered["services"])),
        ]
    pairs.append(("objects", printable(listed) or "not read yet"))
    if node:
        path = " > ".join(node["path"]) or "the base node"
        signal = "" if node["rx_level"] is None else f", signal {node['rx_level']}, SNR {node['snr']}"
        pairs.append(("network", f"{node['state']} at level {node['level']}, below {path}{signal}"))
    text = facts(pairs)
    return "\n".join([text, "", *map(printable, found["object_list"])]) if found.get("object_list") else text
