"""Labelled images as arrays, and the prepared set of them.

A prepared set of arrays is a folder::

    manifest.json        kind ``image arrays``, format version, class names, mean and deviation, where it came
                         from, counts, SHA-256 of the files below
    train_images.npy     uint8 (n_train, height, width, 3)
    train_labels.npy     int64 (n_train,): numbers of classes
    test_images.npy      uint8 (n_test, height, width, 3)
    test_labels.npy      int64 (n_test,)

and, where images were held out of training (``prepare --validation``), validation_images.npy and
validation_labels.npy likewise.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.images.manifest import FORMAT_VERSION, count_images, parts_of, read_manifest
from data_prep.images.normalization import Images, Normalization
from ppt_core.damaged import understanding
from ppt_core.identity import content_identity
from ppt_core.runs.files import file_checksums, new_directory, verify_checksums, write_json

KIND = "image arrays"


@dataclass(frozen=True, kw_only=True)
class ImageArray:
    """Labelled images of one size.

    Attributes:
        images: uint8 (n, height, width, 3), red, green and blue.
        labels: int64 (n,), the number of each image's class.
    """

    images: Images
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[3] != 3:
            raise ValueError(
                f"images are {self.images.dtype} {self.images.shape}; they must be uint8 (n, height, width, 3)"
            )
        if self.labels.dtype != np.int64 or self.labels.shape != (len(self.images),):
            raise ValueError(
                f"labels are {self.labels.dtype} {self.labels.shape}; they must be int64 ({len(self.images)},)"
            )

    def __len__(self) -> int:
        return len(self.images)

    def take(self, chosen: NDArray[np.bool_]) -> "ImageArray":
        """Return a copy of the images that ``chosen`` (n,) says."""
        return ImageArray(images=self.images[chosen], labels=self.labels[chosen])


@dataclass(frozen=True, kw_only=True, repr=False)
class PreparedImages:
    """Images to train and to test on, held in memory or mapped from files.

    Attributes:
        train: the training images.
        test: the test images, of the same size.
        validation: images of that size held out of ``train``, by which settings are chosen and trainings ended; None
            if there are none.
        class_names: name of each class, by its number.
        normalization: of the training images.
        manifest: where the images came from, as JSON values.
        path: the folder that the set was loaded from or saved to; None if it was never saved.
        is_sample: whether it is the built-in sample, which needs no folder.
    """

    train: ImageArray
    test: ImageArray
    class_names: tuple[str, ...]
    normalization: Normalization
    manifest: dict[str, Any]
    path: Path | None = None
    is_sample: bool = False
    validation: ImageArray | None = None

    def __post_init__(self) -> None:
        for name, part in self.parts.items():
            if part.images.shape[1:] != self.train.images.shape[1:]:
                raise ValueError(
                    f"training images are {self.train.images.shape[1:]} and {name} images {part.images.shape[1:]}; "
                    "they must have one size"
                )
            if not len(part):
                raise ValueError(f"there must be at least one image in {name}")
            if part.labels.min() < 0 or part.labels.max() >= self.n_classes:
                raise ValueError(f"labels must be between 0 and {self.n_classes - 1}")

    @property
    def parts(self) -> dict[str, ImageArray]:
        """The images by what they are for: ``train``, ``test`` and, if there are some, ``validation``."""
        parts = {"train": self.train, "test": self.test}
        return parts if self.validation is None else parts | {"validation": self.validation}

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def content(self) -> str | None:
        """What identifies the set: see `ppt_core.identity.content_identity`."""
        return content_identity(
            self.manifest.get("files"), self.class_names, self.normalization.mean, self.normalization.deviation
        )

    def save(self, path: Path | str) -> "PreparedImages":
        """Write the set to the new folder ``path`` and return it as it stands there: it knows its path and content.

        Raises `DataError` if the folder exists.
        """
        path = Path(path)
        with new_directory(path) as folder:
            for name, part in self.parts.items():
                np.save(folder / f"{name}_images.npy", part.images, allow_pickle=False)
                np.save(folder / f"{name}_labels.npy", part.labels, allow_pickle=False)
            write_json(
                folder / "manifest.json",
                {
                    **self.manifest,
                    "format_version": FORMAT_VERSION,
                    "kind": KIND,
                    "class_names": self.class_names,
                    "mean": self.normalization.mean,
                    "deviation": self.normalization.deviation,
                    **{f"n_{name}": len(part) for name, part in self.parts.items()},
                    "image_size": self.train.images.shape[1:3],
                    "files": file_checksums(folder),
                },
            )

        return replace(self, manifest=read_manifest(path, kind=KIND), path=path, is_sample=False)

    @classmethod
    def load(cls, path: Path | str) -> "PreparedImages":
        """Open a prepared set of arrays; they are memory-mapped.

        Raises `DataError` if the folder is missing, is not such a set, has a format version this code does not
        know, or if any byte differs from what was written.
        """
        path = Path(path)
        manifest = read_manifest(path, kind=KIND)
        verify_checksums(path, manifest.get("files"))
        with understanding(path):
            train, test, *others = (
                ImageArray(
                    images=np.load(path / f"{part}_images.npy", mmap_mode="r", allow_pickle=False),
                    labels=np.load(path / f"{part}_labels.npy", mmap_mode="r", allow_pickle=False),
                )
                for part in parts_of(manifest)
            )
            return cls(
                train=train,
                test=test,
                validation=others[0] if others else None,
                class_names=tuple(manifest["class_names"]),
                normalization=Normalization(mean=tuple(manifest["mean"]), deviation=tuple(manifest["deviation"])),
                manifest=manifest,
                path=path,
            )

    def __repr__(self) -> str:
        where = f" at {self.path}" if self.path else ""
        return f"PreparedImages({count_images(self.parts)}, {self.n_classes} classes{where})"
