import json
import shutil
import tarfile
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from data_prep.images.image_arrays import PreparedImages
from data_prep.images.image_files import PreparedFolders
from data_prep.images.image_folders import prepare_image_folders
from data_prep.images.prepared import load_prepared
from ppt_core.errors import DataError
from vision_ppt.batches import evaluation_batches, training_batches
from vision_ppt.sampling import evaluation_sampler, training_sampler


def write_image(path: Path, seed: int, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (30 + seed, 40, 3), np.uint8)
    Image.fromarray(noise).convert(mode).save(path, "JPEG")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three classes; greyscale and CMYK among the images, and files that are none of them."""
    root = tmp_path / "images"
    for number, name in enumerate(["train/cat/b.JPEG", "train/cat/a.JPEG", "train/dog/x.jpg", "train/ant/1.JPEG"]):
        write_image(root / name, number, ["RGB", "L", "CMYK", "RGB"][number])
    for number, name in enumerate(["val/dog/v.JPEG", "val/cat/v.jpeg", "val/ant/v.JPEG"]):
        write_image(root / name, 10 + number)
    (root / "train/cat/notes.txt").write_text("no image")
    (root / "train/cat/.DS_Store").write_bytes(b"")
    (root / "train/.cache").mkdir()
    (root / "labels.csv").write_text("")
    return root


def refusal(source: Path, out: Path, **options: Any) -> str:
    with pytest.raises(DataError) as raised:
        prepare_image_folders(source, out, **options)
    assert not out.exists()
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_the_index_has_every_image_with_its_class(source: Path, tmp_path: Path) -> None:
    prepare_image_folders(source, tmp_path / "out", threads=3)
    data = load_prepared(tmp_path / "out")
    assert isinstance(data, PreparedFolders)
    assert data.class_names == ("ant", "cat", "dog")
    assert data.n_classes == 3
    train = [(data.train.path(index), int(label)) for index, label in enumerate(data.train.labels)]
    assert train == [
        (source / "train/ant/1.JPEG", 0),
        (source / "train/cat/a.JPEG", 1),
        (source / "train/cat/b.JPEG", 1),
        (source / "train/dog/x.jpg", 2),
    ]
    assert [data.test.path(index).name for index in range(3)] == ["v.JPEG", "v.jpeg", "v.JPEG"]
    assert data.test.labels.tolist() == [0, 1, 2]
    manifest = data.manifest
    assert (manifest["n_train"], manifest["n_test"]) == (4, 3)
    assert (manifest["n_broken"], manifest["broken"], manifest["n_other_files"]) == (0, [], 1)
    assert manifest["kind"] == "image folders"
    assert str(source) not in (tmp_path / "out" / "manifest.json").read_text()


def test_greyscale_and_cmyk_are_drawn_like_the_others(source: Path, tmp_path: Path) -> None:
    data = prepare_image_folders(source, tmp_path / "out")
    (batch,) = islice(training_batches(training_sampler(data, seed=0, image_size=16), 4), 1)
    assert batch.images.shape == (4, 16, 16, 3)
    assert sorted(batch.labels.tolist()) == [0, 1, 1, 2]
    # The greyscale image is train/cat/a.JPEG: no other one has three equal channels.
    is_grey = (batch.images == batch.images[..., :1]).all(dim=3).flatten(1).all(dim=1)
    assert batch.labels[is_grey].tolist() == [1]
    (tested,) = evaluation_batches(evaluation_sampler(data.test, image_size=16), 8)
    assert tested.labels.tolist() == [0, 1, 2]
    assert data.normalization(tested.images).shape == (3, 3, 16, 16)


def test_the_same_images_give_the_same_manifest_wherever_they_are(source: Path, tmp_path: Path) -> None:
    def manifest(number: int) -> str:
        return (tmp_path / f"out{number}" / "manifest.json").read_text()

    prepare_image_folders(source, tmp_path / "out0")
    shutil.copytree(source, tmp_path / "copy")
    prepare_image_folders(tmp_path / "copy", tmp_path / "out1", threads=1)
    assert manifest(0) == manifest(1)
    write_image(tmp_path / "copy/train/dog/x.jpg", 20)
    prepare_image_folders(tmp_path / "copy", tmp_path / "out2")
    assert manifest(0) != manifest(2)


def test_moved_images_are_found_where_the_caller_says(source: Path, tmp_path: Path) -> None:
    prepare_image_folders(source, tmp_path / "out")
    shutil.move(tmp_path / "out", tmp_path / "elsewhere")
    assert isinstance(load_prepared(tmp_path / "elsewhere"), PreparedFolders)
    shutil.move(source, tmp_path / "moved")
    with pytest.raises(DataError, match=r"train/ant/1\.JPEG does not exist; if the images of .* were moved, say where"):
        load_prepared(tmp_path / "elsewhere")
    data = load_prepared(tmp_path / "elsewhere", root=tmp_path / "moved")
    assert isinstance(data, PreparedFolders)
    assert data.train.path(0) == tmp_path / "moved/train/ant/1.JPEG"


def test_a_relative_source_is_found_from_anywhere(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prepare_image_folders(Path("images"), Path("out"))
    monkeypatch.chdir(source)
    data = load_prepared(tmp_path / "out")
    assert isinstance(data, PreparedFolders)
    assert data.train.path(0) == source / "train/ant/1.JPEG"


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "it has zero bytes"), (b"text", "it is neither a JPEG nor a PNG image"), (None, "image file is truncated")],
)
def test_broken_files_stop_or_are_skipped_and_named(
    source: Path, tmp_path: Path, content: bytes | None, reason: str
) -> None:
    whole = (source / "train/cat/a.JPEG").read_bytes()
    (source / "train/cat/broken.JPEG").write_bytes(whole[: len(whole) // 2] if content is None else content)
    (source / "val/dog/broken.JPEG").write_bytes(b"")
    message = refusal(source, tmp_path / "out")
    assert f"{source}/train/cat/broken.JPEG is broken ({reason}" in message
    assert "`--on-broken skip`" in message

    data = prepare_image_folders(source, tmp_path / "out", on_broken="skip")
    assert (len(data.train), len(data.test)) == (4, 3)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["n_broken"] == 2
    first, second = manifest["broken"]
    assert first["path"] == "train/cat/broken.JPEG"
    assert reason in first["reason"]
    assert second == {"path": "val/dog/broken.JPEG", "reason": "it has zero bytes"}


def test_a_class_of_broken_files_only_is_an_error(source: Path, tmp_path: Path) -> None:
    (source / "val/dog/v.JPEG").write_bytes(b"")
    assert "val/dog holds no usable image" in refusal(source, tmp_path / "out", on_broken="skip")
    (source / "val/dog/v.JPEG").unlink()
    assert "val/dog holds no usable image; names of images must end in .JPEG or .jpg" in refusal(
        source, tmp_path / "out"
    )


def test_wrong_layouts_are_told_in_one_line(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "gone does not exist; name the folder that holds train/ and val/" in refusal(tmp_path / "gone", out)
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        archive.add(source, "images")
    assert "images.tar is a file; unpack it and name the folder" in refusal(tmp_path / "images.tar", out)
    assert "train holds no folder train/" in refusal(source / "train", out)
    assert f"{tmp_path} holds no folder train/" in refusal(tmp_path, out)

    shutil.move(source / "val", tmp_path / "val")
    assert "images holds no folder val/; lay it out as train/CLASS/*.JPEG and val/CLASS/*.JPEG" in refusal(source, out)
    (source / "val").mkdir()
    assert "train has the class ant and 2 more, which val/ has not; both must have the same" in refusal(source, out)
    shutil.rmtree(source / "val")
    shutil.move(tmp_path / "val", source / "val")
    write_image(source / "val/emu/v.JPEG", 1)
    assert "val has the class emu, which train/ has not" in refusal(source, out)

    for name in ("train/ant", "train/dog", "val/ant", "val/dog", "val/emu"):
        shutil.rmtree(source / name)
    assert "train holds only the class cat; at least two classes are needed" in refusal(source, out)
    shutil.rmtree(source / "train/cat")
    assert "train holds no folder of a class; at least two classes are needed" in refusal(source, out)


def test_names_that_no_index_could_hold_are_refused(source: Path, tmp_path: Path) -> None:
    write_image(source / "train/cat/a\nb.JPEG", 1)
    assert "holds a file of the name 'train/cat/a\\nb.JPEG'; rename it" in refusal(source, tmp_path / "out")


def test_refuses_impossible_settings(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="on_broken is 'ignore'; choose stop or skip"):
        prepare_image_folders(source, tmp_path / "out", on_broken="ignore")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="threads is 0; it must be at least 1"):
        prepare_image_folders(source, tmp_path / "out", threads=0)
    with pytest.raises(DataError, match="already exists"):
        prepare_image_folders(tmp_path / "gone", tmp_path)


def test_a_changed_index_is_refused(source: Path, tmp_path: Path) -> None:
    prepare_image_folders(source, tmp_path / "out")
    with pytest.raises(DataError, match="out is a prepared set of image folders, not of image arrays"):
        PreparedImages.load(tmp_path / "out")
    index = tmp_path / "out" / "train.parquet"
    index.write_bytes(index.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match=r"train\.parquet was changed after it was written"):
        load_prepared(tmp_path / "out")


@pytest.mark.parametrize(
    ("paths", "labels", "reason"),
    [
        (["/etc/passwd"], [0], "a path leads out of the folder"),
        (["train/../../x.jpg"], [0], "a path leads out of the folder"),
        (["train/cat/a.JPEG"], [9], "labels that are no classes"),
        ([], [], "there are no images"),
    ],
)
def test_an_index_of_another_program_leads_nowhere(
    source: Path, tmp_path: Path, paths: list[str], labels: list[int], reason: str
) -> None:
    data = prepare_image_folders(source, tmp_path / "out")
    train = replace(data.train, paths=pa.array(paths, pa.string()), labels=np.array(labels, np.int64))
    replace(data, train=train).save(tmp_path / "other")
    with pytest.raises(DataError, match=rf"train\.parquet is damaged, or of another program .*{reason}"):
        load_prepared(tmp_path / "other")


@pytest.mark.slow
def test_real_images_of_imagenet(real_data: Path, tmp_path: Path) -> None:
    with tarfile.open(real_data / "imagenette" / "imagenette-subset.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = (folder.parent for folder in tmp_path.glob("**/train"))
    data = prepare_image_folders(source, tmp_path / "out")
    assert (len(data.train), len(data.test), data.n_classes) == (1350, 400, 10)
    modes = set()
    for index in range(len(data.train)):
        with Image.open(data.train.path(index)) as image:
            modes.add(image.mode)
    assert modes == {"L", "RGB"}
    batches = list(evaluation_batches(evaluation_sampler(data.test), 100, workers=2))
    assert torch.cat([batch.labels for batch in batches]).tolist() == data.test.labels.tolist()
    normalized = torch.cat([data.normalization(batch.images).mean((0, 2, 3))[None] for batch in batches]).mean(0)
    assert normalized.abs().max() < 0.2
    sampler = training_sampler(data, seed=0)
    alone = list(islice(training_batches(sampler, 64), 3))
    stream = training_batches(sampler, 64, workers=2)
    for found, expected in zip(islice(stream, 3), alone, strict=True):
        assert torch.equal(found.images, expected.images)
