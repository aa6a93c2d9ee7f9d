"""Every fuzz target, under its full name `MODULE/TARGET`."""

from __future__ import annotations

from tests.fuzz.guided import all_targets
from tests.fuzz.targets import agent, dlms_app, dlms_meter, environment, headend, omadm, serial_links, updateagent

MODULES = (agent, dlms_app, dlms_meter, environment, headend, omadm, serial_links, updateagent)
TARGETS = all_targets({module.__name__.rpartition(".")[2]: module.TARGETS for module in MODULES})
