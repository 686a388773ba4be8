"""`ppt-ncf inspect`."""

from pathlib import Path

import click

from ppt_commands.options import JSON_OPTION, PATH, THREADS_OPTION
from ppt_commands.output import print_json, say


@click.command()
@click.argument("path", type=PATH, metavar="RUN|FILE")
@THREADS_OPTION
@JSON_OPTION
def inspect(path: Path, as_json: bool) -> None:
    """List the layers of a RUN or of a packed FILE: shapes, bits, bytes, and the operations that score a pair.

    Bytes are given as trained (float32) and as packed. "simulated" is a 1-bit layer of a run, whose bits are made anew
    at each use; "packed" is one that is stored and computed as bits.

    \b
    Examples:
      ppt-ncf inspect run
      ppt-ncf inspect network.packed --json
    """
    from ncf_ppt.trained import load

    found = load(path).inspect()
    if as_json:
        return print_json(found.to_dict())
    say(str(found))
