"""A trained NCF network as an ONNX file: the operations of evaluation, 1-bit ones included, as standard operators."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data_prep.ratings.interactions import PreparedData
from ncf_ppt.model import NCF
from ncf_ppt.networks import Network
from ncf_ppt.serving import served
from ppt_core.batch_norm import BatchNormReLU
from ppt_core.errors import DataError
from ppt_core.json_text import json_text
from ppt_core.layers import BinaryActivation, BinaryLinear, check_finite
from ppt_core.pair_linear import PairLinear
from ppt_core.runs.files import refuse_existing, replaced_file

OPSET = 17
_LARGEST = 2**31 - 2**20  # bytes of a protobuf message
_PAIRS = 4096
TOLERANCE = 1e-5


def export_onnx(model: Network, data: PreparedData, out: Path) -> dict[str, Any]:
    """Write the network as the new file ``out``, and run it beside PyTorch on 4,096 pairs.

    The graph maps int64 ``users`` (n,), or (1,) for one user with all the items, and ``items`` (n,), the numbers of
    rows, to float ``logits`` (n,). The ranges of the numbers stand in the file's doc strings: a negative one is no
    error, since the operator Gather counts it from the end. What row is what original id stands in the file's metadata:
    ``user_ids`` and ``item_ids``, JSON lists. In low precision a 1-bit activation is a comparison with half of alpha, a
    1-bit product multiplies {0, 1} by {-1, +1} and scales afterwards: exact integers, as in PyTorch. Only sums of
    32-bit layers are rounded in another order, so a first-layer sum next to its threshold may decide otherwise.

    Returns:
        ``n_pairs``, ``n_differing`` (by more than 1e-5 * (1 + |logit|)) and ``largest_difference`` of all others.

    Raises `DataError` if ``out`` exists, a library is missing, the file would exceed the format's 2 GB, or more than
    one pair in 200 differs; and ValueError if ``model`` and ``data`` differ in users or items.
    """
    refuse_existing(out)
    onnx, onnxruntime = _import("onnx"), _import("onnxruntime")
    model = served(model)
    if (data.n_users, data.n_items) != _shape(model):
        raise ValueError(f"the network has {_shape(model)} users and items and the data {(data.n_users, data.n_items)}")
    check_finite(model)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            graph = _Graph(onnx)
            logits = _network(graph, model)
            proto = graph.model(logits, n_users=data.n_users, n_items=data.n_items)
            ids = {"user_ids": data.user_ids.tolist(), "item_ids": data.item_ids.tolist()}
            texts = {name: json_text(values, ensure_ascii=False) for name, values in ids.items()}
            onnx.helper.set_model_props(proto, {**texts, "protocol": data.protocol_label})
            n_bytes = proto.ByteSize() if graph.n_bytes < _LARGEST else graph.n_bytes
            if n_bytes >= _LARGEST:
                raise DataError(f"the network takes {n_bytes:,} bytes and an ONNX file holds 2 GB; export embeddings")
            with replaced_file(out, new=True) as partial:
                partial.write_bytes(proto.SerializeToString(deterministic=True))
                session = onnxruntime.InferenceSession(partial, providers=["CPUExecutionProvider"])
                return _compare(session, model, data)
    finally:
        model.train(was_training)


def _import(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise DataError(f"ONNX export needs the package {name}; `pip install 'ppt-ncf[onnx]'` brings it") from None


def _shape(model: NCF) -> tuple[int, int]:
    users, items = model.tables()[:2]
    return users.num_embeddings, items.num_embeddings


def _compare(session: Any, model: NCF, data: PreparedData) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, data.n_users, _PAIRS), rng.integers(0, data.n_items, _PAIRS)
    (found,) = session.run(None, {"users": users, "items": items})
    expected = model(torch.from_numpy(users), torch.from_numpy(items)).numpy()
    differences = np.abs(found - expected)
    differs = ~(differences <= TOLERANCE * (1 + np.abs(expected)))
    if differs.sum() > _PAIRS // 200:
        raise DataError(f"the ONNX graph gives other logits for {differs.sum():,} of {_PAIRS:,} pairs; report it")
    largest = float(differences[~differs].max(initial=0))
    return {"n_pairs": _PAIRS, "n_differing": int(differs.sum()), "largest_difference": largest}


class _Graph:
    """Nodes and constants of a graph that is being built."""

    def __init__(self, onnx: Any) -> None:
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.n_bytes = 0

    def constant(self, name: str, values: Tensor | NDArray[Any]) -> str:
        """Add a constant; return its name."""
        array = np.ascontiguousarray(values.detach().numpy() if isinstance(values, Tensor) else values)
        self.n_bytes += array.nbytes
        self.constants.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; return the name of its output."""
        output = f"{operator}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(operator, inputs, [output], **attributes))
        return output

    def model(self, output: str, *, n_users: int, n_items: int) -> Any:
        """The model of ``users`` and ``items`` whose ``logits`` are ``output`` (n, 1)."""
        helper, kinds = self.onnx.helper, self.onnx.TensorProto
        axes = self.constant("last_axis", np.array([1], np.int64))
        self.nodes.append(helper.make_node("Squeeze", [output, axes], ["logits"]))
        ranges = {
            name: f"{name} are row numbers from 0 to {n - 1}; a negative one would count from the end."
            for name, n in (("users", n_users), ("items", n_items))
        }
        graph = helper.make_graph(
            self.nodes,
            "ncf",
            [
                helper.make_tensor_value_info("users", kinds.INT64, ["users"], doc_string=ranges["users"]),
                helper.make_tensor_value_info("items", kinds.INT64, ["pairs"], doc_string=ranges["items"]),
            ],
            [helper.make_tensor_value_info("logits", kinds.FLOAT, ["pairs"])],
            self.constants,
            doc_string=" ".join(ranges.values()),
        )
        opset = helper.make_opsetid("", OPSET)
        proto = helper.make_model(graph, producer_name="ppt-ncf", opset_imports=[opset], ir_version=8)
        proto.doc_string = graph.doc_string
        self.onnx.checker.check_model(proto)
        return proto


def _network(graph: _Graph, model: NCF) -> str:
    parts = []
    if model.config.model != "mlp":
        user, item = _rows(graph, model, "gmf_user", "users"), _rows(graph, model, "gmf_item", "items")
        parts.append(graph.add("Mul", user, item))
    if model.config.model != "gmf":
        user, item = _rows(graph, model, "mlp_user", "users"), _rows(graph, model, "mlp_item", "items")
        x = _pair_linear(graph, model.first, "first", user, item)
        for number, layer in enumerate(model.mlp):
            x = _hidden(graph, layer, f"mlp.{number}", x)
        parts.append(x)
    if isinstance(model.last, PairLinear):
        return _pair_linear(graph, model.last, "last", *parts)
    return _linear(graph, model.last, "last", *parts)


def _rows(graph: _Graph, model: NCF, name: str, numbers: str) -> str:
    table: Any = model.get_submodule(name)
    return graph.add("Gather", graph.constant(name, table.values()), numbers)


def _pair_linear(graph: _Graph, layer: PairLinear, name: str, x: str, y: str) -> str:
    halves = layer.weight[:, : layer.x_features].t(), layer.weight[:, layer.x_features :].t()
    total = graph.add(
        "Add",
        graph.add("MatMul", x, graph.constant(f"{name}.x_weight", halves[0])),
        graph.add("MatMul", y, graph.constant(f"{name}.y_weight", halves[1])),
    )
    return total if layer.bias is None else graph.add("Add", total, graph.constant(f"{name}.bias", layer.bias))


def _linear(graph: _Graph, layer: nn.Linear, name: str, x: str) -> str:
    product = graph.add("MatMul", x, graph.constant(f"{name}.weight", layer.weight.t()))
    return product if layer.bias is None else graph.add("Add", product, graph.constant(f"{name}.bias", layer.bias))


def _hidden(graph: _Graph, layer: nn.Module, name: str, x: str) -> str:
    """A layer of the MLP; a 1-bit activation gives 0 or 1, and alpha goes into the scale of the product behind it."""
    if isinstance(layer, BinaryLinear) and layer.precision == "low":
        signs = torch.where(layer.weight > 0, 1.0, -1.0)
        product = graph.add("MatMul", x, graph.constant(f"{name}.signs", signs.t()))
        scale = graph.constant(f"{name}.scale", layer.input_activation.alpha * layer.scale)
        scaled = graph.add("Mul", product, scale)
        return scaled if layer.bias is None else graph.add("Add", scaled, graph.constant(f"{name}.bias", layer.bias))
    if isinstance(layer, nn.Linear):
        return _linear(graph, layer, name, x)
    if isinstance(layer, BatchNormReLU):
        factor, shift = layer.folded()
        x = graph.add("Mul", x, graph.constant(f"{name}.factor", factor))
        x = graph.add("Add", x, graph.constant(f"{name}.shift", shift))
    if isinstance(layer, BinaryActivation) and layer.precision == "low":
        is_set = graph.add("Greater", x, graph.constant(f"{name}.threshold", layer.alpha / 2))
        return graph.add("Cast", is_set, to=graph.onnx.TensorProto.FLOAT)
    return graph.add("Relu", x)
