"""`ppt-ncf pack`."""

from pathlib import Path
from typing import Literal

import click

from ppt_commands.ncf.data import data_of
from ppt_commands.ncf.trained import provenance
from ppt_commands.options import DATA_OPTION, FOLDER, JSON_OPTION, THREADS_OPTION
from ppt_commands.output import print_json


@click.command()
@click.argument("run", type=FOLDER)
@click.option("--out", type=FOLDER, required=True, help="New file.")
@click.option(
    "--embeddings",
    type=click.Choice(["float32", "int8"]),
    show_default="as they were trained: float32, or 1-bit",
    help="Of 32-bit ones; int8 rounds them, with a scale for each row.",
)
@DATA_OPTION
@THREADS_OPTION
@JSON_OPTION
def pack(run: Path, out: Path, embeddings: Literal["float32", "int8"] | None, data: Path | None, as_json: bool) -> None:
    """Write a RUN that ended in low precision as one self-contained file of packed bits, and verify it.

    Every bit behind the first 1-bit activation is compared with the simulated network's, on the candidates of the
    test users and on inputs made up for every threshold; what the rounding of the first layer changes is reported.
    Embeddings are most of the bytes: HR@10 is given beside them.

    \b
    Examples:
      ppt-ncf pack run --out network.packed
      ppt-ncf pack run --out small.packed --embeddings int8
    """
    from ncf_ppt.packed import packing
    from ncf_ppt.packed.file import save_packed
    from ncf_ppt.packed.verification import verify_on_test_items
    from ncf_ppt.ranking import rank_test_items
    from ncf_ppt.scoring import scorer
    from ncf_ppt.training import load_model
    from ppt_core.runs.files import refuse_existing
    from ppt_core.runs.run import Run

    refuse_existing(out)
    opened = Run.open(run)
    network = load_model(opened)
    prepared = data_of(opened, data)
    packed = packing.pack(
        network,
        user_ids=prepared.user_ids,
        item_ids=prepared.item_ids,
        protocol=prepared.protocol_label,
        provenance=provenance(opened),
        embeddings=embeddings,
    )
    report = verify_on_test_items(packed, network, prepared).to_dict()
    save_packed(packed, out)
    document = {
        "out": str(out),
        "bytes": out.stat().st_size,
        "embeddings": packed.embeddings,
        "embedding_bytes": sum(table.nbytes for table in packed.tables.values()),
        "float32_bytes": sum(4 * parameter.numel() for parameter in network.parameters()),
        "hit_ratio": rank_test_items(packed, prepared).hit_ratio(),
        "hit_ratio_of_run": rank_test_items(scorer(network), prepared).hit_ratio(),
        "protocol": prepared.protocol_label,
        **report,
    }
    if as_json:
        return print_json(document)
    click.echo(
        f"{out}: {document['bytes']:,} bytes, {document['embedding_bytes']:,} of them embeddings "
        f"({packed.embeddings}); all parameters at 32 bits: {document['float32_bytes']:,}"
    )
    click.echo(
        f"HR@10 {document['hit_ratio']:.4f} [{document['protocol']}; ties lost], of the run "
        f"{document['hit_ratio_of_run']:.4f}"
    )
    click.echo(
        f"bits that differ from the simulated network: 0 of {report['compared_bits'] + report['boundary_bits']:,}"
    )
    click.echo(
        f"rounding of the first layer: {report['first_layer_differences']:,} of {report['first_layer_bits']:,} bits, "
        f"{report['changed_ranks']:,} of {report['n_ranks']:,} ranks"
    )
