"""The ONNX file against PyTorch, in onnxruntime."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from data_prep.ratings.interactions import PreparedData
from ncf_ppt.export.onnx_file import export_onnx
from ncf_ppt.model import NCF, NCFConfig
from ppt_core.errors import DataError
from ppt_core.layers import BinaryActivation, set_precision
from ppt_core.plan import convert

ONNX = "onnx and onnxruntime are not installed"


def network(data: PreparedData, *, low: bool, **config: Any) -> NCF:
    torch.manual_seed(0)
    model = NCF(data.n_users, data.n_items, NCFConfig(factors=5, layers=(12, 32, 24, 8), **config), seed=0)
    if low:
        convert(model)
        set_precision(model, "low")
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                module.weight.mul_(50)
            elif isinstance(module, BinaryActivation):
                module.alpha.fill_(0.3 + torch.rand(()))
        for _ in range(10):
            model.train()(torch.randint(data.n_users, (256,)), torch.randint(data.n_items, (256,)))
    return model.eval()


@pytest.mark.parametrize(
    ("low", "config"),
    [
        (False, {}),
        (False, {"model": "gmf"}),
        (False, {"model": "mlp", "batch_norm": False}),
        (True, {}),
        (True, {"model": "mlp"}),
        (True, {"batch_norm": False}),
        (True, {"binarize_embeddings": True}),
    ],
    ids=str,
)
def test_onnxruntime_gives_the_same_logits(
    tmp_path: Path, tiny_data: PreparedData, low: bool, config: dict[str, Any]
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason=ONNX)
    model = network(tiny_data, low=low, **config)
    report = export_onnx(model, tiny_data, tmp_path / "a.onnx")
    assert report["n_differing"] <= (1 if low else 0)
    assert report["largest_difference"] <= 1e-5
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
    users, items = np.repeat(np.arange(120), 150), np.tile(np.arange(150), 120)
    (found,) = session.run(None, {"users": users, "items": items})
    with torch.no_grad():
        expected = model(torch.from_numpy(users), torch.from_numpy(items)).numpy()
    assert expected.std() > 0.01
    differs = np.abs(found - expected) > 1e-5
    assert differs.sum() <= (3 if low else 0)
    export_onnx(model, tiny_data, tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    (alone,) = session.run(None, {"users": users[:1], "items": items[:150]})
    np.testing.assert_allclose(alone, found[:150], rtol=0, atol=1e-5)
    assert "items are row numbers from 0 to 149; a negative one" in session.get_modelmeta().description
    assert json.loads(session.get_modelmeta().custom_metadata_map["item_ids"]) == tiny_data.item_ids.tolist()


def test_a_wrong_graph_is_noticed_and_nothing_stays(
    tmp_path: Path, tiny_data: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime", reason=ONNX)
    model = NCF(tiny_data.n_users, tiny_data.n_items, NCFConfig(model="mlp", layers=(4, 1)), seed=0)
    monkeypatch.setattr("ncf_ppt.export.onnx_file._linear", lambda graph, layer, name, x: graph.add("Neg", x))
    with pytest.raises(DataError, match=r"gives other logits for [\d,]+ of 4,096 pairs"):
        export_onnx(model, tiny_data, tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_refusals_are_one_line(tmp_path: Path, tiny_data: PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    model = network(tiny_data, low=False)
    (tmp_path / "exists").touch()
    with pytest.raises(DataError, match="already exists"):
        export_onnx(model, tiny_data, tmp_path / "exists")
    with pytest.raises(ValueError, match=r"the network has \(3, 4\) users and items and the data \(120, 150\)"):
        export_onnx(NCF(3, 4, NCFConfig(), seed=0), tiny_data, tmp_path / "a.onnx")
    monkeypatch.setattr("ncf_ppt.export.onnx_file._LARGEST", 100)
    with pytest.raises(DataError, match="an ONNX file holds 2 GB"):
        export_onnx(model, tiny_data, tmp_path / "a.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DataError, match=r"needs the package onnxruntime; `pip install 'ppt-ncf\[onnx\]'` brings it$"):
        export_onnx(model, tiny_data, tmp_path / "a.onnx")
