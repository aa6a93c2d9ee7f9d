"""The fast path of `dcu-update boot` returns what the whole program would, or None."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim.board.uboot import ENV_BYTES, ENV_OFFSETS
from tests.updateagent.board import TRIES
from tests.updateagent.engine.test_health import Bench
from updateagent.__main__ import main
from updateagent.boot.loaders import BOOT_LOADERS
from updateagent.boot.policy import TRIES_MAX
from updateagent.engine.health import HealthConfig
from updateagent.fast_path import UNDERSTOOD, answer, read_settings

REPO = Path(__file__).parents[2]


class FastBench(Bench):
    """A bench whose settings are also in a file."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, HealthConfig())
        self.file = folder / "dcu-update.toml"
        slots = "".join(
            f'[[slot]]\nname = "{name}"\ntype = "file"\npath = "{self.board.slot_file(name)}"\nsize = 1000000\n'
            for name in "AB"
        )
        self.file.write_text(
            f"""# settings
update_dir = "{self.config.update_dir}"   # on the data partition
run_dir = "{folder}"
cmdline = "{folder}/cmdline"
boot_id_file = "{folder}/boot_id"
release_file = "{folder}/release"
roots = "{folder}/roots.pem"
compatible = "HW"
trial_tries = {TRIES}
[bootenv]
type = "uboot"
config = "{folder}/fw_env.config"
lock = ""
{slots}"""
        )
        self.power_on()

    def both(self) -> tuple[int | None, int]:
        """What the fast path returns, and the whole program."""
        return answer(str(self.file)), main(["--config", str(self.file), "boot", "--thorough"])


@pytest.fixture
def bench(tmp_path: Path) -> FastBench:
    return FastBench(tmp_path)


def settled(bench: FastBench, starts: int = 1 + TRIES_MAX - TRIES) -> None:
    """Some history: the system was once well, both copies of the journal are there, and it was started since.

    After that many starts there are fewer attempts left than a trial has.
    """
    updater = bench.board.updater()
    updater.mark_good()
    updater._store(updater.record)
    updater.write_status()
    for _ in range(starts):
        bench.power_on()


def test_a_board_that_was_never_started_is_left_to_the_whole_program(bench: FastBench) -> None:
    assert answer(str(bench.file)) is None


def test_a_board_that_never_had_an_update_is_idle(bench: FastBench) -> None:
    bench.board.updater().boot()

    assert bench.both() == (11, 11)


def test_an_attempt_to_give_back_is_seen(bench: FastBench) -> None:
    settled(bench)

    assert bench.both() == (11, 11)


@pytest.mark.parametrize("pair", BOOT_LOADERS, ids="-".join)
def test_only_the_boot_loader_that_is_understood_is_answered_for(bench: FastBench, pair: tuple[str, str]) -> None:
    settled(bench, starts=1)
    text = bench.file.read_text()
    bench.file.write_text(text.replace('type = "uboot"', f'type = "{pair[0]}"\npolicy = "{pair[1]}"'))
    assert answer(str(bench.file)) == (0 if pair == UNDERSTOOD else None)
    assert UNDERSTOOD in BOOT_LOADERS


def test_nothing_to_do_is_seen(bench: FastBench) -> None:
    settled(bench, starts=1)
    assert bench.both() == (0, 0)


def test_a_board_that_was_once_well_and_never_had_an_update_has_its_journals_and_is_idle(bench: FastBench) -> None:
    bench.board.updater().mark_good()
    bench.power_on()
    assert all((bench.config.update_dir / name).exists() for name in ("journal.0", "journal.1"))
    assert bench.both() == (0, 0)


def test_the_guard_is_wanted_once_in_seven_starts(bench: FastBench) -> None:
    settled(bench, starts=0)
    answers = []
    for _ in range(14):
        bench.power_on()
        answers.append(bench.both())
        if answers[-1] == (11, 11):
            bench.board.updater().mark_good()

    assert answers == 2 * [*6 * [(0, 0)], (11, 11)]


@pytest.mark.parametrize(("left", "wanted"), [("0x8", 0), ("0X2", 11), ("0xA", 0), ("09", 0)])
def test_a_counter_in_the_hexadecimal_of_c_is_understood(bench: FastBench, left: str, wanted: int) -> None:
    settled(bench, starts=1)
    bench.board.environment.save({**bench.board.variables(), "BOOT_A_LEFT": left})
    assert bench.both() == (wanted, wanted)


@pytest.mark.parametrize("left", ["", "0x", "x3", "0x0x1", "0x123", "3 "])
def test_a_counter_that_is_none_is_left_to_the_whole_program(bench: FastBench, left: str) -> None:
    settled(bench, starts=1)
    bench.board.environment.save({**bench.board.variables(), "BOOT_A_LEFT": left})
    assert answer(str(bench.file)) is None


def test_offsets_in_octal_are_understood_and_the_yaml_form_is_left_to_the_whole_program(bench: FastBench) -> None:
    settled(bench, starts=1)
    config, env = bench.folder / "fw_env.config", bench.board.environment.flash
    config.write_text("".join(f"{env} 0{at:o} {ENV_BYTES:x}\n" for at in ENV_OFFSETS))
    assert bench.both() == (0, 0)
    devices = "".join(f"    - path: {env}\n      offset: {at}\n" for at in ENV_OFFSETS)
    config.write_text(f"uboot:\n  size: {ENV_BYTES}\n  devices:\n{devices}")
    assert bench.both() == (None, 0)


def test_an_environment_that_the_boot_loader_did_not_save_is_left_to_the_whole_program(bench: FastBench) -> None:
    settled(bench)
    for passed in ("0", "none", "", "x1"):
        (bench.folder / "cmdline").write_text(f"rauc.slot=A dcu.boots={passed}")
        assert answer(str(bench.file)) is None, passed
    (bench.folder / "cmdline").write_text("rauc.slot=A")  # a script that passes nothing
    assert bench.both() == (11, 11)
    assert main(["--config", str(bench.file), "boot"]) == 11


def test_a_request_a_held_result_another_slot_or_an_error_on_display_are_left_to_the_whole_program(
    bench: FastBench,
) -> None:
    settled(bench)
    update = bench.board.update_dir
    for path, content in (
        (update / "inbox" / "request.json", "{}"),
        (update / "outbox" / ".result.pending", "{}"),
        (bench.folder / "cmdline", "quiet rauc.slot=B"),
        (bench.folder / "cmdline", "quiet"),
        (update / "status.json", '{"booted": "A", "error": "journal"}'),
        (update / "journal.0", "?"),
    ):
        before = path.read_bytes() if path.exists() else None
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
        assert answer(str(bench.file)) is None, path
        if before is None:
            path.unlink()
        else:
            path.write_bytes(before)
    assert answer(str(bench.file)) == 11


def test_every_state_but_idle_is_left_to_the_whole_program(bench: FastBench) -> None:
    settled(bench)
    bench.board.hand_over("2")
    bench.board.updater().boot()
    (bench.board.update_dir / "inbox" / "request.json").unlink()
    assert answer(str(bench.file)) is None
    bench.power_on()
    assert answer(str(bench.file)) is None


def test_a_text_that_only_looks_like_an_idle_journal_is_no_idle_journal(bench: FastBench) -> None:
    settled(bench)
    bench.board.hand_over("2", request_id='","state":"idle","lost":false,"x":"')
    bench.board.updater().boot()
    (bench.board.update_dir / "inbox" / "request.json").unlink()

    assert answer(str(bench.file)) is None


def test_a_damaged_environment_is_left_to_the_whole_program(bench: FastBench) -> None:
    settled(bench)
    bench.board.environment.flash.write_bytes(b"\xff" * 100)

    assert answer(str(bench.file)) is None


@pytest.mark.parametrize(
    "text",
    [
        'update_dir = \'/x\'\n[bootenv]\ntype = "uboot"\nconfig = "/y"',
        'update_dir = """/x"""\n[bootenv]\ntype = "uboot"\nconfig = "/y"',
        'update_dir = "/x\\u0041"\n[bootenv]\ntype = "uboot"\nconfig = "/y"',
        'update_dir = "/x"',
        'update_dir = ["/x"]\n[bootenv]\ntype = "uboot"\nconfig = "/y"',
    ],
)
def test_settings_written_in_another_way_are_left_to_the_whole_program(text: str) -> None:
    assert read_settings(text) is None


def test_settings_written_the_plain_way_are_understood() -> None:
    found = read_settings(
        'update_dir = "/x" # here\ntrial_tries=2\n[bootenv]\ntype="uboot"\nconfig = "/y"\n[health]\ntype = "z"'
    )

    assert found is not None
    assert (found["update_dir"], found["trial_tries"], found["bootenv.config"]) == ("/x", "2", "/y")
    assert (found["cmdline"], found["bootenv.policy"], found["bootenv.type"]) == ("/proc/cmdline", "rauc", "uboot")


@pytest.mark.process
def test_the_fast_path_imports_next_to_nothing(bench: FastBench) -> None:
    settled(bench)
    script = (
        "import sys; before = set(sys.modules); from updateagent.__main__ import main;"
        f"code = main(['--config', {str(bench.file)!r}, 'boot']);"
        "print(code, *sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPO,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPO)},
    )
    code, *modules = done.stdout.split()
    assert code == "11"
    assert {name for name in modules if name.startswith("updateagent")} == {
        "updateagent",
        "updateagent.__main__",
        "updateagent.boot",
        "updateagent.boot.loaders",
        "updateagent.boot.uboot",
        "updateagent.boot.uboot.bytes",
        "updateagent.engine",
        "updateagent.fast_path",
        "updateagent.engine.sealed",
    }
    assert not {"dataclasses", "pathlib", "json", "tomllib", "argparse", "logging", "re", "typing"} & set(modules)
