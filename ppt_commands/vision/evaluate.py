"""`ppt-vision evaluate`."""

from pathlib import Path
from typing import Literal

import click

from ppt_commands.options import DATA_OF_FILE_OPTION, DEVICE_OPTION, ENGINE_OPTION, JSON_OPTION, PATH, THREADS_OPTION
from ppt_commands.output import print_json, say


@click.command()
@click.argument("path", type=PATH, metavar="RUN|FILE")
@click.option("--workers", type=click.IntRange(0), default=0, show_default=True, help="Processes that decode.")
@click.option("--root", type=PATH, help="Where the image files are, if they moved since they were prepared.")
@ENGINE_OPTION
@DATA_OF_FILE_OPTION
@DEVICE_OPTION
@THREADS_OPTION
@JSON_OPTION
def evaluate(
    path: Path,
    workers: int,
    root: Path | None,
    engine: Literal["torch", "packed"] | None,
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
    from vision_ppt.trained import load

    trained = load(path, data=data, root=root, device=device)
    found = trained.evaluate(engine=engine, workers=workers)
    if as_json:
        return print_json(
            {**found.to_dict(), "run": str(path), "network": trained.config.network, **trained.training.to_dict()}
        )
    say(f"{path}: accuracy {found.accuracy:.4f} [{found.protocol}; ties lost]")
