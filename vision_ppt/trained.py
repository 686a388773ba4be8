"""A trained image network as its users hold it: measured and packed, always on the images it belongs to."""

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

from data_prep.images.image_arrays import PreparedImages
from data_prep.images.image_files import PreparedFolders
from data_prep.images.prepared import load_data
from ppt_core.errors import DataError
from ppt_core.runs.files import refuse_existing
from ppt_core.runs.record import RunConfig, RunResult, TrainingRecord, provenance_of
from ppt_core.runs.recorded_data import recorded_data
from ppt_core.runs.run import Run
from vision_ppt.batches import evaluation_batches
from vision_ppt.networks import NetworkConfig
from vision_ppt.packed.file import PackedImageNetwork, float32_bytes, load_packed, save_packed
from vision_ppt.packed.packing import pack
from vision_ppt.packed.verification import Verification, verify
from vision_ppt.resnet import ResNet
from vision_ppt.sampling import evaluation_sampler
from vision_ppt.training import evaluate, load_model
from vision_ppt.vgg import VGG

Engine = Literal["torch", "packed"]
Data = PreparedImages | PreparedFolders

METRICS = {"accuracy": "accuracy"}
"""Keys of a result by the titles that people read."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Top-1 accuracy on the test images; a class that ties with another is not recognized.

    Attributes:
        accuracy: share of the images.
        n_images: their number.
        n_classes: number of classes.
        engine: what computed the logits.
    """

    accuracy: float
    n_images: int
    n_classes: int
    engine: str

    @property
    def protocol(self) -> str:
        """What the accuracy must carry."""
        return f"{self.n_images:,} test images, top-1"

    def to_dict(self) -> dict[str, Any]:
        """The attributes as JSON values."""
        return dict(vars(self))

    def __repr__(self) -> str:
        return f"Evaluation(accuracy {self.accuracy:.4f} [{self.protocol}; ties lost])"


@dataclass(frozen=True, kw_only=True, repr=False)
class PackReport:
    """What a packed file holds beside the network that it was made from.

    Attributes:
        path: the file.
        file_bytes: its size.
        float32_bytes: size of all parameters and running statistics at 32 bits.
        verification: what was compared and found equal.
    """

    path: Path
    file_bytes: int
    float32_bytes: int
    verification: Verification

    def to_dict(self) -> dict[str, Any]:
        """The attributes as JSON values."""
        sizes = {"bytes": self.file_bytes, "float32_bytes": self.float32_bytes}
        return {"out": str(self.path), **sizes, **self.verification.to_dict()}

    def __repr__(self) -> str:
        found = self.verification
        return (
            f"{self.path}: {self.file_bytes:,} bytes; all parameters at 32 bits: {self.float32_bytes:,}\n"
            f"differing from the simulated network: 0 of {found.compared_bits + found.boundary_bits:,} bits, 0 of "
            f"{found.compared_sums:,} sums, 0 of {found.compared_logits:,} logits"
        )


class TrainedImageNetwork:
    """A trained network and the images it was trained on: `fit` and `load` make it.

    Attributes:
        name: of the run folder or the packed file, as errors call it.
    """

    def __init__(
        self,
        name: str,
        *,
        run: Run | None = None,
        packed: PackedImageNetwork | None = None,
        device: str = "cpu",
        data: Data | Path | str | None = None,
        root: Path | str | None = None,
    ) -> None:
        self.name = name
        self._result = None if run is None else run.result()
        self._run, self._packed, self._device = run, packed, device
        self._given, self._root = data, root

    @property
    def _settings(self) -> RunConfig:
        """What it was started with; a packed file keeps the group of the network elsewhere."""
        if self._packed is not None:
            return RunConfig(self._packed.provenance)
        assert self._run is not None
        return self._run.config

    @property
    def config(self) -> NetworkConfig:
        """What the network is."""
        return NetworkConfig(**self._settings.groups["network"]) if self._packed is None else self._packed.config

    @property
    def result(self) -> RunResult:
        """The last evaluation of the run and how long training took.

        Raises ValueError for a packed file, which keeps none.
        """
        if self._result is None:
            raise ValueError(f"{self.name} is a packed network; load the run that it was made from for this")
        return self._result

    @property
    def is_packed(self) -> bool:
        """Whether it comes from a packed file."""
        return self._packed is not None

    @cached_property
    def network(self) -> ResNet | VGG:
        """The network, in evaluation mode; the packed one of a packed file."""
        if self._packed is not None:
            return self._packed.network
        assert self._run is not None
        return load_model(self._run, device=self._device)

    @cached_property
    def data(self) -> Data:
        """The images it was trained on, or the copy it was given; see `load`."""
        missing = None
        if self.is_packed:
            missing = f"{self.name} holds no images, so name the prepared data that it was trained on with data="
        opened = partial(load_data, root=self._root)
        found = recorded_data(self._settings.data, self.name, self._given, opened, missing=missing)
        assert isinstance(found, (PreparedImages, PreparedFolders))
        return found

    @property
    def training(self) -> TrainingRecord:
        """How it was trained."""
        if self._packed is None:
            return self.result.training
        return TrainingRecord.from_dict(self._packed.provenance["result"])

    @property
    def image_size(self) -> int:
        """Height and width of what image files are cropped to; arrays have their own."""
        return int(self._settings.training["image_size"])

    def engine(self, engine: Engine | None = None) -> Engine:
        """Return ``engine``, or the usual one. Raises ValueError for one that this network does not have."""
        if engine not in (None, "torch", "packed"):
            raise ValueError(f"engine is {engine!r}; it must be torch or packed")
        if self.is_packed and engine == "torch":
            raise ValueError(f"engine is 'torch', but {self.name} is a packed network; for torch name the run")
        return engine or ("packed" if self.is_packed else "torch")

    def evaluate(self, *, engine: Engine | None = None, workers: int = 0) -> Evaluation:
        """Measure it on the test images; ``workers`` processes decode them."""
        engine = self.engine(engine)
        network = pack(self.network) if engine == "packed" and not self.is_packed else self.network
        found = evaluate(
            network,
            self.data.test,
            self.data.normalization,
            image_size=self.image_size,
            device=self._device,
            workers=workers,
        )
        return Evaluation(**found, n_classes=self.data.n_classes, engine=engine)

    def pack(self, out: Path | str, *, n_images: int = 32) -> PackReport:
        """Write a network that ended in low precision to the new file ``out``, packed, and verify it.

        Both networks are compared on ``n_images`` test images and on inputs made up for every threshold.

        Raises `DataError` if they differ, ``out`` exists or nothing can be packed; ValueError for a packed file.
        """
        if self._run is None:
            raise ValueError(f"{self.name} is a packed network; load the run that it was made from for this")
        out = Path(out)
        refuse_existing(out)
        data = self.data
        packed = pack(self.network)
        batch = next(iter(evaluation_batches(evaluation_sampler(data.test, image_size=self.image_size), n_images)))
        verification = verify(packed, self.network, data.normalization(batch.images))
        artefact = PackedImageNetwork(
            network=packed,
            config=self.config,
            class_names=tuple(data.class_names),
            provenance=provenance_of(self._run.config, self.result),
        )
        save_packed(artefact, out)
        return PackReport(
            path=out,
            file_bytes=out.stat().st_size,
            float32_bytes=float32_bytes(self.network),
            verification=verification,
        )

    def __repr__(self) -> str:
        if self._packed is not None:
            return f"TrainedImageNetwork({self.name}, packed {self._packed.config.network})"
        return (
            f"TrainedImageNetwork({self.name}, {self.config.network}, accuracy {self.result.metrics['accuracy']:.4f})"
        )


def load(
    path: Path | str,
    *,
    data: Data | Path | str | None = None,
    root: Path | str | None = None,
    device: str = "cpu",
) -> TrainedImageNetwork:
    """Open a finished run folder, or a packed file.

    Args:
        path: the folder that a training wrote, or the file that `TrainedImageNetwork.pack` wrote.
        data: the images it was trained on, or the folder where they are now; a run knows where they were.
        root: where image files are now, if they moved since they were prepared.
        device: where PyTorch computes; a packed file knows the CPU only.

    Raises `DataError` for a folder or a file that is neither, is damaged, or is not finished.
    """
    path = Path(path)
    places = {"data": data, "root": root}
    if path.is_file():
        packed = load_packed(path)
        if device != "cpu":
            raise ValueError(f"device is {device!r}, but {path} is a packed network, which computes on a CPU")
        if "data" not in packed.provenance:
            raise DataError(f"{path} does not say what it was trained on; pack the run again")
        return TrainedImageNetwork(str(path), packed=packed, **places)  # type: ignore[arg-type]
    run = Run.open(path)
    run.refuse_other_kind("vision")
    return TrainedImageNetwork(str(path), run=run, device=device, **places)  # type: ignore[arg-type]
