from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from cli import vision
from data_prep.images.image_arrays import ImageArray, PreparedImages
from data_prep.images.image_files import ImageFiles, PreparedFolders
from data_prep.images.normalization import Normalization
from data_prep.images.prepared import load_prepared
from data_prep.images.validation import hold_out
from ppt_core.errors import DataError
from ppt_core.runs.run import Run
from tests.test_cifar import small_batches, write_folder
from vision_ppt.networks import NetworkConfig
from vision_ppt.training import VisionTrainingConfig, evaluate, fit_steps, load_model


def numbered(labels: list[int]) -> ImageArray:
    """Images of 4x4 whose first value is their number."""
    images = np.zeros((len(labels), 4, 4, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(len(labels))
    return ImageArray(images=images, labels=np.array(labels, np.int64))


def numbers(part: ImageArray) -> list[int]:
    found: list[int] = part.images[:, 0, 0, 0].tolist()
    return found


def test_every_image_is_on_one_side_and_classes_keep_their_shares() -> None:
    labels = [0] * 60 + [1] * 30 + [2] * 10
    train, validation = hold_out(numbered(labels), 20)
    assert np.bincount(validation.labels).tolist() == [12, 6, 2]
    assert sorted(numbers(train) + numbers(validation)) == list(range(100))
    assert numbers(train) == sorted(numbers(train))
    assert numbers(validation) == sorted(numbers(validation))
    assert [labels[number] for number in numbers(validation)] == validation.labels.tolist()


def test_what_is_left_over_goes_to_the_largest_remainders() -> None:
    _, validation = hold_out(numbered([0] * 50 + [1] * 30 + [2] * 20), 7)  # 3.5, 2.1 and 1.4
    assert np.bincount(validation.labels).tolist() == [4, 2, 1]


def test_the_draw_is_always_the_same() -> None:
    images = numbered([0, 1] * 50)
    chosen = numbers(hold_out(images, 20)[1])
    assert numbers(hold_out(images, 20)[1]) == chosen
    assert chosen != list(range(20))


@pytest.mark.parametrize(("n", "found"), [(1, "0 0 of 10"), (38, "0 10 of 10"), (200, "0 50 of 10")])
def test_a_class_without_an_image_on_either_side_is_refused(n: int, found: str) -> None:
    with pytest.raises(DataError, match=rf"{n} of 40 training images cannot be held out .* class {found} would be"):
        hold_out(numbered([0] * 10 + [1] * 20 + [2] * 10), n)


def test_files_are_held_out_as_images_are(tmp_path: Path) -> None:
    labels = np.repeat([0, 1], 20).astype(np.int64)
    names = [f"{number}.jpg" for number in range(40)]
    for name in names:
        (tmp_path / name).touch()
    files = ImageFiles(root=tmp_path, paths=pa.array(names), labels=labels)
    train, validation = hold_out(files, 10)
    _, images = hold_out(numbered(labels.tolist()), 10)
    assert validation.paths.to_pylist() == [f"{number}.jpg" for number in numbers(images)]
    data = PreparedFolders(train=train, test=files, validation=validation, class_names=("a", "b"), manifest={})
    saved = data.save(tmp_path / "set")
    assert repr(load_prepared(tmp_path / "set")).startswith(
        "PreparedFolders(30 training, 40 test and 10 validation images, 2 classes"
    )
    found = PreparedFolders.load(tmp_path / "set")
    assert found.validation is not None
    assert found.validation.paths.equals(validation.paths)
    assert found.validation.labels.tolist() == validation.labels.tolist()
    assert found.content == saved.content


def test_the_command_holds_out_before_anything_is_measured(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", small_batches())
    for name, options in (("whole", []), ("held", ["--validation", "20"])):
        arguments = ["prepare", "cifar10", str(source), "--out", str(tmp_path / name), *options]
        result = CliRunner().invoke(vision, arguments)
        assert result.exit_code == 0, result.output
    assert f"{tmp_path / 'held'}: 40 training, 12 test and 20 validation images of 10 classes" in result.output
    whole, held = PreparedImages.load(tmp_path / "whole"), PreparedImages.load(tmp_path / "held")
    assert held.validation is not None
    assert (whole.validation, len(held.validation), held.manifest["n_validation"]) == (None, 20, 20)
    assert "n_validation" not in whole.manifest
    assert held.normalization == Normalization.of(held.train.images)
    assert held.normalization != whole.normalization
    assert held.content != whole.content
    result = CliRunner().invoke(
        vision, ["prepare", "cifar10", str(source), "--out", str(tmp_path / "none"), "--validation", "3"]
    )
    assert result.exit_code == 1
    assert "3 of 60 training images cannot be held out for validation" in result.output
    assert not (tmp_path / "none").exists()


def test_training_stops_on_validation_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def noise(n: int) -> ImageArray:
        return ImageArray(images=rng.integers(0, 256, (n, 8, 8, 3), np.uint8), labels=np.arange(n) % 3)

    train, validation = hold_out(noise(60), 30)
    data = PreparedImages(
        train=train,
        test=noise(30),
        validation=validation,
        class_names=("a", "b", "c"),
        normalization=Normalization.of(train.images),
        manifest={},
    )
    config = VisionTrainingConfig(split=0, epochs=12, batch_size=15, eval_every=1, patience=2)
    for _ in fit_steps(data, tmp_path / "run", NetworkConfig(network="resnet20", n_classes=3), config):
        pass
    run = Run.open(tmp_path / "run")
    found = [line["validation"]["accuracy"] for line in run.metrics()]
    ends = (end for end in range(3, 13) if max(found[end - 2 : end]) <= max(found[: end - 2]))
    assert len(found) == next(ends, 12) < 12  # labels of noise: nothing to learn
    last = evaluate(load_model(run), validation, data.normalization)
    assert last == run.metrics()[-1]["validation"]
