"""`ppt-ncf doctor`."""

from pathlib import Path
from typing import Any

import click

from ppt_commands.options import JSON_OPTION, PATH, THREADS_OPTION
from ppt_commands.output import print_json, say, tell


@click.command()
@click.option("--clean", type=PATH, help="Only remove what killed commands left half written in this folder.")
@THREADS_OPTION
@JSON_OPTION
@click.pass_context
def doctor(context: click.Context, clean: Path | None, as_json: bool) -> None:
    """Say what this machine offers, and check the kernels on known answers. Exit code 1 if something fails.

    Its output belongs into a report of a fault. With --clean nothing is checked: hidden files and folders named
    .NAME.XXXX.partial are removed from the folder and those in it, unless their command is still at work.

    \b
    Examples:
      ppt-ncf doctor
      ppt-ncf doctor --json
      ppt-ncf doctor --clean .
    """
    if clean is not None:
        return _clean(clean, as_json=as_json)
    from ncf_ppt.self_test import run_checks
    from ppt_core.runs.machine import describe_machine

    tell("checking the kernels; the first time they are compiled, which takes a minute")
    machine, checks = describe_machine(), run_checks()
    missing = [name for name, found in machine["versions"].items() if found is None]
    is_well = not missing and all(check.ok for check in checks)
    if as_json:
        print_json({**machine, "checks": [check.to_dict() for check in checks], "ok": is_well})
    else:
        for group, values in machine.items():
            say(f"{group}: {', '.join(f'{name} {_text(value)}' for name, value in values.items()) or 'none'}")
        for check in checks:
            say(f"{check.name}: {'ok' if check.ok else 'FAILED'}, {check.detail} ({check.seconds:.1f} s)")
    if not is_well:
        for name in missing:
            tell(f"{name} is missing; install this project again")
        context.exit(1)


def _clean(folder: Path, *, as_json: bool) -> None:
    from ppt_core.errors import DataError
    from ppt_core.runs.partial_files import leftovers, remove_leftovers

    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; name one in which commands wrote")
    found = leftovers(folder, "**/.*")
    remove_leftovers(found)
    if as_json:
        return print_json({"removed": [str(each) for each in found if not each.exists()]})
    for each in found:
        say(f"{each}: {'cannot be removed' if each.exists() else 'removed'}")
    say(f"{len(found)} left by commands that were killed")


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return " / ".join(f"{name} {_text(number)}" for name, number in value.items())
    if isinstance(value, list):
        return " / ".join(map(str, value)) or "none"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,.{0 if value >= 100 else 2}f}" if isinstance(value, float) else str(value)
