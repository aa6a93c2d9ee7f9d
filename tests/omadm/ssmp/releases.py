"""Devices of earlier releases, which know fewer versions of SSMP than today's."""

from __future__ import annotations

from dataclasses import replace

from omadm.ssmp.client_core import SsmpClient


def of_version(client: SsmpClient, version: int) -> SsmpClient:
    """The same attempt, not yet started, of a device that knows nothing later than `version`."""
    client._hello = replace(client._hello, version=version)
    return client
