import gzip
import io
import os
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.images import cifar
from data_prep.images.cifar import prepare_cifar10
from data_prep.images.cifar_pickles import read_batch
from data_prep.images.image_arrays import PreparedImages
from data_prep.images.prepared import load_prepared
from ppt_core.errors import DataError

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
N_ROWS = 12
NAMES = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]


def small_batches(protocol: int = 4) -> dict[str, bytes]:
    """Batches as CIFAR-10's, of fewer images."""
    rng = np.random.default_rng(0)
    batches: dict[str, Any] = {
        name: {
            b"batch_label": name.encode(),
            b"labels": rng.integers(0, 10, N_ROWS).tolist(),
            b"data": rng.integers(0, 256, (N_ROWS, 3072), np.uint8),
            b"filenames": [b"%d.png" % row for row in range(N_ROWS)],
        }
        for name in NAMES
    }
    batches["batches.meta"] = {
        b"num_cases_per_batch": N_ROWS,
        b"label_names": [name.encode() for name in CLASSES],
        b"num_vis": 3072,
    }
    return {name: pickle.dumps(batch, protocol=protocol) for name, batch in batches.items()}


def write_folder(path: Path, batches: dict[str, bytes]) -> Path:
    path.mkdir(parents=True)
    for name, content in batches.items():
        (path / name).write_bytes(content)
    return path


def write_archive(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def in_folder(batches: dict[str, bytes]) -> dict[str, bytes]:
    return {f"cifar-10-batches-py/{name}": content for name, content in batches.items()}


def assert_is_the_sample(data: PreparedImages) -> None:
    batches = {name: pickle.loads(content) for name, content in small_batches().items()}  # noqa: S301
    assert data.class_names == tuple(CLASSES)
    for part, names in ((data.train, NAMES[:5]), (data.test, NAMES[5:])):
        assert part.images.shape == (N_ROWS * len(names), 32, 32, 3)
        assert part.labels.tolist() == [label for name in names for label in batches[name][b"labels"]]
        rows = np.concatenate([batches[name][b"data"] for name in names])
        for row, column, channel in ((0, 0, 0), (3, 17, 2), (31, 31, 1)):
            pixels = rows[:, channel * 1024 + row * 32 + column]
            assert np.array_equal(part.images[:, row, column, channel], pixels)


def refusal(source: Path, out: Path) -> str:
    with pytest.raises(DataError) as raised:
        prepare_cifar10(source, out)
    assert not out.exists()
    assert list(out.parent.glob(f".{out.name}*")) == []
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_the_archive_the_folder_and_the_folder_around_it_give_one_set(tmp_path: Path, protocol: int) -> None:
    batches = small_batches(protocol)
    archive = write_archive(tmp_path / "any-name", {"cifar-10-batches-py/readme.html": b"", **in_folder(batches)})
    folder = write_folder(tmp_path / "around" / "cifar-10-batches-py", batches)
    for number, source in enumerate((archive, folder, folder.parent)):
        out = tmp_path / f"out{number}"
        assert_is_the_sample(prepare_cifar10(source, out))
        loaded = load_prepared(out)
        assert isinstance(loaded, PreparedImages)
        assert_is_the_sample(loaded)
        assert loaded.manifest["source"]["is_official"] is False
    first, second, third = ((tmp_path / f"out{number}" / "manifest.json").read_text() for number in range(3))
    assert first != second
    assert second == third
    for name in ("train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy"):
        assert (tmp_path / "out0" / name).read_bytes() == (tmp_path / "out1" / name).read_bytes()


def test_pickles_of_python_2_are_read() -> None:
    # As NumPy 1 under Python 2 wrote them: byte strings as text, dtype 'u1', module numpy.core.
    content = (
        b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85q\x05"
        b"U\x01bq\x06\x87q\x07Rq\x08(K\x01K\x02K\x03\x86q\x09cnumpy\ndtype\nq\x0aU\x02u1q\x0bK\x00K\x01\x87q\x0cRq\x0d"
        b"(K\x03U\x01|q\x0eNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0fb\x89U\x06abcdefq\x10tq\x11b"
        b"U\x06labelsq\x12]q\x13(K\x07K\x01eu."
    )
    batch = read_batch(content)
    assert batch["labels"] == [7, 1]
    assert batch["data"].tolist() == [[97, 98, 99], [100, 101, 102]]
    in_order_of_columns = content.replace(b"\x89U\x06abcdef", b"\x88U\x06abcdef")
    assert read_batch(in_order_of_columns)["data"].tolist() == [[97, 99, 101], [98, 100, 102]]


class _Runs:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize(
    ("function", "arguments", "named"),
    [
        (os.system, ("touch {}",), "system"),
        (eval, ("open({!r}, 'w')",), "eval"),
        (getattr, ("text", "encode"), "getattr"),
        (np.load, ("{}",), "numpy.load"),
        (np.fromfile, ("{}",), "fromfile"),
    ],
)
def test_a_pickle_that_would_run_something_is_refused(
    tmp_path: Path, protocol: int, function: Any, arguments: tuple[str, ...], named: str
) -> None:
    touched = tmp_path / "touched"
    batches = small_batches()
    planted = _Runs(function, *(argument.format(str(touched)) for argument in arguments))
    batches["data_batch_3"] = pickle.dumps({b"labels": planted}, protocol=protocol)
    message = refusal(write_folder(tmp_path / "cifar", batches), tmp_path / "out")
    assert "cifar: data_batch_3 is not a batch of CIFAR-10: it calls for" in message
    assert named in message
    assert not touched.exists()


def planted(name: str, **changes: Any) -> dict[str, bytes]:
    """The sample with keys of one batch replaced."""
    batches = small_batches()
    batch = pickle.loads(batches[name])  # noqa: S301
    batch |= {key.encode(): value for key, value in changes.items()}
    batches[name] = pickle.dumps(batch, protocol=4)
    return batches


ROWS = np.zeros((N_ROWS, 3072), np.uint8)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (planted("test_batch", data=ROWS[:-1]), "test_batch has data of shape (11, 3072), not (12, 3072) as batches.m"),
        (planted("test_batch", data=ROWS[:, :-1]), "test_batch has data of shape (12, 3071), not (12, 3072)"),
        (planted("test_batch", data=ROWS.tolist()), "test_batch has data missing, not (12, 3072)"),
        (planted("test_batch", data=ROWS.astype(float)), "test_batch is not a batch of CIFAR-10: it holds an array of"),
        (planted("test_batch", labels=[1] * 11), "test_batch has no list of 12 labels from 0 to 9"),
        (planted("test_batch", labels=[1] * 11 + [10]), "test_batch has no list of 12 labels from 0 to 9"),
        (planted("test_batch", labels=[1] * 11 + [-1]), "test_batch has no list of 12 labels from 0 to 9"),
        (planted("test_batch", labels=[1] * 11 + [1.0]), "test_batch has no list of 12 labels from 0 to 9"),
        (planted("test_batch", labels=None), "test_batch has no list of 12 labels from 0 to 9"),
        (planted("batches.meta", label_names=[b"cat"]), "batches.meta has no list of 10 label_names"),
        (planted("batches.meta", label_names=[1] * 10), "batches.meta has no list of 10 label_names"),
        (planted("batches.meta", num_cases_per_batch=0), "batches.meta has no number num_cases_per_batch of 1 or more"),
        (planted("batches.meta", num_cases_per_batch=11), "data_batch_1 has data of shape (12, 3072), not (11, 3072)"),
        (small_batches() | {"data_batch_2": pickle.dumps([1])}, "data_batch_2 is not a batch of CIFAR-10: it holds no"),
        (small_batches() | {"data_batch_2": b""}, "data_batch_2 is not a batch of CIFAR-10: it is no pickle, or a dam"),
        (
            small_batches() | {"data_batch_2": small_batches()["data_batch_2"][:-900]},
            "data_batch_2 is not a batch of CIFAR-10: ",
        ),
    ],
)
def test_a_batch_that_is_not_as_it_should_be_is_named(tmp_path: Path, batches: dict[str, bytes], message: str) -> None:
    assert message in refusal(write_folder(tmp_path / "cifar", batches), tmp_path / "out")


def test_damaged_pickles_never_fail_otherwise() -> None:
    rng = np.random.default_rng(0)
    record = {b"data": np.arange(6, dtype=np.uint8).reshape(2, 3), b"labels": [1, 2], b"filenames": [b"a"]}
    messages = []
    for number in range(1500):
        damaged = bytearray(pickle.dumps(record, protocol=2 + number % 4))
        for _ in range(rng.integers(1, 4)):
            damaged[rng.integers(len(damaged))] = rng.integers(256)
        try:
            read_batch(bytes(damaged))
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) > 500
    assert not any("\n" in message for message in messages)


def test_archives_that_are_none_of_cifar10_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    batches = small_batches()
    whole = write_archive(tmp_path / "whole.tar.gz", in_folder(batches)).read_bytes()
    source = tmp_path / "source"

    assert "gone does not exist; name the archive cifar-10-python.tar.gz" in refusal(tmp_path / "gone", out)
    for content, message in (
        (whole[: len(whole) // 2], "is no tar archive, or truncated or damaged"),
        (whole[:-4], "is no tar archive, or truncated or damaged"),
        (whole[:2000] + bytes(1000) + whole[3000:], "is no tar archive, or truncated or damaged"),
        (b"", "is no tar archive, or truncated or damaged"),
        (b"no archive at all", "is no tar archive, or truncated or damaged"),
        (gzip.compress(b"no archive at all"), "is no tar archive, or truncated or damaged"),
        (gzip.decompress(whole)[:40_000], "is no tar archive, or truncated or damaged"),
    ):
        source.write_bytes(content)
        assert message in refusal(source, out)

    missing = {name: content for name, content in in_folder(batches).items() if "batch_4" not in name}
    assert "holds no data_batch_4; it is not CIFAR-10's" in refusal(write_archive(source, missing), out)
    doubled = {**in_folder(batches), "copy/data_batch_4": batches["data_batch_4"]}
    assert "holds more than one data_batch_4" in refusal(write_archive(source, doubled), out)
    for name in ("../../data_batch_9", "/etc/data_batch_9", "..\\evil", "C:\\evil"):
        unsafe = {**in_folder(batches), name: b"x"}
        assert f"holds a member with the unsafe name {name!r}" in refusal(write_archive(source, unsafe), out)


def test_links_and_giants_in_an_archive_are_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(small_batches()["test_batch"])
    linked = {name: content for name, content in in_folder(small_batches()).items() if "test" not in name}
    source = write_archive(tmp_path / "source", linked)
    with tarfile.open(source, "w:gz") as archive:
        for name, content in linked.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        info = tarfile.TarInfo("cifar-10-batches-py/test_batch")
        info.type, info.linkname = tarfile.SYMTYPE, str(secret)
        archive.addfile(info)
    assert "holds no test_batch" in refusal(source, tmp_path / "out")
    monkeypatch.setattr(cifar, "_MOST_BYTES", 30_000)
    source = write_archive(source, in_folder(small_batches()))
    assert "far more than a batch of CIFAR-10" in refusal(source, tmp_path / "out")


def test_folders_that_are_none_of_cifar10_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "empty").mkdir()
    assert "empty holds no batches.meta; name the archive cifar-10-python.tar.gz or the folder" in refusal(
        tmp_path / "empty", out
    )
    folder = write_folder(tmp_path / "cifar", small_batches())
    (folder / "data_batch_5").unlink()
    assert "cifar holds no data_batch_5; name the archive" in refusal(folder, out)
    (folder / "data_batch_5").mkdir()
    assert "data_batch_5 cannot be read (Is a directory)" in refusal(folder, out)


def test_an_existing_output_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="already exists"):
        prepare_cifar10(tmp_path / "gone", tmp_path)


def test_official_bytes_are_known_by_their_checksums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    folder = write_folder(tmp_path / "cifar-10-batches-py", small_batches())
    archive = write_archive(tmp_path / "archive", in_folder(small_batches()))
    official = {name: hashlib.md5((folder / name).read_bytes(), usedforsecurity=False).hexdigest() for name in NAMES}
    official[cifar.ARCHIVE] = hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest()
    monkeypatch.setattr(cifar, "_OFFICIAL_MD5", official)
    assert prepare_cifar10(folder, tmp_path / "1").manifest["source"]["is_official"] is True
    source = prepare_cifar10(archive, tmp_path / "2").manifest["source"]
    assert source == {
        "name": "cifar10",
        "file": "archive",
        "sha256": hashlib.sha256(archive.read_bytes()).hexdigest(),
        "is_official": True,
    }
    write_folder(tmp_path / "other" / "cifar-10-batches-py", planted("data_batch_1", labels=[0] * N_ROWS))
    assert prepare_cifar10(tmp_path / "other", tmp_path / "3").manifest["source"]["is_official"] is False


@pytest.mark.slow
def test_the_real_images(real_data: Path, tmp_path: Path) -> None:
    unpack = real_data / "cifar10" / "unpack.py"
    subprocess.run([sys.executable, unpack, tmp_path], check=True)
    data = prepare_cifar10(tmp_path / "cifar-10-python.tar.gz", tmp_path / "archive")
    again = prepare_cifar10(tmp_path, tmp_path / "folder")
    assert np.array_equal(data.train.images, again.train.images)
    assert data.train.images.shape == (50_000, 32, 32, 3)
    assert data.test.images.shape == (10_000, 32, 32, 3)
    assert np.bincount(data.train.labels).tolist() == [5000] * 10
    assert np.bincount(data.test.labels).tolist() == [1000] * 10
    # Published many times over, to four digits.
    assert np.round(data.normalization.mean, 4).tolist() == [0.4914, 0.4822, 0.4465]
    assert np.round(data.normalization.deviation, 4).tolist() == [0.247, 0.2435, 0.2616]


@pytest.mark.parametrize("depth", [10_000, 400_000])  # a stack of 8 MB overflows at 200,000
@pytest.mark.parametrize("form", ["item", "items", "dict", "set", "frozenset"])
def test_nothing_but_text_is_hashed(depth: int, form: str) -> None:
    """Tuples within tuples: the hash of the outermost overflows C's stack."""
    nested = pickle.EMPTY_TUPLE + pickle.TUPLE1 * depth
    mark, none = pickle.MARK, pickle.NONE
    content = {
        "item": pickle.EMPTY_DICT + nested + none + pickle.SETITEM,
        "items": pickle.EMPTY_DICT + mark + nested + none + pickle.SETITEMS,
        "dict": mark + nested + none + pickle.DICT,
        "set": pickle.EMPTY_SET + mark + nested + pickle.ADDITEMS,
        "frozenset": mark + nested + pickle.FROZENSET,
    }[form]
    with pytest.raises(ValueError, match=r"it holds a (dict with a key that is no text|set, which no file)"):
        read_batch(pickle.PROTO + b"\x04" + content + pickle.STOP)
