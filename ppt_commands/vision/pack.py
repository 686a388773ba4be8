"""`ppt-vision pack`."""

from pathlib import Path

import click

from ppt_commands.options import DATA_OPTION, FOLDER, JSON_OPTION, THREADS_OPTION
from ppt_commands.output import print_json
from ppt_commands.recorded_data import recorded_data
from ppt_commands.vision.data import open_images
from ppt_core.identity import copied_record


@click.command()
@click.argument("run", type=FOLDER)
@click.option("--out", type=FOLDER, required=True, help="New file.")
@click.option(
    "--images",
    "n_images",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Test images that both networks are compared on.",
)
@click.option("--root", type=FOLDER, help="Where the image files are, if they moved since they were prepared.")
@DATA_OPTION
@THREADS_OPTION
@JSON_OPTION
def pack(run: Path, out: Path, n_images: int, root: Path | None, data: Path | None, as_json: bool) -> None:
    """Write a RUN that ended in low precision as one self-contained file of packed bits, and verify it.

    Every bit, every real number behind packed layers and every logit is compared with the simulated network's, on test
    images and on inputs made up for every threshold.

    \b
    Example:
      ppt-vision pack run --out network.packed
    """
    from ppt_core.runs.files import refuse_existing
    from ppt_core.runs.run import Run
    from vision_ppt import training
    from vision_ppt.batches import evaluation_batches
    from vision_ppt.networks import NetworkConfig
    from vision_ppt.packed.file import PackedImageNetwork, float32_bytes, save_packed
    from vision_ppt.packed.packing import pack as pack_network
    from vision_ppt.packed.verification import verify
    from vision_ppt.sampling import evaluation_sampler

    refuse_existing(out)
    opened = Run.open(run)
    network = training.load_network(opened)
    prepared = recorded_data(opened, data, lambda path: open_images(path, root))
    packed = pack_network(network)
    sampler = evaluation_sampler(prepared, image_size=opened.config["training"]["image_size"])
    batch = next(iter(evaluation_batches(sampler, n_images)))
    report = verify(packed, network, prepared.normalization(batch.images)).to_dict()
    result = {key: opened.result()[key] for key in ("iterations", "epochs", "split", "seed")}
    artefact = PackedImageNetwork(
        network=packed,
        config=NetworkConfig(**opened.config["network"]),
        class_names=tuple(prepared.class_names),
        provenance={
            "training": opened.config["training"],
            "data": {
                **copied_record(opened.config["data"]),
                "is_sample": opened.config["data"].get("path", "") is None,
            },
            "result": result,
        },
    )
    save_packed(artefact, out)
    document = {"out": str(out), "bytes": out.stat().st_size, "float32_bytes": float32_bytes(network), **report}
    if as_json:
        return print_json(document)
    click.echo(f"{out}: {document['bytes']:,} bytes; all parameters at 32 bits: {document['float32_bytes']:,}")
    n_bits = report["compared_bits"] + report["boundary_bits"]
    click.echo(
        f"differing from the simulated network: 0 of {n_bits:,} bits, 0 of {report['compared_sums']:,} sums, 0 of "
        f"{report['compared_logits']:,} logits"
    )
