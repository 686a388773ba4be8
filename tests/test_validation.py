from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_prep.ratings.any_source import prepare_source
from data_prep.ratings.interactions import PreparedData
from data_prep.ratings.prepare import prepare
from data_prep.ratings.synthetic import synthesize
from ncf_ppt.catalogue import rank_catalogue
from ncf_ppt.evaluation import evaluate
from ncf_ppt.model import NCFConfig
from ncf_ppt.ranking import rank_test_items
from ncf_ppt.recommendation import recommend
from ncf_ppt.scoring import scorer
from ncf_ppt.training import fit_steps, load_model
from ncf_ppt.training_config import NCFTrainingConfig
from ppt_core.errors import DataError
from ppt_core.runs.run import Run
from tests.test_prepare import CSV, OPTIONS, ROWS, ratings


@pytest.fixture(scope="module", params=["strict", "mlperf"])
def pair(request: pytest.FixtureRequest) -> tuple[PreparedData, PreparedData]:
    """The same ratings prepared without and with validation items."""
    raw = synthesize(120, 150, 4000, seed=3)
    plain, held = (
        prepare(raw, n_negatives=40, protocol=request.param, validation=validation, source={"name": "synthetic"})
        for validation in (False, True)
    )
    return plain, held


def test_the_item_before_the_last_is_held_out_too() -> None:
    data = prepare(ratings(ROWS), min_ratings=3, n_negatives=1, validation=True, source={})
    named = {user: row for row, user in enumerate(data.user_ids.tolist())}
    assert data.validation_items is not None
    for user, train, validation, test in (("b", {"x"}, "y", "z"), ("a", {"x", "y"}, "w", "v")):
        row = named[user]
        assert set(data.item_ids[data.train.items_of(row)].tolist()) == train
        assert data.item_ids[data.validation_items[row]] == validation
        assert data.item_ids[data.test_items[row]] == test
    assert "validation_rule" in data.manifest


def test_the_test_set_stays_what_it_was(pair: tuple[PreparedData, PreparedData]) -> None:
    plain, held = pair
    np.testing.assert_array_equal(held.test_items, plain.test_items)
    np.testing.assert_array_equal(held.test_negatives, plain.test_negatives)
    assert len(held.train) == len(plain.train) - plain.n_users
    known = held.known()
    np.testing.assert_array_equal(known.offsets, plain.train.offsets)
    np.testing.assert_array_equal(known.items, plain.train.items)
    assert plain.known() is plain.train
    assert held.protocol_label != plain.protocol_label
    for ranking in ("sampled", "full"):
        found = [evaluate(lambda users, items: -items.astype(np.float32), data, ranking=ranking) for data in pair]
        assert ["the item before it held out too" in each.protocol for each in found] == [each is held for each in pair]
    scores = np.random.default_rng(0).random((120, 150), dtype=np.float32)
    everything = recommend(lambda users, items: scores[users[:, np.newaxis], items], held, k=held.n_items)
    for user, start, stop in zip(range(held.n_users), everything.offsets, everything.offsets[1:], strict=False):
        missing = set(held.item_ids.tolist()) - set(everything.item_ids[start:stop].tolist())
        assert missing == set(held.item_ids[plain.train.items_of(user)].tolist())  # its validation item among them
    ranks = [rank_catalogue(lambda users, items: scores[users[:, np.newaxis], items], data) for data in pair]
    np.testing.assert_array_equal(ranks[0].above, ranks[1].above)


def test_validation_negatives_are_their_own(pair: tuple[PreparedData, PreparedData]) -> None:
    plain, held = pair
    view = held.for_validation()
    assert view.test_items is held.validation_items
    for user in range(held.n_users):
        assert not set(view.test_negatives[user]) & set(held.train.items_of(user))
        assert view.test_items[user] not in held.train.items_of(user)
        if held.protocol == "strict":
            assert view.test_items[user] not in view.test_negatives[user]
            assert len(set(view.test_negatives[user])) == held.n_negatives
    assert (view.test_negatives == held.test_negatives).mean() < 0.5
    best = rank_test_items(
        lambda users, items: (items == view.test_items[users][:, np.newaxis]).astype(np.float32), view
    )
    assert best.hit_ratio() == 1
    with pytest.raises(DataError, match="hold no validation items; make them with"):
        plain.for_validation()
    with pytest.raises(DataError, match="hold no validation items"):
        view.for_validation()


def test_is_written_and_read(tmp_path: Path, pair: tuple[PreparedData, PreparedData]) -> None:
    plain, held = pair
    held.save(tmp_path / "held")
    found = PreparedData.load(tmp_path / "held")
    np.testing.assert_array_equal(found.for_validation().test_items, held.for_validation().test_items)
    np.testing.assert_array_equal(found.for_validation().test_negatives, held.for_validation().test_negatives)
    assert found.manifest["validation"] is True
    plain.save(tmp_path / "plain")
    assert "validation" not in PreparedData.load(tmp_path / "plain").manifest


def test_users_of_two_items_cannot_be_validated(tmp_path: Path) -> None:
    rows = [*ROWS, *(("d", item, time) for time, item in enumerate("xyx"))]
    without, data = (
        prepare(ratings(rows), min_ratings=3, n_negatives=1, validation=validation, source={})
        for validation in (False, True)
    )
    assert "d" in without.user_ids
    assert "d" not in data.user_ids
    assert data.manifest["users_dropped"]["two_items_only"] == 1
    pairs = [(user, item, time) for user in "ab" for time, item in enumerate("xyx")]
    with pytest.raises(DataError, match=r"two items at most.*at least three items a user"):
        prepare(ratings(pairs), min_ratings=3, n_negatives=1, validation=True, source={})


def test_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text(CSV)
    data = prepare_source(str(tmp_path / "ratings.csv"), tmp_path / "out", **OPTIONS, validation=True)
    assert data.manifest == PreparedData.load(tmp_path / "out").manifest
    assert PreparedData.load(tmp_path / "out").validation_items is not None
    assert replace(data, validation_items=None).protocol_label == "leave-one-out, 1 negatives, strict"


@pytest.mark.parametrize("pair", ["strict"], indirect=True)
def test_training_stops_on_validation_alone(tmp_path: Path, pair: tuple[PreparedData, PreparedData]) -> None:
    plain, held = pair
    config = NCFTrainingConfig(epochs=6, batch_size=1024, learning_rate=0.05, eval_every=0.25, patience=2)
    network = NCFConfig(factors=4, layers=(8, 8, 8, 4))
    for _ in fit_steps(held, tmp_path / "run", network, config):
        pass
    run = Run.open(tmp_path / "run")
    lines = run.metrics()
    low = [line["validation"]["hit_ratio"] for line in lines if line["epochs"] > 3]
    assert [phase["precision"] for phase in lines[-1]["phases"] if phase["iterations"]] == ["full", "low"]
    # The first evaluation whose last two brought nothing new is the last one, if there is such a one in three epochs.
    assert len(low) == next((end for end in range(3, 13) if max(low[end - 2 : end]) <= max(low[: end - 2])), 12)
    view = rank_test_items(scorer(load_model(run)), held.for_validation()).metrics()
    assert view == lines[-1]["validation"]

    stop = 3.3 / lines[-1]["epochs"] * lines[-1]["iterations"]
    for progress in fit_steps(held, tmp_path / "part", network, config, checkpoint_seconds=0):
        if progress.iteration >= stop:
            break
    for _ in fit_steps(held, tmp_path / "part", network, config, resume=True):
        pass
    assert (tmp_path / "part" / "model.safetensors").read_bytes() == run.model_path.read_bytes()

    with pytest.raises(ValueError, match=r"eval_every is 0; it must be above 0 where patience counts evaluations"):
        replace(config, eval_every=0)
    with pytest.raises(DataError, match="patience is 2, but the data hold no validation set"):
        next(fit_steps(plain, tmp_path / "plain", network, config))
