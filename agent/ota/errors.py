"""How downloads and packages fail, as result codes of FUMO and SCOMO (OMA-TS-DM_FUMO 1.0, OMA-TS-DM-SCOMO 1.0)."""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping

from omadm.addresses import AddressError, check_address
from omadm.descriptor import Report
from updateagent.errors import Code

URL_CHARS_MAX = 2048
_RETRY_STATUS = frozenset({408, 421, 425, 429})


class DownloadError(Exception):
    """The download is over without the object. `code_fumo` and `code_scomo` are the result codes for the server."""

    def __init__(self, code_fumo: int, code_scomo: int, message: str, report: Report = Report.LOADER_ERROR) -> None:
        super().__init__(message)
        self.code_fumo = code_fumo
        self.code_scomo = code_scomo
        self.message = message
        self.report = report


class DeltaUnfit(DownloadError):
    """The object is a delta that is of no use here, as its descriptor or its content tells: `code` says why."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(code.fumo, code.scomo, message, Report.NON_ACCEPTABLE_CONTENT)
        self.code = code


class Rejected(Exception):
    """The package is not for this device, or not for this job. Nothing was written because of it."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(f"{code.name} ({code.number}): {message}")
        self.code = code
        self.message = message


class DownloadStopped(Exception):
    """`stop` was set. What has arrived is durable; the next `fetch` of the same URL goes on from there."""


class RetryableDownloadError(Exception):
    """This attempt failed in a way that another one may not. `after_s`: what the server asked for."""

    def __init__(self, error: DownloadError, after_s: float = 0.0) -> None:
        super().__init__(error.message)
        self.error = error
        self.after_s = after_s


def check_url(url: str) -> None:
    """Check that a URL is one of https with a host. Raises `DownloadError` 411 for what can never be fetched."""
    try:
        check_address(url, ascii_max=URL_CHARS_MAX)
    except AddressError as error:
        raise DownloadError(411, 1402, f"not an https URL: {url[:80]!r} {error}") from error


def status_error(status: int, headers: Mapping[str, str]) -> Exception:
    """What an answer with an unusable status means: `RetryableDownloadError` or `DownloadError`."""
    text = f"the server answered HTTP {status}"
    if status >= 500 or status in _RETRY_STATUS:
        after = headers.get("retry-after", "")
        error = DownloadError(500, 1500, text, Report.LOSS_OF_SERVICE)
        return RetryableDownloadError(error, float(after) if re.fullmatch(r"[0-9]{1,6}", after) else 0.0)
    if status in (401, 403, 407):
        return DownloadError(406, 1403, text)
    if status >= 400:
        return DownloadError(411, 1402, text)
    return DownloadError(400, 1402, text)


def storage_error(error: OSError) -> DownloadError:
    """What trouble of the storage means."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return DownloadError(501, 1404, f"no room for the object: {error}", Report.INSUFFICIENT_MEMORY)
    return DownloadError(409, 1412, f"the storage failed: {error}")
