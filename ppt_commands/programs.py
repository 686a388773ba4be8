"""The programs `ppt-ncf` and `ppt-vision`, put together from their commands.

torch, numba and pandas load inside the commands that need them, so that help answers at once.
"""

import click

from ppt_commands.group import CommandGroup
from ppt_commands.ncf.baseline import baseline
from ppt_commands.ncf.compare import compare
from ppt_commands.ncf.doctor import doctor
from ppt_commands.ncf.evaluate import evaluate
from ppt_commands.ncf.export_embeddings import export_embeddings
from ppt_commands.ncf.export_onnx import export_onnx
from ppt_commands.ncf.inspect import inspect
from ppt_commands.ncf.pack import pack
from ppt_commands.ncf.prepare import prepare
from ppt_commands.ncf.recommend import recommend
from ppt_commands.ncf.report import report
from ppt_commands.ncf.score import score
from ppt_commands.ncf.serve import serve
from ppt_commands.ncf.similar import similar
from ppt_commands.ncf.study import study
from ppt_commands.ncf.train import train
from ppt_commands.vision.evaluate import evaluate as evaluate_images
from ppt_commands.vision.pack import pack as pack_images
from ppt_commands.vision.prepare import prepare as prepare_images
from ppt_commands.vision.study import study as study_images
from ppt_commands.vision.train import train as train_images


@click.group(
    cls=CommandGroup,
    commands=[
        prepare,
        train,
        evaluate,
        baseline,
        recommend,
        score,
        similar,
        serve,
        pack,
        inspect,
        export_embeddings,
        export_onnx,
        study,
        compare,
        report,
        doctor,
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
