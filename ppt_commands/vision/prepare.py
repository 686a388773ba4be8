"""`ppt-vision prepare`."""

import sys
from pathlib import Path
from typing import Literal

import click
from click.core import ParameterSource

from ppt_commands.options import JSON_OPTION, PATH
from ppt_commands.output import print_json, say


@click.command()
@click.argument("kind", type=click.Choice(["cifar10", "imagenet"]))
@click.argument("source", type=PATH)
@click.option("--out", type=PATH, required=True, help="New folder for the prepared set.")
@click.option(
    "--validation",
    "n_validation",
    type=click.IntRange(0),
    default=0,
    help="Hold out so many training images, each class by its share: for `train --patience`.  [default: none]",
)
@click.option(
    "--on-broken",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="An image file that cannot be read: stop and name it, or leave it out and count it.",
)
@click.option("--threads", default=2, show_default=True, help="Image files checked at a time.")
@JSON_OPTION
@click.pass_context
def prepare(
    context: click.Context,
    kind: str,
    source: Path,
    out: Path,
    n_validation: int,
    on_broken: Literal["stop", "skip"],
    threads: int,
    as_json: bool,
) -> None:
    """Check the images of SOURCE and make a prepared set of them.

    cifar10: SOURCE is cifar-10-python.tar.gz or the folder it unpacks to, as published or in another order.
    imagenet: SOURCE is a folder with train/CLASS/*.JPEG and val/CLASS/*.JPEG; the images stay there.

    \b
    Examples:
      ppt-vision prepare cifar10 cifar-10-python.tar.gz --out cifar10
      ppt-vision prepare cifar10 cifar-10-python.tar.gz --out cifar10-45k --validation 5000
      ppt-vision prepare imagenet imagenette2 --out imagenette --on-broken skip
    """
    from data_prep.images.cifar import prepare_cifar10
    from data_prep.images.image_arrays import PreparedImages
    from data_prep.images.image_files import PreparedFolders
    from data_prep.images.image_folders import prepare_image_folders
    from data_prep.images.manifest import count_images

    images: PreparedImages | PreparedFolders
    if kind == "cifar10":
        if any(context.get_parameter_source(name) == ParameterSource.COMMANDLINE for name in ("on_broken", "threads")):
            raise ValueError("--on-broken and --threads are for imagenet's files; leave them out for cifar10")
        images = prepare_cifar10(source, out, n_validation=n_validation)
    else:
        images = prepare_image_folders(
            source,
            out,
            n_validation=n_validation,
            on_broken=on_broken,
            threads=threads,
            progress=sys.stderr.isatty(),
        )
    manifest = images.manifest
    if as_json:
        counts = {f"n_{name}": len(part) for name, part in images.parts.items()}
        return print_json({"out": str(out), **counts, "n_classes": images.n_classes, "manifest": manifest})
    say(f"{out}: {count_images(images.parts)} of {images.n_classes:,} classes")
    if kind == "cifar10" and not manifest["source"]["is_official"]:
        say("the bytes are not the published ones (another order, say); the manifest has their SHA-256")
    for entry in manifest.get("broken", []):
        say(f"left out: {entry['path']} ({entry['reason']})")
    if manifest.get("n_other_files"):
        say(f"passed over: {manifest['n_other_files']:,} files that are not named .JPEG or .jpg")
