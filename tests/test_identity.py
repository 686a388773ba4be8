"""Data are what they hold: a copy under another file name is the same, another preparation is not."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.images.image_arrays import ImageArray, PreparedImages
from data_prep.images.normalization import Normalization
from data_prep.ratings.any_source import prepare_source
from data_prep.ratings.interactions import PreparedData
from ncf_ppt.model import NCFConfig
from ncf_ppt.trained import load
from ncf_ppt.training import fit_steps
from ncf_ppt.training_config import NCFTrainingConfig
from ppt_core.errors import DataError
from ppt_core.identity import content_identity, differences, same_data
from ppt_core.runs.files import read_json, write_json
from ppt_core.runs.run import Run
from ppt_core.study.study import Study
from tests.test_prepare import CSV, OPTIONS

SMALL = NCFConfig(factors=4, layers=(8, 8, 8, 4))
SHORT = NCFTrainingConfig(iterations=2, batch_size=16)


def train(data: Path, run: Path, **options: Any) -> Run:
    for _ in fit_steps(PreparedData.load(data), run, SMALL, SHORT, **options):
        pass
    return Run.open(run)


def data_of(run: Run, data: Path | None) -> PreparedData:
    return load(run.path, data=data).data


def make_older(run: Run) -> Run:
    """As it was recorded before content was."""
    data = {key: value for key, value in run.config.data.items() if key != "content"}
    write_json(run.path / "config.json", {"format_version": 1, **run.config.to_dict(), "data": data})
    return Run.open(run.path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared twice from the same bytes, packed or not, and once from others."""
    path = tmp_path_factory.mktemp("identity")
    (path / "u.csv").write_text(CSV)
    (path / "v.csv.gz").write_bytes(gzip.compress(CSV.encode()))
    prepare_source(str(path / "u.csv"), path / "plain", **OPTIONS)
    prepare_source(str(path / "v.csv.gz"), path / "packed", **OPTIONS)
    (path / "w.csv").write_text(CSV + "b,new,50\n")
    prepare_source(str(path / "w.csv"), path / "other", **OPTIONS)
    train(path / "plain", path / "run")
    return path


def test_the_content_is_the_data(folder: Path) -> None:
    plain, packed, other = (PreparedData.load(folder / name) for name in ("plain", "packed", "other"))
    assert plain.manifest["sha256"] != packed.manifest["sha256"]
    assert plain.content == packed.content
    assert plain.content != other.content
    assert content_identity(None) is None
    assert content_identity({"a": "1", "b": "2"}) == content_identity({"b": "2", "a": "1"})
    assert content_identity({"a": "1"}, "strict") != content_identity({"a": "1"}, "mlperf")


def test_a_run_goes_on_with_the_same_data_from_another_file(folder: Path, tmp_path: Path) -> None:
    run = train(folder / "packed", tmp_path / "run")
    load(folder / "run").compare(load(tmp_path / "run"))
    train(folder / "plain", tmp_path / "run", resume=True)
    assert data_of(run, folder / "plain").manifest["source"]["name"] == "u.csv"
    load(tmp_path / "run").pack(tmp_path / "network.packed")
    found = load(tmp_path / "network.packed", data=folder / "plain")
    assert found.data.content == PreparedData.load(folder / "packed").content
    load(folder / "run").compare(found)
    with pytest.raises(DataError, match=r"was started with other data \(their content is \w+, not \w+\); resume"):
        train(folder / "other", tmp_path / "run", resume=True)
    with pytest.raises(DataError, match=r"is not the data that .* was trained on"):
        data_of(run, folder / "other")
    with pytest.raises(DataError, match=r"is not the data that .* was trained on"):
        _ = load(tmp_path / "network.packed", data=folder / "other").data
    other = train(folder / "other", tmp_path / "other")
    with pytest.raises(DataError, match=r"cannot be compared: their data \(checksum\) is"):
        load(run.path).compare(load(other.path))


def test_an_older_run_goes_on_with_its_own_data(folder: Path, tmp_path: Path) -> None:
    run = make_older(train(folder / "plain", tmp_path / "run"))
    assert "content" not in run.config.data
    assert data_of(run, None).content == data_of(run, folder / "plain").content
    train(folder / "plain", tmp_path / "run", resume=True)
    load(run.path).compare(load(folder / "run"))
    with pytest.raises(DataError, match=r"was started with other data \(their sha256"):
        train(folder / "other", tmp_path / "run", resume=True)
    with pytest.raises(DataError, match="is not the data that"):
        data_of(run, folder / "other")


def test_a_study_goes_on_with_the_same_data_from_another_file(tmp_path: Path) -> None:
    settings = {"kind": "x", "data": {"path": "a", "sha256": "1", "content": "c", "protocol": "strict"}}
    Study.create(tmp_path / "study", settings)
    Study.create(tmp_path / "study", {**settings, "data": {**settings["data"], "path": "b", "sha256": "2"}})  # type: ignore[dict-item]
    with pytest.raises(DataError, match=r"was started with other data \(their content is c, not d\)"):
        Study.create(tmp_path / "study", {**settings, "data": {**settings["data"], "content": "d"}})  # type: ignore[dict-item]
    with pytest.raises(DataError, match="was started with protocol = strict, not mlperf"):
        Study.create(tmp_path / "study", {**settings, "data": {**settings["data"], "protocol": "mlperf"}})  # type: ignore[dict-item]
    assert read_json(tmp_path / "study" / "study.json", format_version=1)["settings"] == settings


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        ({"sha256": "1", "content": "c"}, {"sha256": "2", "content": "c"}, True),
        ({"sha256": "1", "content": "c"}, {"sha256": "1", "content": "d"}, False),
        ({"sha256": "1"}, {"sha256": "1", "content": "c"}, True),
        ({"sha256": "2"}, {"sha256": "1", "content": "c"}, False),
        ({"sha256": None, "content": None}, {"sha256": "1", "content": "c"}, False),
        ({"sha256": None, "content": None}, {"sha256": None, "content": None}, True),
    ],
)
def test_records_name_data_by_content_or_by_their_manifest(first: Any, second: Any, is_same: bool) -> None:
    assert same_data(first, second) == same_data(second, first) == is_same
    assert (list(differences({"data": first}, {"data": second})) == []) == is_same


def test_images_have_content_too(tmp_path: Path) -> None:
    array = ImageArray(images=np.zeros((4, 8, 8, 3), np.uint8), labels=np.array([0, 1, 0, 1]))
    normalization = Normalization(mean=(0.1, 0.2, 0.3), deviation=(1.0, 1.0, 1.0))
    for name in ("a", "b"):
        images = PreparedImages(train=array, test=array, class_names=("x", "y"), normalization=normalization,
                                manifest={"source": name})  # fmt: skip
        assert images.content is None
        images.save(tmp_path / name)
    first, second = (PreparedImages.load(tmp_path / name) for name in ("a", "b"))
    assert first.content == second.content
    assert first.manifest["sha256"] != second.manifest["sha256"]
