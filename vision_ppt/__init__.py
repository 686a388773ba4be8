"""Image networks (ResNet-20, VGG-16, ResNet-34), binarized by partial pre-training.

::

    import vision_ppt

    data = vision_ppt.load_data("cifar10")
    model = vision_ppt.fit(data, network="resnet20", split=0.5, epochs=4)
    print(model.evaluate().accuracy)

PyTorch loads with the first name that needs it, not with the package.
"""

from typing import TYPE_CHECKING

from ppt_core.lazy_names import lazy_names

if TYPE_CHECKING:
    from data_prep.images.cifar import prepare_cifar10 as prepare_cifar10
    from data_prep.images.image_arrays import PreparedImages as PreparedImages
    from data_prep.images.image_files import PreparedFolders as PreparedFolders
    from data_prep.images.image_folders import prepare_image_folders as prepare_image_folders
    from data_prep.images.prepared import load_data as load_data
    from ppt_core.environment import set_environment as set_environment
    from ppt_core.errors import DataError as DataError
    from vision_ppt.fitting import fit as fit
    from vision_ppt.networks import NetworkConfig as NetworkConfig
    from vision_ppt.trained import Evaluation as Evaluation
    from vision_ppt.trained import TrainedImageNetwork as TrainedImageNetwork
    from vision_ppt.trained import load as load
    from vision_ppt.training import VisionTrainingConfig as VisionTrainingConfig
    from vision_ppt.training import fit_steps as fit_steps

_HOMES = {
    "DataError": "ppt_core.errors",
    "Evaluation": "vision_ppt.trained",
    "NetworkConfig": "vision_ppt.networks",
    "PreparedFolders": "data_prep.images.image_files",
    "PreparedImages": "data_prep.images.image_arrays",
    "TrainedImageNetwork": "vision_ppt.trained",
    "VisionTrainingConfig": "vision_ppt.training",
    "fit": "vision_ppt.fitting",
    "fit_steps": "vision_ppt.training",
    "load": "vision_ppt.trained",
    "load_data": "data_prep.images.prepared",
    "prepare_cifar10": "data_prep.images.cifar",
    "prepare_image_folders": "data_prep.images.image_folders",
    "set_environment": "ppt_core.environment",
}

__all__ = [
    "DataError",
    "Evaluation",
    "NetworkConfig",
    "PreparedFolders",
    "PreparedImages",
    "TrainedImageNetwork",
    "VisionTrainingConfig",
    "__version__",
    "fit",
    "fit_steps",
    "load",
    "load_data",
    "prepare_cifar10",
    "prepare_image_folders",
    "set_environment",
]

__getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted(__all__)
