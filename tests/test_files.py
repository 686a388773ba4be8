import contextlib
import errno
import hashlib
import json
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppt_core.errors import DataError
from ppt_core.runs.files import (
    NO_DIGEST,
    file_checksums,
    file_sha256,
    new_directory,
    read_json,
    refuse_existing,
    replaced_file,
    verify_checksums,
    write_json,
    writing,
)

OUTPUTS: list[Callable[..., Any]] = [new_directory, replaced_file]
DOCUMENT = {"format_version": 1, "name": "Amélie", "counts": [1, 2.5, None, True], "nested": {"zeros": NO_DIGEST}}


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """No file can grow beyond 4096 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def fail(output: Callable[[Path], Any], path: Path, error: type[BaseException]) -> None:
    with output(path) as partial:
        (partial / "file" if partial.is_dir() else partial).write_text("half")
        raise error("reason")


def one_line(raised: pytest.ExceptionInfo[DataError]) -> str:
    message = str(raised.value)
    assert "\n" not in message
    return message


# Outputs: complete or absent


def test_directory_appears_when_complete(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    with new_directory(path) as folder:
        (folder / "file").write_text("content")
        assert not path.exists()
        assert folder.parent == path.parent  # on the same disk, or the rename would copy
    assert (path / "file").read_text() == "content"
    assert os.listdir(path.parent) == ["b"]
    (tmp_path / "plain").mkdir()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_file_is_replaced_when_complete(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    for content in ("first", "second"):
        before = path.read_text() if path.exists() else None
        with replaced_file(path) as partial:
            partial.write_text(content)
            assert (path.read_text() if path.exists() else None) == before
        assert path.read_text() == content
    assert os.listdir(path.parent) == ["b"]
    (tmp_path / "plain").touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, DataError, FileNotFoundError, ConnectionError])
def test_failed_block_leaves_nothing(tmp_path: Path, output: Callable[[Path], Any], error: type[BaseException]) -> None:
    with pytest.raises(error, match=r"^reason$"):
        fail(output, tmp_path / "out", error)
    assert os.listdir(tmp_path) == []


def test_failed_block_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError):
        fail(replaced_file, path, ZeroDivisionError)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("output", OUTPUTS)
def test_killed_process_leaves_no_half(tmp_path: Path, output: Callable[[Path], Any]) -> None:
    code = f"""if True:
        import os, pathlib
        from ppt_core.runs.files import {output.__name__}
        with {output.__name__}(pathlib.Path("out")) as partial:
            (partial / "file" if partial.is_dir() else partial).write_text("half")
            os._exit(7)"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    killed = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=False)
    assert killed.returncode == 7
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["file", "folder", "link", "dangling link"])
def test_existing_output_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out"
    if kind == "file":
        path.write_text("old")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path if kind == "link" else tmp_path / "nowhere")
    before = path.lstat()
    for attempt in (refuse_existing, lambda path: new_directory(path).__enter__()):
        with pytest.raises(DataError) as raised:
            attempt(path)
        assert one_line(raised) == f"{path} already exists; choose another output or remove it first"
    assert path.lstat() == before
    assert os.listdir(tmp_path) == ["out"]


def test_output_that_appeared_meanwhile_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with pytest.raises(DataError, match="already exists"), new_directory(path):
        path.mkdir()  # empty: a plain rename would replace it
    assert os.listdir(tmp_path) == ["out"]


# Outputs: what the disk refuses


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("place", ["file/out", "x" * 300])
def test_place_that_cannot_be_written(tmp_path: Path, output: Callable[[Path], Any], place: str) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / place
    with pytest.raises(DataError) as raised, output(path):
        pass
    assert one_line(raised).startswith(f"{path} cannot be written (")
    assert one_line(raised).endswith("); free some space or choose another place")
    assert os.listdir(tmp_path) == ["file"]


def test_file_cannot_replace_a_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match=r"out cannot be written \(Is a directory\)"), replaced_file(tmp_path / "out"):
        pass
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("output", OUTPUTS)
def test_long_name(tmp_path: Path, output: Callable[[Path], Any]) -> None:
    path = tmp_path / ("é" * 127)  # 254 bytes, and 255 are allowed
    with output(path):
        pass
    assert path.exists()


def save_text(path: Path) -> None:
    path.write_text("x" * 10_000)


def save_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(10_000))  # its error carries no number


def save_json(path: Path) -> None:
    write_json(path, {"long": "x" * 10_000})


@pytest.mark.parametrize("save", [save_text, save_array, save_json])
def test_full_disk_leaves_nothing_and_names_the_output(tmp_path: Path, save: Callable[[Path], None]) -> None:
    path = tmp_path / "out"
    with pytest.raises(DataError) as raised, new_directory(path) as folder, full_disk():
        save(folder / "file")
    assert one_line(raised).startswith(f"{path} cannot be written (")
    assert "None" not in one_line(raised)
    assert os.listdir(tmp_path) == []

    path.write_text("old")
    with pytest.raises(DataError) as raised, replaced_file(path) as partial, full_disk():
        save(partial)
    assert one_line(raised).startswith(f"{path} cannot be written (")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["out"]


def test_full_disk_keeps_the_old_document(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"format_version": 1})
    with pytest.raises(DataError, match=r"a\.json cannot be written \(File too large\)"), full_disk():
        save_json(path)
    assert read_json(path, format_version=1)["format_version"] == 1
    assert os.listdir(tmp_path) == ["a.json"]


def test_full_disk_message(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with pytest.raises(DataError) as raised, writing(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert one_line(raised) == (
        f"{path} cannot be written (No space left on device); free some space or choose another place"
    )


# Sealed JSON


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("sealed") / "document.json"
    write_json(path, DOCUMENT)
    return path.read_bytes()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "document.json"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3),
    max_leaves=8,
)


@settings(max_examples=50, deadline=None)  # each waits for the disk
@given(document=st.dictionaries(st.text(), JSON, max_size=4))
def test_json_comes_back(scratch: Path, document: dict[str, Any]) -> None:
    document = {**document, "format_version": 3}
    write_json(scratch, document)
    found = read_json(scratch, format_version=3)
    assert len(found.pop("sha256")) == 64
    document.pop("sha256", None)
    assert found == document
    assert json.dumps(found) == json.dumps(document)  # the order of the keys, -0.0 and 1 against 1.0 as well


def test_json_survives_names_of_any_bytes(tmp_path: Path) -> None:
    name = os.fsdecode(b"latin-1: \xe9")  # a file name may be no UTF-8
    write_json(tmp_path / "a.json", {"format_version": 1, "path": name})
    assert read_json(tmp_path / "a.json", format_version=1)["path"] == name


def test_json_bytes_depend_on_the_document_alone(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", DOCUMENT)
    write_json(tmp_path / "b.json", {**read_json(tmp_path / "a.json", format_version=1)})  # its old sha256 included
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    write_json(tmp_path / "c.json", {**DOCUMENT, "counts": []})
    documents = [read_json(tmp_path / f"{name}.json", format_version=1) for name in "ac"]
    assert documents[0]["sha256"] != documents[1]["sha256"]


def test_json_seal_can_be_checked_by_hand(sealed: bytes) -> None:
    digest = json.loads(sealed)["sha256"]
    assert hashlib.sha256(sealed.replace(digest.encode(), b"0" * 64)).hexdigest() == digest


@given(data=st.data())
def test_json_notices_any_changed_byte(scratch: Path, sealed: bytes, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(sealed) - 1))
    changed = bytearray(sealed)
    changed[position] ^= data.draw(st.integers(1, 255))
    scratch.write_bytes(changed)
    with pytest.raises(DataError) as raised:
        read_json(scratch, format_version=1)
    assert one_line(raised).startswith(f"{scratch} ")


def test_json_notices_every_changed_white_space(scratch: Path, sealed: bytes) -> None:
    for position in (i for i, byte in enumerate(sealed) if byte in b" \n"):
        scratch.write_bytes(sealed[:position] + b"\t" + sealed[position + 1 :])
        with pytest.raises(DataError, match=r"checksum|damaged"):
            read_json(scratch, format_version=1)


def test_json_notices_every_cut_and_addition(scratch: Path, sealed: bytes) -> None:
    for content in [*(sealed[:length] for length in range(len(sealed))), sealed + b"\n", sealed + sealed]:
        scratch.write_bytes(content)
        with pytest.raises(DataError):
            read_json(scratch, format_version=1)
    scratch.write_bytes(sealed)
    assert read_json(scratch, format_version=1)["name"] == "Amélie"


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\3\4", b"\xff\xfe", b"[1]", b"3", b"null", b"{}", b"[" * 100_000, b"9" * 5000, b'{"sha256": 1}'],
)
def test_json_of_another_kind(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DataError) as raised:
        read_json(path, format_version=1)
    assert one_line(raised).startswith(f"{path} ")
    assert one_line(raised).endswith("; make it again")


def test_json_of_another_version(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"format_version": 2})
    with pytest.raises(DataError) as raised:
        read_json(path, format_version=1)
    assert one_line(raised) == (f"{path} has format version 2 and this version of ppt-ncf reads 1; upgrade ppt-ncf")
    path.write_text('{"format_version": 2, "sealed": "in another way"}')
    with pytest.raises(DataError, match=r"upgrade ppt-ncf$"):
        read_json(path, format_version=1)
    for document in ({"format_version": 1}, {"format_version": None}, {}):
        write_json(path, document)
        with pytest.raises(DataError, match=r"has format version (1|None) and .* reads 2; make it again$"):
            read_json(path, format_version=2)


def test_json_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        read_json(tmp_path / "a.json", format_version=1)
    assert one_line(raised) == f"{tmp_path / 'a.json'} does not exist"
    with pytest.raises(DataError) as raised:
        read_json(tmp_path, format_version=1)
    assert one_line(raised) == f"{tmp_path} cannot be read (Is a directory)"


@pytest.mark.parametrize("size", [0, 3, 1 << 20, (1 << 20) + 1])
def test_checksum_of_a_file(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc" * (size // 3) + b"abc"[: size % 3])
    assert file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    if size == 3:
        assert file_sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_checksums_of_a_folder(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).write_text(name)
    checksums = file_checksums(tmp_path)
    assert checksums == {name: hashlib.sha256(name.encode()).hexdigest() for name in ("a", "b")}
    assert list(checksums) == ["a", "b"]
    verify_checksums(tmp_path, checksums)
    (tmp_path / "b").write_text("c")
    with pytest.raises(DataError) as raised:
        verify_checksums(tmp_path, checksums)
    assert one_line(raised).startswith(f"{tmp_path / 'b'} was changed after it was written (")
    (tmp_path / "b").unlink()
    with pytest.raises(DataError) as raised:
        verify_checksums(tmp_path, checksums)
    assert one_line(raised) == f"{tmp_path / 'b'} is missing; make the folder again"
