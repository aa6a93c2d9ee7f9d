"""The settings that are shipped fit together: agent, Update Agent and the field tool meet in the same files."""

from __future__ import annotations

from pathlib import Path

from agent.cli.follow import DEFAULT_STATUS
from agent.settings import config as agent_config
from updateagent import config as update_config

ETC = Path(__file__).parents[1] / "etc"


def test_agent_and_update_agent_name_the_same_places_and_the_same_hardware() -> None:
    ours = agent_config.load(ETC / "dcu.yaml")
    theirs = update_config.load(ETC / "dcu-update.toml")
    update = ours.update
    assert (update.dir, update.run_dir, update.software_dir) == (
        theirs.update_dir,
        theirs.run_dir,
        theirs.software_dir,
    )
    assert (update.roots, update.compatible) == (theirs.roots, theirs.compatible)
    assert ours.device.release_file == theirs.release_file
    assert theirs.update_dir / "status.json" == DEFAULT_STATUS


def test_an_update_can_migrate_the_tree_and_takes_nothing_back_that_must_not_go_back() -> None:
    ours = agent_config.load(ETC / "dcu.yaml")
    theirs = update_config.load(ETC / "dcu-update.toml")
    assert theirs.state_dirs == (ours.state_dir / "dm",)
    kept = (ours.metering.store_file, ours.metering.registry_file, ours.state_dir / "orders", ours.update.software_dir)
    assert not [path for path in kept for folder in theirs.state_dirs if path.is_relative_to(folder)]


def test_both_programs_wait_for_the_data_partition() -> None:
    data = agent_config.load(ETC / "dcu.yaml").state_dir
    for name in ("dcu-agent.service", "dcu-update.service"):
        assert f"RequiresMountsFor={data}\n" in (ETC / "systemd" / name).read_text()
