"""Train an NCF network on a prepared set into a run folder, and read it back."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from data_prep.ratings.interactions import PreparedData
from data_prep.ratings.sampling import Sampler
from ncf_ppt.als_start import start_from_als
from ncf_ppt.batches import training_batches
from ncf_ppt.binary_tables import rotate_tables
from ncf_ppt.continuation import continue_from, refuse_other_start
from ncf_ppt.histories import last_items
from ncf_ppt.losses import loss_function
from ncf_ppt.model import NCF, NCFConfig
from ncf_ppt.networks import Network, NetworkConfig, build_network, network_config, ready_to_rank
from ncf_ppt.optimizers import optimizer_factory, usual_optimizer
from ncf_ppt.ranking import rank_test_items
from ncf_ppt.recent import RecentItems
from ncf_ppt.row_adam import RowEmbedding
from ncf_ppt.run_record import result_of, settings_of
from ncf_ppt.scoring import scorer
from ncf_ppt.sharded_tables import ShardedTables, refuse_whole_tables
from ncf_ppt.training_config import NCFTrainingConfig
from ncf_ppt.two_tower import TwoTowerConfig
from ncf_ppt.two_tower_training import TwoTowerTrainingConfig, two_tower_task
from ppt_core.distributed import World
from ppt_core.mapped import release_pages
from ppt_core.plan import convert
from ppt_core.runs import fit as core
from ppt_core.runs.arithmetic import (
    ArithmeticChoice,
    choose_arithmetic,
    linear_product,
    settle_arithmetic,
)
from ppt_core.runs.checkpoint import load_trained
from ppt_core.runs.run import Run
from ppt_core.runs.task import Task, WarmStart
from ppt_core.schedule import Constant, batches_per_epoch

if TYPE_CHECKING:
    from ncf_ppt.trained import TrainedNCF

_ROWS_TO_TRY = 1 << 14  # of a product that is timed: more take memory and seconds, and tell no more
_FREE_OF_THREADS = 1 << 15  # samples; PyTorch adds up a larger batch in an order that depends on threads


def fit_steps(
    data: PreparedData,
    path: Path | str,
    model_config: NetworkConfig,
    config: NCFTrainingConfig | TwoTowerTrainingConfig,
    *,
    resume: bool = False,
    device: str = "cpu",
    checkpoint_seconds: float = 60,
    started: float | None = None,
    world: World | None = None,
    init: "TrainedNCF | None" = None,
    shard_embeddings: bool = False,
    first_phase: Run | None = None,
) -> Iterator[core.Progress]:
    """Train into the run folder ``path``, yielding after every iteration; see `ppt_core.runs.fit.fit`.

    Args:
        data: what to train and evaluate on.
        path: a new run folder; with ``resume`` an existing one, whose configs must equal these.
        model_config: the network.
        config: the recipe.
        resume: go on from the last checkpoint of ``path``.
        device: where to train.
        checkpoint_seconds: least time between two checkpoints.
        started: when the data began to be read, for the clock of MLPerf's log; None is now.
        world: the processes that train together (`ppt_core.distributed.join_world`); it then says the device.
        init: a trained network to start from (`ncf_ppt.continuation.continue_from`), in the place of small random
            weights; it stands in the run's config and in its result. There is no other warm start then.
        shard_embeddings: deal the rows of the tables out to the processes (`ncf_ppt.sharded_tables`); no result depends
            on it, and a run may go on with it or without. A process alone has all rows either way.
        first_phase: a finished run to take the first phase from, see `ppt_core.runs.fit.fit`.

    Raises `DataError` for an existing ``path`` without ``resume``, and ValueError for settings that do not fit
    the data or each other.
    """
    world = world or World(device=device)
    device = world.device
    if init is not None:
        config = replace(config, warm_start=None)
    settings = settings_of(data, model_config)
    is_sharded = shard_embeddings and world.size > 1
    if shard_embeddings:
        refuse_whole_tables(model_config, config, init)
    task: Task
    if isinstance(model_config, TwoTowerConfig) and isinstance(config, TwoTowerTrainingConfig):
        task = two_tower_task(data, model_config, config, settings, world=world)
    elif isinstance(model_config, NCFConfig) and isinstance(config, NCFTrainingConfig):
        choose = partial(faster_arithmetic, model_config, config, device)
        choice = settle_arithmetic(config.arithmetic, Path(path), world, choose, resume=resume)
        optimizer = config.optimizer or ("row-adam" if is_sharded else usual_optimizer(device))
        config = replace(config, optimizer=optimizer, arithmetic=choice.arithmetic)  # one run has one for good
        task = _task(data, model_config, config, settings | choice.record, world, is_sharded=is_sharded)
    else:
        raise ValueError(f"a {type(config).__name__} does not train a network of {type(model_config).__name__}")
    start = None if init is None else continue_from(init, task.model, data)
    if resume:
        refuse_other_start(path, start)
    if start is not None:
        record = {"init": start.to_dict()}
        task = replace(task, settings=task.settings | record, result=task.result | record)
    steps = core.fit(
        task,
        Path(path),
        config,
        resume=resume,
        checkpoint_seconds=checkpoint_seconds,
        started=started,
        world=world,
        first_phase=first_phase,
    )
    return _settled(steps, task.model)


def _settled(steps: Iterator[core.Progress], network: nn.Module) -> Iterator[core.Progress]:
    """Yield ``steps``; at their end let go of the optimizer, which it and the tables would keep for each other."""
    yield from steps
    for module in network.modules():
        if isinstance(module, RowEmbedding):
            module.settle()


def _task(
    data: PreparedData,
    model_config: NCFConfig,
    config: NCFTrainingConfig,
    settings: dict[str, Any],
    world: World,
    *,
    is_sharded: bool,
) -> Task:
    device, n = world.device, config.samples_per_batch
    sampler = Sampler(
        interactions=data.train, n_negatives=config.n_negatives, seed=config.seed, grouped=config.batches == "grouped"
    )
    network = new_model(data, model_config, config, device=device, world=world if is_sharded else None)
    tables = ShardedTables(network, world) if is_sharded else None
    recent = RecentItems(data, model_config.n_recent, device) if model_config.n_recent else None

    warm_start = None
    if config.warm_start is not None:
        if model_config.model == "mlp":
            raise ValueError("an mlp network multiplies no factors, so it cannot start from ALS; choose neumf or gmf")
        config.warm_start.n_fitted(model_config.factors)  # refused before the run folder is made
        warm_start = WarmStart(
            name="als", run=partial(start_from_als, network, data, sampler, config.warm_start, seed=config.seed)
        )

    if model_config.binarize_embeddings and config.at_switch == "keep":
        raise ValueError(
            "binarize_embeddings rotates the embeddings at the switch, which the moments of Adam cannot follow; "
            "at_switch must be reset"
        )

    def rank(data: PreparedData) -> dict[str, Any]:
        ready_to_rank(network, world)
        if tables is not None:
            return tables.rank(data).metrics()
        return rank_test_items(scorer(network, in_order=True), data, world=world).metrics()

    def evaluate() -> dict[str, Any]:
        release_pages(data.train.items)  # training has read most of them
        return rank(data)

    task = Task(
        model=network,
        batches=lambda start: training_batches(sampler, n, start=start, recent=recent, world=world),
        loss=loss_function(config.arithmetic, device, config.regularization),
        make_optimizer=optimizer_factory(config.optimizer, config.adam, device, world=world),
        learning_rate=Constant(config.learning_rate),
        evaluate=evaluate,
        validate=None if data.validation_items is None else lambda: rank(data.for_validation()),
        warm_start=warm_start,
        project=partial(rotate_tables, network, seed=config.seed) if model_config.binarize_embeddings else None,
        record=True,
        metric="hit_ratio",
        tune_threads=n <= _FREE_OF_THREADS,
        iterations_per_epoch=batches_per_epoch(sampler.samples_per_epoch, n),
        samples_per_epoch=sampler.samples_per_epoch,
        settings=settings,
        result=result_of(data, config.arithmetic, settings.get("precision_measured")),
        events={
            "submission_benchmark": "ncf",
            "seed": config.seed,
            "global_batch_size": n,
            "train_samples": sampler.samples_per_epoch,
            "eval_samples": data.n_tested * (1 + data.n_negatives),
            "opt_name": "adam",
            "opt_base_learning_rate": config.learning_rate,
            "opt_adam_beta_1": config.beta1,
            "opt_adam_beta_2": config.beta2,
            "opt_adam_epsilon": config.eps,
        },
    )
    return task if tables is None else tables.carry(task)


def new_model(
    data: PreparedData,
    model_config: NCFConfig,
    config: NCFTrainingConfig,
    *,
    device: str = "cpu",
    world: World | None = None,
) -> NCF:
    """Build the network with its initial weights, switchable unless it trains at full precision throughout.

    What it knows of each user in evaluation are the user's last train items; the item held out for validation is not
    among them, even where the test items are ranked. Raises `DataError` if it reads recent items and the data do not
    hold the order in time.
    """
    model = NCF(data.n_users, data.n_items, model_config, seed=config.seed, world=world)
    if model_config.n_recent:
        model.last_items.copy_(torch.from_numpy(last_items(data, model_config.n_recent)))
    if config.split < 1:
        try:
            convert(model)
        except ValueError as error:
            raise ValueError(f"{error}; train this network at full precision with split 1") from None
    return model.to(device)


def load_model(run: Run, *, device: str = "cpu") -> Network:
    """Load the trained network of a finished run; see `ppt_core.runs.checkpoint.load_trained`."""
    return load_trained(run, "ncf", _built, device=device)


def _built(groups: Mapping[str, Any]) -> Network:
    return build_network(groups["n_users"], groups["n_items"], network_config(groups["model"]), seed=0)


def faster_arithmetic(model_config: NCFConfig, config: NCFTrainingConfig, device: str) -> ArithmeticChoice:
    """What ``config`` asks for, or for ``auto`` the faster by a product of the first layer, see `choose_arithmetic`."""
    n_in, n_out = (model_config.factors, 1) if model_config.model == "gmf" else model_config.layers[:2]
    n_rows = min(config.batch_size, _ROWS_TO_TRY)
    return choose_arithmetic(config.arithmetic, device, linear_product(n_rows, n_in, n_out, device))
