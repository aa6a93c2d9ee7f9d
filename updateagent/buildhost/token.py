"""Signing with a key in a PKCS#11 token, through the program `openssl`: by its provider `pkcs11`, or by the older
engine of that name, which OpenSSL 4 has no more."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from updateagent.buildhost.passphrase import VARIABLE
from updateagent.errors import REQUEST, RequestError

OPENSSL_TIMEOUT_S = 120
"""A person may have to touch the token."""
PROVIDER = ("-provider", "pkcs11", "-provider", "default")  # the default one hashes
ENGINE = ("-engine", "pkcs11", "-keyform", "engine")
ENGINE_MODULE, PROVIDER_MODULE = "PKCS11_MODULE_PATH", "PKCS11_PROVIDER_MODULE"
"""Where the engine and the provider look for the token's library; either serves both here."""


def token_signer(uri: str) -> Callable[[bytes], bytes]:
    """A signer with a key in a token, named by its URI (RFC 7512). Raises `RequestError`.

    The PIN is not on the command line: it comes from the URI's `pin-source`, or OpenSSL asks for it. A `pin-value` is
    refused, because every user of the machine can read it there.
    """
    if re.search(r"[?&;]pin-value=", uri):
        raise RequestError(REQUEST, "a pin-value in a key's URI can be read by every user: use pin-source=file:PATH")

    def sign(data: bytes) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            content, signature = Path(folder, "content"), Path(folder, "signature")
            content.write_bytes(data)
            way = PROVIDER if _openssl("list", "-providers", *PROVIDER).returncode == 0 else ENGINE
            done = _openssl("dgst", "-sha256", *way, "-sign", uri, "-out", str(signature), str(content))
            if done.returncode:
                why = done.stderr.decode(errors="replace").strip().splitlines()
                raise RequestError(
                    REQUEST,
                    f"the token did not sign, by OpenSSL's {_name(way)}: {why[-1] if why else 'no reason given'}",
                )
            return signature.read_bytes()

    return sign


def _name(way: tuple[str, ...]) -> str:
    return f"{way[0].removeprefix('-')} {way[1]}"


def _openssl(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    module = environment.get(PROVIDER_MODULE) or environment.get(ENGINE_MODULE)
    if module:
        environment |= {PROVIDER_MODULE: module, ENGINE_MODULE: environment.get(ENGINE_MODULE) or module}
    try:
        return subprocess.run(
            ["openssl", *arguments],
            timeout=OPENSSL_TIMEOUT_S,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RequestError(REQUEST, f"openssl could not be used: {error}") from error
