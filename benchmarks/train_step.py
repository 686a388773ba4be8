"""One training step of NeuMF at MovieLens-20M's size: this project against plain PyTorch, in one run.

    python -m benchmarks.train_step --batch-size 2048

The rows take turns, and every figure is the median over the turns of the mean of their steps. All train the same
network (factors 64, layers 256,256,128,64, BatchNorm) on the same synthetic interactions:

  mlperf   the MLPerf v0.5 recipe: a DataLoader with per-sample rejection sampling, dense gradients, torch.optim.Adam
  fused    the same network and optimizer as well as they go: vectorized sampling, torch.optim.Adam(fused=True)
  stock    the best that stock PyTorch gives: vectorized sampling, sparse gradients, SparseAdam and fused Adam
  compiled stock, with its hidden layers through torch.compile; left out, with a line, where no C++ compiler is
  ppt      this project, full and low precision, fp32 and bf16; with `recent` it reads the user's last 10 items, too;
           with `grouped` a batch keeps each positive with its 4 negatives (`--batches grouped`)
"""

import os

from benchmarks.provenance import document
from ppt_core.environment import ENVIRONMENT

os.environ.update({**ENVIRONMENT, **os.environ})

import itertools
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data_prep.ratings.interactions import PreparedData
from data_prep.ratings.prepare import prepare
from data_prep.ratings.sampling import Sampler
from data_prep.ratings.synthetic import synthesize
from ncf_ppt.batches import training_batches
from ncf_ppt.losses import loss_function
from ncf_ppt.model import NCFConfig
from ncf_ppt.optimizers import optimizer_factory
from ncf_ppt.recent import RecentItems
from ncf_ppt.training import new_model
from ncf_ppt.training_config import NCFTrainingConfig
from ppt_core.layers import clamp_alphas, set_precision

Batch = tuple[Tensor, ...]
PARTS = ("sampling", "forward+backward", "optimizer")
ROWS = (
    "mlperf",
    "fused",
    "stock",
    "compiled",
    "ppt full fp32",
    "ppt low fp32",
    "ppt full bf16",
    "ppt low bf16",
    "ppt full fp32 grouped",
    "ppt low fp32 grouped",
    "ppt full bf16 grouped",
    "ppt low bf16 grouped",
    "ppt full fp32 recent",
    "ppt full fp32 grouped recent",
)


class PlainNeuMF(nn.Module):
    """NeuMF with BatchNorm as a person would write it."""

    def __init__(self, n_users: int, n_items: int, sparse: bool) -> None:
        super().__init__()
        self.gmf_user = nn.Embedding(n_users, 64, sparse=sparse)
        self.gmf_item = nn.Embedding(n_items, 64, sparse=sparse)
        self.mlp_user = nn.Embedding(n_users, 128, sparse=sparse)
        self.mlp_item = nn.Embedding(n_items, 128, sparse=sparse)
        hidden: list[nn.Module] = []
        for n_in, n_out in ((256, 256), (256, 128), (128, 64)):
            hidden += [nn.Linear(n_in, n_out), nn.BatchNorm1d(n_out), nn.ReLU()]
        self.mlp = nn.Sequential(*hidden)
        self.last = nn.Linear(128, 1)
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.01)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Logits (n,)."""
        gmf = self.gmf_user(users) * self.gmf_item(items)
        mlp = self.mlp(torch.cat([self.mlp_user(users), self.mlp_item(items)], dim=1))
        logits: Tensor = self.last(torch.cat([gmf, mlp], dim=1)).squeeze(1)
        return logits


class RejectionSampling(torch.utils.data.Dataset[tuple[int, int, float]]):
    """The reference's training set: a negative is drawn when its sample is asked for, until it is no positive."""

    def __init__(self, data: PreparedData) -> None:
        self.users, self.items = data.train.users(), data.train.items
        self.n_items = data.n_items
        self.keys = self.users.astype(np.int64) * data.n_items + self.items

    def __len__(self) -> int:
        return 5 * len(self.items)

    def __getitem__(self, index: int) -> tuple[int, int, float]:
        positive = index // 5
        user = int(self.users[positive])
        if index % 5 == 0:
            return user, int(self.items[positive]), 1.0
        while True:
            item = int(torch.randint(self.n_items, (1,)))
            place = np.searchsorted(self.keys, user * self.n_items + item)
            if place == len(self.keys) or self.keys[place] != user * self.n_items + item:
                return user, item, 0.0


def vectorized_batches(data: PreparedData, batch_size: int) -> Iterator[Batch]:
    """Shuffled samples with negatives drawn in NumPy and drawn again where they are positives."""
    users, items = data.train.users(), data.train.items
    keys = users.astype(np.int64) * data.n_items + items
    rng = np.random.default_rng(0)
    while True:
        index = rng.integers(0, 5 * len(items), batch_size)
        user, item = users[index // 5].astype(np.int64), items[index // 5].astype(np.int64)
        is_negative = index % 5 > 0
        wrong = np.flatnonzero(is_negative)
        while len(wrong):
            item[wrong] = rng.integers(0, data.n_items, len(wrong))
            wanted = user[wrong] * data.n_items + item[wrong]
            place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
            wrong = wrong[keys[place] == wanted]
        labels = torch.from_numpy((~is_negative).astype(np.float32))
        yield torch.from_numpy(user), torch.from_numpy(item), labels


def config_of(row: str, batch_size: int) -> NCFTrainingConfig:
    """How this project trains in a row of its own."""
    _, _, arithmetic, *more = row.split()
    batches = "grouped" if "grouped" in more else "shuffled"
    return NCFTrainingConfig(arithmetic=arithmetic, batch_size=batch_size, batches=batches)  # type: ignore[arg-type]


def samples_per_step(row: str, batch_size: int) -> int:
    """How many samples a step of a row has: of groups as many as are whole."""
    return config_of(row, batch_size).samples_per_batch if row.startswith("ppt") else batch_size


def make_stepper(
    row: str, data: PreparedData, batch_size: int
) -> tuple[nn.Module, Callable[[], tuple[float, float, float]]]:
    """Return a model and a function that trains it by one step and returns the seconds of its parts."""
    optimizers: list[torch.optim.Optimizer]
    model: nn.Module
    loss: Callable[[nn.Module, Batch], Tensor]
    batches: Iterator[Batch]
    if row in ("mlperf", "fused", "stock", "compiled"):
        model = PlainNeuMF(data.n_users, data.n_items, sparse=row in ("stock", "compiled"))
        if row == "compiled":
            model.mlp.compile()  # the tables stay as they are: sparse gradients would break the graph
        tables = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
        others = [parameter for parameter in model.parameters() if all(parameter is not table for table in tables)]
        if row == "mlperf":
            loader = torch.utils.data.DataLoader(
                RejectionSampling(data),
                batch_size=batch_size,
                sampler=torch.utils.data.RandomSampler(range(5 * len(data.train)), replacement=True),
            )
            batches = itertools.chain.from_iterable(itertools.repeat(loader))
            optimizers = [torch.optim.Adam(model.parameters(), lr=5e-4)]
        elif row == "fused":
            batches = vectorized_batches(data, batch_size)
            optimizers = [torch.optim.Adam(model.parameters(), lr=5e-4, fused=True)]
        else:
            batches = vectorized_batches(data, batch_size)
            optimizers = [torch.optim.SparseAdam(tables, lr=5e-4), torch.optim.Adam(others, lr=5e-4, fused=True)]

        def loss(model: nn.Module, batch: Batch) -> Tensor:
            return F.binary_cross_entropy_with_logits(model(batch[0], batch[1]), batch[2].float())

    else:
        config = config_of(row, batch_size)
        n_recent = 10 if row.endswith("recent") else 0
        model = new_model(data, NCFConfig(n_recent=n_recent), config)
        if "low" in row.split():
            set_precision(model, "low")
        optimizers = [optimizer_factory(config.optimizer, config.adam, "cpu")(model)]
        loss = loss_function(config.arithmetic, "cpu")
        recent = RecentItems(data, n_recent) if n_recent else None
        sampler = Sampler(interactions=data.train, grouped=config.batches == "grouped")
        batches = training_batches(sampler, config.samples_per_batch, start=0, recent=recent)

    def step() -> tuple[float, float, float]:
        start = time.perf_counter()
        batch = next(batches)
        drawn = time.perf_counter()
        model.train()
        value = loss(model, batch)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        computed = time.perf_counter()
        for optimizer in optimizers:
            optimizer.step()
        clamp_alphas(model)
        return drawn - start, computed - drawn, time.perf_counter() - computed

    return model, step


def interactions(scale: float) -> PreparedData:
    """Synthetic interactions of MovieLens-20M's size, or a part of it."""
    sizes = (round(138_493 * scale), round(26_744 * max(scale, 0.1)), round(20_000_263 * scale))
    return prepare(synthesize(*sizes, seed=0), n_negatives=1, source={"name": "synthetic"})


def without_compiler(rows: list[str]) -> list[str]:
    """The rows that can be measured here: torch.compile needs a C++ compiler."""
    if "compiled" not in rows or any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))):
        return rows
    click.echo("compiled: left out, since torch.compile needs a C++ compiler and there is no g++ or clang++", err=True)
    return [row for row in rows if row != "compiled"]


def peak_memory() -> float:
    """Peak resident memory of this process in MB; `getrusage` would count that of the process it was forked from."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


@click.command()
@click.option("--batch-size", default=2048, show_default=True)
@click.option("--turns", default=5, show_default=True)
@click.option(
    "--steps", default=32, show_default=True, help="Steps of a row in each turn; of mlperf and fused, an eighth."
)
@click.option("--rows", default=",".join(ROWS), show_default=True)
@click.option("--scale", default=1.0, show_default=True, help="Part of MovieLens-20M's size.")
@click.option("--data", "folder", type=click.Path(path_type=Path), help="Prepared folder in place of synthetic data.")
@click.option("--memory/--no-memory", default=True, show_default=True, help="Measure peaks, each in its own process.")
@click.option("--peak-of", help="Only train this row for a few steps and print the peak memory in MB.")
@click.option("--json", "as_json", is_flag=True)
def main(folder: Path | None, scale: float, **options: Any) -> None:
    """Measure and print the table."""
    with TemporaryDirectory() as temporary:
        if folder is None:  # in a folder, since training maps the arrays into memory
            folder = Path(temporary) / "data"
            interactions(scale).save(folder)
        measure(folder, **options)


def measure(
    folder: Path,
    batch_size: int,
    turns: int,
    steps: int,
    rows: str,
    memory: bool,
    peak_of: str | None,
    as_json: bool,
) -> None:
    """Measure the rows on a prepared folder and print the table."""
    data = PreparedData.load(folder)
    if peak_of is not None:
        _, step = make_stepper(peak_of, data, batch_size)
        for _ in range(10):
            step()
        return click.echo(peak_memory())
    names = without_compiler(rows.split(","))
    steppers = {name: make_stepper(name, data, batch_size)[1] for name in names}
    seconds: dict[str, list[tuple[float, ...]]] = {name: [] for name in names}
    for turn in range(turns + 1):
        for name, step in steppers.items():
            taken = [step() for _ in range(max(1, steps // 8) if name in ("mlperf", "fused") else steps)]
            if turn:  # the first compiles and fills caches
                # The mean: this project draws the samples of 32 such batches at once.
                seconds[name].append(tuple(statistics.fmean(part) for part in zip(*taken, strict=True)))
    results = []
    for name in names:
        parts = [1e3 * statistics.median(part) for part in zip(*seconds[name], strict=True)]
        total = statistics.median(sum(parts) for parts in seconds[name])
        samples = samples_per_step(name, batch_size)
        result = {"row": name, "batch_size": samples, "samples_per_second": samples / total}
        result |= {f"{part} ms": value for part, value in zip(PARTS, parts, strict=True)}
        if memory:
            command = [sys.executable, "-m", "benchmarks.train_step", "--batch-size", str(batch_size)]
            command += ["--data", str(folder), "--peak-of", name]
            result["peak MB"] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        results.append(result)
    if as_json:
        return click.echo(document(results))
    click.echo(f"| {' | '.join(results[0])} |")
    click.echo("|" + "---|" * len(results[0]))
    for result in results:
        click.echo(f"| {' | '.join(v if isinstance(v, str) else f'{v:,.1f}' for v in result.values())} |")


if __name__ == "__main__":
    main()
