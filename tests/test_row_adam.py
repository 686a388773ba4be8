import copy
import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ncf_ppt import _kernels, row_steps
from ncf_ppt.optimizers import AdamSettings, optimizer_factory
from ncf_ppt.row_adam import RowAdam, RowEmbedding, infinite_moments

N_ROWS, SIZE = 40, 6


def twins(seed: int = 0) -> tuple[RowEmbedding, torch.nn.Embedding]:
    sparse = RowEmbedding(N_ROWS, SIZE)
    with torch.no_grad():
        sparse.weight.normal_(std=0.01, generator=torch.Generator().manual_seed(seed))
    dense = torch.nn.Embedding(N_ROWS, SIZE)
    dense.load_state_dict(sparse.state_dict())
    return sparse, dense


def step(table: torch.nn.Embedding, optimizer: torch.optim.Optimizer, rows: Tensor, slope: Tensor) -> None:
    optimizer.zero_grad()
    (table.train()(rows) * slope).sum().backward()
    optimizer.step()


def batches(n: int, scale: float, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """All rows once; then row r with probability 1 / gap, gaps from 1 to 3,000; some rows twice."""
    generator = torch.Generator().manual_seed(seed)
    gaps = torch.logspace(0, 3.5, N_ROWS)
    drawn = []
    for number in range(n):
        rows = torch.nonzero(torch.rand(N_ROWS, generator=generator) < 1 / gaps)[:, 0]
        rows = torch.arange(N_ROWS) if number == 0 else torch.cat([rows, rows[:2]])
        drawn.append((rows, scale * torch.randn(len(rows), SIZE, generator=generator)))
    return drawn


def relative_difference(a: Tensor, b: Tensor) -> float:
    return float(((a - b).norm() / b.norm()).item())


@pytest.mark.parametrize(
    ("scale", "betas", "bound"),
    [(1.0, (0.9, 0.999), 1e-5), (1e-6, (0.9, 0.999), 1e-4), (1e-8, (0.9, 0.999), 5e-4), (1e-6, (0.25, 0.5), 2e-4)],
)
def test_equals_dense_adam(scale: float, betas: tuple[float, float], bound: float) -> None:
    sparse, dense = twins()
    row_adam = RowAdam([sparse], [], lr=5e-4, betas=betas)
    adam = torch.optim.Adam(dense.parameters(), lr=5e-4, betas=betas)
    start = dense.weight.detach().clone()
    for number, (rows, slope) in enumerate(batches(3000, scale)):
        step(sparse, row_adam, rows, slope)
        step(dense, adam, rows, slope)
        if number % 500 == 250:
            read = sparse.train()(torch.tensor([N_ROWS - 1, 0]))
            assert relative_difference(read, dense.weight[[N_ROWS - 1, 0]]) < bound
    assert relative_difference(sparse.weight, dense.weight) > 0  # rows lag behind until they are read
    sparse.eval()(torch.tensor([0]))
    assert relative_difference(sparse.weight, dense.weight) < bound
    assert relative_difference(dense.weight, start) > 0.1


@pytest.mark.parametrize("written", [torch.float32, torch.int64])  # as older checkpoints have it, and as it is
def test_counts_beyond_what_a_float_can_count(written: torch.dtype) -> None:
    """At 2**24, where 1 added to a float32 is lost: rows at rest go on moving as in dense Adam."""
    sparse, dense = twins()
    row_adam, adam = RowAdam([sparse], [], lr=1e-3), torch.optim.Adam(dense.parameters(), lr=1e-3)
    slope = torch.randn(N_ROWS, SIZE, generator=torch.Generator().manual_seed(1))
    step(sparse, row_adam, torch.arange(N_ROWS), slope)
    step(dense, adam, torch.arange(N_ROWS), slope)
    late = copy.deepcopy(row_adam.state_dict())
    late["state"][0] |= {"step": torch.tensor(2**24, dtype=written), "last_step": torch.full((N_ROWS,), 2**24)}
    row_adam.load_state_dict(late)
    adam.state[dense.weight]["step"].fill_(2**24)  # which its bias corrections, 1 by then, no longer see
    for _ in range(5):
        step(sparse, row_adam, torch.tensor([0]), slope[:1])
        step(dense, adam, torch.tensor([0]), slope[:1])
    row_adam.catch_up()
    assert row_adam.state[sparse.weight]["step"].item() == 2**24 + 5
    assert relative_difference(sparse.weight, dense.weight) < 1e-6


def test_the_state_before_is_gone_when_the_next_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """At MovieLens-20M's size it takes 254 MB, and twice that would be the most of a whole training."""
    tables = [RowEmbedding(N_ROWS, SIZE), RowEmbedding(N_ROWS, SIZE)]
    first = RowAdam(tables, [])
    step(tables[0], first, torch.arange(3), torch.ones(3, SIZE))
    before, made = weakref.ref(first), []

    def zeros_like(tensor: Tensor) -> Tensor:
        made.append(before())
        return torch.zeros(tensor.shape)

    monkeypatch.setattr("ncf_ppt.row_adam.torch.zeros_like", zeros_like)
    del first
    RowAdam(tables, [])
    assert made == [None] * 4


def test_a_row_at_rest_for_ten_thousand_steps() -> None:
    sparse, dense = twins()
    row_adam, adam = RowAdam([sparse], [], lr=1e-3), torch.optim.Adam(dense.parameters(), lr=1e-3)
    for number in range(10_000):
        rows = torch.arange(N_ROWS if number < 3 else 1)
        slope = torch.full((len(rows), SIZE), 1e-4)
        step(sparse, row_adam, rows, slope)
        step(dense, adam, rows, slope)
    row_adam.catch_up()
    assert relative_difference(sparse.weight, dense.weight) < 1e-4


def test_a_changed_learning_rate_moves_resting_rows_at_the_old_one_first() -> None:
    sparse, dense = twins()
    row_adam, adam = RowAdam([sparse], [], lr=1e-2), torch.optim.Adam(dense.parameters(), lr=1e-2)
    for number, (rows, slope) in enumerate(batches(60, 1.0)):
        for table, optimizer in ((sparse, row_adam), (dense, adam)):
            for group in optimizer.param_groups:
                group["lr"] = 1e-2 * 0.9 ** (number // 20)
            step(table, optimizer, rows, slope)
    row_adam.catch_up()
    assert relative_difference(sparse.weight, dense.weight) < 1e-5


def test_dense_parameters_are_updated_by_adam_itself() -> None:
    sparse, _ = twins()
    layer = torch.nn.Linear(SIZE, 1)
    other = copy.deepcopy(layer)
    row_adam = RowAdam([sparse], layer.parameters(), lr=1e-2)
    adam = torch.optim.Adam(other.parameters(), lr=1e-2, fused=True)
    x = torch.randn(9, SIZE, generator=torch.Generator().manual_seed(0))
    for _ in range(5):
        for module, optimizer in ((layer, row_adam), (other, adam)):
            optimizer.zero_grad()
            module(x).square().sum().backward()
            optimizer.step()
    assert torch.equal(layer.weight, other.weight)


def test_a_new_optimizer_brings_the_rows_of_the_old_one_up_to_date() -> None:
    (a, _), (b, _) = twins(), twins()
    optimizers = [RowAdam([table], [], lr=1e-2) for table in (a, b)]
    for rows, slope in batches(50, 1.0):
        for table, optimizer in zip((a, b), optimizers, strict=True):
            step(table, optimizer, rows, slope)
    optimizers[0].catch_up()
    RowAdam([b], [], lr=1e-2)
    assert torch.equal(a.weight, b.weight)


def test_a_restored_state_goes_on_with_the_same_bits() -> None:
    whole, _ = twins()
    optimizer = RowAdam([whole], [], lr=1e-2)
    drawn = batches(200, 1.0)
    for rows, slope in drawn[:120]:
        step(whole, optimizer, rows, slope)
    saved = copy.deepcopy((whole.state_dict(), optimizer.state_dict()))
    part, _ = twins(seed=1)
    restored = RowAdam([part], [], lr=1e-2)
    part.load_state_dict(saved[0])
    restored.load_state_dict(saved[1])
    for rows, slope in drawn[120:]:
        step(whole, optimizer, rows, slope)
        step(part, restored, rows, slope)
    for table in (whole, part):
        table.catch_up()
    assert torch.equal(whole.weight, part.weight)


def test_does_not_depend_on_threads(one_and_two_threads: Iterable[int]) -> None:
    weights = []
    for _ in one_and_two_threads:
        table, _ = twins()
        optimizer = RowAdam([table], [], lr=1e-2)
        for rows, slope in batches(50, 1.0):
            step(table, optimizer, rows, slope)
        optimizer.catch_up()
        weights.append(table.weight.detach())
    assert torch.equal(*weights)


@pytest.mark.parametrize(
    ("betas", "eps"),
    [
        ((0.9, 0.9), 1e-8),
        ((0.9, 1.0), 1e-8),
        ((-0.1, 0.9), 1e-8),
        ((0.0, 0.9), 1e-8),
        ((0.9, 0.999), 0),
        ((0.9, 0.99999), 1e-8),
    ],
)
def test_refuses_what_its_sums_cannot_do(betas: tuple[float, float], eps: float) -> None:
    with pytest.raises(ValueError, match="RowAdam needs 0 < beta1"):
        RowAdam([twins()[0]], [], betas=betas, eps=eps)


def test_without_an_optimizer_it_is_an_embedding() -> None:
    sparse, dense = twins()
    rows = torch.tensor([3, 3, 1])
    assert torch.equal(sparse(rows), dense(rows))
    sparse(rows).sum().backward()
    assert sparse.weight.grad is not None
    assert not sparse.weight.grad.is_sparse


@given(st.lists(st.integers(0, 9), max_size=30))
def test_groups_rows_in_the_order_of_the_batch(indices: list[int]) -> None:
    n = len(indices)
    rows, heads, following = (np.empty(n, np.int64) for _ in range(3))
    slots = np.full(10, -1, np.int32)
    n_rows = _kernels.group_rows(np.array(indices, np.int64), slots, rows, heads, following)
    assert (slots == -1).all()
    assert sorted(rows[:n_rows]) == sorted(set(indices))
    for row, position in zip(rows[:n_rows], heads[:n_rows], strict=True):
        chain = []
        while position >= 0:
            chain.append(int(position))
            position = following[position]
        assert chain == [place for place, index in enumerate(indices) if index == row]


def test_moments_are_the_sums_they_stand_for() -> None:
    beta1, beta2 = 0.8, 0.95
    moments = infinite_moments(beta1, beta2)
    for first, n_steps in ((0, 1), (0, 7), (3, 40), (500, 3), (10_000, 2)):
        j = np.arange(1, n_steps + 1, dtype=np.float64)
        terms = beta1**j / (1 - beta1 ** (first + j))
        x = np.sqrt((1 - beta2 ** (first + j)) / beta2**j)
        total, x1, x2, mean = _kernels.two_nodes.py_func(moments, first, first + n_steps, beta1, beta2)
        assert total == pytest.approx(terms.sum(), rel=1e-9)
        assert mean * total == pytest.approx((terms * x).sum(), rel=1e-9)
        # Two nodes integrate any cubic: here x1 and x2 are the roots of the orthogonal quadratic.
        residue = (terms * (x - x1) * (x - x2)).sum()
        assert abs(residue) < 1e-7 * terms.sum()


@pytest.mark.parametrize("scale", [1.0, 1e-8])
def test_both_implementations_agree(scale: float) -> None:
    """The one for other devices runs on a CPU too."""
    sparse, _ = twins()
    optimizer = RowAdam([sparse], [], lr=5e-4)
    weight = sparse.weight.detach().clone()
    state = {"exp_avg": torch.zeros_like(weight), "exp_avg_sq": torch.zeros_like(weight)}
    last_steps = torch.zeros(N_ROWS, dtype=torch.int64)
    tensors = (weight, state["exp_avg"], state["exp_avg_sq"], last_steps)
    settings: dict[str, Any] = {"learning_rate": 5e-4, "betas": (0.9, 0.999), "eps": 1e-8}
    moments = torch.from_numpy(infinite_moments(0.9, 0.999))
    for number, (rows, slope) in enumerate(batches(300, scale)):
        step(sparse, optimizer, rows, slope)
        row_steps.catch_up_rows(rows.int(), *tensors, number, **settings, moments=moments)
        row_steps.update_rows(rows, slope, *tensors, number + 1, **settings)
    row_steps.catch_up_rows(torch.arange(N_ROWS), *tensors, 300, **settings, moments=moments)
    optimizer.catch_up()
    assert relative_difference(weight, sparse.weight) < 1e-6
    for name, moment in state.items():
        torch.testing.assert_close(moment, optimizer.state[sparse.weight][name], rtol=1e-5, atol=1e-30)
    assert set(last_steps.tolist()) == {300}


def test_the_command_is_told_which_bound_it_misses() -> None:
    with pytest.raises(ValueError, match=r"beta2 is 0\.99999; .* beta2 <= 0\.9999, so choose the optimizer adam"):
        optimizer_factory("row-adam", AdamSettings(learning_rate=1e-3, betas=(0.9, 0.99999), eps=1e-8), "cpu")
