import numba
import numpy as np
import pytest
import torch

from ncf_ppt.model import NCF, NCFConfig
from ncf_ppt.scoring import scorer
from ppt_core.layers import set_precision
from ppt_core.plan import convert

N_USERS, N_ITEMS = 30, 70
SHAPES = (
    NCFConfig(factors=20, layers=(24, 40, 33, 17)),
    NCFConfig(factors=3, layers=(8, 16, 8), batch_norm=False),
    NCFConfig(factors=64, layers=(16, 12)),  # the first activation is the last
    NCFConfig(model="mlp", layers=(16, 16, 8)),
    NCFConfig(model="gmf", factors=19),
)


def network(config: NCFConfig, precision: str) -> NCF:
    """An untrained network whose embeddings are large enough to matter and whose BatchNorm is not the identity."""
    model = NCF(N_USERS, N_ITEMS, config, seed=1)
    if precision == "low":
        convert(model)
        set_precision(model, "low")
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for table in model.tables():
            table.weight.normal_(generator=generator)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.weight.normal_(generator=generator)
                module.bias.normal_(generator=generator)
                module.running_mean.normal_(generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
    return model.eval()


def pairs(n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n + m)
    return rng.integers(0, N_USERS, n), rng.integers(0, N_ITEMS, (n, m)).astype(np.int32)


@pytest.mark.parametrize("config", SHAPES, ids=str)
def test_scores_are_the_networks_logits(config: NCFConfig) -> None:
    users, items = pairs(9, 101)
    model = network(config, "full")
    with torch.inference_mode():
        logits = model(torch.from_numpy(users).repeat_interleave(101), torch.from_numpy(items).flatten().long())
    np.testing.assert_allclose(scorer(model)(users, items).ravel(), logits.numpy(), rtol=1e-4, atol=1e-4)


def test_scores_in_low_precision() -> None:
    users, items = pairs(9, 101)
    model = network(SHAPES[0], "low")
    with torch.inference_mode():
        sums = (
            model.first.x_half(model.mlp_user.weight)[users][:, None] + model.first.y_half(model.mlp_item.weight)[items]
        )
        gmf = model.gmf_user.weight[users][:, None] * model.gmf_item.weight[items]
        logits = model.last(gmf.flatten(0, 1), model.mlp(sums.flatten(0, 1)))
    np.testing.assert_allclose(scorer(model)(users, items).ravel(), logits[:, 0].numpy(), rtol=1e-4, atol=1e-4)


def test_scores_do_not_depend_on_threads_or_company() -> None:
    users, items = pairs(40, 500)  # more pairs than a block holds
    score = scorer(network(SHAPES[0], "low"))
    scores = score(users, items)
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        np.testing.assert_array_equal(score(users, items), scores)
    finally:
        numba.set_num_threads(threads)
    for row in (0, 17, 39):
        np.testing.assert_allclose(
            score(users[row : row + 1], items[row : row + 1, 7:9]), scores[row : row + 1, 7:9], rtol=1e-5
        )


@pytest.mark.parametrize("config", SHAPES, ids=str)
def test_users_in_order_have_the_same_scores_in_less_memory(monkeypatch: pytest.MonkeyPatch, config: NCFConfig) -> None:
    monkeypatch.setattr("ncf_ppt.scoring.ROWS", 8)
    model = network(config, "full")
    n_rows: list[int] = []
    if config.model != "gmf":
        x_half = model.first.x_half

        def counted(rows: torch.Tensor) -> torch.Tensor:
            n_rows.append(len(rows))
            return x_half(rows)

        monkeypatch.setattr(model.first, "x_half", counted)
    in_order = scorer(model, in_order=True)
    assert n_rows == []
    users, items = np.arange(N_USERS), pairs(N_USERS, 13)[1]
    expected = scorer(model)(users, items)
    n_rows.clear()
    np.testing.assert_array_equal(in_order(users, items), expected)
    assert n_rows in ([], [8, 8, 8, 6])
    np.testing.assert_array_equal(in_order(users[[29, 3, 28, 3]], items[[29, 3, 28, 3]]), expected[[29, 3, 28, 3]])


def test_not_a_number_stays() -> None:
    model = network(SHAPES[0], "full")
    with torch.no_grad():
        model.mlp_item.weight[5] = float("nan")
    scores = scorer(model)(np.array([3]), np.array([[4, 5, 6]], np.int32))
    assert np.isnan(scores).tolist() == [[False, True, False]]
