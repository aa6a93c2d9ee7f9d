"""`dcu-update`: the Update Agent's program.

    dcu-update boot       run by init before the agent: 0 nothing to do, 10 reboot wanted, 11 start the guard
    dcu-update guard      run by init beside the agent: 0 done, 10 reboot wanted
    dcu-update status     what is installed where, and what an update is doing
    dcu-update verify     check a package and say what it is
    dcu-update install    install a firmware package by hand: 10 reboot wanted
    dcu-update confirm    the system on trial is good
    dcu-update rollback   give up the trial, or go back to the other slot: 10 reboot wanted
    dcu-update mark       tell the boot loader that a slot is good, bad, or the first one
    dcu-update software   install, activate, deactivate, remove, list software packages

Every other exit status is the number of an error (`updateagent.errors`); its sentence goes to standard error.
"""

import sys

DEFAULT_CONFIG = "/etc/dcu-update.toml"


def main(argv: "list[str] | None" = None) -> int:
    """Run the program; returns its exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    config = DEFAULT_CONFIG
    if len(arguments) == 3 and arguments[0] == "--config":
        config = arguments[1]
    elif len(arguments) != 1:
        config = ""
    is_boot = arguments[-1:] == ["boot"] and config != ""
    if is_boot:
        from updateagent.fast_path import answer

        code = answer(config)
        if code is not None:
            return code
    return _whole_program(arguments, config if is_boot else None)


def _whole_program(arguments: "list[str]", boot_config: "str | None") -> int:
    import gc

    if boot_config is not None:
        gc.disable()  # one short run: what collecting would free is less than what it costs on a small board
    from updateagent import cli
    from updateagent.errors import UpdateError

    try:
        return cli.run(arguments) if boot_config is None else cli.boot(boot_config)
    except UpdateError as error:
        print(f"dcu-update: {error.message}", file=sys.stderr)  # noqa: T201
        return error.number


if __name__ == "__main__":
    sys.exit(main())
