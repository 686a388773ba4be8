"""What can be compared user by user: runs, packed files, baselines and files of ranks, or several seeds of one."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_prep.ratings.any_source import load_data
from data_prep.ratings.interactions import PreparedData
from ncf_ppt.baselines import BASELINES, fit_baseline
from ncf_ppt.evaluation import Ranking, evaluate
from ncf_ppt.rank_files import RanksOfUsers, is_rank_file, read_ranks
from ncf_ppt.ranking import Ranks
from ncf_ppt.trained import TrainedNCF, load
from ppt_core.errors import DataError
from ppt_core.identity import copied_record, differences, same_data

Kind = Literal["network", "baseline", "ranks"]
One = TrainedNCF | Path | str
"""A trained network, or a word: a run folder, a packed file, a file of ranks, or the name of a baseline."""
_KINDS: dict[str | None, Kind] = {"implicit": "baseline", "torch": "network", "packed": "network"}


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Contender:
    """One thing that is compared: where each user's held-out item ranks, by one model or by several seeds of it.

    Attributes:
        name: how tables call it.
        kind: ``network``, ``baseline``, or ``ranks`` where a file does not say what made them.
        seeds: the ranks by each model.
        protocol: how they were measured.
    """

    name: str
    kind: Kind
    seeds: tuple[Ranks, ...]
    protocol: str

    def per_user(self, k: int) -> dict[str, NDArray[np.float64]]:
        """Each user's part of HR@k and NDCG@k, (n_users,), the mean over seeds: their means are the metrics."""
        each = [per_user(ranks, k) for ranks in self.seeds]
        return {metric: np.mean([values[metric] for values in each], axis=0) for metric in each[0]}

    def metrics(self, k: int) -> dict[str, list[float]]:
        """HR@k and NDCG@k of each seed."""
        return {
            "hit_ratio": [ranks.hit_ratio(k) for ranks in self.seeds],
            "ndcg": [ranks.ndcg(k) for ranks in self.seeds],
        }


def per_user(ranks: Ranks, k: int = 10) -> dict[str, NDArray[np.float64]]:
    """Each user's part of HR@k and NDCG@k, (n_users,): their means are the metrics."""
    if k < 1:
        raise ValueError(f"k is {k}; it must be at least 1")
    hits = ranks.pessimistic < k
    gains = np.where(hits, np.log(2) / np.log(ranks.pessimistic + 2), 0.0)
    return {"hit_ratio": hits.astype(np.float64), "ndcg": gains}


def contenders(
    entries: Sequence[One | Sequence[One]],
    *,
    ranking: Ranking = "sampled",
    k: int = 10,
    data: PreparedData | Path | str | None = None,
    device: str = "cpu",
) -> list[Contender]:
    """Open and measure what is to be compared.

    Args:
        entries: each a trained network, or a word: a run folder, a packed file, a Parquet file of
            `ncf_ppt.evaluation.Evaluation.save`, or the name of a baseline (`ncf_ppt.baselines.BASELINES`), which is
            fitted with its default config and seed 0. Several seeds of one thing are a sequence of these, words with
            commas between them, or a folder that holds such runs or files. ``NAME=`` before a word says what tables
            call it.
        ranking: of what is measured here; a file of ranks has been measured.
        k: length of the lists.
        data: the data of all; by default those of the first run. Baselines and packed files need them.
        device: where PyTorch computes.

    Raises `DataError` for a word that is none of these, for a group that is no seeds of one thing, and unless all were
    made from the same data and measured on the same held-out items by the same protocol; ValueError for fewer than two
    entries.
    """
    if len(entries) < 2:
        raise ValueError("a comparison needs two networks at least, or baselines; name them one after the other")
    named = [_named(entry) for entry in entries]
    words = [word for _, group in named for word in group]
    shared = _shared_data(words, data) if any(map(_needs_data, words)) else None
    opened = [(name, [_opened(word, shared, data, device) for word in group]) for name, group in named]
    trained = [each for _, group in opened for each in group if isinstance(each, TrainedNCF)]
    refuse_incomparable([(each.name, each.data_record | {"protocol": each.protocol}) for each in trained])
    for name, group in opened:
        _refuse_other_settings(name, group)
    measured = [(name, [_measured(each, shared, ranking, k) for each in group]) for name, group in opened]
    _refuse_other_ranks((name, each) for name, group in measured for each in group)
    return [
        Contender(
            name=name,
            kind=_KINDS.get(group[0].about.get("engine"), "ranks"),
            seeds=tuple(each.ranks for each in group),
            protocol=group[0].protocol,
        )
        for name, group in measured
    ]


def refuse_incomparable(records: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Raise `DataError` unless all were trained on the same data and are measured by the same protocol.

    Args:
        records: a name and the record of the data of each: `ppt_core.identity.data_record` and the ``protocol``.
    """
    for name_of_other, other in records[1:]:
        found = differences(dict(records[0][1]), dict(other), "data")
        for name, old, new in sorted(found, key=lambda each: each[0] != "protocol"):  # it says more than a checksum
            what = "protocol" if name == "protocol" else "data (checksum)"
            _refuse(records[0][0], name_of_other, f"their {what} is {old} and {new}")


def _refuse(first: str, other: str, why: str) -> None:
    raise DataError(f"{first} and {other} cannot be compared: {why}; compare what belongs to the same prepared set")


def _named(entry: One | Sequence[One]) -> tuple[str, list[One]]:
    """What an entry is called, and each of its seeds."""
    if isinstance(entry, TrainedNCF):
        return entry.name, [entry]
    if not isinstance(entry, (str, Path)):
        group = list(entry)
        if not group:
            raise ValueError("a group of seeds is empty; name one at least")
        return _name_of_group([word.name if isinstance(word, TrainedNCF) else str(word) for word in group]), group
    text = str(entry)
    name, equals, rest = text.partition("=")
    if equals and name and rest and not Path(text).exists():
        return name, _named(rest)[1]
    path = Path(entry)
    if path.is_dir() and not (path / "config.json").exists():
        found = sorted(each for each in path.iterdir() if (each / "config.json").exists() or is_rank_file(each))
        if not found:
            raise DataError(f"{path} is no run folder and holds neither runs nor Parquet files of ranks")
        return text, list(found)
    if "," in text and not path.exists():
        words = [word for word in text.split(",") if word]
        return _name_of_group(words), list(words)
    return text, [entry]


def _name_of_group(words: list[str]) -> str:
    """What the words begin with, and a star; all of them where they begin in different ways."""
    first, last = min(words), max(words)  # all words between the two begin as they do
    length = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    start = first[:length].rstrip("0123456789")
    return f"{start}*" if len(words) > 1 and start.strip("./") else ",".join(words)


def _is_baseline(word: One) -> bool:
    return isinstance(word, str) and word in BASELINES and not Path(word).exists()


def _is_run(word: One) -> bool:
    return not isinstance(word, TrainedNCF) and (Path(word) / "config.json").exists()


def _needs_data(word: One) -> bool:
    if isinstance(word, TrainedNCF):
        return False
    return _is_baseline(word) or (Path(word).is_file() and not is_rank_file(Path(word)))


def _shared_data(words: Iterable[One], data: PreparedData | Path | str | None) -> PreparedData | None:
    """``data``, or those of the first run; None where there is none."""
    if data is not None:
        return load_data(data) if isinstance(data, (str, Path)) else data
    for word in words:
        if isinstance(word, TrainedNCF):
            return word.data
        if _is_run(word):
            return load(word).data
    return None


def _opened(
    word: One, shared: PreparedData | None, data: PreparedData | Path | str | None, device: str
) -> One | RanksOfUsers:
    if isinstance(word, TrainedNCF) or _is_baseline(word):
        return word
    path = Path(word)
    if not path.exists():
        raise DataError(
            f"{word} is neither a run, a packed file, a Parquet file of ranks, a folder of these, nor a baseline "
            f"({', '.join(BASELINES)})"
        )
    if is_rank_file(path):
        return read_ranks(path)
    return load(path, data=shared) if path.is_file() else load(path, data=data, device=device)


def _measured(opened: One | RanksOfUsers, data: PreparedData | None, ranking: Ranking, k: int) -> RanksOfUsers:
    if isinstance(opened, RanksOfUsers):
        return opened
    if isinstance(opened, TrainedNCF):
        return opened.evaluate(ranking=ranking, k=k).of_users()
    if data is None:
        raise DataError(f"{opened} is a baseline, which must be fitted: name the prepared data with data=, or a run")
    return evaluate(fit_baseline(str(opened), data), data, ranking=ranking, k=k, engine="implicit").of_users()


def _refuse_other_settings(name: str, group: Sequence[One | RanksOfUsers]) -> None:
    """Raise `DataError` unless these are seeds of one thing."""
    if len(group) == 1:
        return
    trained = [each for each in group if isinstance(each, TrainedNCF)]
    ranks = [each for each in group if isinstance(each, RanksOfUsers)]
    for each in group:
        if isinstance(each, (str, Path)):
            raise DataError(f"{each} of {name} is a baseline, which is fitted with seed 0 alone; name it by itself")
    if trained and ranks:
        raise DataError(
            f"{name} holds trained networks and files of ranks, which are no seeds of one thing; name them apart"
        )
    engines = {each.about.get("engine") for each in ranks}
    if len(engines) > 1:
        raise DataError(
            f"{name} holds ranks of {' and '.join(sorted(map(str, engines)))}, no seeds of one thing; name them apart"
        )
    seeds: dict[Any, str] = {}
    for each in trained:
        seed, settings = each.seed_and_settings()
        for setting, old, new in differences(trained[0].seed_and_settings()[1], settings):
            raise DataError(
                f"{trained[0].name} and {each.name} are no seeds of one thing ({name}): their {setting} is {old}, {new}"
            )
        if seed in seeds:
            raise DataError(f"{seeds[seed]} and {each.name} of {name} have the same seed {seed}; name each seed once")
        seeds[seed] = each.name


def _refuse_other_ranks(measured: Iterable[tuple[str, RanksOfUsers]]) -> None:
    """Raise `DataError` unless the protocol and the held-out items of all are the same, and the data that are known."""
    (first, ranks), *others = measured
    for name, other in others:
        if ranks.protocol != other.protocol:
            _refuse(first, name, f"their protocol is {ranks.protocol} and {other.protocol}")
        records = [copied_record(each.about.get("data", {})) for each in (ranks, other)]
        if all(record["sha256"] for record in records) and not same_data(*records):
            _refuse(first, name, "they were measured on different data (another content)")
        for what, ids, others_ids in (
            ("users", ranks.user_ids, other.user_ids),
            ("held-out items", ranks.item_ids, other.item_ids),
        ):
            if not np.array_equal(ids, others_ids):
                _refuse(first, name, f"they were measured on different {what}")
