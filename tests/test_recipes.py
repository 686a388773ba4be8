from dataclasses import replace

import pytest
import torch
from torch import nn

from ppt_core.layers import set_precision
from ppt_core.plan import convert
from ppt_core.schedule import Constant, Cosine, PhaseSchedule, WarmUp
from vision_ppt.recipes import RECIPES, USUAL_RECIPE, RecipeName
from vision_ppt.resnet import ResNet, ResNetConfig


def he_et_al(epoch: float) -> float:
    return 0.1 if epoch < 91 else 0.01 if epoch < 136.5 else 0.001


def goyal_et_al(epoch: float) -> float:
    if epoch < 5:
        return 0.4 * epoch / 5
    return 0.4 if epoch < 30 else 0.04 if epoch < 60 else 0.004 if epoch < 80 else 0.0004


@pytest.mark.parametrize(
    ("name", "epochs", "batch_size", "n_images", "expected"),
    [("cifar", 182, 128, 50_000, he_et_al), ("imagenet", 90, 1024, 1_281_167, goyal_et_al)],
)
def test_learning_rate_of_each_epoch(
    name: RecipeName, epochs: int, batch_size: int, n_images: int, expected: object
) -> None:
    assert callable(expected)
    recipe = RECIPES[name]
    assert (recipe.epochs, recipe.batch_size) == (epochs, batch_size)
    per_epoch = -(-n_images // batch_size)
    schedule = PhaseSchedule.split(epochs * per_epoch, 1.0, recipe.schedule())
    for epoch in range(epochs):
        for step in (0, 1, per_epoch // 2, per_epoch - 1):
            found = schedule.at(epoch * per_epoch + step)[1]
            assert found == pytest.approx(expected(epoch + step / per_epoch)), (epoch, step)


def test_the_whole_schedule_is_compressed_into_each_phase() -> None:
    schedule = PhaseSchedule.split(360, 0.5, RECIPES["imagenet"].schedule())
    for first in (0, 180):  # 180 iterations stand for 90 epochs
        for iteration in range(180):
            assert schedule.at(first + iteration)[1] == pytest.approx(goyal_et_al(iteration / 2))


def test_values_of_the_sources() -> None:
    for recipe in RECIPES.values():
        assert (recipe.momentum, recipe.weight_decay) == (0.9, 1e-4)
    assert USUAL_RECIPE == {"resnet20": "cifar", "vgg16": "cifar", "resnet34": "imagenet"}
    assert [recipe.decays_batch_norm for recipe in RECIPES.values()] == [True, False]
    assert replace(RECIPES["cifar"], batch_size=32).epochs == 182


def test_another_annealing_keeps_the_warm_up() -> None:
    assert replace(RECIPES["cifar"], annealing="cosine").schedule() == Cosine(0.1)
    constant = replace(RECIPES["imagenet"], annealing="constant", learning_rate=0.2).schedule()
    assert constant == WarmUp(Constant(0.2), fraction=5 / 90)


@pytest.mark.parametrize("decays_batch_norm", [True, False])
def test_the_optimizer_does_momentum_and_decays_what_it_should(decays_batch_norm: bool) -> None:
    recipe = replace(RECIPES["cifar"], decays_batch_norm=decays_batch_norm)
    model = ResNet(ResNetConfig(blocks=(1, 1), width=4), seed=0)
    convert(model)
    set_precision(model, "low")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = recipe.make_optimizer(model)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    optimizer.step()
    normalized = {f"{n}.{k}" for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d) for k in m._parameters}
    assert len(before) == 1 + 4 + 2 * 5 + 4 + 2
    for name, p in model.named_parameters():
        decay = 0 if name.endswith("alpha") or (name in normalized and not decays_batch_norm) else 1e-4
        value = before[name]
        first = 1 + decay * value
        second = 0.9 * first + 1 + decay * (value - 0.1 * first)
        torch.testing.assert_close(p.detach(), value - 0.1 * first - 0.1 * second)


def test_the_optimizer_of_a_full_precision_model_has_every_parameter() -> None:
    model = ResNet(ResNetConfig(blocks=(1,), width=4), seed=0)
    optimizer = RECIPES["cifar"].make_optimizer(model)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
