"""The command line's entry points. Nothing imports this module; each command is a module of `commands`.

torch, numba and pandas load inside the commands that need them, so that help answers at once.
"""

import click

from commands.group import CommandGroup
from commands.ncf.baseline import baseline
from commands.ncf.compare import compare
from commands.ncf.evaluate import evaluate
from commands.ncf.export_embeddings import export_embeddings
from commands.ncf.export_onnx import export_onnx
from commands.ncf.inspect import inspect
from commands.ncf.pack import pack
from commands.ncf.prepare import prepare
from commands.ncf.recommend import recommend
from commands.ncf.study import study
from commands.ncf.train import train
from commands.vision.evaluate import evaluate as evaluate_images
from commands.vision.pack import pack as pack_images
from commands.vision.prepare import prepare as prepare_images
from commands.vision.study import study as study_images
from commands.vision.train import train as train_images


@click.group(
    cls=CommandGroup,
    commands=[
        prepare,
        train,
        evaluate,
        baseline,
        recommend,
        pack,
        inspect,
        export_embeddings,
        export_onnx,
        study,
        compare,
    ],
)
@click.version_option(package_name="ppt-ncf")
def main() -> None:
    """Train, measure and serve binarized (1-bit) recommender networks by partial pre-training.

    \b
    A first run, without any data:   ppt-ncf train --split 0.5
    On MovieLens:                    ppt-ncf prepare ml-1m --out ml-1m
                                     ppt-ncf train --data ml-1m --out run
                                     ppt-ncf recommend run --user 1
    """


@click.group(cls=CommandGroup, commands=[prepare_images, train_images, evaluate_images, pack_images, study_images])
@click.version_option(package_name="ppt-ncf")
def vision() -> None:
    """Train binarized (1-bit) image networks by partial pre-training: ResNet-20, VGG-16, ResNet-34.

    \b
    A first run, without any data:   ppt-vision train --network resnet20 --split 0.5
    On CIFAR-10:                     ppt-vision prepare cifar10 cifar-10-python.tar.gz --out cifar10
                                     ppt-vision train --data cifar10 --network resnet20 --epochs 4 --out run
                                     ppt-vision evaluate run
    """


if __name__ == "__main__":
    main()
