import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from cli import main
from data_prep.ratings.interactions import PreparedData
from ncf_ppt.comparison import paired_difference, per_user
from ncf_ppt.model import NCFConfig
from ncf_ppt.ranking import Ranks
from ncf_ppt.training import NCFTrainingConfig, fit_steps

TINY = ["--factors", "4", "--layers", "8,8,8,4", "--batch-size", "512", "--epochs", "0.5", "--json"]


def call(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_each_user_has_a_share_of_the_metrics() -> None:
    rng = np.random.default_rng(0)
    ranks = Ranks(above=rng.integers(0, 30, 500), equal=rng.integers(0, 2, 500))
    for k in (1, 10):
        for key, values in per_user(ranks, k).items():
            assert values.mean() == pytest.approx(ranks.metrics(k)[key])
    with pytest.raises(ValueError, match="k is 0"):
        per_user(ranks, 0)


def test_permutation_test_against_all_sign_flips() -> None:
    rng = np.random.default_rng(1)
    first = rng.random(12)
    second = first + rng.normal(0.1, 0.2, 12)
    second[:2] = first[:2]  # who does not differ changes nothing
    found = paired_difference(first, second, n_resamples=4000)
    flips = np.array(list(itertools.product([-1, 1], repeat=12))) @ (second - first)
    exact = np.mean(np.abs(flips) >= abs((second - first).sum()) - 1e-12)
    assert found.mean == pytest.approx((second - first).mean())
    assert found.p_value == pytest.approx(exact, abs=0.03)


def test_interval_against_the_normal_one() -> None:
    rng = np.random.default_rng(2)
    first, second = (rng.random(2000) < 0.5).astype(float), (rng.random(2000) < 0.6).astype(float)
    found = paired_difference(first, second)
    error = 1.96 * (second - first).std() / np.sqrt(2000)
    assert found.lower == pytest.approx(found.mean - error, abs=0.1 * error)
    assert found.upper == pytest.approx(found.mean + error, abs=0.1 * error)
    assert found.p_value < 0.01
    back = paired_difference(second, first)
    assert back.mean == -found.mean
    same = paired_difference(first, first)
    assert (same.mean, same.lower, same.upper, same.p_value) == (0, 0, 0, 1)
    with pytest.raises(ValueError, match="are not pairs"):
        paired_difference(first, second[1:])


def test_compare_runs(tiny_data: PreparedData, tmp_path: Path) -> None:
    tiny_data.save(tmp_path / "data")
    results = {}
    for split in (1, 0):
        done = call("train", "--data", tmp_path / "data", "--out", tmp_path / f"run{split}", "--split", split, *TINY)
        results[split] = json.loads(done.stdout)
    runs = [tmp_path / "run1", tmp_path / "run0", tmp_path / "run1"]
    document = json.loads(call("compare", *runs, "--json").stdout)
    assert document["protocol"] == tiny_data.protocol_label
    assert [row["hit_ratio"] for row in document["runs"]] == [results[split]["hit_ratio"] for split in (1, 0, 1)]
    assert "differences" not in document["runs"][0]
    assert document["runs"][1]["differences"]["ndcg"]["mean"] == pytest.approx(results[0]["ndcg"] - results[1]["ndcg"])
    assert document["runs"][2]["differences"]["hit_ratio"]["p_value"] == 1
    lines = call("compare", *runs, "--markdown").stdout.splitlines()
    assert [cell.strip() for cell in lines[2].split("|")[1:4]] == ["run", "HR@10", "NDCG@10"]
    assert {line.count("|") for line in lines[2:]} == {6}
    assert "  +0.0000 [+0.0000, +0.0000], p = 1.0000" in call("compare", *runs).stdout

    done = call("train", "--out", tmp_path / "sample", *TINY, "--iterations", 1)
    assert done.exit_code == 0
    refused = call("compare", runs[0], tmp_path / "sample")
    assert refused.exit_code == 1
    (line,) = refused.stderr.splitlines()
    assert "cannot be compared: their protocol is leave-one-out, 50 negatives, strict and leave-one-out, 999" in line
    assert "two networks at least" in call("compare", runs[0]).stderr

    config = NCFTrainingConfig(iterations=2, batch_size=512)
    for _ in fit_steps(tiny_data, tmp_path / "python", NCFConfig(factors=4, layers=(8, 8, 8, 4)), config):
        pass
    for more in ([], ["--data", tmp_path / "data"]):
        unsaved = call("compare", tmp_path / "python", tmp_path / "python", *more)
        assert unsaved.exit_code == 1
        assert "python was trained from Python on data that were never saved; save them" in unsaved.stderr
    loaded = PreparedData.load(tmp_path / "data")
    for _ in fit_steps(loaded, tmp_path / "loaded", NCFConfig(factors=4, layers=(8, 8, 8, 4)), config):
        pass
    assert "p = 1.0000" in call("compare", tmp_path / "loaded", tmp_path / "loaded").stdout
    assert call("pack", tmp_path / "loaded", "--out", tmp_path / "p").exit_code == 0
