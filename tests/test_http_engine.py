"""The engine of a server, in this process: every kind of network answers as the library does, handed over or not."""

import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import ncf_ppt
from data_prep.ratings.interactions import PreparedData
from ncf_ppt.http.access_log import AccessLog
from ncf_ppt.http.app import App
from ncf_ppt.http.batcher import Batcher
from ncf_ppt.http.engine import Engine, Wanted
from ncf_ppt.http.handover import read_handover, write_handover
from ncf_ppt.http.known_ids import KnownIds, UnknownId
from ncf_ppt.http.loading import load_into
from ncf_ppt.http.metrics import BOUNDS, Metrics
from ncf_ppt.http.problems import Problem
from ncf_ppt.http.settings import Limits, Settings
from ppt_core.errors import DataError

SMALL: dict[str, Any] = {"epochs": 1, "batch_size": 512}
NETWORKS: dict[str, dict[str, Any]] = {
    "neumf": {"factors": 4, "layers": (8, 8, 8, 4), "split": 0.5},
    "mlp": {"model": "mlp", "layers": (8, 8, 8, 4), "split": 0.5},
    "gmf": {"model": "gmf", "factors": 64, "split": 0.5, "binarize_embeddings": "all"},
    "two towers": {"recipe": "warm"},
}


def lists_of(engine: Engine, wanted: list[Wanted]) -> Any:
    """What the engine finds, none of it an error."""
    found = engine.recommend(wanted)
    assert not any(isinstance(each, DataError) for each in found)
    return found


def engine_of(model: Path, data: Path | None, **options: Any) -> Engine:
    with tempfile.TemporaryFile() as file:
        load_into(file.fileno(), Settings(model=model, data=data, **options).to_dict())
        engine = read_handover(file)
    assert isinstance(engine, Engine)
    return engine


@pytest.fixture(scope="module", params=NETWORKS)
def trained(request: pytest.FixtureRequest, tiny_data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A packed network, its data, and the library's view of it."""
    folder = tmp_path_factory.mktemp("engine")
    data = tiny_data.save(folder / "data")
    ncf_ppt.fit(data, **SMALL | NETWORKS[request.param]).pack(folder / "packed")
    return folder, ncf_ppt.load(folder / "packed", data=folder / "data")


def test_lists_of_users_and_of_histories_in_one_call(trained: Any) -> None:
    folder, model = trained
    engine = engine_of(folder / "packed", folder / "data")
    expected = model.recommend([5, 2, 9], k=6).to_dicts()
    history = pd.DataFrame({"user_id": [1] * 3, "item_id": [7, 3, 11], "timestamp": [1, 2, 3]})
    expected += model.recommend(history=history, k=6).to_dicts()
    numbers = engine.users.numbers([5, 2, 9]).tolist()
    items = tuple(engine.items.numbers([7, 3, 11]).tolist())
    wanted = [*(Wanted(user=number, k=6) for number in numbers), Wanted(user=None, k=6, history=items)]
    wanted.insert(1, Wanted(user=numbers[0], k=150, include_seen=True))
    found = lists_of(engine, wanted)
    assert len(found.pop(1)[0]) == 150
    for (best, scores), other in zip(found, expected, strict=True):
        assert engine.items.of_numbers(best) == other["item_ids"]
        assert scores.tolist() == other["scores"]
    for one, together in zip([lists_of(engine, [each])[0] for each in wanted[2:]], found[1:], strict=True):
        assert [part.tolist() for part in one] == [part.tolist() for part in together]


def test_candidates_answer_as_the_library_does_with_them(trained: Any) -> None:
    folder, model = trained
    engine = engine_of(folder / "packed", folder / "data", candidates="auto", n_candidates=40)
    expected = model.recommend(None, k=10, candidates="auto", n_candidates=40).to_dicts()
    found = lists_of(engine, [Wanted(user=number, k=10) for number in range(120)])
    for (best, scores), other in zip(found, expected, strict=True):
        assert engine.items.of_numbers(best) == other["item_ids"]
        assert scores.tolist() == other["scores"]
    whole = engine_of(folder / "packed", folder / "data")  # candidates leave out what was seen, and nothing else
    left_out = np.zeros(len(engine.items), np.bool_)
    left_out[found[3][0][:4]] = True
    odd = [
        Wanted(user=3, k=10, include_seen=True),
        Wanted(user=3, k=10, left_out=left_out),
        Wanted(user=3, k=engine.longest + 5),
    ]
    for one, other_list in zip(lists_of(engine, odd), lists_of(whole, odd), strict=True):
        assert [part.tolist() for part in one] == [part.tolist() for part in other_list]
    with pytest.raises(DataError, match="candidates= are chosen by what users had; name the data of"):
        engine_of(folder / "packed", None, candidates="auto")


def test_without_data_nobody_knows_what_users_had(trained: Any) -> None:
    folder, _ = trained
    with tempfile.TemporaryFile() as file:
        notices = load_into(file.fileno(), Settings(model=folder / "packed").to_dict())
        engine = read_handover(file)
    assert notices == ["without data= nobody knows what users had: lists hold that, too"]
    ((best, _),) = lists_of(engine, [Wanted(user=0, k=150)])
    assert len(best) == 150


def test_a_model_that_is_not_there_is_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for name, words in (("nope", "nope"), ("run", "run")):
        with tempfile.TemporaryFile() as file, pytest.raises(DataError) as found:
            load_into(file.fileno(), Settings(model=tmp_path / name).to_dict())
        assert str(tmp_path / words) in str(found.value)
        assert "Errno" not in str(found.value)


def test_ids_of_any_type_are_found() -> None:
    texts = KnownIds.of("item", np.array(["é", "b", "", "7", "007"], object))
    assert texts.numbers(["b", "é", 7, "x", ""]).tolist() == [1, 0, 3, -1, 2]
    assert texts.of_numbers(np.array([4, 0])) == ["007", "é"]
    numbers = KnownIds.of("user", np.array([5, -3, 2**63 - 1, 0]))
    assert numbers.numbers(["5", -3, 2**63 - 1, 7]).tolist() == [0, 1, 2, -1]
    assert numbers.of_numbers(np.array([2])) == [2**63 - 1]
    with pytest.raises(UnknownId, match="user 7 is unknown: the training data hold 4 users with ids such as 5, -3, 92"):
        numbers.number("7")
    for value in (None, [5], 5.0, True, "5x", 2**63, "9" * 2000):
        with pytest.raises(DataError, match="cannot be an id"):
            numbers.number(value)


def test_equal_hashes_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ncf_ppt.http.known_ids._hash", lambda text: len(text))
    ids = KnownIds.of("item", np.array(["aa", "b", "cc", "dd"], object))
    assert ids.numbers(["dd", "b", "cc", "aa", "ee"]).tolist() == [3, 1, 2, 0, -1]


def test_arrays_are_handed_over_by_mapping() -> None:
    value = {"large": np.arange(10_000), "empty": np.empty((0, 3), np.float32), "small": np.arange(3), "text": "é"}
    with tempfile.TemporaryFile() as file:
        write_handover(value, file)
        first, second = read_handover(file), read_handover(file)
    for name in ("large", "empty", "small"):
        np.testing.assert_array_equal(first[name], value[name])
    assert first["large"].ctypes.data % 4096 == 0
    first["large"][0] = 7  # a copy of this process alone
    assert second["large"][0] == 0
    assert first["text"] == "é"


class _Slow:
    """An engine that notes what it is called with, and takes its time."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def recommend(self, rows: list[int]) -> list[int]:
        self.calls.append(list(rows))
        time.sleep(0.02)
        if 13 in rows:
            raise ValueError("thirteen")
        return [10 * row for row in rows]

    similar = score = recommend


def test_a_long_request_holds_up_nobody() -> None:
    engine: Any = _Slow()

    async def ask() -> None:
        batcher, soon = Batcher(lambda *_: None), time.monotonic() + 60
        long = asyncio.create_task(batcher.ask(engine, "recommend", range(100, 400), soon))
        await asyncio.sleep(0.01)
        short = await asyncio.gather(*(batcher.ask(engine, "recommend", [number], soon) for number in range(5)))
        assert not long.done()
        assert short == [[0], [10], [20], [30], [40]]
        assert await long == [10 * number for number in range(100, 400)]
        with pytest.raises(Problem, match="too busy to answer in time"):
            await batcher.ask(engine, "recommend", [1], time.monotonic() - 1)
        with pytest.raises(ValueError, match="thirteen"):
            await batcher.ask(engine, "recommend", [13], soon)
        assert await batcher.ask(engine, "recommend", [1], soon) == [10]
        batcher.close()

    asyncio.run(ask())
    assert {0, 1, 2, 3, 4} <= set(engine.calls[1])
    assert max(map(len, engine.calls)) <= 32


def test_what_goes_wrong_inside_is_a_problem_too(
    tiny_data: PreparedData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tiny_data.save(tmp_path / "data")
    ncf_ppt.fit(data, **SMALL | NETWORKS["neumf"]).pack(tmp_path / "packed")
    engine = engine_of(tmp_path / "packed", tmp_path / "data")
    recommend = engine.recommend

    def slow(wanted: Any) -> Any:
        time.sleep(0.05)
        return recommend(wanted)

    def broken(wanted: Any) -> Any:
        raise KeyError("secret of the request")

    async def ask(app: App, path: str, query: str = "") -> tuple[int, dict[bytes, bytes], bytes]:
        """One request, as a server hands it over."""
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope: dict[str, Any] = {
            "path": path,
            "method": "GET",
            "query_string": query.encode(),
            "headers": [],
            "client": None,
        }
        await app(scope, None, send)  # type: ignore[arg-type]
        return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]

    async def run(metrics: Metrics) -> None:
        log = AccessLog(None, lambda: None)
        app = App(engine, limits=Limits(max_requests=2), tokens=(), metrics=metrics, log=log)
        object.__setattr__(engine, "recommend", slow)
        answers = await asyncio.gather(*(ask(app, "/recommend", "user=1") for _ in range(3)))
        assert [status for status, _, _ in answers] == [200, 200, 429]
        assert answers[2][1][b"retry-after"] == b"1"
        assert b"2 requests are under way, as many as may be" in answers[2][2]
        assert (await ask(app, "/recommend", "user=1"))[0] == 200
        object.__setattr__(engine, "recommend", broken)
        status, _, body = await ask(app, "/recommend", "user=1")
        assert (status, json.loads(body)["detail"]) == (500, "the server failed; its log says more")
        object.__setattr__(engine, "recommend", lambda wanted: [engine._diverged(each.user) for each in wanted])
        status, _, body = await ask(app, "/recommend", "user=1")
        assert status == 500
        assert json.loads(body)["detail"].startswith("the scores of user 1 hold NaN, so nothing can be recommended")
        app.is_draining = True
        assert (await ask(app, "/readyz"))[0] == 503
        assert (await ask(app, "/healthz"))[1][b"connection"] == b"close"
        app.close()

    with tempfile.TemporaryFile() as file:
        Metrics.make(file, 1)
        metrics = Metrics(file, 0)
        asyncio.run(run(metrics))
        assert metrics.of("under_way", 0) == 0
        metrics.close()
    said = capsys.readouterr().err
    assert said.startswith("a request failed: KeyError in ")
    assert "secret" not in said
    assert len(said.splitlines()) == 1


def test_counters_of_all_processes_are_told_together() -> None:
    with tempfile.TemporaryFile() as file:
        Metrics.make(file, 3)
        first, second, third = (Metrics(file, row) for row in range(3))
        second.answered("score", 200, 0.0005)
        third.answered("score", 200, 99)
        third.answered("score", 999, BOUNDS[0])
        third.set("connections", 4)
        first.take_over(2)
        text = first.text('a"b\nc', "12ab").splitlines()
        assert 'ppt_requests_total{route="score",status="200"} 2' in text
        assert 'ppt_requests_total{route="score",status="500"} 1' in text
        assert 'ppt_request_seconds_bucket{le="0.001"} 2' in text
        assert 'ppt_request_seconds_bucket{le="+Inf"} 3' in text
        assert "ppt_connections 0" in text
        assert 'ppt_model{name="a\\"b\\nc",identity="12ab"} 1' in text
        for metrics in (first, second, third):
            metrics.close()
