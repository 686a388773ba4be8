"""Files of every kind that a command reads, mutated: each must be read, or refused in one line that names it.

    python -m benchmarks.fuzz --inputs 100000 --commands 1000

A file is a valid one with a few mutations: bits, cuts, insertions, copies, other numbers, text that readers stumble
over; in JSON and in headers also values of other types and sizes. Half of the changes to a file that carries a
checksum are sealed anew, so that they reach what stands behind it: an error, or whatever the file then says, computed
with. The other half must be refused. ``--inputs`` go to the library's readers, in processes that are forked for some
hundreds at a time, ``--commands`` to whole commands, each in a process of its own, which is forked from one that has
loaded everything. It is a failure if an exception is neither a DataError nor a ValueError, or does not name the file
or its folder, if a command says anything but one line or ends with another status than 0, 1 or 2, if a process dies,
needs more than 30 seconds for an input or a gigabyte more than before, and if a changed file with a checksum is
accepted.
"""

import os

from ppt_core.environment import ENVIRONMENT

os.environ.update(
    {**ENVIRONMENT, "NUMBA_THREADING_LAYER": "workqueue", "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
)

import bz2
import gzip
import io
import json
import lzma
import math
import mmap
import random
import resource
import shutil
import signal
import struct
import tarfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import click

from benchmarks.kills import (
    NCF,
    SIZES,
    SMALL_VISION,
    STUDIED,
    STUDY,
    VISION,
    begin,
    call,
    in_jobs,
    quiet,
    train_half,
    write_inputs,
)
from benchmarks.provenance import document
from ppt_core.errors import DataError

_TRIAL = "study/trials/full1-low0-seed0/trial.json"
_FORMATS = ("npy", "parquet", "safetensors")
_HALF = ("--iterations", "12", "--eval-every", "0.1")
SECONDS, MEGABYTES, N_IN_A_FORK = 30.0, 1024, 400

_NASTY = (
    b"", b"0", b"-1", b"1e999", b"nan", b"-inf", b"9" * 400, b"2147483648", b"9223372036854775808", b"\x00", b"\r",
    b"-9223372036854775809", b"\xff\xfe", b"\xef\xbb\xbf", b"\x1b[31m", b"\n\n", b'"', b"'", b",", b"::", b"\t",
    b"\\", b"{", b"[" * 3000, b"null", b"true", b"../../etc/passwd", b"/dev/zero", b"x" * 70000, b"\xe2\x80\xae",
    b"1" + b"0" * 30, b"%s%n", b"PK\x03\x04", b"PAR1", b"\x1f\x8b", b"ARROW1", b"\x93NUMPY", b"#",
)  # fmt: skip
_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1, 7, 2**31, 2**31 - 1, 2**63, 10**30, 0.5, -1e308, 1e308, "", "x", "../x", "/dev/zero",
    "\x1b[31m", [], {}, [[]], [1, 2, 3], {"a": 1}, "9" * 300, [None], float("nan"), float("inf"),
)  # fmt: skip


def _is_of_the_content(text: str) -> bool:
    """Whether a message is about a network or ratings as they are, and so not about their file."""
    return any(words in text for words in ("diverged", "computes in full precision", "so no negative exists"))


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Bytes with one to three mutations."""
    octets = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at = rng.randrange(len(octets) + 1)
        n = min(len(octets) - at, rng.choice((1, 2, 4, 8, 64, 1000)))
        match rng.randrange(10):
            case 0 if at < len(octets):
                octets[at] ^= 1 << rng.randrange(8)
            case 1:
                octets[at : at + n] = rng.randbytes(n)
            case 2:
                del octets[at : at + n]
            case 3:
                del octets[at:]
            case 4:
                octets[at:at] = rng.choice(_NASTY)
            case 5:
                octets[at : at + n] = rng.choice(_NASTY)
            case 6:
                octets[at:at] = octets[at : at + n] * rng.randrange(1, 50)
            case 7:
                octets[at : at + n] = bytes(n)
            case 8 if len(octets) >= 8:
                at = rng.randrange(len(octets) - 7)
                octets[at : at + 8] = struct.pack("<q", rng.choice((-1, 0, 1, 2**31, 2**40, -(2**63), len(octets))))
            case _ if len(octets) >= 4:
                at = rng.randrange(len(octets) - 3)
                octets[at : at + 4] = struct.pack("<i", rng.choice((-1, 0, 1, 2**31 - 1, -(2**31), 10**6)))
    return bytes(octets)


def mutated_value(value: Any, rng: random.Random) -> Any:
    """A JSON value with one of its parts gone, copied, or of another type or size."""
    value = json.loads(json.dumps(value))
    holders: list[Any] = []

    def walk(node: Any) -> None:
        if isinstance(node, dict | list) and node:
            holders.append(node)
            for inner in node.values() if isinstance(node, dict) else node[:20]:
                walk(inner)

    walk(value)
    if not holders:
        return rng.choice(_VALUES)
    holder = rng.choice(holders)
    keys = [key for key in holder if key not in ("sha256", "format_version")] if isinstance(holder, dict) else None
    if keys == []:
        return value
    key = rng.choice(keys) if keys else rng.randrange(len(holder))
    match rng.randrange(5):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[rng.choice(("x", "files", "n_items", "../x"))] = holder[key]
        case 2 if isinstance(holder[key], int | float):
            holder[key] = rng.choice((-1, 2, 1000, 10**9)) * holder[key] + rng.choice((0, 1, -1))
        case _:
            holder[key] = rng.choice(_VALUES)
    return value


def sealed_json(content: bytes, rng: random.Random) -> bytes:
    """A sealed document with other values, sealed anew."""
    from ppt_core.runs.files import NO_DIGEST, seal

    value = mutated_value(json.loads(content), rng)
    if not isinstance(value, dict):
        return json.dumps(value).encode()
    return seal(json.dumps({**value, "sha256": NO_DIGEST}, indent=2).encode())


def sealed_tensors(content: bytes, rng: random.Random) -> bytes:
    """A sealed tensor file with another header, other metadata or other numbers, sealed anew."""
    from ppt_core.runs.files import NO_DIGEST, seal

    n = int.from_bytes(content[:8], "little")
    header, rest = json.loads(content[8 : 8 + n]), content[8 + n :]
    about = json.loads(header.pop("__metadata__")["ppt"])
    match rng.randrange(4):
        case 0:
            header = mutated_value(header, rng)
        case 1:
            about["metadata"] = mutated_value(about["metadata"], rng)
        case 2:
            rest = _other_numbers(rest, rng)
        case _:
            one, other = rng.choice(list(header)), rng.choice(list(header))
            header[one], header[other] = header[other], header[one]
    if not isinstance(header, dict):
        header = {"x": header}
    text = json.dumps({"__metadata__": {"ppt": json.dumps({**about, "sha256": NO_DIGEST})}, **header}).encode()
    text += b" " * (-len(text) % 8)
    return seal(len(text).to_bytes(8, "little") + text + rest)


def _other_numbers(content: bytes, rng: random.Random) -> bytes:
    octets = bytearray(content)
    for _ in range(rng.choice((1, 3, 100))):
        if len(octets) >= 8:
            at = rng.randrange(len(octets) // 4 - 1) * 4
            octets[at : at + 4] = struct.pack("<i", rng.choice((-1, 2**31 - 1, -(2**31), 0, 7, 2143289344, 10**6)))
    return bytes(octets)


def mutated_array(content: bytes, rng: random.Random) -> bytes:
    """A ``.npy`` with another header or other numbers."""
    end = content.index(b"\n") + 1
    if rng.random() < 0.5:
        return content[:end] + _other_numbers(content[end:], rng)
    old = content[10:end].decode()
    words = (
        "'<i4'",
        "'<i8'",
        "'|O'",
        "'<f8'",
        "'<f4'",
        "True",
        "False",
        "(",
        ")",
        ",",
        "0",
        "1",
        "99999999999",
        "-1",
        "1e9",
    )
    parts = list(filter(None, old.replace(",", " , ").replace("(", " ( ").split(" ")))
    for _ in range(rng.randrange(1, 3)):
        parts[rng.randrange(len(parts))] = rng.choice(words)
    text = " ".join(parts).encode()
    return content[:8] + struct.pack("<H", len(text)) + text + content[end:]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Files of one kind.

    Attributes:
        name: in the table.
        files: those that are mutated, in the folder of inputs.
        read: reads the file, or the folder that it is in, as a command does; computes with what it accepts.
        sealed: gives other bytes with a checksum that fits, of (content, rng, file); None where there is no checksum.
        words: a command that reads the same; ``{}`` is the file.
        mutate: gives other bytes.
        weight: inputs of its readers for each of another kind: many where they are quick.
    """

    name: str
    files: tuple[str, ...]
    read: Callable[[Path], Any]
    words: tuple[str, ...]
    sealed: Callable[[bytes, random.Random], bytes] | None = None
    mutate: Callable[[bytes, random.Random], bytes] = mutated
    weight: int = 1


def _read_ratings(path: Path) -> None:
    from data_prep.ratings.any_source import prepare_source

    prepare_source(path, min_ratings=1, n_negatives=2, progress=False)


def _read_prepared(path: Path) -> None:
    from data_prep.ratings.interactions import PreparedData
    from ncf_ppt.baselines import fit_baseline
    from ncf_ppt.evaluation import evaluate

    data = PreparedData.load(path.parent)
    evaluate(fit_baseline("popular", data), data)


def _read_run(path: Path) -> None:
    from ncf_ppt.trained import load

    trained = load(path.parent)
    _ = trained.result
    trained.inspect()
    trained.evaluate()


def _read_packed(path: Path) -> None:
    from ncf_ppt.trained import load

    packed = load(path, data=path.parent / "data")
    packed.evaluate()
    packed.recommend()


def _read_vectors(path: Path) -> None:
    import numpy as np

    from data_prep.ratings.interactions import PreparedData
    from ncf_ppt.candidates import open_vectors

    open_vectors(path.parent, PreparedData.load(path.parent.parent / "data")).score_catalogue(np.arange(3))


def _read_study(path: Path) -> None:
    from ppt_core.study.study import Study
    from ppt_core.study.summary import summarize

    study = Study.open(next(folder for folder in path.parents if folder.name == "study"))
    study.plan()
    study.speed()
    summarize(study)


def _read_ids(path: Path) -> None:
    from ncf_ppt.side_files import read_ids

    read_ids(path, "user")


def _read_pairs(path: Path) -> None:
    from ncf_ppt.side_files import read_pairs

    read_pairs(path)


def _read_titles(path: Path) -> None:
    from ncf_ppt.side_files import read_titles

    read_titles(path)


def _read_ranks(path: Path) -> None:
    from ncf_ppt.rank_files import read_ranks

    read_ranks(path)


def _read_cifar(path: Path) -> None:
    from data_prep.images.cifar import prepare_cifar10

    out = path.parent / "out"
    try:
        prepare_cifar10(path, out)
    finally:
        shutil.rmtree(out, ignore_errors=True)


def _read_image_folder(path: Path) -> None:
    from data_prep.images.image_folders import prepare_image_folders

    out = path.parents[2].with_name("out")
    try:
        prepare_image_folders(path.parents[2], out, threads=1)
    finally:
        shutil.rmtree(out, ignore_errors=True)


def _read_images(path: Path) -> None:
    from data_prep.images.prepared import load_prepared

    load_prepared(path.parent)


def _read_image_network(path: Path) -> None:
    from vision_ppt.trained import load

    trained = load(path.parent if path.suffix != ".packed" else path)
    _ = trained.network, trained.training


def kinds() -> list[Kind]:
    """All that commands read."""
    prepare = (NCF, "prepare", "{}", "--out", "out", "--min-ratings", "1", "--negatives", "2")
    recommend = (NCF, "recommend", "network.packed", "--data", "data")
    one_json, one_file = sealed_json, sealed_tensors
    return [
        Kind(
            name="ratings: text, JSON lines",
            weight=5,
            files=("ratings.csv", "ratings.tsv", "ratings.dat", "ratings.jsonl"),
            read=_read_ratings,
            words=prepare,
        ),
        Kind(
            name="ratings: gzip, bzip2, xz, zip, tar",
            weight=5,
            files=("ratings.csv.gz", "ratings.csv.bz2", "ratings.csv.xz", "ratings.zip", "ratings.tar.gz",
                   "ratings.tar"),
            read=_read_ratings,
            words=prepare,
        ),
        Kind(
            name="ratings: mutated, then packed",
            weight=5,
            files=("ratings.csv.gz", "ratings.csv.bz2", "ratings.csv.xz", "ratings.zip", "ratings.tar.gz"),
            read=_read_ratings,
            mutate=_mutated_inside,
            words=prepare,
        ),
        Kind(
            name="ratings: Parquet, Arrow",
            weight=10,
            files=("ratings.parquet", "ratings.feather"),
            read=_read_ratings,
            words=prepare,
        ),
        Kind(
            name="a prepared folder: arrays, ids",
            weight=6,
            files=("data/items.npy", "data/offsets.npy", "data/test_items.npy", "data/test_negatives.npy",
                   "data/history.npy", "data/users.parquet"),
            read=_read_prepared,
            mutate=_array_or_bytes,
            sealed=_array_or_bytes,
            words=(NCF, "train", "--data", "data", "--out", "out", *SIZES, "--iterations", "2"),
        ),
        Kind(
            name="a prepared folder: manifest",
            weight=8,
            files=("data/manifest.json",),
            read=_read_prepared,
            sealed=one_json,
            words=(NCF, "baseline", "popular", "--data", "data"),
        ),
        Kind(
            name="a run: settings",
            weight=3,
            files=("run/config.json",),
            read=_read_run,
            sealed=one_json,
            words=(NCF, "evaluate", "run"),
        ),
        Kind(
            name="a run: metrics",
            weight=3,
            files=("run/metrics.jsonl",),
            read=_read_run,
            mutate=_lines_or_bytes,
            words=(NCF, "inspect", "run"),
        ),
        Kind(
            name="a run: model",
            weight=3,
            files=("run/model.safetensors",),
            read=_read_run,
            sealed=one_file,
            words=(NCF, "pack", "run", "--out", "out"),
        ),
        Kind(
            name="a run: checkpoint",
            files=("half/checkpoint.safetensors",),
            read=_read_checkpoint,
            sealed=one_file,
            words=(NCF, "train", "--data", "data", "--out", "half", "--resume", *SIZES, *_HALF),
        ),
        Kind(
            name="packed networks",
            weight=6,
            files=("network.packed", "towers.packed"),
            read=_read_packed,
            sealed=one_file,
            words=(NCF, "evaluate", "{}", "--data", "data", "--ranking", "full"),
        ),
        Kind(
            name="exported vectors",
            weight=6,
            files=("vectors-npy/mlp_items.npy", "vectors-npy/item_ids.npy", "vectors-parquet/mlp_items.parquet",
                   "vectors-safetensors/mlp_items.safetensors"),
            read=_read_vectors,
            mutate=_array_or_bytes,
            sealed=_array_or_bytes,
            words=(NCF, "recommend", "run", "--all", "--out", "out.csv", "--candidates", "{folder}"),
        ),
        Kind(
            name="exported vectors: manifest",
            weight=8,
            files=("vectors-npy/manifest.json", "vectors-parquet/manifest.json"),
            read=_read_vectors,
            sealed=one_json,
            words=(NCF, "recommend", "run", "--all", "--out", "out.csv", "--candidates", "{folder}"),
        ),
        Kind(
            name="a study",
            weight=150,
            files=("study/study.json", "study/plan.json", "study/speed.json", _TRIAL),
            read=_read_study,
            sealed=one_json,
            words=(NCF, "study", "report", "study", "--out", "out"),
        ),
        Kind(
            name="ids",
            weight=150,
            files=("users.csv", "users.txt"),
            read=_read_ids,
            words=(*recommend, "--users", "{}"),
        ),
        Kind(
            name="pairs",
            weight=150,
            files=("pairs.csv", "pairs.parquet", "pairs.jsonl"),
            read=_read_pairs,
            words=(NCF, "score", "network.packed", "--data", "data", "--pairs", "{}"),
        ),
        Kind(
            name="titles",
            weight=150,
            files=("titles.csv", "titles.csv.gz"),
            read=_read_titles,
            words=(*recommend, "--user", "1", "--titles", "{}"),
        ),
        Kind(
            name="ranks of users",
            weight=150,
            files=("ranks.parquet",),
            read=_read_ranks,
            words=(NCF, "compare", "{}", "popular", "--data", "data"),
        ),
        Kind(
            name="CIFAR-10's archive",
            weight=5,
            files=("cifar-10-python.tar.gz",),
            read=_read_cifar,
            words=(VISION, "prepare", "cifar10", "{}", "--out", "out"),
        ),
        Kind(
            name="CIFAR-10's pickles",
            weight=3,
            files=("cifar-10-python.tar.gz",),
            read=_read_cifar,
            mutate=_mutated_inside,
            words=(VISION, "prepare", "cifar10", "{}", "--out", "out"),
        ),
        Kind(
            name="image files",
            weight=6,
            files=("jpegs/train/a/0.JPEG", "jpegs/train/b/1.JPEG", "jpegs/val/a/0.JPEG"),
            read=_read_image_folder,
            words=(VISION, "prepare", "imagenet", "jpegs", "--out", "out", "--threads", "1"),
        ),
        Kind(
            name="prepared images",
            weight=10,
            files=("images/train_images.npy", "images/train_labels.npy", "images/test_labels.npy"),
            read=_read_images,
            mutate=_array_or_bytes,
            sealed=_array_or_bytes,
            words=(VISION, "train", "--data", "images", "--out", "out", "--iterations", "1", "--batch-size", "8"),
        ),
        Kind(
            name="prepared images: manifest",
            weight=12,
            files=("images/manifest.json",),
            read=_read_images,
            sealed=one_json,
            words=(VISION, "train", "--data", "images", "--out", "out", "--iterations", "1", "--batch-size", "8"),
        ),
        Kind(
            name="an image run, packed",
            weight=2,
            files=("image.packed", "image-run/model.safetensors"),
            read=_read_image_network,
            sealed=one_file,
            words=(VISION, "evaluate", "{network}"),
        ),
        Kind(
            name="an image run: settings",
            weight=150,
            files=("image-run/config.json",),
            read=_read_image_network,
            sealed=one_json,
            words=(VISION, "evaluate", "image-run"),
        ),
    ]  # fmt: skip


def _read_checkpoint(path: Path) -> None:
    import ncf_ppt
    from data_prep.ratings.interactions import PreparedData

    data = PreparedData.load(path.parent.parent / "data")
    before = {each.name: each.read_bytes() for each in path.parent.iterdir()}
    try:
        ncf_ppt.fit(
            data, out=path.parent, resume=True, factors=4, layers=(8, 8, 8, 4), batch_size=256, iterations=12,
            eval_every=0.1, progress=False,
        )  # fmt: skip
    finally:
        for each in path.parent.iterdir():
            if each.name not in before:
                each.unlink()
        for name, content in before.items():
            (path.parent / name).write_bytes(content)


def _array_or_bytes(content: bytes, rng: random.Random) -> bytes:
    if content[:6] == b"\x93NUMPY" and rng.random() < 0.8:
        return mutated_array(content, rng)
    return mutated(content, rng)


def _lines_or_bytes(content: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        return mutated(content, rng)
    lines = content.splitlines()
    at = rng.randrange(len(lines))
    lines[at] = json.dumps(mutated_value(json.loads(lines[at]), rng)).encode()
    return b"\n".join(lines) + b"\n"


def _mutated_inside(content: bytes, rng: random.Random) -> bytes:
    """What is packed, mutated and packed again."""
    if content[:2] == b"PK":
        out = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
            for name in old.namelist():
                new.writestr(name, mutated(old.read(name), rng))
        return out.getvalue()
    packers: dict[bytes, tuple[Any, Any]] = {
        b"\x1f\x8b": (gzip.decompress, partial(gzip.compress, compresslevel=1)),
        b"BZ": (bz2.decompress, partial(bz2.compress, compresslevel=1)),
        b"\xfd7": (lzma.decompress, partial(lzma.compress, preset=0)),
    }
    unpack, pack = packers[content[:2]]
    inner = unpack(content)
    if inner[257:262] != b"ustar":
        packed: bytes = pack(mutated(inner, rng))
        return packed
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(inner)) as old_tar, tarfile.open(fileobj=out, mode="w") as new_tar:
        members = old_tar.getmembers()
        chosen = rng.choice(members)
        for each in members:
            octets = old_tar.extractfile(each).read()  # type: ignore[union-attr]
            if each is chosen:
                octets = mutated(octets, rng)
            each.size = len(octets)
            new_tar.addfile(each, io.BytesIO(octets))
    packed = pack(out.getvalue())
    return packed


def seal_folder(path: Path) -> None:
    """Put the checksums of the files in a folder into its manifest, and seal that."""
    from ppt_core.runs.files import file_sha256, write_json

    manifest = path.parent / "manifest.json"
    known = json.loads(manifest.read_bytes())
    known["files"] = {name: file_sha256(path.parent / name) for name in known["files"]}
    write_json(manifest, known)


@dataclass
class Found:
    """What became of the inputs of one kind."""

    n: int = 0
    accepted: int = 0
    refused: int = 0
    failures: list[str] = field(default_factory=list)
    kinds_of_failure: Counter[str] = field(default_factory=Counter)

    def fail(self, what: str, more: str) -> None:
        """Count a failure, and keep the first few of each kind in words."""
        self.kinds_of_failure[what] += 1
        if self.kinds_of_failure[what] <= 2:
            self.failures.append(f"{what}: {more}")


class Fuzzed:
    """One kind of files in a folder of its own.

    Args:
        kind: which.
        inputs: valid files.
        folder: a copy of them for what is mutated.
        seed: of the mutations.
    """

    def __init__(self, kind: Kind, inputs: Path, folder: Path, seed: int) -> None:
        self.kind, self.inputs, self.folder, self.seed = kind, inputs, folder, seed
        self.found = Found()

    def mutation(self, number: int) -> tuple[Path, bool]:
        """Write the input of that number; return the file and whether it must be refused."""
        rng = random.Random(f"{self.seed} {self.kind.name} {number}")
        name = rng.choice(self.kind.files)
        path = self.folder / name
        old = (self.inputs / name).read_bytes()
        reseal = self.kind.sealed is not None and rng.random() < 0.5
        change = self.kind.sealed if reseal and self.kind.sealed is not None else self.kind.mutate
        try:
            new = change(old, rng)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError):  # too small to mutate so
            new = mutated(old, rng)
            reseal = False
        path.write_bytes(new)
        if reseal and change is _array_or_bytes:
            seal_folder(path)
        return path, self.kind.sealed is not None and not reseal and new != old

    def restore(self) -> None:
        """Put the valid files back."""
        for name in self.kind.files:
            shutil.copyfile(self.inputs / name, self.folder / name)
            manifest = (self.folder / name).parent / "manifest.json"
            if self.kind.sealed is _array_or_bytes:
                shutil.copyfile((self.inputs / name).parent / "manifest.json", manifest)

    def read(self, start: int, stop: int) -> None:
        """Let the reader have the inputs of these numbers, in forks."""
        memory = mmap.mmap(-1, 1 << 16)
        while start < stop:
            memory[:] = bytes(len(memory))
            end = min(stop, start + N_IN_A_FORK)
            pid = os.fork()
            if not pid:
                self._read_in_fork(start, end, memory)
            start = self._watch(pid, start, end, memory)

    def _watch(self, pid: int, start: int, end: int, memory: mmap.mmap) -> int:
        """Wait for a fork, count what it found, and return the number of the next input."""
        at, since, is_late = -1, time.monotonic(), False
        while True:
            done, status = os.waitpid(pid, os.WNOHANG)
            number = int.from_bytes(memory[:8], "little")
            if number != at:
                at, since = number, time.monotonic()
            if done:
                break
            if time.monotonic() - since > SECONDS:
                os.kill(pid, signal.SIGKILL)
                _, status = os.waitpid(pid, 0)
                is_late = True
                break
            time.sleep(0.005)
        accepted, refused, size = (int.from_bytes(memory[8 * n : 8 * n + 8], "little") for n in (1, 2, 3))
        self.found.accepted += accepted
        self.found.refused += refused
        for what, more in json.loads(memory[32 : 32 + size] or b"[]"):
            self.found.fail(what, more)
        if status == 0:
            self.found.n += end - start
            return end
        self.found.n += number - start + 1
        how = f"more than {SECONDS:g} s" if is_late else f"signal {os.waitstatus_to_exitcode(status)}"
        self.found.fail(how, f"input {number} of seed {self.seed}")
        self.restore()
        return number + 1

    def _read_in_fork(self, start: int, end: int, memory: mmap.mmap) -> None:
        code = 70
        try:
            os.chdir(self.folder)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
            warnings.simplefilter("ignore")
            counts, failures = [0, 0], []
            for number in range(start, end):
                memory[:8] = number.to_bytes(8, "little")
                what, more = self._outcome(number)
                if what in ("accepted", "refused"):
                    counts[what == "refused"] += 1
                else:
                    failures.append((what, more))
                    packed = json.dumps(failures[:40]).encode()[: len(memory) - 32]
                    memory[24 : 32 + len(packed)] = len(packed).to_bytes(8, "little") + packed
                memory[8:24] = counts[0].to_bytes(8, "little") + counts[1].to_bytes(8, "little")
            code = 0
        finally:
            os._exit(code)

    def _outcome(self, number: int) -> tuple[str, str]:
        path, must_fail = self.mutation(number)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        where = f"input {number}, {path.relative_to(self.folder)}"
        try:
            self.kind.read(path)
        except (DataError, ValueError) as error:
            text = str(error)
            if _is_of_the_content(text):
                return "refused", ""
            if not self._is_named(path, text) or "\n" in text:
                return "says no file", f"{type(error).__name__}: {text[:300]!r} ({where})"
            found = "refused"
        except BaseException as error:
            return type(error).__name__, f"{str(error)[:300]!r} ({where})"
        else:
            if must_fail:
                return "accepted against its checksum", where
            found = "accepted"
        finally:
            self.restore()
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        if grown > MEGABYTES:
            return "memory", f"{grown:.0f} MB ({where})"
        return found, ""

    def command(self, number: int) -> None:
        """Let the command have the input of that number."""
        path, must_fail = self.mutation(number)
        name = str(path.relative_to(self.folder))
        network = name if name.endswith(".packed") else "image-run"
        words = [each.format(name, folder=path.parent.name, network=network) for each in self.kind.words]
        kept = None
        if "--resume" in words:
            kept = {each.name: each.read_bytes() for each in path.parent.iterdir()}
        child = begin(words, self.folder)
        self.found.n += 1
        where = f"{' '.join(words)} with input {number}, {name}"
        try:
            status = child.wait(SECONDS)
        except Exception:
            self.found.fail(f"more than {SECONDS:g} s", where)
        else:
            self._judge(status, child.said(), path, must_fail=must_fail, where=where)
        for each in self.folder.glob("out*"):
            shutil.rmtree(each) if each.is_dir() else each.unlink()
        if kept is not None:
            for each in path.parent.iterdir():
                each.unlink()
            for each_name, content in kept.items():
                (path.parent / each_name).write_bytes(content)
        self.restore()

    def _is_named(self, path: Path, text: str) -> bool:
        """Whether a message names a file, or a folder that it is in."""
        return any(name in text for name in (path.stem, *path.relative_to(self.folder).parts))

    def _judge(self, status: int, said: str, path: Path, *, must_fail: bool, where: str) -> None:
        errors = [line for line in said.splitlines() if line.startswith("Error")]
        if status < 0:
            return self.found.fail(f"signal {status}", where)
        if status not in (0, 1, 2) or "Traceback" in said or "which nobody expected" in said:
            return self.found.fail("no line that was meant", f"status {status}, {said[-300:]!r} ({where})")
        if any(not (char.isprintable() or char in "\n\r\t") for char in said):
            return self.found.fail("raw control characters", f"{said[-300:]!r} ({where})")
        if status == 0:
            if must_fail:
                return self.found.fail("accepted against its checksum", where)
            self.found.accepted += 1
            return
        if len(errors) != 1 or not (self._is_named(path, errors[0]) or _is_of_the_content(errors[0])):
            return self.found.fail("says no file", f"{said[-300:]!r} ({where})")
        self.found.refused += 1


def make_inputs(folder: Path, chosen: Sequence[Kind]) -> None:
    """Valid files of these kinds."""
    import numpy as np
    import pandas as pd
    from PIL import Image

    write_inputs(folder, users=24, items=40, each=20)
    table = pd.read_csv(folder / "ratings.csv")
    text = (folder / "ratings.csv").read_bytes()
    table.to_csv(folder / "ratings.tsv", sep="\t", header=False, index=False)
    lines = ["::".join(map(str, row)) for row in table.itertuples(index=False)]
    (folder / "ratings.dat").write_text("\n".join(lines) + "\n")
    table.to_json(folder / "ratings.jsonl", orient="records", lines=True)
    table.to_parquet(folder / "ratings.parquet")
    table.to_feather(folder / "ratings.feather")
    for suffix, pack in (("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)):
        (folder / f"ratings.csv.{suffix}").write_bytes(pack(text))
    with zipfile.ZipFile(folder / "ratings.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ml/ratings.csv", text)
        archive.writestr("ml/README.txt", "read me")
    for suffix, mode in ((".tar.gz", "w:gz"), (".tar", "w")):
        with tarfile.open(folder / f"ratings{suffix}", mode) as tar:  # type: ignore[call-overload]
            tar.add(folder / "ratings.csv", "ml/ratings.csv")
    pairs = pd.read_csv(folder / "pairs.csv").head(25)
    pairs.to_csv(folder / "pairs.csv", index=False)
    pairs.to_parquet(folder / "pairs.parquet")
    pairs.to_json(folder / "pairs.jsonl", orient="records", lines=True)
    (folder / "users.csv").write_text("user_id\n" + "\n".join(map(str, range(1, 20))) + "\n")
    (folder / "users.txt").write_text("\n".join(map(str, range(1, 20))) + "\n")
    titles = "item_id,title\n" + "\n".join(f'{n},"Title, the {n}th"' for n in range(1, 30)) + "\n"
    (folder / "titles.csv").write_text(titles)
    (folder / "titles.csv.gz").write_bytes(gzip.compress(titles.encode()))
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for name, file in (("a", "0.JPEG"), ("b", "1.JPEG")):
            (folder / "jpegs" / part / name).mkdir(parents=True)
            image = Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8))
            image.save(folder / "jpegs" / part / name / file)
    made: set[str] = set()
    for kind in chosen:
        for word in (*kind.words, *(file.split("/")[0] for file in kind.files)):
            _make(word, folder, made)


def _steps() -> dict[str, tuple[str, ...]]:
    """By what a file or a folder of the inputs is made; a step comes behind those of what its words name."""
    train, vectors = (NCF, "train", "--data", "data", *SIZES), (NCF, "export-embeddings", "run", "--format")
    return {
        "data": (NCF, "prepare", "ratings.csv", "--out", "data", "--negatives", "20"),
        "run": (*train, "--out", "run", "--iterations", "30"),
        "half": (*train, *_HALF),
        "towers": (NCF, "train", "--data", "data", "--out", "towers", "--recipe", "warm", "--factors", "8",
                   "--iterations", "30", "--layers", "8,8", "--batch-size", "256", "--threads", "1"),
        "network.packed": (NCF, "pack", "run", "--out", "network.packed"),
        "towers.packed": (NCF, "pack", "towers", "--out", "towers.packed"),
        **{f"vectors-{kind}": (*vectors, kind, "--out", f"vectors-{kind}") for kind in _FORMATS},
        "ranks.parquet": (NCF, "evaluate", "run", "--per-user", "ranks.parquet"),
        "study": (NCF, "study", "run", "--data", "data", "--out", "study", "--budgets", "1", "--splits", "0,1", *STUDY,
                  "--", *STUDIED),
        "images": (VISION, "prepare", "cifar10", "cifar-10-python.tar.gz", "--out", "images"),
        "image-run": (VISION, "train", "--data", "images", "--out", "image-run", *SMALL_VISION),
        "image.packed": (VISION, "pack", "image-run", "--out", "image.packed", "--images", "4"),
    }  # fmt: skip


def _make(name: str, folder: Path, made: set[str]) -> None:
    """Make a part of the inputs, if it is one, and what it is made of."""
    words = _steps().get(name)
    if words is None or name in made:
        return
    made.add(name)
    for word in words:
        _make(word, folder, made)
    if name == "half":
        return train_half(folder, words)
    with quiet():
        status = call(words)
    if status:
        raise click.ClickException(f"{' '.join(words)} ends with {status}")


@click.command()
@click.option("--inputs", default=100_000, show_default=True, help="For the readers.")
@click.option("--commands", default=1000, show_default=True, help="For whole commands.")
@click.option("--only", multiple=True, help="Only kinds whose name begins so.")
@click.option("--jobs", default=1, show_default=True, help="Kinds at a time.")
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(inputs: int, commands: int, only: tuple[str, ...], jobs: int, seed: int, as_json: bool) -> None:
    """Mutate, read, and print counts; end with an error where a reader fails."""
    import torch

    torch.set_num_threads(1)
    chosen = [kind for kind in kinds() if not only or kind.name.startswith(only)]
    folder, here = Path(mkdtemp()), Path.cwd()
    try:
        (folder / "inputs").mkdir()
        os.chdir(folder / "inputs")
        make_inputs(folder / "inputs", chosen)
        share, n_commands = inputs / sum(kind.weight for kind in chosen), -(-commands // len(chosen))
        rows = in_jobs(lambda kind: _row(kind, folder, math.ceil(share * kind.weight), n_commands, seed), chosen, jobs)
    finally:
        os.chdir(here)
        shutil.rmtree(folder, ignore_errors=True)
    if as_json:
        click.echo(document([{key: value for key, value in row.items() if key != "failures"} for row in rows]))
    wrong = [each for row in rows for each in row["failures"]]
    if wrong:
        raise click.ClickException(f"{len(wrong)} kinds of failure: " + "\n".join(wrong))


def _row(kind: Kind, folder: Path, inputs: int, commands: int, seed: int) -> dict[str, Any]:
    """What became of the files of one kind."""
    copy = Path(mkdtemp(dir=folder))
    shutil.copytree(folder / "inputs", copy, dirs_exist_ok=True)
    os.chdir(copy)
    start = time.monotonic()
    by_reader, by_command = Fuzzed(kind, folder / "inputs", copy, seed), Fuzzed(kind, folder / "inputs", copy, seed)
    with quiet():
        call([each.format(kind.files[0], folder="vectors-npy", network="image-run") for each in kind.words])
    shutil.rmtree(copy)  # which that call wrote into
    shutil.copytree(folder / "inputs", copy)
    os.chdir(copy)
    by_reader.read(0, inputs)
    for number in range(inputs, inputs + commands):
        by_command.command(number)
    os.chdir(folder)
    shutil.rmtree(copy)
    row: dict[str, Any] = {
        "files": kind.name,
        "seconds": time.monotonic() - start,
        **{
            who: {"n": found.n, "accepted": found.accepted, "refused": found.refused,
                  "failed": sum(found.kinds_of_failure.values())}
            for who, found in (("readers", by_reader.found), ("commands", by_command.found))
        },
        "failures": [f"{kind.name}: {each}" for each in (*by_reader.found.failures, *by_command.found.failures)],
    }  # fmt: skip
    click.echo(json.dumps({key: value for key, value in row.items() if key != "failures"}), err=True)
    for each in row["failures"]:
        click.echo(f"  {each}", err=True)
    return row


if __name__ == "__main__":
    main()
