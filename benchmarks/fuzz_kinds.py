"""What `benchmarks.fuzz` mutates: the kinds of files that commands read, and how each is read."""

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.children import NCF, VISION
from benchmarks.kill_cases import SIZES
from benchmarks.mutations import array_or_bytes, lines_or_bytes, mutated, mutated_inside, sealed_json, sealed_tensors

_TRIAL = "study/trials/full1-low0-seed0/trial.json"
HALF = ("--iterations", "12", "--eval-every", "0.1")


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
            mutate=mutated_inside,
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
            mutate=array_or_bytes,
            sealed=array_or_bytes,
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
            mutate=lines_or_bytes,
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
            words=(NCF, "train", "--data", "data", "--out", "half", "--resume", *SIZES, *HALF),
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
            mutate=array_or_bytes,
            sealed=array_or_bytes,
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
            mutate=mutated_inside,
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
            mutate=array_or_bytes,
            sealed=array_or_bytes,
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
