"""`ppt-ncf export-embeddings`."""

from pathlib import Path
from typing import Any

import click

from ppt_commands.options import DATA_OPTION, JSON_OPTION, PATH, THREADS_OPTION
from ppt_commands.output import print_json, say


@click.command("export-embeddings")
@click.argument("run", type=PATH)
@click.option("--out", type=PATH, required=True, help="New folder.")
@click.option(
    "--format",
    type=click.Choice(["parquet", "npy", "safetensors", "faiss"]),
    default="parquet",
    show_default=True,
    help="Format of the files; faiss needs the extra of that name.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "int8", "binary"]),
    default="float32",
    show_default=True,
    help="Type of the components; int8 has a scale for each row, and so has binary, which keeps the signs of rotated "
    "vectors and is always verified.",
)
@click.option("--verify", is_flag=True, help="Search in the files for the network's own top 10, and compare.")
@DATA_OPTION
@THREADS_OPTION
@JSON_OPTION
def export_embeddings(run: Path, out: Path, verify: bool, data: Path | None, as_json: bool, **encoding: Any) -> None:
    """Write the user and item vectors of a RUN with their original ids.

    Inner products of a gmf network's vectors rank as the network does; those of the others find candidates, which
    `recommend --candidates` lets the network rerank. The output says which.

    \b
    Examples:
      ppt-ncf export-embeddings run --out vectors
      ppt-ncf export-embeddings run --out codes --format npy --dtype binary
      ppt-ncf export-embeddings run --out index --format faiss --verify
    """
    from ncf_ppt.trained import load

    exported = load(run, data=data).export_embeddings(out, verify=verify, **encoding)
    print_json(exported.to_dict()) if as_json else say(exported)
