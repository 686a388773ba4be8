"""Scoring a catalogue at MovieLens-20M's shape: plain PyTorch, its faster forms and the packed network, in one run.

    python -m benchmarks.score --turns 5

138,493 users, 26,744 items, factors 64, layers 256,256,128,64, BatchNorm, random weights. Each row scores the whole
catalogue for one user and for 64 users in a call; rows take turns, and a figure is the median over the turns. Ratios
are medians of the ratios within a turn. Rows that take a user at a time, and .1 s for one, have the first call only.
From the second row on the first layer's halves are computed once a table:

  fp32           PyTorch as a person would write it: the user repeated, embeddings joined, the MLP, in blocks of 16,384
  fp32 split     the hidden layers in fp32, in blocks of 2,048
  fp32 folded    the same, BatchNorm folded into the weights: a linear layer and ReLU in place
  int8 split     the hidden products as torch._int_mm, compared with integer thresholds
  onnxruntime    the folded network as an ONNX graph in ONNX Runtime (left out where it is not installed)
  packed         this project's 1-bit engine
  inner product  64 factors, what ALS, BPR, GMF and two towers score by: another, far smaller network

Then the latency of one user's top 10, seen items left out, over 26,744 and over 1,000,000 items.
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
import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data_prep.ratings.interactions import Interactions
from ncf_ppt.model import NCF, NCFConfig
from ncf_ppt.packed.network import PackedNCF
from ncf_ppt.packed.packing import pack
from ncf_ppt.recommendation import top_items
from ppt_core.bits.pack import unpack_signs
from ppt_core.layers import BinaryActivation, set_precision
from ppt_core.plan import convert

N_USERS, N_ITEMS = 138_493, 26_744
_SLOW = 0.1  # seconds for one user
Scores = Callable[[NDArray[np.int64]], Any]


class PlainNeuMF(nn.Module):
    """NeuMF with BatchNorm as a person would write it."""

    def __init__(self, n_users: int, n_items: int) -> None:
        super().__init__()
        self.gmf_user, self.gmf_item = nn.Embedding(n_users, 64), nn.Embedding(n_items, 64)
        self.mlp_user, self.mlp_item = nn.Embedding(n_users, 128), nn.Embedding(n_items, 128)
        hidden: list[nn.Module] = []
        for n_in, n_out in ((256, 256), (256, 128), (128, 64)):
            hidden += [nn.Linear(n_in, n_out), nn.BatchNorm1d(n_out), nn.ReLU()]
        self.mlp = nn.Sequential(*hidden)
        self.last = nn.Linear(128, 1)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Logits (n,)."""
        gmf = self.gmf_user(users) * self.gmf_item(items)
        mlp = self.mlp(torch.cat([self.mlp_user(users), self.mlp_item(items)], dim=1))
        logits: Tensor = self.last(torch.cat([gmf, mlp], dim=1)).squeeze(1)
        return logits


def plain(model: PlainNeuMF, n_items: int) -> Scores:
    """Scores of the whole catalogue, 16,384 pairs at a time."""

    def score(users: NDArray[np.int64]) -> Tensor:
        rows = []
        for user in users.tolist():
            blocks = torch.split(torch.arange(n_items), 1 << 14)
            rows.append(torch.cat([model(torch.full_like(items, user), items) for items in blocks]))
        return torch.stack(rows)

    return score


def split(model: PlainNeuMF, n_items: int) -> Scores:
    """The same with the halves of the first layer computed beforehand."""
    first, normalize = model.mlp[0], model.mlp[1:]
    assert isinstance(first, nn.Linear)
    item_half = model.mlp_item.weight @ first.weight[:, 128:].t()
    user_half = torch.nn.functional.linear(model.mlp_user.weight, first.weight[:, :128], first.bias)
    gmf_weight, mlp_weight = model.last.weight[0, :64], model.last.weight[0, 64:]

    def score(users: NDArray[np.int64]) -> Tensor:
        rows = []
        for user in users.tolist():
            factors = model.gmf_user.weight[user] * gmf_weight
            blocks = [slice(start, start + 2048) for start in range(0, n_items, 2048)]
            hidden = torch.cat([normalize(item_half[block] + user_half[user]) @ mlp_weight for block in blocks])
            rows.append(torch.addmv(hidden, model.gmf_item.weight, factors) + model.last.bias)
        return torch.stack(rows)

    return score


class Folded:
    """The split network with BatchNorm folded into the weights around it."""

    def __init__(self, model: PlainNeuMF) -> None:
        first, *hidden = (layer for layer in model.mlp if isinstance(layer, nn.Linear))
        norms = [layer for layer in model.mlp if isinstance(layer, nn.BatchNorm1d)]
        (weight, bias), *self.hidden = (_folded(*pair) for pair in zip((first, *hidden), norms, strict=True))
        self.item_half = model.mlp_item.weight @ weight[:, 128:].t()
        self.user_half = torch.nn.functional.linear(model.mlp_user.weight, weight[:, :128], bias)
        self.user_factors = model.gmf_user.weight * model.last.weight[0, :64]
        self.item_factors = model.gmf_item.weight
        self.mlp_weight, self.last_bias = model.last.weight[0, 64:], model.last.bias

    def score(self, users: NDArray[np.int64]) -> Tensor:
        """Scores of the whole catalogue, 2,048 items at a time."""
        rows = []
        for user in users.tolist():
            hidden = []
            for half in torch.split(self.item_half, 2048):
                x = (half + self.user_half[user]).relu_()
                for weight, bias in self.hidden:
                    x = torch.addmm(bias, x, weight.t()).relu_()
                hidden.append(x @ self.mlp_weight)
            rows.append(torch.addmv(torch.cat(hidden), self.item_factors, self.user_factors[user]) + self.last_bias)
        return torch.stack(rows)

    def inner_product(self, users: NDArray[np.int64]) -> Tensor:
        """Scores by the factors alone."""
        return self.user_factors[torch.from_numpy(users)] @ self.item_factors.t()

    def onnx_graph(self) -> bytes:
        """From a user's half of the first layer (1, 256) and factors (64, 1) to the catalogue's scores."""
        from onnx import TensorProto, helper, numpy_helper

        arrays = {"item_half": self.item_half, "item_factors": self.item_factors, "last_bias": self.last_bias}
        arrays["mlp_weight"] = self.mlp_weight[:, None]
        nodes = [
            helper.make_node("Add", ["item_half", "user_half"], ["sum"]),
            helper.make_node("Relu", ["sum"], ["x0"]),
        ]
        for n, (weight, bias) in enumerate(self.hidden):
            arrays |= {f"weight{n}": weight.t().contiguous(), f"bias{n}": bias}
            nodes.append(helper.make_node("Gemm", [f"x{n}", f"weight{n}", f"bias{n}"], [f"sum{n}"]))
            nodes.append(helper.make_node("Relu", [f"sum{n}"], [f"x{n + 1}"]))
        nodes.append(helper.make_node("MatMul", [f"x{len(self.hidden)}", "mlp_weight"], ["mlp"]))
        nodes.append(helper.make_node("MatMul", ["item_factors", "factors"], ["gmf"]))
        nodes.append(helper.make_node("Add", ["mlp", "gmf"], ["both"]))
        nodes.append(helper.make_node("Add", ["both", "last_bias"], ["scores"]))
        inputs = [
            helper.make_tensor_value_info("user_half", TensorProto.FLOAT, [1, self.item_half.shape[1]]),
            helper.make_tensor_value_info("factors", TensorProto.FLOAT, [self.item_factors.shape[1], 1]),
        ]
        outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [len(self.item_half), 1])]
        constants = [numpy_helper.from_array(array.detach().numpy(), name) for name, array in arrays.items()]
        graph = helper.make_graph(nodes, "catalogue", inputs, outputs, constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        serialized: bytes = model.SerializeToString()
        return serialized


def _folded(layer: nn.Linear, norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """Weight and bias of a Linear layer with the BatchNorm behind it."""
    assert norm.running_var is not None
    assert norm.running_mean is not None
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    return layer.weight * factor[:, None], (layer.bias - norm.running_mean) * factor + norm.bias


def onnx_runtime(folded: Folded, threads: int) -> Scores | None:
    """The folded network in ONNX Runtime on ``threads`` threads; None where it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(folded.onnx_graph(), options, providers=["CPUExecutionProvider"])
    halves, factors = folded.user_half.numpy(), folded.user_factors.numpy()

    def score(users: NDArray[np.int64]) -> NDArray[np.float32]:
        rows = [{"user_half": halves[[user]], "factors": factors[user][:, None]} for user in users]
        return np.stack([session.run(None, row)[0][:, 0] for row in rows])

    return score


def int8(packed: PackedNCF) -> Scores:
    """The packed network's arithmetic with a byte for each bit: `torch._int_mm` and integer thresholds."""
    (layer,) = packed.hidden

    def signs(words: NDArray[np.uint64], n_in: int) -> Tensor:
        return torch.from_numpy(np.where(unpack_signs(words, n_in), 1, -1).astype(np.int8)).t()

    hidden_signs, unit_signs = signs(layer.signs, 256), signs(packed.units.signs, 128)
    first_thresholds, first_flipped = (
        torch.from_numpy(array) for array in (packed.first_thresholds.values, packed.first_thresholds.flipped)
    )
    thresholds, flipped = torch.from_numpy(layer.thresholds.values), torch.from_numpy(layer.thresholds.flipped)
    gains, offsets = torch.from_numpy(packed.units.gains), torch.from_numpy(packed.units.offsets)
    item_half = packed.first.y_half(torch.from_numpy(packed.item_features[:]))
    user_half = packed.first.x_half(torch.from_numpy(packed.user_features[:]))
    last_weight = torch.from_numpy(packed.last_weight)
    gmf_weight, mlp_weight = last_weight[:64], last_weight[64:]
    item_factors, user_factors = torch.from_numpy(packed.item_factors[:]), torch.from_numpy(packed.user_factors[:])

    def score(users: NDArray[np.int64]) -> Tensor:
        rows = []
        for user in users.tolist():
            hidden = []
            for start in range(0, packed.n_items, 2048):
                sums = item_half[start : start + 2048] + user_half[user]
                bits = ((sums >= first_thresholds) ^ first_flipped).to(torch.int8)
                bits = ((torch._int_mm(bits, hidden_signs) >= thresholds) ^ flipped).to(torch.int8)
                products = torch._int_mm(bits, unit_signs).float()
                hidden.append(products.mul_(gains).add_(offsets).relu_() @ mlp_weight)
            logits = torch.addmv(torch.cat(hidden), item_factors, user_factors[user] * gmf_weight)
            rows.append(logits + packed.last_bias)
        return torch.stack(rows)

    return score


def random_packed(n_users: int, n_items: int, n_batches: int = 50) -> PackedNCF:
    """A converted network of random weights.

    BatchNorm's first statistics fade behind 200 batches; then activations are set about as often as a trained one's.
    """
    model = NCF(n_users, n_items, NCFConfig(), seed=0)
    convert(model)
    set_precision(model, "low")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, BinaryActivation):
                module.alpha.fill_(2.0)
        for _ in range(n_batches):  # gives BatchNorm its statistics
            model(
                torch.randint(n_users, (256,), generator=generator), torch.randint(n_items, (256,), generator=generator)
            )
    packed = pack(model, user_ids=np.arange(n_users), item_ids=np.arange(n_items), protocol="none")
    assert isinstance(packed, PackedNCF)
    return packed


def set_threads(n: int) -> None:
    """Let PyTorch and Numba use ``n`` threads."""
    torch.set_num_threads(n)
    numba.set_num_threads(n)


def throughput(
    model: PlainNeuMF, packed: PackedNCF, calls: tuple[int, ...], turns: int, threads: tuple[int, ...]
) -> list[dict[str, Any]]:
    """Pairs per second of each row by users in a call and threads, and how many times as fast the packed one is."""
    folded = Folded(model)
    results: list[dict[str, Any]] = []
    for n_threads in threads:
        set_threads(n_threads)
        rows: dict[str, Scores | None] = {
            "fp32": plain(model, packed.n_items),
            "fp32 split": split(model, packed.n_items),
            "fp32 folded": folded.score,
            "int8 split": int8(packed),
            "onnxruntime": onnx_runtime(folded, n_threads),
            "packed": packed.score_catalogue,
            "inner product": folded.inner_product,
        }
        scores = {row: score for row, score in rows.items() if score is not None}
        refuse_differences(scores)
        for n_users in calls:
            here = [result for result in results if result["threads"] == n_threads]
            slow = {result["row"] for result in here if result["pairs_per_second"] < packed.n_items / _SLOW}
            scores = {row: score for row, score in scores.items() if row not in slow}
            rates: dict[str, list[float]] = {row: [] for row in scores}
            for turn in range(turns + 1):
                users = np.random.default_rng(turn).integers(0, packed.n_users, n_users)
                for row, score in scores.items():
                    start = time.perf_counter()
                    score(users)
                    if turn:  # the first compiles and fills caches
                        rates[row].append(n_users * packed.n_items / (time.perf_counter() - start))
            for row, found in rates.items():
                ratios = [fast / slow for fast, slow in zip(rates["packed"], found, strict=True)]
                result = {
                    "row": row,
                    "threads": n_threads,
                    "users": n_users,
                    "packed_is_faster": statistics.median(ratios),
                }
                results.append(result | {"pairs_per_second": statistics.median(found)})
    return results


def refuse_differences(scores: dict[str, Scores]) -> None:
    """Check that rows of one network give one result."""
    some = np.arange(2)
    for one, others in (("fp32", ("fp32 split", "fp32 folded", "onnxruntime")), ("packed", ("int8 split",))):
        for other in others:
            if other in scores and not np.allclose(scores[one](some), scores[other](some), atol=1e-4):
                raise click.ClickException(f"{one} and {other} scores differ")


def latency(packed: PackedNCF, turns: int) -> dict[str, Any]:
    """Milliseconds of one user's top 10 among the items not seen, 100 of them seen, on all threads."""
    rng = np.random.default_rng(0)
    seen = [np.sort(rng.choice(packed.n_items, 100, replace=False)) for _ in range(packed.n_users)]
    train = Interactions(
        offsets=np.arange(packed.n_users + 1) * 100,
        items=np.concatenate(seen).astype(np.int32),
        n_items=packed.n_items,
    )
    milliseconds = []
    for turn in range(turns + 3):
        users = np.array([turn % packed.n_users])
        start = time.perf_counter()
        top_items(packed.score_catalogue(users), 10, train, users)
        milliseconds.append(1e3 * (time.perf_counter() - start))
    kept = milliseconds[3:]
    return {
        "n_items": packed.n_items,
        "milliseconds": statistics.median(kept),
        "lowest": min(kept),
        "highest": max(kept),
    }


@click.command()
@click.option("--turns", default=5, show_default=True)
@click.option("--calls", default="1,64", show_default=True, help="Users scored in a call.")
@click.option("--users", default=N_USERS, show_default=True)
@click.option("--items", default=N_ITEMS, show_default=True)
@click.option("--million/--no-million", default=True, show_default=True, help="Latency over 1,000,000 items (5 GB).")
@click.option("--json", "as_json", is_flag=True)
@torch.inference_mode()
def main(turns: int, calls: str, users: int, items: int, million: bool, as_json: bool) -> None:
    """Measure and print the tables."""
    packed = random_packed(users, items)
    plain_model = PlainNeuMF(users, items).eval()
    threads = tuple(range(1, numba.config.NUMBA_NUM_THREADS + 1))
    rates = throughput(plain_model, packed, tuple(map(int, calls.split(","))), turns, threads)
    latencies = [latency(packed, 10 * turns)]
    if million:
        del plain_model, packed
        latencies.append(latency(random_packed(1_000, 1_000_000), 2 * turns))
    if as_json:
        return click.echo(document({"throughput": rates, "latency": latencies}))
    click.echo("| row | threads | users in a call | M pairs/s | packed is faster by |\n|---|---|---|---|---|")
    for rate in rates:
        millions, ratio = rate["pairs_per_second"] / 1e6, rate["packed_is_faster"]
        click.echo(f"| {rate['row']} | {rate['threads']} | {rate['users']} | {millions:.2f} | {ratio:.2f} |")
    click.echo("\n| top 10 of | ms, median | lowest | highest |\n|---|---|---|---|")
    for entry in latencies:
        times = " | ".join(f"{entry[key]:.2f}" for key in ("milliseconds", "lowest", "highest"))
        click.echo(f"| {entry['n_items']:,} items | {times} |")


if __name__ == "__main__":
    main()
