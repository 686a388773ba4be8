"""`ppt-vision pack`."""

from pathlib import Path

import click

from ppt_commands.options import DATA_OPTION, JSON_OPTION, PATH, THREADS_OPTION
from ppt_commands.output import print_json, say


@click.command()
@click.argument("run", type=PATH)
@click.option("--out", type=PATH, required=True, help="New file.")
@click.option(
    "--images",
    "n_images",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Test images that both networks are compared on.",
)
@click.option("--root", type=PATH, help="Where the image files are, if they moved since they were prepared.")
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
    from vision_ppt.trained import load

    report = load(run, data=data, root=root).pack(out, n_images=n_images)
    if as_json:
        return print_json(report.to_dict())
    say(str(report))
