"""`ppt-vision study`."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppt_commands.study import study_group
from ppt_commands.vision.train import configs
from ppt_commands.vision.train import train as train_command

if TYPE_CHECKING:
    from ppt_core.study.plan import Experiment


def experiment(data: Path, options: dict[str, Any]) -> "Experiment":
    """Train on the prepared images at ``data`` as the options of `ppt-vision train` say.

    A trial decodes its images itself unless ``--workers`` says otherwise: helpers would take time from trials
    beside it.
    """
    from data_prep.images.prepared import load_data
    from ppt_core.study.plan import Experiment
    from vision_ppt.study import train

    root, device, workers = options.pop("root"), options.pop("device"), options.pop("workers") or 0
    images = load_data(data, root=root)
    network_config, config = configs(images, **options)
    root = root and root.resolve()
    return Experiment(
        partial(train, data, root, network_config, device, workers),
        config,
        ("accuracy", "top-1 accuracy"),
        {"device": device, "decoding_workers": workers},
    )


study = study_group("ppt-vision", train_command, experiment, target="--threshold 0.8")
