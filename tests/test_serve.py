"""`ppt-ncf serve`: a real server on a free port, asked as clients ask, and the library's answers beside its own."""

import concurrent.futures
import contextlib
import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import ncf_ppt
from cli import main
from data_prep.ratings.interactions import PreparedData
from ncf_ppt.http.settings import Settings
from tests.browser import PROGRAM as PROGRAM_OF_BROWSER
from tests.browser import browser
from tests.command_line import CommandLine
from tests.serving import Server, serving

SMALL: dict[str, Any] = {"factors": 4, "layers": (8, 8, 8, 4), "epochs": 1, "batch_size": 512}
LIMITS = ["--max-k", 200, "--max-users", 50, "--max-bytes", 5000, "--timeout", 2, "--grace", 5]
PROGRAM = CommandLine(main)


@pytest.fixture(scope="module")
def folder(tiny_data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with prepared ``data``, ``packed``, and ``titles.csv`` of some items."""
    folder = tmp_path_factory.mktemp("serve")
    ncf_ppt.fit(tiny_data.save(folder / "data"), out=folder / "run", split=0.5, **SMALL).pack(folder / "packed")
    rows = [f'{item},"Number <b>{item}</b>, café"' for item in range(1, 100)]
    (folder / "titles.csv").write_text("\n".join(["item_id,title", *rows]), "utf-8")
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> ncf_ppt.TrainedNCF:
    return ncf_ppt.load(folder / "packed", data=folder / "data")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    arguments = [folder / "packed", "--data", folder / "data", "--titles", folder / "titles.csv", *LIMITS]
    with serving(*arguments, log=folder / "access.log") as server:
        yield server
        assert server.stop() == 0


def test_lists_are_those_of_the_library(server: Server, model: ncf_ppt.TrainedNCF, folder: Path) -> None:
    expected = model.recommend([3, 1], k=7).with_titles(folder / "titles.csv").to_dicts()
    for each in expected:
        del each["is_new"]
    for found in (
        server.ask("/recommend?user=3&user=1&k=7").json,
        server.ask("/recommend", {"users": [3, "1"], "k": 7}).json,
    ):
        assert found["recommendations"] == expected
        assert (found["protocol_version"], found["k"]) == (1, 7)
    seen = server.ask("/recommend?user=3&k=150&include_seen=true").json["recommendations"]
    assert seen[0]["item_ids"] == model.recommend([3], k=150, include_seen=True).item_ids.tolist()
    chosen = server.ask(
        "/recommend", {"users": [3], "items": [5, 6, 7, 12345], "exclude": [6], "include_seen": True}
    ).json
    assert chosen["n_unknown_items"] == 1
    among = model.recommend([3], items=[5, 7], include_seen=True)
    assert chosen["recommendations"][0]["item_ids"] == among.item_ids.tolist()
    assert (
        server.ask("/recommend?user=3&items=5&items=7&include_seen=1").json["recommendations"]
        == chosen["recommendations"]
    )
    had = server.ask("/user?user=3").json
    assert had["item_ids"] == model.data.item_ids[model.data.train.items_of(2)].tolist()
    assert len(had["titles"]) == len(had["item_ids"])


def test_somebody_unknown_is_read_from_a_history(server: Server, model: ncf_ppt.TrainedNCF) -> None:
    history = [7, 3, 11, 3]
    frame = {"user_id": [1] * 4, "item_id": history, "timestamp": [1, 2, 3, 4]}
    (expected,) = model.recommend(history=pd.DataFrame(frame), k=5).to_dicts()
    found = server.ask("/recommend", {"history": [*history, 999], "k": 5}).json
    assert found["n_unknown_items"] == 1
    (entry,) = found["recommendations"]
    assert (entry["user_id"], entry["item_ids"], entry["scores"]) == (None, expected["item_ids"], expected["scores"])
    assert not {3, 7, 11} & set(entry["item_ids"])
    with_seen = server.ask("/recommend?history=7&history=3&history=11&include_seen=1&k=150").json["recommendations"]
    assert len(with_seen[0]["item_ids"]) == 150


def test_scores_and_items_alike_are_those_of_the_library(server: Server, model: ncf_ppt.TrainedNCF) -> None:
    expected = model.score([(3, 1), (1, 2), (3, 2)]).to_dicts()
    assert server.ask("/score", {"pairs": [[3, 1], [1, "2"], [3, 2]]}).json["scores"] == expected
    assert server.ask("/score?user=3&item=1&item=2").json["scores"] == expected[::2]
    alike = model.similar([5, 9], k=4).to_dicts()
    for found in (
        server.ask("/similar?item=5&item=9&k=4").json,
        server.ask("/similar", {"items": [5, 9], "k": 4}).json,
    ):
        for each, other in zip(found["similar"], alike, strict=True):
            assert {name: each[name] for name in other} == other
            assert "title" in each
            assert len(each["similar_titles"]) == 4


def test_requests_together_are_scored_together_and_answered_alike(server: Server) -> None:
    alone = [server.ask(f"/recommend?user={user}").json for user in range(1, 41)]
    calls, rows = server.counter("ppt_engine_calls_total"), server.counter("ppt_engine_rows_total")
    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        together = list(pool.map(lambda user: server.ask(f"/recommend?user={user}").json, range(1, 41)))
    assert together == alone
    assert server.counter("ppt_engine_rows_total") - rows == 40
    assert server.counter("ppt_engine_calls_total") - calls < 40


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/recommend?user=999", None, 404, "user 999 is unknown: the training data hold 120 users with ids"),
        ("/recommend?user=x", None, 400, "user 'x' cannot be an id of these data, whose user ids"),
        ("/recommend", None, 400, "users is missing"),
        ("/recommend?user=1&k=0", None, 400, "k is 0; it must be at least 1 and at most 200"),
        ("/recommend?user=1&k=201", None, 400, "k is 201"),
        ("/recommend?user=1&k=ten", None, 400, "k is 'ten'; it must be an integer"),
        ("/recommend?user=1&kk=2", None, 400, "parameter 'kk' is unknown; it must be one of user, history, k"),
        ("/recommend?user=1&k=2&k=3", None, 400, "parameter k is there twice"),
        ("/recommend?user=%ff", None, 400, "the query cannot be read"),
        ("/recommend?user=1&include_seen=maybe", None, 400, "include_seen is 'maybe'; it must be true or false"),
        ("/recommend", {"users": list(range(51))}, 400, "users holds 51 entries; it must be at most 50"),
        ("/recommend", {"users": [True]}, 400, "user True cannot be an id"),
        ("/recommend", {"users": [1.5]}, 400, "user 1.5 cannot be an id"),
        ("/recommend", {"users": 1}, 400, "users is 1; it must be a list"),
        ("/recommend", {"users": [1], "items": [12345]}, 400, "none of the 150 items of the catalogue is left"),
        ("/recommend", {"users": [1], "top": 3}, 400, "field 'top' is unknown; it must be one of users, history, k"),
        ("/recommend", [1], 400, "the body is no JSON object ([1])"),
        ("/recommend", b"{", 400, "the body is no JSON object"),
        ("/recommend", b"[" * 4000, 400, "the body is no JSON object"),
        ("/recommend", b" " * 5001, 413, "the body is larger than 5,000 bytes"),
        ("/recommend", {"users": [1], "history": [1]}, 400, "history is there with users; name either"),
        ("/recommend", {"history": [999]}, 400, "no item of the history is in the catalogue (it begins with 999)"),
        ("/score", {"pairs": [[1]]}, 400, "pairs holds [1]; it must be lists of a user and an item"),
        ("/score?item=1", None, 400, "user is missing"),
        ("/similar?item=0", None, 404, "item 0 is unknown: the training data hold 150 items"),
        ("/%0d%0aX-Bad:1", None, 404, r"'/\r\nX-Bad:1' is nothing that is here"),
        ("/user", {"user": 1}, 405, "/user takes GET and HEAD, not 'POST'"),
    ],
)  # fmt: skip
def test_a_bad_request_is_a_problem_of_one_line(server: Server, path: str, body: Any, status: int, words: str) -> None:
    answer = server.ask(path, body)
    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["ppt-protocol-version"] == "1"
    problem = answer.json
    assert words in problem["detail"]
    assert "\n" not in problem["detail"]
    assert (problem["status"], problem["protocol_version"], problem["type"]) == (status, 1, "about:blank")
    assert server.ask("/healthz").status == 200


def test_what_is_no_http_is_refused_and_slow_clients_are_let_go(server: Server, folder: Path) -> None:
    def open_with(octets: bytes) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", server.port), timeout=15)
        client.sendall(octets)
        return client

    with open_with(b"\x16\x03\x01 hello\r\n\r\n") as client:
        assert client.recv(999).startswith(b"HTTP/1.1 400 ")
    half = [open_with(b"GET /recommend?user=1 HTTP/1.1\r\nHost: x\r\nX-Slow: ") for _ in range(20)]
    half += [open_with(b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{") for _ in range(20)]
    half += [open_with(b"") for _ in range(20)]
    start = time.monotonic()
    assert server.ask("/recommend?user=1").status == 200
    assert time.monotonic() - start < 2
    assert half[0].recv(999).startswith(b"HTTP/1.1 408 ")
    for client in half:
        with client, contextlib.suppress(ConnectionError):
            while client.recv(999):
                pass
    with open_with(b"GET / HTTP/1.1\r\nHost: x\r\nX: ") as client:
        client.sendall(b"y" * (1 << 16))
        assert client.recv(999).startswith(b"HTTP/1.1 431 ")
    counters = server.ask("/metrics").body.decode()
    for status, n in ((400, 1), (408, 40), (431, 1)):
        assert f'ppt_requests_total{{route="other",status="{status}"}} {n}\n' in counters
    time.sleep(0.3)
    logged = [json.loads(line) for line in (folder / "access.log").read_text("ascii").splitlines()]
    assert [line["status"] for line in logged if not line["path"]].count(431) == 1


def test_the_log_says_what_was_asked_for_and_not_by_whom_about_whom(server: Server, folder: Path) -> None:
    server.ask("/recommend?user=77&k=3")
    server.ask("/%22%0a%00%1b[31m")
    time.sleep(0.3)
    lines = [json.loads(line) for line in (folder / "access.log").read_text("ascii").splitlines()]
    assert {"time", "method", "path", "status", "ms", "bytes", "client"} == set(lines[-1])
    assert lines[-1]["path"] == '/"\n\x00\x1b[31m'
    assert lines[-2]["path"] == "/recommend"
    assert "user=" not in (folder / "access.log").read_text()


def test_metrics_and_openapi_are_what_they_claim_to_be(server: Server) -> None:
    text = server.ask("/metrics").body.decode()
    for line in text.splitlines():
        assert line.startswith("# ") or len(line.rsplit(" ", 1)) == 2, line
    assert 'ppt_requests_total{route="healthz",status="200"}' in text
    counts = [float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if "seconds_bucket" in line]
    assert counts == sorted(counts)
    document = server.ask("/openapi.json").json
    assert document["openapi"] == "3.1.0"
    for path in document["paths"]:
        assert server.ask(path).status in (200, 400)
    assert server.ask("/readyz").json["status"] == "ok"


@pytest.mark.skipif(PROGRAM_OF_BROWSER is None, reason="no Chromium is installed, which looks at the page")
def test_the_page_shows_lists_in_a_real_browser(
    server: Server, model: ncf_ppt.TrainedNCF, folder: Path, tmp_path: Path
) -> None:
    titles = folder / "titles.csv"
    (expected,) = model.recommend([3], k=10).with_titles(titles).to_dicts()
    names = [title or str(item) for title, item in zip(expected["titles"], expected["item_ids"], strict=True)]
    shown = "[...document.querySelectorAll('{} li span')].map(each => each.textContent)"
    grounds = set()
    with browser(tmp_path / "profile") as page:
        for width, scheme in ((1280, "light"), (400, "dark")):
            page.open(f"http://127.0.0.1:{server.port}/", width, scheme)
            page.type("input[name=user]", "3")
            page.wait("document.querySelectorAll('#best li').length === 10")
            assert page.of(shown.format("#best")) == names
            assert len(page.of(shown.format("#had"))) == len(model.data.train.items_of(2))
            assert page.of("document.documentElement.scrollWidth <= innerWidth")
            assert page.of("document.querySelectorAll('li b').length") == 0  # a title is text
            grounds.add(page.of("getComputedStyle(document.querySelector('button')).backgroundColor"))
        page.type("input[name=user]", "999")
        page.wait("document.querySelector('#said').textContent.startsWith('user 999 is unknown: the training data')")
        assert page.of("[...document.querySelectorAll('section')].every(each => each.hidden)")
        assert page.complaints == []
    assert len(grounds) == 2  # light and dark


def test_the_page_loads_nothing_and_runs_nothing_but_its_own(server: Server) -> None:
    answer = server.ask("/")
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'sha256-")
    assert not re.search(rb"(src|href)=|url\(|@import|https?:|\bon\w+=", answer.body)


@pytest.mark.parametrize(
    ("host", "is_local"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("127.9.9.9", True), ("0.0.0.0", False), ("::", False)],
)
def test_whoever_opens_a_server_to_others_is_told(host: str, is_local: bool) -> None:
    assert Settings(model=Path("x"), host=host).is_local == is_local


def test_what_cannot_be_served_is_said(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(folder / "packed", "--data", tmp_path / "no", wait=False) as server:
        assert server.process.wait(60) == 1
        assert len(server.said) == 1
        assert server.said[0].startswith("Error: ")
    (tmp_path / "tokens").write_text("\n")
    with monkeypatch.context() as patch:
        patch.setattr("ncf_ppt.http.supervisor.find_spec", lambda name: None if name == "uvloop" else True)
        said = PROGRAM.fail("serve", folder / "packed")
        assert said == "Error: serving needs the package uvloop; `pip install 'ppt-ncf[serve]'` brings it"
    assert "holds no token" in PROGRAM.fail("serve", folder / "packed", "--token-file", tmp_path / "tokens")
    assert "log cannot be written (No such file or directory); choose another --access-log" in PROGRAM.fail(
        "serve", folder / "packed", "--access-log", tmp_path / "no" / "log"
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert "cannot be listened on (Address already in use); choose another --host or --port" in PROGRAM.fail(
            "serve", folder / "packed", "--port", port
        )
    assert "k is 20; it must be at most --max-k, 10" in PROGRAM.fail(
        "serve", folder / "packed", "-k", 20, "--max-k", 10, code=2
    )
