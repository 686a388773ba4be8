"""A packed ResNet-20, the whole network, against the same network at 32 and 8 bits: images/s and the time of one image.

    python -m benchmarks.packed_images --turns 15

Images are normalized floats of CIFAR's shape, weights are random. The rows take turns, and a ratio is the median of the
ratios within a turn. On one thread seconds are those of the processor, which programs beside do not lengthen by taking
turns with it; on a quiet machine they are those of the clock.

  pytorch              the network as it was trained, in evaluation
  pytorch folded       BatchNorm folded into the convolutions, channels last
  onnxruntime          the folded network as an ONNX graph in ONNX Runtime
  onnxruntime int8     that graph quantized by ONNX Runtime's own tool: static, 8 bits, weights by channel
  packed               the network in low precision, packed, as `ppt-vision evaluate FILE` runs it
"""

import os

from benchmarks.provenance import document
from ppt_core.environment import ENVIRONMENT

os.environ.update({**ENVIRONMENT, **os.environ})

import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import fusion

from ppt_core.layers import set_precision
from ppt_core.plan import convert
from vision_ppt.packed.packing import pack
from vision_ppt.resnet import ResNet, resnet20

Images = NDArray[np.float32]
Call = Callable[[Images], Any]


def random_network(*, low: bool) -> ResNet:
    """ResNet-20 with random weights and the statistics of random images; the same latent weights in both precisions."""
    network = ResNet(resnet20(), seed=0)
    if low:
        convert(network)
        set_precision(network, "low")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(20):
            network.train()(torch.randn(16, 3, 32, 32, generator=generator))
    return network.eval().requires_grad_(False)


def fold(network: ResNet) -> ResNet:
    """A copy with BatchNorm folded into the convolutions before it."""
    folded = copy.deepcopy(network)
    parts: list[tuple[nn.Module, str, str]] = [(folded.stem, "0", "1")]
    for block in (block for stage in folded.stages for block in stage):  # type: ignore[attr-defined]
        parts += [(block, "conv1", "bn1"), (block, "conv2", "bn2")]
    for owner, convolution, norm in parts:
        layers: tuple[Any, Any] = owner.get_submodule(convolution), owner.get_submodule(norm)
        owner.add_module(convolution, fusion.fuse_conv_bn_eval(*layers))
        owner.add_module(norm, nn.Identity())
    return folded


def onnx_graph(folded: ResNet) -> Any:
    """The folded network as an ONNX model of any batch size."""
    from onnx import TensorProto, helper, numpy_helper

    nodes: list[Any] = []
    constants: list[Any] = []

    def constant(values: Any) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(values), f"c{len(constants)}"))
        return str(constants[-1].name)

    def node(kind: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, list(inputs), [f"t{len(nodes)}"], **attributes))
        return str(nodes[-1].output[0])

    def convolution(x: str, layer: Any) -> str:
        weights = (constant(tensor.detach().numpy()) for tensor in (layer.weight, layer.bias))
        return node("Conv", x, *weights, strides=list(layer.stride), pads=[1, 1, 1, 1], kernel_shape=[3, 3])

    x = convolution("images", folded.stem[0])
    for block in (block for stage in folded.stages for block in stage):  # type: ignore[attr-defined]
        kept = node("Relu", x)
        residual = convolution(node("Relu", convolution(kept, block.conv1)), block.conv2)
        if len(block.shortcut):
            wide, step = block.shortcut[0].n_added, block.shortcut[0].stride
            ends = (constant(np.array(v)) for v in ([0, 0], [1 << 30, 1 << 30], [2, 3], [step, step]))
            kept = node("Pad", node("Slice", kept, *ends), constant(np.array([0, 0, 0, 0, 0, wide, 0, 0])))
        x = node("Add", residual, kept)
    pooled = node("Flatten", node("GlobalAveragePool", node("Relu", x)))
    weight, bias = (constant(tensor.detach().numpy()) for tensor in (folded.last.weight, folded.last.bias))
    nodes.append(helper.make_node("Gemm", [pooled, weight, bias], ["logits"], transB=1))
    tensors = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *shape])
        for name, shape in (("images", (3, 32, 32)), ("logits", (folded.config.n_classes,)))
    ]
    graph = helper.make_graph(nodes, "resnet20", tensors[:1], tensors[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def quantized(model: Any) -> bytes:
    """The model in 8 bits, calibrated by random images."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Calibration(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            generator = np.random.default_rng(0)
            self.batches = iter([generator.normal(size=(8, 3, 32, 32)).astype(np.float32) for _ in range(8)])

        def get_next(self) -> dict[str, Images] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch}

    with tempfile.TemporaryDirectory() as folder:
        source, prepared, target = (Path(folder) / name for name in ("a.onnx", "b.onnx", "c.onnx"))
        onnx.save(model, source)
        quant_pre_process(str(source), str(prepared))
        kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
        quantize_static(
            str(prepared), str(target), Calibration(), quant_format=QuantFormat.QDQ, per_channel=True, **kinds
        )
        return target.read_bytes()


def onnx_runtime(model: bytes, threads: int) -> Call:
    """The model in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})[0]


def calls(threads: int) -> dict[str, Call]:
    """What is compared: images in, logits out."""
    network = random_network(low=False)
    folded = fold(network)
    model = onnx_graph(folded)
    last = folded.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    packed = pack(random_network(low=True))

    def channels_last(images: Images) -> Tensor:
        return last(torch.from_numpy(images).contiguous(memory_format=torch.channels_last))  # type: ignore[no-any-return]

    return {
        "pytorch": lambda images: network(torch.from_numpy(images)),
        "pytorch folded": channels_last,
        "onnxruntime": onnx_runtime(model.SerializeToString(), threads),
        "onnxruntime int8": onnx_runtime(quantized(model), threads),
        "packed": lambda images: packed(torch.from_numpy(images)),
    }


def refuse_differences(compared: dict[str, Call], images: Images) -> None:
    """Raise ValueError if the forms at 32 bits differ: then something else would be timed."""
    expected = compared["pytorch"](images)
    for name in ("pytorch folded", "onnxruntime"):
        if not np.allclose(compared[name](images), expected, rtol=1e-3, atol=1e-3):
            raise ValueError(f"{name} gives other logits than pytorch")


@click.command()
@click.option("--turns", default=15, show_default=True)
@click.option("--batch-sizes", default="1,64", show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--milliseconds", default=40.0, show_default=True, help="What a row takes of each turn, at least.")
@click.option("--json", "as_json", is_flag=True)
@torch.inference_mode()
def main(turns: int, batch_sizes: str, threads: int, milliseconds: float, as_json: bool) -> None:
    """Measure and print the table."""
    torch.set_num_threads(threads)
    numba.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    compared = calls(threads)
    results: list[dict[str, Any]] = []
    for batch_size in map(int, batch_sizes.split(",")):
        images = np.random.default_rng(0).normal(size=(batch_size, 3, 32, 32)).astype(np.float32)
        refuse_differences(compared, images)
        times: dict[str, list[float]] = {name: [] for name in compared}
        for turn in range(turns + 1):
            for name, call in compared.items():
                taken: list[float] = []
                while sum(taken) < milliseconds / 1e3 or len(taken) < 3:
                    start = clock()
                    call(images)
                    taken.append(clock() - start)
                if turn:
                    times[name].append(statistics.median(taken))
        ratios = {
            name: statistics.median(other / ours for other, ours in zip(values, times["packed"], strict=True))
            for name, values in times.items()
        }
        results += [
            {
                "row": name,
                "batch_size": batch_size,
                "threads": threads,
                "microseconds": 1e6 * statistics.median(values),
                "images_per_second": batch_size / statistics.median(values),
                "packed_is_faster": ratios[name],
            }
            for name, values in times.items()
        ]
    if as_json:
        return click.echo(document(results))
    click.echo("| row | batch | us a call | images/s | packed is faster |\n|---|---|---|---|---|")
    for row in results:
        texts = (f"{row['microseconds']:,.0f}", f"{row['images_per_second']:,.0f}", f"{row['packed_is_faster']:.2f}")
        click.echo(f"| {row['row']} | {row['batch_size']} | {' | '.join(texts)} |")


if __name__ == "__main__":
    main()
