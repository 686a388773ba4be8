"""A run folder or a packed file as a command gets it: a network, its images, and how it was trained."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppt_commands.recorded_data import recorded_data
from ppt_commands.vision.data import open_images
from ppt_core.identity import data_record, same_data

if TYPE_CHECKING:
    from torch import nn

    from data_prep.images.image_arrays import PreparedImages
    from data_prep.images.image_files import PreparedFolders

_KEYS = ("network", "iterations", "epochs", "seconds", "split", "phases", "seed")


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A network for evaluation, its images and their size, the engine's name, and how it was trained."""

    network: "nn.Module"
    images: "PreparedImages | PreparedFolders"
    image_size: int
    engine: str
    training: dict[str, Any]


def open_trained(path: Path, data: Path | None, *, root: Path | None, engine: str | None, device: str) -> Trained:
    """Open a run folder, or a packed file, which knows one engine and needs its data named."""
    from ppt_core.runs.run import Run
    from vision_ppt.packed.packing import pack
    from vision_ppt.training import load_network

    if path.is_file():
        return _open_packed(path, data, root=root, engine=engine, device=device)
    run = Run.open(path)
    network = load_network(run, device=device)
    return Trained(
        network=pack(network) if engine == "packed" else network,
        images=recorded_data(run, data, lambda place: open_images(place, root)),
        image_size=run.config["training"]["image_size"],
        engine=engine or "torch",
        training={key: run.result()[key] for key in _KEYS},
    )


def _open_packed(path: Path, data: Path | None, *, root: Path | None, engine: str | None, device: str) -> Trained:
    from ppt_core.errors import DataError
    from vision_ppt.packed.file import load_packed

    packed = load_packed(path)
    if engine == "torch" or device != "cpu":
        raise ValueError(f"{path} is a packed network, which is for --engine packed on a CPU; for others name the run")
    recorded = packed.provenance["data"]
    if data is None and not recorded["is_sample"]:
        raise DataError(f"{path} holds no images, so name the prepared data that it was trained on with --data")
    images = open_images(data, root)
    if not same_data(recorded, data_record(images)):
        raise DataError(f"{data} is not the data that {path} was trained on (another content)")
    return Trained(
        network=packed.network,
        images=images,
        image_size=packed.provenance["training"]["image_size"],
        engine="packed",
        training={"network": packed.config.network, **packed.provenance["result"]},
    )
