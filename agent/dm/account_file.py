"""The DM account in a file, where it does not come from the security server."""

from __future__ import annotations

import logging

from agent.settings.config import AccountConfig
from agent.settings.identity import SecretError, read_password, read_private
from omadm.bootstrap import BootstrapError
from omadm.client_provisioning import DOCUMENT_BYTES_MAX, check_mac

LOG = logging.getLogger("agent.dm")


def account_document(config: AccountConfig) -> bytes:
    """Return the bootstrap document in the configured file: a DM profile, or one of client provisioning.

    Raises `BootstrapError` for a file that cannot be read, that others may use, or whose MAC is wrong.
    """
    try:
        document = read_private(config.file, DOCUMENT_BYTES_MAX + 1)
        if config.secret_file is not None:
            check_mac(document, config.security, read_password(config.secret_file), config.mac)
    except SecretError as error:
        raise BootstrapError(str(error)) from error
    LOG.info("account read from %s", config.file, extra={"event": "dm.account"})
    return document
