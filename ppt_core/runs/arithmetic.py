"""The number format of the products of 32-bit layers, by the user's word or by what one product takes."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ppt_core.distributed import World
from ppt_core.runs.run import Run

Arithmetic = Literal["fp32", "bf16"]
Wanted = Literal["auto", "fp32", "bf16"]

_WARM_UP = 2
_TURNS = 7
_WORTH_IT = 0.9  # bf16 rounds, so it must save a tenth


@dataclass(frozen=True)
class ArithmeticChoice:
    """What was chosen, and the microseconds of one product by which it was: ``fp32_us`` and ``bf16_us``.

    ``measured`` is empty where there was nothing to choose.
    """

    arithmetic: Arithmetic
    measured: dict[str, float]

    @property
    def record(self) -> dict[str, Any]:
        """What a run's config and result say of the choice beside its outcome."""
        return {"precision_measured": self.measured} if self.measured else {}


def choose_arithmetic(
    wanted: Wanted, device: str, product: Callable[[], Tensor], seconds: Callable[[], float] = time.perf_counter
) -> ArithmeticChoice:
    """Return ``wanted``, or for ``auto`` bf16 where it takes at most nine tenths of the time of fp32 on ``device``.

    ``auto`` looks at speed alone, since NeuMF on MovieLens-1M lost nothing by bf16 at any split (5 seeds, under
    performance in the documentation); of other networks and data this is not known, so compare before you rely on it.
    The product is computed in both formats in turns, some milliseconds in all, and the medians decide. GPUs that only
    emulate bf16 get fp32.

    Args:
        wanted: what the user asks for.
        device: where ``product`` is computed.
        product: computes one product of the network's own shape, of fp32 tensors.
        seconds: the clock.
    """
    if wanted != "auto":
        return ArithmeticChoice(wanted, {})
    kind = torch.device(device).type
    if kind == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return ArithmeticChoice("fp32", {})
    times: dict[bool, list[float]] = {False: [], True: []}
    with torch.inference_mode():
        for turn in range(_WARM_UP + _TURNS):
            for is_bf16, taken in times.items():
                start = seconds()
                with torch.autocast(kind, dtype=torch.bfloat16, enabled=is_bf16):
                    product()
                if kind == "cuda":
                    torch.cuda.synchronize(device)
                if turn >= _WARM_UP:
                    taken.append(seconds() - start)
    fp32, bf16 = (1e6 * statistics.median(times[is_bf16]) for is_bf16 in (False, True))
    return ArithmeticChoice("bf16" if bf16 < _WORTH_IT * fp32 else "fp32", {"fp32_us": fp32, "bf16_us": bf16})


def linear_product(n_rows: int, n_in: int, n_out: int, device: str) -> Callable[[], Tensor]:
    """What a Linear layer computes for ``n_rows`` rows, as a product to be timed."""
    x, weight = torch.ones(n_rows, n_in, device=device), torch.ones(n_out, n_in, device=device)
    return lambda: nn.functional.linear(x, weight)


def convolution_product(network: nn.Module, images: Tensor) -> Callable[[], Tensor]:
    """What the convolution of ``network`` with most multiplications computes for ``images``, as a product to be timed.

    The network sees the images once, in evaluation mode, and is put back into the mode it was in.
    """
    found: list[tuple[int, nn.Conv2d, torch.Size]] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(layer, nn.Conv2d)
        found.append((layer.weight[0].numel() * output.numel(), layer, inputs[0].shape))

    handles = [layer.register_forward_hook(note) for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    was_training = network.training
    try:
        with torch.inference_mode():
            network.eval()(images[:1])
    finally:
        network.train(was_training)
        for handle in handles:
            handle.remove()
    _, layer, (_, *shape) = max(found, key=lambda entry: entry[0])
    x, weight = torch.ones(len(images), *shape, device=images.device), layer.weight.detach()
    return lambda: nn.functional.conv2d(x, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)


def refuse_auto(wanted: Wanted) -> None:
    """Raise ValueError for ``auto`` where several trainings must compute alike, as the trials of a study."""
    if wanted == "auto":
        raise ValueError("arithmetic is 'auto', by which trials of a study could differ; choose fp32 or bf16")


def settle_arithmetic(
    wanted: Wanted, path: Path, world: World, choose: Callable[[], ArithmeticChoice], *, resume: bool
) -> ArithmeticChoice:
    """What the training into the run folder ``path`` computes in, the same in all its processes.

    A resumed run keeps what it was started with, whatever is the faster now.
    """
    if wanted != "auto":
        return ArithmeticChoice(wanted, {})

    def decide() -> list[Any]:
        if resume and (path / "config.json").exists():
            config = Run.open(path).config
            return [config.training.get("arithmetic", "fp32"), config.groups.get("precision_measured", {})]
        choice = choose()
        return [choice.arithmetic, choice.measured]

    return ArithmeticChoice(*world.agree(decide))
