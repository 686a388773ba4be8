import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import ncf_ppt
import ncf_ppt.batches
import ncf_ppt.training
import vision_ppt.training
from data_prep.images.image_arrays import PreparedImages
from data_prep.images.normalization import Normalization
from data_prep.ratings.interactions import PreparedData
from data_prep.ratings.sampling import Sampler
from ncf_ppt.evaluation import Ranking
from ncf_ppt.model import NCFConfig
from ncf_ppt.trained import Engine
from ncf_ppt.training_config import NCFTrainingConfig
from ncf_ppt.warm_start import ALSStart
from ppt_commands.training import run_folder
from ppt_core.distributed import World, join_world
from ppt_core.errors import DataError
from ppt_core.runs.checkpoint import load_tensors, save_tensors
from ppt_core.runs.fit import Progress
from ppt_core.runs.run import Run
from ppt_core.threads import limited_threads
from tests.several_processes import run_processes
from tests.test_vision_training import NETWORK, colored
from vision_ppt.batches import training_batches
from vision_ppt.sampling import training_sampler
from vision_ppt.training import VisionTrainingConfig

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
N_STEPS = 12
# Without BatchNorm, whose statistics are each process's own, any number of processes computes the same.
SMALL = NCFConfig(factors=4, layers=(8, 8, 8, 4), batch_norm=False)
BINARY = NCFConfig(factors=4, layers=(8, 8, 8, 4), batch_norm=False, binarize_embeddings=True)
RECENT = NCFConfig(factors=4, layers=(8, 8, 8, 4), batch_norm=False, n_recent=2)
NCF_TRAININGS = ("row-adam", "adam", "row-adam-small", "recent-from-als", "recent-grouped-small", "binary-small")


def ncf_config(data: PreparedData, name: str) -> NCFTrainingConfig:
    """Ten steps to an epoch, the last one of three samples: process 1 of 2 has no part in it.

    The small batches leave most rows of the tables alone, so a row often lags behind when another process moves it.
    """
    n = Sampler(interactions=data.train, seed=1).samples_per_epoch
    batch_size = 20 if name.endswith("small") else next(size for size in range(n // 10, n) if n % size == 3)
    return NCFTrainingConfig(
        iterations=N_STEPS,
        batch_size=batch_size,
        eval_every=4 * batch_size / n,
        learning_rate=1e-2,
        optimizer="adam" if name == "adam" else "row-adam",
        batches="grouped" if "grouped" in name else "shuffled",
        seed=1,
        warm_start=ALSStart(iterations=2) if name == "recent-from-als" else None,
    )


RESTARTED: dict[str, Any] = {"epochs": 3, "eval_every": 0.25, "batch_size": 500, "factors": 4, "layers": (8, 8, 8, 4)}
VISION = VisionTrainingConfig(iterations=3, batch_size=47, eval_every=0)  # 47 images, then 3


def images() -> PreparedImages:
    train = colored(50, 0)
    return PreparedImages(
        train=train,
        test=colored(40, 1),
        class_names=("red", "green", "blue"),
        normalization=Normalization.of(train.images),
        manifest={},
    )


def samples(data: PreparedData, world: World) -> dict[str, Tensor]:
    """What a process draws, batch by batch."""
    config = ncf_config(data, "row-adam")
    sampler = Sampler(interactions=data.train, n_negatives=config.n_negatives, seed=config.seed)
    ncf = ncf_ppt.batches.training_batches(sampler, config.batch_size, start=0, world=world)
    vision = training_batches(training_sampler(images(), seed=0), VISION.batch_size, world=world)
    found = {f"ncf {n}": torch.stack([t.float() for t in batch]).T for n, batch in enumerate(islice(ncf, N_STEPS))}
    found |= {f"vision {n}": batch.images for n, batch in enumerate(islice(vision, 4))}
    return found


def environment() -> dict[str, str]:
    """That of commands that torchrun starts by name: an environment need not be activated."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def save(path: Path, tensors: dict[str, Tensor]) -> None:
    save_tensors(path, tensors, {})


def load(path: Path) -> dict[str, Tensor]:
    return load_tensors(path)[0]


def run_steps(steps: Iterator[Progress], stop: int | None) -> None:
    for progress in steps:
        if progress.iteration == stop:
            break


def fit_ncf(data: PreparedData, path: Path, name: str, stop: int | None = None, **options: Any) -> None:
    network = {"recent": RECENT, "binary": BINARY}.get(name.partition("-")[0], SMALL)
    run_steps(ncf_ppt.training.fit_steps(data, path, network, ncf_config(data, name), **options), stop)


def fit_vision(path: Path, stop: int | None = None, **options: Any) -> None:
    run_steps(vision_ppt.training.fit_steps(images(), path, NETWORK, VISION, **options), stop)


def ranks(run: Path, world: World) -> dict[str, Tensor]:
    """Where a trained network ranks each user's item, by every way to rank."""
    trained = ncf_ppt.load(run)
    found: dict[str, Any] = {}
    rankings: tuple[Ranking, ...] = ("sampled", "full")
    engines: tuple[Engine, ...] = ("torch", "packed")
    for ranking, engine in product(rankings, engines):
        measured = trained.evaluate(ranking=ranking, engine=engine, memory=20_000, world=world)
        found |= {f"{ranking} {engine} {name}": array for name, array in vars(measured.ranks).items()}
        found[f"{ranking} {engine} metrics"] = np.array([float(each) for each in measured.ranks.metrics().values()])
    return {name: torch.as_tensor(array) for name, array in found.items()}


def keeping(networks: list[nn.Module], build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """``build``, with every network it returns kept in ``networks``."""

    def build_and_keep(*args: Any, **options: Any) -> nn.Module:
        networks.append(build(*args, **options))
        return networks[-1]

    return build_and_keep


def work(folder: Path) -> None:
    """What each of the two processes does: whole trainings, and trainings that end early."""
    networks: list[nn.Module] = []
    for module, name in ((ncf_ppt.training, "new_model"), (vision_ppt.training, "new_model")):
        setattr(module, name, keeping(networks, getattr(module, name)))
    data = PreparedData.load(folder / "data")
    with join_world("cpu") as world:
        save(folder / f"samples{world.rank}.safetensors", samples(data, world))
        for name in NCF_TRAININGS:
            fit_ncf(data, folder / name, name, world=world)
        ncf_ppt.fit(data, out=folder / "undisturbed", world=world, progress=False, **RESTARTED)
        fit_vision(folder / "vision", world=world)
        save(folder / f"ranks{world.rank}.safetensors", ranks(folder / "undisturbed", world))
        parameters: dict[str, Tensor] = {
            f"{n} {name}": p for n, net in enumerate(networks) for name, p in net.named_parameters()
        }
        save(folder / f"parameters{world.rank}.safetensors", parameters)
        fit_ncf(data, folder / "dealt-out", "row-adam-small", world=world, shard_embeddings=True)
        with_checkpoints = {"checkpoint_seconds": 0.0, "world": world}
        fit_ncf(data, folder / "row-adam-part", "row-adam", stop=7, **with_checkpoints)
        fit_vision(folder / "vision-part", stop=2, **with_checkpoints)
        try:
            fit_vision(folder / "vision", world=world)
        except DataError as error:
            (folder / f"refusal{world.rank}").write_text(str(error))


@pytest.fixture(scope="module")
def folder(tiny_data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes leave behind."""
    folder = tmp_path_factory.mktemp("world")
    tiny_data.save(folder / "data")
    run_processes(2, "tests.test_distributed.work", folder)
    return folder


def test_two_processes_see_the_samples_of_one(folder: Path, tiny_data: PreparedData) -> None:
    alone = samples(tiny_data, World())
    first, second = (load(folder / f"samples{rank}.safetensors") for rank in range(2))
    for name, batch in alone.items():
        assert torch.equal(torch.cat([first[name], second[name]]), batch), name
        expected = (3, 0) if len(batch) == 3 else (len(batch) // 2, len(batch) - len(batch) // 2)
        assert (len(first[name]), len(second[name])) == expected
    assert any(len(second[name]) == 0 for name in alone)


def test_both_hold_the_same_parameters(folder: Path) -> None:
    first, second = (load(folder / f"parameters{rank}.safetensors") for rank in range(2))
    assert len(first) > 60
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_tables_that_are_dealt_out_end_as_whole_ones(folder: Path) -> None:
    dealt, whole = (folder / name / "model.safetensors" for name in ("dealt-out", "row-adam-small"))
    assert dealt.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("name", NCF_TRAININGS)
def test_two_processes_reach_what_one_does(folder: Path, tiny_data: PreparedData, tmp_path: Path, name: str) -> None:
    fit_ncf(tiny_data, tmp_path / "alone", name)
    assert_close(tmp_path / "alone", folder / name)
    lines, alone = (Run.open(path).metrics() for path in (folder / name, tmp_path / "alone"))
    assert [line["iterations"] for line in lines] == [line["iterations"] for line in alone]
    assert len(lines) >= 3
    np.testing.assert_allclose([line["loss"] for line in lines], [line["loss"] for line in alone], rtol=1e-3)


def assert_close(one: Path, other: Path) -> None:
    """Every tensor as a whole: where a gradient is almost 0, Adam makes a step of its rounding.

    So single numbers differ by what a processor rounds. With gradients of the second process lost, embedding tables
    were .09 to .99 of their length apart.
    """
    tensors, expected = (load(path / "model.safetensors") for path in (one, other))
    for name, tensor in tensors.items():
        assert (tensor - expected[name]).float().norm() <= 0.003 * expected[name].float().norm(), name


def test_one_process_goes_on_where_two_stopped(folder: Path) -> None:
    assert not Run.open(folder / "row-adam-part").finished
    assert load_tensors(folder / "row-adam-part" / "checkpoint.safetensors")[1]["iteration"] == 7
    fit_ncf(PreparedData.load(folder / "data"), folder / "row-adam-part", "row-adam", resume=True)
    assert_close(folder / "row-adam-part", folder / "row-adam")
    with limited_threads(1):  # as they had; with another number there is a warning
        fit_vision(folder / "vision-part", resume=True)
    assert Run.open(folder / "vision-part").result().training.iterations == VISION.iterations


def test_processes_share_the_users_that_they_rank_and_lose_no_bit(folder: Path) -> None:
    alone = ranks(folder / "undisturbed", World())
    assert len(alone) == 16
    for rank in range(2):
        shared = load(folder / f"ranks{rank}.safetensors")
        for name, expected in alone.items():
            assert torch.equal(shared[name], expected), name


def test_what_is_measured_in_training_is_what_one_process_measures_later(folder: Path) -> None:
    trained = ncf_ppt.load(folder / "undisturbed")
    assert trained.evaluate().hit_ratio() == trained.result.metrics["hit_ratio"]
    assert trained.evaluate().ndcg() == trained.result.metrics["ndcg"]


def test_the_first_process_writes_once(folder: Path) -> None:
    lines = (folder / "vision" / "mlperf.log").read_text().splitlines()
    events = [json.loads(line.removeprefix(":::MLLOG ")) for line in lines]
    assert [event["key"] for event in events].count("run_stop") == 1
    assert len(Run.open(folder / "vision").metrics()) == 1
    for rank in range(2):
        assert "vision already exists" in (folder / f"refusal{rank}").read_text()


@given(n=st.integers(2, 200), size=st.integers(1, 9))
def test_shares_cover_a_batch_and_leave_no_process_one_sample(n: int, size: int) -> None:
    shares = [World(rank=rank, size=size).share(n) for rank in range(size)]
    assert [i for share in shares for i in range(n)[share]] == list(range(n))
    lengths = [len(range(n)[share]) for share in shares]
    assert 1 not in lengths
    assert max(lengths) - min(length for length in lengths if length) <= 1
    assert n < 2 * size or 0 not in lengths


def test_a_process_alone_needs_no_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")  # by something else than torchrun
    with join_world("cpu") as world:
        assert (world, world.agree(lambda: 7)) == (World(), 7)


@pytest.mark.parametrize("tables", [(), pytest.param(("--shard-embeddings",), marks=pytest.mark.slow)])
def test_a_killed_process_is_started_anew_and_ends_with_the_same_bytes(
    folder: Path, tmp_path: Path, tables: tuple[str, ...]
) -> None:
    options = [f"--{name.replace('_', '-')}={value}" for name, value in RESTARTED.items() if name != "layers"]
    run = tmp_path / "run"
    options += [*tables, "--layers=8,8,8,4", "--data", str(folder / "data"), "--out", str(run)]
    command = [*TORCHRUN, "--max-restarts=1", "--no-python", "ppt-ncf", "train", *options]
    with subprocess.Popen(command, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True) as torchrun:
        while not (run / "checkpoint.safetensors").exists():
            assert torchrun.poll() is None, torchrun.stderr and torchrun.stderr.read()
            time.sleep(0.001)
        children = Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children").read_text().split()
        victim = next(pid for pid in children if b"\0RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes())
        os.kill(int(victim), signal.SIGKILL)
        _, errors = torchrun.communicate(timeout=600)
    assert torchrun.returncode == 0, errors
    events = [json.loads(line.removeprefix(":::MLLOG ")) for line in (run / "mlperf.log").read_text().splitlines()]
    assert [event["key"] for event in events].count("resumed") == 1
    assert (run / "model.safetensors").read_bytes() == (folder / "undisturbed" / "model.safetensors").read_bytes()
    metrics, undisturbed = (Run.open(path).metrics() for path in (run, folder / "undisturbed"))
    for key in ("iterations", "hit_ratio", "ndcg", "loss"):
        assert [line[key] for line in metrics] == [line[key] for line in undisturbed]


@pytest.mark.parametrize(("restarts", "exists", "goes_on"), [(0, True, False), (1, True, True), (1, False, False)])
def test_a_restarted_training_goes_on_with_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restarts: int, exists: bool, goes_on: bool
) -> None:
    for name, value in {"RUN_ID": "test", "RESTART_COUNT": str(restarts), "MAX_RESTARTS": "3"}.items():
        monkeypatch.setenv(f"TORCHELASTIC_{name}", value)
    if exists:
        (tmp_path / "config.json").touch()
    assert run_folder(tmp_path, World(), resume=False) == (tmp_path, goes_on)
    with pytest.raises(DataError, match="needs --out"):
        run_folder(None, World(), resume=False)


@pytest.mark.slow
def test_torchrun_trains_from_the_command_line(tmp_path: Path) -> None:
    options = ["train", "--iterations", "2", "--batch-size", "32", "--out", str(tmp_path / "run"), "--json"]
    command = [*TORCHRUN, "--no-python", "ppt-vision", *options]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["iterations"] == 2
    assert done.stderr.count("training into") == 1
