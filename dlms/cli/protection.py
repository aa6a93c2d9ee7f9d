"""Authentication and ciphering of either side of an association, as options: of the commands that talk to a meter, and
of `dlms simulate`, which is one.

Symmetric keys are HEX, @FILE or from the environment; keys of elliptic curves are PEM files, as `openssl` writes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dlms.cli.keys import read_hex, read_private, read_public, read_secret
from dlms.codes import Mechanism
from dlms.errors import LocalError
from dlms.security.settings import Auth, GeneralOptions, Hls, InvocationCounters, KeyChoice, Policy, Security, open_auth

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

AUTHS = ("none", "low", "md5", "sha1", "gmac", "sha256", "ecdsa")
POLICIES = {"none": Policy.NONE, "auth": Policy.AUTHENTICATE, "encrypt": Policy.ENCRYPT, "both": Policy.BOTH}


@dataclass(frozen=True, slots=True)
class Protection:
    """What the options said."""

    auth: str
    password: str | None
    ek: str | None
    ak: str | None
    system_title: str | None
    suite: int
    policy: str
    private_key: Path | None
    peer_key: Path | None
    general_ciphering: str | None
    sign: bool
    master_key: str | None
    broadcast_key: str | None
    agreement_key: Path | None
    peer_agreement_key: Path | None


_PEM = click.Path(path_type=Path)
_OPTIONS = (
    click.option("--auth", type=click.Choice(AUTHS), default="none", show_default=True),
    click.option("--password", envvar="DLMS_PASSWORD", help="TEXT or @FILE; also $DLMS_PASSWORD"),
    click.option("--ek", envvar="DLMS_EK", help="encryption key, HEX or @FILE; also $DLMS_EK"),
    click.option("--ak", envvar="DLMS_AK", help="authentication key, HEX or @FILE; also $DLMS_AK"),
    click.option("--system-title", help="our own, 8 octets in HEX"),
    click.option("--suite", type=click.IntRange(0, 2), default=0, show_default=True, help="security suite"),
    click.option("--policy", type=click.Choice(list(POLICIES)), default="both", show_default=True),
    click.option("--private-key", type=_PEM, help="our signing key, PEM: for --auth ecdsa and --sign"),
    click.option("--peer-key", type=_PEM, help="the other side's public signing key, PEM"),
    click.option(
        "--general-ciphering",
        type=click.Choice([choice.value for choice in KeyChoice]),
        help="send general-ciphering, with that kind of key",
    ),
    click.option("--sign", is_flag=True, help="sign every APDU (general-signing), and want it signed"),
    click.option("--master-key", envvar="DLMS_MASTER_KEY", help="HEX or @FILE; also $DLMS_MASTER_KEY"),
    click.option("--broadcast-key", envvar="DLMS_BROADCAST_KEY", help="HEX or @FILE; also $DLMS_BROADCAST_KEY"),
    click.option("--agreement-key", type=_PEM, help="our key agreement key, PEM"),
    click.option("--peer-agreement-key", type=_PEM, help="the other side's public key agreement key, PEM"),
)


def grouped(name: str, kind: type, options: Sequence[Callable[[Any], Any]]) -> Callable[[FunctionT], FunctionT]:
    """A decorator that adds `options` and passes them as one argument called `name`: a dataclass `kind`, each of whose
    fields is called as an option."""

    def decorate(function: FunctionT) -> FunctionT:
        def call(**arguments: Any) -> Any:
            own = {field.name: arguments.pop(field.name) for field in fields(kind)}
            return function(**{name: kind(**own)}, **arguments)

        call.__doc__ = function.__doc__
        call.__name__ = function.__name__
        call.__dict__.update(function.__dict__)
        wrapped: Any = call
        for option in reversed(options):
            wrapped = option(wrapped)
        return wrapped  # type: ignore[no-any-return]

    return decorate


protection_options = grouped("protection", Protection, _OPTIONS)
"""Adds the options and passes them as one `protection`."""


def make_auth(protection: Protection) -> Auth:
    """The authentication that the options ask for. Raises `click.UsageError`."""
    title = read_hex("system-title", protection.system_title)
    try:
        if protection.auth == "ecdsa":
            ours, theirs = _signing_keys(protection)
            if ours is None or theirs is None or not title:
                raise click.UsageError("--auth ecdsa needs --private-key, --peer-key and --system-title")
            return Hls(Mechanism.HLS_ECDSA, private_key=ours, peer_key=theirs, system_title=title)
        secret = b"" if protection.password is None else read_secret(protection.password)
        return open_auth(protection.auth, secret, title)
    except LocalError as error:
        raise click.UsageError(str(error)) from error


def make_security(protection: Protection, counters: InvocationCounters) -> Security | None:
    """The keys that the options give, or nothing. Raises `click.UsageError`."""
    if protection.ek is None:
        if protection.auth == "gmac":
            raise click.UsageError("--auth gmac needs --ek, --ak and --system-title")
        if protection.general_ciphering or protection.sign:
            raise click.UsageError("--general-ciphering and --sign need --ek and --system-title")
        return None
    if protection.system_title is None:
        raise click.UsageError("--ek needs --system-title")
    try:
        ours, theirs = _signing_keys(protection)
        return Security(
            read_hex("system-title", protection.system_title),
            read_hex("ek", protection.ek),
            read_hex("ak", protection.ak),
            protection.suite,
            POLICIES[protection.policy],
            counters,
            general_ciphering=protection.general_ciphering is not None,
            signing_key=ours if protection.suite else None,
            peer_signing_key=theirs if protection.suite else None,
            sign=protection.sign,
            options=_general_options(protection),
        )
    except LocalError as error:
        raise click.UsageError(str(error)) from error


def _general_options(protection: Protection) -> GeneralOptions:
    return GeneralOptions(
        KeyChoice(protection.general_ciphering or KeyChoice.GLOBAL.value),
        read_hex("master-key", protection.master_key),
        read_private("agreement-key", protection.agreement_key),
        read_public("peer-agreement-key", protection.peer_agreement_key),
        read_hex("broadcast-key", protection.broadcast_key),
    )


def _signing_keys(protection: Protection) -> tuple[EllipticCurvePrivateKey | None, EllipticCurvePublicKey | None]:
    if protection.sign and not protection.suite:
        raise click.UsageError("--sign needs --suite 1 or 2")
    return read_private("private-key", protection.private_key), read_public("peer-key", protection.peer_key)
