"""`ppt-ncf inspect`."""

from collections import Counter
from pathlib import Path
from typing import Any

import click

from ppt_commands.options import FOLDER, JSON_OPTION, THREADS_OPTION
from ppt_commands.output import print_json


@click.command()
@click.argument("path", type=FOLDER, metavar="RUN|FILE")
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
    from ncf_ppt.inspection import inspect_network, inspect_packed
    from ncf_ppt.packed.file import load_packed
    from ncf_ppt.training import load_model
    from ppt_core.runs.run import Run

    document: dict[str, Any] = {"path": str(path)}
    if path.is_file():
        packed = load_packed(path)
        reports = inspect_packed(packed)
        document |= {"kind": "packed", "file_bytes": path.stat().st_size, "embeddings": packed.embeddings}
        document |= {"protocol": packed.protocol, "provenance": packed.provenance}
    else:
        run = Run.open(path)
        reports = inspect_network(load_model(run))
        document |= {"kind": "run", "file_bytes": run.model_path.stat().st_size}
        document |= {"protocol": run.config["data"]["protocol"]}
    operations: Counter[str] = Counter()
    for report in reports:
        operations.update(report.operations)
    packed_bytes = [report.packed_bytes for report in reports]
    document |= {
        "layers": [report.to_dict() for report in reports],
        "latent_bytes": sum(report.latent_bytes for report in reports),
        "packed_bytes": None if None in packed_bytes else sum(n for n in packed_bytes if n is not None),
        "operations": dict(operations),
    }
    if as_json:
        return print_json(document)
    _print_table(document)


def _print_table(document: dict[str, Any]) -> None:
    def cells(row: dict[str, Any]) -> list[str]:
        work = ", ".join(f"{n:,} {kind}" for kind, n in row["operations"].items())
        packed = "-" if row["packed_bytes"] is None else f"{row['packed_bytes']:,}"
        shape = " x ".join(f"{n:,}" for n in row.get("shape", ()))
        names = [row.get("name", "all"), row.get("kind", ""), shape, str(row.get("bits", ""))]
        return [*names, f"{row['latent_bytes']:,}", packed, row.get("form", ""), work]

    heads = ["layer", "kind", "shape", "bits", "bytes at 32", "packed", "form", "operations a pair"]
    total = {key: document[key] for key in ("latent_bytes", "packed_bytes", "operations")}
    rows = [heads, *map(cells, document["layers"]), cells(total)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    for row in rows:
        padded = [
            cell.rjust(width) if column in (2, 3, 4, 5) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        click.echo("  ".join(padded).rstrip())
    click.echo(f"{document['path']}: {document['file_bytes']:,} bytes, {document['kind']} [{document['protocol']}]")
