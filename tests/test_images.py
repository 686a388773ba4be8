import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.images.image_arrays import ImageArray, PreparedImages
from data_prep.images.normalization import Normalization
from data_prep.images.prepared import load_prepared
from ppt_core.errors import DataError
from ppt_core.runs.files import write_json
from vision_ppt.sampling import training_sampler


def array(n: int, *, size: int = 4, first_label: int = 0) -> ImageArray:
    images = np.random.default_rng(n).integers(0, 256, (n, size, size, 3), np.uint8)
    return ImageArray(images=images, labels=first_label + np.arange(n) % 3)


def prepared() -> PreparedImages:
    return PreparedImages(
        train=array(7),
        test=array(4),
        class_names=("a", "b", "c"),
        normalization=Normalization(mean=(0.1, 0.2, 1 / 3), deviation=(0.5, 0.25, 2 / 3)),
        manifest={"source": {"name": "test"}},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    prepared().save(tmp_path / "set")
    return tmp_path / "set"


def test_what_is_saved_is_loaded_memory_mapped(folder: Path) -> None:
    assert sorted(file.name for file in folder.iterdir()) == [
        "manifest.json",
        "test_images.npy",
        "test_labels.npy",
        "train_images.npy",
        "train_labels.npy",
    ]
    expected = prepared()
    for data in (PreparedImages.load(folder), load_prepared(folder)):
        assert isinstance(data, PreparedImages)
        for found, part in ((data.train, expected.train), (data.test, expected.test)):
            assert isinstance(found.images, np.memmap)
            assert np.array_equal(found.images, part.images)
            assert np.array_equal(found.labels, part.labels)
        assert data.class_names == ("a", "b", "c")
        assert data.n_classes == 3
        assert data.normalization == expected.normalization
        assert data.manifest["source"] == {"name": "test"}
        assert (data.manifest["n_train"], data.manifest["n_test"]) == (7, 4)
    one = training_sampler(PreparedImages.load(folder), seed=1).draw(0, 0, 7)
    assert torch.equal(one.images, training_sampler(expected, seed=1).draw(0, 0, 7).images)


def test_the_same_images_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    prepared().save(tmp_path / "again")
    for file in folder.iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_an_existing_folder_is_left_alone(folder: Path) -> None:
    with pytest.raises(DataError, match="already exists; choose another output"):
        prepared().save(folder)
    assert load_prepared(folder).n_classes == 3


@pytest.mark.parametrize("name", ["train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy"])
def test_a_changed_or_missing_file_is_named(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name} was changed after it was written"):
        load_prepared(folder)
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"{name} is missing; make the folder again"):
        load_prepared(folder)


def test_what_is_no_prepared_set_of_images_is_refused(folder: Path, tmp_path: Path) -> None:
    def refusal(path: Path) -> str:
        with pytest.raises(DataError) as raised:
            load_prepared(path)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    assert "gone is not a folder; make a prepared set with `ppt-vision prepare" in refusal(tmp_path / "gone")
    assert "is not a folder" in refusal(folder / "manifest.json")
    (tmp_path / "empty").mkdir()
    assert "empty holds no manifest.json" in refusal(tmp_path / "empty")
    (tmp_path / "ratings").mkdir()
    write_json(tmp_path / "ratings" / "manifest.json", {"format_version": 1, "protocol": "strict", "files": {}})
    assert "ratings is not a prepared set of images" in refusal(tmp_path / "ratings")
    (tmp_path / "other").mkdir()
    write_json(tmp_path / "other" / "manifest.json", {"format_version": 1, "kind": "films", "files": {}})
    assert "other is a prepared set of films, which this version" in refusal(tmp_path / "other")
    with pytest.raises(DataError, match="other is a prepared set of films, not of image arrays"):
        PreparedImages.load(tmp_path / "other")
    (tmp_path / "later").mkdir()
    write_json(tmp_path / "later" / "manifest.json", {"format_version": 2, "kind": "image arrays", "files": {}})
    assert "has format version 2 and this version of ppt-ncf reads 1; upgrade" in refusal(tmp_path / "later")
    document = json.loads((folder / "manifest.json").read_text())
    document["class_names"][0] = "z"
    (folder / "manifest.json").write_text(json.dumps(document))
    assert "manifest.json was changed after it was written" in refusal(folder)


def test_a_moved_set_is_as_good(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder, tmp_path / "moved")
    assert load_prepared(tmp_path / "moved").n_classes == 3


def test_refuses_arrays_that_are_no_labelled_images() -> None:
    good = array(4)
    for images in (good.images[..., 0], good.images.astype(np.float32), good.images[..., :2]):
        with pytest.raises(ValueError, match=r"they must be uint8 \(n, height, width, 3\)"):
            ImageArray(images=images, labels=good.labels)  # type: ignore[arg-type]
    for labels in (good.labels[:3], good.labels.astype(np.int32), good.labels[:, None]):
        with pytest.raises(ValueError, match=r"they must be int64 \(4,\)"):
            ImageArray(images=good.images, labels=labels)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (array(5), array(4, size=5), "they must have one size"),
        (array(5, first_label=1), array(4), "labels must be between 0 and 2"),
        (array(5), array(4, first_label=-1), "labels must be between 0 and 2"),
        (array(5), array(0), "at least one image in t"),
    ],
)
def test_refuses_parts_that_do_not_fit(train: ImageArray, test: ImageArray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PreparedImages(
            train=train,
            test=test,
            class_names=("a", "b", "c"),
            normalization=Normalization(mean=(0, 0, 0), deviation=(1, 1, 1)),
            manifest={},
        )
