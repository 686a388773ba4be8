"""Whether one model ranks better than another for the same users: paired differences, their intervals and tests."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ncf_ppt.ranking import Ranks
from ppt_core.errors import DataError
from ppt_core.identity import differences

if TYPE_CHECKING:
    from ncf_ppt.evaluation import Evaluation

N_RESAMPLES = 2000
_DRAWS_PER_BLOCK = 1 << 22
_ABOUT = ("n_users", "n_negatives", "ranking", "engine", "protocol")


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """A mean difference over users, of the second model over the first.

    Attributes:
        mean: above 0 where the second is better.
        lower: of the 95% percentile interval when users are drawn anew, with replacement.
        upper: likewise.
        p_value: two-sided, of a permutation test: how often a mean at least as far from 0 arises when each user's
            two values change places at random. At least 1 / (resamples + 1).
    """

    mean: float
    lower: float
    upper: float
    p_value: float


def paired_difference(
    first: NDArray[np.float64], second: NDArray[np.float64], *, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> PairedDifference:
    """Compare two models' values for the same users, each (n_users,).

    Both the interval and the test are over users, for these trained models: another seed of training is another model,
    and no number of users says how those vary.

    Raises ValueError if the shapes differ, are empty, or ``n_resamples`` is below 1.
    """
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(f"values of shapes {first.shape} and {second.shape} are not pairs; give one of each user")
    if n_resamples < 1:
        raise ValueError(f"n_resamples is {n_resamples}; it must be at least 1")
    rng = np.random.default_rng(np.random.SeedSequence([seed, int.from_bytes(b"comparison", "little")]))
    differences = second - first
    n_users, mean = len(differences), differences.mean()
    # Only users who differ move a sum; the others are counted, not drawn.
    moving = differences[differences != 0]
    means, flipped = np.empty(n_resamples), np.empty(n_resamples)
    n_rows = max(1, _DRAWS_PER_BLOCK // max(1, len(moving)))
    for start in range(0, n_resamples, n_rows):
        rows = slice(start, min(start + n_rows, n_resamples))
        shape = rows.stop - rows.start
        n_drawn = rng.binomial(n_users, len(moving) / n_users, shape)
        for row, n in enumerate(n_drawn, rows.start):
            means[row] = moving[rng.integers(len(moving), size=n)].sum() / n_users if n else 0.0
        signs = rng.integers(0, 2, (shape, len(moving)), np.int8)
        flipped[rows] = (2.0 * (signs @ moving) - moving.sum()) / n_users
    lower, upper = np.percentile(means, [2.5, 97.5])
    as_far = np.abs(flipped) >= abs(mean) - 1e-12  # equal sums in another order
    return PairedDifference(
        mean=float(mean),
        lower=float(lower),
        upper=float(upper),
        p_value=float((1 + as_far.sum()) / (1 + n_resamples)),
    )


@dataclass(frozen=True, kw_only=True, repr=False)
class Comparison:
    """Evaluations of the same users, each compared with the first.

    Attributes:
        names: of what was evaluated.
        evaluations: one of each.
        differences: of each but the first, over the first, by metric: ``hit_ratio`` and ``ndcg``.
        seed: of the resamples.
    """

    names: tuple[str, ...]
    evaluations: "tuple[Evaluation, ...]"
    differences: tuple[dict[str, PairedDifference], ...]
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """What was compared and the differences, as JSON values."""
        first = self.evaluations[0]
        about = {key: value for key, value in first.to_dict().items() if key in _ABOUT}
        rows: list[dict[str, Any]] = [
            {"run": name, "hit_ratio": evaluation.hit_ratio(), "ndcg": evaluation.ndcg()}
            for name, evaluation in zip(self.names, self.evaluations, strict=True)
        ]
        for row, found in zip(rows[1:], self.differences, strict=True):
            row["differences"] = {metric: asdict(difference) for metric, difference in found.items()}
        return {**about, "k": first.k, "n_resamples": N_RESAMPLES, "seed": self.seed, "runs": rows}

    def rows(self) -> list[list[str]]:
        """The cells of a table, its head first."""
        titles = [f"HR@{self.evaluations[0].k}", f"NDCG@{self.evaluations[0].k}"]
        found = [["", ""], *([_text(difference) for difference in each.values()] for each in self.differences)]
        return [["run", *titles, *(f"{title.split('@')[0]} difference" for title in titles)]] + [
            [name, f"{evaluation.hit_ratio():.4f}", f"{evaluation.ndcg():.4f}", *texts]
            for name, evaluation, texts in zip(self.names, self.evaluations, found, strict=True)
        ]

    @property
    def title(self) -> str:
        """What the table shows."""
        about = f"{self.evaluations[0].protocol}; ties lost; differences to {self.names[0]}"
        return f"{about}: mean [95% interval over users], p"

    def to_markdown(self) -> str:
        """The table in Markdown."""
        head, *rows = self.rows()
        lines = _padded([head, ["---"] * len(head), *rows])
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def __repr__(self) -> str:
        lines = ["  ".join(line).rstrip() for line in _padded(self.rows())]
        return "\n".join([self.title, "", *lines])

    def _repr_html_(self) -> str:
        head, *rows = [[escape(cell) for cell in row] for row in self.rows()]
        lines = ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
        table = "".join(f"<tr>{line}</tr>" for line in ["".join(f"<th>{cell}</th>" for cell in head), *lines])
        return f"<table>{table}</table><p>{escape(self.evaluations[0].protocol)}; ties lost</p>"


def compare(names: Sequence[str], evaluations: "Sequence[Evaluation]", *, seed: int = 0) -> Comparison:
    """Compare evaluations of the same users with the first of them, user by user; see `paired_difference`."""
    if len(evaluations) < 2:
        raise ValueError("a comparison needs two networks at least; name them one after the other")
    first, *others = (per_user(evaluation.ranks, evaluation.k) for evaluation in evaluations)
    return Comparison(
        names=tuple(names),
        evaluations=tuple(evaluations),
        differences=tuple(
            {metric: paired_difference(first[metric], values, seed=seed) for metric, values in other.items()}
            for other in others
        ),
        seed=seed,
    )


def _text(found: PairedDifference) -> str:
    return f"{found.mean:+.4f} [{found.lower:+.4f}, {found.upper:+.4f}], p = {found.p_value:.4f}"


def _padded(rows: list[list[str]]) -> list[list[str]]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [[text.ljust(width) for text, width in zip(row, widths, strict=True)] for row in rows]


def per_user(ranks: Ranks, k: int = 10) -> dict[str, NDArray[np.float64]]:
    """Each user's part of HR@k and NDCG@k, (n_users,): their means are the metrics."""
    if k < 1:
        raise ValueError(f"k is {k}; it must be at least 1")
    hits = ranks.pessimistic < k
    gains = np.where(hits, np.log(2) / np.log(ranks.pessimistic + 2), 0.0)
    return {"hit_ratio": hits.astype(np.float64), "ndcg": gains}


def refuse_incomparable(records: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Raise `DataError` unless all were trained on the same data and are measured by the same protocol.

    Args:
        records: a name and the record of the data of each: `ppt_core.identity.data_record` and the ``protocol``.
    """
    (first, record), *others = records
    for name_of_other, other in others:
        found = differences(dict(record), dict(other), "data")
        for name, old, new in sorted(found, key=lambda each: each[0] != "protocol"):  # it says more than a checksum
            what = "protocol" if name == "protocol" else "data (checksum)"
            raise DataError(
                f"{first} and {name_of_other} cannot be compared: their {what} is {old} and {new}; compare runs on the "
                "same prepared set"
            )
