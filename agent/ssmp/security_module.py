"""Opens the security module that the configuration names: the place of the device's long-term secret.

A module works with the secret and gives it to nobody (`omadm.ssmp.identity`). Kinds: a file that only the agent's user
may read, or a PKCS#11 token; each with a device key or with the private key of a certificate.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from agent import log
from agent.clock_floor import CertificateTime
from agent.settings.config import Config, TokenConfig
from agent.settings.identity import read_secret
from agent.ssmp.key_store import DeviceKeys, KeyStore
from omadm.ssmp.identity import KeyModule, SecurityModule, SharedKey
from updateagent.disk import Disk

if TYPE_CHECKING:
    from agent.ssmp.certificate_store import CertificateStore

STATE_FOLDER = "ssmp"

Secret: TypeAlias = "SecurityModule | DeviceKeys[Any] | CertificateStore"


def open_module(
    config: Config,
    certificate_time: Callable[[], CertificateTime],
    disk: Disk | None = None,
    *,
    trial: bool = False,
    anchors: Callable[[], Path | None] = lambda: None,
    moved: Callable[[], str] = lambda: "",
) -> Secret:
    """Open the module of this device. `certificate_time` is what certificates are judged by;
    `anchors()` is the file of the authorities that were set in the place of the configured ones, None for none, and
    `moved()` the address of the security server that was, empty for none.

    With a `disk` it may be renewed: what follows a file, and the certificate of a key that follows one in a token, is
    kept in the state folder. A token is asked when it is needed: meters are read also while it is not there. `trial`:
    it is asked now.

    Raises `SecretError`, whose text is for the operator and holds no secret, and `OSError` for the state folder.
    """
    secret, certificate_file = config.security_module.secret, config.security_module.certificate_file
    if certificate_file is None:
        if isinstance(secret, Path):
            key = read_secret(secret)
            log.hide(key)
            return SharedKey(key) if disk is None else KeyStore(disk, config.state_dir / STATE_FOLDER, key)
        return _token_keys(secret, trial=trial)
    # Not at the top: a device with a key in a file needs `cryptography` only while it registers.
    from agent.ssmp.certificate_file import CertificateFile, ServerTrust, read_certificate
    from agent.ssmp.pkcs11 import PRIVATE_KEY, Token
    from agent.ssmp.token_modules import TokenCertificate, TokenPairKeys

    certificate = read_certificate(certificate_file, config.device.id)
    trust = ServerTrust(config.security_server.ca_file, config.security_server.url, certificate_time, anchors, moved)
    held: CertificateFile | TokenCertificate
    following: TokenPairKeys | None = None
    if isinstance(secret, Path):
        held = CertificateFile(secret, certificate, trust)
    else:
        token = Token(secret, PRIVATE_KEY)
        held, following = TokenCertificate(token, certificate, trust), TokenPairKeys(token, renewal=secret.renewal)
        if trial:
            following.check(held)
    if disk is None:
        return held
    from agent.ssmp.certificate_store import CertificateStore

    folder = config.state_dir / STATE_FOLDER
    return CertificateStore(disk, folder, held, config.device.id, certificate_time, following)


def _token_keys(place: TokenConfig, *, trial: bool) -> DeviceKeys[Any]:
    from agent.ssmp.pkcs11 import SECRET_KEY, Token
    from agent.ssmp.token_modules import TokenKeys

    keys = TokenKeys(Token(place, SECRET_KEY), renewal=place.renewal)
    if trial:
        keys.check()
    return keys


def renewal_due(module: Secret, monotonic: float) -> bool:
    """Whether the device is to register because its certificate ends soon."""
    if isinstance(module, DeviceKeys | KeyModule):
        return False  # without `cryptography` in memory
    from agent.ssmp.certificate_store import CertificateStore

    return isinstance(module, CertificateStore) and module.due(monotonic)
