"""A trained network as its users hold it: measured, asked, packed and exported, always on the data it belongs to."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from data_prep.ratings.any_source import load_data
from data_prep.ratings.interactions import PreparedData
from ncf_ppt.candidates import verify_export
from ncf_ppt.evaluation import MEMORY, Evaluation, Ranking, evaluate
from ncf_ppt.export.embeddings import export_embeddings
from ncf_ppt.export.encodings import Dtype
from ncf_ppt.export.onnx_file import export_onnx
from ncf_ppt.export.results import ExportedEmbeddings, ExportedOnnx
from ncf_ppt.export.vector_files import Format
from ncf_ppt.inspection import Inspection, inspect_trained
from ncf_ppt.item_lists import Recommendations
from ncf_ppt.networks import Network
from ncf_ppt.new_users import scorer_by_history
from ncf_ppt.original_ids import Ids
from ncf_ppt.packed.file import load_packed
from ncf_ppt.packed.packing import pack
from ncf_ppt.packed.report import PackReport, write_packed
from ncf_ppt.packed.tower import PackedNetwork
from ncf_ppt.pair_scores import PairScores, score_pairs
from ncf_ppt.ranking import Scorer
from ncf_ppt.recommendation import NewUsers, recommend
from ncf_ppt.scoring import scorer
from ncf_ppt.similar_items import SimilarItems, item_vectors, similar_items
from ncf_ppt.training import load_model
from ncf_ppt.two_stages import Candidates, LastStages
from ppt_core.damaged import checked
from ppt_core.distributed import World
from ppt_core.errors import DataError
from ppt_core.identity import copied_record
from ppt_core.runs.files import refuse_existing
from ppt_core.runs.record import RunResult, TrainingRecord, provenance_of
from ppt_core.runs.recorded_data import recorded_data
from ppt_core.runs.run import Run

if TYPE_CHECKING:
    from ncf_ppt.comparison import Comparison

Engine = Literal["torch", "packed"]

METRICS = {"HR@10": "hit_ratio", "NDCG@10": "ndcg"}
"""Keys of a result by the titles that people read."""


class TrainedNCF:
    """A trained network and the data it was trained on: `fit` and `load` make it.

    Attributes:
        name: of the run folder or the packed file, as errors and comparisons call it.
    """

    def __init__(
        self,
        name: str,
        *,
        run: Run | None = None,
        packed: PackedNetwork | None = None,
        device: str = "cpu",
        data: PreparedData | Path | str | None = None,
    ) -> None:
        self.name = name
        self._result = None if run is None else run.result()
        self._run, self._packed, self._device, self._given = run, packed, device, data
        self._stages = LastStages()

    @property
    def _record(self) -> Mapping[str, Any]:
        """What it keeps of its data."""
        if self._packed is not None:
            found: Mapping[str, Any] = self._packed.provenance.get("data", {})
            return found
        assert self._run is not None
        return self._run.config.data

    @property
    def data_record(self) -> dict[str, Any]:
        """Which data it was trained on, and not where: see `ppt_core.identity.copied_record`."""
        return copied_record(self._record)

    def seed_and_settings(self) -> tuple[int | None, dict[str, Any]]:
        """The seed of its training, and all else that was set: what several seeds of one thing share."""
        kept = self._run.config.groups if self._run is not None else self._packed_engine.provenance
        settings = {key: dict(kept.get(key, {})) for key in ("model", "training")}
        return settings["training"].pop("seed", None), settings

    @property
    def result(self) -> RunResult:
        """The last evaluation of the run and how long training took.

        Raises ValueError for a packed file, which keeps none.
        """
        _ = self.run
        assert self._result is not None
        return self._result

    @property
    def run(self) -> Run:
        """The run folder. Raises ValueError for a packed file, which comes from none."""
        if self._run is None:
            raise ValueError(f"{self.name} is a packed network; load the run that it was made from for this")
        return self._run

    @property
    def is_packed(self) -> bool:
        """Whether it comes from a packed file, which knows neither float weights nor interactions."""
        return self._packed is not None

    @cached_property
    def network(self) -> Network:
        """The network, in evaluation mode. Raises ValueError for a packed file, which holds none."""
        return load_model(self.run, device=self._device)

    @cached_property
    def data(self) -> PreparedData:
        """The data it was trained on, or the copy it was given; see `load`.

        Raises `DataError` if they are gone, or others.
        """
        missing = None
        if self._packed is not None:
            missing = f"{self.name} holds no interactions, so name the prepared data that it was trained on with data="
        found = recorded_data(self._record, self.name, self._given, load_data, missing=missing)
        if self._packed is not None and not (
            np.array_equal(found.user_ids, self._packed.user_ids)
            and np.array_equal(found.item_ids, self._packed.item_ids)
        ):
            raise DataError(f"{found.path} is not the data that {self.name} was trained on (other ids)")
        return found

    @property
    def protocol(self) -> str:
        """The label of the protocol that it was measured by in training."""
        if self._packed is not None:
            return self._packed.protocol
        return str(checked(self._record, {"protocol": str}, f"the record of the data of {self.name}")["protocol"])

    @property
    def training(self) -> TrainingRecord | None:
        """How it was trained; None for a packed file that was made from Python without saying so."""
        if self._packed is None:
            return self.result.training
        kept = self._packed.provenance.get("result")
        return TrainingRecord.from_dict(kept) if kept else None

    def engine(self, engine: Engine | None = None) -> Engine:
        """Return ``engine``, or the usual one. Raises ValueError for one that this network does not have."""
        if engine not in (None, "torch", "packed"):
            raise ValueError(f"engine is {engine!r}; it must be torch or packed")
        if self._packed is not None and engine == "torch":
            raise ValueError(f"engine is 'torch', but {self.name} is a packed network; for torch name the run")
        return engine or ("packed" if self.is_packed else "torch")

    def scorer(self, engine: Engine | None = None) -> Scorer:
        """What scores pairs and catalogues: PyTorch, or bits, which takes a network that ended in low precision."""
        return self._packed_engine if self.engine(engine) == "packed" else self._torch_engine

    def _model(self, engine: Engine | None) -> Network | PackedNetwork:
        return self._packed_engine if self.engine(engine) == "packed" else self.network

    @property
    def _catalogue(self) -> Any:
        """The original ids of the items, (n_items,); a packed file needs no data for them."""
        return self.data.item_ids if self._packed is None else self._packed.item_ids

    @cached_property
    def _torch_engine(self) -> Scorer:
        return scorer(self.network)

    @cached_property
    def _packed_engine(self) -> PackedNetwork:
        return self._packed if self._packed is not None else self._pack(None)

    def _pack(self, embeddings: Literal["float32", "int8"] | None) -> PackedNetwork:
        assert self._run is not None
        network, data = self.network, self.data
        provenance = {"model": self._run.config.groups["model"], **provenance_of(self._run.config, self.result)}
        return pack(
            network,
            user_ids=data.user_ids,
            item_ids=data.item_ids,
            protocol=data.protocol_label,
            provenance=provenance,
            embeddings=embeddings,
        )

    def evaluate(
        self,
        *,
        ranking: Ranking = "sampled",
        k: int = 10,
        engine: Engine | None = None,
        memory: int = MEMORY,
        candidates: Path | str | None = None,
        n_candidates: int | None = None,
        recall: float | None = None,
        world: World = World(),  # noqa: B008 (frozen)
    ) -> Evaluation:
        """Measure it: see `ncf_ppt.evaluation.evaluate`, and for ``candidates`` with ranking ``full`` `recommend`."""
        if candidates is not None and ranking != "full":
            raise ValueError(f"candidates= is for ranking full, and ranking is {ranking!r}; leave one out")
        wanted = Candidates(candidates, n_candidates, recall)
        score, found = self._stages.of(wanted, self._model(engine), self.scorer(engine), self.data, k=k)
        how: dict[str, Any] = {"engine": self.engine(engine), "memory": memory, "world": world}
        measured = evaluate(score, self.data, ranking=ranking, k=k, **how)
        return replace(measured, first_stage=found)

    def recommend(
        self,
        users: Ids | None = None,
        k: int = 10,
        *,
        items: Ids | None = None,
        exclude: Ids | None = None,
        include_seen: bool = False,
        new_users: NewUsers = "error",
        history: Any = None,
        candidates: Path | str | None = None,
        n_candidates: int | None = None,
        recall: float | None = None,
        engine: Engine | None = None,
        memory: int = MEMORY,
    ) -> Recommendations:
        """Recommend the best ``k`` items to each of ``users``, original ids; None is every user.

        Args:
            users: original ids, or a file of them.
            k: items in a list.
            items: recommend only among these, likewise; see `ncf_ppt.recommendation.recommend`.
            exclude: never recommend these.
            include_seen: recommend what a user has, too.
            new_users: what an unknown user gets: ``error``, or what is most ``popular``.
            history: what people did whom training did not know, or who have done more since: a file, a DataFrame or
                whatever `data_prep.ratings.any_source.prepare_source` reads. ``users`` are then among them, None is
                all. Two towers read it (packed, without ``data``); others make rows of it
                (`ncf_ppt.fold_in.fold_in`).
            candidates: what finds the items that the network scores, see `ncf_ppt.two_stages.Candidates`: ``auto``, its
                own vectors; or a folder of `export_embeddings`.
            n_candidates: how many it scores for each user: 100 by default, chosen by ``recall`` with ``auto``.
            recall: share of the network's exact lists that candidates hold, .99 by default.
            engine: see `scorer`.
            memory: bytes of catalogue scores held at a time, one user's at least.

        Raises `DataError` for an unknown user, and ValueError for arguments that do not fit each other.
        """
        chosen: dict[str, Any] = {"items": items, "exclude": exclude, "include_seen": include_seen}
        if history is None:
            data = self.data
            wanted, score = Candidates(candidates, n_candidates, recall), self.scorer(engine)
            score, found = self._stages.of(wanted, self._model(engine), score, data, k=k, **chosen)
        elif candidates is not None:
            raise ValueError("history= is scored by the network alone; leave out candidates=")
        else:
            score, data = scorer_by_history(self._model(engine), history, lambda: self.data)
            found = None
        lists = recommend(score, data, users, k=k, **chosen, new_users=new_users, memory=memory)
        return replace(lists, first_stage=found)

    def score(self, pairs: Any, *, engine: Engine | None = None) -> PairScores:
        """Score pairs of a user and an item, a file or rows of original ids; see `ncf_ppt.pair_scores.score_pairs`."""
        return score_pairs(self.scorer(engine), self.data, pairs)

    def similar(self, items: Ids | None = None, k: int = 10) -> SimilarItems:
        """Find the ``k`` items most like each of ``items``, original ids or a file of them; None is every item.

        A packed file needs no data for this. See `ncf_ppt.similar_items.similar_items`.
        """
        return similar_items(item_vectors(self._packed or self.network), self._catalogue, items, k=k)

    def pack(self, out: Path | str, *, embeddings: Literal["float32", "int8"] | None = None) -> PackReport:
        """Write a network that ended in low precision to the new file ``out``, packed, and verify it.

        ``int8`` rounds embeddings of 32 bits, with a scale for each row; None keeps them as they were trained.
        """
        out = Path(out)
        refuse_existing(out)
        return write_packed(self._pack(embeddings), self.network, self.data, out)

    def export_embeddings(
        self, out: Path | str, *, format: Format = "parquet", dtype: Dtype = "float32", verify: bool = False
    ) -> ExportedEmbeddings:
        """Write the vectors of users and items; see `ncf_ppt.export.embeddings.export_embeddings`.

        With ``verify``, and always for ``binary``, the files are searched for the network's own top items
        (`ncf_ppt.candidates.verify_export`).
        """
        manifest = export_embeddings(self.network, self.data, Path(out), format=format, dtype=dtype)
        searched = verify_export(Path(out), self.network, self.data) if verify or dtype == "binary" else {}
        return ExportedEmbeddings(path=Path(out), manifest=manifest, searches=searched)

    def export_onnx(self, out: Path | str) -> ExportedOnnx:
        """Write the network as an ONNX file; see `ncf_ppt.export.onnx_file.export_onnx`."""
        compared = export_onnx(self.network, self.data, Path(out))
        return ExportedOnnx(path=Path(out), n_bytes=Path(out).stat().st_size, **compared)

    def inspect(self) -> Inspection:
        """List its layers, their bytes and the operations that score a pair."""
        path = Path(self.name) if self._run is None else self._run.model_path
        return inspect_trained(self._packed or self.network, name=self.name, path=path, protocol=self.protocol)

    def compare(
        self,
        *others: "TrainedNCF | Path | str | Sequence[TrainedNCF | Path | str]",
        ranking: Ranking = "sampled",
        k: int = 10,
        seed: int = 0,
    ) -> "Comparison":
        """Compare others with this one, user by user; all must belong to the same data.

        Another is a trained network, or whatever `ncf_ppt.contenders.contenders` opens: the name of a baseline, say, or
        a list of seeds. ``seed`` is of the resamples, see `ncf_ppt.comparison.compare`.
        """
        from ncf_ppt.comparison import compare  # which opens trained networks itself
        from ncf_ppt.contenders import contenders

        return compare(contenders([self, *others], ranking=ranking, k=k), k=k, seed=seed)

    def __repr__(self) -> str:
        if self._packed is not None:
            return f"TrainedNCF({self.name}, packed [{self.protocol}])"
        metrics = self.result.metrics
        values = ", ".join(f"{title} {metrics[key]:.4f}" for title, key in METRICS.items() if key in metrics)
        epochs = f"{self.result.training.epochs:.2f} epochs"
        return f"TrainedNCF({self.name}, {epochs}, {values} [{self.protocol}; ties lost])"


def load(path: Path | str, *, data: PreparedData | Path | str | None = None, device: str = "cpu") -> TrainedNCF:
    """Open a finished run folder, or a packed file.

    Args:
        path: the folder that a training wrote, or the file that `TrainedNCF.pack` wrote.
        data: the data it was trained on, or where they are now; a run knows where they were. A packed file holds no
            interactions: it needs them for everything but `TrainedNCF.inspect`, `TrainedNCF.similar` and, of two
            towers, the lists of new people's histories.
        device: where PyTorch computes; a packed file knows the CPU only.

    Raises `DataError` for a folder or a file that is neither, is damaged, or is not finished.
    """
    path = Path(path)
    if path.is_file():
        packed = load_packed(path)
        if device != "cpu":
            raise ValueError(f"device is {device!r}, but {path} is a packed network, which computes on a CPU")
        return TrainedNCF(str(path), packed=packed, data=data)
    run = Run.open(path)
    run.refuse_other_kind("ncf")
    return TrainedNCF(str(path), run=run, device=device, data=data)


def of_run(run: Run, name: str, data: PreparedData, device: str) -> TrainedNCF:
    """What a training into ``run`` made, with its data at hand."""
    return TrainedNCF(name, run=run, device=device, data=data)
