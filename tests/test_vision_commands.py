import json
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image

from cli import main, vision
from data_prep.images.image_arrays import ImageArray, PreparedImages
from data_prep.images.normalization import Normalization
from data_prep.ratings.interactions import PreparedData
from tests.command_line import CommandLine
from tests.test_cifar import in_folder, small_batches, write_archive

TINY = ["--iterations", "2", "--batch-size", "16"]


PROGRAM = CommandLine(vision)
call, succeed, fail = PROGRAM.call, PROGRAM.succeed, PROGRAM.fail


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with prepared images ``data`` and a finished run ``run``."""
    folder = tmp_path_factory.mktemp("vision")
    rng = np.random.default_rng(0)
    train, test = (
        ImageArray(images=rng.integers(0, 256, (n, 8, 8, 3), np.uint8), labels=rng.integers(0, 2, n)) for n in (40, 20)
    )
    normalization = Normalization.of(train.images)
    PreparedImages(
        train=train, test=test, class_names=("a", "b"), normalization=normalization, manifest={"source": {}}
    ).save(folder / "data")
    succeed("train", "--data", folder / "data", "--out", folder / "run", *TINY)
    return folder


@pytest.fixture
def jpegs(tmp_path: Path) -> Path:
    """Ten images in two classes in ImageNet's layout, one of them greyscale."""
    for number in range(10):
        part = tmp_path / "jpegs" / ("train" if number < 6 else "val") / f"n0{number % 2}"
        part.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (20, 24, 3), np.uint8)
        Image.fromarray(noise).convert("L" if number == 3 else "RGB").save(part / f"{number}.JPEG")
    return tmp_path / "jpegs"


@pytest.mark.parametrize("name", sorted(vision.commands))
def test_every_command_has_help_and_an_example(name: str) -> None:
    result = call(name, "--help")
    assert result.exit_code == 0
    assert "Example" in result.output
    assert f"ppt-vision {name}" in result.output
    command = vision.commands[name]
    assert isinstance(command, click.Command)
    assert all(option.help for option in command.params if isinstance(option, click.Option)), "an option without help"


def test_cifar10_from_archive_to_accuracy(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "cifar-10-python.tar.gz", in_folder(small_batches()))
    document = succeed("prepare", "cifar10", archive, "--out", tmp_path / "data")
    assert (document["n_train"], document["n_test"], document["n_classes"]) == (60, 12, 10)
    assert "not the published ones" in call("prepare", "cifar10", archive, "--out", tmp_path / "again").stdout
    trained = succeed(
        "train", "--data", tmp_path / "data", "--shortcut", "projection", "--out", tmp_path / "run", *TINY
    )
    for key in ("accuracy", "n_images", "network", "iterations", "epochs", "seconds", "samples_per_second", "split",
                "phases", "seed"):  # fmt: skip
        assert key in trained
    evaluated = succeed("evaluate", tmp_path / "run")
    assert evaluated.pop("engine") == "torch"
    assert {key: trained[key] for key in evaluated} == evaluated


def test_imagenet_from_folders_to_accuracy(jpegs: Path, tmp_path: Path) -> None:
    document = succeed("prepare", "imagenet", jpegs, "--out", tmp_path / "data")
    assert (document["n_train"], document["n_test"], document["n_classes"]) == (6, 4, 2)
    options = ["--network", "resnet20", "--recipe", "imagenet", "--image-size", 16, "--workers", 1, *TINY]
    trained = succeed("train", "--data", tmp_path / "data", "--out", tmp_path / "run", *options)
    jpegs.rename(tmp_path / "moved")
    assert "if the images" in fail("evaluate", tmp_path / "run")
    assert succeed("evaluate", tmp_path / "run", "--root", tmp_path / "moved")["accuracy"] == trained["accuracy"]


def test_train_goes_on_and_prints_what_it_reached(folder: Path, tmp_path: Path) -> None:
    options = ["--data", folder / "data", "--out", tmp_path / "run", *TINY, "--threshold", 1, "--split", 0]
    result = call("train", *options)
    assert result.exit_code == 0, result.output
    assert "threshold 1.0 on the test set (MLPerf's rule): not reached" in result.stdout
    assert "[20 test images, top-1; ties lost]" in result.stdout
    assert succeed("train", *options, "--resume")["run"] == str(tmp_path / "run")
    assert "was started with split = 0.0, not 0.5" in fail("train", *options[:-2], "--resume")


def test_the_other_package_is_named(folder: Path, tiny_data: PreparedData, tmp_path: Path) -> None:
    """Images given to ppt-ncf, ratings given to ppt-vision, and runs likewise."""
    tiny_data.save(tmp_path / "ratings")
    assert "is not a prepared set of images" in fail("train", "--data", tmp_path / "ratings", "--out", tmp_path / "x")
    for arguments in (["train", "--data", folder / "data", "--out", tmp_path / "x"], ["evaluate", folder / "run"]):
        result = CommandLine(main).call(*arguments)
        assert result.exit_code == 1
        assert len(result.stderr.strip().splitlines()) == 1
        assert "ppt-vision" in result.stderr
    assert not (tmp_path / "x").exists()


def test_errors_are_one_line(folder: Path, jpegs: Path, tmp_path: Path) -> None:
    data, out = folder / "data", tmp_path / "x"
    archive = write_archive(tmp_path / "whole.tar.gz", in_folder(small_batches()))
    (tmp_path / "cut.tar.gz").write_bytes(archive.read_bytes()[:-2000])
    assert "truncated" in fail("prepare", "cifar10", tmp_path / "cut.tar.gz", "--out", out)
    assert "does not exist" in fail("prepare", "cifar10", tmp_path / "none", "--out", out)
    assert "holds no batches.meta" in fail("prepare", "cifar10", jpegs, "--out", out)
    assert "already exists" in fail("prepare", "cifar10", archive, "--out", data)
    for ignored in (("--on-broken", "skip"), ("--threads", "2")):
        said = fail("prepare", "cifar10", archive, "--out", out, *ignored, code=2)
        assert "--on-broken and --threads are for imagenet's files; leave them out for cifar10" in said
    assert "unpack it" in fail("prepare", "imagenet", archive, "--out", out)
    assert "holds no folder train/" in fail("prepare", "imagenet", data, "--out", out)
    (jpegs / "val" / "n02").mkdir()
    assert "has the class n02, which train/ has not" in fail("prepare", "imagenet", jpegs, "--out", out)
    (jpegs / "val" / "n02").rmdir()
    (jpegs / "train" / "n00" / "0.JPEG").write_bytes(b"")
    assert "0.JPEG is broken (it has zero bytes)" in fail("prepare", "imagenet", jpegs, "--out", out)
    skipped = call("prepare", "imagenet", jpegs, "--out", tmp_path / "skipped", "--on-broken", "skip")
    assert "left out: train/n00/0.JPEG (it has zero bytes)" in skipped.stdout
    for part in ("train", "val"):
        (jpegs / part / "n01").rename(jpegs / f"{part}-n01")
    assert "only the class n00; at least two" in fail("prepare", "imagenet", jpegs, "--out", out)
    assert "split is 2.0; it must be between" in fail("train", "--data", data, "--out", out, "--split", 2, code=2)
    assert "vgg16 needs 32" in fail("train", "--data", data, "--out", out, "--network", "vgg16", code=2)
    assert "vgg16 has no shortcuts" in fail(
        "train", "--data", data, "--out", out, "--network", "vgg16", "--shortcut", "identity", code=2
    )
    for option, value in (("--image-size", 64), ("--root", tmp_path)):
        line = fail("train", "--data", data, "--out", out, option, value, code=2)
        assert f"{option} is {value}, which is for image files; these images are arrays" in line
    assert "already exists" in fail("train", "--data", data, "--out", folder / "run")
    assert "--resume needs --out" in fail("train", "--resume")
    assert "is not a folder" in fail("train", "--data", tmp_path / "none", "--out", out)
    assert "not a run folder" in fail("evaluate", data)
    assert not out.exists()


def test_damaged_images_stop_training_with_their_name(jpegs: Path, tmp_path: Path) -> None:
    succeed("prepare", "imagenet", jpegs, "--out", tmp_path / "data")
    path = jpegs / "train" / "n00" / "0.JPEG"
    path.write_bytes(path.read_bytes()[:300])
    for workers in (0, 1):
        options = ["--image-size", 16, "--workers", workers, *TINY, "--out", tmp_path / f"run{workers}"]
        assert f"{path} cannot be read" in fail("train", "--data", tmp_path / "data", *options)


def test_a_study_of_images(folder: Path, tmp_path: Path) -> None:
    """It trains, goes on without training again, and takes the options of `train`, those of the data too."""
    arguments = ["study", "run", "--data", folder / "data", "--out", tmp_path / "study", "--trials", 1, "--threads", 1]
    options = ["--", "--batch-size", 16, "--shortcut", "projection"]
    done = call(*arguments, "--budgets", "1", "--json", *options)
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["trials"] == {"finished": 3, "planned": 3}
    assert document["metric"] == {"key": "accuracy", "title": "top-1 accuracy"}
    assert [curve["name"] for curve in document["curves"]] == [
        "full precision",
        "partial pre-training",
        "low precision",
    ]
    assert document["speed"]["iterations_per_epoch"] == 3
    assert "0 trials to run" in call(*arguments, "--budgets", "1", *options).stderr
    assert "was started with shortcut = projection" in fail(*arguments, "--budgets", "1", *options[:-2])
    assert "--json behind -- is for the study" in fail(*arguments, "--", "--json", code=2)
    report = succeed("study", "report", tmp_path / "study")
    assert "top-1 accuracy" in (Path(report["report"]) / "index.html").read_text()
