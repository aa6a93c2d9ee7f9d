"""`dcu-pack`: make keys; build, sign and inspect packages. Runs on the build host; the device never imports this."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from updateagent import __version__
from updateagent.buildhost import assemble, signing
from updateagent.buildhost import passphrase as passphrases
from updateagent.buildhost import roots as pack_roots
from updateagent.buildhost.assemble import Input, PackageMetadata
from updateagent.buildhost.device import Devices, warn
from updateagent.buildhost.passphrase import passphrase
from updateagent.buildhost.signing import ALGORITHMS, Identity
from updateagent.errors import REQUEST, RequestError, UpdateError
from updateagent.layout import COMPONENT_FILE
from updateagent.package import cpio, manifest, roots
from updateagent.package.description import Kind, is_image_name
from updateagent.package.manifest import Manifest, Role
from updateagent.package.payload import Encoding
from updateagent.software import component

COMPRESSIONS = {"none": Encoding.RAW, "zlib": Encoding.ZLIB, "xz": Encoding.XZ}
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_OUT = click.Path(dir_okay=False, writable=True, path_type=Path)
_DEVICE_ROOTS = click.option("--device-roots", type=_FILE, help="What devices trust: the PEM file of their image, or "
                             "the newest list of roots. The result is verified as they do.")  # fmt: skip
_CLOCK = click.option("--clock", type=float, help="What time it is, seconds since 1970. [default: now]")
_ROLE_PREFIXES = {"file:": Role.FILE, "hook:": Role.HOOK}


@click.group()
@click.version_option(__version__, prog_name="dcu-pack", message="%(prog)s %(version)s")
def cli() -> None:
    """Build and sign update packages (.swu)."""


@cli.command()
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder for the files.")
@click.option("--algorithm", type=click.Choice(ALGORITHMS), default="rsa-3072", show_default=True)
@click.option("--encrypt", is_flag=True, help="Encrypt both keys with a passphrase.")
@passphrases.option
def keygen(out: Path, algorithm: str, *, encrypt: bool) -> None:
    """Make root.crt, root.key, signer.crt and signer.key. Existing files are never overwritten."""
    signing.keygen(out, algorithm, partial(passphrase, new=True) if encrypt else None)
    click.echo(f"made {out}/root.crt, root.key, signer.crt, signer.key; keep root.key offline")


@cli.command()
@click.option("--key", help="Signer's key: a PEM file, or a pkcs11: URI. Without it the package is left unsigned.")
@click.option("--cert", type=_FILE, help="Signer's certificate (PEM), followed by authorities between it and the root.")
@passphrases.option
@click.option("--version", "version", required=True, help="Version of this release.")
@click.option("--security-version", type=click.IntRange(min=0), help="Floor against rollback. [firmware: required]")
@click.option("--compatible", multiple=True, required=True, help="Hardware that this is for; may be repeated.")
@click.option("--image", "images", multiple=True, required=True, metavar="NAME=FILE", help="May be repeated. "
              "NAME is a slot's (rootfs, kernel), file:PATH in a software package, or hook:STEP.")  # fmt: skip
@click.option("--software", metavar="ID", help="Make a software package (SCOMO) with this id.")
@click.option("--description", default="", help="One line for people.")
@click.option("--compress", type=click.Choice(list(COMPRESSIONS)), default="none", show_default=True)
@click.option("--device", "devices", multiple=True, metavar="NAME=PATH", help="Device that a stock SWUpdate uses.")
@click.option("--requires-version", multiple=True, help="Only for devices that run this version; may be repeated.")
@click.option("--requires-agent", default="", help="Least version of the Update Agent.")
@click.option("--roots", "root_files", multiple=True, type=_FILE, help="A list of roots to carry; may be repeated.")
@_DEVICE_ROOTS
@_CLOCK
@click.option("-o", "--output", required=True, type=_OUT)
def build(
    key: str | None,
    cert: Path | None,
    images: tuple[str, ...],
    software: str | None,
    compress: str,
    devices: tuple[str, ...],
    root_files: tuple[Path, ...],
    device_roots: Path | None,
    clock: float | None,
    output: Path,
    **said: Any,
) -> None:
    """Build a package and sign it; what devices would refuse is not made."""
    release = _release(software, said)
    device_of = dict(_split(text, "--device") for text in devices)
    inputs = [_input(text, COMPRESSIONS[compress], device_of) for text in images]
    if software is not None:
        _check_component(inputs)
    with tempfile.TemporaryDirectory(dir=output.resolve().parent, prefix=".dcu-pack-") as work:
        newest = int(max(one.path.stat().st_mtime for one in inputs))
        identity = _identity(key, cert)
        made = _Made(release, inputs, identity, _signing_time(newest, identity), _lists(root_files))
        _finish(made, Path(work), key, output, Devices.of(clock, device_roots))


def _check_component(inputs: Sequence[Input]) -> None:
    """What a device would refuse at the installation. Raises `PackageError` (description, limit)."""
    files = {one.name: one.path for one in inputs if one.role is Role.FILE}
    if COMPONENT_FILE in files:
        said = component.parse(files[COMPONENT_FILE].read_bytes())
        component.check_files(said, {name: os.access(path, os.X_OK) for name, path in files.items()})


def _lists(paths: Sequence[Path]) -> list[roots.RootList]:
    return [roots.parse(path.read_bytes()) for path in paths]


@dataclass(frozen=True)
class _Made:
    """What goes into a package; without a signer it is left unsigned."""

    release: PackageMetadata
    inputs: Sequence[Input]
    identity: Identity | None
    signed_at: int
    lists: list[roots.RootList]


def _identity(key: str | None, cert: Path | None) -> Identity | None:
    if key is None:
        return None
    if cert is None:
        raise click.UsageError("--key needs --cert")
    return Identity.load(cert)


def _finish(made: _Made, work: Path, key: str | None, output: Path, devices: Devices) -> None:
    """Hash, describe, sign, write and verify."""
    if made.identity is not None:
        devices.check_signer(made.identity, made.signed_at)
    devices.check_lists(made.lists)
    prepared = [assemble.prepare(one, index, work) for index, one in enumerate(made.inputs)]
    text = assemble.describe(made.release, prepared)
    signature = None
    if key is not None and made.identity is not None:
        signature = made.identity.sign(text, made.signed_at, signing.signer(key, passphrase))
    with assemble.replaced(output) as file:
        assemble.write(file, text, signature, prepared, made.lists)
        if signature is not None:
            file.flush()
            devices.check_package(Path(file.name), output)
    if signature is None:
        click.echo(f"{output}: not signed; `dcu-pack sign` makes it a package that devices take")
    else:
        click.echo(f"{output}: {output.stat().st_size} bytes")


@cli.command()
@click.argument("old", type=_FILE)
@click.argument("new", type=_FILE)
@click.option("--key", help="Signer's key: a PEM file, or a pkcs11: URI. Without it the package is left unsigned.")
@click.option("--cert", type=_FILE, help="Signer's certificate (PEM), followed by authorities between it and the root.")
@passphrases.option
@click.option("--compress", type=click.Choice(list(COMPRESSIONS)), default="none", show_default=True,
              help="For images of which a patch would not be smaller.")  # fmt: skip
@click.option("--roots", "root_files", multiple=True, type=_FILE, help="A list of roots to carry; may be repeated.")
@_DEVICE_ROOTS
@_CLOCK
@click.option("-o", "--output", required=True, type=_OUT)
def delta(
    old: Path,
    new: Path,
    key: str | None,
    cert: Path | None,
    compress: str,
    root_files: tuple[Path, ...],
    device_roots: Path | None,
    clock: float | None,
    output: Path,
) -> None:
    """Make a package that turns release OLD into release NEW; both are packages with whole images.

    If neither is a package, OLD and NEW are images, and the output is the bare patch.
    """
    if not (_is_package(old) or _is_package(new)):
        from updateagent.buildhost import bsdiff

        with assemble.replaced(output) as file:
            bsdiff.make(old, new, file)
        click.echo(f"{output}: {output.stat().st_size} bytes of {new.stat().st_size}")
        return
    before, after = manifest.read_unverified(old), manifest.read_unverified(new)
    with tempfile.TemporaryDirectory(dir=output.resolve().parent, prefix=".dcu-pack-") as work:
        inputs = [
            assemble.delta_input(old, before, new, image, Path(work) / str(index), COMPRESSIONS[compress])
            for index, image in enumerate(after.images)
        ]
        release = PackageMetadata(
            kind=after.kind,
            version=after.version,
            security_version=after.security_version,
            compatible=after.compatible,
            software_id=after.software_id,
            description=after.description,
            requires_version=(before.version,),
            requires_agent=after.requires_agent,
        )
        made = _Made(release, inputs, _identity(key, cert), after.signed_at, _lists(root_files))
        _finish(made, Path(work), key, output, Devices.of(clock, device_roots))


def _is_package(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(6) == cpio.MAGIC


def _release(software: str | None, said: dict[str, Any]) -> PackageMetadata:
    if said["security_version"] is None:
        if software is None:
            raise click.UsageError("a firmware package needs --security-version")
        said["security_version"] = 0
    return PackageMetadata(
        kind=Kind.FIRMWARE if software is None else Kind.SOFTWARE,
        software_id=software or "",
        **said,
    )


def _split(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise click.UsageError(f"{option} {text!r}: NAME=VALUE is expected")
    return name, value


def _input(text: str, encoding: Encoding, device_of: dict[str, str]) -> Input:
    name, value = _split(text, "--image")
    role = Role.IMAGE
    for prefix, prefixed_role in _ROLE_PREFIXES.items():
        if name.startswith(prefix):
            role, name = prefixed_role, name.removeprefix(prefix)
    path = Path(value)
    if not is_image_name(role, name):
        raise click.UsageError(f"--image {text!r}: {name!r} cannot be the name of an image")
    if not path.is_file() and not path.is_block_device():
        raise click.UsageError(f"--image {text!r}: {value} is not there")
    return Input(role, name, path, encoding, device_of.get(name, ""))


def _signing_time(newest: int, identity: Identity | None) -> int:
    """The time that the signature claims, a function of the inputs so that building twice gives the same bytes.

    SOURCE_DATE_EPOCH if it is set, else `newest`, the time of the newest input; never before the validity of the
    signer, where no device would take it.
    """
    wanted = os.environ.get("SOURCE_DATE_EPOCH")
    if wanted is not None and not wanted.isdigit():
        raise click.UsageError("SOURCE_DATE_EPOCH is not a number of seconds")
    begin = 0 if identity is None else identity.signer.not_before
    if wanted and int(wanted) < begin:
        warn("SOURCE_DATE_EPOCH is before the validity of the signer, whose begin is taken")
    return max(int(wanted) if wanted else newest, begin)


@cli.command()
@click.argument("package", type=_FILE)
@click.option("--key", help="Signer's key: a PEM file, or a pkcs11: URI.")
@click.option("--cert", type=_FILE, help="Signer's certificate (PEM), followed by authorities.")
@passphrases.option
@click.option("--cms", "cms_file", type=_FILE, help="A detached CMS signature (DER) of sw-description made elsewhere.")
@click.option("--to-sign", type=_OUT, help="Write the bytes that an offline signer has to sign, and stop.")
@click.option("--signature", type=_FILE, help="The offline signer's answer to --to-sign.")
@click.option("--signed-at", type=int, help="Time of signing, seconds since 1970. [default: now]")
@_DEVICE_ROOTS
@_CLOCK
@click.option("-o", "--output", type=_OUT, help="[default: PACKAGE itself]")
def sign(
    package: Path,
    key: str | None,
    cert: Path | None,
    cms_file: Path | None,
    to_sign: Path | None,
    signature: Path | None,
    signed_at: int | None,
    device_roots: Path | None,
    clock: float | None,
    output: Path | None,
) -> None:
    """Sign a package, or replace its signature; what devices would refuse is not made.

    With --key here and now; with --cms a signature that another tool made over sw-description; or offline in two
    steps: --cert C --signed-at T --to-sign FILE, and later --cert C --signed-at T --signature FILE.
    """
    from updateagent.package import cms

    devices = Devices.of(clock, device_roots)
    text = assemble.read_description(package)
    if cms_file is not None:
        joined = cms_file.read_bytes()
    else:
        if cert is None:
            raise click.UsageError("--cert is needed")
        identity = Identity.load(cert)
        if key is None and signed_at is None:
            raise click.UsageError("both steps of an offline signature need the same --signed-at")
        when = int(devices.now) if signed_at is None else signed_at
        devices.check_signer(identity, when)
        attributes = cms.signed_attributes(text, when)
        if to_sign is not None:
            to_sign.write_bytes(attributes)
            click.echo(f"{to_sign}: sign these bytes with SHA-256 and bring the signature back with --signature")
            return
        joined = identity.join(text, attributes, _signer(key, signature))
    signed = cms.verify(text, joined)
    if cms_file is not None:
        devices.check_signer(Identity.of(signed.signer, signed.others), signed.signed_at)
    shown = output or package
    with assemble.replaced(shown) as file:
        assemble.sign_again(package, file, joined)
        file.flush()
        devices.check_package(Path(file.name), shown)


def _signer(key: str | None, signature: Path | None) -> Callable[[bytes], bytes]:
    """The key, or what an offline signer has made of the same bytes."""
    if signature is not None:
        brought = signature.read_bytes()
        return lambda _: brought
    if key is not None:
        return signing.signer(key, passphrase)
    raise click.UsageError("one of --key, --cms, --to-sign and --signature is needed")


@cli.command()
@click.argument("package", type=_FILE)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--extract", type=click.Choice(["sw-description", "sw-description.sig"]), help="Write this to stdout.")
def inspect(package: Path, as_json: bool, extract: str | None) -> None:
    """Show the description of a package. The signer is not checked: see `verify`."""
    if extract is not None:
        text = assemble.read_description(package)
        sys.stdout.buffer.write(text if extract == "sw-description" else _signature_of(package))
        return
    said = _as_dict(manifest.read_unverified(package))
    if as_json:
        click.echo(json.dumps(said, indent=2))
        return
    for key, value in said.items():
        if key != "images":
            click.echo(f"{key + ':':<18}{', '.join(value) if isinstance(value, list) else value}")
    for image in said["images"]:
        click.echo(f"{image['role']} {image['name']}: {image['size']} bytes, {image['encoding']} {image['stored']}")
        click.echo(f"  root {image['root']}")
        if image["source"]:
            click.echo(f"  from version {image['source']['version']}, root {image['source']['root']}")


def _signature_of(package: Path) -> bytes:
    with manifest.opened(package) as file:
        return manifest.read_signature(file)


def _as_dict(said: Manifest) -> dict[str, Any]:
    return {
        "kind": said.kind.value,
        "id": said.software_id,
        "version": said.version,
        "description": said.description,
        "security_version": said.security_version,
        "compatible": list(said.compatible),
        "requires_version": list(said.requires_version),
        "requires_agent": said.requires_agent,
        "signed_at": said.signed_at,
        "signer": said.signer,
        "digest": said.digest,
        "images": [
            {
                "role": image.role.value,
                "name": image.name,
                "size": image.size,
                "encoding": image.encoding.value,
                "stored": image.payload_size,
                "root": image.root.hex(),
                "source": image.delta
                and {"version": image.delta.version, "size": image.delta.size, "root": image.delta.root.hex()},
            }
            for image in said.images
        ],
    }


@cli.command()
@click.argument("package", type=_FILE)
@click.option("--roots", required=True, type=_FILE, help="What devices trust: a PEM file, or a list of roots.")
@click.option("--compatible", required=True, help="Name of the hardware.")
@click.option("--security-version", type=int, default=0, help="The device's floor against rollback.")
@click.option("--clock", type=float, help="The device's clock, seconds since 1970. [default: now]")
def verify(package: Path, roots: Path, compatible: str, security_version: int, clock: float | None) -> None:
    """Verify a package as a device would; exit with 0 or the number of the error."""
    device = replace(Devices.of(clock, roots).trust(), compatible=compatible, security_version=security_version)
    said = manifest.verify_package(package, device)
    click.echo(f"{package}: good, {said.kind.value} {said.software_id} version {said.version}".replace("  ", " "))


cli.add_command(pack_roots.group)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: errors become one line and the exit status of their number."""
    try:
        cli.main(args=arguments, prog_name="dcu-pack", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    except UpdateError as error:
        click.echo(f"dcu-pack: {error}", err=True)
        sys.exit(error.number)
    except OSError as error:
        failure = RequestError(REQUEST, str(error))
        click.echo(f"dcu-pack: {failure}", err=True)
        sys.exit(failure.number)


if __name__ == "__main__":
    main()
