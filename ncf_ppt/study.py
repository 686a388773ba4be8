"""One training of a study: what processes on other cores and machines call by its name."""

from collections.abc import Iterator
from pathlib import Path

from data_prep.ratings.interactions import PreparedData
from ncf_ppt.networks import NetworkConfig
from ncf_ppt.training import fit_steps
from ncf_ppt.training_config import NCFTrainingConfig
from ncf_ppt.two_tower_training import TwoTowerTrainingConfig
from ppt_core.runs.arithmetic import refuse_auto
from ppt_core.runs.fit import Progress
from ppt_core.runs.run import Run


def train(
    data: Path,
    model_config: NetworkConfig,
    device: str,
    config: NCFTrainingConfig | TwoTowerTrainingConfig,
    path: Path,
    *,
    resume: bool = False,
    checkpoint_seconds: float = 60,
    first_phase: Run | None = None,
) -> Iterator[Progress]:
    """Train on the set at ``data`` into ``path``; see `ncf_ppt.training.fit_steps`."""
    refuse_auto(getattr(config, "arithmetic", "fp32"))
    yield from fit_steps(
        PreparedData.load(data),
        path,
        model_config,
        config,
        resume=resume,
        device=device,
        checkpoint_seconds=checkpoint_seconds,
        first_phase=first_phase,
    )
