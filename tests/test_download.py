import contextlib
import hashlib
import re
import ssl
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from data_prep.ratings import download
from data_prep.ratings.any_source import prepare_source
from data_prep.ratings.download import KNOWN_DATASETS, KnownDataset, fetch
from ppt_core.errors import DataError
from ppt_core.runs.partial_files import held

CONTENT = bytes(range(256)) * 1000


class Handler(BaseHTTPRequestHandler):
    """/good answers with what the server holds, /other with other bytes, /short and /slow break off; else 404.

    /parts is as /good, and sends a part if it is asked for one; /half breaks off in the middle.
    """

    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        self.server.requests.append(self.path)
        kind = self.path.split("/")[1]
        if kind not in ("good", "other", "short", "slow", "parts", "half"):
            self.send_error(404)
            return
        if kind == "slow":
            self.server.released.wait(10)
        content = self.server.content if kind in ("good", "parts", "half") else b"a login page"
        length = len(content) + (5 if kind == "short" else 0)
        start = int(self.headers.get("Range", "bytes=0-")[6:-1]) if kind == "parts" else 0
        if start >= length:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{length - 1}/{length}")
        self.send_header("Content-Length", str(length - start))
        self.end_headers()
        content = content[start : length // 2 if kind == "half" else None]
        self.server.sent.append(len(content))
        with contextlib.suppress(BrokenPipeError):  # the client of /slow has gone
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """Stay silent."""


class Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.requests: list[str] = []
        self.sent: list[int] = []
        self.released = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


def dataset(*urls: str, content: bytes = CONTENT) -> KnownDataset:
    return KnownDataset(name="ml-x", sha256=hashlib.sha256(content).hexdigest(), urls=urls)


def test_a_download_is_checked_kept_and_used_again(server: Server, tmp_path: Path) -> None:
    cache = tmp_path / "new" / "cache"
    for _ in range(2):
        archive = fetch(dataset(f"{server.url}/good/ml-x.zip"), cache=cache, progress=False)
        assert archive == cache / "ml-x.zip"
        assert archive.read_bytes() == CONTENT
    assert server.requests == ["/good/ml-x.zip"]
    assert [file.name for file in cache.iterdir()] == ["ml-x.zip"]


def test_a_cached_archive_needs_no_address(tmp_path: Path) -> None:
    (tmp_path / "ml-x.zip").write_bytes(CONTENT)
    assert fetch(dataset(), cache=tmp_path).read_bytes() == CONTENT


def test_a_changed_archive_is_fetched_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "ml-x.zip").write_bytes(CONTENT[:-1])
    assert fetch(dataset(f"{server.url}/good"), cache=tmp_path, progress=False).read_bytes() == CONTENT
    assert len(server.requests) == 1


@pytest.mark.parametrize("bad", ["other", "missing", "short"])
def test_the_next_mirror_is_tried(server: Server, tmp_path: Path, bad: str) -> None:
    known = dataset(f"{server.url}/{bad}/1", f"{server.url}/good/2", f"{server.url}/good/3")
    assert fetch(known, cache=tmp_path, progress=False).read_bytes() == CONTENT
    assert server.requests == [f"/{bad}/1", "/good/2"]
    assert [file.name for file in tmp_path.iterdir()] == ["ml-x.zip"]


def test_when_every_mirror_fails_the_error_says_all_of_it(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(download, "_TIMEOUT_S", 0.2)
    with Server() as closed:
        dead = closed.url
    paths = ("other", "missing", "slow")
    urls = [*(f"{server.url}/{path}" for path in paths), dead, server.url.replace("http:", "https:")]
    with pytest.raises(DataError) as caught:
        fetch(dataset(*urls), cache=tmp_path, progress=False)
    message = str(caught.value)
    reasons = ("wrong checksum", "HTTP status 404", "no answer in 0.2 s", "no connection", "no secure connection")
    failures = " or ".join(f"{url} ({reason})" for url, reason in zip(urls, reasons, strict=True))
    assert message.startswith(f"ml-x could not be downloaded from {failures}; fetch ml-x.zip with sha256 ")
    assert hashlib.sha256(CONTENT).hexdigest() in message
    assert message.endswith("run `ppt-ncf prepare ml-x --source FILE`")
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_an_interrupted_download_goes_on_where_it_broke_off(server: Server, tmp_path: Path) -> None:
    known = dataset(f"{server.url}/half")
    with pytest.raises(DataError, match="it broke off; the same command goes on"):
        fetch(known, cache=tmp_path, progress=False)
    begun = (tmp_path / "ml-x.zip.part").read_bytes()
    assert begun
    assert CONTENT.startswith(begun)
    for address in ("parts", "good"):  # the second sends no parts, and is asked for all
        (tmp_path / "ml-x.zip.part").write_bytes(CONTENT[:1000])
        archive = fetch(dataset(f"{server.url}/{address}"), cache=tmp_path, progress=False)
        assert archive.read_bytes() == CONTENT
        assert [file.name for file in tmp_path.iterdir()] == ["ml-x.zip"]
        archive.unlink()
    assert server.sent == [len(CONTENT) // 2, len(CONTENT) - 1000, len(CONTENT)]


@pytest.mark.parametrize("begun", [b"of another file", bytes(len(CONTENT)), CONTENT, CONTENT + b"more"])
def test_what_is_there_of_other_bytes_is_fetched_anew(server: Server, tmp_path: Path, begun: bytes) -> None:
    (tmp_path / "ml-x.zip.part").write_bytes(begun)
    assert fetch(dataset(f"{server.url}/parts"), cache=tmp_path, progress=False).read_bytes() == CONTENT
    assert [file.name for file in tmp_path.iterdir()] == ["ml-x.zip"]


def test_two_downloads_at_once_do_not_mix(server: Server, tmp_path: Path) -> None:
    begun = tmp_path / "ml-x.zip.part"
    begun.write_bytes(b"of a living process")
    with held(begun) as is_ours:
        assert is_ours
        assert fetch(dataset(f"{server.url}/parts"), cache=tmp_path, progress=False).read_bytes() == CONTENT
        assert begun.read_bytes() == b"of a living process"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["ml-x.zip", "ml-x.zip.part"]


def test_an_invalid_certificate_is_called_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import requests

    expired = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate has expired")
    assert download._reason(requests.exceptions.SSLError(expired)) == "its certificate is not valid"


def test_progress_goes_to_standard_error(server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fetch(dataset(f"{server.url}/good"), cache=tmp_path / "a", progress=False)
    assert capfd.readouterr() == ("", "")
    fetch(dataset(f"{server.url}/good"), cache=tmp_path / "b", progress=True)
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "256k" in shown.err


def test_a_cache_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"the cache .*file cannot be used \(.*\); .* --source FILE`$") as caught:
        fetch(dataset("http://127.0.0.1:1"), cache=tmp_path / "file", progress=False)
    assert "\n" not in str(caught.value)


def test_the_default_cache_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import platformdirs

    monkeypatch.setattr(platformdirs, "user_cache_path", lambda project: tmp_path / project)
    (tmp_path / "ppt-ncf").mkdir()
    (tmp_path / "ppt-ncf" / "ml-x.zip").write_bytes(CONTENT)
    assert fetch(dataset()) == tmp_path / "ppt-ncf" / "ml-x.zip"


def test_a_known_data_set_is_prepared_from_what_was_downloaded(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "upload", "w") as archive:
        rows = [(user, (user + n) % 9, n) for user in range(6) for n in range(3)]
        archive.writestr("ml-x/README.txt", "read me")
        archive.writestr("ml-x/u.data", "".join(f"{user}\t{item}\t5\t{10**9 + time}\n" for user, item, time in rows))
    server.content = (tmp_path / "upload").read_bytes()
    known = dataset(f"{server.url}/good", content=server.content)
    monkeypatch.setattr("data_prep.ratings.sources.KNOWN_DATASETS", {"ml-x": known})
    arguments = {"min_ratings": 3, "n_negatives": 4, "cache": tmp_path / "cache", "progress": False}
    data = prepare_source("ml-x", tmp_path / "out", **arguments)  # type: ignore[arg-type]
    assert (data.n_users, data.n_items, len(data.train)) == (6, 8, 12)
    source = {"name": "ml-x", "file": "ml-x.zip", "sha256": known.sha256, "is_official": True, "n_rows": 18}
    assert data.manifest["source"] == source


def test_every_known_data_set_has_a_checksum_and_an_address() -> None:
    assert list(KNOWN_DATASETS) == ["ml-100k", "ml-1m", "ml-20m", "ml-25m", "ml-32m"]
    for name, known in KNOWN_DATASETS.items():
        assert known.name == name
        assert re.fullmatch("[0-9a-f]{64}", known.sha256)
        assert known.urls
        assert all(url.startswith("https://") and url.endswith(f"/{name}.zip") for url in known.urls)
    assert len({known.sha256 for known in KNOWN_DATASETS.values()}) == 5
