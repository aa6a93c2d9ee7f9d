"""`dcu-pack roots`: make the next list of roots that devices trust, and collect the signatures it needs."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import click

from updateagent.buildhost import assemble, passphrase, signing
from updateagent.buildhost.device import Devices, warn
from updateagent.errors import REQUEST, ROOTS, PackageError, RequestError
from updateagent.package import certificate, roots, trust

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_OUT = click.Path(dir_okay=False, writable=True, path_type=Path)


@click.group("roots")
def group() -> None:
    """Change which roots devices trust, and revoke certificates."""


@group.command()
@click.option("--version", required=True, type=click.IntRange(1, roots.VERSION_MAX), help="One more than the last.")
@click.option("--threshold", required=True, type=click.IntRange(1, trust.ROOTS_MAX), help="Signatures a list needs.")
@click.option("--root", "root_files", required=True, multiple=True, type=_FILE, help="A root (PEM); may be repeated.")
@click.option("--revoke", multiple=True, help="A certificate (PEM file, or its SHA-256); may be repeated.")
@click.option("--issued", type=int, help="Seconds since 1970. [default: now]")
@click.option("--from", "before", type=_FILE, help="What devices trust now: a list, or the PEM file of version 0.")
@click.option("--clock", type=float, help="What time it is, seconds since 1970. [default: now]")
@click.option("-o", "--output", required=True, type=_OUT)
def new(
    version: int,
    threshold: int,
    root_files: tuple[Path, ...],
    revoke: tuple[str, ...],
    issued: int | None,
    before: Path | None,
    clock: float | None,
    output: Path,
) -> None:
    """Make an unsigned list. It must have every root and every revocation that is to be in force."""
    devices = Devices.of(clock, before)
    found = [one for path in root_files for one in trust.parse_pem(path.read_bytes())]
    revoked = [name for text in revoke for name in _fingerprints(text)]
    made = roots.make(version, threshold, int(devices.now) if issued is None else issued, found, revoked)
    _check(made, devices)
    _write(output, made)


def _check(made: roots.RootList, devices: Devices) -> None:
    """What devices would not follow, whoever signs it. Raises `PackageError` (roots)."""
    devices.check_issued(made.version, made.issued)
    valid = [root for root in made.roots if root.not_after > devices.now]
    if not certificate.unrevoked(valid, made.revoked):
        raise PackageError(ROOTS, "no root of the list could certify anything: all have expired, or are revoked")
    for root in made.roots:
        devices.warn_of_end(root.not_after, f"root {root.fingerprint[:16]}")
    if devices.trusted is None:
        warn("it was not said what devices trust now (--from): whether this list follows was not looked at")
        return
    here = devices.trust()
    if made.version != here.root_version + 1:
        raise PackageError(ROOTS, f"roots version {made.version} does not follow {here.root_version}")
    missing = sorted(here.revoked - made.revoked)
    if missing:
        raise PackageError(ROOTS, f"{missing[0]} is revoked now and would not be any more")


def _fingerprints(text: str) -> list[str]:
    """One fingerprint, or those of a file of certificates."""
    if re.fullmatch(r"[0-9a-f]{64}", text):
        return [text]
    path = Path(text)
    if not path.is_file():
        raise RequestError(REQUEST, f"{text} is neither a file nor a SHA-256 in lower-case hexadecimal")
    return [one.fingerprint for one in trust.parse_pem(path.read_bytes())]


@group.command()
@click.argument("listed", type=_FILE)
@click.option("--cert", required=True, type=_FILE, help="Certificate of the root that signs.")
@click.option("--key", help="Its key: a PEM file, or a pkcs11: URI.")
@passphrase.option
@click.option("--to-sign", type=_OUT, help="Write the bytes that an offline root has to sign, and stop.")
@click.option("--signature", type=_FILE, help="The offline root's answer to --to-sign.")
def sign(listed: Path, cert: Path, key: str | None, to_sign: Path | None, signature: Path | None) -> None:
    """Add the signature of one root, an old one or a new one."""
    found = roots.parse(listed.read_bytes())
    root = signing.Identity.load(cert).signer
    if to_sign is not None:
        to_sign.write_bytes(found.text)
        click.echo(f"{to_sign}: sign these bytes with SHA-256 and bring the signature back with --signature")
        return
    if signature is not None:
        made = signature.read_bytes()
    elif key is not None:
        made = signing.signer(key, passphrase.passphrase)(found.text)
    else:
        raise click.UsageError("one of --key, --to-sign and --signature is needed")
    _write(listed, roots.with_signature(found, root, made))


@group.command()
@click.argument("listed", type=_FILE)
@click.option("--from", "before", type=_FILE, help="What devices trust now: a list, or the PEM file of version 0.")
@click.option("--clock", type=float, help="What time it is, seconds since 1970. [default: now]")
def show(listed: Path, before: Path | None, clock: float | None) -> None:
    """Show a list and its signatures; with --from, say whether devices will follow it."""
    found = roots.parse(listed.read_bytes())
    when = datetime.fromtimestamp(found.issued, UTC)
    click.echo(f"version {found.version}, issued {when:%Y-%m-%d %H:%M:%S} UTC, {found.threshold} signatures needed")
    for root in found.roots:
        click.echo(f"root    {root.fingerprint} {'signed' if found.signed_by([root]) else 'has not signed'}")
    for name in sorted(found.revoked):
        click.echo(f"revoked {name}")
    if before is not None:
        roots.accept(Devices.of(clock, before).trust(), [listed.read_bytes()])
        click.echo("devices will follow")


def _write(path: Path, found: roots.RootList) -> None:
    with assemble.replaced(path) as file:
        file.write(roots.emit(found))
    click.echo(f"{path}: version {found.version}, {len(found.signatures)} signatures")
