"""Labelled image files in ImageNet's layout, and the index that makes a prepared set of them.

The images stay where they are. The prepared set is a folder::

    manifest.json    kind ``image folders``, format version, class names, counts, files left out and why, a
                     SHA-256 over all images, SHA-256 of the two files that follow
    train.parquet    columns path (string, from the root, with /) and label (int64)
    test.parquet     likewise; the images of ``val/``
    validation.parquet  likewise, where images were held out of training (``prepare --validation``)
    root.json        where the images are
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.images.manifest import FORMAT_VERSION, count_images, parts_of, read_manifest
from data_prep.images.normalization import IMAGENET_NORMALIZATION, Normalization
from ppt_core.damaged import understanding
from ppt_core.errors import DataError
from ppt_core.identity import content_identity
from ppt_core.runs.files import (
    file_checksums,
    new_directory,
    read_json,
    verify_checksums,
    write_json,
)

KIND = "image folders"


@dataclass(frozen=True, kw_only=True)
class ImageFiles:
    """Labelled image files.

    Attributes:
        root: the folder that the paths start from.
        paths: arrow array of strings (n,). As a list of Python strings a million paths would be copied into every
            worker process, since each look at one changes its reference count.
        labels: int64 (n,), the number of each image's class.
    """

    root: Path
    paths: Any
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        if len(self.paths) != len(self.labels):
            raise ValueError(f"there are {len(self.paths)} paths and {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, chosen: NDArray[np.bool_]) -> "ImageFiles":
        """Return the files that ``chosen`` (n,) says."""
        return replace(self, paths=self.paths.filter(chosen), labels=self.labels[chosen])

    def path(self, index: int) -> Path:
        """Where image number ``index`` is."""
        return self.root / str(self.paths[index].as_py())


@dataclass(frozen=True, kw_only=True, repr=False)
class PreparedFolders:
    """Image files to train and to test on.

    Attributes:
        train: the training images.
        test: the test images.
        validation: images held out of ``train``, by which settings are chosen and trainings ended; None if there are
            none.
        class_names: name of each class, by its number: the names of the folders in alphabetical order.
        manifest: where the images came from, as JSON values.
        path: the folder that the set was loaded from or saved to; None if it was never saved.
        is_sample: whether it is the built-in sample, which needs no folder.
    """

    train: ImageFiles
    test: ImageFiles
    class_names: tuple[str, ...]
    manifest: dict[str, Any]
    path: Path | None = None
    is_sample: bool = False
    validation: ImageFiles | None = None

    @property
    def parts(self) -> dict[str, ImageFiles]:
        """The images by what they are for: ``train``, ``test`` and, if there are some, ``validation``."""
        parts = {"train": self.train, "test": self.test}
        return parts if self.validation is None else parts | {"validation": self.validation}

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def normalization(self) -> Normalization:
        """ImageNet's."""
        return IMAGENET_NORMALIZATION

    @property
    def content(self) -> str | None:
        """What identifies the set: see `ppt_core.identity.content_identity`."""
        return content_identity(self.manifest.get("files"), self.class_names, self.manifest.get("source"))

    def save(self, path: Path | str) -> "PreparedFolders":
        """Write the set to the new folder ``path`` and return it as it stands there: it knows its path and content.

        Raises `DataError` if the folder exists.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = Path(path)
        with new_directory(path) as folder:
            for name, part in self.parts.items():
                pq.write_table(pa.table({"path": part.paths, "label": part.labels}), folder / f"{name}.parquet")
            checksums = file_checksums(folder)
            # Apart, so that the manifest says which images and not where: moving them changes nothing else.
            write_json(
                folder / "root.json", {"format_version": FORMAT_VERSION, "root": str(self.train.root.absolute())}
            )
            write_json(
                folder / "manifest.json",
                {
                    **self.manifest,
                    "format_version": FORMAT_VERSION,
                    "kind": KIND,
                    "class_names": self.class_names,
                    **{f"n_{name}": len(part) for name, part in self.parts.items()},
                    "files": checksums,
                },
            )

        return replace(self, manifest=read_manifest(path, kind=KIND), path=path, is_sample=False)

    @classmethod
    def load(cls, path: Path | str, *, root: Path | str | None = None) -> "PreparedFolders":
        """Open a prepared set of image files.

        Args:
            path: the prepared set.
            root: where the images are now, if they were moved since.

        Raises `DataError` if the folder is missing, is not such a set, has a format version this code does not
        know, if any byte of the index differs from what was written, or if the images are not at the root.
        """
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        path = Path(path)
        manifest = read_manifest(path, kind=KIND)
        verify_checksums(path, manifest.get("files"))
        if root is None:
            found = read_json(path / "root.json", format_version=FORMAT_VERSION, needed={"root": str})
            root = found["root"]
        root = Path(root)
        parts = []
        for name in parts_of(manifest):
            with understanding(path / f"{name}.parquet"):
                table = pq.read_table(path / f"{name}.parquet")
                files = ImageFiles(
                    root=root,
                    paths=table.column("path").combine_chunks(),
                    labels=np.asarray(table.column("label").to_numpy()),
                )
                if not len(files) or files.labels.min() < 0 or files.labels.max() >= len(manifest["class_names"]):
                    raise ValueError("there are no images, or labels that are no classes")
                if pc.any(pc.match_substring_regex(files.paths, r"^/|(^|/)\.\.(/|$)")).as_py():
                    raise ValueError("a path leads out of the folder of the images")
            if not files.path(0).exists():
                raise DataError(f"{files.path(0)} does not exist; if the images of {path} were moved, say where to")
            parts.append(files)
        with understanding(path):
            train, test, *others = parts
            return cls(
                train=train,
                test=test,
                validation=others[0] if others else None,
                class_names=tuple(manifest["class_names"]),
                manifest=manifest,
                path=path,
            )

    def __repr__(self) -> str:
        return f"PreparedFolders({count_images(self.parts)}, {self.n_classes} classes, in {self.train.root})"
