"""Sampled evaluation at MovieLens-20M's size: this project's evaluator against plain PyTorch calls, in one run.

    python -m benchmarks.evaluate

All rank 1,000 candidates a user with the same full-precision NeuMF (factors 64, layers 256,256,128,64, BatchNorm), a
block of users at a time, and take turns; the ratio does not depend on the number of blocks, so some of the 138,493
users stand for all. Plain PyTorch as a person would write it, and at its best: halves of the first layer computed once
for each table, BatchNorm folded into the weights, ReLU in place.
"""

import os

from benchmarks.provenance import document
from ppt_core.environment import ENVIRONMENT

os.environ.update({**ENVIRONMENT, **os.environ})

import statistics
import time
from collections.abc import Callable
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from ncf_ppt.model import NCF, NCFConfig
from ncf_ppt.ranking import rank_scores
from ncf_ppt.scoring import scorer
from ppt_core.layers import set_precision
from ppt_core.plan import convert

Array = NDArray[Any]


def plain_ranks(model: NCF, users: Array, candidates: Array) -> Array:
    """Ranks by PyTorch calls as a person would write them: a row for each pair, one batch for 131 users."""
    positions = []
    with torch.no_grad():
        for start in range(0, len(users), 131):
            block = torch.from_numpy(candidates[start : start + 131]).long()
            items = block.reshape(-1)
            owners = torch.from_numpy(users[start : start + 131]).repeat_interleave(block.shape[1])
            hidden = torch.cat(
                [F.embedding(owners, model.mlp_user.weight), F.embedding(items, model.mlp_item.weight)], 1
            )
            for linear, norm in ((model.first, 0), (model.mlp[1], 2), (model.mlp[3], 4)):
                batch_norm = model.mlp[norm]
                assert isinstance(batch_norm, torch.nn.BatchNorm1d)
                assert isinstance(linear, torch.nn.Linear)
                hidden = F.batch_norm(
                    F.linear(hidden, linear.weight), batch_norm.running_mean, batch_norm.running_var,
                    batch_norm.weight, batch_norm.bias,
                )  # fmt: skip
                hidden = F.relu(hidden)
            gmf = F.embedding(owners, model.gmf_user.weight) * F.embedding(items, model.gmf_item.weight)
            logits = F.linear(torch.cat([gmf, hidden], 1), model.last.weight, model.last.bias).view(block.shape)
            positions.append((logits[:, 1:] >= logits[:, :1]).sum(1).numpy())
    return np.concatenate(positions)


def folded_ranks(model: NCF) -> Callable[[Array, Array], Array]:
    """Ranks by the fastest PyTorch calls; what does not depend on the pair is computed here."""
    norms = [module for module in model.mlp if isinstance(module, torch.nn.BatchNorm1d)]
    linears = [model.first, *(module for module in model.mlp if isinstance(module, torch.nn.Linear))]
    layers = []
    for linear, norm in zip(linears, norms, strict=True):
        assert norm.running_var is not None
        assert norm.running_mean is not None
        factor = norm.weight / (norm.running_var + norm.eps).sqrt()
        layers.append((linear.weight * factor[:, None], norm.bias - norm.running_mean * factor))
    (first, bias), *hidden = layers
    size = model.first.x_features
    user_half = F.linear(model.mlp_user.weight, first[:, :size], bias)
    item_half = F.linear(model.mlp_item.weight, first[:, size:])
    gmf_weight, mlp_weight = torch.split(model.last.weight[0], [model.config.factors, model.config.layers[-1]])
    user_factors, item_factors = model.gmf_user.weight * gmf_weight, model.gmf_item.weight

    def ranks(users: Array, candidates: Array) -> Array:
        positions = []
        for start in range(0, len(users), 16):
            items = torch.from_numpy(candidates[start : start + 16]).long()
            owners = torch.from_numpy(users[start : start + 16])
            x = (user_half[owners][:, None] + item_half[items]).relu_().flatten(0, 1)
            for weight, shift in hidden:
                x = torch.addmm(shift, x, weight.t()).relu_()
            gmf = torch.bmm(item_factors[items], user_factors[owners][:, :, None]).squeeze(2)
            logits = (x @ mlp_weight).view(items.shape) + gmf  # one constant for all changes no rank
            positions.append((logits[:, 1:] >= logits[:, :1]).sum(1).numpy())
        return np.concatenate(positions)

    return ranks


@click.command()
@click.option("--users", default=1310, show_default=True, help="Users in each turn.")
@click.option("--turns", default=5, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(users: int, turns: int, as_json: bool) -> None:
    """Measure and print the table."""
    n_users, n_items = 138_493, 26_744
    model = NCF(n_users, n_items, NCFConfig(), seed=0)
    convert(model)
    model.eval()
    rng = np.random.default_rng(0)
    numbers = rng.choice(n_users, users, replace=False)
    candidates = np.sort(rng.integers(0, n_items, (users, 1000)), axis=1).astype(np.int32)
    score = scorer(model)

    def ours() -> None:
        for start in range(0, users, 262):
            block = candidates[start : start + 262]
            rank_scores(
                score(numbers[start : start + 262], block), np.ascontiguousarray(block[:, 1:]), block[:, 0].copy()
            )

    with torch.no_grad():
        folded = folded_ranks(model)
    rows: dict[str, Callable[[], Any]] = {
        "plain PyTorch": lambda: plain_ranks(model, numbers, candidates),
        "PyTorch, folded": torch.no_grad()(lambda: folded(numbers, candidates)),
        "ppt full precision": ours,
        "ppt low precision": ours,
    }
    agreement = (plain_ranks(model, numbers, candidates) == rows["PyTorch, folded"]()).mean()
    if agreement < 0.99:  # a rounding may turn two that are almost equal
        raise click.ClickException(f"the two rows of PyTorch agree on {agreement:.3f} of the ranks only")
    seconds: dict[str, list[float]] = {row: [] for row in rows}
    for turn in range(turns + 1):
        for row, taken in seconds.items():
            set_precision(model, "low" if row == "ppt low precision" else "full")
            start = time.perf_counter()
            rows[row]()
            if turn:  # the first compiles
                taken.append(time.perf_counter() - start)
    plain = statistics.median(seconds["plain PyTorch"])
    results: list[dict[str, Any]] = [
        {
            "row": row,
            "pairs_per_second": users * 1000 / statistics.median(taken),
            "ratio": plain / statistics.median(taken),
        }
        for row, taken in seconds.items()
    ]
    if as_json:
        return click.echo(document(results))
    for result in results:
        click.echo(f"{result['row']:20} {result['pairs_per_second'] / 1e6:6.2f} M pairs/s  {result['ratio']:5.1f}x")


if __name__ == "__main__":
    main()
