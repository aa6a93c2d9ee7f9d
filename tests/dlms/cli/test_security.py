"""`dlms simulate` and `dlms read` against one another, with keys of every kind, in two processes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.dlms.cli.test_tool import run, simulated

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the keys, as the manual says"),
]
CODE = "1.0.1.8.0.255"
TITLE = ("--system-title", "4d4d4d0000000001")
CURVES = {1: "P-256", 2: "P-384"}


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def make_keys(folder: Path, suite: int) -> None:
    """By the commands of docs/dlms-tool.md."""
    for name in ("client-sign", "meter-sign", "client-agree", "meter-agree"):
        private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
        curve = f"ec_paramgen_curve:{CURVES[suite]}"
        openssl("genpkey", "-algorithm", "EC", "-pkeyopt", curve, "-out", private)
        openssl("pkey", "-in", private, "-pubout", "-out", public)
    size = 16 if suite == 1 else 32
    for number, name in enumerate(("ek", "ak", "master")):
        (folder / name).write_text(bytes((number + 1,) * size).hex() + "\n")


def signing(folder: Path, ours: str, theirs: str) -> tuple[str, ...]:
    return ("--private-key", str(folder / f"{ours}-sign.pem"), "--peer-key", str(folder / f"{theirs}-sign.pub.pem"))


def agreement(folder: Path, ours: str, theirs: str) -> tuple[str, ...]:
    private, public = folder / f"{ours}-agree.pem", folder / f"{theirs}-agree.pub.pem"
    return ("--agreement-key", str(private), "--peer-agreement-key", str(public))


def symmetric(folder: Path) -> tuple[str, ...]:
    return ("--ek", f"@{folder / 'ek'}", "--ak", f"@{folder / 'ak'}", "--master-key", f"@{folder / 'master'}")


@pytest.mark.parametrize("suite", [1, 2])
def test_ecdsa_proves_both_sides_with_and_without_ciphering(suite: int, tmp_path: Path) -> None:
    make_keys(tmp_path, suite)
    ecdsa = ("--auth", "ecdsa")
    listen = ("--listen", "tcp://127.0.0.1:0", "--link", "wrapper")
    with simulated(*listen, *ecdsa, *signing(tmp_path, "meter", "client")) as url:
        where = ("--url", url, "--link", "wrapper")
        result = run("read", *where, *ecdsa, *TITLE, *signing(tmp_path, "client", "meter"), CODE)
        assert result.exit_code == 0, result.output
        assert "Wh" in result.output
        result = run("read", *where, *ecdsa, *TITLE, *signing(tmp_path, "meter", "client"), CODE)
        assert result.exit_code == 1
        assert "proof was not accepted" in result.output


@pytest.mark.parametrize("suite", [1, 2])
def test_every_kind_of_key_and_signatures_on_the_command_line(suite: int, tmp_path: Path) -> None:
    make_keys(tmp_path, suite)
    common = ("--auth", "ecdsa", "--suite", str(suite), *symmetric(tmp_path), "--sign")
    meter = (*common, *signing(tmp_path, "meter", "client"), *agreement(tmp_path, "meter", "client"))
    client = (*common, *TITLE, *signing(tmp_path, "client", "meter"), *agreement(tmp_path, "client", "meter"))
    with simulated("--listen", "tcp://127.0.0.1:0", *meter) as url:
        for number, kind in enumerate(("global", "wrapped", "one-pass", "static"), start=1):
            counter = ("--counter", str(1000 * number))
            result = run("read", "--url", url, *client, *counter, "--general-ciphering", kind, CODE)
            assert result.exit_code == 0, result.output
            assert "Wh" in result.output
        unsigned = tuple(option for option in client if option != "--sign")
        result = run("read", "--url", url, *unsigned, "--counter", "9000", CODE)
        assert result.exit_code == 1


def test_dedicated_keys_and_general_glo_on_the_command_line(tmp_path: Path) -> None:
    make_keys(tmp_path, 1)
    common = ("--auth", "gmac", "--suite", "1", *symmetric(tmp_path))
    with simulated("--listen", "tcp://127.0.0.1:0", *common) as url:
        for number, form in enumerate(
            (("--dedicated",), ("--general-glo",), ("--dedicated", "--general-glo")), start=1
        ):
            result = run("read", "--url", url, *common, *TITLE, "--counter", str(1000 * number), *form, CODE)
            assert result.exit_code == 0, result.output
        result = run("read", "--url", url, *common, *TITLE, "--dedicated", "--general-ciphering", "global", CODE)
        assert result.exit_code == 2


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--auth", "ecdsa"), "--private-key"),
        (("--sign",), "--ek"),
        (("--general-ciphering", "global"), "--ek"),
        (("--ek", "00" * 16, "--ak", "00" * 16), "--system-title"),
        (("--ek", "00" * 16, "--ak", "00" * 16, *TITLE, "--sign"), "--suite"),
        (("--ek", "00" * 16, "--ak", "00" * 16, *TITLE, "--general-ciphering", "wrapped"), "master key"),
        (("--ek", "00" * 16, "--ak", "00" * 16, *TITLE, "--general-ciphering", "static"), "key agreement"),
    ],
)
def test_options_that_do_not_go_together_are_told(options: tuple[str, ...], why: str) -> None:
    result = run("read", "--url", "socket://127.0.0.1:1", *options, CODE)
    assert result.exit_code == 2
    assert why in result.output
