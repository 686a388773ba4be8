from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_prep.ratings.interactions import PreparedData
from ncf_ppt.binary_tables import rotate_tables
from ncf_ppt.model import NCF, NCFConfig
from ncf_ppt.row_adam import RowAdam, is_binary
from ncf_ppt.training import fit_steps, load_model
from ncf_ppt.training_config import NCFTrainingConfig
from ppt_commands.ncf.train import train
from ppt_commands.programs import main
from ppt_core.binarize import binarize_rows
from ppt_core.layers import set_precision
from ppt_core.plan import convert
from ppt_core.runs.run import Run
from ppt_core.schedule import Constant, PhaseSchedule
from ppt_core.train import train_steps

N_USERS, N_ITEMS = 40, 60


def network(model: Any, which: Any, seed: int = 0) -> NCF:
    """Of tables that lie in a few directions, and of last weights of all signs and sizes."""
    config = NCFConfig(model=model, factors=6, layers=(16, 12, 8, 4), binarize_embeddings=which)
    found = NCF(N_USERS, N_ITEMS, config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for table in found.tables():
            width = table.embedding_dim
            crowds = torch.randn(3, width, generator=generator)[torch.arange(len(table.weight)) % 3]
            table.weight.copy_(crowds + 0.3 * torch.randn(table.weight.shape, generator=generator))
        found.last.weight.copy_(torch.randn(found.last.weight.shape, generator=generator))
    convert(found)
    return found.eval()


def logits(model: NCF) -> torch.Tensor:
    users, items = torch.meshgrid(torch.arange(N_USERS), torch.arange(N_ITEMS), indexing="ij")
    with torch.no_grad():
        found: torch.Tensor = model(users.reshape(-1), items.reshape(-1))
    return found


def loss_of_signs(model: NCF) -> float:
    """What binarizing costs the 1-bit tables, as a share of their squares."""
    tables = [table.weight.detach() for table in model.tables() if hasattr(table, "precision")]
    return float(sum((binarize_rows(t) - t).square().sum() for t in tables) / sum(t.square().sum() for t in tables))


@pytest.mark.parametrize("which", ["items", "all"])
@pytest.mark.parametrize("kind", ["gmf", "mlp", "neumf"])
def test_the_function_stays_and_signs_lose_less(kind: str, which: str) -> None:
    model = network(kind, which)
    before, lost = logits(model), loss_of_signs(model)
    rotate_tables(model)
    torch.testing.assert_close(logits(model), before, rtol=1e-4, atol=1e-4)
    assert loss_of_signs(model) < lost
    if kind != "mlp":
        assert model.last.weight[0, :6].min() == model.last.weight[0, :6].max()


def test_only_the_chosen_tables_are_1_bit() -> None:
    for which, expected in (("items", {"gmf_item", "mlp_item"}), ("all", None)):
        model = network("neumf", which)
        set_precision(model, "low")
        names = {name for name, module in model.named_children() if module in model.tables()}
        assert {name for name in names if is_binary(model.get_submodule(name))} == (expected or names)  # type: ignore[arg-type]


def test_the_weights_of_a_gmf_of_bits_stay_alike(tiny_data: PreparedData, tmp_path: Path) -> None:
    config = NCFConfig(model="gmf", factors=8, binarize_embeddings="all")
    training = NCFTrainingConfig(epochs=2, batch_size=256, learning_rate=0.01)
    list(fit_steps(tiny_data, tmp_path / "run", config, training))
    model = load_model(Run.open(tmp_path / "run"))
    assert isinstance(model, NCF)
    assert model.last.weight.min() == model.last.weight.max()
    assert model.last.bias.item() != 0
    with torch.no_grad():
        users, items = torch.arange(5), torch.arange(5)
        counts = (model.gmf_user.values()[:5].sign() * model.gmf_item.values()[:5].sign()).sum(1)
        scales = model.gmf_user.values()[:5].abs()[:, 0] * model.gmf_item.values()[:5].abs()[:, 0]
        expected = counts * scales * model.last.weight[0, 0] + model.last.bias
        torch.testing.assert_close(model(users, items), expected)


def test_it_happens_once_just_before_the_switch_and_rows_that_lag_are_read() -> None:
    model = network("gmf", "all")
    calls = []

    def project() -> None:
        before = logits(model.eval())
        rotate_tables(model)
        torch.testing.assert_close(logits(model), before, rtol=1e-4, atol=1e-4)
        calls.append(all(not is_binary(table) for table in model.tables()))

    def optimizer(model: torch.nn.Module) -> RowAdam:
        assert isinstance(model, NCF)
        return RowAdam(model.tables(), model.last.parameters(), lr=0.01)

    batches = [(torch.tensor([step, step + 1]), torch.tensor([step, 3])) for step in range(8)]
    schedule = PhaseSchedule.split(8, 0.5, Constant(0.01))
    steps = train_steps(
        model, batches, lambda model, batch: model(*batch).square().mean(), schedule, optimizer, project=project
    )
    found = [(step.iteration, len(calls)) for step in steps]
    assert found == [(n, int(n >= 4)) for n in range(8)]
    assert calls == [True]


@pytest.mark.parametrize("which", ["items", "all"])
@pytest.mark.parametrize("kind", ["gmf", "neumf"])
def test_resumed_it_ends_with_the_same_bytes(kind: Any, which: Any, tiny_data: PreparedData, tmp_path: Path) -> None:
    config = NCFConfig(model=kind, factors=4, layers=(8, 8, 8, 4), binarize_embeddings=which)
    training = NCFTrainingConfig(epochs=1, batch_size=512, learning_rate=0.01)
    list(fit_steps(tiny_data, tmp_path / "whole", config, training))
    whole = (tmp_path / "whole" / "model.safetensors").read_bytes()
    n_steps = Run.open(tmp_path / "whole").result().training.iterations
    for stop in (n_steps // 2 - 1, n_steps // 2, n_steps - 2):
        path = tmp_path / f"stopped {stop}"
        steps = fit_steps(tiny_data, path, config, training, checkpoint_seconds=0)
        for _ in range(stop):
            next(steps)
        steps.close()  # type: ignore[attr-defined]
        list(fit_steps(tiny_data, path, config, training, resume=True))
        assert (path / "model.safetensors").read_bytes() == whole


def test_names_of_the_choice() -> None:
    assert NCFConfig(binarize_embeddings=True) == NCFConfig(binarize_embeddings="all")
    assert NCFConfig(binarize_embeddings=False) == NCFConfig()
    assert NCFConfig.from_dict(NCFConfig(binarize_embeddings="items").to_dict()).binarize_embeddings == "items"
    with pytest.raises(ValueError, match="binarize_embeddings is 'users'; choose items or all"):
        NCFConfig(binarize_embeddings="users")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [([], None), (["--binarize-embeddings"], "all"), (["--binarize-embeddings", "items", "--epochs", "1"], "items"),
     (["--binarize-embeddings", "--epochs", "1"], "all")],
)  # fmt: skip
def test_the_option_takes_a_word_or_none(arguments: list[str], expected: str | None) -> None:
    parent = main.make_context("ppt-ncf", ["train"])  # which has the names of the help option
    assert train.make_context("train", arguments, parent=parent).params["binarize_embeddings"] == expected


def test_moments_that_cannot_follow_are_refused(tiny_data: PreparedData, tmp_path: Path) -> None:
    config, training = NCFConfig(binarize_embeddings="all"), NCFTrainingConfig(at_switch="keep")
    with pytest.raises(ValueError, match=r"rotates the embeddings at the switch, .* at_switch must be reset"):
        fit_steps(tiny_data, tmp_path / "run", config, training)


def test_a_diverged_network_is_named() -> None:
    model = network("gmf", "all")
    with torch.no_grad():
        model.gmf_item.weight[0, 0] = np.nan
    with pytest.raises(ValueError, match=r"gmf_item\.weight holds values that are not finite"):
        rotate_tables(model)
