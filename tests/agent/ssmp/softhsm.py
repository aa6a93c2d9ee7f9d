"""A token of SoftHSM in a folder of a test, with keys in it."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agent.settings.config import TokenConfig
from agent.ssmp.pkcs11 import SECRET_KEY, Library, Ulong, _Attribute

LIBRARIES = (Path("/usr/lib/softhsm/libsofthsm2.so"), Path("/usr/lib64/pkcs11/libsofthsm2.so"))
PIN = "87654321"
SERIAL_AND_WRITABLE = 6  # CKF_SERIAL_SESSION, CKF_RW_SESSION
GENERIC_SECRET = 0x10  # CKK_GENERIC_SECRET


@dataclass(frozen=True)
class SoftHsm:
    """The token `dcu`. Its PIN is in a file."""

    folder: Path
    library: Path

    def place(self, label: str, token: str = "dcu") -> TokenConfig:
        return TokenConfig(self.library, token, label, self.folder / "pin")

    def import_key(self, label: str, key: bytes, *, given_away: bool = False) -> None:
        """Put a device key in, as a generic secret for MACs: neither softhsm2-util nor older pkcs11-tools can."""
        library, session = Library(self.library), Ulong()
        slot = Ulong(library.slot_of("dcu"))
        library.call("C_OpenSession", slot, Ulong(SERIAL_AND_WRITABLE), None, None, ctypes.byref(session))
        pin = PIN.encode()
        library.call("C_Login", session, Ulong(1), ctypes.c_char_p(pin), Ulong(len(pin)))
        yes, no = b"\1", b"\0"
        template = {
            0x0: bytes(Ulong(SECRET_KEY)),  # CKA_CLASS
            0x1: yes,  # CKA_TOKEN
            0x2: yes,  # CKA_PRIVATE
            0x3: label.encode(),
            0x11: key,  # CKA_VALUE
            0x100: bytes(Ulong(GENERIC_SECRET)),  # CKA_KEY_TYPE
            0x103: no if given_away else yes,  # CKA_SENSITIVE
            0x108: yes,  # CKA_SIGN
            0x162: yes if given_away else no,  # CKA_EXTRACTABLE
        }
        values = {kind: ctypes.create_string_buffer(value, len(value)) for kind, value in template.items()}
        made = [_Attribute(kind, ctypes.addressof(value), len(value)) for kind, value in values.items()]
        call = ctypes.CFUNCTYPE(Ulong, Ulong, ctypes.c_void_p, Ulong, ctypes.c_void_p)(library._functions[20])
        answer = call(session, ctypes.byref((_Attribute * len(made))(*made)), len(made), ctypes.byref(Ulong()))
        assert answer == 0, f"C_CreateObject: 0x{answer:x}"
        library.call("C_CloseSession", session)

    def import_private(self, label: str, key: ec.EllipticCurvePrivateKey) -> None:
        """Put a private key in."""
        file = self.folder / "private.pem"
        file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        run("softhsm2-util", "--module", self.library, "--import", file, "--token", "dcu", "--label", label,
            "--id", f"{len(label):02x}", "--pin", PIN)  # fmt: skip


def run(*command: object) -> None:
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def make(folder: Path) -> SoftHsm:
    """An empty token. Skips where SoftHSM is missing. The process that loads the library reads SOFTHSM2_CONF."""
    library = next((each for each in LIBRARIES if each.exists()), None)
    if library is None or shutil.which("softhsm2-util") is None:
        pytest.skip("needs the Debian package softhsm2")
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\n")
    (folder / "pin").touch(0o600)
    (folder / "pin").write_text(f"{PIN}\n")
    os.environ["SOFTHSM2_CONF"] = str(folder / "softhsm2.conf")
    run("softhsm2-util", "--module", library, "--init-token", "--free", "--label", "dcu", "--so-pin", "12345678",
        "--pin", PIN)  # fmt: skip
    return SoftHsm(folder, library)


def finalize(library: Path) -> None:
    """Have the library forget its tokens: it reads where they are once, and others in this process have their own."""
    ctypes.CDLL(str(library)).C_Finalize(None)
