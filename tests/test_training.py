import gc
import json
import os
import random
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numba
import numpy as np
import pytest
import torch

from data_prep.ratings.interactions import PreparedData
from data_prep.ratings.sampling import Sampler
from ncf_ppt.batches import training_batches
from ncf_ppt.losses import loss
from ncf_ppt.model import NCFConfig
from ncf_ppt.optimizers import optimizer_factory
from ncf_ppt.ranking import rank_test_items
from ncf_ppt.scoring import scorer
from ncf_ppt.training import fit_steps, load_model
from ncf_ppt.training_config import NCFTrainingConfig
from ppt_core.errors import DataError
from ppt_core.runs import fit as core_fit
from ppt_core.runs.checkpoint import load_tensors
from ppt_core.runs.run import Run
from ppt_core.schedule import batches_per_epoch
from ppt_core.thread_tuner import ThreadTuner
from ppt_core.threads import limited_threads
from tests import reference

SMALL = NCFConfig(factors=4, layers=(8, 8, 8, 4))
TIMES = ("seconds", "samples_per_second", "phases")


@pytest.fixture(scope="module")
def data(tiny_data: PreparedData) -> PreparedData:
    return tiny_data


def config(**changes: Any) -> NCFTrainingConfig:
    return NCFTrainingConfig(**{"epochs": 2, "batch_size": 256, "learning_rate": 1e-2, **changes})


def train(data: PreparedData, path: Path, settings: NCFTrainingConfig, **options: Any) -> bytes:
    for _ in fit_steps(data, path, options.pop("model", SMALL), settings, **options):
        pass
    return (path / "model.safetensors").read_bytes()


def without_times(path: Path) -> list[dict[str, Any]]:
    return [{key: line[key] for key in line if key not in TIMES} for line in Run.open(path).metrics()]


def learned(run: Run, data: PreparedData) -> bool:
    """Whether more held-out items come first than guessing puts there."""
    first = rank_test_items(scorer(load_model(run)), data).hit_ratio(1) * data.n_users
    return reference.above_chance(first, data.n_users, reference.guessed_hit_ratio(data.n_negatives, 1))


@pytest.mark.parametrize("split", [1.0, 0.5, 0.0])
def test_learns_and_is_read_back(checkerboard: PreparedData, tmp_path: Path, split: float) -> None:
    train(checkerboard, tmp_path / "run", config(split=split, epochs=4))
    run = Run.open(tmp_path / "run")
    result = run.result().to_dict()
    assert learned(run, checkerboard)
    assert [phase["precision"] for phase in result["phases"]] == {1.0: ["full"], 0.5: ["full", "low"], 0.0: ["low"]}[
        split
    ]
    assert sum(phase["iterations"] for phase in result["phases"]) == result["iterations"]
    assert result["protocol"] == checkerboard.protocol_label
    ranks = rank_test_items(scorer(load_model(run)), checkerboard)
    assert ranks.metrics() == {key: result[key] for key in ranks.metrics()}


@pytest.mark.parametrize("name", ["adam", "row-adam"])
def test_one_optimizer_is_in_memory_at_a_time(
    data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Before the switch, in a training that goes on from a checkpoint, too; and none at the end."""
    made: list[weakref.ref[torch.optim.Optimizer]] = []

    def factory(*arguments: Any, **options: Any) -> Any:
        make = optimizer_factory(*arguments, **options)

        def make_optimizer(model: torch.nn.Module) -> torch.optim.Optimizer:
            if name == "adam":  # the tables keep RowAdam until the next one takes them over
                assert [each() for each in made] == [None] * len(made)
            optimizer = make(model)
            assert [each() for each in made] == [None] * len(made)
            made.append(weakref.ref(optimizer))
            return optimizer

        return make_optimizer

    monkeypatch.setattr("ncf_ppt.training.optimizer_factory", factory)
    settings = config(iterations=4, optimizer=name)
    gc.disable()
    try:
        train(data, tmp_path / "whole", settings)
        assert [each() for each in made] == [None, None]
        for _ in fit_steps(data, tmp_path / "run", SMALL, settings, checkpoint_seconds=0):
            break
        gc.collect()
        train(data, tmp_path / "run", settings, resume=True)
        assert [each() for each in made] == [None] * 5
    finally:
        gc.enable()


@pytest.mark.parametrize("stop", [1, 3, 7, 8, 9, 15])
@pytest.mark.parametrize("at_switch", ["reset", "keep"])
def test_resumes_bit_for_bit(data: PreparedData, tmp_path: Path, stop: int, at_switch: str) -> None:
    settings = config(iterations=16, eval_every=0.1, at_switch=at_switch)
    whole = train(data, tmp_path / "whole", settings)
    for progress in fit_steps(data, tmp_path / "part", SMALL, settings, checkpoint_seconds=0):
        if progress.iteration == stop:
            break
    assert not Run.open(tmp_path / "part").finished
    assert train(data, tmp_path / "part", settings, resume=True) == whole
    assert without_times(tmp_path / "part") == without_times(tmp_path / "whole")


def test_a_killed_training_resumes_bit_for_bit(data: PreparedData, tmp_path: Path) -> None:
    """SIGKILL between two evaluations, through the command line."""
    data.save(tmp_path / "data")
    command = [sys.executable, "-m", "ppt_commands", "train", "--data", str(tmp_path / "data"), "--epochs", "6",
               "--factors", "4", "--layers", "8,8,8,4", "--batch-size", "256", "--eval-every", "1"]  # fmt: skip
    subprocess.run([*command, "--out", str(tmp_path / "whole")], check=True, capture_output=True)
    out = tmp_path / "killed"
    process = subprocess.Popen([*command, "--out", str(out)], stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    metrics, deadline = out / "metrics.jsonl", time.monotonic() + 120
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(random.Random(0).uniform(0, 0.2))
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not Run.open(out).finished
    subprocess.run([*command, "--out", str(out), "--resume"], check=True, capture_output=True)
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert without_times(out) == without_times(tmp_path / "whole")


@pytest.mark.parametrize(
    "model",
    [NCFConfig(), NCFConfig(factors=8, layers=(32, 32, 16, 8)), NCFConfig(factors=8, layers=(64, 32, 16, 8))],
    ids=["mlperf", "small", "published"],
)
def test_does_not_depend_on_threads(
    data: PreparedData, tmp_path: Path, one_and_two_threads: Iterable[int], model: NCFConfig
) -> None:
    assert os.environ["MKL_CBWR"] == "AUTO,STRICT"
    models = []
    for threads in one_and_two_threads:
        settings = config(iterations=6, batch_size=2048)
        models.append(train(data, tmp_path / str(threads), settings, model=model))
    assert models[0] == models[1]


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(core_fit, "all_threads", lambda: 2)
    before = torch.get_num_threads(), numba.get_num_threads()
    yield
    torch.set_num_threads(before[0])
    numba.set_num_threads(before[1])


class Restless(ThreadTuner):
    """Takes another number of threads for every step."""

    seen: ClassVar[list[int]] = []

    def begin(self) -> None:
        self._set(len(self.seen) % 2 + 1)
        self.seen.append(torch.get_num_threads())


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        (NCFConfig(), {}),
        (NCFConfig(), {"optimizer": "adam"}),
        (NCFConfig(n_recent=10), {}),
        (NCFConfig(), {"regularization": 0.1}),
    ],
    ids=["row-adam", "adam", "recent items", "regularized"],
)
def test_threads_that_change_while_it_trains_change_no_byte(
    data: PreparedData,
    tmp_path: Path,
    two_threads: None,
    monkeypatch: pytest.MonkeyPatch,
    model: NCFConfig,
    settings: Any,
) -> None:
    settings = config(iterations=6, batch_size=2048, **settings)
    with limited_threads(1):
        one = train(data, tmp_path / "one", settings, model=model)
    monkeypatch.setattr(core_fit, "ThreadTuner", Restless)
    monkeypatch.setattr(Restless, "seen", [])
    many = train(data, tmp_path / "many", settings, model=model)
    assert Restless.seen[:6] == [1, 2, 1, 2, 1, 2]
    assert torch.get_num_threads() == 2
    assert one == many


def test_threads_are_tried_only_where_nobody_chose_them(
    data: PreparedData, tmp_path: Path, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core_fit, "ThreadTuner", Restless)
    monkeypatch.setattr(Restless, "seen", [])
    with limited_threads(2):
        train(data, tmp_path / "chosen", config(iterations=2))
    train(data, tmp_path / "large", config(iterations=2, batch_size=40_000))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    train(data, tmp_path / "variable", config(iterations=2))
    assert Restless.seen == []


@pytest.mark.parametrize("split", [1.0, 0.0])
def test_one_precision_passes_through_the_shorter_budgets(data: PreparedData, tmp_path: Path, split: float) -> None:
    train(data, tmp_path / "long", config(split=split, epochs=3))
    train(data, tmp_path / "short", config(split=split, epochs=1))
    assert without_times(tmp_path / "long")[0] == without_times(tmp_path / "short")[0]


def test_row_adam_and_dense_adam_reach_the_same_model(data: PreparedData, tmp_path: Path) -> None:
    runs = {}
    for optimizer in ("row-adam", "adam"):
        train(data, tmp_path / optimizer, config(optimizer=optimizer, epochs=1, split=1))
        runs[optimizer] = load_model(Run.open(tmp_path / optimizer)).state_dict()
    for name, tensor in runs["adam"].items():
        assert torch.allclose(tensor, runs["row-adam"][name], rtol=1e-3, atol=1e-4), name


def test_both_optimizers_take_the_settings_of_adam(data: PreparedData, tmp_path: Path) -> None:
    """Intel's, which differ from the usual ones: in both, in the log, and as far apart as the usual ones are."""
    settings = {"beta1": 0.783529, "beta2": 0.909003, "eps": 1.45439e-7}
    weights = {}
    for optimizer, changes in (("row-adam", settings), ("adam", settings), ("usual", {})):
        chosen = config(optimizer="row-adam" if optimizer == "usual" else optimizer, epochs=1, split=1, **changes)
        train(data, tmp_path / optimizer, chosen)
        weights[optimizer] = load_model(Run.open(tmp_path / optimizer)).state_dict()["gmf_user.weight"]
    assert torch.allclose(weights["adam"], weights["row-adam"], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(weights["usual"], weights["row-adam"], rtol=1e-3, atol=1e-4)
    log = (tmp_path / "row-adam" / "mlperf.log").read_text()
    assert '"key": "opt_adam_beta_2", "value": 0.909003' in log
    assert '"key": "opt_adam_epsilon", "value": 1.45439e-07' in log


def test_row_adam_says_which_betas_it_cannot_have(data: PreparedData, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"beta1 is 0\.9 and beta2 is 0\.9; .* so choose the optimizer adam"):
        train(data, tmp_path / "run", config(beta2=0.9))
    assert not (tmp_path / "run").exists()
    train(data, tmp_path / "run", config(beta2=0.9, optimizer="adam", iterations=2))


def test_threshold_stops_training(data: PreparedData, tmp_path: Path) -> None:
    train(data, tmp_path / "run", config(threshold=0.01, epochs=5, split=1))
    result = Run.open(tmp_path / "run").result().to_dict()
    assert result["threshold_reached"] is True
    assert result["threshold_phase"] == "full"
    assert result["epochs"] == 1
    train(data, tmp_path / "never", config(threshold=1.0, epochs=1))
    result = Run.open(tmp_path / "never").result().to_dict()
    assert result["threshold_reached"] is False
    assert result["threshold_phase"] is None


def test_a_threshold_counts_in_the_last_phase_only(data: PreparedData, tmp_path: Path) -> None:
    """Where the full-precision phase ends, any network is above this threshold, and none has been binarized."""
    train(data, tmp_path / "run", config(threshold=0.01, epochs=4, split=0.5))
    run = Run.open(tmp_path / "run")
    assert [line["epochs"] for line in run.metrics()] == [1, 2, 3]
    assert [line["threshold_reached"] for line in run.metrics()] == [False, False, True]
    assert run.result().threshold_phase == "low"
    assert load_tensors(run.model_path)[1]["precision"] == "low"
    log = (tmp_path / "run" / "mlperf.log").read_text()
    assert '"status": "success"' in log


def test_evaluates_only_at_the_end_if_asked(data: PreparedData, tmp_path: Path) -> None:
    train(data, tmp_path / "run", config(eval_every=0, epochs=2))
    assert [line["epochs"] for line in Run.open(tmp_path / "run").metrics()] == [2]


@pytest.mark.parametrize(("split", "phases"), [(1.0, ["full 10"]), (0.5, ["full 5", "low 5"]), (0.0, ["low 10"])])
def test_an_eighth_of_an_epoch_is_trained_and_measured(
    data: PreparedData, tmp_path: Path, split: float, phases: list[str]
) -> None:
    """76 iterations are an epoch; what is measured is the network that is kept, of the last phase."""
    train(data, tmp_path / "run", config(split=split, epochs=1 / 8, eval_every=0))
    run = Run.open(tmp_path / "run")
    (line,) = run.metrics()
    assert (line["iterations"], line["epochs"]) == (10, 10 / 76)
    assert [f"{phase['precision']} {phase['iterations']}" for phase in line["phases"]] == phases
    model = load_model(run)
    assert load_tensors(run.model_path)[1]["precision"] == phases[-1].split()[0]
    assert rank_test_items(scorer(model), data).hit_ratio(10) == line["hit_ratio"]


def test_logs_mlperf_events(data: PreparedData, tmp_path: Path) -> None:
    train(data, tmp_path / "run", config())
    lines = (tmp_path / "run" / "mlperf.log").read_text().splitlines()
    events = [json.loads(line.removeprefix(":::MLLOG ")) for line in lines]
    keys = [event["key"] for event in events]
    for key in ("init_start", "init_stop", "run_start", "run_stop", "eval_accuracy", "seed", "opt_adam_epsilon"):
        assert key in keys
    assert keys.count("epoch_start") == keys.count("epoch_stop") == 2
    accuracies = [event["value"] for event in events if event["key"] == "eval_accuracy"]
    assert accuracies == [line["hit_ratio"] for line in Run.open(tmp_path / "run").metrics()]


def test_bf16_trains_and_says_so(checkerboard: PreparedData, tmp_path: Path) -> None:
    train(checkerboard, tmp_path / "run", config(arithmetic="bf16", epochs=4))
    run = Run.open(tmp_path / "run")
    assert run.result().metrics["precision"] == "bf16"
    assert learned(run, checkerboard)


def test_a_finished_run_is_left_as_it_is(data: PreparedData, tmp_path: Path) -> None:
    model = train(data, tmp_path / "run", config(epochs=1))
    metrics = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    assert train(data, tmp_path / "run", config(epochs=1), resume=True) == model
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == metrics


def test_refuses_to_resume_with_other_settings(data: PreparedData, tmp_path: Path) -> None:
    train(data, tmp_path / "run", config(epochs=1))
    with pytest.raises(DataError, match=r"was started with batch_size = 256, not 128; resume with the same settings"):
        train(data, tmp_path / "run", config(epochs=1, batch_size=128), resume=True)
    with pytest.raises(DataError, match=r"was started with factors = 4, not 5"):
        train(data, tmp_path / "run", config(epochs=1), model=NCFConfig(factors=5, layers=(8, 8, 8, 4)), resume=True)
    binarized = replace(SMALL, binarize_embeddings=True)
    train(data, tmp_path / "binarized", config(epochs=1), model=binarized)
    with pytest.raises(DataError, match=r"was started with binarize_embeddings = all, not None"):
        train(data, tmp_path / "binarized", config(epochs=1), resume=True)
    assert Run.open(tmp_path / "run").config.training["optimizer"] == "row-adam"  # what a device resumes with
    with pytest.raises(DataError, match=r"was started with optimizer = row-adam, not adam"):
        train(data, tmp_path / "run", config(epochs=1, optimizer="adam"), resume=True)
    with pytest.raises(DataError, match=r"was started with beta1 = None, not 0\.5"):
        train(data, tmp_path / "run", config(epochs=1, beta1=0.5), resume=True)
    with pytest.raises(DataError, match="already exists"):
        train(data, tmp_path / "run", config(epochs=1))


def test_a_diverged_training_is_an_error(data: PreparedData, tmp_path: Path) -> None:
    with pytest.raises((DataError, ValueError), match="diverged"):
        train(data, tmp_path / "run", config(learning_rate=1e30, epochs=1))


@pytest.mark.parametrize("eval_every", [0.001, 0])  # at an evaluation, or before that at a checkpoint
@pytest.mark.parametrize("name", ["mlp.1.weight", "mlp.2.running_var", "mlp_user.weight"])
def test_one_bit_activations_hide_no_divergence(
    data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, eval_every: float
) -> None:
    models = []

    def broken_loss(model: torch.nn.Module, batch: Any) -> torch.Tensor:
        models.append(model)
        if len(models) == 3:
            with torch.no_grad():
                model.state_dict()[name].view(-1)[:1] = torch.nan
        return loss(model, batch)

    monkeypatch.setattr("ncf_ppt.training.loss_function", lambda *_: broken_loss)
    settings = config(split=0, iterations=6, eval_every=eval_every)
    model = NCFConfig(factors=4, layers=(8, 8, 8, 8, 4))
    kind = "buffer" if "running" in name else "parameter"
    with pytest.raises(
        DataError, match=rf"^training diverged: {kind} .* holds values that are not finite at iteration 3; "
    ):
        train(data, tmp_path / "run", settings, model=model, checkpoint_seconds=0)
    run = Run.open(tmp_path / "run")
    assert len(run.metrics()) == (2 if eval_every else 0)
    assert load_tensors(run.checkpoint_path)[1]["iteration"] == 2
    assert not run.finished


@pytest.mark.parametrize(
    "bad",
    [
        {"split": 1.5},
        {"split": float("nan")},
        {"epochs": 0},
        {"iterations": 0},
        {"batch_size": 1},
        {"learning_rate": -1},
        {"n_negatives": 0},
        {"threshold": 0},
        {"eval_every": -1},
        {"seed": -1},
        {"optimizer": "sgd"},
        {"beta1": 1.0},
        {"beta2": -0.1},
        {"eps": 0},
        {"batches": "sorted"},
        {"batch_size": 4, "batches": "grouped"},
    ],
)
def test_refuses_settings_in_one_line(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(bad))} is .*; it must be ") as caught:
        config(**bad)
    assert "\n" not in str(caught.value)


def test_a_network_without_hidden_layers_cannot_be_binarized(data: PreparedData, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nothing to binarize.*train this network at full precision with split 1"):
        train(data, tmp_path / "run", config(), model=NCFConfig(model="gmf"))
    train(data, tmp_path / "full", config(split=1, epochs=0.5), model=NCFConfig(model="gmf", factors=4))


def test_grouped_batches_hold_whole_groups_and_cover_an_epoch(data: PreparedData) -> None:
    sampler = Sampler(interactions=data.train, n_negatives=2, seed=1, grouped=True)
    settings = config(batches="grouped", batch_size=101, n_negatives=2)
    assert settings.samples_per_batch == 99
    assert config(batch_size=101).samples_per_batch == 101
    batches = training_batches(sampler, 99, start=0)
    drawn = [next(batches) for _ in range(batches_per_epoch(sampler.samples_per_epoch, 99))]
    assert [batch[1].shape for batch in drawn[:-1]] == [(33, 3)] * (len(drawn) - 1)
    users, items, labels = sampler.draw(0, 0, sampler.samples_per_epoch)
    np.testing.assert_array_equal(torch.cat([batch[0].squeeze(1) for batch in drawn]), users[::3])
    np.testing.assert_array_equal(torch.cat([batch[1] for batch in drawn]).reshape(-1), items)
    np.testing.assert_array_equal(torch.cat([batch[2] for batch in drawn]).reshape(-1), labels)
    with pytest.raises(ValueError, match=r"^batch_size is 100; it must be a multiple of a group of 3 samples$"):
        next(training_batches(sampler, 100, start=0))


def test_grouped_batches_train_and_resume_and_say_so(data: PreparedData, tmp_path: Path) -> None:
    settings = config(batches="grouped", epochs=1, batch_size=258)
    whole = train(data, tmp_path / "whole", settings, checkpoint_seconds=0)
    steps = fit_steps(data, tmp_path / "parts", SMALL, settings, checkpoint_seconds=0)
    for step in steps:
        if step.iteration == 9:
            steps.close()  # type: ignore[attr-defined]
            break
    assert train(data, tmp_path / "parts", settings, resume=True) == whole
    run = Run.open(tmp_path / "whole")
    assert run.config.training["batches"] == "grouped"
    assert "batches" not in config().to_dict()
    n = len(data.train)
    assert run.metrics()[-1]["iterations"] == batches_per_epoch(5 * n, 255)
    assert '"key": "global_batch_size", "value": 255' in (tmp_path / "whole" / "mlperf.log").read_text()


def test_batches_cover_an_epoch(data: PreparedData) -> None:
    sampler = Sampler(interactions=data.train, n_negatives=2, seed=1)
    n = sampler.samples_per_epoch
    batch_size = next(size for size in range(50, 500) if n % size == 1)
    batches = training_batches(sampler, batch_size, start=0)
    drawn = [next(batches) for _ in range(batches_per_epoch(n, batch_size))]
    assert [len(batch[0]) for batch in drawn] == [batch_size] * (len(drawn) - 1) + [batch_size + 1]
    whole = sampler.draw(0, 0, n)
    for column in range(3):
        np.testing.assert_array_equal(torch.cat([batch[column] for batch in drawn]).numpy(), whole[column])
    assert batches_per_epoch(1, 10) == batches_per_epoch(11, 10) == 1
    assert batches_per_epoch(12, 10) == 2
