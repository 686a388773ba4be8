"""The page about runs: what it measures, and that it holds all of it."""

import html
import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ncf_ppt
from cli import main
from data_prep.ratings.interactions import PreparedData
from ncf_ppt.contenders import per_user
from ncf_ppt.paired_tests import mean_interval
from ncf_ppt.ranking import Ranks
from ncf_ppt.report import figures
from ncf_ppt.report.measured import groups_of_users, measure_runs
from ncf_ppt.trained import TrainedNCF
from ppt_core.errors import DataError
from tests import reference
from tests.command_line import CommandLine

SMALL: dict[str, Any] = {"factors": 4, "layers": (8, 8, 8, 4), "batch_size": 512}


@pytest.fixture(scope="module")
def runs(tiny_data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> list[TrainedNCF]:
    folder = tmp_path_factory.mktemp("runs")
    data = tiny_data.save(folder / "data")
    return [ncf_ppt.fit(data, out=folder / f"run<{split}>", split=split, epochs=2, **SMALL) for split in (1, 0.5)]


def test_groups_part_all_users_by_a_count() -> None:
    rng = np.random.default_rng(0)
    ranks = Ranks(above=rng.integers(0, 30, 500), equal=np.zeros(500, np.int64))
    counts = rng.integers(0, 40, 500) ** 2
    groups = list(groups_of_users(ranks, counts, 10))
    assert len(groups) == 5
    assert all(first.highest < second.lowest for first, second in itertools.pairwise(groups))
    for group in groups:
        chosen = [
            rank for rank, count in zip(ranks.above, counts, strict=True) if group.lowest <= count <= group.highest
        ]
        assert group.n_users == len(chosen)
        assert group.hit_ratio.mean == pytest.approx(sum(rank < 10 for rank in chosen) / len(chosen))
        assert group.median_rank == np.median(chosen) + 1
        assert 60 < group.n_users < 140
    assert sum(group.n_users for group in groups) == 500
    (one,) = groups_of_users(ranks, np.full(500, 7), 10)  # equal counts stay together
    assert (one.lowest, one.highest, one.n_users) == (7, 7, 500)
    mostly = np.array([1] * 450 + [2] * 50)
    assert [group.n_users for group in groups_of_users(ranks, mostly, 10)] == [450, 50]


def test_the_interval_of_a_mean() -> None:
    values = np.random.default_rng(1).random(200).round(1)
    found = mean_interval(values)
    lower, upper = reference.bootstrap_interval(values.tolist(), 4000, seed=2)
    assert found.mean == pytest.approx(values.mean())
    assert found.lower == pytest.approx(lower, abs=0.06 * (upper - lower))
    assert found.upper == pytest.approx(upper, abs=0.06 * (upper - lower))
    with pytest.raises(ValueError, match="there are no users"):
        mean_interval(values[:0])


def test_a_report_measures_what_evaluate_does(runs: list[TrainedNCF]) -> None:
    report = measure_runs(runs, k=5, titles={str(item): f"<{item}>" for item in runs[0].data.item_ids.tolist()})
    for run, trained in zip(report.runs, runs, strict=True):
        expected = trained.evaluate(k=5)
        assert run.metrics["hit_ratio"].mean == pytest.approx(expected.hit_ratio())
        assert run.metrics["ndcg"].mean == pytest.approx(expected.ndcg())
        assert run.catalogue is not None
        whole = trained.evaluate(ranking="full", k=5).to_dict()
        assert run.catalogue.metrics(5) == {key: whole[key] for key in run.catalogue.metrics(5)}
        assert sum(group.n_users for group in run.by_activity) == expected.n_users
        assert [line["epochs"] for line in run.history] == [1, 2]
    data = runs[0].data
    popularity = [int((data.train.items == item).sum()) for item in data.test_items.tolist()]
    activity = np.diff(data.train.offsets)[: data.n_tested].tolist()
    for groups, counts in ((report.runs[0].by_popularity, popularity), (report.runs[0].by_activity, activity)):
        assert (groups[0].lowest, groups[-1].highest) == (min(counts), max(counts))
        for group in groups:
            chosen = [n for n, count in enumerate(counts) if group.lowest <= count <= group.highest]
            gains = per_user(runs[0].evaluate(k=5).ranks, 5)["ndcg"][chosen]
            assert group.n_users == len(chosen)
            assert group.ndcg.mean == pytest.approx(gains.mean())
    few, _, many = report.samples
    assert few.n_known < many.n_known
    for sample in report.samples:
        user = int(np.flatnonzero(data.user_ids == int(sample.user))[0])
        held_out = str(data.item_ids[data.test_items[user]])
        assert (sample.n_known, sample.held_out) == (activity[user], f"<{held_out}>")
        for listed, at in zip(sample.lists, sample.held_out_at, strict=True):
            assert at == (listed.index(sample.held_out) if sample.held_out in listed else None)
        assert data.history is not None
        latest = data.history[data.train.offsets[user + 1] - 1]
        assert sample.last[0] == f"<{data.item_ids[latest]}>"
    assert many.held_out.startswith("<")
    user = int(many.user)
    assert list(many.lists[1]) == [f"<{item}>" for item in runs[1].recommend([user]).to_dicts()[0]["item_ids"]]
    assert measure_runs(runs[:1], catalogue=False).runs[0].catalogue is None


def test_one_page_holds_it_all_and_needs_nothing_else(runs: list[TrainedNCF], tmp_path: Path) -> None:
    ncf = CommandLine(main)
    names = [run.name for run in runs]
    found = ncf.succeed("report", *names, "--out", tmp_path / "page.html")
    assert found["runs"][names[0]]["hit_ratio"] == runs[0].evaluate().hit_ratio()
    text = (tmp_path / "page.html").read_text("utf-8")
    assert text.startswith("<!doctype html>")
    assert not re.search(r"(src|href)=\"(?!#)|@import|url\((?!#)", text)
    assert "run<" not in text  # names are escaped
    for heading in ("How good they are", "Learning curves", "By how popular", "By how active", "What some users",
                    "How they were made", "settings that differ"):  # fmt: skip
        assert heading in text
    assert text.count("<svg ") == 6
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(<td>.*?)</tr>", text)]
    report = measure_runs(runs)
    for run in report.runs:
        metrics, ties, whole, *groups = [row[1:] for row in rows if row[0] == html.escape(run.name)]
        assert run.catalogue is not None
        assert metrics[:2] == [
            f"{shown(each.mean)} ({shown(each.lower)} to {shown(each.upper)})"
            for each in (run.metrics["hit_ratio"], run.metrics["ndcg"])
        ]
        assert metrics[2:] == [f"{run.history[-1]['epochs']:.2f}", f"{run.history[-1]['seconds']:,.1f}"]
        of_ties = run.evaluation.ranks.metrics(10)
        assert ties == [
            *(shown(of_ties[key]) for key in ("hit_ratio", "expected_hit_ratio")),
            f"{of_ties['tie_rate']:.1%}",
        ]
        of_whole = run.catalogue.metrics(10)
        assert whole == [*(shown(of_whole[key]) for key in ("hit_ratio", "ndcg", "mrr")), f"{of_whole['coverage']:.1%}"]
        wanted = [*run.by_popularity, *run.by_activity]
        assert [row[:2] for row in groups] == [[f"{g.lowest:,} to {g.highest:,}", f"{g.n_users:,}"] for g in wanted]
        assert [row[3] for row in groups] == [shown(group.ndcg.mean) for group in wanted]
    assert text.count("✓") == sum(at is not None for sample in report.samples for at in sample.held_out_at)
    assert f"source {runs[0].run.config.provenance['source'][:12]}" in text
    assert str(tmp_path.parent) not in text.replace(names[0].rsplit("/", 1)[0].replace("<", "&lt;"), "")
    assert ncf.fail("report", *names, "--out", tmp_path / "page.html").endswith(
        "page.html already exists; choose another output or remove it first"
    )
    one = ncf.call("report", names[1], "--no-catalogue", "--out", tmp_path / "one.html")
    assert one.exit_code == 0
    assert "coverage" not in (tmp_path / "one.html").read_text("utf-8")


def shown(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


@pytest.mark.parametrize(
    ("phases", "switch"), [({"als": 0, "full": 10, "low": 30}, 1), ({"full": 40}, None), ({"low": 40}, None)]
)
def test_the_line_stands_where_precision_falls(phases: dict[str, int], switch: float | None) -> None:
    line = {"epochs": 4, "phases": [{"precision": name, "iterations": n} for name, n in phases.items()]}
    assert figures._switch(line) == switch


def test_what_has_no_report_is_one_line(
    runs: list[TrainedNCF], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ncf = CommandLine(main)
    runs[1].pack(tmp_path / "packed")
    for arguments, message, code in (
        ((tmp_path / "packed", "--data", runs[0].data.path), "is a packed network; load the run", 2),
        ((runs[0].name, runs[0].name), "is named 2 times; name each run once", 1),
    ):
        assert message in ncf.fail("report", *arguments, "--out", tmp_path / "x.html", code=code)
    packed = ncf_ppt.load(tmp_path / "packed", data=runs[0].data)
    with monkeypatch.context() as patch:
        patch.setattr(TrainedNCF, "evaluate", lambda *_, **__: pytest.fail("measured before all were looked at"))
        with pytest.raises(ValueError, match="is a packed network"):
            measure_runs([runs[0], packed])
    other = ncf_ppt.fit(ncf_ppt.load_data(), out=tmp_path / "other", iterations=1, **SMALL)
    with pytest.raises(DataError, match="cannot be compared: their protocol is"):
        measure_runs([runs[0], other])
    with pytest.raises(ValueError, match="a report needs a run"):
        measure_runs([])
