import copy
import json
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ppt_core.errors import DataError
from ppt_core.layers import alpha_penalty, set_precision
from ppt_core.plan import convert
from ppt_core.runs import checkpoint
from ppt_core.runs.checkpoint import load_tensors, open_tensors, restore_training_state, save_tensors, training_state
from ppt_core.runs.files import NO_DIGEST, seal

METADATA = {"iteration": 7, "seconds": [0.1, 1e-300], "sha256": NO_DIGEST, "name": "Amélie"}


def tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 3, 4, 5, generator=generator)
    return {
        "scalar": torch.tensor(3.0, requires_grad=True),
        "empty": torch.empty(0, 4),
        "double": torch.tensor([1e-300, -0.0, float("inf"), float("nan")], dtype=torch.float64),
        "half": torch.tensor([1.5, -2.5], dtype=torch.bfloat16),
        "count": torch.tensor(2**40),
        "flags": torch.tensor([True, False]),
        "transposed": torch.arange(6.0).reshape(2, 3).t(),
        "channels_last": image.contiguous(memory_format=torch.channels_last),
        "zeros": torch.full((128,), ord("0"), dtype=torch.uint8),  # its bytes look like an empty digest
    }


def one_line(raised: pytest.ExceptionInfo[DataError]) -> str:
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_tensors_come_back(tmp_path: Path) -> None:
    save_tensors(tmp_path / "a", tensors(), METADATA)
    found, metadata = load_tensors(tmp_path / "a")
    assert metadata == METADATA
    assert found.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert not found[name].requires_grad
        torch.testing.assert_close(found[name], tensor.detach(), rtol=0, atol=0, equal_nan=True)


def test_bytes_depend_on_the_content_alone(tmp_path: Path) -> None:
    save_tensors(tmp_path / "a", tensors(), METADATA)
    save_tensors(tmp_path / "b", dict(reversed(tensors().items())), copy.deepcopy(METADATA))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    save_tensors(tmp_path / "c", tensors() | {"scalar": torch.tensor(3.1)}, METADATA)
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()


def test_any_safetensors_reader_opens_it(tmp_path: Path) -> None:
    save_tensors(tmp_path / "a.safetensors", tensors(), METADATA)
    found = safetensors.torch.load_file(tmp_path / "a.safetensors")
    assert found["transposed"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_bytes_are_those_of_safetensors(tmp_path: Path) -> None:
    integers = [torch.uint64, torch.uint32, torch.int32, torch.uint16, torch.int16, torch.int8]
    others = {f"a {dtype}": torch.arange(3).to(dtype) for dtype in integers}
    others |= {
        '"quoted" \\ \t ö': torch.ones(1),
        "float16": torch.ones(3, dtype=torch.float16),
        "b": torch.ones(2, 0, 3),
    }
    everything = tensors() | others
    save_tensors(tmp_path / "a", everything, METADATA)
    document = {"format_version": 1, "sha256": NO_DIGEST, "metadata": METADATA}
    contiguous = {name: tensor.detach().contiguous() for name, tensor in everything.items()}
    assert (tmp_path / "a").read_bytes() == seal(safetensors.torch.save(contiguous, {"ppt": json.dumps(document)}))


def test_dtype_that_no_file_holds(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^tensor x is torch.complex64, which no tensor file holds; convert it"):
        save_tensors(tmp_path / "a", {"x": torch.ones(1, dtype=torch.complex64)}, {})
    assert not list(tmp_path.iterdir())


def test_no_tensor_is_in_memory_a_second_time(tmp_path: Path) -> None:
    """PyTorch's own memory is not traced; that of bytes is."""
    large = {name: torch.ones(1 << 20) for name in "ab"}
    tracemalloc.start()
    try:
        save_tensors(tmp_path / "a", large, {})
        found = load_tensors(tmp_path / "a")[0]
        assert tracemalloc.get_traced_memory()[1] < 3 << 20
    finally:
        tracemalloc.stop()
    assert all(torch.equal(found[name], large[name]) for name in large)


def test_tensors_are_read_one_by_one(tmp_path: Path) -> None:
    save_tensors(tmp_path / "a", tensors(), METADATA)
    with open_tensors(tmp_path / "a") as file:
        assert len(file) == len(list(file)) == len(tensors())
        assert file.metadata == METADATA
        assert file["count"].item() == 2**40
        assert file["count"].data_ptr() != file["count"].data_ptr()
        with pytest.raises(KeyError):
            file["none"]


def test_saving_replaces_the_old_file(tmp_path: Path) -> None:
    save_tensors(tmp_path / "a", {"x": torch.ones(3)}, {})
    save_tensors(tmp_path / "a", {"x": torch.zeros(2)}, {})
    assert load_tensors(tmp_path / "a")[0]["x"].tolist() == [0, 0]
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("sealed") / "a"
    save_tensors(path, {"x": torch.arange(5.0), "alpha": torch.tensor(3.0)}, {"iteration": 7})
    return path.read_bytes()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "a"


@given(data=st.data())
def test_any_changed_byte_is_noticed(scratch: Path, sealed: bytes, data: st.DataObject) -> None:
    changed = bytearray(sealed)
    changed[data.draw(st.integers(0, len(sealed) - 1))] ^= data.draw(st.integers(1, 255))
    scratch.write_bytes(changed)
    with pytest.raises(DataError) as raised:
        load_tensors(scratch)
    assert one_line(raised).startswith(f"{scratch} ")


def test_every_cut_and_addition_is_noticed(scratch: Path, sealed: bytes) -> None:
    for content in [*(sealed[:length] for length in range(len(sealed))), sealed + b"\0", sealed + sealed]:
        scratch.write_bytes(content)
        with pytest.raises(DataError, match=rf"^{scratch} .*; make it again$"):
            load_tensors(scratch)
    scratch.write_bytes(sealed)
    assert load_tensors(scratch)[1] == {"iteration": 7}


class Trap:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return pytest.fail, ("unpickled",)


@pytest.mark.parametrize("kind", ["text", "numbers", "other safetensors", "pickle", "long header"])
def test_file_of_another_kind(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a"
    if kind == "text":
        path.write_text("user_id,item_id\n1,2\n")
    elif kind == "numbers":
        path.write_bytes((2).to_bytes(8, "little") + b"[]")
    elif kind == "other safetensors":
        safetensors.torch.save_file({"x": torch.ones(3)}, path, {"format": "pt"})
    elif kind == "pickle":
        torch.save(Trap(), path)
    else:
        path.write_bytes(b"\xff" * 100)
    with pytest.raises(DataError) as raised:
        load_tensors(path)
    assert one_line(raised) == f"{path} is no tensor file of ppt-ncf, or a damaged one; make it again"


def test_sealed_file_that_lacks_tensors(tmp_path: Path, sealed: bytes) -> None:
    """Whoever can compute a checksum can seal anything; it is one line all the same."""
    path = tmp_path / "a"
    path.write_bytes(seal(re.sub(rb"[0-9a-f]{64}", NO_DIGEST.encode(), sealed)[:-4]))
    with pytest.raises(DataError, match=r"is no tensor file of ppt-ncf, or a damaged one; make it again$"):
        load_tensors(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        load_tensors(tmp_path / "a")
    assert one_line(raised) == f"{tmp_path / 'a'} does not exist"
    with pytest.raises(DataError) as raised:
        load_tensors(tmp_path)
    assert one_line(raised) == f"{tmp_path} cannot be read (Is a directory)"


@pytest.mark.parametrize(("written", "advice"), [(2, "upgrade ppt-ncf"), (0, "make it again")])
def test_file_of_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int, advice: str) -> None:
    path = tmp_path / "a"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT_VERSION", written)
        save_tensors(path, {"x": torch.ones(3)}, {})
    with pytest.raises(DataError) as raised:
        load_tensors(path)
    assert one_line(raised) == f"{path} has format version {written} and this version of ppt-ncf reads 1; {advice}"


# Training goes on from a checkpoint as if nothing had happened

OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
    "momentum": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4),
    "adam": lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
    "fused adam": lambda model: torch.optim.Adam(model.parameters(), lr=0.01, fused=True),
    "amsgrad": lambda model: torch.optim.AdamW(model.parameters(), lr=0.01, amsgrad=True),
    "rmsprop": lambda model: torch.optim.RMSprop(model.parameters(), lr=0.01, momentum=0.5, centered=True),
}


def new_model() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1)]
    model = nn.Sequential(*layers)
    convert(model)
    set_precision(model, "low")
    return model


def train(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(3):
        optimizer.zero_grad()
        loss = model(torch.randn(16, 4, generator=generator)).square().mean() + alpha_penalty(model)
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_restored_training_goes_on_bit_for_bit(tmp_path: Path, name: str) -> None:
    model = new_model()
    optimizer = OPTIMIZERS[name](model)
    train(model, optimizer, seed=1)
    save_tensors(tmp_path / "a", training_state(model, optimizer), {})
    train(model, optimizer, seed=2)

    restored = new_model()
    restored_optimizer = OPTIMIZERS[name](restored)
    with open_tensors(tmp_path / "a") as file:
        restore_training_state(file, restored, restored_optimizer)
    train(restored, restored_optimizer, seed=2)
    expected = training_state(model, optimizer)
    found = training_state(restored, restored_optimizer)
    assert found.keys() == expected.keys()
    assert {"model.3.weight", "model.3.scale", "model.2.alpha", "model.1.running_var"} <= found.keys()
    assert any(key.startswith("optimizer.") for key in found) == (name != "sgd")
    for key, tensor in expected.items():
        assert torch.equal(found[key], tensor), key
