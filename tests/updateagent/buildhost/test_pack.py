"""`dcu-pack`, and what Debian's swupdate, openssl and cpio say of its packages."""

from __future__ import annotations

import json
import os
import random
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from updateagent.buildhost import pack, passphrase
from updateagent.buildhost.signing import Identity
from updateagent.errors import COMPATIBLE, DOWNGRADE, REQUEST, SIGNATURE_MISSING, PackageError, RequestError

ROOTFS = bytes(range(256)) * 100
EPOCH = int(time.time()) - 86_400
SOFTHSM = Path("/usr/lib/softhsm/libsofthsm2.so")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets of keys that `dcu-pack keygen` made."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("own", "other"):
        assert run("keygen", "--out", folder / name, "--algorithm", "rsa-2048").exit_code == 0
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(pack.cli, [str(argument) for argument in arguments])


def exit_status(*arguments: object) -> int:
    """The exit status of the program as installed, whose errors have numbers."""
    with pytest.raises(SystemExit) as caught:
        pack.main([str(argument) for argument in arguments])
        raise SystemExit(0)
    assert isinstance(caught.value.code, int)
    return caught.value.code


class Bench:
    """A folder with inputs, and the options that every build needs."""

    def __init__(self, folder: Path, keys: Path) -> None:
        self.folder, self.keys = folder, keys
        (folder / "rootfs.img").write_bytes(ROOTFS)
        (folder / "list.csv").write_text("1.0.1.8.0.255\n")
        for name in ("rootfs.img", "list.csv"):
            os.utime(folder / name, (EPOCH, EPOCH))

    def build(self, out: str = "fw.swu", *more: object, sign: bool = True, version: str = "2") -> Path:
        own = self.keys / "own"
        signing = ("--key", own / "signer.key", "--cert", own / "signer.crt") if sign else ()
        said = ("--version", version, "--security-version", "2", "--compatible", "dcu-a1")
        if "--software" not in more:
            more = ("--image", f"rootfs={self.folder / 'rootfs.img'}", *more)
        done = run("build", *signing, *said, *more, "-o", self.folder / out)
        assert done.exit_code == 0, done.output
        return self.folder / out

    def verify(self, package: Path, *more: object, roots: str = "own") -> int:
        return exit_status(
            "verify", package, "--roots", self.keys / roots / "root.crt", "--compatible", "dcu-a1", *more
        )


@pytest.fixture
def bench(tmp_path: Path, keys: Path) -> Bench:
    return Bench(tmp_path, keys)


@pytest.mark.slow
def test_keys_are_readable_by_their_owner_alone_and_never_overwritten(keys: Path) -> None:
    for name in ("root.key", "signer.key"):
        assert stat.S_IMODE((keys / "own" / name).stat().st_mode) == 0o600
    before = (keys / "own" / "root.key").read_bytes()
    assert exit_status("keygen", "--out", keys / "own") == REQUEST.number
    assert (keys / "own" / "root.key").read_bytes() == before


@pytest.mark.parametrize("algorithm", ["p-256", "p-384", "rsa-3072"])
@pytest.mark.slow
def test_keys_of_each_algorithm_sign_packages_that_are_taken(bench: Bench, algorithm: str) -> None:
    made = bench.folder / "made"
    assert run("keygen", "--out", made, "--algorithm", algorithm).exit_code == 0
    package = bench.build(sign=False)
    assert run("sign", package, "--key", made / "signer.key", "--cert", made / "signer.crt").exit_code == 0
    assert exit_status("verify", package, "--roots", made / "root.crt", "--compatible", "dcu-a1") == 0


def test_a_firmware_package_is_built_and_verified(bench: Bench) -> None:
    package = bench.build()
    assert bench.verify(package) == 0
    assert bench.verify(package, "--security-version", "3") == DOWNGRADE.number
    assert bench.verify(package, roots="other") != 0


def test_a_software_package_is_built_and_verified(bench: Bench) -> None:
    package = bench.build("sw.swu", "--software", "lists", "--image", f"file:etc/list.csv={bench.folder / 'list.csv'}")
    assert bench.verify(package) == 0
    said = inspect(package)
    assert (said["kind"], said["id"], said["images"][0]["name"]) == ("software", "lists", "etc/list.csv")


@pytest.mark.slow
def test_hardware_that_is_not_named_is_refused_by_its_number(bench: Bench) -> None:
    package = bench.build()
    roots = bench.keys / "own" / "root.crt"
    assert exit_status("verify", package, "--roots", roots, "--compatible", "x") == COMPATIBLE.number


def inspect(package: Path) -> dict[str, Any]:
    found = json.loads(run("inspect", package, "--json").output)
    assert isinstance(found, dict)
    return found


@pytest.mark.slow
def test_building_twice_gives_the_same_bytes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    for options in ((), ("--compress", "zlib"), ("--compress", "xz")):
        first, second = (bench.build(name, *options).read_bytes() for name in ("a.swu", "b.swu"))
        assert first == second


def test_the_time_of_signing_is_the_one_asked_for_or_that_of_the_newest_image(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = Identity.load(bench.keys / "own" / "signer.crt").signer
    late = certificate.not_before + 5000
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(late))
    assert inspect(bench.build())["signed_at"] == late
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    assert inspect(bench.build())["signed_at"] == certificate.not_before
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    os.utime(bench.folder / "rootfs.img", (late + 1, late + 1))
    assert inspect(bench.build())["signed_at"] == late + 1


def test_inspect_shows_what_a_package_says(bench: Bench) -> None:
    package = bench.build("fw.swu", "--description", "for the field", "--requires-version", "1")
    out = run("inspect", package).output
    for wanted in ("firmware", "for the field", "dcu-a1", "image rootfs: 25600 bytes, raw 25600"):
        assert wanted in out


@pytest.mark.parametrize(
    "options",
    [
        ("--image", "rootfs"),
        ("--image", "rootfs="),
        ("--image", "=x"),
        ("--image", "rootfs=/nonexistent"),
        ("--image", "Root=/dev/null"),
        ("--image", "file:../x=/dev/null"),
    ],
)
def test_an_image_that_cannot_be_packed_is_a_usage_error(bench: Bench, options: tuple[str, str]) -> None:
    said = ("--version", "1", "--security-version", "1", "--compatible", "x")
    assert exit_status("build", *said, *options, "-o", bench.folder / "out") == 2
    assert not (bench.folder / "out").exists()


def test_an_empty_image_is_refused(bench: Bench) -> None:
    (bench.folder / "empty").touch()
    said = ("--version", "1", "--security-version", "1", "--compatible", "x")
    status = exit_status("build", *said, "--image", f"rootfs={bench.folder / 'empty'}", "-o", bench.folder / "out")
    assert status == REQUEST.number
    assert sorted(path.name for path in bench.folder.iterdir()) == ["empty", "list.csv", "rootfs.img"]


def test_firmware_needs_a_security_version(bench: Bench) -> None:
    image = f"rootfs={bench.folder / 'rootfs.img'}"
    assert exit_status("build", "--version", "1", "--compatible", "x", "--image", image, "-o", bench.folder / "o") == 2


def test_a_key_that_does_not_belong_to_the_certificate_is_refused(bench: Bench) -> None:
    package = bench.build(sign=False)
    own, other = bench.keys / "own", bench.keys / "other"
    assert exit_status("sign", package, "--key", own / "signer.key", "--cert", other / "signer.crt") == REQUEST.number
    assert bench.verify(package) == SIGNATURE_MISSING.number


def test_an_unsigned_package_is_signed_later(bench: Bench) -> None:
    package = bench.build(sign=False)
    assert bench.verify(package) == SIGNATURE_MISSING.number
    own = bench.keys / "own"
    assert run("sign", package, "--key", own / "signer.key", "--cert", own / "signer.crt").exit_code == 0
    assert bench.verify(package) == 0


def test_a_signature_is_replaced(bench: Bench) -> None:
    package, other = bench.build(), bench.keys / "other"
    done = run("sign", package, "--key", other / "signer.key", "--cert", other / "signer.crt", "-o", package)
    assert done.exit_code == 0, done.output
    assert bench.verify(package) != 0
    assert bench.verify(package, roots="other") == 0


@pytest.fixture
def token(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of the signer's key in a token of SoftHSM."""
    missing = [name for name in ("softhsm2-util", "openssl") if shutil.which(name) is None]
    if missing or not SOFTHSM.exists():
        pytest.skip("needs the Debian package softhsm2, and openssl")
    tokens, conf, pin = bench.folder / "tokens", bench.folder / "softhsm2.conf", bench.folder / "pin"
    tokens.mkdir()
    pin.write_text("1234")
    conf.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(conf))
    monkeypatch.setenv("PKCS11_MODULE_PATH", str(SOFTHSM))
    softhsm = ["softhsm2-util", "--module", str(SOFTHSM)]
    for action in (
        ["--init-token", "--free", "--label", "t", "--so-pin", "12345"],
        ["--import", str(bench.keys / "own" / "signer.key"), "--token", "t", "--label", "k", "--id", "01"],
    ):
        subprocess.run([*softhsm, *action, "--pin", "1234"], check=True, capture_output=True)
    return f"pkcs11:token=t;object=k?pin-source=file:{pin}"


def has(pattern: str) -> bool:
    """Whether OpenSSL has this module of its own."""
    return any(Path("/usr/lib").glob(pattern)) or any(Path("/usr/lib64").glob(pattern.partition("/")[2]))


def signs(bench: Bench, token: str) -> None:
    package, own = bench.build(sign=False), bench.keys / "own"
    done = run("sign", package, "--key", token, "--cert", own / "signer.crt")
    assert done.exit_code == 0, done.output or done.exception
    assert bench.verify(package) == 0
    assert exit_status("sign", package, "--key", "pkcs11:token=none", "--cert", own / "signer.crt") == REQUEST.number


@pytest.mark.process
def test_openssl_signs_with_a_key_in_a_token(bench: Bench, token: str) -> None:
    """By its provider or its engine, whichever it has; the provider came with Debian 13."""
    if not has("*/engines-3/pkcs11.so") and not has("*/ossl-modules/pkcs11.so"):
        pytest.skip("needs the Debian package pkcs11-provider or libengine-pkcs11-openssl")
    signs(bench, token)


STAND_IN = """#!/bin/sh
# An openssl with the provider pkcs11, which hands its work to the engine. Says what it was asked.
echo "$PKCS11_PROVIDER_MODULE $*" >> {log}
case "$*" in
"list -providers -provider pkcs11 -provider default") exit 0 ;;
"dgst -sha256 -provider pkcs11 -provider default -sign "*)
    shift 6
    exec {openssl} dgst -sha256 -engine pkcs11 -keyform engine "$@" ;;
esac
exit 1
"""


@pytest.mark.process
def test_the_provider_is_preferred_and_finds_the_library_of_the_token(
    bench: Bench, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no provider to try, what it would be asked is still tried, by a stand-in over the engine."""
    if not has("*/engines-3/pkcs11.so"):
        pytest.skip("needs libengine-pkcs11-openssl")
    programs, log = bench.folder / "bin", bench.folder / "log"
    programs.mkdir()
    (programs / "openssl").write_text(STAND_IN.format(log=log, openssl=shutil.which("openssl")))
    (programs / "openssl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    signs(bench, token)
    assert f"{SOFTHSM} dgst -sha256 -provider pkcs11 -provider default -sign {token}" in log.read_text()
    assert "-engine" not in log.read_text()


def test_a_pin_on_the_command_line_is_refused(bench: Bench) -> None:
    package, cert = bench.build(sign=False), bench.keys / "own" / "signer.crt"
    done = run("sign", package, "--key", "pkcs11:token=t?pin-value=1234", "--cert", cert)
    assert isinstance(done.exception, RequestError)
    assert "pin-source" in done.exception.message


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys that `dcu-pack keygen --encrypt` made, and a file with their passphrase."""
    folder = tmp_path_factory.mktemp("locked")
    (folder / "words").write_bytes("Straße 9\r\nnot this line\n".encode())
    made = run(
        "keygen", "--out", folder / "k", "--algorithm", "p-256", "--encrypt", "--passphrase-file", folder / "words"
    )
    assert made.exit_code == 0, made.output
    assert b"ENCRYPTED" in (folder / "k" / "signer.key").read_bytes()
    assert b"ENCRYPTED" in (folder / "k" / "root.key").read_bytes()
    return folder


def refused(result: Result) -> str:
    assert isinstance(result.exception, RequestError), result.output
    return result.exception.message


def test_an_encrypted_key_is_opened_by_a_file_the_environment_or_a_prompt(
    bench: Bench, locked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(passphrase.VARIABLE, raising=False)
    package = bench.build(sign=False)
    signing = [
        "sign",
        str(package),
        "--key",
        str(locked / "k" / "signer.key"),
        "--cert",
        str(locked / "k" / "signer.crt"),
    ]
    assert "needs --passphrase-file, DCU_PACK_PASSPHRASE, or a terminal" in refused(run(*signing))
    assert run(*signing, "--passphrase-file", locked / "words").exit_code == 0
    monkeypatch.setenv(passphrase.VARIABLE, "wrong")
    assert "this passphrase does not open it" in refused(run(*signing))
    assert run(*signing, "--passphrase-file", locked / "words").exit_code == 0  # the file counts
    monkeypatch.setenv(passphrase.VARIABLE, "Straße 9")
    assert run(*signing).exit_code == 0
    monkeypatch.delenv(passphrase.VARIABLE)
    monkeypatch.setattr(passphrase, "asks", lambda: True)
    asked = CliRunner().invoke(pack.cli, signing, input="Straße 9\n")
    assert asked.exit_code == 0, asked.output
    assert "Straße" not in asked.output
    assert exit_status("verify", package, "--roots", locked / "k" / "root.crt", "--compatible", "dcu-a1") == 0


def test_a_key_that_is_not_encrypted_needs_no_passphrase_and_an_empty_one_is_none(
    bench: Bench, locked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(passphrase.VARIABLE, "")
    bench.build()
    package, made = bench.build(sign=False), locked / "k"
    done = run("sign", package, "--key", made / "signer.key", "--cert", made / "signer.crt")
    assert "1 to 1023 bytes" in refused(done)
    (bench.folder / "long").write_bytes(b"x" * 1025)
    done = run("keygen", "--out", bench.folder / "new", "--encrypt", "--passphrase-file", bench.folder / "long")
    assert "1 to 1023 bytes" in refused(done)
    assert not list((bench.folder / "new").glob("*"))


@pytest.mark.process
@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl program")
@pytest.mark.parametrize("old_form", [False, True], ids=["pkcs8", "traditional"])
def test_a_key_that_openssl_encrypted_is_opened(bench: Bench, locked: Path, old_form: bool) -> None:
    own, key = bench.keys / "own", bench.folder / "own.key"
    command = ["openssl", "rsa", "-in", str(own / "signer.key"), "-aes256", "-out", str(key)]
    command += ["-passout", "pass:Straße 9", *(["-traditional"] if old_form else [])]
    subprocess.run(command, check=True, capture_output=True)
    assert (b"Proc-Type" in key.read_bytes()) == old_form
    package = bench.build(sign=False)
    done = run("sign", package, "--key", key, "--cert", own / "signer.crt", "--passphrase-file", locked / "words")
    assert done.exit_code == 0, done.exception
    assert bench.verify(package) == 0


@pytest.mark.process
@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl program")
def test_an_offline_signature_is_brought_back(bench: Bench) -> None:
    package, own = bench.build(sign=False), bench.keys / "own"
    when = str(Identity.load(own / "signer.crt").signer.not_before + 60)
    to_sign, answer = bench.folder / "to-sign", bench.folder / "answer"
    common = ("sign", package, "--cert", own / "signer.crt", "--signed-at", when)
    assert run(*common, "--to-sign", to_sign).exit_code == 0
    subprocess.run(["openssl", "dgst", "-sha256", "-sign", own / "signer.key", "-out", answer, to_sign], check=True)
    assert run(*common, "--signature", answer).exit_code == 0
    assert bench.verify(package) == 0


@pytest.mark.process
@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl program")
def test_a_signature_by_openssl_is_taken(bench: Bench) -> None:
    package, own = bench.build(sign=False), bench.keys / "own"
    done = run("inspect", package, "--extract", "sw-description")
    (bench.folder / "sw-description").write_bytes(done.stdout_bytes)
    command = ["openssl", "cms", "-sign", "-binary", "-nosmimecap", "-md", "sha256", "-outform", "DER"]
    command += ["-in", "sw-description", "-out", "sig", "-signer", str(own / "signer.crt")]
    subprocess.run([*command, "-inkey", str(own / "signer.key")], cwd=bench.folder, check=True)
    assert run("sign", package, "--cms", bench.folder / "sig").exit_code == 0
    assert bench.verify(package) == 0


@pytest.mark.process
@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl program")
def test_openssl_accepts_the_signature_of_a_package_without_special_options(bench: Bench) -> None:
    package = bench.build()
    for name in ("sw-description", "sw-description.sig"):
        (bench.folder / name).write_bytes(run("inspect", package, "--extract", name).stdout_bytes)
    command = ["openssl", "cms", "-verify", "-binary", "-inform", "DER", "-in", "sw-description.sig", "-content"]
    command += ["sw-description", "-CAfile", str(bench.keys / "own" / "root.crt"), "-out", "/dev/null"]
    subprocess.run(command, cwd=bench.folder, check=True, capture_output=True)


def test_a_delta_turns_one_release_into_the_next(bench: Bench) -> None:
    old = bench.build("1.swu", version="1")
    (bench.folder / "rootfs.img").write_bytes(ROOTFS[:9000] + b"new" * 100 + ROOTFS[9000:])
    new = bench.build("2.swu", "--compress", "zlib")
    own, out = bench.keys / "own", bench.folder / "delta.swu"
    done = run("delta", old, new, "--key", own / "signer.key", "--cert", own / "signer.crt", "-o", out)
    assert done.exit_code == 0, done.output
    assert bench.verify(out) == 0
    said = inspect(out)
    assert (said["version"], said["requires_version"]) == ("2", ["1"])
    (image,) = said["images"]
    assert (image["encoding"], image["source"]["version"]) == ("bsdiff40", "1")
    assert image["root"] == inspect(new)["images"][0]["root"]
    assert image["source"]["root"] == inspect(old)["images"][0]["root"]
    assert "bsdiff40" in run("inspect", out).output
    assert exit_status("delta", out, new, "-o", out) == REQUEST.number  # no whole image to make a patch from


def test_an_image_is_packed_whole_where_a_patch_would_save_little(bench: Bench) -> None:
    (bench.folder / "rootfs.img").write_bytes(random.Random(1).randbytes(20_000))
    old = bench.build("1.swu", version="1")
    (bench.folder / "rootfs.img").write_bytes(random.Random(2).randbytes(20_000))
    new = bench.build("2.swu")
    assert run("delta", old, new, "-o", bench.folder / "delta.swu").exit_code == 0
    own = bench.keys / "own"
    run("sign", bench.folder / "delta.swu", "--key", own / "signer.key", "--cert", own / "signer.crt")
    assert inspect(bench.folder / "delta.swu")["images"][0]["encoding"] == "raw"


def test_the_delta_of_two_images_is_the_bare_patch(bench: Bench) -> None:
    (bench.folder / "new.img").write_bytes(ROOTFS + b"more")
    assert run("delta", bench.folder / "rootfs.img", bench.folder / "new.img", "-o", bench.folder / "p").exit_code == 0
    assert (bench.folder / "p").read_bytes().startswith(b"BSDIFF40")


def swupdate_accepts(package: Path, roots: Path, tries: int = 20) -> bool:
    """Whether `swupdate -c` takes the package. Its sockets are in TMPDIR, which must not be shared.

    Its own processes race on a busy machine: now and then it answers 1 to a good package, having said "successful".
    It never answers 0 to one that it refuses, so a few tries tell the two apart.
    """
    command = ["swupdate", "-v", "-c", "-i", str(package), "-k", str(roots), "-H", "board:dcu-a1"]
    environment = {**os.environ, "TMPDIR": str(package.parent)}
    for _ in range(tries):
        if subprocess.run(command, capture_output=True, check=False, timeout=60, env=environment).returncode == 0:
            return True
    return False


@pytest.mark.process
@pytest.mark.skipif(shutil.which("swupdate") is None, reason="needs swupdate (Debian package swupdate)")
@pytest.mark.parametrize("more", [(), ("--compress", "zlib"), ("--software", "lists")])
def test_a_stock_swupdate_accepts_the_package(bench: Bench, more: tuple[str, ...]) -> None:
    if "--software" in more:
        more = (*more, "--image", f"file:etc/list.csv={bench.folder / 'list.csv'}")
    package = bench.build("p.swu", *more)
    assert swupdate_accepts(package, bench.keys / "own" / "root.crt")


@pytest.mark.process
@pytest.mark.skipif(shutil.which("swupdate") is None, reason="needs swupdate (Debian package swupdate)")
def test_a_stock_swupdate_accepts_a_delta_with_a_list_of_roots(bench: Bench) -> None:
    own, listed = bench.keys / "own", bench.folder / "roots-1.json"
    run("roots", "new", "--version", "1", "--threshold", "1", "--root", own / "root.crt", "-o", listed)
    run("roots", "sign", listed, "--cert", own / "root.crt", "--key", own / "root.key")
    old = bench.build("1.swu", version="1")
    (bench.folder / "rootfs.img").write_bytes(ROOTFS + b"more")
    new, out = bench.build("2.swu"), bench.folder / "delta.swu"
    signing = ("--key", own / "signer.key", "--cert", own / "signer.crt", "--roots", listed)
    done = run("delta", old, new, *signing, "-o", out)
    assert done.exit_code == 0, done.output
    assert b"roots-1.json" in out.read_bytes()
    assert bench.verify(out) == 0
    assert swupdate_accepts(out, own / "root.crt")


@pytest.mark.process
@pytest.mark.skipif(
    shutil.which("cpio") is None or shutil.which("veritysetup") is None,
    reason="needs cpio and veritysetup (Debian packages cpio, cryptsetup-bin)",
)
def test_veritysetup_accepts_image_and_tree_as_cpio_extracts_them(bench: Bench) -> None:
    package = bench.build()
    subprocess.run(["cpio", "-i", "--quiet"], input=package.read_bytes(), cwd=bench.folder, check=True)
    image = inspect(package)["images"][0]
    data, tree = bench.folder / "rootfs.img", bench.folder / "rootfs.img.verity"
    assert data.read_bytes() == ROOTFS
    data.write_bytes(ROOTFS + bytes(-len(ROOTFS) % 4096))
    subprocess.run(["veritysetup", "verify", str(data), str(tree), image["root"]], check=True)


@pytest.mark.process
@pytest.mark.skipif(shutil.which("swupdate") is None, reason="needs swupdate (Debian package swupdate)")
def test_a_stock_swupdate_refuses_the_package_of_another_root(bench: Bench) -> None:
    assert not swupdate_accepts(bench.build(), bench.keys / "other" / "root.crt", tries=2)


def test_the_device_side_does_not_load_the_writer() -> None:
    # Old versions of cryptography load x509 themselves, with the first primitive: that is not ours to avoid.
    code = (
        "import sys, cryptography.hazmat.primitives.poly1305\n"
        "before = set(sys.modules)\n"
        "import updateagent.package.manifest, updateagent.package.delta, updateagent.package.certificate\n"
        "bad = {'click', 'cryptography.x509', 'updateagent.buildhost.assemble',"
        " 'updateagent.buildhost.signing', 'updateagent.buildhost.pack'}\n"
        "sys.exit(len(bad & (set(sys.modules) - before)))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_component_that_devices_would_refuse_is_not_built(bench: Bench) -> None:
    program, said = bench.folder / "watch", bench.folder / "component.json"
    program.write_text("#!/bin/sh\n")
    said.write_text('{"format": 1, "kind": "service", "service": {"program": "watch"}}')
    files = ("--image", f"file:watch={program}", "--image", f"file:component.json={said}")
    arguments = ("build", "--software", "watch", "--version", "1", "--compatible", "dcu-a1", *files)
    failed = run(*arguments, "-o", bench.folder / "watch.swu")
    assert isinstance(failed.exception, PackageError)
    assert "watch is no executable file" in failed.exception.message
    program.chmod(0o755)
    assert run(*arguments, "-o", bench.folder / "watch.swu").exit_code == 0
