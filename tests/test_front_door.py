"""What a Python user types first, and what they see."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

import ncf_ppt
import vision_ppt
from data_prep.images.image_arrays import ImageArray, PreparedImages
from data_prep.images.normalization import Normalization
from data_prep.ratings.any_source import prepare_source
from data_prep.ratings.in_memory import read_memory
from data_prep.ratings.interactions import PreparedData
from data_prep.ratings.prepare import prepare
from data_prep.ratings.raw_ratings import Ratings
from ncf_ppt.ranking import rank_test_items
from ncf_ppt.scoring import scorer
from ncf_ppt.trained import TrainedNCF
from ncf_ppt.training import fit_steps, load_model
from ncf_ppt.training_config import NCFTrainingConfig
from ppt_commands.group import RENAMED
from ppt_commands.programs import main, vision
from ppt_core.distributed import World
from ppt_core.errors import DataError
from ppt_core.runs.run import Run
from tests.command_line import CommandLine

SMALL: dict[str, Any] = {"factors": 4, "layers": (8, 8, 8, 4), "epochs": 1, "batch_size": 512}


@pytest.fixture(scope="module")
def run(tiny_data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("front") / "run"
    ncf_ppt.fit(tiny_data, out=path, split=0.5, **SMALL)
    return path


@pytest.mark.parametrize("package", [ncf_ppt, vision_ppt])
def test_every_name_is_there(package: ModuleType) -> None:
    assert set(package.__all__) == set(dir(package))
    for name in package.__all__:
        assert getattr(package, name) is not None
    assert set(package._HOMES) | {"__version__"} == set(package.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'recomend'"):
        _ = package.recomend


def test_images_have_the_same_door(tmp_path: Path) -> None:
    array = ImageArray(images=np.zeros((8, 8, 8, 3), np.uint8), labels=np.array([0, 1] * 4))
    normalization = Normalization(mean=(0.1, 0.2, 0.3), deviation=(1.0, 1.0, 1.0))
    images = PreparedImages(train=array, test=array, class_names=("a", "b"), normalization=normalization, manifest={})
    settings: dict[str, Any] = {"network": "resnet20", "split": 0, "iterations": 2, "batch_size": 4}
    model = vision_ppt.fit(images, out=str(tmp_path / "run"), **settings)
    assert vision_ppt.fit(images, **settings).result.metrics == model.result.metrics
    found = vision_ppt.load(str(tmp_path / "run"))
    assert found.data.path == tmp_path / "run.data"
    assert found.evaluate().accuracy == model.evaluate(engine="packed").accuracy
    assert "0 of" in repr(found.pack(str(tmp_path / "packed"), n_images=2))
    packed = vision_ppt.load(tmp_path / "packed", data=found.data)
    assert packed.evaluate().to_dict() == model.evaluate(engine="packed").to_dict()
    assert repr(packed.evaluate()).endswith("[8 test images, top-1; ties lost])")
    for each in (found, packed, found.data, images):
        assert "array(" not in repr(each)
    for mistake, message in (
        (lambda: vision_ppt.fit(images, image_size=3), "image_size is 3, which is for image files"),
        (lambda: vision_ppt.load(tmp_path / "packed").data, "holds no images, so name the prepared data"),
        (lambda: packed.evaluate(engine="torch"), "engine is 'torch', but"),
        (lambda: packed.pack(tmp_path / "again"), "is a packed network; load the run"),
        (lambda: vision_ppt.fit(images, out=tmp_path / "run", resume=True), "resume needs the data"),
    ):
        with pytest.raises(ValueError, match=message):
            mistake()


def test_four_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0).integers(1, 60, (3000, 2))
    pd.DataFrame({"user": rows[:, 0], "item": rows[:, 1], "time": np.arange(3000)}).to_csv("ratings.csv", index=False)
    data = ncf_ppt.prepare("ratings.csv", n_negatives=9)
    model = ncf_ppt.fit(data, split=0.5, **SMALL)
    assert 0 <= model.evaluate().hit_ratio(10) <= 1
    table = model.recommend([1, 42], k=3).to_pandas()
    assert table["user_id"].tolist() == [1, 1, 1, 42, 42, 42]
    assert table["rank"].tolist() == [1, 2, 3, 1, 2, 3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ratings.csv"]


def test_fit_is_the_iterator_run_to_its_end(run: Path, tiny_data: PreparedData, tmp_path: Path) -> None:
    config = NCFTrainingConfig(split=0.5, epochs=1, batch_size=512)
    for _ in fit_steps(tiny_data, str(tmp_path / "steps"), ncf_ppt.NCFConfig(factors=4, layers=(8, 8, 8, 4)), config):
        pass
    assert (tmp_path / "steps" / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    in_memory = ncf_ppt.fit(tiny_data, split=0.5, **SMALL)
    expected = rank_test_items(scorer(load_model(Run.open(run))), tiny_data)
    for model in (in_memory, ncf_ppt.load(str(run))):
        found = model.evaluate()
        assert (found.hit_ratio(5), found.ndcg()) == (expected.hit_ratio(5), expected.ndcg())
        assert found.protocol == tiny_data.protocol_label
        assert repr(found) == f"Evaluation(HR@10 {found.hit_ratio():.4f}, NDCG@10 {found.ndcg():.4f} " \
            "[leave-one-out, 50 negatives, strict; ties lost])"  # fmt: skip


def test_data_that_were_never_saved_are_kept_beside_the_run(run: Path, tiny_data: PreparedData) -> None:
    kept = ncf_ppt.load_data(f"{run}.data")
    np.testing.assert_array_equal(kept.test_negatives, tiny_data.test_negatives)
    assert ncf_ppt.load(run).data.path == kept.path
    with pytest.raises(ValueError, match="resume needs the data that the run saved: load_data"):
        ncf_ppt.fit(tiny_data, out=run, resume=True, **SMALL)
    assert ncf_ppt.fit(kept, out=run, resume=True, split=0.5, **SMALL).result == ncf_ppt.load(run).result


def test_what_is_refused_leaves_nothing(tiny_data: PreparedData, tmp_path: Path) -> None:
    """Neither the run folder, nor the data beside it."""
    without_order = replace(tiny_data, history=None)
    with pytest.raises(DataError, match="order"):
        ncf_ppt.fit(without_order, out=tmp_path / "run", n_recent=2, **SMALL)
    wrong: list[dict[str, Any]] = [{"scale": "statik"}, {"at_switch": "sometimes"}]
    for setting in wrong:
        with pytest.raises(ValueError, match=f"{next(iter(setting))} is .*; it must be"):
            ncf_ppt.fit(tiny_data, out=tmp_path / "run", **setting, **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_several_processes_need_what_all_of_them_see(run: Path, tiny_data: PreparedData, tmp_path: Path) -> None:
    world = World(rank=1, size=2)
    for data, out in ((ncf_ppt.load_data(f"{run}.data"), None), (tiny_data, tmp_path / "run")):
        with pytest.raises(ValueError, match="several processes need a run folder and data that all of them see"):
            ncf_ppt.fit(data, out=out, world=world, **SMALL)


def test_packed_files_answer_as_the_packed_engine(run: Path, tmp_path: Path) -> None:
    model = ncf_ppt.load(run)
    report = model.pack(str(tmp_path / "network.packed"))
    assert report.hit_ratio == model.evaluate(engine="packed").hit_ratio()
    assert "bits that differ from the simulated network: 0 of" in repr(report)
    packed = ncf_ppt.load(str(tmp_path / "network.packed"))
    assert packed.inspect().kind == "packed"
    with pytest.raises(DataError, match=r"holds no interactions, so name the prepared data .* with data="):
        packed.evaluate()
    packed = ncf_ppt.load(tmp_path / "network.packed", data=model.data)
    assert packed.evaluate().to_dict() == model.evaluate(engine="packed").to_dict()
    assert packed.recommend(k=3).to_dicts() == model.recommend(k=3, engine="packed").to_dicts()
    assert model.compare(packed).differences[0].keys() == {"hit_ratio", "ndcg"}
    with pytest.raises(ValueError, match=r"engine is 'torch', but .* is a packed network"):
        packed.evaluate(engine="torch")
    with pytest.raises(ValueError, match="is a packed network; load the run"):
        packed.export_onnx(tmp_path / "x.onnx")


def test_results_are_shown_and_never_whole_arrays(run: Path, tmp_path: Path) -> None:
    model = ncf_ppt.load(run)
    shown: list[Any] = [model, model.data, model.evaluate(ranking="full"), model.recommend(), model.inspect()]
    shown.append(model.compare(model))
    for each in shown:
        assert "array(" not in repr(each)
        assert len(repr(each)) < 2000
    assert "MRR" in repr(shown[2])
    assert repr(shown[3]).endswith("... and 110 more users")
    assert repr(shown[5]).splitlines()[2].startswith("run ")
    for each in (shown[2], shown[3], shown[5]):
        assert each._repr_html_().count("<table>") == each._repr_html_().count("</table>") == 1
    long = model.recommend(k=25)._repr_html_().split("</tr>")[1]
    assert (long.count(", "), long.endswith(", ...</td>")) == (10, True)
    assert len(shown[2].to_pandas()) == model.data.n_users


def test_mistakes_are_one_line(run: Path, tiny_data: PreparedData, tmp_path: Path) -> None:
    model = ncf_ppt.load(run)
    wrong: Any = "wrong"
    for mistake, error, message in (
        (lambda: ncf_ppt.load("no-such"), DataError, "no-such is not a run folder"),
        (lambda: ncf_ppt.load_data("no-such"), DataError, "no-such is not a folder"),
        (lambda: ncf_ppt.prepare("no-such.csv"), DataError, "'no-such.csv' is neither a file nor a known data set"),
        (lambda: ncf_ppt.prepare(3), DataError, "ratings cannot be read from int"),
        (lambda: ncf_ppt.fit(wrong), TypeError, "data is a str; prepare it with ncf_ppt.prepare, or open"),
        (lambda: ncf_ppt.fit(tiny_data, splits=1), TypeError, "there is no setting 'splits'"),
        (lambda: ncf_ppt.fit(tiny_data, split=2), ValueError, "split is 2; it must be between"),
        (lambda: ncf_ppt.fit(tiny_data, split=1, binarize_embeddings=True), ValueError, "has no effect at split 1"),
        (lambda: ncf_ppt.fit(tiny_data, out=run, **SMALL), DataError, "already exists"),
        (lambda: ncf_ppt.fit(tiny_data, resume=True), ValueError, "resume needs out="),
        (lambda: model.evaluate(ranking=wrong), ValueError, "ranking is 'wrong'"),
        (lambda: model.evaluate(engine=wrong), ValueError, "engine is 'wrong'"),
        (lambda: model.recommend([1], k=0), ValueError, "k is 0"),
        (lambda: model.recommend(["nobody"]), DataError, "user 'nobody' cannot be an id"),
        (lambda: model.recommend([1], n_candidates=5), ValueError, "n_candidates is 5 without candidates="),
        (lambda: ncf_ppt.load(run, data=tmp_path).data, DataError, "holds no manifest"),
        (lambda: model.compare(), ValueError, "two networks at least"),
    ):
        with pytest.raises(error, match=message) as caught:
            mistake()
        assert "\n" not in str(caught.value)


USERS, ITEMS, TIMES = np.array([5, 5, 5, 7, 7]), np.array(["a", "b", "c", "a", "b"], object), np.array([3, 2, 1, 1, 2])


def assert_same(first: Ratings, second: Ratings) -> None:
    assert (first.user_ids.tolist(), first.item_ids.tolist()) == (second.user_ids.tolist(), second.item_ids.tolist())
    for name in ("users", "items", "times"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert first.has_times == second.has_times


@pytest.mark.parametrize(
    "source",
    [
        (USERS, ITEMS, TIMES),
        (USERS.tolist(), ITEMS.tolist(), TIMES.tolist()),
        list(zip(USERS.tolist(), ITEMS.tolist(), TIMES.tolist(), strict=True)),
        [list(row) for row in zip(USERS.tolist(), ITEMS.tolist(), TIMES.tolist(), strict=True)],
        pd.DataFrame({"rating": 1.0, "itemId": ITEMS, "userId": USERS, "timestamp": TIMES}),
        pd.DataFrame({"item_id:token": ITEMS, "user_id:token": USERS.astype(float), "time": TIMES}),
        {"user": USERS, "item": pd.Series(ITEMS, dtype="category"), "time": TIMES},
        Ratings.from_ids(USERS, ITEMS, TIMES),
    ],
)
def test_ratings_at_hand(source: Any) -> None:
    assert_same(read_memory(source), Ratings.from_ids(USERS, ITEMS, TIMES))


def test_times_may_be_timestamps_and_may_be_missing() -> None:
    moments = pd.to_datetime(pd.Series(TIMES), unit="s")
    for times in (moments, moments.dt.tz_localize("Europe/Paris"), moments.dt.to_pydatetime().tolist()):
        found = read_memory({"user": USERS, "item": ITEMS, "time": times})
        assert np.argsort(found.times[:3]).tolist() == [2, 1, 0]
    assert not read_memory((USERS, ITEMS)).has_times
    numbers = np.array([[1, 0, 2], [0, 3, 0]])
    matrix = csr_matrix(numbers)
    matrix.data[0] = 0  # stored, and no rating
    assert_same(read_memory(matrix), Ratings.from_ids(np.array([0, 1]), np.array([2, 1]), None))
    assert_same(read_memory(numbers.T), Ratings.from_ids(np.array([1, 0, 2]), np.array([0, 3, 0]), None))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"user": USERS}, r"the ratings has no item column"),
        ({"user": USERS, "userId": USERS, "item": ITEMS}, r"more than one user column \(user and userId\)"),
        ((USERS, ITEMS[:2]), "hold 5 users, 2 items; there must be as many of each"),
        (([], []), "at least one"),
        ([], "a list of ratings holds rows of"),
        ([(1, 2), (1, 2, 3)], "rows of .user, item. or .user, item, time., all of one length"),
        ((USERS,), "the ratings have 1 columns"),
        ((USERS, [1, None, 2, 3, 4]), "row 2 has no item"),
        ((USERS, [1, "a", 2, 3, 4]), "the item ids are neither all integers nor all strings"),
        ((USERS, [1.5, 1, 2, 3, 4]), "the item ids are neither all integers nor all strings"),
        ((USERS, ITEMS, [1, 2, np.nan, 3, 4]), "row 3 has no time"),
        ((USERS, ITEMS, [1, 2, np.inf, 3, 4]), "row 3 has an infinite time"),
        ((USERS, ITEMS, list("abcde")), r"holds string \(first value 'a' that is no date like the others\)"),
        ((USERS, ITEMS, [1, None, (), 3, 4]), r"the times are object \(row 1 is 1\); give numbers or timestamps"),
        ({"user": 1, "item": 2}, "hold one value where a column should be"),
        ((1, 2), "hold one value where a column should be"),
    ],
)
def test_ratings_that_cannot_be_read(source: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_memory(source)
    assert "\n" not in str(caught.value)


def test_without_times_the_seed_holds_out_and_the_labels_say_so(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    source = (np.repeat(np.arange(40), 30), np.concatenate([rng.permutation(90)[:30] for _ in range(40)]))
    first, again, other = (prepare_source(source, n_negatives=9, seed=seed) for seed in (0, 0, 1))
    assert first.protocol_label == "leave-one-out, random item, 9 negatives, strict"
    assert first.history is None
    np.testing.assert_array_equal(first.test_items, again.test_items)
    assert (first.test_items != other.test_items).sum() > 20
    held_out = set(zip(first.user_ids.tolist(), first.item_ids[first.test_items].tolist(), strict=True))
    assert held_out <= set(zip(*(column.tolist() for column in source), strict=True))
    loaded = first.save(tmp_path / "data")
    assert loaded.path == tmp_path / "data"
    assert PreparedData.load(str(tmp_path / "data")).protocol_label == first.protocol_label
    with_times = prepare(Ratings.from_ids(*source, np.arange(1200)), n_negatives=9, source={})
    assert with_times.protocol_label == "leave-one-out, 9 negatives, strict"
    assert with_times.history is not None


def test_preparing_first_sets_the_environment_in_time() -> None:
    code = """if True:
        import warnings
        warnings.simplefilter("error")
        import ncf_ppt
        ncf_ppt.load_data, ncf_ppt.fit
    """
    environment = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "MKL_CBWR")}
    root = Path(__file__).parent.parent
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=root, check=True)


def test_the_environment_is_set_once_and_says_when_it_is_late() -> None:
    code = """if True:
        import sys, warnings
        warnings.simplefilter("error")
        import torch, ncf_ppt
        try:
            ncf_ppt.fit
        except UserWarning as warning:
            print(warning)
        ncf_ppt.load
    """
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "MKL_CBWR", "THP_MEM_ALLOC_ENABLE")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    root = Path(__file__).parent.parent
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("torch came first, so OMP_WAIT_POLICY, ")
    assert len(done.stdout.splitlines()) == 1


def test_a_network_of_a_gmf_alone_trains_and_answers(tiny_data: PreparedData) -> None:
    model: TrainedNCF = ncf_ppt.fit(tiny_data, model="gmf", factors=4, split=1, iterations=3, batch_size=512)
    assert model.inspect().file_bytes is None
    assert "GMF" not in repr(model)


def test_options_that_were_renamed_work_with_a_line_of_notice(run: Path) -> None:
    result = CommandLine(main).call("recommend", run, "--user", 1, "--rescore", 20)
    assert "--rerank is 20 without --candidates" in result.stderr
    assert result.stderr.count("--rescore is called --rerank now") == 1
    names = {name for group in (main, vision) for command in group.commands.values() for each in command.params
             for name in each.opts}  # fmt: skip
    assert {f"--{name}" for name in RENAMED.values()} <= names
    assert not {f"--{name}" for name in RENAMED} & names
