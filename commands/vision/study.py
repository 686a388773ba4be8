"""`ppt-vision study`."""

from functools import partial
from pathlib import Path
from typing import Any

from commands.study import Experiment, study_group
from commands.vision.data import open_images
from commands.vision.train import configs, usual_workers
from commands.vision.train import train as train_command


def experiment(data: Path, options: dict[str, Any]) -> Experiment:
    """Train on the prepared images at ``data`` as the options of `ppt-vision train` say."""
    from vision_ppt.study import train

    root, device, workers = options.pop("root"), options["device"], options.pop("workers")
    images = open_images(data, root)
    network_config, config = configs(images.n_classes, **options)
    if workers is None:
        workers = usual_workers(images)
    root = root and root.resolve()
    return Experiment(
        partial(train, data, root, network_config, device, workers), config, ("accuracy", "top-1 accuracy")
    )


study = study_group("ppt-vision", train_command, experiment)
