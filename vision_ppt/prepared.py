"""Either kind of prepared images behind one door."""

from pathlib import Path

from ppt_core.errors import DataError
from vision_ppt import folders, images
from vision_ppt.folders import PreparedFolders
from vision_ppt.images import PreparedImages
from vision_ppt.manifest import read_manifest


def load_prepared(path: Path, *, root: Path | None = None) -> PreparedImages | PreparedFolders:
    """Open the prepared set in the folder ``path``, of whichever kind it is.

    Args:
        path: what ``ppt-vision prepare`` made.
        root: where image files are now, if they were moved since.

    Raises `DataError` if it is no prepared set of images, or a damaged one.
    """
    kind = read_manifest(path)["kind"]
    if kind == folders.KIND:
        return PreparedFolders.load(path, root=root)
    if kind == images.KIND:
        return PreparedImages.load(path)
    raise DataError(f"{path} is a prepared set of {kind}, which this version of ppt-ncf does not know; upgrade ppt-ncf")
