import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

import ncf_ppt
from cli import main
from data_prep.ratings.interactions import PreparedData
from ncf_ppt.comparison import compare
from ncf_ppt.contenders import Contender, Kind, per_user
from ncf_ppt.model import NCFConfig
from ncf_ppt.paired_tests import holm, paired_difference
from ncf_ppt.ranking import Ranks
from ncf_ppt.training import fit_steps
from ncf_ppt.training_config import NCFTrainingConfig
from tests import reference

TINY = ["--factors", "4", "--layers", "8,8,8,4", "--batch-size", "512", "--epochs", "0.5", "--json"]
SMALL: dict[str, Any] = {"factors": 4, "layers": (8, 8, 8, 4), "batch_size": 512}


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
    second = first + rng.normal(0.1, 0.2, 12).round(1)  # some differences are equal
    second[:2] = first[:2]  # who does not differ changes nothing
    found = paired_difference(first, second)
    assert found.mean == pytest.approx((second - first).mean())
    exact = reference.sign_flip_p_value((second - first).round(12).tolist())
    assert found.p_value == pytest.approx(exact, abs=0.02)  # four deviations of 10,000 draws


@pytest.mark.parametrize("digits", [0, 1, 9])
def test_interval_against_users_drawn_anew(digits: int) -> None:
    rng = np.random.default_rng(2)
    first, second = rng.random(300).round(digits), (rng.random(300) + 0.1).round(digits)
    found = paired_difference(first, second)
    lower, upper = reference.bootstrap_interval((second - first).tolist(), 4000, seed=5)
    width = upper - lower
    assert found.lower == pytest.approx(lower, abs=0.06 * width)
    assert found.upper == pytest.approx(upper, abs=0.06 * width)
    assert paired_difference(second, first).mean == -found.mean


def test_nothing_differs_from_itself() -> None:
    values = np.random.default_rng(3).random(50)
    same = paired_difference(values, values)
    assert (same.mean, same.lower, same.upper, same.p_value) == (0, 0, 0, 1)
    with pytest.raises(ValueError, match="are not pairs"):
        paired_difference(values, values[1:])


def test_no_p_value_is_zero() -> None:
    assert paired_difference(np.zeros(50), np.ones(50)).p_value == 1 / 10_001


@given(st.lists(st.floats(0, 1), min_size=1, max_size=7))
def test_holm_against_the_closed_test(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(reference.corrected_together(p_values))


def contender(name: str, *above: list[int], kind: Kind = "network") -> Contender:
    seeds = tuple(Ranks(above=np.array(each), equal=np.zeros(len(each), np.int64)) for each in above)
    return Contender(name=name, kind=kind, seeds=seeds, protocol="p")


def ranked(n_hits: int, n: int = 200) -> list[int]:
    """The same users hit first: more hits are more than chance."""
    return [0] * n_hits + [20] * (n - n_hits)


def test_what_is_better_is_said_in_words() -> None:
    als = contender("ALS", ranked(150), kind="baseline")
    low, full = contender("low", ranked(90)), contender("full", ranked(60))
    found = compare([low, full, als])
    assert found.verdicts == (
        "ALS is better than every network here in HR@10 and NDCG@10 "
        "(p < 0.05, corrected for all 3 pairs in both metrics).",
    )
    assert repr(found).endswith(found.verdicts[0])
    assert found.verdicts[0] in found.to_dict()["verdicts"]
    best = contender("best", ranked(199))
    assert compare([als, best, contender("bpr", ranked(100), kind="baseline")]).verdicts == (
        "best is better than every other here in HR@10 and NDCG@10 "
        "(p < 0.05, corrected for all 3 pairs in both metrics).",
    )
    knn = contender("knn", ranked(195), kind="baseline")
    said = compare([knn, als, low, full]).verdicts
    assert said[0].startswith("knn is better than every other here in HR@10")
    assert said[1].startswith("ALS is better than every network here in HR@10 and NDCG@10")
    assert len(said) == 2
    twin = contender("twin", ranked(149), kind="baseline")
    said = compare([als, twin, low, full]).verdicts
    assert said[0] == "ALS has the highest HR@10, and is better than low and full; from twin it cannot be told apart."
    assert [each.split(" in ")[0] for each in said[1:]] == [
        f"{name} is better than every network here" for name in ("ALS", "twin")
    ]
    near = contender("near", ranked(148))
    assert compare([als, near, low]).verdicts == (
        "ALS has the highest HR@10, and is better than low; from near it cannot be told apart.",
    )
    assert compare([low, near]).verdicts[0] == (
        "near is better than low in HR@10 and NDCG@10 (p < 0.05, corrected for both metrics)."
    )


def test_p_values_are_corrected_for_all_that_is_said() -> None:
    """Six users who hit more, and none less, are p = 2 ** -5, too much for two tests; seven are too much for six."""
    a, c = contender("a", ranked(100)), contender("c", ranked(20))
    six, seven = contender("six", ranked(106)), contender("seven", ranked(107))
    assert compare([a, six]).verdicts == ("six has the highest HR@10; from a it cannot be told apart.",)
    assert compare([a, seven]).verdicts[0].startswith("seven is better than a in HR@10")
    assert compare([a, seven, c]).verdicts == (
        "seven has the highest HR@10, and is better than c; from a it cannot be told apart.",
    )


def test_each_metric_gets_its_own_corrected_p() -> None:
    first, second = [0] * 100 + [20] * 100, [1] * 5 + [0] * 102 + [20] * 93
    (found,) = compare([contender("first", first), contender("second", second)]).differences
    hits, gains = found["hit_ratio"], found["ndcg"]
    assert hits.p_value < gains.p_value / 2
    assert (hits.p_holm, gains.p_holm) == (2 * hits.p_value, gains.p_value)


def test_of_several_seeds_each_user_s_mean_counts() -> None:
    one = contender("one", ranked(100), ranked(104), ranked(96))
    other = contender("other", ranked(140))
    found = compare([one, other])
    row = found.to_dict()["runs"][0]
    assert row["hit_ratio"] == pytest.approx(0.5)
    assert row["seeds"]["hit_ratio"] == [0.5, 0.52, 0.48]
    assert "0.5000 [0.4800 to 0.5200]" in repr(found)
    mean = np.mean([np.array(ranked(n)) < 10 for n in (100, 104, 96)], axis=0)
    expected = paired_difference(mean, (np.array(ranked(140)) < 10).astype(float))
    assert asdict(found.differences[0]["hit_ratio"]) | {"p_holm": None} == asdict(expected)
    assert found.differences[0]["hit_ratio"].p_holm == 2 * expected.p_value
    assert found.verdicts[0].startswith("other is better than one in HR@10")
    wide = contender("wide", ranked(60), ranked(141))  # the better seed of it is above the other
    assert compare([wide, other]).verdicts == ("other has the highest HR@10; from wide it cannot be told apart.",)


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
    assert {line.count("|") for line in lines[2:7]} == {6}
    assert lines[8].endswith("it cannot be told apart.")
    assert "  +0.0000 [+0.0000, +0.0000], p = 1.0000" in call("compare", *runs).stdout

    done = call("train", "--out", tmp_path / "sample", *TINY, "--iterations", 1)
    assert done.exit_code == 0
    refused = call("compare", runs[0], tmp_path / "sample")
    assert refused.exit_code == 1
    (line,) = refused.stderr.splitlines()
    assert "cannot be compared: their protocol is leave-one-out, 50 negatives, strict and leave-one-out, 999" in line
    assert "two networks at least" in call("compare", runs[0]).stderr
    assert call("compare", *runs, "--ranking", "full").stdout.startswith("leave-one-out, whole catalogue")

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


@pytest.fixture(scope="module")
def folder(tiny_data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of three seeds, one of them packed, one of another split, and ranks of two baselines."""
    path = tmp_path_factory.mktemp("contenders")
    data = tiny_data.save(path / "data")
    (path / "low").mkdir()
    for seed in range(3):
        model = ncf_ppt.fit(data, out=path / "low" / f"seed-{seed}", split=0, seed=seed, epochs=0.5, **SMALL)
    model.pack(path / "network.packed")
    ncf_ppt.fit(data, out=path / "full", split=1, epochs=0.5, **SMALL)
    for name in ("als", "bpr"):
        assert call("baseline", name, "--data", path / "data", "--per-user", path / f"{name}.parquet").exit_code == 0
    return path


def test_everything_can_be_compared(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    document = json.loads(
        call("compare", "als", "als.parquet", "low", "LOW=low/seed-0,low/seed-1,low/seed-2", "network.packed",
             "low/seed-2", "popular", "--json").stdout
    )  # fmt: skip
    rows = {row["run"]: row for row in document["runs"]}
    assert [row["kind"] for row in document["runs"]] == ["baseline"] * 2 + ["network"] * 4 + ["baseline"]
    assert rows["als"]["hit_ratio"] == rows["als.parquet"]["hit_ratio"]
    assert rows["als.parquet"]["differences"]["ndcg"]["p_value"] == 1
    assert len(rows["low"]["seeds"]["ndcg"]) == 3
    assert {**rows["low"], "run": "LOW"} == rows["LOW"]
    for metric in ("hit_ratio", "ndcg"):
        assert rows["network.packed"][metric] == pytest.approx(rows["low/seed-2"][metric], abs=0.02)
    assert "als is better than every network here" in "".join(document["verdicts"])
    only_files = call("compare", "als.parquet", "bpr.parquet").stdout
    assert only_files.startswith("leave-one-out, 50 negatives, strict; ties lost.")
    model = ncf_ppt.load("full")
    found = model.compare("als", ["low/seed-0", ncf_ppt.load("low/seed-1")], k=5)
    assert [each.name for each in found.contenders] == ["full", "als", "low/seed-*"]
    assert "HR@5" in repr(found)


def test_what_cannot_be_compared_is_one_line(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (tmp_path / "empty").mkdir()
    table = pq.read_table("als.parquet")
    pq.write_table(table.drop_columns("equal"), tmp_path / "columns.parquet")
    pq.write_table(table.replace_schema_metadata({}), tmp_path / "protocol.parquet")
    pq.write_table(table.slice(1), tmp_path / "users.parquet")
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 and no more")
    no_text = pa.array([b"\x80"] * len(table)).view(pa.string())
    pq.write_table(table.set_column(0, "user_id", no_text), tmp_path / "no-text.parquet")
    content = Path("als.parquet").read_bytes()
    (tmp_path / "no-name.parquet").write_bytes(content.replace(b"user_id", b"user_i\x80"))
    full = ["evaluate", "full", "--ranking", "full", "--per-user", str(tmp_path / "full.parquet")]
    assert call(*full).exit_code == 0
    assert call("evaluate", "low/seed-0", "--per-user", tmp_path / "low.parquet").exit_code == 0
    for entries, message in (
        (["als", "popular"], "als is a baseline, which must be fitted: name the prepared data with --data, or a run"),
        (["als", "svd", "--data", "data"], "svd is neither a run, a packed file, a Parquet file of ranks, a folder of"),
        (["full", tmp_path / "empty"], "is no run folder and holds neither runs nor Parquet files of ranks"),
        (
            ["als", "full,low/seed-0"],
            "full and low/seed-0 are no seeds of one thing (full,low/seed-0): their split is 1",
        ),
        (["als", "low/seed-0,low/seed-0"], "have the same seed 0; name each seed once"),
        (["popular", "als,bpr", "--data", "data"], "als of als,bpr is a baseline, which is fitted with seed 0 alone"),
        (
            ["als", "low/seed-0,als.parquet", "--data", "data"],
            "holds trained networks and files of ranks, which are no",
        ),
        (
            ["als.parquet", f"bpr.parquet,{tmp_path / 'low.parquet'}"],
            "holds ranks of implicit and torch, no seeds of one",
        ),
        (["full", tmp_path / "columns.parquet"], "is no file of ranks (it has no column equal); write one with"),
        (["full", tmp_path / "protocol.parquet"], "is no file of ranks (it has no protocol); write one with"),
        (["full", tmp_path / "damaged.parquet"], "damaged.parquet is damaged, or of another"),
        (["full", tmp_path / "no-text.parquet"], "no-text.parquet is damaged, or of another"),
        (["full", tmp_path / "no-name.parquet"], "no-name.parquet is damaged, or of another"),
        (["full", tmp_path / "users.parquet"], "cannot be compared: they were measured on different users; compare"),
        (["full", tmp_path / "full.parquet"], "strict and leave-one-out, whole catalogue without train items; compare"),
    ):
        done = call("compare", *entries)
        assert done.exit_code == 1, entries
        (line,) = done.stderr.splitlines()
        assert message in line
    assert call("compare", "als,bpr").exit_code == 2
