"""No decoder is without a fuzz target, in any package."""

from __future__ import annotations

import pytest

from tests.fuzz.guided import Target
from tests.fuzz.reach import decoders, reached, takers
from tests.fuzz.targets import agent, dlms_app, dlms_meter, environment, headend, omadm, serial_links, updateagent

OTHERS = (
    "account_from_tnds",
    "answer",
    "choose",
    "describe",
    "from_base64",
    "from_tnds",
    "inflate",
    "state_from_json",
    "unchanged",
    "verify",
    "verify_basic",
    "verify_hmac",
    "verify_mac",
    "verify_md5",
)
TARGETS: dict[str, dict[str, Target]] = {
    "omadm": omadm.TARGETS,
    "agent": agent.TARGETS,
    "headend": headend.TARGETS,
}
# What has such a name and takes nothing that a peer or a disk made up, or is a line around a decoder with a target.
NO_DECODERS: dict[str, dict[str, str]] = {
    "omadm": {
        "schemes.Scheme.verify": "a protocol",
    },
    "agent": {
        "metering.visit.profile_catchup.ProfileReading.answer": "values that dlms decoded",
        "metering.visit.profile_catchup.ProfileReading.describe": "values that dlms decoded",
        "metering.visit.profile_position.ProfilePosition.load": "a record of the store, which its test damages",
        "cli.order.read": "options of a command line",
        "metering.access.accessbook.AccessBook.open": "an entry of the key store",
        "metering.access.credentials.describe": "text for a person",
        "metering.ledger.gap_table.load": "rows of the store, which its tests damage",
        "metering.ledger.gap_table.open_gaps": "rows of the store, which its tests damage",
        "metering.ledger.keeper.LedgerKeeper.load": "rows of the store, which its tests damage",
        "metering.ledger.keeper.LedgerKeeper.read": "slots that were read",
        "metering.ledger.ledger.Ledger.load": "rows of the store, which its tests damage",
        "metering.ledger.ledger.Ledger.read": "slots that were read",
        "metering.orders.journal.Journal.load": "files with checksums of their own, which its tests damage",
        "metering.orders.order.OrderRecord.describe": "text for a person",
        "metering.orders.order_book.OrderBook.describe": "text for a person",
        "metering.ports.port_state.PortState.open": "opens a port of the configuration",
        "metering.scheduling.eras.EraBook.load": "a row of the store, which metering.store.blocks.unpack takes in",
        "metering.store.delivery.open_ranges": "rows of the store, which its tests damage",
        "tls.explain": "an error of the TLS library",
        "settings.identity.read_password": "factory data and configuration",
        "jobs.firmware.load": "a record of the stored tree, which the target tree reads",
    },
    "headend": {
        "metering.events.open_alarms": "a count of rows of the database",
        "metering.resend.open_orders": "rows of the database",
        "db.open_engine": "a URL of the configuration",
        "dm.accounts.load": "a row of the database",
        "dm.jobs.steps.read": "steps of a job",
        "operator.commands.load": "a line around config.load",
    },
}


@pytest.mark.parametrize("package", sorted(TARGETS))
def test_every_decoder_is_reached_by_a_fuzz_target(package: str) -> None:
    found = decoders(package, OTHERS)
    missing = found - reached(package, TARGETS[package].values()) - set(NO_DECODERS[package])
    assert not missing
    assert set(NO_DECODERS[package]) <= found


# What has an argument of octets that no peer and no disk made up, or stands around a decoder with a target.
OCTETS_FROM_US: dict[str, dict[str, str]] = {
    "agent": {
        "dm.deps.Https.request": "octets that go out",
        "https.HttpsClient.request": "octets that go out",
        "https.HttpsClient.stream": "octets that go out",
        "https.KeptConnection.request": "octets that go out",
        "metering.uplink.worker.Https.request": "octets that go out",
        "ota.download.Transport.request": "octets that go out",
        "ota.download.Transport.stream": "octets that go out",
        "metering.visit.visit.Channel.send": "octets that go out",
        "ota.download_state.PartialFile.write": "octets that go to a file",
        "dm.nonces.NonceStore.set_nonces": "octets that go to a file",
        "dm.registration.register": "factory data and configuration",
        "metering.access.credentials.credentials": "factory data and configuration",
        "metering.access.keystore.KeyStore.counters": "factory data and configuration",
        "metering.events.desk.EventDesk.called": "hands on what it was given to parsers with targets",
        "metering.events.desk.EventDesk.heard": "hands on what it was given to parsers with targets",
        "metering.events.desk.EventDesk.in_session": "hands on what it was given to parsers with targets",
        "metering.events.desk.EventDesk.deciphered": "hands on what it was given to parsers with targets",
        "metering.events.listener.Desk.called": "a protocol",
        "metering.events.port_ears.PortEars.in_session": "hands on what it was given to parsers with targets",
        "metering.events.port_ears.PortEars.deciphered": "hands on what it was given to parsers with targets",
        "metering.access.session.Pushes.in_session": "a protocol",
        "metering.access.session.Pushes.deciphered": "a protocol",
        "metering.access.accessbook.AccessBook.meter_of_title": "a system title that dlms decoded",
        "metering.access.accessbook.AccessBook.note_title": "a system title that dlms decoded",
        "metering.access.keystore.KeyStore.meter_of_title": "a system title that dlms decoded",
        "metering.access.keystore.KeyStore.note_title": "a system title that dlms decoded",
        "metering.access.keystore.KeyStore.pushed": "factory data and configuration",
        "dm.service.DmService.on_notification": "hands on what it was given; omadm.notification has its target",
        "metering.registry.entry.meter_name": "a name for logs",
        "metering.registry.network.Managed.demote": "an address that the caller has chosen",
        "metering.registry.network.Managed.promote": "an address that the caller has chosen",
        "metering.registry.network.Managed.set_pib": "an address that the caller has chosen",
        "metering.registry.network.NetworkBook.order": "octets that go out",
        "metering.store.carving.page_bytes_of": "a file of the store, which its tests damage",
        "metering.store.blocks.block_rows": "a file of the store, which its tests damage",
        "metering.store.blocks.profile_reach": "a file of the store, which its tests damage",
        "metering.store.blocks.unpack": "a file of the store, which its tests damage",
        "metering.visit.profile_catchup.iso_time": "octets of a clock that dlms decoded",
    },
    "plc": {
        "bridge.BytePort.write": "octets that go out",
        "bridge.Channel.send": "octets that go out",
        "connections.Connection.send": "octets that go out",
        "dlmsotcp.DlmsOverTcpLink.send": "octets that go out",
        "protocols.NodeLink.send": "octets that go out",
        "transparent.PacketLink.send": "octets that go out",
        "transparent.TransparentLink.send": "octets that go out",
        "prime.link.PlcLink.demote": "an address that the caller has chosen",
        "prime.link.PlcLink.promote": "an address that the caller has chosen",
        "prime.link.PlcLink.set_pib": "an address that the caller has chosen",
        "connections.MeterConnections.heard": "hands on what it was given",
        "protocols.NodeLink.receive": "a protocol",
        "transparent.TransparentLink.receive": "hands on what it was given",
        "prime.lists.ListQuery.parse": "a base node takes it in: the simulated one of the tests",
        "prime.messages.DataRequest.parse": "a base node takes it in: the simulated one of the tests",
        "prime.messages.MlmeGet.parse": "a base node takes it in: the simulated one of the tests",
        "prime.messages.ReleaseRequest.parse": "a base node takes it in: the simulated one of the tests",
    },
    "dlms": {
        "cli.base_node.NodePort.write": "octets that go out",
        "cli.listeners.Server.receive": "hands on what it was given",
        "client.association.Association.send_unconfirmed": "octets that go out",
        "client.image_transfer.MeterImage.transfer": "octets that go out",
        "client.objects.MeterSecurity.import_certificate": "octets that go out",
        "client.objects.MeterSecurity.transfer": "octets that go out",
        "client.profile.Column.time_of": "a cell of a row: twelve octets, which CosemDateTime.parse takes in",
        "link.datalink.DataLink.receive": "a protocol",
        "link.datalink.DataLink.send": "a protocol",
        "link.hdlc.bus.HdlcServerBus.send": "octets that go out",
        "link.hdlc.secondary.HdlcServerLink.send": "octets that go out",
        "link.mode_e.link.ModeELink.send": "octets that go out",
        "link.port.Port.write": "octets that go out",
        "link.port.SerialPort.write": "octets that go out",
        "link.port.SocketPort.write": "octets that go out",
        "link.trace.ReplayPort.write": "octets that go out",
        "link.trace.TraceWriter.note": "octets that go to a file or a medium",
        "link.wrapper.WrapperServerLink.send": "octets that go out",
        "security.certificates.certificate_request": "made by us, or chosen by the caller",
        "security.ciphering.Ciphering.protect": "octets that go out",
        "security.ciphering.Ciphering.protect_broadcast": "octets that go out",
        "security.ciphering.Ciphering.protect_initiate": "octets that go out",
        "security.general_formats.cipher_apdu": "octets that go out",
        "security.general_formats.sign_apdu": "octets that go out",
        "security.general_protection.GeneralProtection.seal": "octets that go out",
        "security.general_protection.GeneralProtection.seal_broadcast": "octets that go out",
        "security.hls.Gmac.check_gmac": "a protocol",
        "security.hls.Gmac.gmac": "a protocol",
        "security.hls.aes_ecb": "a secret of the configuration",
        "security.keys.key_transfer": "octets that go out",
        "security.keys.wrap": "octets that go out",
        "security.message_keys.wrapped_key": "octets that go out",
        "security.settings.open_auth": "a secret of the configuration",
        "simulator.line_faults.LineFaults.apply": "a simulated line; its octets go on to a side that has its target",
        "simulator.line_faults.SlowLine.put": "a simulated line; its octets go on to a side that has its target",
        "simulator.line_faults.reorder_window": "a simulated line; its octets go on to a side that has its target",
        "simulator.line_faults.spoil_fcs": "a simulated line; its octets go on to a side that has its target",
        "xdlms.exchange.Exchange.advance": "a protocol",
    },
    "omadm": {
        "auth.hmac_header": "octets that go out",
        "schemes.Basic.accepted": "made from our own nonce or key",
        "schemes.Mac.accepted": "made from our own nonce or key",
        "schemes.Md5.accepted": "made from our own nonce or key",
        "schemes.Scheme.accepted": "made from our own nonce or key",
        "schemes.Scheme.verify": "a protocol",
        "schemes.Basic.chal": "made from our own nonce or key",
        "schemes.Mac.chal": "made from our own nonce or key",
        "schemes.Md5.chal": "made from our own nonce or key",
        "schemes.Scheme.chal": "made from our own nonce or key",
        "schemes.Mac.mac": "made from our own nonce or key",
        "schemes.Scheme.mac": "made from our own nonce or key",
        "schemes.Transport.accepted": "has no challenge, whatever the nonce is",
        "schemes.Transport.chal": "has no challenge, whatever the nonce is",
        "schemes.Transport.mac": "there is none in this scheme",
        "ssmp.server_core.ServerSession.is_of": "compares two of our keys",
        "ssmp.server_core.SessionTable.find": "an exact look-up",
    },
    "headend": {
        "dm.authentication.Authenticator.check": "compares credentials that omadm.auth has read",
        "pki.write_new": "octets that go to a file",
        "security.service.SecurityService.handle": "a line around the core of SSMP, which has its targets",
    },
    "updateagent": {
        "boot.uboot.flash.EnvMtd.program": "octets that go to a file or a medium",
        "boot.uboot.flash.EnvUbi.update": "octets that go to a file or a medium",
        "boot.uboot.flash.UbiMedium.write": "octets that go to a file or a medium",
        "boot.uboot.medium.Medium.write": "octets that go to a file or a medium",
        "buildhost.assemble.sign_again": "the build host, with what its operator gives it",
        "buildhost.assemble.write": "the build host, with what its operator gives it",
        "buildhost.bsdiff.subtract": "the build host, with what its operator gives it",
        "buildhost.signing.Identity.join": "the build host, with what its operator gives it",
        "buildhost.signing.Identity.sign": "the build host, with what its operator gives it",
        "compose.LazyPackages.keep_roots": "octets that go to a file or a medium",
        "disk.Disk.write_durable": "octets that go to a file or a medium",
        "disk.RawFile.pwrite": "octets that go to a file or a medium",
        "engine.deps.Packages.keep_roots": "a protocol",
        "engine.dry_run.DryPackages.keep_roots": "writes nothing",
        "engine.sealed.seal": "octets that go to a file or a medium",
        "package.cms.signed_attributes": "the build host, with what its operator gives it",
        "package.cpio.Writer.add": "the build host, with what its operator gives it",
        "package.payload.IntegrityTags.knows": "compares with a tag, whatever the octets are",
        "package.payload.IntegrityTags.note": "octets that were verified",
        "package.roots.with_signature": "the build host, with what its operator gives it",
        "package.verifier.SignedPackages.keep_roots": "octets that go to a file or a medium",
        "rawflash.KernelMtd.program": "octets that go to a file or a medium",
        "rawflash.KernelMtd.write": "octets that go to a file or a medium",
        "rawflash.KernelUbi.change": "octets that go to a file or a medium",
        "rawflash.KernelUbi.update": "octets that go to a file or a medium",
        "rawflash.Mtd.write": "octets that go to a file or a medium",
        "rawflash.UbiVolume.change": "octets that go to a file or a medium",
        "slots.block.read_back": "compares what a medium has with a signed root",
    },
}


TAKEN_BY: dict[str, dict[str, Target]] = {
    **TARGETS,
    "plc": serial_links.TARGETS,
    "dlms": dlms_app.TARGETS | serial_links.TARGETS | dlms_meter.TARGETS,
    "updateagent": updateagent.TARGETS | environment.TARGETS,
}


@pytest.mark.parametrize("package", sorted(OCTETS_FROM_US))
def test_whatever_takes_octets_is_reached_by_a_fuzz_target(package: str) -> None:
    without = takers(package) - reached(package, TAKEN_BY[package].values()) - set(OCTETS_FROM_US[package])
    assert without == set(), "write a target for it, or say in OCTETS_FROM_US why it needs none"


@pytest.mark.parametrize("package", sorted(OCTETS_FROM_US))
def test_every_exception_is_one_still(package: str) -> None:
    assert set(OCTETS_FROM_US[package]) - takers(package) == set(), "was it moved or renamed?"
    reached_too = set(OCTETS_FROM_US[package]) & reached(package, TAKEN_BY[package].values())
    assert reached_too == set(), "a target reaches it: it is no exception"
