"""CIFAR-10 (Krizhevsky 2009) from the archive or the folder as its author publishes them."""

import hashlib
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.images.cifar_pickles import read_batch
from data_prep.images.image_arrays import ImageArray, PreparedImages
from data_prep.images.normalization import Images, Normalization
from data_prep.images.validation import hold_out
from data_prep.tar_members import members_of, open_tar, refuse_unsafe_name
from ppt_core.errors import DataError
from ppt_core.runs.files import refuse_existing

FOLDER = "cifar-10-batches-py"
ARCHIVE = "cifar-10-python.tar.gz"
_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
_TEST = "test_batch"
_META = "batches.meta"
_SIZE = 32
_N_CLASSES = 10
_MOST_BYTES = 1 << 28  # of one batch; the official ones have 31 MB

# The md5 that the author's page gives for the archive, and those of the batches in it.
_OFFICIAL_MD5 = {
    ARCHIVE: "c58f30108f718f92721af3b95e74349a",
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}


def prepare_cifar10(source: Path, out: Path, *, n_validation: int = 0) -> PreparedImages:
    """Write CIFAR-10 as a prepared set to the new folder ``out``, and return it.

    Images come in the order of the source. Its pickles are read by `data_prep.images.cifar_pickles.read_batch`, which
    runs nothing that they contain.

    Args:
        source: ``cifar-10-python.tar.gz``, or the folder ``cifar-10-batches-py`` that it unpacks to, or the folder
            around that one. A copy of other bytes is as good, in another order say: the manifest's ``source`` has
            the SHA-256 and says in ``is_official`` whether the bytes are the published ones.
        out: a new folder.
        n_validation: training images to hold out, see `data_prep.images.validation.hold_out`; 0 holds out none.

    Raises:
        DataError: ``out`` exists, ``source`` is missing, truncated, no such archive or folder, lacks a batch, or
            has a batch that is not as CIFAR-10's are; or so many images cannot be held out.
    """
    refuse_existing(out)
    if source.is_dir():
        contents, origin = _read_folder(source)
    else:
        contents, origin = _read_archive(source)
    class_names, n_rows = _read_meta(source, _read_pickle(source, _META, contents.pop(_META)))
    parts = {
        name: _read_images(source, name, _read_pickle(source, name, contents.pop(name)), n_rows)
        for name in (*_TRAIN, _TEST)
    }
    train = ImageArray(
        images=np.concatenate([parts[name].images for name in _TRAIN]),
        labels=np.concatenate([parts[name].labels for name in _TRAIN]),
    )
    validation = None
    if n_validation:
        train, validation = hold_out(train, n_validation)
    data = PreparedImages(
        train=train,
        test=parts[_TEST],
        validation=validation,
        class_names=class_names,
        normalization=Normalization.of(train.images),
        manifest={"source": {"name": "cifar10", **origin}},
    )
    return data.save(out)


def _read_folder(source: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    folder = source / FOLDER if (source / FOLDER).is_dir() else source
    contents = {}
    for name in (_META, *_TRAIN, _TEST):
        try:
            contents[name] = (folder / name).read_bytes()
        except FileNotFoundError:
            raise DataError(
                f"{folder} holds no {name}; name the archive {ARCHIVE} or the folder {FOLDER} it unpacks to"
            ) from None
        except OSError as error:
            raise DataError(f"{folder / name} cannot be read ({error.strerror})") from None
    return contents, {
        "file": folder.resolve().name,
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
        "is_official": all(
            hashlib.md5(contents[name], usedforsecurity=False).hexdigest() == _OFFICIAL_MD5[name]
            for name in (*_TRAIN, _TEST)
        ),
    }


def _read_archive(source: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    try:
        with source.open("rb") as file:
            while chunk := file.read(1 << 20):
                sha256.update(chunk)
                md5.update(chunk)
    except FileNotFoundError:
        raise DataError(f"{source} does not exist; name the archive {ARCHIVE} or the folder {FOLDER}") from None
    except OSError as error:
        raise DataError(f"{source} cannot be read ({error.strerror})") from None
    contents: dict[str, bytes] = {}
    try:
        for name, content in _members(source):
            if name in contents:
                raise DataError(f"{source} holds more than one {name}; use the archive as it was published")
            contents[name] = content
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(":")
        raise DataError(f"{source} is no tar archive, or truncated or damaged ({reason}); fetch it again") from None
    for name in (_META, *_TRAIN, _TEST):
        if name not in contents:
            raise DataError(f"{source} holds no {name}; it is not CIFAR-10's {ARCHIVE}, or not all of it")
    return contents, {
        "file": source.name,
        "sha256": sha256.hexdigest(),
        "is_official": md5.hexdigest() == _OFFICIAL_MD5[ARCHIVE],
    }


def _members(source: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each batch in the archive. Nothing is ever written under a member's name."""
    with open_tar(source) as archive:
        for member in members_of(source, archive):
            refuse_unsafe_name(source, member.name)
            name = PurePosixPath(member.name).name
            if name not in (_META, *_TRAIN, _TEST) or not member.isfile():
                continue
            if member.size > _MOST_BYTES:
                raise DataError(f"{source}: {name} has {member.size:,} bytes, far more than a batch of CIFAR-10")
            content = archive.extractfile(member)
            assert content is not None  # of a regular file
            yield name, content.read()
        assert archive.fileobj is not None
        while archive.fileobj.read(1 << 20):  # to the very end, where gzip has its checksum
            pass


def _read_pickle(source: Path, name: str, content: bytes) -> dict[str, Any]:
    try:
        return read_batch(content)
    except ValueError as error:
        raise DataError(f"{source}: {name} is not a batch of CIFAR-10: {error}; do not use this copy") from None


def _read_meta(source: Path, meta: dict[str, Any]) -> tuple[tuple[str, ...], int]:
    """Names of the classes, and the number of images in each batch."""
    names, n_rows = meta.get("label_names"), meta.get("num_cases_per_batch")
    if not (
        isinstance(names, list) and len(names) == _N_CLASSES and all(isinstance(name, (bytes, str)) for name in names)
    ):
        raise DataError(f"{source}: {_META} has no list of {_N_CLASSES} label_names; do not use this copy")
    if type(n_rows) is not int or n_rows < 1:
        raise DataError(f"{source}: {_META} has no number num_cases_per_batch of 1 or more; do not use this copy")
    return tuple(name.decode("latin1") if isinstance(name, bytes) else name for name in names), n_rows


def _read_images(source: Path, name: str, batch: dict[str, Any], n_rows: int) -> ImageArray:
    data, labels = batch.get("data"), batch.get("labels")
    n_values = 3 * _SIZE * _SIZE
    if not isinstance(data, np.ndarray) or data.shape != (n_rows, n_values):
        found = f"of shape {data.shape}" if isinstance(data, np.ndarray) else "missing"
        raise DataError(
            f"{source}: {name} has data {found}, not ({n_rows}, {n_values}) as {_META} says; do not use this copy"
        )
    if not isinstance(labels, list) or len(labels) != n_rows or not all(_is_label(label) for label in labels):
        raise DataError(
            f"{source}: {name} has no list of {n_rows} labels from 0 to {_N_CLASSES - 1}; do not use this copy"
        )
    return ImageArray(images=_from_planes(data), labels=np.array(labels, np.int64))


def _is_label(value: object) -> bool:
    return type(value) is int and 0 <= value < _N_CLASSES


def _from_planes(data: NDArray[np.uint8]) -> Images:
    """Rows of a red, a green and a blue plane each, uint8 (n, 3072), to uint8 (n, 32, 32, 3)."""
    return np.ascontiguousarray(data.reshape(-1, 3, _SIZE, _SIZE).transpose(0, 2, 3, 1))
