"""`ppt-vision train`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ppt_commands.options import PATH, training_options
from ppt_commands.output import print_json, print_training, say
from ppt_commands.training import run_folder, say_what_is_trained

if TYPE_CHECKING:
    from data_prep.images.image_arrays import PreparedImages
    from data_prep.images.image_files import PreparedFolders
    from ppt_core.runs.trackers import Log
    from vision_ppt.networks import NetworkConfig
    from vision_ppt.training import VisionTrainingConfig

_SAMPLE_EPOCHS = 4  # on the built-in sample, under a minute on two idle cores


@click.command()
@click.option(
    "--network",
    type=click.Choice(["resnet20", "vgg16", "resnet34"]),
    default="resnet20",
    show_default=True,
    help="resnet20 and vgg16 are made for 32x32, resnet34 for 224x224.",
)
@click.option(
    "--shortcut",
    type=click.Choice(["identity", "projection"]),
    help="Shortcut of a ResNet where the shape changes.  [default: the network's own]",
)
@click.option(
    "--shortcut-activation",
    type=click.Choice(["real", "binary"]),
    default="real",
    show_default=True,
    help="What the shortcuts of a ResNet carry in low precision: real numbers, or the bits that its layers read.",
)
@click.option(
    "--recipe",
    type=click.Choice(["cifar", "imagenet"]),
    help="He et al. 2016 or Goyal et al. 2017, compressed to --epochs.  [default: the network's own]",
)
@click.option(
    "--lr-schedule",
    "annealing",
    type=click.Choice(["step", "cosine", "constant"]),
    default="step",
    show_default=True,
    help="How the learning rate falls in each phase; step: as the recipe says.",
)
@click.option("--image-size", type=int, show_default="224", help="What image files are cropped to.")
@click.option(
    "--workers",
    type=click.IntRange(0),
    help="Processes that decode.  [default: 2, or the cores, for image files, else 0; 0 in a study]",
)
@click.option("--root", type=PATH, help="Where the image files are, if they moved since they were prepared.")
@training_options(
    epochs="the recipe's: cifar 182, imagenet 90; 4 on the sample",
    batch_size="the recipe's: 128, 1024",
    learning_rate="the recipe's: 0.1, 0.4",
    metric="accuracy",
    optimizer="SGD",
)
def train(
    data: Path | None,
    out: Path | None,
    workers: int | None,
    root: Path | None,
    resume: bool,
    device: str,
    as_json: bool,
    log: tuple["Log", ...],
    **options: Any,
) -> None:
    """Train an image network: first at full precision, then binarized.

    \b
    Examples:
      ppt-vision train --network resnet20 --split 0.5
      ppt-vision train --data cifar10 --network vgg16 --split 0.5 --epochs 4 --out run
      ppt-vision train --data imagenette --network resnet34 --split 0.5 --epochs 2 --batch-size 32
      torchrun --nproc-per-node 4 --no-python ppt-vision train --data imagenet --network resnet34 --device cuda
    """
    from data_prep.images.prepared import load_data
    from ppt_core.distributed import join_world
    from vision_ppt.fitting import fit

    world = click.get_current_context().with_resource(join_world(device))
    path, resume = run_folder(out, world, resume=resume)
    if data is None and options["epochs"] is None:
        options["epochs"] = _SAMPLE_EPOCHS
    images = load_data(data, root=root)
    network, training = configs(images, **options)
    say_what_is_trained(data, path)
    trained = fit(
        images,
        out=path,
        network=network,
        training=training,
        resume=resume,
        workers=usual_workers(images) if workers is None else workers,
        world=world,
        log=log,
        progress=True,
    )
    if not world.is_first:
        return
    result = trained.result
    if as_json:
        return print_json({"run": str(path), **result.to_dict()})
    print_training(path, result, training.threshold)
    n_images = result.metrics["n_images"]
    say(f"accuracy {result.metrics['accuracy']:.4f} [{n_images:,} test images, top-1; ties lost]")


def configs(
    images: "PreparedImages | PreparedFolders",
    *,
    network: Any,
    shortcut: Any,
    shortcut_activation: Any,
    recipe: Any,
    image_size: int | None,
    **training: Any,
) -> tuple["NetworkConfig", "VisionTrainingConfig"]:
    """What the options say about the network, and how it is trained."""
    from data_prep.images.prepared import refuse_for_arrays
    from vision_ppt.networks import NetworkConfig
    from vision_ppt.recipes import USUAL_RECIPE
    from vision_ppt.training import VisionTrainingConfig

    refuse_for_arrays(images, "image_size", image_size)
    training |= {"image_size": image_size}
    return (
        NetworkConfig(
            network=network,
            n_classes=images.n_classes,
            shortcut=shortcut,
            shortcut_activation=shortcut_activation,
        ),
        VisionTrainingConfig.of(recipe or USUAL_RECIPE[network], **training),
    )


def usual_workers(images: "PreparedImages | PreparedFolders") -> int:
    """Processes that draw batches: files are decoded beside the training, arrays are faster drawn in it."""
    from data_prep.images.image_files import PreparedFolders
    from ppt_core.threads import usable_cores

    return min(2, usable_cores()) if isinstance(images, PreparedFolders) else 0
