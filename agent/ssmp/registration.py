"""SSMP over HTTPS: drives the core of `omadm.ssmp.client_core` through its round trips."""

from __future__ import annotations

import logging
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from agent.clock_floor import Validity
from agent.https import HttpsClient, HttpsError, Response
from agent.settings.device import DeviceInfo
from agent.ssmp.key_store import DeviceKeys
from omadm.ssmp import wire
from omadm.ssmp.client_core import (
    CertificateIssued,
    CertificateWanted,
    ClientEvent,
    KeyOffered,
    Registered,
    RegistrationFailed,
    RenewalDeclined,
    SsmpClient,
    State,
    TimeTold,
)
from omadm.ssmp.errors import SsmpError, SsmpKeyMissingError, SsmpRefused, SsmpUnsettledError
from omadm.ssmp.identity import CertificateModule, KeyModule, SecurityModule

if TYPE_CHECKING:
    from agent.ssmp.certificate_store import CertificateStore
    from agent.ssmp.security_module import Secret

LOG = logging.getLogger("agent.ssmp")

M = TypeVar("M", bound=SecurityModule)
OnTime = Callable[[float, float, float, Validity | None], None]

ROUND_TRIPS_MAX = 5  # three, and one more for each version that the server does not speak


@dataclass(frozen=True, slots=True)
class Registrar:
    """Registers this device with the security server at `url`.

    `on_time(told, sent, received, valid)` is called when the server, which has proven itself, tells the time: seconds
    since 1970; when the message went that it answers, and when the answer came, monotonic seconds; and when the
    certificates of the connection are valid, `None` where that was not judged. `on_renewal(why)` is called where the
    server wanted another key or certificate: `why` this device cannot have one, empty where it has.
    """

    https: HttpsClient
    url: str
    device: DeviceInfo
    on_time: OnTime = lambda *_: None
    monotonic: Callable[[], float] = time.monotonic
    on_renewal: Callable[[str], None] = lambda _: None

    def register(self, module: Secret, push_url: str, held: bytes) -> bytes:
        """Register and return the bootstrap document (an OMA DM profile in WBXML).

        `module` has the secret of the device; `push_url` is where this device listens for notifications, empty for
        nowhere; `held` is the fingerprint of the account that it has (`Account.fingerprint`), empty for none.
        Raises `SsmpRefused` when the server says no, `SsmpUnsettledError` where it is not known which account is in
        force now, `SsmpError` for everything else that the peer, the network or the
        storage does, `SsmpUsageError` for values that cannot be sent.
        """
        if isinstance(module, KeyModule | CertificateModule):
            return self._attempt(module, push_url, held, None)
        try:
            if isinstance(module, DeviceKeys):
                return self._with_stored(module, _KeyKeeper(module), push_url, held)
            return self._with_stored(module, _CertificateKeeper(module), push_url, held)
        except OSError as error:
            raise SsmpError(f"device keys cannot be stored: {error}") from error

    def ask_time(self, module: Secret) -> None:
        """Have the server tell the time, and change nothing: for a device whose clock makes it refuse its servers'
        certificates. Their periods are not judged; what the server says is proven by `module`, and read by nobody else.

        Raises `SsmpRefused` and `SsmpError` as `register` does, also for a server that does not tell the time.
        """

        def tell(told: float, sent: float, received: float, _: Validity | None) -> None:
            self.on_time(told, sent, received, None)

        asking = replace(self, https=self.https.at_any_time(), on_time=tell)
        if isinstance(module, KeyModule | CertificateModule):
            asking._attempt(module, "", b"", None, only_time=True)
            return
        *newer, last = module.candidates()
        for one in newer:
            try:
                asking._attempt(one, "", b"", None, only_time=True)
            except SsmpKeyMissingError:
                continue
            except SsmpRefused as refusal:
                if refusal.code != wire.ErrorCode.REFUSED:
                    raise
                continue
            return
        asking._attempt(last, "", b"", None, only_time=True)

    def _with_stored(self, store: _Store[M], keep: _Keeper[M], push_url: str, held: bytes) -> bytes:
        """Register with the first secret that the server takes."""
        *newer, last = store.candidates()
        for module in newer:
            keep.used = module
            try:
                document = self._attempt(module, push_url, held, keep)
            except SsmpKeyMissingError as error:
                LOG.warning(
                    "the new %s is gone, the one before is tried: %s",
                    keep.what,
                    error,
                    extra={"event": "ssmp.key.missing"},
                )
                continue
            except SsmpRefused as refusal:
                if refusal.code != wire.ErrorCode.REFUSED:
                    raise
                # It says the same to a device that is switched off, so it is not known what it has against it.
                LOG.warning(
                    "the new %s was refused, the one before is tried", keep.what, extra={"event": "ssmp.key.refused"}
                )
                continue
            return self._settled(store, keep, module, document, push_url, held)
        keep.used = None
        document = self._attempt(last, push_url, held, keep)
        return self._settled(store, keep, last, document, push_url, held)

    def _settled(
        self, store: _Store[M], keep: _Keeper[M], used: M, document: bytes, push_url: str, held: bytes
    ) -> bytes:
        """Keep of the secrets the one that was `used`; or use the one that came with this registration."""
        if not keep.kept:
            store.worked(used)
            if keep.used is not None:
                self._in_use(keep)
            return document
        # The old one is good until the new one was used, also in the hands of a thief: use the new one now.
        try:
            module = store.candidates()[0]
            document = self._attempt(module, push_url, held, None)
            store.worked(module)
            self._in_use(keep)
        except SsmpUnsettledError:  # the document may be void already: whoever registers again finds out
            raise
        except SsmpError as error:
            LOG.warning("the new %s is used next time: %s", keep.what, error, extra={"event": "ssmp.key.waits"})
        return document

    def _in_use(self, keep: _Keeper[M]) -> None:
        LOG.info("the new %s is in use", keep.what, extra={"event": "ssmp.key.renewed"})
        self.on_renewal("")

    def _attempt(
        self,
        module: SecurityModule,
        push_url: str,
        held: bytes,
        keep: _Keeper[Any] | None,
        *,
        only_time: bool = False,
    ) -> bytes:
        """One attempt. What the server gives goes to `keep`: a key, or the request for a certificate, before the server
        hears that it is stored. Returns the document; empty for `only_time`."""
        unable = "" if keep is None else keep.unable
        asks = keep is not None and keep.asks(self.monotonic())
        core = SsmpClient(
            self.device.device_id,
            module,
            self._info(push_url),
            secrets.token_bytes,
            held,
            # A server that wants another certificate gives the order up for a device that cannot renew.
            renews=(keep is not None and not unable) or only_time,
            asks=asks,
            unable=unable,
            only_time=only_time,
        )
        core.start(self.monotonic())
        for _ in range(ROUND_TRIPS_MAX):
            self._trip(core)
            while (event := core.next_event()) is not None:
                match event:
                    case Registered(document):
                        LOG.info("registered with the security server", extra={"event": "ssmp.registered"})
                        return document
                    case TimeTold():
                        LOG.info("the security server told the time", extra={"event": "ssmp.time"})
                        return b""
                    case RegistrationFailed(error):
                        LOG.warning("registration failed: %s", error, extra={"event": "ssmp.failed"})
                        raise error
                    case RenewalDeclined(why):
                        self._declined(why)
                    case _ if keep is not None:
                        why = keep.take(event, core)
                        if why:
                            self._declined(why)
                            core.decline(why)
        raise SsmpError("the security server asked for more messages than the protocol has")

    def _declined(self, why: str) -> None:
        LOG.warning(
            "the secret of this device is not renewed: %s",
            why,
            extra={"event": "ssmp.renewal.impossible"},
        )
        self.on_renewal(why)

    def _info(self, push_url: str) -> wire.RegistrationInfo:
        device = self.device
        return wire.RegistrationInfo(
            man=device.man,
            mod=device.mod,
            hw=device.hw_version,
            fw=device.fw_version,
            sw=device.sw_version,
            push_url=push_url,
        )

    def _trip(self, core: SsmpClient) -> None:
        """Send what is due, and take the answer."""
        untold, sent = core.time_told is None, self.monotonic()
        try:
            answer = _round_trip(self.https, self.url, core.take_output())
        except SsmpError as error:
            if core.state is State.CONFIRM_SENT:
                raise SsmpUnsettledError(str(error)) from error
            raise
        received = self.monotonic()
        core.receive(answer.body, received)
        core.on_deadline(received)
        if untold and core.time_told is not None:
            self.on_time(core.time_told, sent, received, answer.valid)


class _Store(Protocol[M]):
    """Where the secrets are that came after the one of the factory."""

    def candidates(self) -> list[M]: ...

    def worked(self, _used: M, /) -> None: ...


class _Keeper(ABC, Generic[M]):
    """Stores what the server gives. `kept`: there is something new that is to be used; `used`: the registration is with
    a secret that is newer than the one before, `None` for that one; `unable`: why nothing can be stored."""

    what: str

    def __init__(self, unable: str) -> None:
        self.unable = unable
        self.kept = False
        self.used: M | None = None

    def asks(self, now: float) -> bool:  # noqa: ARG002
        """Whether the device is to ask by itself."""
        return False

    @abstractmethod
    def take(self, event: ClientEvent, core: SsmpClient) -> str:
        """Keep what the registration offers. Returns why it cannot be, for the server; empty where it is kept. Raises
        `OSError` for what must be stored and is not."""


class _KeyKeeper(_Keeper[Any]):
    what = "device key"

    def __init__(self, store: DeviceKeys[Any]) -> None:
        super().__init__(store.unable)
        self._store = store

    def take(self, event: ClientEvent, core: SsmpClient) -> str:  # noqa: ARG002
        if not isinstance(event, KeyOffered):
            return ""
        try:
            if self.used is not None:  # the server gives another to the key that it has in force
                self._store.worked(self.used)
            self._store.offer(event.key)
        except SsmpError as error:
            return _told(error)
        self.kept = True
        return ""


class _CertificateKeeper(_Keeper[Any]):
    what = "certificate"

    def __init__(self, store: CertificateStore) -> None:
        super().__init__(store.unable)
        self._store = store

    def asks(self, now: float) -> bool:
        due = self.used is None and self._store.due(now)
        if due:
            self._store.asked(now)
        return due

    def take(self, event: ClientEvent, core: SsmpClient) -> str:
        match event:
            case CertificateWanted():
                try:
                    if self.used is not None:  # the server has let it in
                        self._store.worked(self.used)
                    request = self._store.request()
                except SsmpError as error:
                    return _told(error)
                core.request(request)
            case CertificateIssued(certificate):
                try:
                    self._store.install(certificate)
                    self.kept = True
                except (OSError, SsmpError) as error:
                    # The registration has succeeded, and the key stays: the same is asked for again.
                    LOG.warning("the new certificate is not stored: %s", error, extra={"event": "ssmp.key.unusable"})
        return ""


def _told(error: SsmpError) -> str:
    """What the server is told of an error: printable, and not too long."""
    text = "".join(each if each.isprintable() else " " for each in str(error))
    return text.encode("utf-8", "replace")[: wire.UNABLE_BYTES_MAX].decode("utf-8", "ignore")


def _round_trip(https: HttpsClient, url: str, message: bytes) -> Response:
    try:
        answer = https.request("POST", url, body=message, headers={"Content-Type": wire.CONTENT_TYPE})
    except HttpsError as error:
        raise SsmpError(str(error)) from error
    content_type = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != wire.CONTENT_TYPE:
        raise SsmpError(f"the security server answered HTTP {answer.status} with {content_type or 'no content type'}")
    return answer
