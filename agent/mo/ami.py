"""AMI: where readings go, how meters are talked to, and which there are; `urn:x-dcu:mo:ami:1.0`, this project's own.

./AMI/Uplink/URL chr, Token chr (no Get), BatchMax int
./AMI/Access/Client, Auth, Suite, Policy, PeerKey; Secret and keys (no Get); SystemTitle, TitleInUse
            /Group/<name>/Pattern, Port; the same leaves as Access
            /Meter/<name>/Id; the same leaves as Access
./AMI/Meter/<id>, ./AMI/Registry, ./AMI/Network/<port>  see agent.mo.meters
./AMI/Order/<x>  see agent.mo.order

Secrets stay here only until the key store has them (`drop_secrets`); writing one again changes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from agent.jobs import device
from agent.mo import sched
from agent.mo.meters import added_meters, is_enforced, whitelist_of
from agent.settings.provisioning import (
    AUTHS,
    POLICIES,
    AccessRule,
    MeterAccess,
    Provisioning,
    UplinkSettings,
)
from agent.tree.schema import (
    AGRD,
    ARD,
    GR,
    Access,
    Format,
    NodeSpec,
    Path,
    group,
    https_url,
    int_range,
    interior,
    live,
    one_of,
    permanent,
    setting,
)
from agent.tree.tree import Transaction
from agent.tree.uri import show
from omadm.codes import Code, Refusal
from omadm.readings import RECORDS_MAX

URN = "urn:x-dcu:mo:ami:1.0"
CLIENT_SAP_MAX = 127
ALL_DAY = "00:00-24:00"  # the quiet hours of a locked device
RULES_MAX = 4096  # one for each meter of a full network
KEY_OCTETS = (16, 32)
TITLE_OCTETS = 8


def _hexadecimal(*lengths: int) -> Callable[[str], None]:
    """A check: nothing, or octets in hexadecimal; of one of these lengths, where there are any."""

    def check(text: str) -> None:
        try:
            octets = bytes.fromhex(text)
        except ValueError:
            raise ValueError("hexadecimal expected") from None
        if octets and lengths and len(octets) not in lengths:
            raise ValueError(f"{' or '.join(map(str, lengths))} octets expected, not {len(octets)}")

    return check


def _octets(text: str) -> bytes:
    return bytes.fromhex(text)


def _text_octets(text: str) -> bytes:
    return text.encode("utf-8")


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A leaf that says one field of `MeterAccess`."""

    name: str
    field: str
    format: Format
    make: Callable[[str], int | str | bytes]
    check: Callable[[str], None] | None
    description: str
    default: str = ""
    secret: bool = False

    def always(self) -> NodeSpec:
        """Return the leaf of the default, which is always there."""
        return permanent(
            self.name,
            self.format,
            access=Access.REPLACE if self.secret else GR,
            default=self.default,
            check=self.check,
            secret=self.secret,
            description=self.description,
        )

    def optional(self) -> NodeSpec:
        """Return the leaf of a rule."""
        return setting(
            self.name,
            self.format,
            access=ARD if self.secret else AGRD,
            check=self.check,
            secret=self.secret,
            description=self.description,
        )


def _key(name: str, field: str, description: str) -> _Leaf:
    return _Leaf(name, field, Format.CHR, _octets, _hexadecimal(*KEY_OCTETS), description, secret=True)


_LEAVES = (
    _Leaf("Client", "client", Format.INT, int, int_range(1, CLIENT_SAP_MAX), "DLMS client SAP, 1 to 127", default="16"),
    _Leaf(
        "Auth",
        "auth",
        Format.CHR,
        str,
        one_of(*AUTHS),
        "mechanisms 0 to 7: `none`, `low`, `aes` (AES-128-ECB, the maker's own), `md5`, `sha1`, `gmac`, `sha256`, "
        "`ecdsa`",
        default="none",
    ),
    _Leaf(
        "Secret",
        "secret",
        Format.CHR,
        _text_octets,
        None,
        "password of `low`, secret of `aes`, `md5`, `sha1` and `sha256`",
        secret=True,
    ),
    _Leaf("Suite", "suite", Format.INT, int, int_range(0, 2), "security suite, 0 to 2", default="0"),
    _Leaf(
        "Policy",
        "policy",
        Format.CHR,
        str,
        one_of(*POLICIES),
        "protection of APDUs: `plain`, `authenticated`, `encrypted`, `both`",
        default="plain",
    ),
    _key("AuthKey", "authentication_key", "authentication key, hexadecimal"),
    _key("EncKey", "encryption_key", "global unicast encryption key, hexadecimal"),
    _key("BroadcastKey", "broadcast_key", "global broadcast encryption key, hexadecimal"),
    _Leaf(
        "SigningKey",
        "signing_key",
        Format.CHR,
        _octets,
        _hexadecimal(),
        "our private key for `ecdsa`, PKCS #8 in DER, hexadecimal",
        secret=True,
    ),
    _Leaf(
        "PeerKey",
        "meter_key",
        Format.CHR,
        _octets,
        _hexadecimal(64, 96),
        "the meter's public key for `ecdsa`, x and y, hexadecimal",
    ),
)
_SECRETS = tuple(leaf.name for leaf in _LEAVES if leaf.secret)


class Ami:
    """Access to meters and the uplink, as a server provisions them, and what hangs beside them."""

    root: Path = ("AMI",)

    def __init__(self, parts: Sequence[NodeSpec], system_title: Callable[[], bytes] = lambda: b"") -> None:
        """`parts` describe the objects of their own below this one: meters, registry, networks, orders."""
        self._parts = tuple(parts)
        self._system_title = system_title

    def spec(self) -> NodeSpec:
        return interior(
            "AMI",
            interior(
                "Uplink",
                permanent(
                    "URL", Format.CHR, check=https_url, description="where readings go, https; empty: they are kept"
                ),
                permanent("Token", Format.CHR, access=Access.REPLACE, secret=True, description="bearer token"),
                permanent(
                    "BatchMax",
                    Format.INT,
                    default="500",
                    check=int_range(1, RECORDS_MAX),
                    description="records of one POST, 1 to 5000",
                ),
            ),
            interior(
                "Access",
                *(leaf.always() for leaf in _LEAVES),
                permanent(
                    "SystemTitle",
                    Format.CHR,
                    check=_hexadecimal(TITLE_OCTETS),
                    description="our system title, hexadecimal; empty: one that the device makes for itself",
                ),
                live("TitleInUse", Format.CHR, lambda _: self._system_title().hex(), "system title, as meters see it"),
                _rules(
                    "Group",
                    setting("Pattern", Format.CHR, value_chars_max=64, description="of meter ids, with `*` and `?`"),
                    setting("Port", Format.CHR, value_chars_max=64, description="name of a port"),
                ),
                _rules(
                    "Meter",
                    setting(
                        "Id",
                        Format.CHR,
                        value_chars_max=64,
                        description="id, EUI-48, or port/address; the node's name when absent",
                    ),
                ),
            ),
            *self._parts,
            type=URN,
        )


class SecretGuard:
    """An empty secret is refused. A leaf is empty again once its secret is kept, so an empty one changes nothing, and
    the secret of before holds; an uplink with an empty token is refused by every head-end."""

    root: Path = ("AMI",)

    def written(self, changing: Transaction, path: Path) -> None:
        """400 for an empty one."""
        secret = path == (*UPLINK, "Token") or (path[: len(ACCESS)] == ACCESS and path[-1] in _SECRETS)
        if secret and not changing.text(path):
            raise Refusal(Code.BAD_REQUEST, f"{show(path)} cannot be empty")


def _rules(name: str, *more: NodeSpec) -> NodeSpec:
    return NodeSpec(
        name, Format.NODE, Access.GET, (group(*more, *(leaf.optional() for leaf in _LEAVES)),), names_max=RULES_MAX
    )


UPLINK: Path = ("AMI", "Uplink")
ACCESS: Path = ("AMI", "Access")
GROUPS, METERS = (*ACCESS, "Group"), (*ACCESS, "Meter")


def provisioning_from_tree(looking: Transaction) -> Provisioning:
    """Everything that the head-end has provisioned, as one value."""
    return Provisioning(
        tasks=sched.tasks(looking),
        uplink=UplinkSettings(
            url=looking.text((*UPLINK, "URL")),
            token=looking.text((*UPLINK, "Token")),
            batch_records_max=_number(looking.text((*UPLINK, "BatchMax")), 500),
        ),
        access=MeterAccess(**dict(_given(looking, ACCESS))),  # type: ignore[arg-type]
        access_rules=tuple(_access_rules(looking)),
        system_title=_octets(looking.text((*ACCESS, "SystemTitle"))),
        quiet_hours=ALL_DAY if device.is_locked(looking) else sched.quiet_hours(looking),
        zone=sched.zone(looking),
        whitelist=whitelist_of(looking),
        whitelist_enforced=is_enforced(looking),
        added=tuple(added_meters(looking)),
    )


def _access_rules(looking: Transaction) -> Iterator[AccessRule]:
    for name in looking.names(looking.existing(GROUPS)):
        base = (*GROUPS, name)
        pattern, port = looking.text((*base, "Pattern")), looking.text((*base, "Port"))
        yield AccessRule(f"group/{name}", pattern=pattern, port=port, given=tuple(_given(looking, base)))
    for name in looking.names(looking.existing(METERS)):
        base = (*METERS, name)
        meter = looking.text((*base, "Id")) or name
        yield AccessRule(f"meter/{name}", meter=meter, given=tuple(_given(looking, base)))


def _given(looking: Transaction, base: Path) -> Iterator[tuple[str, int | str | bytes]]:
    for leaf in _LEAVES:
        text = looking.text((*base, leaf.name))
        if text:
            yield leaf.field, leaf.make(text)


def drop_secrets(changing: Transaction, kept: Provisioning) -> None:
    """Empty the leaves whose secrets are in `kept`, which the key store has now. One that was written meanwhile
    stays."""
    if provisioning_from_tree(changing) != kept:
        return
    for name in _SECRETS:
        if changing.text((*ACCESS, name)):
            changing.put((*ACCESS, name), "")
    for rules in (GROUPS, METERS):
        for rule in changing.names(changing.existing(rules)):
            for name in _SECRETS:
                changing.drop((*rules, rule, name))


def _number(text: str, default: int) -> int:
    return int(text) if text.isascii() and text.isdigit() else default
