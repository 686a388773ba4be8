"""`ppt-vision evaluate`."""

from pathlib import Path

import click

from commands.options import DATA_OPTION, DEVICE_OPTION, FOLDER, JSON_OPTION
from commands.output import print_json
from commands.recorded_data import recorded_data
from commands.vision.data import open_images


@click.command()
@click.argument("run", type=FOLDER)
@click.option("--workers", type=click.IntRange(0), default=0, show_default=True, help="Processes that decode.")
@click.option("--root", type=FOLDER, help="Where the image files are, if they moved since they were prepared.")
@DATA_OPTION
@DEVICE_OPTION
@JSON_OPTION
def evaluate(run: Path, workers: int, root: Path | None, data: Path | None, device: str, as_json: bool) -> None:
    """Measure the accuracy of a finished RUN on its test images.

    \b
    Examples:
      ppt-vision evaluate run
      ppt-vision evaluate run --data moved/cifar10 --json
    """
    from ppt_core.runs import Run
    from vision_ppt import fit

    opened = Run.open(run)
    network = fit.load_network(opened, device=device)
    images = recorded_data(opened, data, lambda path: open_images(path, root))
    image_size = opened.config["training"]["image_size"]
    metrics = fit.evaluate(network, images, image_size=image_size, device=device, workers=workers)
    metrics |= {"n_classes": images.n_classes, "run": str(run)}
    if as_json:
        keys = ("network", "iterations", "epochs", "seconds", "split", "phases", "seed")
        return print_json({**metrics, **{key: opened.result()[key] for key in keys}})
    click.echo(f"{run}: accuracy {metrics['accuracy']:.4f} [{metrics['n_images']:,} test images, top-1; ties lost]")
