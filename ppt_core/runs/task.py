"""What `ppt_core.runs.fit.fit` trains."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ppt_core.runs.checkpoint import ShardedRows
from ppt_core.schedule import LearningRate


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """What happens before the first iteration of a training, in the place of small random weights.

    Attributes:
        name: under which it stands among the phases of a result, with 0 iterations and its seconds.
        run: changes the model; called in the first process, whose weights all others then take.
    """

    name: str
    run: Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is trained on what and how it is measured: all that `ppt_core.runs.fit.fit` does not know.

    Attributes:
        model: converted if a phase is of low precision; trained in place.
        batches: endless batches from a given iteration on; of several processes, this one's share of each.
        loss: scalar loss of (model, batch).
        make_optimizer: builds the optimizer of a phase.
        learning_rate: the schedule that each phase goes through.
        evaluate: measures the model; called between two steps, in every process and with one result for all.
        metric: the key of ``evaluate``'s result that a threshold is compared with.
        iterations_per_epoch: optimizer steps in a pass over the samples.
        samples_per_epoch: samples in a pass.
        settings: the groups of ``config.json`` that a resumed training must share, as JSON values.
        result: further keys of the result, as JSON values.
        events: keys and values logged at the start, by MLPerf's names.
        validate: measures the model on a validation set, as ``evaluate`` does on the test set; None if there is none.
        warm_start: what a new training starts with; its seconds are part of the training's.
        project: makes the model ready for low precision, see `ppt_core.train.train_steps`.
        tune_threads: whether the number of threads must change no bit of the training, so that it may be tried out.
        record: let a GPU repeat a recorded step, see `ppt_core.train.train_steps`.
        shards: parameters of which each process has some rows; files hold them whole.
    """

    model: nn.Module
    batches: Callable[[int], Iterator[Any]]
    loss: Callable[[nn.Module, Any], Tensor]
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    learning_rate: LearningRate
    evaluate: Callable[[], dict[str, Any]]
    metric: str
    iterations_per_epoch: int
    samples_per_epoch: int
    settings: dict[str, Any]
    result: dict[str, Any]
    events: dict[str, Any]
    validate: Callable[[], dict[str, Any]] | None = None
    warm_start: WarmStart | None = None
    project: Callable[[], None] | None = None
    tune_threads: bool = False
    record: bool = False
    shards: ShardedRows = field(default_factory=dict)
