"""`ppt-ncf study`."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppt_commands.ncf.train import configs
from ppt_commands.ncf.train import train as train_command
from ppt_commands.study import study_group

if TYPE_CHECKING:
    from ppt_core.study.plan import Experiment


def experiment(data: Path, options: dict[str, Any]) -> "Experiment":
    """Train NCF on the prepared set at ``data`` as the options of `ppt-ncf train` say."""
    from ncf_ppt.study import train
    from ppt_core.study.plan import Experiment

    device = options.pop("device")
    recipe = configs(**options)
    model_config, config = recipe.network, recipe.training
    return Experiment(partial(train, data, model_config, device), config, ("hit_ratio", "HR@10"), {"device": device})


study = study_group("ppt-ncf", train_command, experiment, target="--recipe mlperf")
