"""`ppt-ncf pack`."""

from pathlib import Path
from typing import Literal

import click

from ppt_commands.options import DATA_OPTION, JSON_OPTION, PATH, THREADS_OPTION
from ppt_commands.output import print_json, say


@click.command()
@click.argument("run", type=PATH)
@click.option("--out", type=PATH, required=True, help="New file.")
@click.option(
    "--embeddings",
    type=click.Choice(["float32", "int8"]),
    show_default="as they were trained: float32, or 1-bit",
    help="How 32-bit embeddings are stored; int8 rounds them, with a scale for each row.",
)
@DATA_OPTION
@THREADS_OPTION
@JSON_OPTION
def pack(run: Path, out: Path, embeddings: Literal["float32", "int8"] | None, data: Path | None, as_json: bool) -> None:
    """Write a RUN that ended in low precision as one self-contained file of packed bits, and verify it.

    Every bit behind the first 1-bit activation is compared with the simulated network's, on the candidates of the
    test users and on inputs made up for every threshold; what the rounding of the first layer changes is reported.
    Of two towers (--recipe warm) the file holds the last items of each user, too.
    Embeddings are most of the bytes: HR@10 is given beside them.

    \b
    Examples:
      ppt-ncf pack run --out network.packed
      ppt-ncf pack run --out small.packed --embeddings int8
    """
    from ncf_ppt.trained import load

    report = load(run, data=data).pack(out, embeddings=embeddings)
    if as_json:
        return print_json(report.to_dict())
    say(str(report))
