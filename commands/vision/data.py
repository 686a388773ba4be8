"""The images that a command works on."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vision_ppt.folders import PreparedFolders
    from vision_ppt.images import PreparedImages


def open_images(path: Path | None, root: Path | None = None) -> "PreparedImages | PreparedFolders":
    """Open the prepared set at ``path``, its image files at ``root`` if they moved, or the built-in sample."""
    from data_prep.synthetic_images import synthesize_images
    from vision_ppt.prepared import load_prepared

    return synthesize_images() if path is None else load_prepared(path, root=root)
