"""`ppt-ncf pack`."""

from pathlib import Path

import click

from commands.ncf.data import data_of
from commands.options import DATA_OPTION, FOLDER, JSON_OPTION
from commands.output import print_json


@click.command()
@click.argument("run", type=FOLDER)
@click.option("--out", type=FOLDER, required=True, help="New file.")
@DATA_OPTION
@JSON_OPTION
def pack(run: Path, out: Path, data: Path | None, as_json: bool) -> None:
    """Write a RUN that ended in low precision as one self-contained file of packed bits, and verify it.

    Every bit behind the first 1-bit activation is compared with the simulated network's, on the candidates of the
    test users and on inputs made up for every threshold; what the rounding of the first layer changes is reported.

    \b
    Example:
      ppt-ncf pack run --out network.packed
    """
    from ncf_ppt.fit import load_model
    from ncf_ppt.packed import packing
    from ncf_ppt.packed.file import save_packed
    from ncf_ppt.packed.verification import verify_on_test_items
    from ppt_core.files import refuse_existing
    from ppt_core.runs import Run

    refuse_existing(out)
    opened = Run.open(run)
    network = load_model(opened)
    prepared = data_of(opened, data)
    packed = packing.pack(
        network,
        user_ids=prepared.user_ids,
        item_ids=prepared.item_ids,
        protocol=prepared.protocol_label,
        provenance={"model": opened.config["model"], "training": opened.config["training"]},
    )
    report = verify_on_test_items(packed, network, prepared).to_dict()
    save_packed(packed, out)
    document = {"out": str(out), "bytes": out.stat().st_size, **report}
    if as_json:
        return print_json(document)
    click.echo(f"{out}: {document['bytes']:,} bytes, embeddings at 32 bits among them")
    click.echo(
        f"bits that differ from the simulated network: 0 of {report['compared_bits'] + report['boundary_bits']:,}"
    )
    click.echo(
        f"rounding of the first layer: {report['first_layer_differences']:,} of {report['first_layer_bits']:,} bits, "
        f"{report['changed_ranks']:,} of {report['n_ranks']:,} ranks"
    )
