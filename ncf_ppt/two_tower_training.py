"""How a two-tower network is trained: from the factors of ALS, by a sampled softmax."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from data_prep.ratings.interactions import PreparedData
from ncf_ppt.histories import last_items
from ncf_ppt.networks import ready_to_rank
from ncf_ppt.ranking import rank_test_items
from ncf_ppt.run_record import result_of
from ncf_ppt.scoring import scorer
from ncf_ppt.shared_negatives import SharedNegativesSampler
from ncf_ppt.two_tower import TwoTower, TwoTowerConfig
from ncf_ppt.warm_start import ALSStart, balanced_factors
from ppt_core.distributed import World
from ppt_core.layers import alpha_penalty
from ppt_core.plan import convert
from ppt_core.runs.config import TrainingConfig
from ppt_core.runs.task import Task, WarmStart
from ppt_core.schedule import Linear, batches_per_epoch

_ITEM_SCALE = 3.0


@dataclass(frozen=True, kw_only=True)
class TwoTowerTrainingConfig(TrainingConfig):
    """How the network is trained. The defaults were chosen on validation items (docs/results).

    Attributes:
        learning_rate: of Adam, falling linearly to 0 within each phase.
        n_negatives: negatives that the positives of a batch share.
        regularization: L2 penalty on the mean squared length of a batch's user and item vectors.
        warm_start: the factors of ALS to start from; None starts from small random vectors.
    """

    split: float = 0.0
    epochs: float = 3
    batch_size: int = 512
    learning_rate: float = 5e-3
    n_negatives: int = 128
    regularization: float = 1e-2
    warm_start: ALSStart | None = field(default_factory=ALSStart)

    def to_dict(self) -> dict[str, Any]:
        """The attributes as JSON values."""
        start = None if self.warm_start is None else self.warm_start.to_dict()
        return super().to_dict() | {"warm_start": start}

    def _rules(self) -> list[tuple[str, bool, str]]:
        return [
            *super()._rules(),
            ("learning_rate", 0 < self.learning_rate < math.inf, "above 0"),
            ("n_negatives", self.n_negatives >= 1, "at least 1"),
            ("regularization", 0 <= self.regularization < math.inf, "0 or above"),
            ("warm_start", isinstance(self.warm_start, ALSStart | None), "an ALSStart (als in a recipe), or None"),
        ]


Batch = tuple[Tensor, Tensor, Tensor, Tensor]
"""A `ncf_ppt.shared_negatives.SoftmaxBatch` as tensors."""


def softmax_batches(
    sampler: SharedNegativesSampler,
    *,
    start: int,
    world: World = World(),  # noqa: B008 (frozen)
) -> Iterator[Batch]:
    """Yield the batches of iteration ``start`` and all later ones, without end.

    Of several processes each gets its share of every batch's rows, with all its negatives, on its device.
    """
    n_batches = batches_per_epoch(len(sampler.data.train), sampler.batch_size)
    iteration = start
    while True:
        batch = sampler.batch(*divmod(iteration, n_batches), n_batches)
        own = world.share(len(batch.positives))
        recent, positives, negatives, is_known = (torch.from_numpy(array).to(world.device) for array in batch)
        yield recent[own], positives[own], negatives, is_known[own]
        iteration += 1


def softmax_loss(model: nn.Module, batch: Batch, regularization: float) -> Tensor:
    """Mean cross-entropy of each positive among the batch's negatives, plus the penalties.

    Known positives among the negatives do not compete. The penalty is ``regularization`` times the mean squared length
    of the users' vectors, plus half of that of the positives' and half of that of the negatives'; alpha's is added in
    low precision.
    """
    assert isinstance(model, TwoTower)
    recent, positives, negatives, is_known = batch
    users = model(recent)
    numbers = torch.cat([positives, negatives])
    items, biases = model.item(numbers), model.item_bias(numbers).squeeze(1)
    n = len(positives)
    of_positives = (users * items[:n]).sum(1) + biases[:n]
    of_negatives = (users @ items[n:].T + biases[n:]).masked_fill(is_known, -torch.inf)
    losses: Tensor = torch.cat([of_positives.unsqueeze(1), of_negatives], dim=1).logsumexp(1) - of_positives
    lengths = [rows.square().sum(1).mean() for rows in (users, items[:n], items[n:])]
    penalty = regularization * (lengths[0] + (lengths[1] + lengths[2]) / 2)
    loss: Tensor = losses.mean() + penalty + alpha_penalty(model)
    return loss


@torch.no_grad()
def start_towers_from_als(model: TwoTower, data: PreparedData, start: ALSStart, *, seed: int) -> None:
    """Put ALS's item factors into both towers, the items' ones three times as long.

    A user is then the mean of the factors of what the user did last, without any training of ours. The length only sets
    how sure the first softmax is. Three was chosen on validation items: the length of the least first loss is 22 on
    sparse data (eight items a user), where it froze the ranking, HR@10 .70 after an epoch instead of .75.
    """
    factors = torch.from_numpy(balanced_factors(start, data, model.config.factors, seed=seed).item_vectors)
    model.recent.weight.copy_(factors)
    model.item.weight.copy_(_ITEM_SCALE * factors)


def two_tower_task(
    data: PreparedData,
    model_config: TwoTowerConfig,
    config: TwoTowerTrainingConfig,
    settings: dict[str, Any],
    *,
    world: World,
) -> Task:
    """What `ppt_core.runs.fit.fit` needs to train a two-tower network.

    What it knows of each user in evaluation are the user's last train items; the item held out for validation is not
    among them, even where the test items are ranked. Raises `DataError` if the data do not hold the order in time, and
    ValueError for low precision without a layer between the tower's first and last.
    """
    sampler = SharedNegativesSampler(
        data=data,
        batch_size=config.batch_size,
        n_negatives=config.n_negatives,
        n_recent=model_config.n_recent,
        seed=config.seed,
    )
    network = TwoTower(data.n_users, data.n_items, model_config, seed=config.seed)
    network.last_items.copy_(torch.from_numpy(last_items(data, model_config.n_recent)))
    if config.split < 1:
        if len(model_config.layers) < 2:
            raise ValueError(
                f"a tower of {len(model_config.layers)} hidden layers has none to binarize; give it two or more, or "
                "train at full precision with split 1"
            )
        convert(network)
    network.to(world.device)

    def rank(data: PreparedData) -> dict[str, Any]:
        ready_to_rank(network, world)
        return rank_test_items(scorer(network), data, world=world).metrics()

    warm_start = None
    if config.warm_start is not None:
        config.warm_start.n_fitted(model_config.factors)  # refused before the run folder is made
        run = partial(start_towers_from_als, network, data, config.warm_start, seed=config.seed)
        warm_start = WarmStart(name="als", run=run)
    return Task(
        model=network,
        batches=lambda start: softmax_batches(sampler, start=start, world=world),
        loss=partial(softmax_loss, regularization=config.regularization),
        make_optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True),
        learning_rate=Linear(config.learning_rate),
        evaluate=lambda: rank(data),
        validate=None if data.validation_items is None else lambda: rank(data.for_validation()),
        warm_start=warm_start,
        metric="hit_ratio",
        iterations_per_epoch=batches_per_epoch(len(data.train), config.batch_size),
        samples_per_epoch=len(data.train),
        settings=settings,
        result=result_of(data, "fp32"),
        events={
            "seed": config.seed,
            "global_batch_size": config.batch_size,
            "train_samples": len(data.train),
            "eval_samples": data.n_tested * (1 + data.n_negatives),
            "opt_name": "adam",
            "opt_base_learning_rate": config.learning_rate,
        },
    )
