"""Networks that read a user's last items: training, and everything that serves them afterwards."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from data_prep.ratings.interactions import PreparedData
from data_prep.ratings.sampling import Sampler
from ncf_ppt.batches import training_batches
from ncf_ppt.candidates import verify_export
from ncf_ppt.export.embeddings import export_embeddings
from ncf_ppt.export.onnx_file import export_onnx
from ncf_ppt.histories import places_in_history, recent_items
from ncf_ppt.inspection import inspect_network
from ncf_ppt.losses import loss
from ncf_ppt.model import NCF, NCFConfig
from ncf_ppt.packed.file import load_packed, save_packed
from ncf_ppt.packed.packing import pack
from ncf_ppt.packed.verification import verify_on_test_items
from ncf_ppt.ranking import rank_test_items
from ncf_ppt.recent import MeanEmbedding, RecentItems, means_by_operations, weighted_means
from ncf_ppt.row_adam import RowAdam
from ncf_ppt.scoring import scorer
from ncf_ppt.serving import served
from ncf_ppt.training import fit_steps, load_model, new_model
from ncf_ppt.training_config import NCFTrainingConfig
from ppt_core.errors import DataError
from ppt_core.layers import set_precision
from ppt_core.plan import convert
from ppt_core.runs.run import Run
from ppt_core.threads import limited_threads
from tests import reference

SMALL: dict[str, Any] = {"factors": 6, "layers": (8, 12, 10, 4), "n_recent": 3}
KINDS = ("neumf", "gmf", "mlp")
RECENT = torch.tensor([[2, 0, 8], [5, -1, -1], [-1, -1, -1], [7, 7, -1]], dtype=torch.int32)


def randomized(model: NCF) -> NCF:
    """A network whose every weight and statistic matters."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for values in model.state_dict().values():
            if values.is_floating_point():
                values.copy_(torch.rand(values.shape, generator=generator) - 0.3)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                assert module.running_var is not None
                module.running_var.uniform_(0.5, 2, generator=generator)
    return model.eval()


def trained(data: PreparedData, kind: Any = "neumf", *, low: bool = False) -> NCF:
    config = NCFConfig(model=kind, **SMALL)
    model = new_model(data, config, NCFTrainingConfig(split=1))
    randomized(model)
    if low:
        convert(model)
        set_precision(model, "low")
    return model.eval()


class TestMeanEmbedding:
    def test_is_the_weighted_mean_of_what_is_there(self) -> None:
        model = randomized(NCF(4, 9, NCFConfig(model="gmf", **SMALL), seed=0))
        state = {key: values.double().numpy() for key, values in model.state_dict().items()}
        means = model.recent(RECENT).detach().numpy()
        np.testing.assert_allclose(means, [reference.recent_mean(state, row) for row in RECENT.tolist()], atol=1e-6)
        assert means[2].tolist() == [0.0] * 6
        np.testing.assert_array_equal(model.recent.means(RECENT).numpy(), means)

    @pytest.mark.parametrize("sparse", [False, True])
    @pytest.mark.parametrize("seed", range(4))
    def test_gradients(self, seed: int, sparse: bool) -> None:
        rng = np.random.default_rng(seed)
        table = torch.from_numpy(rng.standard_normal((7, 5)).astype(np.float32)).requires_grad_()
        places = torch.from_numpy(rng.standard_normal(4).astype(np.float32)).requires_grad_()
        recent = rng.integers(-1, 7, (12, 4)).astype(np.int32)
        recent[seed] = -1
        grads = torch.from_numpy(rng.standard_normal((12, 5)).astype(np.float32))
        histories, weights = torch.from_numpy(recent), F.softplus(places)
        of_table, of_weights = reference.recent_mean_gradients(
            table.detach().double().numpy(), weights.detach().double().numpy(), recent.tolist(), grads.numpy()
        )
        of_places = of_weights * torch.sigmoid(places.detach()).numpy()
        both = [
            weighted_means(table, places, histories, sparse=sparse),
            means_by_operations(table, weights, histories, sparse),
        ]
        np.testing.assert_allclose(both[0].detach().numpy(), both[1].detach().numpy(), rtol=1e-5, atol=1e-6)
        for means in both:
            found = torch.autograd.grad(means, (table, places), grads)
            assert found[0].is_sparse == sparse
            np.testing.assert_allclose(found[0].to_dense().numpy(), of_table, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(found[1].numpy(), of_places, rtol=1e-4, atol=1e-5)

    def test_a_row_has_one_gradient_the_same_with_any_number_of_threads(self) -> None:
        recent = torch.randint(-1, 50, (300, 6), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
        found = []
        for n_threads in (1, 2):
            with limited_threads(n_threads):
                table = torch.linspace(-1, 1, 800).view(50, 16).requires_grad_()
                places = torch.linspace(-1, 1, 6).requires_grad_()
                means = weighted_means(table, places, recent, sparse=True)
                of_table, of_places = torch.autograd.grad(means.square().sum(), (table, places))
            rows = of_table._indices()[0].tolist()
            assert sorted(rows) == list(range(50))
            found.append([rows, of_table._values().tolist(), of_places.tolist()])
        assert found[0] == found[1]

    def test_places_weigh_1_at_first(self) -> None:
        model = NCF(4, 9, NCFConfig(model="mlp", **SMALL), seed=0)
        np.testing.assert_allclose(F.softplus(model.recent.places).detach().numpy(), 1, rtol=1e-6)
        assert model.recent.weight.std().item() == pytest.approx(0.01, rel=0.3)

    def test_rows_move_as_under_dense_adam(self) -> None:
        tables = [MeanEmbedding(9, 5, 3) for _ in range(2)]
        for table in tables:
            with torch.no_grad():
                table.weight.copy_(torch.linspace(-1, 1, 45).view(9, 5))
            table.reset_places()
        settings: dict[str, Any] = {"lr": 0.05, "betas": (0.9, 0.999), "eps": 1e-8}
        sparse = RowAdam([tables[0]], [tables[0].places], **settings)
        dense = torch.optim.Adam(tables[1].parameters(), **settings)
        generator = torch.Generator().manual_seed(0)
        for _ in range(12):
            recent = torch.randint(-1, 9, (4, 3), generator=generator, dtype=torch.int32)
            target = torch.rand(4, 5, generator=generator)
            for table, optimizer in zip(tables, (sparse, dense), strict=True):
                table.train()
                optimizer.zero_grad()
                (table(recent) - target).square().sum().backward()
                optimizer.step()
        np.testing.assert_allclose(tables[0].values().numpy(), tables[1].weight.detach().numpy(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(tables[0].places.tolist(), tables[1].places.tolist(), rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_against_one_pair_at_a_time(kind: Any) -> None:
    model = randomized(NCF(4, 9, NCFConfig(model=kind, **SMALL), seed=1))
    state = {key: values.double().numpy() for key, values in model.state_dict().items()}
    users, items = torch.tensor([0, 3, 3, 1]), torch.tensor([8, 0, 5, 2])
    expected = [
        reference.ncf_logit(state, user, item, recent)
        for user, item, recent in zip(users.tolist(), items.tolist(), RECENT.tolist(), strict=True)
    ]
    np.testing.assert_allclose(model(users, items, RECENT).detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    model.last_items.copy_(RECENT)
    np.testing.assert_array_equal(model(users, items).tolist(), model(users, items, RECENT[users]).tolist())


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns(kind: Any) -> None:
    model = randomized(NCF(4, 9, NCFConfig(model=kind, **SMALL), seed=1)).train()
    model(torch.tensor([0, 3, 3, 1]), torch.tensor([8, 0, 5, 2]), RECENT).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_the_config_keeps_its_old_keys_without_recent_items() -> None:
    assert "n_recent" not in NCFConfig().to_dict()
    config = NCFConfig(**SMALL)
    assert NCFConfig.from_dict(config.to_dict()) == config


def test_a_batch_holds_what_came_before_each_positive(tiny_data: PreparedData) -> None:
    assert tiny_data.history is not None
    histories = np.split(tiny_data.history, tiny_data.train.offsets[1:-1])
    sampler = Sampler(interactions=tiny_data.train, n_negatives=2, seed=1)
    batches = training_batches(sampler, 500, start=3, recent=RecentItems(tiny_data, 4))
    plain = training_batches(sampler, 500, start=3)
    for _ in range(30):  # beyond the end of an epoch
        users, items, recent, labels = (tensor.numpy() for tensor in next(batches))
        for found, expected in zip((users, items, labels), next(plain), strict=True):
            np.testing.assert_array_equal(found, expected.numpy())
        for user, item, row, label in zip(users, items, recent, labels, strict=True):
            history = histories[user].tolist()
            places = [history.index(item)] if label else range(len(history))
            assert row.tolist() in [(history[:place][::-1] + [-1] * 4)[:4] for place in places]


def test_histories_on_a_device_are_those_of_the_kernel(tiny_data: PreparedData) -> None:
    positives = np.arange(len(tiny_data.train))[::7].copy()
    found = RecentItems(tiny_data, 5)(torch.from_numpy(tiny_data.train.users()[positives]), torch.from_numpy(positives))
    assert found.dtype == torch.int32
    expected = recent_items(tiny_data, places_in_history(tiny_data)[positives], 5)
    np.testing.assert_array_equal(found.numpy(), expected)


def test_evaluation_knows_the_last_train_items(tiny_data: PreparedData) -> None:
    assert tiny_data.history is not None
    model = trained(tiny_data)
    for user in (0, 7, 119):
        history = tiny_data.history[tiny_data.train.offsets[user] : tiny_data.train.offsets[user + 1]]
        assert model.last_items[user].tolist() == history[::-1][:3].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_what_serves_has_the_same_logits(tiny_data: PreparedData, kind: Any) -> None:
    model = trained(tiny_data, kind)
    model.last_items[5] = -1  # somebody without a history
    users, items = torch.arange(120).repeat_interleave(3), torch.arange(360) % tiny_data.n_items
    with torch.inference_mode():
        expected = model(users, items).numpy()
    np.testing.assert_allclose(served(model)(users, items).detach().numpy(), expected, rtol=1e-5, atol=1e-5)
    scores = scorer(model)(np.arange(120), items.view(120, 3).numpy().astype(np.int32))
    np.testing.assert_allclose(scores.reshape(-1), expected, rtol=1e-5, atol=1e-5)
    assert served(served(model)) is not model
    plain = NCF(4, 9, NCFConfig(factors=2, layers=(4, 4)), seed=0)
    assert served(plain) is plain


@pytest.mark.parametrize("kind", ["neumf", "mlp"])
@pytest.mark.parametrize("embeddings", [None, "int8"])
def test_packs(tiny_data: PreparedData, tmp_path: Path, kind: Any, embeddings: Any) -> None:
    model = trained(tiny_data, kind, low=True)
    packed = pack(
        model,
        user_ids=tiny_data.user_ids,
        item_ids=tiny_data.item_ids,
        protocol=tiny_data.protocol_label,
        embeddings=embeddings,
    )
    report = verify_on_test_items(packed, model, tiny_data)
    assert report.compared_bits > 0
    save_packed(packed, tmp_path / "network.packed")
    users, items = np.arange(120), tiny_data.test_negatives
    scores = packed(users, items)
    np.testing.assert_array_equal(load_packed(tmp_path / "network.packed")(users, items), scores)
    if embeddings is None:
        np.testing.assert_allclose(np.median(np.abs(scores - scorer(model)(users, items))), 0, atol=1e-5)
    reports = inspect_network(model)
    assert [each.packed_bytes for each in reports if embeddings is None] == [
        each.packed_bytes for each in inspect_network(served(model)) if embeddings is None
    ]


def test_an_inner_product_of_exported_vectors_is_gmfs_logit(tiny_data: PreparedData, tmp_path: Path) -> None:
    model = trained(tiny_data, "gmf")
    manifest = export_embeddings(model, tiny_data, tmp_path / "vectors", format="npy")
    assert manifest["tables"]["gmf_items"]["dimension"] == 13
    report = verify_export(tmp_path / "vectors", model, tiny_data)["product"]
    assert report.n_equal == report.n_users
    export_embeddings(trained(tiny_data, "mlp"), tiny_data, tmp_path / "mlp", format="npy")


@pytest.mark.parametrize("low", [False, True])
def test_onnx(tiny_data: PreparedData, tmp_path: Path, low: bool) -> None:
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    report = export_onnx(trained(tiny_data, low=low), tiny_data, tmp_path / "network.onnx")
    assert report["n_differing"] <= 20


def settings(**changes: Any) -> NCFTrainingConfig:
    return NCFTrainingConfig(**{"split": 0.5, "epochs": 1, "batch_size": 512, "n_negatives": 2, **changes})


def train(data: PreparedData, path: Path, config: NCFTrainingConfig, *, steps: int | None = None, **kwargs: Any) -> Run:
    progress = fit_steps(data, path, NCFConfig(**SMALL), config, **kwargs)
    for step in progress:
        if step.iteration == steps:
            progress.close()  # type: ignore[attr-defined]
            break
    return Run.open(path)


def test_trains_resumes_and_loads(tiny_data: PreparedData, tmp_path: Path) -> None:
    whole = train(tiny_data, tmp_path / "whole", settings())
    train(tiny_data, tmp_path / "parts", settings(), steps=9, checkpoint_seconds=0)
    parts = train(tiny_data, tmp_path / "parts", settings(), resume=True)
    assert whole.model_path.read_bytes() == parts.model_path.read_bytes()
    model = load_model(whole)
    assert rank_test_items(scorer(model), tiny_data).hit_ratio() == whole.result().metrics["hit_ratio"]
    assert (model.last_items[:, 0] >= 0).all()
    assert math.isfinite(whole.result().loss)


def test_data_without_an_order_in_time_are_refused(tiny_data: PreparedData, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="do not hold the order of each user's items in time"):
        train(replace(tiny_data, history=None), tmp_path / "run", settings())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("n_recent", [0, 3])
def test_the_penalty_is_on_the_rows_of_the_batch(n_recent: int) -> None:
    model = randomized(NCF(4, 9, NCFConfig(**SMALL | {"n_recent": n_recent}), seed=1))
    users, items = torch.tensor([0, 3, 3, 1]), torch.tensor([8, 0, 5, 2])
    batch = (users, items, *([RECENT] if n_recent else []), torch.tensor([1.0, 0, 0, 1]))
    state = {key: values.double().numpy() for key, values in model.state_dict().items()}
    names = {"gmf_user": users, "gmf_item": items, "mlp_user": users, "mlp_item": items}
    names |= {"next_item": items} if n_recent else {}
    squares = sum((state[f"{name}.weight"][rows] ** 2).sum() for name, rows in names.items())
    if n_recent:
        squares += sum((reference.recent_mean(state, row) ** 2).sum() for row in RECENT.tolist())
    with torch.no_grad():
        penalty = (loss(model, batch, 0.1) - loss(model, batch)).item()
    assert penalty == pytest.approx(0.1 * squares / 4, rel=1e-5)


@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("n_recent", [0, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_users_half_computed_once_for_a_group_changes_nothing(
    tiny_data: PreparedData, kind: Any, n_recent: int, batch_norm: bool, low: bool
) -> None:
    if low and kind == "gmf":
        return  # nothing to binarize
    config = NCFConfig(model=kind, **SMALL | {"n_recent": n_recent}, batch_norm=batch_norm)
    sampler = Sampler(interactions=tiny_data.train, seed=1, grouped=True)
    found = []
    for grouped in (True, False):
        model = randomized(new_model(tiny_data, config, NCFTrainingConfig(split=0.5 if kind != "gmf" else 1))).train()
        if low:
            set_precision(model, "low")
        RowAdam(model.tables(), [])
        recent = RecentItems(tiny_data, n_recent) if n_recent else None
        batch = next(training_batches(sampler, 100, start=3, recent=recent))
        assert [tensor.shape for tensor in batch] == [
            (20, 1), (20, 5), *([(20, 1, 3)] if n_recent else []), (20, 5)
        ]  # fmt: skip
        if not grouped:
            users, *middle, labels = batch
            if n_recent:
                middle[1] = middle[1].expand(20, 5, 3).reshape(100, 3)
            batch = (users.expand(20, 5).reshape(100), middle[0].reshape(100), *middle[1:], labels.reshape(100))
        value = loss(model, batch, 0.1)
        value.backward()  # type: ignore[no-untyped-call]
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        if grouped and kind != "mlp":
            assert gradients["gmf_user.weight"]._nnz() == 20  # RowAdam's work
        found.append((value, gradients, model.state_dict(), model(*batch[:-1]).reshape(100)))
    (value, gradients, state, logits), (plain_value, plain_gradients, plain_state, plain_logits) = found
    torch.testing.assert_close(value, plain_value, rtol=1e-5, atol=0)
    torch.testing.assert_close(logits, plain_logits, rtol=1e-4, atol=1e-5)
    assert gradients.keys() == plain_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            gradient.to_dense(), plain_gradients[name].to_dense(), rtol=1e-3, atol=1e-6, msg=name
        )
    for name, values in state.items():
        torch.testing.assert_close(values, plain_state[name], msg=name)


@pytest.mark.parametrize("n_recent", [0, 3])
def test_regularization_under_row_adam_is_that_of_dense_adam(
    tiny_data: PreparedData, tmp_path: Path, n_recent: int
) -> None:
    states = []
    for optimizer in ("row-adam", "adam"):
        config = settings(split=1, epochs=0.3, optimizer=optimizer, regularization=0.05)
        network = NCFConfig(**SMALL | {"n_recent": n_recent})
        list(fit_steps(tiny_data, tmp_path / optimizer, network, config))
        states.append(load_model(Run.open(tmp_path / optimizer)).state_dict())
    for name, values in states[0].items():
        torch.testing.assert_close(values, states[1][name], rtol=1e-3, atol=1e-5, msg=name)


def test_a_run_without_a_penalty_has_the_settings_it_had() -> None:
    assert "regularization" not in settings().to_dict()
    assert settings(regularization=0.5).to_dict()["regularization"] == 0.5
    with pytest.raises(ValueError, match=r"regularization is -1; it must be 0 or above"):
        settings(regularization=-1)
