"""The images that a command works on."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vision_ppt.folders import PreparedFolders
    from vision_ppt.images import PreparedImages


def open_images(path: Path | None, root: Path | None = None) -> "PreparedImages | PreparedFolders":
    """Open the prepared set at ``path``, its image files at ``root`` if they moved, or the built-in sample."""
    from data_prep.images.synthetic import synthesize_images
    from vision_ppt.prepared import load_prepared

    images = synthesize_images() if path is None else load_prepared(path, root=root)
    refuse_for_arrays(images, "--root", root)
    return images


def refuse_for_arrays(images: "PreparedImages | PreparedFolders", option: str, value: object) -> None:
    """Raise ValueError if an option of image files is given and the images are no files."""
    from vision_ppt.images import PreparedImages

    if value is not None and isinstance(images, PreparedImages):
        raise ValueError(f"{option} is {value}, which is for image files; these images are arrays, so leave it out")
