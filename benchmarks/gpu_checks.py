"""What `benchmarks.gpu` checks: a device computes what a CPU does. Each function yields checks as they are done."""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu_scale import Scale, prepared
from data_prep.ratings.sampling import Sampler
from ncf_ppt.device_sampler import DeviceSampler
from ppt_core.batch_norm import BatchNormReLU
from ppt_core.binarize import binarize_activation, binarize_and_rectify, binarize_rows, binarize_weight
from ppt_core.bits.conv import binary_conv2d
from ppt_core.bits.linear import binary_linear
from ppt_core.layers import set_precision
from ppt_core.plan import convert

Check = dict[str, Any]
Function = Callable[..., Tensor | tuple[Tensor, ...]]


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """|found - expected| / |expected| in float64 on a CPU."""
    found, expected = (tensor.detach().cpu().double() for tensor in (found, expected))
    return float((found - expected).norm() / expected.norm().clamp(min=1e-30))


def check_equal(name: str, found: Any, expected: Any, **more: Any) -> Check:
    """Whether two things are the same."""
    return {"row": name, "ok": bool(found == expected), **more}


def check_close(name: str, differences: dict[str, float], bound: float) -> Check:
    """Whether every difference is at most the bound; NaN never is."""
    ok = all(difference <= bound for difference in differences.values())
    return {"row": name, "ok": ok, "bound": bound, **{key: float(f"{d:.3g}") for key, d in differences.items()}}


def sampling(scale: Scale) -> Iterator[Check]:
    """The device draws the processor's samples, bit for bit."""
    sampler = Sampler(interactions=prepared(*scale.shape).train, seed=11)
    on_device = DeviceSampler(sampler, scale.device)
    n = min(sampler.samples_per_epoch, 1 << 20)
    for epoch, start in ((0, 0), (3, sampler.samples_per_epoch - n)):
        found, expected = (s.draw(epoch, start, start + n) for s in (on_device, sampler))
        equal = [bool((f.cpu().numpy() == e).all()) for f, e in zip(found, expected, strict=True)]  # type: ignore[attr-defined]
        yield check_equal(f"samples {start}.. of epoch {epoch}", equal, [True] * 3, n=n)


def outputs_and_gradients(function: Function, tensors: list[Tensor], device: str) -> list[Tensor]:
    """What a function gives for leaves on a device, and what its gradients are for fixed ones of its outputs."""
    leaves = [tensor.to(device).requires_grad_() for tensor in tensors]
    outputs = function(*leaves)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    generator = torch.Generator().manual_seed(1)
    slopes = [torch.randn(output.shape, generator=generator).to(device) for output in outputs]
    grads = torch.autograd.grad(outputs, leaves, slopes, allow_unused=True)
    return [*outputs, *(grad for grad in grads if grad is not None)]


def operators(scale: Scale) -> Iterator[Check]:
    """1-bit forwards are the CPU's bits; what floats are summed to is, too, up to rounding."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    alpha, rows = torch.tensor(1.25), 130 if scale.quick else 4100
    bits = torch.where(normal(rows, 70) > 0, alpha, 0.0)
    images = torch.where(normal(9, 24, 12, 12) > 0, alpha, 0.0)
    weight = 0.7 * normal(33, 70)
    kernel = normal(17, 24, 3, 3)
    edges = torch.tensor([0.0, -0.0, 0.625, 1.25, float("inf"), -1.0, float("nan")])

    def linear(x: Tensor, w: Tensor) -> Tensor:
        return binary_linear(x, w, None, alpha=alpha.to(x.device), scale=torch.tensor(0.5, device=x.device))

    def convolution(x: Tensor, w: Tensor, stride: int = 1) -> Tensor:
        options: dict[str, Any] = {"padding": (1, 1), "dilation": (1, 1), "groups": 1, "stride": (stride, stride)}
        return binary_conv2d(x, w, None, alpha=alpha.to(x.device), scale=torch.tensor(0.5, device=x.device), **options)

    cases: dict[str, tuple[Function, list[Tensor], int]] = {
        "PACT": (binarize_activation, [normal(rows, 64), alpha], 1),
        "PACT at the edges": (lambda x: binarize_activation(x, alpha.to(x.device)), [edges], 1),
        "PACT and ReLU": (binarize_and_rectify, [normal(rows, 64), alpha], 2),
        "sign": (binarize_weight, [torch.cat([normal(rows), edges])], 1),
        "sign by rows": (binarize_rows, [normal(rows, 64)], 0),
        "1-bit linear": (linear, [bits, weight], 1),
        "1-bit convolution": (convolution, [images, kernel], 1),
        "1-bit convolution, stride 2": (lambda x, w: convolution(x, w, 2), [images, kernel], 1),
    }
    for name, (function, tensors, n_exact) in cases.items():
        expected, found = (outputs_and_gradients(function, tensors, device) for device in ("cpu", scale.device))
        exact = [torch.equal(f.cpu(), e) for f, e in zip(found[:n_exact], expected, strict=False)]
        floats = zip(found[n_exact:], expected[n_exact:], strict=True)
        differences = {f"{n}": relative_difference(f.nan_to_num(), e.nan_to_num()) for n, (f, e) in enumerate(floats)}
        bound = 1e-3 if "conv" in name or "rows" in name else 1e-4  # a scale of a row is rounded to float16
        check = check_close(name, differences, bound)
        yield check | {"ok": check["ok"] and all(exact), "exact": exact}
    kinds: list[tuple[Any, bool, torch.dtype]] = [
        *((precision, training, torch.float32) for precision, training in product(("full", "low"), (True, False))),
        ("full", True, torch.bfloat16),
    ]
    for precision, training, dtype in kinds:
        x, slope = normal(rows, 64), normal(rows, 64)
        found_by_device = [batch_norm(device, precision, training, x, slope, dtype) for device in ("cpu", scale.device)]
        pairs = zip(*found_by_device, strict=True)
        differences = {f"{n}": relative_difference(f, e) for n, (e, f) in enumerate(pairs)}
        name = f"BatchNorm and activation, {precision}, {'training' if training else 'evaluation'}, {dtype}"
        # A value next to alpha / 2 may fall on its other side.
        yield check_close(name, differences, 1e-4 if precision == "full" and dtype == torch.float32 else 0.02)


def batch_norm(
    device: str, precision: Any, training: bool, x: Tensor, slope: Tensor, dtype: torch.dtype
) -> list[Tensor]:
    """Output, gradients and running statistics."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 64), BatchNormReLU(64), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    convert(network)
    set_precision(network, precision)
    layer: Any = network[1].train(training).to(device)
    leaf = (3 * x).to(device, dtype).requires_grad_()
    output = layer(leaf)
    output.backward(slope.to(device, output.dtype))
    statistics = [layer.running_mean, layer.running_var] if training else []
    return [output, leaf.grad, layer.weight.grad, layer.bias.grad, *statistics]


def rounding(scale: Scale) -> Iterator[Check]:
    """Under autocast to bf16, 1-bit products are off by no more than two roundings of 8 bits."""
    generator = torch.Generator().manual_seed(2)
    for width in (128, 256, 1024):
        x = torch.randint(2, (64, width), generator=generator).float().to(scale.device)
        weight = torch.randn(64, width, generator=generator).to(scale.device)
        one = torch.ones((), device=scale.device)
        exact = (x.double() @ torch.where(weight > 0, 1.0, -1.0).double().t()).cpu()
        with torch.autocast(torch.device(scale.device).type, dtype=torch.bfloat16):
            found = binary_linear(x, weight, None, alpha=one, scale=0.3 * one).cpu().double()
        error = ((found - 0.3 * exact).abs() / (0.3 * exact).abs().clamp(min=0.3)).max().item()
        yield check_close(f"1-bit linear of {width} inputs under bf16", {"largest": error}, 2 / 256 + 1e-3)
