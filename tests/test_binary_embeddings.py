"""1-bit embeddings: the operator, the switch, training through `RowAdam`, evaluation."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.ratings.interactions import PreparedData
from ncf_ppt.model import NCF, NCFConfig
from ncf_ppt.ranking import rank_test_items
from ncf_ppt.row_adam import BinaryRowEmbedding, RowAdam
from ncf_ppt.scoring import scorer
from ncf_ppt.training import fit_steps, load_model, new_model
from ncf_ppt.training_config import NCFTrainingConfig
from ppt_core.binarize import binarize_rows
from ppt_core.layers import set_precision
from ppt_core.plan import BinarizationPlan, convert, plan_binarization
from ppt_core.runs.run import Run
from tests import reference

CONFIG = NCFConfig(factors=4, layers=(16, 32, 64, 8), binarize_embeddings=True)
TRAINING = NCFTrainingConfig(epochs=4, batch_size=128, learning_rate=0.01)


def test_a_row_is_its_signs_times_its_mean_size() -> None:
    rows = torch.tensor([[0.5, -1.5, 0.0, 2.0], [0.0, -0.0, 0.0, 0.0]])
    assert binarize_rows(rows).tolist() == [[1, -1, -1, 1], [0, 0, 0, 0]]
    assert binarize_rows(torch.tensor([[0.1, 0.3]])).tolist() == [[float(np.float16(0.2))] * 2]


@pytest.mark.parametrize("shape", [(6,), (6, 1), (2, 3), (1, 6)])
def test_rows_are_read_in_any_shape(shape: tuple[int, ...]) -> None:
    """As grouped batches read them: a user for a group, and the items of a group side by side."""
    model = NCF(5, 6, CONFIG, seed=0)
    table = model.gmf_item
    set_precision(model, "low")
    for _ in range(2):
        assert torch.equal(table(torch.arange(6).reshape(shape)), table.values().reshape(*shape, -1))
        set_precision(model, "full")


def test_the_gradient_passes_straight_through() -> None:
    rows = torch.randn(5, 3, requires_grad=True)
    weights = torch.randn(5, 3)
    (binarize_rows(rows) * weights).sum().backward()  # type: ignore[no-untyped-call]
    assert torch.equal(rows.grad, weights)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1, 7, 64, 128])
def test_a_row_does_not_depend_on_the_others(size: int) -> None:
    rows = torch.randn(3000, size, generator=torch.Generator().manual_seed(0))
    together = binarize_rows(rows)
    for start, stop in ((0, 1), (1, 3), (7, 600), (2999, 3000)):
        assert torch.equal(binarize_rows(rows[start:stop]), together[start:stop])


def test_full_precision_reads_latent_rows_and_low_precision_signs() -> None:
    model = NCF(5, 6, CONFIG, seed=0)
    table = model.gmf_item
    assert torch.equal(table(torch.arange(6)), table.weight)
    assert torch.equal(table.values(), table.weight)
    set_precision(model, "low")
    assert torch.equal(table(torch.arange(6)), binarize_rows(table.weight))
    assert torch.equal(table.values(), binarize_rows(table.weight))
    set_precision(model, "full")
    assert torch.equal(table.values(), table.weight)


def test_the_plan_says_which_embeddings_are_1_bit(tiny_data: PreparedData) -> None:
    fates = {layer.name: layer.binarize for layer in plan_binarization(NCF(5, 6, CONFIG, seed=0)).layers}
    assert fates["gmf_user"]
    assert fates["mlp_item"]
    model = NCF(5, 6, CONFIG, seed=0)
    layers = plan_binarization(model).layers
    edited = BinarizationPlan(tuple(replace(e, binarize=e.binarize and e.name != "gmf_user") for e in layers))
    with pytest.raises(ValueError, match="gmf_user is 1-bit by its class"):
        convert(model, edited)
    assert not fates["first"]
    gmf = new_model(tiny_data, NCFConfig(model="gmf", binarize_embeddings=True), NCFTrainingConfig())
    set_precision(gmf, "low")
    assert isinstance(gmf.gmf_user, BinaryRowEmbedding)
    assert gmf.gmf_user.values().abs()[0].min() == gmf.gmf_user.values().abs()[0].max()


def test_row_adam_moves_latent_rows_as_adam_does() -> None:
    users, items = torch.tensor([0, 1, 0, 3]), torch.tensor([2, 2, 5, 0])

    def trained(rows: bool) -> NCF:
        model = NCF(4, 6, NCFConfig(model="gmf", factors=8, binarize_embeddings=True), seed=0)
        set_precision(model, "low")
        tables = model.tables()
        others = list(model.last.parameters())
        optimizer = RowAdam(tables, others, lr=0.01) if rows else torch.optim.Adam(model.parameters(), lr=0.01)
        for step in range(6):
            batch = slice(step % 2, 4 - step % 3)
            optimizer.zero_grad()
            model.train()(users[batch], items[batch]).square().sum().backward()
            optimizer.step()
        return model

    ours, theirs = trained(rows=True), trained(rows=False)
    for ours_table, theirs_table in zip(ours.tables(), theirs.tables(), strict=True):
        torch.testing.assert_close(ours_table.values(), theirs_table.values(), rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(ours_table.weight, theirs_table.weight, rtol=1e-4, atol=1e-6)


def test_trains_and_comes_back(tiny_data: PreparedData, tmp_path: Path) -> None:
    list(fit_steps(tiny_data, tmp_path / "run", CONFIG, TRAINING))
    run = Run.open(tmp_path / "run")
    model = load_model(run)
    assert model.config == CONFIG
    for table in model.tables():
        sizes, latent_sizes = table.values().abs(), table.weight.abs()
        assert torch.equal(sizes.amin(1), sizes.amax(1))
        assert (latent_sizes.amin(1) < latent_sizes.amax(1)).all()
    ranks = rank_test_items(scorer(model), tiny_data)
    assert ranks.hit_ratio() == run.result().metrics["hit_ratio"]
    chance = reference.guessed_hit_ratio(tiny_data.n_negatives)
    assert reference.above_chance(ranks.hit_ratio() * tiny_data.n_users, tiny_data.n_users, chance)
    scores = scorer(model)(np.arange(3), np.arange(30, dtype=np.int32).reshape(3, 10))
    with torch.no_grad():
        direct = model(torch.arange(3).repeat_interleave(10), torch.arange(30))
    np.testing.assert_allclose(scores.reshape(-1), direct.numpy(), atol=1e-4)


def test_settings_of_older_runs_are_read() -> None:
    values = NCFConfig().to_dict()
    assert "binarize_embeddings" not in values
    assert NCFConfig.from_dict(values) == NCFConfig()
    assert NCFConfig.from_dict(CONFIG.to_dict()) == CONFIG
