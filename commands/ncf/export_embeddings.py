"""`ppt-ncf export-embeddings`."""

from pathlib import Path
from typing import Any

import click

from commands.ncf.data import data_of
from commands.options import DATA_OPTION, FOLDER, JSON_OPTION
from commands.output import print_json


@click.command("export-embeddings")
@click.argument("run", type=FOLDER)
@click.option("--out", type=FOLDER, required=True, help="New folder.")
@click.option(
    "--format", type=click.Choice(["parquet", "npy"]), default="parquet", show_default=True, help="Of the files."
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "int8", "binary"]),
    default="float32",
    show_default=True,
    help="Of the components; int8 has a scale for each row, binary keeps the signs.",
)
@DATA_OPTION
@JSON_OPTION
def export_embeddings(run: Path, out: Path, data: Path | None, as_json: bool, **encoding: Any) -> None:
    """Write the user and item vectors of a RUN with their original ids.

    \b
    Examples:
      ppt-ncf export-embeddings run --out vectors
      ppt-ncf export-embeddings run --out codes --format npy --dtype binary
    """
    from ncf_ppt.embeddings import export_embeddings as export
    from ncf_ppt.fit import load_model
    from ppt_core.runs import Run

    opened = Run.open(run)
    manifest = export(load_model(opened), data_of(opened, data), out, **encoding)
    if as_json:
        return print_json({"out": str(out), **manifest})
    click.echo(f"{out}: {manifest['n_users']:,} users, {manifest['n_items']:,} items, {manifest['meaning']}")
