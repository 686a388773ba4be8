import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ppt_core.batch_norm import BatchNormReLU
from ppt_core.errors import DataError
from ppt_core.layers import BinaryActivation, BinaryConv2d, BinaryLinear, ForkedReLU, set_precision
from ppt_core.packed.conv import PackedProducts2d
from ppt_core.packed.linear import pack_linear
from ppt_core.plan import BinarizationPlan, PlannedLayer, convert, plan_binarization


class OddOrder(nn.Module):
    """Defined from the last layer to the first, and called the other way round."""

    def __init__(self) -> None:
        super().__init__()
        self.layer_d = nn.Linear(5, 1)
        self.layer_c = nn.Linear(5, 5)
        self.layer_b = nn.Linear(5, 5)
        self.layer_a = nn.Linear(4, 5)
        self.relu_c, self.relu_b, self.relu_a = nn.ReLU(), nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu_a(self.layer_a(x))
        x = self.relu_b(self.layer_b(x))
        x = self.relu_c(self.layer_c(x))
        return self.layer_d(x)  # type: ignore[no-any-return]


class Residual(nn.Module):
    """Two blocks of He et al. 2016 (figure 5, left): the second halves the image and has a projection shortcut."""

    def __init__(self, inplace: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.stem_norm, self.stem_relu = nn.BatchNorm2d(4), nn.ReLU(inplace=inplace)
        self.conv1, self.norm1 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.relu1 = nn.ReLU(inplace=inplace)
        self.conv2, self.norm2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.relu2 = nn.ReLU(inplace=inplace)
        self.shortcut = nn.Sequential(nn.Conv2d(4, 8, 1, stride=2, bias=False), nn.BatchNorm2d(8))
        self.conv3, self.norm3 = nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8)
        self.relu3 = nn.ReLU(inplace=inplace)
        self.conv4, self.norm4 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.relu4 = nn.ReLU(inplace=inplace)
        self.pool, self.classify = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem_relu(self.stem_norm(self.stem(x)))
        y = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x)))))
        x = self.relu2(x + y)
        y = self.norm4(self.conv4(self.relu3(self.norm3(self.conv3(x)))))
        y += self.shortcut(x)
        x = self.relu4(y)
        return self.classify(torch.flatten(self.pool(x), 1))  # type: ignore[no-any-return]


class Function(nn.Module):
    """Linear layers, activations and whatever a test puts between them."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.first, self.relu, self.hidden = nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)
        self.relu2, self.last = nn.ReLU(), nn.Linear(4, 1)
        for name, module in modules.items():
            self.add_module(name, module)
        self._forward = forward

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)


def mlp(*between: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), *between, nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))


def one_bit(plan: BinarizationPlan) -> dict[str, str | None]:
    """The layers that become 1-bit, each with what feeds it."""
    return {entry.name: entry.input_activation for entry in plan.layers if entry.binarize}


def reason(plan: BinarizationPlan, name: str) -> str:
    (entry,) = [entry for entry in plan.layers if entry.name == name]
    return entry.reason


def binarized(model: nn.Module) -> set[str]:
    kinds = (BinaryActivation, BinaryLinear, BinaryConv2d)
    return {name for name, module in model.named_modules() if isinstance(module, kinds)}


def test_first_and_last_are_found_by_execution_order() -> None:
    model = OddOrder()
    plan = plan_binarization(model)
    order = ["layer_a", "relu_a", "layer_b", "relu_b", "layer_c", "relu_c", "layer_d"]
    assert [entry.name for entry in plan.layers] == order
    assert one_bit(plan) == {"relu_a": None, "layer_b": "relu_a", "relu_b": None, "layer_c": "relu_b"}
    assert (reason(plan, "layer_a"), reason(plan, "layer_d")) == ("first layer", "last layer")


def test_planning_changes_nothing() -> None:
    model = OddOrder()
    kinds = [type(module) for module in model.modules()]
    keys = list(model.state_dict())
    plan_binarization(model)
    assert [type(module) for module in model.modules()] == kinds
    assert list(model.state_dict()) == keys
    assert model.training


@pytest.mark.parametrize("inplace", [True, False])
def test_residual_network(inplace: bool) -> None:
    model = Residual(inplace)
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = model.eval()(x)
    plan = convert(model)
    assert one_bit(plan) == {
        "stem_relu": None, "conv1": "stem_relu", "relu1": None, "conv2": "relu1",
        "relu2": None, "conv3": "relu2", "relu3": None, "conv4": "relu3",
    }  # fmt: skip
    assert reason(plan, "shortcut.0") == "projection shortcut"
    assert reason(plan, "relu4") == "feeds no 1-bit layer"
    assert binarized(model) == set(one_bit(plan))
    assert torch.equal(model(x), expected)
    set_precision(model, "low")
    assert not torch.allclose(model(x), expected)


class ForkedResidual(Residual):
    """The same network, with an output of its own for whoever reads real numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem_relu, self.relu2 = ForkedReLU(), ForkedReLU()  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        bits, real = self.stem_relu(self.stem_norm(self.stem(x)))
        y = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(bits)))))
        bits, real = self.relu2(real + y)
        y = self.norm4(self.conv4(self.relu3(self.norm3(self.conv3(bits)))))
        x = self.relu4(y + self.shortcut(real))
        return self.classify(torch.flatten(self.pool(x), 1))  # type: ignore[no-any-return]


class Permuted(nn.Module):
    """Its columns change places by a buffer, which a graph has as an indexing by two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.hidden, self.hidden2, self.last = (nn.Linear(6, n) for n in (6, 6, 6, 1))
        self.relu, self.relu2, self.relu3 = nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.register_buffer("order", torch.randperm(6))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.relu(self.first(x))[:, self.order]
        hidden = self.relu2(self.hidden(hidden))
        return self.last(self.relu3(self.hidden2(hidden)))  # type: ignore[no-any-return]


def test_an_index_that_is_a_tensor_is_no_fork() -> None:
    plan = plan_binarization(Permuted())
    assert reason(plan, "hidden") == "its input is real-valued: not the output of a ReLU module"
    assert reason(plan, "hidden2") == "its input is relu2, 1 bit"


def test_shortcuts_read_real_numbers() -> None:
    images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    model, forked = Residual(), ForkedResidual()
    forked.load_state_dict(model.state_dict())
    plan = convert(model)
    assert reason(plan, "stem_relu") == "feeds a 1-bit layer, and gives real values to add"
    assert reason(plan, "relu2") == "feeds a 1-bit layer, and gives real values to shortcut.0"
    assert reason(plan, "relu1") == reason(plan, "relu3") == "feeds a 1-bit layer"
    assert [entry.reason for entry in convert(forked).layers if entry.binarize][:1] == [
        "feeds a 1-bit layer; its shortcut reads real numbers"
    ]
    outputs, seen = [], []
    for each in (model, forked):
        set_precision(each, "low")
        for module in each.modules():
            if isinstance(module, BinaryActivation):
                torch.nn.init.constant_(module.alpha, 0.7)
        each.shortcut.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        outputs.append(each(images))
        outputs[-1].square().sum().backward()
    assert len(set(seen[0].flatten().tolist())) > 100
    assert torch.equal(*seen)
    assert torch.equal(*outputs)
    expected = dict(forked.named_parameters())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-5, atol=1e-6)


def test_other_readers_have_names() -> None:
    def forward(model: Function, x: Tensor) -> Tensor:
        x = model.relu(model.first(x))
        head = model.get_submodule("head")(x.view(x.size(0), x.shape[1]))
        y = model.relu2(model.hidden(x) + 2 * x + torch.tanh(x.view(-1, 4)) + x.exp())
        return model.last(y), head, x  # type: ignore[return-value]

    model = Function(forward, head=DoubledLinear(4, 1))
    plan = convert(model)
    assert one_bit(plan) == {"relu": None, "hidden": "relu"}
    assert reason(plan, "relu") == "feeds a 1-bit layer, and gives real values to head, mul, tanh, exp, the output"
    set_precision(model, "low")
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(x)[2], model.first(x).relu())


def test_an_edited_plan_gives_real_numbers_to_what_keeps_32_bits() -> None:
    def forward(model: Function, x: Tensor) -> Tensor:
        x = model.relu(model.first(x))
        return model.last(model.relu2(model.hidden(x) + model.get_submodule("second")(x)))  # type: ignore[no-any-return]

    model = Function(forward, second=nn.Linear(4, 4))
    convert(model, edit(plan_binarization(model), second=False))
    set_precision(model, "low")
    seen: list[Tensor] = []
    model.get_submodule("second").register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(torch.randn(50, 4, generator=torch.Generator().manual_seed(0)))
    assert len(set(seen[0].flatten().tolist())) > 50


def test_fused_activation_with_another_reader() -> None:
    def forward(model: Function, x: Tensor) -> Tensor:
        x = model.relu(model.first(x))
        return model.last(model.relu2(model.hidden(x)) + x)  # type: ignore[no-any-return]

    model = Function(forward, relu=BatchNormReLU(4))
    assert reason(convert(model), "relu") == "feeds a 1-bit layer, and gives real values to add"
    set_precision(model, "low")
    x = 3 * torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    model.eval()
    real = (model.first(x) / (1 + 1e-5) ** 0.5).relu()
    bits = torch.where(real > 1.5, 3.0, 0.0)
    assert 0 < bits.count_nonzero() < bits.numel()
    product = bits @ model.hidden.weight.sign().T * model.hidden.get_buffer("scale")
    expected = model.last(model.relu2(product + model.hidden.bias) + real)
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("layer", [nn.Linear(4, 4), nn.Conv2d(4, 4, 1)])
def test_what_others_read_is_not_packed(layer: nn.Module) -> None:
    def forward(model: nn.Module, x: Tensor) -> Tensor:
        x = model.relu(model.first(x))  # type: ignore[operator]
        return model.last(model.relu2(model.hidden(x) + x))  # type: ignore[operator, no-any-return]

    first, last = copy.deepcopy(layer), copy.deepcopy(layer)
    model = Function(forward, first=first, hidden=layer, last=last)
    convert(model)
    set_precision(model, "low")
    packed = (
        functools.partial(pack_linear, activation=model.relu2) if isinstance(layer, nn.Linear) else PackedProducts2d
    )
    with pytest.raises(DataError, match=r"^the input of layer hidden is read as real numbers by other layers, too"):
        packed(layer, name="hidden")  # type: ignore[arg-type]


def test_table() -> None:
    assert str(plan_binarization(nn.Sequential(nn.Embedding(9, 4), mlp(), nn.Flatten()))) == "\n".join(
        [
            "layer  kind       bits  why",
            "0      Embedding  32    embedding",
            "1.0    Linear     32    first layer",
            "1.1    ReLU       1     feeds a 1-bit layer",
            "1.2    Linear     1     its input is 1.1, 1 bit",
            "1.3    ReLU       32    feeds no 1-bit layer",
            "1.4    Linear     32    last layer",
        ]
    )


def test_table_of_other_reasons() -> None:
    lines = [line.rstrip() for line in str(plan_binarization(Residual())).splitlines()]
    assert lines[0] == "layer       kind    bits  why"
    assert "shortcut.0  Conv2d  32    projection shortcut" in lines
    assert "conv4       Conv2d  1     its input is relu3, 1 bit" in lines


@pytest.mark.parametrize("between", [nn.Flatten(), nn.Identity()])
def test_modules_that_only_rearrange_bits(between: nn.Module) -> None:
    assert one_bit(plan_binarization(mlp(between))) == {"1": None, "3": "1"}


@pytest.mark.parametrize(
    "rearrange",
    [
        lambda x: torch.flatten(x, 1),
        lambda x: x.flatten(1),
        lambda x: x.view(x.size(0), -1),
        lambda x: x.reshape(x.shape[0], 4),
    ],
)
def test_calls_that_only_rearrange_bits(rearrange: Callable[[Tensor], Tensor]) -> None:
    model = Function(lambda m, x: m.last(m.relu2(m.hidden(rearrange(m.relu(m.first(x)))))))
    assert one_bit(plan_binarization(model)) == {"relu": None, "hidden": "relu"}


def test_pooled_image() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(3, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2),
    )  # fmt: skip
    assert one_bit(plan_binarization(model)) == {"2": None, "4": "2", "5": None, "8": "5"}
    convert(model)
    set_precision(model, "low")
    assert model(torch.randn(2, 1, 14, 14)).shape == (2, 2)


@pytest.mark.parametrize(
    "between",
    [
        lambda m, x: m.norm(m.relu(m.first(x))),
        lambda m, x: m.relu(m.first(x)) + x,
        lambda m, x: 2 * m.relu(m.first(x)),
        lambda m, x: F.relu(m.first(x)),
        lambda m, x: m.gelu(m.first(x)),
        lambda m, x: m.relu6(m.first(x)),
        lambda m, x: m.dropout(m.relu(m.first(x))),
        lambda m, x: m.first(x),
    ],
)
def test_real_valued_inputs_keep_32_bits(between: Callable[[Any, Tensor], Tensor]) -> None:
    model = Function(
        lambda m, x: m.last(m.second(m.relu2(m.hidden(between(m, x))))),
        norm=nn.BatchNorm1d(4), gelu=nn.GELU(), relu6=nn.ReLU6(), dropout=nn.Dropout(), second=nn.Linear(4, 4),
    )  # fmt: skip
    plan = plan_binarization(model)
    assert one_bit(plan) == {"relu2": None, "second": "relu2"}
    assert reason(plan, "hidden") == "its input is real-valued: not the output of a ReLU module"


def test_one_activation_for_two_layers() -> None:
    def forward(model: Function, x: Tensor) -> Tensor:
        bits = model.relu(model.first(x))
        return model.last(model.hidden(bits) + model.get_submodule("second")(bits))  # type: ignore[no-any-return]

    model = Function(forward, second=nn.Linear(4, 4))
    assert one_bit(plan_binarization(model)) == {"relu": None, "hidden": "relu", "second": "relu"}
    convert(model)
    for layer in (model.get_submodule("hidden"), model.get_submodule("second")):
        assert isinstance(layer, BinaryLinear)
        assert layer.input_activation is model.get_submodule("relu")


def test_fused_activation() -> None:
    model = nn.Sequential(nn.Linear(4, 4), BatchNormReLU(4), nn.Linear(4, 4), BatchNormReLU(4), nn.Linear(4, 1))
    plan = convert(model)
    assert one_bit(plan) == {"1": None, "2": "1"}
    assert [entry.kind for entry in plan.layers] == ["Linear", "BatchNormReLU", "Linear", "BatchNormReLU", "Linear"]


class DoubledLinear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class ShiftedReLU(nn.ReLU):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input - 1)


def test_layers_with_a_forward_of_their_own_are_left_alone() -> None:
    model = nn.Sequential(
        DoubledLinear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), DoubledLinear(4, 4), ShiftedReLU(),
        nn.Linear(4, 4), nn.ReLU(), nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.ReLU(), nn.Linear(4, 1),
    )  # fmt: skip
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    expected = model(x)
    plan = convert(model)
    assert one_bit(plan) == {"1": None, "2": "1"}
    assert reason(plan, "0") == "first layer"
    assert reason(plan, "4") == "a class of its own: DoubledLinear is not binarized"
    assert reason(plan, "6") == "its input is real-valued: not the output of a ReLU module"
    assert torch.equal(model(x), expected)


def edit(plan: BinarizationPlan, **changes: bool) -> BinarizationPlan:
    names = {name.removeprefix("n"): binarize for name, binarize in changes.items()}
    return BinarizationPlan(tuple(dataclasses.replace(e, binarize=names.get(e.name, e.binarize)) for e in plan.layers))


def test_edited_plan() -> None:
    model = OddOrder()
    plan = edit(plan_binarization(model), layer_b=False, relu_a=False)
    assert convert(model, plan) is plan
    assert binarized(model) == {"relu_b", "layer_c"}


@pytest.mark.parametrize("change", [{"layer_a": True}, {"relu_c": True}, {"relu_a": False}])
def test_plan_that_does_not_fit_changes_nothing(change: dict[str, bool]) -> None:
    model = OddOrder()
    with pytest.raises(
        ValueError, match=r"^the plan binarizes \w+, which cannot be 1-bit or whose input keeps 32 bits"
    ):
        convert(model, edit(plan_binarization(model), **change))
    assert binarized(model) == set()


def test_plan_of_another_model() -> None:
    other = BinarizationPlan((PlannedLayer(name="x", kind="ReLU", binarize=True, reason=""),))
    with pytest.raises(ValueError, match=r"^the plan binarizes x, which cannot be 1-bit"):
        convert(OddOrder(), other)


# Models that cannot be planned: one line that says what and what to do


def message(model: nn.Module, plan: BinarizationPlan | None = None) -> str:
    before = {name: type(module) for name, module in model.named_modules()}
    with pytest.raises(ValueError, match=r".+") as raised:
        convert(model, plan)
    assert {name: type(module) for name, module in model.named_modules()} == before
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_converted_twice() -> None:
    model = mlp()
    plan = convert(model)
    alpha = model.get_parameter("1.alpha")
    expected = "the model was converted before; convert a model once and switch it with set_precision"
    assert message(model) == expected
    assert message(model, plan) == expected
    assert model.get_parameter("1.alpha") is alpha


def test_shared_activation() -> None:
    relu = nn.ReLU()
    model = nn.Sequential(nn.Linear(4, 4), relu, nn.Linear(4, 4), relu, nn.Linear(4, 4), relu, nn.Linear(4, 1))
    assert message(model) == (
        "1 is called 3 times in one forward pass, and each place needs a state of its own; "
        "give every place its own module"
    )


def test_shared_layer() -> None:
    model = Function(lambda m, x: m.last(m.relu2(m.hidden(m.relu(m.hidden(m.first(x)))))))
    assert message(model).startswith("hidden is called 2 times in one forward pass")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_diverged(value: float) -> None:
    model = mlp()
    with torch.no_grad():
        model.get_parameter("4.bias")[0] = value
    assert message(model) == (
        "parameter 4.bias holds values that are not finite, so it cannot be binarized; "
        "training has diverged: lower the learning rate"
    )


@pytest.mark.parametrize(
    "model",
    [
        nn.Linear(4, 1),
        nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1)),
        nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1)),
        nn.Sequential(nn.ReLU()),
        Function(lambda m, x: m.last(m.hidden(F.relu(m.first(x))))),
    ],
)
def test_nothing_to_binarize(model: nn.Module) -> None:
    assert message(model) == (
        "the model has nothing to binarize: no Linear or Conv2d between its first and its last layer "
        "takes the output of a ReLU module"
    )


def test_untraceable() -> None:
    assert message(Function(lambda m, x: m.first(x) if x.sum() > 0 else x)) == (
        "the forward pass of Function cannot be traced (symbolically traced variables cannot be used as inputs to "
        "control flow); its control flow must not depend on its inputs"
    )

    def fail(model: Function, x: Tensor) -> Tensor:
        raise RuntimeError("two\n  lines")

    assert message(Function(fail)).startswith("the forward pass of Function cannot be traced (two lines); ")


@pytest.mark.parametrize("name", ["add", "add_"])
def test_a_sum_written_as_a_method_is_one_too(name: str) -> None:
    class Shortcut(Residual):
        def forward(self, x: Tensor) -> Tensor:
            x = self.stem_relu(self.stem_norm(self.stem(x)))
            y = self.norm4(self.conv4(self.relu3(self.norm3(self.conv3(x)))))
            x = self.relu4(getattr(y, name)(self.shortcut(x)))
            return self.classify(torch.flatten(self.pool(x), 1))  # type: ignore[no-any-return]

    assert reason(plan_binarization(Shortcut()), "shortcut.0") == "projection shortcut"


def test_a_fork_gives_bits_to_the_branch_alone() -> None:
    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.branch, self.shortcut = nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(5, 6)
            self.relu, self.last = ForkedReLU(), nn.Linear(6, 1)

        def forward(self, x: Tensor) -> Tensor:
            bits, real = self.relu(self.first(x))
            return self.last(self.branch(bits) + self.shortcut(real))  # type: ignore[no-any-return]

    model = Forked()
    x = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    expected = model(x)
    plan = convert(model)
    assert one_bit(plan) == {"relu": None, "branch": "relu"}
    assert reason(plan, "shortcut") == "its input is real-valued: not the output of a ReLU module"
    assert torch.equal(model(x), expected)
    set_precision(model, "low")
    with torch.no_grad():
        model.relu.alpha.fill_(0.5)  # type: ignore[operator]
        hidden = model.first(x)
        bits = (hidden > 0.25) * 0.5
        assert torch.equal(model(x), model.last(model.branch(bits) + model.shortcut(hidden.relu())))
