"""Products that do not round by the number of threads."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from ppt_core import steady_products as module
from ppt_core.steady_products import keeps_its_promise, most_threads, steady, steady_products


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor whose maker promises nothing."""
    monkeypatch.setattr(module, "keeps_its_promise", lambda: False)


@pytest.fixture
def sixteen_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(16)
    yield
    torch.set_num_threads(before)


def network(*widths: int) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(n, m) for n, m in pairwise(widths)), nn.Embedding(3, 2))


@pytest.mark.parametrize(
    ("widths", "threads"), [((256, 128, 64, 1), 7), ((64, 32, 16, 8), 1), ((32, 24, 1), 2), ((5, 1), 1)]
)
def test_the_narrowest_layer_decides(widths: tuple[int, ...], threads: int) -> None:
    assert most_threads(network(*widths)) == threads


def test_a_network_without_layers_has_no_limit() -> None:
    assert most_threads(nn.Embedding(3, 2)) == torch.get_num_threads()


@pytest.mark.usefixtures("elsewhere", "sixteen_threads")
def test_narrow_products_are_those_of_one_thread() -> None:
    layer = nn.Linear(40, 28)
    x, y = torch.randn(500, 40), torch.randn(500, 28)
    with steady_products(layer):
        assert torch.get_num_threads() == 3
        many = layer(x), y.t() @ x, y @ layer.weight
    assert torch.get_num_threads() == 16
    torch.set_num_threads(1)
    for found, expected in zip(many, (layer(x), y.t() @ x, y @ layer.weight), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.usefixtures("elsewhere", "sixteen_threads")
def test_only_the_steps_are_limited() -> None:
    seen = []

    def steps() -> Iterator[int]:
        for number in range(2):
            seen.append(torch.get_num_threads())
            yield number

    for _ in steady(steps(), network(64, 16)):
        assert torch.get_num_threads() == 16
    assert seen == [1, 1]


def test_the_maker_of_the_processor(tmp_path: Path) -> None:
    for name in ("GenuineIntel", "AuthenticAMD"):
        (tmp_path / name).write_text(f"processor\t: 0\nvendor_id\t: {name}\n")
        assert keeps_its_promise(tmp_path / name) == (name == "GenuineIntel")
    assert not keeps_its_promise(tmp_path / "missing")
