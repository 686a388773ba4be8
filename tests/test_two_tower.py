"""The two-tower network, its loss and its start, against the slow, obvious forms."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from ncf_ppt.baselines import fit_baseline
from ncf_ppt.shared_negatives import SharedNegativesSampler
from ncf_ppt.two_tower import TwoTower, TwoTowerConfig
from ncf_ppt.two_tower_training import softmax_batches, softmax_loss, start_towers_from_als
from ncf_ppt.warm_start import ALSStart, balanced_factors
from ppt_core.layers import set_precision
from ppt_core.plan import convert
from tests.test_histories import data_of

HISTORIES = [[3, 1, 4, 0], [2], [8, 6, 7, 5, 3, 0, 2], [4, 8], [0, 1, 2], [5, 6, 7, 8]]
CONFIG = TwoTowerConfig(factors=6, layers=(8, 7, 5), n_recent=3)


def network(config: TwoTowerConfig = CONFIG) -> TwoTower:
    """A network whose parts all count: no bias and no layer is 0."""
    model = TwoTower(6, 9, config, seed=2)
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        with torch.no_grad():
            parameter.add_(torch.randn(parameter.shape, generator=generator) / 4)
    return model


def test_a_user_is_the_weighted_mean_of_the_last_items() -> None:
    model = network(TwoTowerConfig(factors=6, layers=(), n_recent=3))
    recent = torch.tensor([[4, 1, 3], [7, 2, -1], [5, -1, -1], [-1, -1, -1]])
    weights = torch.log1p(model.recent.places.exp()).tolist()
    for row, found in zip(recent.tolist(), model(recent), strict=True):
        there = [(weight, item) for weight, item in zip(weights, row, strict=True) if item >= 0]
        expected = torch.zeros(6)
        for weight, item in there:
            expected += weight / sum(weight for weight, _ in there) * model.recent.weight[item]
        torch.testing.assert_close(found, expected)


def test_places_start_at_powers_of_085() -> None:
    places = TwoTower(6, 9, CONFIG, seed=0).recent.places
    torch.testing.assert_close(torch.nn.functional.softplus(places), torch.tensor([1, 0.85, 0.85**2]))


def test_the_tower_starts_as_nothing() -> None:
    model = TwoTower(6, 9, CONFIG, seed=0)
    recent = torch.tensor([[4, 1, 3], [7, 2, -1]])
    torch.testing.assert_close(model(recent), model.recent(recent))


def test_hidden_layers_between_the_first_and_the_last_become_1_bit() -> None:
    model = network()
    plan = convert(model)
    bits = {entry.name: entry.binarize for entry in plan.layers if entry.kind == "Linear"}
    assert bits == {"tower.0": False, "tower.2": True, "tower.4": True, "tower.6": False}
    set_precision(model, "low")
    assert torch.isfinite(model(torch.tensor([[4, 1, 3], [7, 2, -1]]))).all()


def test_vectors_score_as_the_network_does_whoever_else_is_asked_for() -> None:
    model = network().eval()
    recent = np.array([[4, 1, 3], [7, 2, -1], [-1, -1, -1]], np.int32)
    users, items = model.user_vectors(recent), model.item_vectors()
    expected = model(torch.from_numpy(recent)) @ model.item.weight.T + model.item_bias.weight.T
    np.testing.assert_allclose(users @ items.T, expected.detach().numpy(), atol=1e-5)
    np.testing.assert_array_equal(model.user_vectors(recent[1:2]), users[1:2])
    model.train()
    model.user_vectors(recent)
    assert model.training


@pytest.mark.parametrize("regularization", [0.0, 0.3])
def test_the_loss_is_a_softmax_over_what_is_not_known(regularization: float) -> None:
    model = network(TwoTowerConfig(factors=6, layers=(), n_recent=3))
    sampler = SharedNegativesSampler(data=data_of(HISTORIES), batch_size=5, n_negatives=7, n_recent=3, seed=4)
    batch = next(softmax_batches(sampler, start=1))
    recent, positives, negatives, is_known = batch
    users, items, biases = model(recent).detach(), model.item.weight.detach(), model.item_bias.weight.detach()
    losses = []
    for user, positive, known in zip(users, positives.tolist(), is_known.tolist(), strict=True):
        score = float(user @ items[positive] + biases[positive])
        total = math.exp(score)
        for negative, out in zip(negatives.tolist(), known, strict=True):
            total += 0.0 if out else math.exp(float(user @ items[negative] + biases[negative]))
        losses.append(math.log(total) - score)

    def squared(rows: Any) -> float:
        return float(np.mean([float(row @ row) for row in rows]))

    penalty = squared(users) + (squared(items[positives]) + squared(items[negatives])) / 2
    expected = np.mean(losses) + regularization * penalty
    assert softmax_loss(model, batch, regularization).item() == pytest.approx(expected, rel=1e-5)


def test_starting_from_als_a_user_is_a_mean_of_its_factors() -> None:
    data = data_of(HISTORIES)
    model = TwoTower(6, 9, CONFIG, seed=0)
    start = ALSStart(regularization=1.0)
    start_towers_from_als(model, data, start, seed=0)
    factors = balanced_factors(start, data, 6, seed=0)
    np.testing.assert_array_equal(model.recent.weight.detach().numpy(), factors.item_vectors)
    np.testing.assert_array_equal(model.item.weight.detach().numpy(), np.float32(3) * factors.item_vectors)


def test_balanced_factors_have_one_length_and_the_products_of_als() -> None:
    data = data_of(HISTORIES)
    start = ALSStart(regularization=1.0)
    balanced = balanced_factors(start, data, 4, seed=0)
    lengths = [np.square(v).sum(axis=1).mean() for v in (balanced.user_vectors, balanced.item_vectors)]
    assert lengths[0] == pytest.approx(lengths[1], rel=1e-5)
    plain = fit_baseline(start.als(4), data)
    users = np.arange(6)
    np.testing.assert_allclose(balanced.score_catalogue(users), plain.score_catalogue(users), atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"factors": 0}, "factors is 0; it must be at least 1"),
        ({"n_recent": 0}, "n_recent is 0; it must be at least 1"),
        ({"layers": (8, 0)}, "layers is 8,0; each width must be at least 1"),
        ({"model": "gmf"}, "model is 'gmf'; it must be two-tower"),
    ],
)
def test_what_is_no_network(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TwoTowerConfig(**settings)
    assert TwoTowerConfig.from_dict(CONFIG.to_dict()) == CONFIG
