"""Train an NCF network on a prepared set into a run folder, and read it back."""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ncf_ppt.interactions import PreparedData
from ncf_ppt.model import NCF, NCFConfig
from ncf_ppt.ranking import Scorer, rank_test_items
from ncf_ppt.sampling import Sampler
from ppt_core.checkpoint import load_tensors, restore_training_state, save_tensors, training_state
from ppt_core.errors import DataError
from ppt_core.layers import alpha_penalty, check_finite, set_precision
from ppt_core.plan import convert
from ppt_core.runs import EventLog, Run
from ppt_core.schedule import Constant, Phase, PhaseSchedule
from ppt_core.train import AtSwitch, Scale, train_steps

_SCORING_BLOCK = 1 << 14  # pairs at a time: its activations stay in the second-level cache


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How the network is trained. The defaults are MLPerf v0.5's recipe, 8 epochs and split 0.5.

    Attributes:
        split: fraction of the iterations at full precision: 1 is full precision throughout, 0 low precision.
        epochs: length in passes over ``1 + n_negatives`` samples for each positive; fractions are allowed.
        iterations: length in optimizer steps; overrides ``epochs``.
        batch_size: samples in a step. The last batch of an epoch holds the rest; a rest of one sample joins the
            batch before it, since BatchNorm has no variance of one.
        learning_rate: of Adam, constant, with betas 0.9 and 0.999 and epsilon 1e-8.
        n_negatives: fresh negatives for each positive in each epoch.
        threshold: stop once HR@10 on the test set reaches it, as MLPerf's rules do; None never stops early.
        eval_every: epochs between evaluations; 0 evaluates only at the end.
        at_switch: what becomes of the optimizer's moments at the switch, see `ppt_core.train.train_steps`.
        scale: weight scale of 1-bit layers, see `ppt_core.layers.set_precision`.
        seed: of the initial weights and of every sample.
    """

    split: float = 0.5
    epochs: float = 8
    iterations: int | None = None
    batch_size: int = 2048
    learning_rate: float = 5e-4
    n_negatives: int = 4
    threshold: float | None = None
    eval_every: float = 1
    at_switch: AtSwitch = "reset"
    scale: Scale = "static"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, valid, rule in (
            (
                "split",
                0 <= self.split <= 1,
                "between 0 (low precision throughout) and 1 (full precision throughout)",
            ),
            ("epochs", 0 < self.epochs < math.inf, "above 0"),
            ("iterations", self.iterations is None or self.iterations >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 2, "at least 2"),
            ("learning_rate", 0 < self.learning_rate < math.inf, "above 0"),
            ("n_negatives", self.n_negatives >= 1, "at least 1"),
            ("threshold", self.threshold is None or 0 < self.threshold <= 1, "above 0 and at most 1"),
            ("eval_every", 0 <= self.eval_every < math.inf, "0 (only at the end) or above"),
            ("seed", 0 <= self.seed < 2**63, "between 0 and 2**63 - 1"),
        ):
            if not valid:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {rule}")


@dataclass(frozen=True)
class Progress:
    """Where a training stands after an iteration.

    Attributes:
        iteration: iterations done.
        iterations: iterations in all.
        phase: the phase of the last iteration.
        metrics: of the evaluation that took place just now, else None.
    """

    iteration: int
    iterations: int
    phase: Phase
    metrics: dict[str, Any] | None


def batches_per_epoch(n_samples: int, batch_size: int) -> int:
    """Number of batches that cover an epoch; a rest of one sample joins the last full batch."""
    full, rest = divmod(n_samples, batch_size)
    return max(1, full + (rest > 1))


def training_batches(sampler: Sampler, batch_size: int, *, start: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield (users, items, labels) of iteration ``start`` and all later ones, without end."""
    n_batches = batches_per_epoch(sampler.samples_per_epoch, batch_size)
    iteration = start
    while True:
        epoch, batch = divmod(iteration, n_batches)
        stop = (batch + 1) * batch_size if batch + 1 < n_batches else sampler.samples_per_epoch
        users, items, labels = sampler.draw(epoch, batch * batch_size, stop)
        yield torch.from_numpy(users), torch.from_numpy(items), torch.from_numpy(labels)
        iteration += 1


def loss(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Mean binary cross-entropy of the logits, and the penalty on alpha where precision is low."""
    users, items, labels = batch
    return F.binary_cross_entropy_with_logits(model(users, items), labels) + alpha_penalty(model)


def scorer(model: NCF) -> Scorer:
    """Wrap a model as a function of arrays: users (n,) and candidates (n, m) to float32 logits (n, m).

    The model is put into evaluation mode for each call and back into the mode it was in.
    """
    device = model.last.weight.device

    def score(users: NDArray[np.int64], candidates: NDArray[np.int32]) -> NDArray[np.float32]:
        n_candidates = candidates.shape[1]
        all_users = torch.from_numpy(np.repeat(users.astype(np.int32), n_candidates)).to(device)
        all_items = torch.from_numpy(np.ascontiguousarray(candidates).reshape(-1)).to(device)
        was_training = model.training
        model.eval()
        try:
            with torch.inference_mode():
                blocks = zip(
                    torch.split(all_users, _SCORING_BLOCK), torch.split(all_items, _SCORING_BLOCK), strict=True
                )
                logits = torch.cat([model(block_users, block_items).float() for block_users, block_items in blocks])
        finally:
            model.train(was_training)
        scores: NDArray[np.float32] = logits.cpu().numpy().reshape(len(users), n_candidates)
        return scores

    return score


def fit(
    data: PreparedData,
    path: Path,
    model_config: NCFConfig,
    config: TrainingConfig,
    *,
    data_reference: dict[str, Any] | None = None,
    resume: bool = False,
    device: str = "cpu",
    checkpoint_seconds: float = 60,
) -> Iterator[Progress]:
    """Train into the run folder ``path``, yielding after every iteration; the run's `result` is there at the end.

    The model reported and kept is the last one. Training is a function of the data, the two configs and the
    version of the libraries: interrupted and resumed, it ends with the same bytes.

    Args:
        data: what to train and evaluate on.
        path: a new run folder; with ``resume`` an existing one, whose configs must equal these.
        model_config: the network.
        config: the recipe.
        data_reference: where the command line finds the data again; kept in ``config.json``.
        resume: go on from the last checkpoint of ``path``.
        device: where to train.
        checkpoint_seconds: least time between two checkpoints.

    Raises `DataError` for an existing ``path`` without ``resume``, and ValueError for settings that do not fit
    the data or each other.
    """
    sampler = Sampler(interactions=data.train, n_negatives=config.n_negatives, seed=config.seed)
    n_batches = batches_per_epoch(sampler.samples_per_epoch, config.batch_size)
    iterations = config.iterations or max(1, round(config.epochs * n_batches))
    eval_every = max(1, round(config.eval_every * n_batches)) if config.eval_every else iterations
    schedule = PhaseSchedule.split(iterations, config.split, Constant(config.learning_rate))
    model = new_model(data, model_config, config, device=device)
    make_optimizer = _adam(config)

    settings = {
        "kind": "ncf",
        "model": asdict(model_config) | {"layers": list(model_config.layers)},
        "training": asdict(config),
        "data": {
            **(data_reference or {}),
            "sha256": data.manifest.get("sha256"),
            "protocol": data.protocol_label,
        },
        "n_users": data.n_users,
        "n_items": data.n_items,
    }
    if resume:
        run = Run.open(path)
        _refuse_other_settings(run, settings)
        if run.finished:
            return
    else:
        run = Run.create(path, settings)
    start, seconds, optimizer = 0, [0.0] * len(schedule.phases), None
    if run.checkpoint_path.exists():
        tensors, state = load_tensors(run.checkpoint_path)
        start, seconds = state["iteration"], state["seconds"]
        if schedule.phases[schedule.at(start - 1)[0]].precision == "low":
            set_precision(model, "low")
        optimizer = make_optimizer(model)
        restore_training_state(tensors, model, optimizer)
    run.rewind_metrics(start)
    log = EventLog(run.path / "mlperf.log")
    _log_start(log, config, sampler, data)

    steps = train_steps(
        model,
        _on_device(training_batches(sampler, config.batch_size, start=start), device),
        loss,
        schedule,
        make_optimizer,
        start=start,
        optimizer=optimizer,
        at_switch=config.at_switch,
        scale=config.scale,
    )
    saved = clock = time.perf_counter()
    log.start("epoch_start", metadata={"epoch_num": start // n_batches})
    reached = False
    for step in steps:
        done = step.iteration + 1
        seconds[step.phase] += -clock + (clock := time.perf_counter())
        metrics = None
        if done % n_batches == 0 and done < iterations:
            log.end("epoch_stop", metadata={"epoch_num": done // n_batches - 1})
            log.start("epoch_start", metadata={"epoch_num": done // n_batches})
        if done % eval_every == 0 or done == iterations:
            if not math.isfinite(step.loss.item()):
                raise DataError(
                    f"training diverged: the loss is {step.loss.item()} at iteration {done}; lower the learning rate"
                )
            log.start("eval_start", metadata={"epoch_num": done / n_batches})
            metrics = rank_test_items(scorer(model), data).metrics()
            log.event("eval_accuracy", metrics["hit_ratio"], metadata={"epoch_num": done / n_batches})
            log.end("eval_stop", metadata={"epoch_num": done / n_batches})
            reached = config.threshold is not None and metrics["hit_ratio"] >= config.threshold
            metrics = {
                **metrics,
                **_description(data, config, schedule, done, seconds, sampler, n_batches),
                "loss": step.loss.item(),
                "threshold_reached": reached if config.threshold is not None else None,
            }
            run.append_metrics(metrics)
            saved = -math.inf  # an evaluation is never repeated after an interruption
        if time.perf_counter() - saved >= checkpoint_seconds:
            state = {"iteration": done, "seconds": seconds}
            save_tensors(run.checkpoint_path, training_state(model, step.optimizer), state)
            saved = time.perf_counter()
        yield Progress(done, iterations, schedule.phases[step.phase], metrics)
        if reached:
            break
        clock = time.perf_counter()
    save_tensors(run.model_path, model.state_dict(), {"precision": schedule.phases[step.phase].precision})
    log.end("run_stop", metadata={"status": "success" if reached or config.threshold is None else "aborted"})
    log.close()


def new_model(data: PreparedData, model_config: NCFConfig, config: TrainingConfig, *, device: str = "cpu") -> NCF:
    """Build the network with its initial weights, switchable unless it trains at full precision throughout."""
    if model_config.batch_norm and model_config.model != "gmf" and config.batch_size < 2:
        raise ValueError("BatchNorm needs a batch of at least 2 samples")
    model = NCF(data.n_users, data.n_items, model_config, seed=config.seed)
    if config.split < 1:
        try:
            convert(model)
        except ValueError as error:
            raise ValueError(f"{error}; train this network at full precision with split 1") from None
    return model.to(device)


def load_model(run: Run, *, device: str = "cpu") -> NCF:
    """Load the trained model of a finished run, in evaluation mode and in the precision it ended in.

    Raises `DataError` if the run has not finished or its files were changed.
    """
    run.result()
    tensors, metadata = load_tensors(run.model_path)
    model_config = NCFConfig(**run.config["model"] | {"layers": tuple(run.config["model"]["layers"])})
    model = NCF(run.config["n_users"], run.config["n_items"], model_config, seed=0)
    if run.config["training"]["split"] < 1:
        convert(model)
    if metadata["precision"] == "low":
        set_precision(model, "low")
    model.load_state_dict(tensors)
    check_finite(model)
    return model.to(device).eval()


def _adam(config: TrainingConfig):  # type: ignore[no-untyped-def]
    def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)

    return make_optimizer


def _on_device(batches: Iterator[tuple[Tensor, ...]], device: str) -> Iterator[tuple[Tensor, ...]]:
    return (tuple(tensor.to(device) for tensor in batch) for batch in batches)


def _refuse_other_settings(run: Run, settings: dict[str, Any]) -> None:
    for group in ("model", "training", "data"):
        for name, value in settings[group].items():
            found = run.config[group].get(name)
            if found != value and name != "path":
                raise DataError(
                    f"{run.path} was started with {name} = {found}, not {value}; resume with the same settings and "
                    "data, or train into a new folder"
                )


def _log_start(log: EventLog, config: TrainingConfig, sampler: Sampler, data: PreparedData) -> None:
    log.end("init_stop")
    log.start("run_start")
    for key, value in (
        ("seed", config.seed),
        ("global_batch_size", config.batch_size),
        ("train_samples", sampler.samples_per_epoch),
        ("eval_samples", data.n_users * (1 + data.n_negatives)),
        ("opt_name", "adam"),
        ("opt_base_learning_rate", config.learning_rate),
        ("opt_adam_beta_1", 0.9),
        ("opt_adam_beta_2", 0.999),
        ("opt_adam_epsilon", 1e-8),
    ):
        log.event(key, value)


def _description(
    data: PreparedData,
    config: TrainingConfig,
    schedule: PhaseSchedule,
    iteration: int,
    seconds: list[float],
    sampler: Sampler,
    n_batches: int,
) -> dict[str, Any]:
    """The keys of the JSON result beside the metrics, after ``iteration`` iterations."""
    phases, left = [], iteration
    for phase, phase_seconds in zip(schedule.phases, seconds, strict=True):
        done = min(left, phase.iterations)
        phases.append({"precision": phase.precision, "iterations": done, "seconds": phase_seconds})
        left -= done
    n_samples = sampler.samples_per_epoch * (iteration / n_batches)
    return {
        "n_users": data.n_users,
        "n_negatives": data.n_negatives,
        "ranking": "sampled",
        "protocol": data.protocol_label,
        "engine": "torch",
        "iteration": iteration,
        "iterations": iteration,
        "epochs": iteration / n_batches,
        "seconds": sum(seconds),
        "samples_per_second": n_samples / sum(seconds),
        "split": config.split,
        "phases": phases,
        "seed": config.seed,
    }
