"""`ppt-vision evaluate`."""

from pathlib import Path

import click

from ppt_commands.options import DATA_OPTION, DEVICE_OPTION, ENGINE_OPTION, FOLDER, JSON_OPTION, THREADS_OPTION
from ppt_commands.output import print_json
from ppt_commands.vision.trained import open_trained


@click.command()
@click.argument("path", type=FOLDER, metavar="RUN|FILE")
@click.option("--workers", type=click.IntRange(0), default=0, show_default=True, help="Processes that decode.")
@click.option("--root", type=FOLDER, help="Where the image files are, if they moved since they were prepared.")
@ENGINE_OPTION
@DATA_OPTION
@DEVICE_OPTION
@THREADS_OPTION
@JSON_OPTION
def evaluate(
    path: Path,
    workers: int,
    root: Path | None,
    engine: str | None,
    data: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Measure the accuracy of a finished RUN, or of a packed FILE, on its test images.

    A packed FILE holds no images: name its prepared data with --data.

    \b
    Examples:
      ppt-vision evaluate run
      ppt-vision evaluate run --data moved/cifar10 --json
      ppt-vision evaluate network.packed --data cifar10
    """
    from vision_ppt import training

    trained = open_trained(path, data, root=root, engine=engine, device=device)
    metrics = training.evaluate(
        trained.network, trained.images, image_size=trained.image_size, device=device, workers=workers
    )
    metrics |= {"n_classes": trained.images.n_classes, "engine": trained.engine, "run": str(path)}
    if as_json:
        return print_json({**metrics, **trained.training})
    click.echo(f"{path}: accuracy {metrics['accuracy']:.4f} [{metrics['n_images']:,} test images, top-1; ties lost]")
