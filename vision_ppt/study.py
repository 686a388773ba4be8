"""One training of a study: what processes on other cores and machines call by its name."""

from collections.abc import Iterator
from pathlib import Path

from data_prep.images.prepared import load_prepared
from ppt_core.runs.arithmetic import refuse_auto
from ppt_core.runs.fit import Progress
from ppt_core.runs.run import Run
from vision_ppt.networks import NetworkConfig
from vision_ppt.training import VisionTrainingConfig, fit_steps


def train(
    data: Path,
    root: Path | None,
    network_config: NetworkConfig,
    device: str,
    workers: int,
    config: VisionTrainingConfig,
    path: Path,
    *,
    resume: bool = False,
    checkpoint_seconds: float = 60,
    first_phase: Run | None = None,
) -> Iterator[Progress]:
    """Train on the images at ``data`` into ``path``: `vision_ppt.training.fit_steps`.

    ``root`` is where image files are, if they moved since they were prepared.
    """
    refuse_auto(config.arithmetic)
    yield from fit_steps(
        load_prepared(data, root=root),
        path,
        network_config,
        config,
        resume=resume,
        device=device,
        workers=workers,
        checkpoint_seconds=checkpoint_seconds,
        first_phase=first_phase,
    )
