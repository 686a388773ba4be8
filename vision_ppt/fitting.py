"""Training to the end, in one call."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.images.prepared import refuse_for_arrays
from ppt_core.runs.fitting import fit_run
from ppt_core.runs.run import Run
from ppt_core.runs.settings import with_settings
from ppt_core.runs.trackers import Log
from vision_ppt.networks import NetworkConfig
from vision_ppt.recipes import USUAL_RECIPE
from vision_ppt.trained import METRICS, Data, TrainedImageNetwork
from vision_ppt.training import VisionTrainingConfig, fit_steps

if TYPE_CHECKING:
    from ppt_core.distributed import World


def fit(
    data: Data,
    *,
    out: Path | str | None = None,
    network: NetworkConfig | str = "resnet20",
    training: VisionTrainingConfig | None = None,
    resume: bool = False,
    device: str = "cpu",
    workers: int = 0,
    checkpoint_seconds: float = 60,
    progress: bool | None = None,
    world: "World | None" = None,
    log: Sequence[Log] = (),
    **settings: Any,
) -> TrainedImageNetwork:
    """Train to the end and return the trained network; `vision_ppt.training.fit_steps` goes step by step.

    Args:
        data: what to train and evaluate on.
        out: a new run folder, kept for `load`; without it nothing is left on disk. Images that were never saved are
            saved beside it, as ``OUT.data``.
        network: what is trained, by its name or by its config.
        training: how; the default is the network's usual recipe with split 0.5.
        resume: go on with the run in ``out``.
        device: where to train.
        workers: processes that draw batches ahead.
        checkpoint_seconds: least time between two checkpoints.
        progress: whether evaluations and a progress bar are written to standard error; None does so on a terminal.
        world: the processes that train together (`ppt_core.distributed.join_world`); it then says the device.
        log: trackers that get the numbers of ``metrics.jsonl``, too: ``tensorboard``, ``mlflow``
            (`ppt_core.runs.trackers.logged`).
        settings: fields of `NetworkConfig` and `VisionTrainingConfig` by their names: ``split=0.5``, ``epochs=4``, ...

    Raises TypeError for an unknown setting, ValueError for a value out of its range, and `DataError` for an existing
    ``out`` without ``resume`` and for training that diverges.
    """
    refuse_for_arrays(data, "image_size", settings.get("image_size"))
    of_network, of_training = _configured(data, network, training, settings)
    chosen: dict[str, Any] = {"network_config": of_network, "config": of_training, "device": device, "workers": workers}
    return fit_run(
        data,
        out,
        partial(fit_steps, **chosen, world=world),
        partial(_of_run, device=device),
        metrics=METRICS,
        resume=resume,
        checkpoint_seconds=checkpoint_seconds,
        progress=progress,
        world=world,
        logs=log,
    )


def _configured(
    data: Data, network: NetworkConfig | str, training: VisionTrainingConfig | None, settings: dict[str, Any]
) -> tuple[NetworkConfig, VisionTrainingConfig]:
    """The configs with the settings that belong to each."""
    if isinstance(network, str):
        network = NetworkConfig(network=network, n_classes=data.n_classes)  # type: ignore[arg-type]
    recipe = settings.get("recipe") or USUAL_RECIPE[network.network]
    training = training or VisionTrainingConfig.of(recipe)
    return with_settings(network, training, settings, owner=f"a {network.network}")


def _of_run(run: Run, name: str, data: Data, device: str) -> TrainedImageNetwork:
    return TrainedImageNetwork(name, run=run, device=device, data=data)
