from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from ncf_ppt.row_adam import RowAdam, RowEmbedding
from ppt_core import step_graph
from ppt_core.device import repeatable_convolutions


class Batch(NamedTuple):
    x: Tensor
    y: Tensor


class FakeGraph:
    """Notes what runs while it is recorded, without effect as on a GPU, and runs it when replayed."""

    recorder: "FakeGraph | None" = None
    replays = 0
    work: Callable[[], None]

    def replay(self) -> None:
        type(self).replays += 1
        self.work()


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def record(graph: FakeGraph) -> Iterator[None]:
        FakeGraph.recorder = graph
        yield
        FakeGraph.recorder = None

    FakeGraph.replays = 0
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "graph", record)


class Summing:
    """A step whose state is the weighted sum of all it was given."""

    def __init__(self) -> None:
        self.total = torch.zeros(())

    def __call__(self, batch: Any) -> Tensor:
        loss = torch.zeros(())

        def work() -> None:
            self.total.mul_(0.5).add_((batch.x * batch.y).sum())
            loss.copy_(self.total)

        if FakeGraph.recorder is None:
            work()
        else:
            FakeGraph.recorder.work = work
        return loss


def test_a_recorded_step_is_the_step(no_gpu: None) -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = [4, 4, 4, 4, 4, 3, 4, 4, 3, 4]
    batches = [Batch(*torch.randn(2, size, generator=generator)) for size in sizes]
    as_it_is, recorded = Summing(), Summing()
    graph = step_graph.StepGraph(recorded, torch.device("cpu"))
    losses = [graph(batch) for batch in batches]
    for batch, loss in zip(batches, losses, strict=True):
        assert torch.equal(as_it_is(batch), loss)  # each loss is its own, though the graph writes to one place
    assert FakeGraph.replays == 5  # neither the first three nor those of another shape


def test_only_fused_optimizers_of_a_gpu_are_recorded() -> None:
    layer, table = nn.Linear(2, 2), RowEmbedding(3, 2)
    with torch.device("meta"):
        elsewhere = nn.Linear(2, 2)
    for optimizer in (
        torch.optim.Adam(layer.parameters(), fused=True),
        torch.optim.SGD(layer.parameters(), fused=True),
        torch.optim.SGD(elsewhere.parameters()),
        RowAdam([table], layer.parameters()),
    ):
        assert not step_graph.can_record(optimizer)


def test_learning_rates_become_tensors() -> None:
    adam, sgd = torch.optim.Adam(nn.Linear(2, 2).parameters(), lr=0.5), torch.optim.SGD(nn.Linear(2, 2).parameters())
    for optimizer in (adam, sgd):
        step_graph.prepare(optimizer)
        step_graph.prepare(optimizer)
    assert adam.param_groups[0]["lr"] == torch.tensor(0.5)
    assert adam.param_groups[0]["capturable"]
    assert isinstance(sgd.param_groups[0]["lr"], Tensor)
    assert "capturable" not in sgd.param_groups[0]


def test_convolutions_are_repeatable_in_the_block_only() -> None:
    assert not torch.backends.cudnn.deterministic
    with repeatable_convolutions():
        assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.deterministic
