"""Other boot loaders: the same stories, the same cuts; and GRUB's block against GRUB's own tool."""

from __future__ import annotations

import errno
import logging
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.sim.faulty_disk import FaultyDisk, Survival
from tests.updateagent.board import Board
from tests.updateagent.boot.boards import COUNTED, OTHER_LOADERS, count_commits
from tests.updateagent.boot.loaders import GrubBoard
from tests.updateagent.engine.power import Story, Trouble, explore, explore_errors, stories
from updateagent.boot import LOCKED_TYPES
from updateagent.boot.grub import Block, GrubStore
from updateagent.boot.loaders import BOOT_LOADERS, policies, policy_class, types
from updateagent.boot.policy import NoSuchBootLoader
from updateagent.compose import UpdateAgent
from updateagent.config import load
from updateagent.disk import RealDisk
from updateagent.errors import CONFIGURATION, ENVIRONMENT, ENVIRONMENT_FULL, DeviceError, RequestError


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


REPO = Path(__file__).parents[3]

GOOD, UNHEALTHY = stories()[:2]


@pytest.mark.parametrize("board", OTHER_LOADERS, ids=lambda board: board.__name__)
@pytest.mark.parametrize("story", [GOOD, UNHEALTHY], ids=lambda story: story.name)
def test_the_stories_end_well_under_every_boot_loader(board: type[Board], story: Story) -> None:
    # GRUB gives a trial one attempt: a power cut in it is the end of the trial.
    one = board is GrubBoard
    played = replace(story, make_board=board, one_attempt=one, also_allowed=frozenset({410} if one else ()))
    for tally in (
        explore(played, phases=("torn", "after"), survivals=(Survival.LOST, Survival.HOLED), stride=5),
        explore_errors(played, troubles=(Trouble(errno.EIO, lasting=False),), stride=5),
    ):
        assert tally.violations == []
        assert tally.fired == tally.planned > 0


@pytest.mark.parametrize("board", COUNTED)
def test_an_install_is_one_commit_and_an_ordinary_boot_none(tmp_path: Path, board: type[Board]) -> None:
    made = board(tmp_path)
    made.assemble()
    made.power_on()
    made.updater().mark_good()  # a new board has no journal: the guard makes one
    before = made.environment.flash.read_bytes()
    assert made.updater().boot() == 0
    made.power_on()
    assert made.environment.flash.read_bytes() == before
    made.hand_over("2")
    counted = count_commits(made)
    assert made.updater().boot() == 10
    assert counted.commits == 1


POLICIES = sorted({policy for _, policy in BOOT_LOADERS})
SETTINGS = """
update_dir = "/data/update"
run_dir = "/run/dcu"
roots = "/etc/roots.pem"
compatible = "HW"
[bootenv]
type = "{type}"
config = "/etc/env"
{policy}
[[slot]]
name = "A"
type = "block"
path = "/dev/a"
[[slot]]
name = "B"
type = "block"
path = "/dev/b"
"""


def settings(folder: Path, of_type: str, policy: str | None) -> Path:
    file = folder / "settings.toml"
    file.write_text(SETTINGS.format(type=of_type, policy=f'policy = "{policy}"' if policy else ""))
    return file


@pytest.mark.parametrize("of_type", types())
@pytest.mark.parametrize("policy", POLICIES)
def test_every_pair_of_type_and_policy_is_in_the_table_or_refused_at_load(
    tmp_path: Path, of_type: str, policy: str
) -> None:
    file = settings(tmp_path, of_type, policy)
    if (of_type, policy) in BOOT_LOADERS:
        agent = UpdateAgent(load(file), FaultyDisk())
        assert (agent.config.bootenv.type, agent.config.bootenv.policy) == (of_type, policy)
        agent.disk.mkdir_durable(Path("/etc"))
        agent.disk.write_durable(Path("/etc/env"), b"/dev/env 0 0x4000")
        assert type(agent.bootenv(agent.environment())) is policy_class(of_type, policy)
    else:
        with pytest.raises(RequestError, match=rf"bootenv\.policy: with type {of_type} one of ") as caught:
            load(file)
        assert caught.value.code is CONFIGURATION
        with pytest.raises(NoSuchBootLoader):
            policy_class(of_type, policy)


@pytest.mark.parametrize("of_type", types())
def test_the_default_policy_is_the_first_of_its_type(tmp_path: Path, of_type: str) -> None:
    assert load(settings(tmp_path, of_type, None)).bootenv.policy == policies(of_type)[0]


@pytest.mark.parametrize("of_type", types())
@pytest.mark.parametrize("lock", ["/run/lock/env", ""])
def test_a_lock_is_taken_where_the_loaders_tools_take_one_and_else_refused(
    tmp_path: Path, of_type: str, lock: str
) -> None:
    file = settings(tmp_path, of_type, None)
    file.write_text(file.read_text().replace('config = "/etc/env"', f'config = "/etc/env"\nlock = "{lock}"'))
    if lock and of_type not in LOCKED_TYPES:
        with pytest.raises(RequestError) as caught:
            load(file)
        assert caught.value.message == f"{file}:9: bootenv.lock: type {of_type} has no lock: its own tools take none"
    else:
        assert load(file).bootenv.lock == (Path(lock) if lock else None)


@pytest.mark.parametrize(("of_type", "lock"), [("uboot", Path("/var/lock/fw_printenv.lock")), ("grub", None)])
def test_the_lock_is_by_default_that_of_the_loaders_tools(tmp_path: Path, of_type: str, lock: Path | None) -> None:
    assert load(settings(tmp_path, of_type, None)).bootenv.lock == lock


def test_an_unknown_type_is_refused_by_its_name_alone(tmp_path: Path) -> None:
    with pytest.raises(RequestError) as caught:
        load(settings(tmp_path, "redboot", "rauc"))
    assert caught.value.message.splitlines() == [f"{tmp_path}/settings.toml:7: bootenv.type: one of uboot, grub"]


def test_the_manual_lists_the_table() -> None:
    manual = (REPO / "docs" / "update.md").read_text()
    rows = re.findall(r"^\| `([a-z]+)` \| `([a-z-]+)` \|", manual, re.MULTILINE)
    assert rows == list(BOOT_LOADERS)


def test_values_with_backslashes_and_newlines_survive() -> None:
    block = Block({"a": "x\\y\nz", "empty": "", "hash": "#1"})

    assert Block.parse(block.emit()) == block
    assert len(block.emit()) == 1024


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"#" * 1024,
        b"# GRUB Environment Block\nnoequals".ljust(1024, b"\n"),
        b"# GRUB Environment Block\na=\\".ljust(1024, b"x"),
    ],
)
def test_anything_else_is_an_error(raw: bytes) -> None:
    with pytest.raises(DeviceError) as caught:
        Block.parse(raw)
    assert caught.value.code is ENVIRONMENT


def test_variables_that_do_not_fit_are_refused() -> None:
    disk = FaultyDisk()
    disk.write_durable(Path("/grubenv"), Block({}).emit())
    with pytest.raises(DeviceError) as caught:
        GrubStore(disk, Path("/grubenv")).commit({"long": "x" * 1000})
    assert caught.value.code is ENVIRONMENT_FULL


@pytest.mark.process
@pytest.mark.skipif(shutil.which("grub-editenv") is None, reason="needs grub-editenv (Debian package grub-common)")
def test_grub_editenv_agrees_with_us_in_both_directions(tmp_path: Path) -> None:
    path = tmp_path / "grubenv"

    def tool(*words: str) -> str:
        command = ["grub-editenv", str(path), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    tool("create")
    tool("set", "ORDER=A B", "odd=x\\y")
    store = GrubStore(RealDisk(), path)
    assert store.load().variables == {"ORDER": "A B", "odd": "x\\y"}
    store.commit({"ORDER": "B A", "B_OK": "1"})
    assert tool("list").splitlines() == ["ORDER=B A", "odd=x\\y", "B_OK=1"]
