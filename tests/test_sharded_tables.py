"""Tables dealt out to two and three processes against whole tables in as many: the same files, bit for bit."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ncf_ppt
from data_prep.ratings.interactions import Interactions, PreparedData
from data_prep.ratings.prepare import prepare
from data_prep.ratings.synthetic import synthesize
from ncf_ppt import scoring, sharded_tables
from ncf_ppt.model import NCF, NCFConfig
from ncf_ppt.row_adam import RowEmbedding
from ncf_ppt.training import fit_steps
from ncf_ppt.training_config import NCFTrainingConfig
from ppt_core import row_shards
from ppt_core.distributed import World, join_world
from ppt_core.row_shards import RowShards
from ppt_core.runs.checkpoint import load_tensors
from ppt_core.runs.run import Run
from tests.several_processes import run_processes

N_STEPS = 8
STOP = 5  # of the trainings that go on elsewhere: in low precision


@dataclass(frozen=True)
class Training:
    """A network, what departs from the usual training, and which data it has."""

    network: NCFConfig
    settings: dict[str, Any] = field(default_factory=dict)
    data: str = "odd"


NEUMF = NCFConfig(factors=4, layers=(8, 8, 8, 4))
TRAININGS = {
    "neumf": Training(NEUMF),
    "recent": Training(replace(NEUMF, n_recent=3), {"regularization": 1e-2, "batches": "grouped"}),
    "gmf": Training(NCFConfig(model="gmf", factors=5), {"split": 1.0}),
    "mlp": Training(NCFConfig(model="mlp", layers=(6, 8, 8, 4), n_recent=2), {"arithmetic": "bf16"}),
    "two-users": Training(NEUMF, {"batch_size": 5}, "two-users"),
}
DIVERGING = Training(NEUMF, {"learning_rate": 1e30})


def two_users() -> PreparedData:
    """Fewer users than three processes; in the last batch some processes have no sample."""
    items = np.array([0, 1, 2, 2, 3], np.int32)
    return PreparedData(
        train=Interactions.from_pairs(np.array([0, 0, 0, 1, 1]), items, n_users=2, n_items=7),
        history=items,
        test_items=np.array([4, 5], np.int32),
        test_negatives=np.array([[3, 5, 6], [0, 1, 6]], np.int32),
        user_ids=np.arange(2),
        item_ids=np.arange(7),
        protocol="strict",
        manifest={},
    )


def steps_of(name: str, folder: Path, path: Path, **options: Any) -> Iterator[Any]:
    training = TRAININGS.get(name, DIVERGING)
    config = NCFTrainingConfig(
        **{"iterations": N_STEPS, "batch_size": 60, "eval_every": 0.05, "learning_rate": 1e-2} | training.settings
    )
    return fit_steps(PreparedData.load(folder / training.data), path, training.network, config, **options)


def fit(name: str, folder: Path, path: Path, stop: int | None = None, **options: Any) -> None:
    for progress in steps_of(name, folder, path, **options):
        if progress.iteration == stop:
            break


def work(folder: Path) -> None:
    """What each process does: with blocks so small that tables and users fill several."""
    for module, name, n in SMALLER:
        setattr(module, name, n)
    with join_world("cpu") as world:
        for name in (folder / "trainings").read_text().split():
            fit(name, folder, folder / f"{name}-whole", world=world)
            fit(name, folder, folder / f"{name}-dealt", world=world, shard_embeddings=True)
        often: dict[str, Any] = {"checkpoint_seconds": 0.0, "world": world}
        fit("recent", folder, folder / "part-whole", STOP, **often)
        fit("recent", folder, folder / "part-dealt", STOP, shard_embeddings=True, **often)
        fit("recent", folder, folder / "on-dealt", STOP, **often)
        fit("recent", folder, folder / "on-dealt", resume=True, shard_embeddings=True, world=world)
        try:
            fit("diverging", folder, folder / "lost", world=world, shard_embeddings=True)
        except ValueError as error:
            (folder / f"refusal{world.rank}").write_text(str(error))


SMALLER = ((scoring, "ROWS", 16), (sharded_tables, "ROWS", 16), (scoring, "_BLOCK", 64), (row_shards, "_PIECE", 32))
THOROUGH = [pytest.param((n, tuple(TRAININGS)), marks=pytest.mark.slow) for n in (2, 3)]


@pytest.fixture(scope="module", params=[(3, ("recent", "two-users")), *THOROUGH])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What several processes leave behind."""
    n, names = request.param
    folder = tmp_path_factory.mktemp("world")
    prepare(synthesize(61, 83, 1500, seed=3), n_negatives=30, source={"name": "synthetic"}).save(folder / "odd")
    two_users().save(folder / "two-users")
    (folder / "trainings").write_text(" ".join(names))
    run_processes(n, "tests.test_sharded_tables.work", folder)
    return folder


def test_dealt_out_tables_end_as_whole_ones(folder: Path) -> None:
    for name in (folder / "trainings").read_text().split():
        dealt, whole = folder / f"{name}-dealt", folder / f"{name}-whole"
        assert (dealt / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes(), name
        for line, expected in zip(Run.open(dealt).metrics(), Run.open(whole).metrics(), strict=True):
            for key in ("iterations", "loss", "hit_ratio", "ndcg", "tie_rate"):
                assert line[key] == expected[key], name


def test_a_checkpoint_holds_whole_tables(folder: Path) -> None:
    (dealt, about), (whole, _) = (
        load_tensors(folder / f"part-{kind}" / "checkpoint.safetensors") for kind in ("dealt", "whole")
    )
    assert about["iteration"] == STOP
    assert dealt.keys() == whole.keys()
    for name, tensor in whole.items():
        assert torch.equal(dealt[name], tensor), name


def test_another_number_of_processes_goes_on_with_dealt_out_tables_and_without(folder: Path) -> None:
    model = (folder / "recent-whole" / "model.safetensors").read_bytes()
    assert (folder / "on-dealt" / "model.safetensors").read_bytes() == model
    fit("recent", folder, folder / "part-whole", resume=True)
    fit("recent", folder, folder / "part-dealt", resume=True, shard_embeddings=True)
    ends = [(folder / f"part-{kind}" / "model.safetensors").read_bytes() for kind in ("dealt", "whole")]
    assert ends[0] == ends[1]


def test_every_process_says_that_training_diverged(folder: Path) -> None:
    refusals = [path.read_text() for path in folder.glob("refusal*")]
    assert len(refusals) in (2, 3)
    assert len(set(refusals)) == 1
    assert "training has diverged" in refusals[0]


@given(n=st.integers(0, 70), size=st.integers(1, 5), run=st.integers(1, 20), piece=st.integers(1, 40))
def test_rows_are_dealt_out_once_each(n: int, size: int, run: int, piece: int) -> None:
    table = torch.arange(n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_shards, "_PIECE", piece)
        for rank in range(size):
            shards = RowShards(n_rows=n, world=World(rank=rank, size=size), run=run)
            own = torch.full((shards.n_own,), -1)
            shards.keep_own(lambda start, stop: table[start:stop], own)
            assert own.tolist() == [row for row in range(n) if row // run % size == rank]
            assert torch.equal(shards._places(own), torch.arange(len(own)))


@pytest.mark.parametrize(("n_users", "n_items"), [(33, 31), (3, 1), (97, 130)])
def test_initial_rows_are_those_of_whole_tables(monkeypatch: pytest.MonkeyPatch, n_users: int, n_items: int) -> None:
    monkeypatch.setattr(row_shards, "_PIECE", 32)
    network = replace(NEUMF, factors=3, layers=(10, 8, 8), n_recent=2)
    whole = NCF(n_users, n_items, network, seed=4).state_dict()
    for rank in range(3):
        dealt = NCF(n_users, n_items, network, seed=4, world=World(rank=rank, size=3))
        tables = [f"{name}.weight" for name, module in dealt.named_modules() if isinstance(module, RowEmbedding)]
        for name, tensor in dealt.state_dict().items():
            expected = whole[name]
            assert torch.equal(tensor, expected[rank::3] if name in tables else expected), name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"recipe": "warm"}, "a two-tower network needs whole tables"),
        ({"optimizer": "adam"}, "optimizer='adam' needs"),
        ({"binarize_embeddings": "items"}, "binarize_embeddings needs"),
        ({"warm_start": "als"}, "warm_start='als' needs"),
    ],
)
def test_what_needs_whole_tables_is_refused(tiny_data: PreparedData, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ncf_ppt.fit(tiny_data, shard_embeddings=True, **settings)


def test_one_process_has_all_rows_either_way(folder: Path) -> None:
    for name in ("alone", "alone-dealt"):
        fit("two-users", folder, folder / name, shard_embeddings=name == "alone-dealt")
    models = [(folder / name / "model.safetensors").read_bytes() for name in ("alone", "alone-dealt")]
    assert models[0] == models[1]
