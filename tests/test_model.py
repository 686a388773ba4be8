import math
from typing import Any

import numpy as np
import pytest
import torch

from ncf_ppt.model import NCF, NCFConfig
from tests import reference

SMALL: dict[str, Any] = {"factors": 4, "layers": (8, 6, 4)}
USERS = torch.tensor([0, 6, 3, 3, 1])
ITEMS = torch.tensor([8, 0, 5, 2, 5])


def state_of(model: NCF) -> dict[str, reference.Floats]:
    return {key: values.double().numpy() for key, values in model.state_dict().items()}


@pytest.mark.parametrize("layers", [(8, 6, 4), (2, 1), (8, 6, 4, 4)])
@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("kind", ["neumf", "gmf", "mlp"])
def test_logits_against_one_pair_at_a_time(kind: Any, batch_norm: bool, layers: tuple[int, ...]) -> None:
    model = NCF(7, 9, NCFConfig(model=kind, factors=4, layers=layers, batch_norm=batch_norm), seed=1).eval()
    generator = torch.Generator().manual_seed(0)
    for values in model.state_dict().values():  # statistics too, which are 0 and 1 at first
        if values.is_floating_point():
            values.copy_(torch.rand(values.shape, generator=generator) + 0.1)
    logits = model(USERS, ITEMS)
    assert (logits.shape, logits.dtype) == ((5,), torch.float32)
    state = state_of(model)
    expected = [
        reference.ncf_logit(state, user, item) for user, item in zip(USERS.tolist(), ITEMS.tolist(), strict=True)
    ]
    np.testing.assert_allclose(logits.detach().numpy(), expected, rtol=1e-5)
    of_groups = model(USERS[:, None], torch.stack([ITEMS, ITEMS.flip(0), (ITEMS + 1) % 9], dim=1))
    assert of_groups.shape == (5, 3)
    np.testing.assert_allclose(of_groups[:, 0].detach().numpy(), expected, rtol=1e-5)
    other = reference.ncf_logit(state, int(USERS[1]), int(ITEMS[3]))
    np.testing.assert_allclose(of_groups[1, 1].item(), other, rtol=1e-5)


def test_the_size_is_that_of_mlperf() -> None:
    n_users, n_items = 1_000, 500
    model = NCF(n_users, n_items, NCFConfig(), seed=0)
    embeddings = (n_users + n_items) * (64 + 128)
    hidden = 256 * 256 + 256 * 128 + 128 * 64 + 2 * (256 + 128 + 64)
    assert sum(parameter.numel() for parameter in model.parameters()) == embeddings + hidden + 64 + 64 + 1


def test_initial_weights_have_the_spreads_of_mlperf() -> None:
    model = NCF(1_000, 500, NCFConfig(), seed=3)
    shapes = {"gmf_user": (1_000, 64), "gmf_item": (500, 64), "mlp_user": (1_000, 128), "mlp_item": (500, 128)}
    for name, shape in shapes.items():
        table = model.get_submodule(name).weight
        assert isinstance(table, torch.Tensor)
        assert tuple(table.shape) == shape
        assert abs(table.mean()) < 4 * 0.01 / math.sqrt(table.numel())
        assert table.std().item() == pytest.approx(0.01, rel=0.02)
    linears = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    found = {(module.in_features, module.out_features): module.weight for module in linears}
    bounds = {(n_in, n_out): math.sqrt(6 / (n_in + n_out)) for n_in, n_out in ((256, 256), (256, 128), (128, 64))}
    bounds[128, 1] = math.sqrt(3 / 128)
    assert found.keys() == bounds.keys()
    for size, bound in bounds.items():
        assert 0.9 * bound < found[size].abs().max() <= bound
        assert found[size].std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)


def test_initial_weights_are_a_function_of_the_seed_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = NCF(7, 9, NCFConfig(**SMALL), seed=5).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    again, other = (NCF(7, 9, NCFConfig(**SMALL), seed=seed).state_dict() for seed in (5, 6))
    assert all(torch.equal(values, again[key]) for key, values in first.items())
    assert not torch.equal(first["gmf_user.weight"], other["gmf_user.weight"])


def test_a_score_does_not_depend_on_its_batch_in_evaluation() -> None:
    model = NCF(7, 9, NCFConfig(**SMALL), seed=1).eval()
    with torch.inference_mode():
        alone = [model(user[None], item[None]).item() for user, item in zip(USERS, ITEMS, strict=True)]
        np.testing.assert_allclose(model(USERS, ITEMS).numpy(), alone, rtol=1e-5)


@pytest.mark.parametrize("kind", ["neumf", "gmf", "mlp"])
def test_every_parameter_learns(kind: Any) -> None:
    model = NCF(7, 9, NCFConfig(model=kind, **SMALL), seed=1)
    model(USERS, ITEMS).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "svd"}, "model is 'svd'; choose neumf, gmf or mlp"),
        ({"factors": 0}, "factors is 0; it must be at least 1"),
        ({"layers": (8,)}, "layers is 8; give at least two widths"),
        ({"layers": (7, 4)}, "layers is 7,4; .* the first of them even"),
        ({"layers": (8, 0)}, "layers is 8,0; give at least two widths"),
        ({"n_recent": -1}, "n_recent is -1; it must be 0, .* or above"),
        ({"n_recent": 3, "binarize_embeddings": True}, "binarize_embeddings makes every row 1-bit, .* leave one out"),
    ],
)
def test_shapes_that_make_no_network_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        NCFConfig(**changes)
    assert "\n" not in str(caught.value)
