"""Training to the end, in one call."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.ratings.interactions import PreparedData
from ncf_ppt.recipes import Recipe
from ncf_ppt.recipes import recipe as find_recipe
from ncf_ppt.trained import METRICS, TrainedNCF, load, of_run
from ncf_ppt.training import fit_steps
from ppt_core.runs.fitting import fit_run
from ppt_core.runs.trackers import Log

if TYPE_CHECKING:
    from ppt_core.distributed import World


def fit(
    data: PreparedData,
    *,
    out: Path | str | None = None,
    recipe: Recipe | str = "paper",
    resume: bool = False,
    device: str = "cpu",
    checkpoint_seconds: float = 60,
    progress: bool | None = None,
    started: float | None = None,
    world: "World | None" = None,
    log: Sequence[Log] = (),
    init: TrainedNCF | Path | str | None = None,
    shard_embeddings: bool = False,
    **settings: Any,
) -> TrainedNCF:
    """Train to the end and return the trained network; `ncf_ppt.training.fit_steps` goes step by step.

    Args:
        data: what to train and evaluate on.
        out: a new run folder, kept for `load`; without it nothing is left on disk. Data that were never saved are
            saved beside it, as ``OUT.data``.
        recipe: what is trained and how, by name (`ncf_ppt.recipes.RECIPES`) or as a value.
        resume: go on with the run in ``out``.
        device: where to train.
        checkpoint_seconds: least time between two checkpoints.
        progress: whether evaluations and a progress bar are written to standard error; None does so on a terminal.
        started: when the data began to be read, in seconds since 1970: the clock of MLPerf's log runs from there. None
            is now.
        world: the processes that train together (`ppt_core.distributed.join_world`); it then says the device.
        log: trackers that get the numbers of ``metrics.jsonl``, too: ``tensorboard``, ``mlflow``
            (`ppt_core.runs.trackers.logged`).
        init: a trained network or its run folder, made of older data say: rows of the users and items that both know
            are taken over, and layers of the same shape (`ncf_ppt.continuation.continue_from`). It takes the place of
            a warm start. What was taken stands in the result under ``init``.
        shard_embeddings: deal the rows of the embedding tables out to the processes of ``world``, so that each holds a
            part; no result depends on it.
        settings: what departs from the recipe, fields of its two configs by their names: ``split=0.5``, ``epochs=8``,
            ``factors=64``, ...

    Raises TypeError for an unknown setting, ValueError for a value out of its range, and `DataError` for an existing
    ``out`` without ``resume`` and for training that diverges.
    """
    if not isinstance(data, PreparedData):
        raise TypeError(
            f"data is a {type(data).__name__}; prepare it with ncf_ppt.prepare, or open a prepared folder with "
            "ncf_ppt.load_data"
        )
    chosen = (find_recipe(recipe) if isinstance(recipe, str) else recipe).with_settings(**settings)
    network, training = chosen.network, chosen.training
    if getattr(network, "binarize_embeddings", False) and training.split == 1:
        raise ValueError("binarize_embeddings has no effect at split 1, where nothing is binarized; leave it out")
    if isinstance(init, (str, Path)):
        init = load(init)
    steps = partial(
        fit_steps,
        model_config=network,
        config=training,
        device=device,
        started=started,
        world=world,
        init=init,
        shard_embeddings=shard_embeddings,
    )
    return fit_run(
        data,
        out,
        steps,
        partial(of_run, device=device),
        metrics=METRICS,
        resume=resume,
        checkpoint_seconds=checkpoint_seconds,
        progress=progress,
        world=world,
        logs=log,
    )
