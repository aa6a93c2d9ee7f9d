"""`dcuctl ping`, `dcuctl read`, `dcuctl order …`: ask something of meters now, and see what became of it."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import click

from agent.cli import show

ASK_AGAIN_S = 0.3
NOT_DONE = 1  # exit code: not every meter has done it

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


class Context(Protocol):
    """Where to ask, and how to print the answer."""

    def ask(self, command: str, **arguments: object) -> Any: ...

    def tell(self, result: object, as_json: bool, text: Callable[[], str]) -> None: ...


def order_options(function: FunctionT) -> FunctionT:
    """The options of every command that makes an order."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="The result as JSON, without progress."),
        click.option("--wait/--no-wait", default=True, help="Wait for the result. [default: yes]"),
        click.option("--deadline", "deadline_s", type=click.FloatRange(1), default=300.0, show_default=True,
                     help="Seconds within which a meter may be asked."),
        click.option("--priority", type=click.IntRange(0, 9), default=5, show_default=True, help="The highest first."),
    ):  # fmt: skip
        function = option(function)
    return function


def typed_json(_context: click.Context, _parameter: click.Parameter, text: str | None) -> Any:
    """Parse the argument VALUE. What is no value is refused by the daemon, which checks it before anything is sent."""
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        raise click.BadParameter(f'{text!r} is no JSON; a value is a pair of tag and value, as ["u16",5]') from None


def parameters_json(_context: click.Context, _parameter: click.Parameter, text: str) -> Any:
    """Parse the option --params: an object."""
    try:
        found = json.loads(sys.stdin.read() if text == "-" else text)
    except ValueError as error:
        raise click.BadParameter(f"no JSON: {error}") from None
    if not isinstance(found, dict):
        raise click.BadParameter("an object is expected")
    return found


def make(context: Context, kind: str, meters: Sequence[str], parameters: Mapping[str, Any], **options: Any) -> None:
    """Make an order and show what becomes of it. Exits with `NOT_DONE` when a meter has not done it."""
    as_json, wait = options["as_json"], options["wait"]
    found = context.ask(
        "order",
        id=os.urandom(16).hex(),
        kind=kind,
        meters=list(meters),
        parameters=dict(parameters),
        priority=options["priority"],
        deadline_s=options["deadline_s"],
    )
    if not wait:
        context.tell(found, as_json, lambda: f"order {found['id']} is accepted; `dcuctl order show` says more")
        return
    follow(context, found, as_json=as_json)


def follow(context: Context, found: Mapping[str, Any], *, as_json: bool) -> None:
    """Show an order until it is over: a line whenever a meter's state changes, then the results."""
    shown: dict[str, str] = {}
    while True:
        if not as_json:
            for meter in found["meters"]:
                line = progress(meter)
                if line != shown.get(meter["meter"], f"{meter['meter']} queued"):
                    shown[meter["meter"]] = line
                    click.echo(show.printable(line), err=True)
        if found["over"]:
            break
        time.sleep(ASK_AGAIN_S)
        found = context.ask("order-status", id=found["id"])
    context.tell(found, as_json, lambda: show_order(found, time.time()))
    if any(meter["state"] != "done" for meter in found["meters"]):
        sys.exit(NOT_DONE)


def progress(meter: Mapping[str, Any]) -> str:
    """Return how far an order is on one meter, in one line."""
    attempt = f", attempt {meter['attempts']}" if meter["attempts"] > 1 else ""
    far = how_far(meter.get("progress"))
    why = f": {meter['error']}" if meter["error"] else ""
    return f"{meter['meter']} {meter['state']}{attempt}{far and f', {far}'}{why}"


def how_far(told: Mapping[str, Any] | None) -> str:
    """Return the progress of what takes several steps; of an image in tenths, as a line for each block is no help."""
    if not told:
        return ""
    if "blocks" in told and told.get("stage") in (None, "blocks"):
        return f"{10 * (10 * int(told['blocks']) // max(int(told['of']), 1))} % of {told['of']} blocks"
    if "step" in told:
        return f"step {told['step']} of {told['of']}"
    return str(told.get("stage", ""))


def show_order(found: Mapping[str, Any], now: float) -> str:
    """Return one order as text: what, who, when; then what became of it per meter."""
    head = show.facts(
        [
            ("order", found["id"]),
            ("kind", show.printable(f"{found['kind']} {json.dumps(found['parameters'])}")),
            ("asked", show.printable(f"{show.when(found['asked_at'], now)} by {found['asked_by']}")),
        ]
    )
    rows = [
        (meter["meter"], meter["state"], show.when(meter["at"], now), show.printable(value_text(meter)))
        for meter in found["meters"]
    ]
    return f"{head}\n\n{show.table(('meter', 'state', 'since', 'result'), rows)}"


def value_text(meter: Mapping[str, Any]) -> str:
    """Return the result of one meter on one line. "unknown" is told from "failed": nobody may take it for either."""
    value, error = meter["value"], meter["error"]
    if meter["state"] == "unknown":
        return f"it is not known whether it was carried out: {error}"
    if isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
        text = ", ".join(_reading_text(entry) for entry in value)
    else:
        text = "" if value is None else json.dumps(value)
    return f"{text} ({error})" if text and error else text or error


def _reading_text(entry: Mapping[str, Any]) -> str:
    if entry.get("error"):
        return f"{entry['code']}: {entry['error']}"
    scaler = f" e{entry['scaler']}" if entry.get("scaler") else ""
    return f"{entry['code']} = {json.dumps(entry.get('raw'))}{scaler}"


def show_orders(found: Sequence[Mapping[str, Any]], now: float) -> str:
    """Return the orders as a table, the newest first."""
    if not found:
        return "no orders yet"
    rows = []
    for each in found:
        states = sorted({str(meter["state"]) for meter in each["meters"]})
        counted = ", ".join(f"{sum(m['state'] == state for m in each['meters'])} {state}" for state in states)
        rows.append(
            (each["id"], each["kind"], show.printable(each["asked_by"]), show.when(each["asked_at"], now), counted)
        )
    return show.table(("order", "kind", "asked by", "asked", "meters"), rows)


# ------------------------------------------------------------------------------------------------------- commands


@click.command()
@click.argument("meters", nargs=-1, required=True)
@order_options
@click.pass_obj
def ping(context: Context, /, meters: Sequence[str], **options: Any) -> None:
    """Associate with METERS and have each say its name."""
    make(context, "ping", meters, {}, **options)


@click.command()
@click.argument("meter")
@click.argument("codes", nargs=-1, required=True)
@order_options
@click.pass_obj
def read(context: Context, /, meter: str, codes: Sequence[str], **options: Any) -> None:
    """Read attributes of METER now. CODES are class/code/attribute, as 3/1.0.1.8.0.255/2."""
    make(context, "read", [meter], {"codes": list(codes)}, **options)


@click.group()
def order() -> None:
    """Orders to meters: each is carried out at most once, and kept with who asked and what came of it."""


@order.command("set")
@click.argument("meter")
@click.argument("code")
@click.argument("value", callback=typed_json)
@order_options
@click.pass_obj
def set_attribute(context: Context, /, meter: str, code: str, value: Any, **options: Any) -> None:
    """Set an attribute of METER: CODE is class/code/attribute, VALUE typed JSON as '["u16",5]'."""
    make(context, "set", [meter], {"code": code, "value": value}, **options)


@order.command("action")
@click.argument("meter")
@click.argument("code")
@click.argument("value", callback=typed_json, required=False)
@order_options
@click.pass_obj
def call_method(context: Context, /, meter: str, code: str, value: Any, **options: Any) -> None:
    """Call a method of METER: CODE is class/code/method, VALUE its parameter as typed JSON."""
    parameters = {"code": code} if value is None else {"code": code, "value": value}
    make(context, "action", [meter], parameters, **options)


@order.command()
@click.argument("meters", nargs=-1, required=True)
@click.option("--set", "set_it", is_flag=True, help="Set the clock; otherwise its deviation is only reported.")
@click.option("--min", "min_s", type=click.FloatRange(0), default=5.0, show_default=True, help="Seconds let alone.")
@click.option("--max", "max_s", type=click.FloatRange(0), default=600.0, show_default=True, help="Beyond: an alarm.")
@order_options
@click.pass_obj
def clock(context: Context, /, meters: Sequence[str], set_it: bool, min_s: float, max_s: float, **options: Any) -> None:
    """Compare the clocks of METERS with ours, and set those that are wrong by --min to --max seconds."""
    make(context, "clock", meters, {"set": set_it, "min_s": min_s, "max_s": max_s}, **options)


def _plain(kind: str, text: str) -> None:
    @order.command(kind, help=text)
    @click.argument("meters", nargs=-1, required=True)
    @order_options
    @click.pass_obj
    def command(context: Context, /, meters: Sequence[str], **options: Any) -> None:
        make(context, kind, meters, {}, **options)


def _with_parameters(kind: str, text: str) -> None:
    @order.command(kind, help=text)
    @click.argument("meters", nargs=-1, required=True)
    @click.option("--params", callback=parameters_json, required=True, help="Parameters as JSON; `-` reads them.")
    @order_options
    @click.pass_obj
    def command(context: Context, /, meters: Sequence[str], params: Mapping[str, Any], **options: Any) -> None:
        make(context, kind, meters, params, **options)


_with_parameters("limiter", "Set thresholds, durations and emergency profile of METERS. Needs orders.supply.")
_with_parameters("clock-parameters", "Set time zone and daylight saving of METERS.")
_with_parameters("display", "Set what the display of METERS shows.")
_with_parameters("tariff", "Write an activity calendar into METERS, and activate it now or at a time.")
_with_parameters("special-days", "Insert, delete or replace special days of METERS.")
_with_parameters("keys", "Transfer the keys that are provisioned for METERS, wrapped under their master key.")
_with_parameters("firmware", "Bring an image into METERS and activate it. Needs orders.firmware in dcu.yaml.")

_plain("disconnect", "Disconnect the supply of METERS. Needs orders.supply in dcu.yaml.")
_plain("reconnect", "Reconnect the supply of METERS. Needs orders.supply in dcu.yaml.")
_plain("demand-reset", "End the billing period of METERS, which resets their maximum demand.")


@order.command("list")
@click.option("--limit", type=click.IntRange(1, 320), default=20, show_default=True, help="The newest so many.")
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
@click.pass_obj
def list_orders(context: Context, /, limit: int, as_json: bool) -> None:
    """The orders that are kept: who asked for what, when, and what came of it."""
    found = context.ask("orders", limit=limit)
    context.tell(found, as_json, lambda: show_orders(found, time.time()))


@order.command("show")
@click.argument("order_id", metavar="ORDER")
@click.option("--follow", "follow_it", is_flag=True, help="Go on until it is over.")
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
@click.pass_obj
def show_one(context: Context, /, order_id: str, follow_it: bool, as_json: bool) -> None:
    """One order with its results."""
    found = context.ask("order-status", id=order_id)
    if follow_it:
        follow(context, found, as_json=as_json)
    else:
        context.tell(found, as_json, lambda: show_order(found, time.time()))


@order.command()
@click.argument("order_id", metavar="ORDER")
@click.pass_obj
def cancel(context: Context, /, order_id: str) -> None:
    """Cancel what has not begun of an order."""
    found = context.ask("order-cancel", id=order_id)
    click.echo(show_order(found, time.time()))
