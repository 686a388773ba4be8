"""A server's models and processes come and go, and no request is lost."""

import contextlib
import http.client
import os
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

import ncf_ppt
from data_prep.ratings.interactions import PreparedData
from tests.serving import Load, Server, serving

SMALL: dict[str, Any] = {"factors": 4, "layers": (8, 8, 8, 4), "epochs": 1, "batch_size": 512}
USERS = list(range(1, 21))
PATHS = [f"/recommend?user={user}&k=5" for user in USERS]

pytestmark = pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="signals and open files as Unix has them")


@pytest.fixture(scope="module")
def folder(tiny_data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with prepared ``data``, two models ``first`` and ``second`` of them, and ``tokens``."""
    folder = tmp_path_factory.mktemp("processes")
    data = tiny_data.save(folder / "data")
    for seed, name in enumerate(("first", "second")):
        ncf_ppt.fit(data, split=0.5, seed=seed, **SMALL).pack(folder / name)
    (folder / "tokens").write_text("one-Token\nanother~1\n")
    return folder


@pytest.fixture(scope="module")
def lists(folder: Path) -> dict[str, dict[str, Any]]:
    """What each model lists, by path."""
    found = {}
    for name in ("first", "second"):
        entries = ncf_ppt.load(folder / name, data=folder / "data").recommend(USERS, k=5).to_dicts()
        found[name] = {path: entry["item_ids"] for path, entry in zip(PATHS, entries, strict=True)}
    assert found["first"] != found["second"]
    return found


def replace(model: Path, by: Path | bytes) -> None:
    """Put another file in the model's place at once."""
    beside = model.with_name("beside")
    beside.write_bytes(by if isinstance(by, bytes) else by.read_bytes())
    beside.replace(model)


def check(load: Load, lists: dict[str, dict[str, Any]]) -> set[str]:
    """Nothing was lost, and each answer is one model's; return the models that answered."""
    assert load.lost == []
    models: dict[str, set[str]] = {}
    for path, answer in load.answers:
        found = answer["recommendations"][0]["item_ids"]
        models.setdefault(answer["model"], set(lists)).intersection_update(
            name for name in lists if lists[name][path] == found
        )
    assert all(len(names) == 1 for names in models.values()), models
    return set.union(*models.values())


def test_models_and_workers_come_and_go_and_nothing_is_lost(
    folder: Path, lists: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copy(folder / "first", model)
    with serving(model, "--data", folder / "data", "--workers", 2, "--grace", 60) as server:
        wait_until(lambda: server.counter("ppt_workers") == 2)
        first = workers(server)
        with Load(server, PATHS) as load:
            replace(model, folder / "second")
            server.wait_for("has changed: it is loaded anew")
            server.wait_for("is served anew")
            damaged = bytearray((folder / "first").read_bytes())
            damaged[-9] ^= 1
            replace(model, bytes(damaged))
            assert "was changed after it was written" in server.wait_for(
                "the new model is refused, and the old one goes on: "
            )
            replace(model, folder / "first")
            wait_until(lambda: sum("is served anew" in line for line in server.said) == 2)
            for _ in range(3):  # whoever asks again is not in the way of what was begun
                server.send_signal(signal.SIGUSR1)
                time.sleep(0.2)
            wait_until(lambda: len(workers(server)) == 2 and not first & workers(server))
            time.sleep(0.5)
        assert check(load, lists) == {"first", "second"}
        assert server.counter("ppt_model_swaps_total") == 2
        assert server.counter("ppt_models_refused_total") == 1
        assert server.counter("ppt_requests_total") > len(load.answers)  # workers that ended count, too
        wait_until(lambda: len(workers(server)) == 2 and server.counter("ppt_workers") == 2)
        victim = min(workers(server))
        os.kill(victim, signal.SIGKILL)
        server.wait_for("a worker ended with code -9; another one is started")
        wait_until(lambda: len(workers(server)) == 2 and server.counter("ppt_workers") == 2)
        assert server.counter("ppt_worker_restarts_total") == 1
        children = workers(server)
        kept = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        kept.request("GET", PATHS[0])
        assert kept.getresponse().read()
        with Load(server, PATHS) as load, contextlib.closing(kept):
            wait_until(lambda: len(load.answers) > 20)
            server.send_signal(signal.SIGTERM)
            assert server.process.wait(40) == 0  # less than the grace: who asks nothing any more is not waited for
        check_until_the_end(load, lists)
        assert not any(Path(f"/proc/{child}").exists() for child in children)


def check_until_the_end(load: Load, lists: dict[str, dict[str, Any]]) -> None:
    """After the end nobody listens: that is all that may go wrong."""
    assert all("ConnectionRefusedError" in each for each in load.lost), load.lost[:3]
    load.lost.clear()
    assert check(load, lists) == {"first"}


def test_a_token_is_asked_for_and_workers_do_not_outlive_their_supervisor(folder: Path) -> None:
    arguments = ["--data", folder / "data", "--token-file", folder / "tokens", "--host", "0.0.0.0", "--grace", 1]
    with serving(folder / "first", *arguments) as server:
        for wrong in ("", "Bearer wrong", "Basic one-Token", "Bearer"):
            answer = server.ask(PATHS[0], headers={"Authorization": wrong})
            assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert answer.json["detail"] == "a token is needed: send it as Authorization: Bearer TOKEN"
        assert server.ask("/metrics").status == 401
        for token in ("one-Token", "another~1"):
            assert server.ask(PATHS[0], headers={"Authorization": f"Bearer {token}"}).status == 200
        assert [server.ask(path).status for path in ("/healthz", "/readyz", "/")] == [200] * 3
        assert not any("--token-file" in line for line in server.said)
        children = workers(server)
        assert children
        server.send_signal(signal.SIGUSR1)
        wait_until(lambda: workers(server) - children)
        os.kill(min(workers(server) - children), signal.SIGKILL)
        server.wait_for("a new worker ended with code -9 before it answered; the old one goes on")
        assert workers(server) == children
        server.process.kill()
        server.process.wait()
        wait_until(lambda: not any(Path(f"/proc/{child}").exists() for child in children))


def workers(server: Server) -> set[int]:
    """The processes that answer."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = re.search(r"^PPid:\s(\d+)$", (process / "status").read_text(), re.MULTILINE)
            if parent and int(parent[1]) == server.process.pid and b"http.worker" in (process / "cmdline").read_bytes():
                found.add(int(process.name))
        except OSError:
            pass
    return found


def wait_until(holds: Any, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)
