"""Whether one model ranks better than another for the same users: a table of differences, and what it says in words."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from html import escape
from typing import Any

from ncf_ppt.contenders import Contender
from ncf_ppt.paired_tests import N_RESAMPLES, PairedDifference, holm, paired_difference
from ppt_core.html_pages import table

SIGNIFICANT = 0.05
_TITLES = {"hit_ratio": "HR", "ndcg": "NDCG"}


@dataclass(frozen=True, kw_only=True, repr=False)
class Comparison:
    """Measurements of the same users, each compared with the first.

    Attributes:
        contenders: what was measured.
        k: length of the lists.
        differences: of each but the first, over the first, by metric: ``hit_ratio`` and ``ndcg``. Their ``p_holm`` is
            corrected for all of these.
        verdicts: sentences that say what is better than what, see `compare`.
        seed: of the resamples.
    """

    contenders: tuple[Contender, ...]
    k: int
    differences: tuple[dict[str, PairedDifference], ...]
    verdicts: tuple[str, ...]
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """What was compared and the differences, as JSON values."""
        rows: list[dict[str, Any]] = []
        for contender in self.contenders:
            of_seeds = contender.metrics(self.k)
            row: dict[str, Any] = {metric: sum(values) / len(values) for metric, values in of_seeds.items()}
            rows.append({"run": contender.name, "kind": contender.kind, **row})
            if len(contender.seeds) > 1:
                rows[-1]["seeds"] = of_seeds
        for row, found in zip(rows[1:], self.differences, strict=True):
            row["differences"] = {metric: asdict(difference) for metric, difference in found.items()}
        return {
            "n_users": len(self.contenders[0].seeds[0].above),
            "protocol": self.contenders[0].protocol,
            "k": self.k,
            "n_resamples": N_RESAMPLES,
            "seed": self.seed,
            "runs": rows,
            "verdicts": list(self.verdicts),
        }

    def rows(self) -> list[list[str]]:
        """The cells of a table, its head first."""
        titles = [f"{title}@{self.k}" for title in _TITLES.values()]
        found = [["", ""], *([_text(difference) for difference in each.values()] for each in self.differences)]
        return [["run", *titles, *(f"{title} difference" for title in _TITLES.values())]] + [
            [contender.name, *map(_mean_and_spread, contender.metrics(self.k).values()), *texts]
            for contender, texts in zip(self.contenders, found, strict=True)
        ]

    @property
    def title(self) -> str:
        """What the table shows."""
        first = self.contenders[0]
        has_seeds = any(len(each.seeds) > 1 for each in self.contenders)
        several = (
            " Of several seeds: mean [lowest to highest]; better is only what has its lowest above the other's highest."
            if has_seeds
            else ""
        )
        n_tests = len(self.differences) * len(_TITLES)
        return (
            f"{first.protocol}; ties lost.{several} Differences to {first.name}: mean [95% interval over users], p "
            f"after Holm's correction for {n_tests} tests."
        )

    def to_markdown(self) -> str:
        """The table in Markdown."""
        head, *rows = self.rows()
        lines = _padded([head, ["---"] * len(head), *rows])
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def __repr__(self) -> str:
        lines = ["  ".join(line).rstrip() for line in _padded(self.rows())]
        return "\n".join([self.title, "", *lines, "", *self.verdicts])

    def _repr_html_(self) -> str:
        head, *rows = self.rows()
        said = "".join(f"<p>{escape(sentence)}</p>" for sentence in self.verdicts)
        return f"{table(head, rows)}<p>{escape(self.title)}</p>{said}"


def compare(contenders: Sequence[Contender], *, k: int = 10, seed: int = 0) -> Comparison:
    """Compare each with the first, user by user, and say what is better than what.

    Of several seeds each user's mean counts, so that intervals and p values are over users, for these models. How far
    other seeds would move them, the lowest and the highest seed show.

    One is *better* than another in a metric if its mean is higher, the permutation test finds p < 0.05 after it is
    multiplied by the number of all pairs and metrics (Bonferroni: which pairs are looked at depends on the data), and,
    where there are several seeds, its lowest seed is above the other's highest. The sentences say what the best of all
    is better than, and which baselines are better than every network.

    Raises ValueError for fewer than two.
    """
    if len(contenders) < 2:
        raise ValueError("a comparison needs two networks at least, or baselines; name them one after the other")
    values = [contender.per_user(k) for contender in contenders]

    @cache
    def difference(first: int, second: int, metric: str) -> PairedDifference:
        return paired_difference(values[first][metric], values[second][metric], seed=seed)

    found = [{metric: difference(0, other, metric) for metric in _TITLES} for other in range(1, len(contenders))]
    return Comparison(
        contenders=tuple(contenders),
        k=k,
        differences=_corrected(found),
        verdicts=tuple(_verdicts(contenders, difference, k)),
        seed=seed,
    )


def _corrected(found: list[dict[str, PairedDifference]]) -> tuple[dict[str, PairedDifference], ...]:
    p_values = iter(holm([each.p_value for pair in found for each in pair.values()]))
    return tuple({metric: replace(each, p_holm=next(p_values)) for metric, each in pair.items()} for pair in found)


def _verdicts(
    contenders: Sequence[Contender], difference: Callable[[int, int, str], PairedDifference], k: int
) -> list[str]:
    """Sentences about the best, and about baselines that are better than every network."""
    n, metrics = len(contenders), [contender.metrics(k) for contender in contenders]
    n_tests = n * (n - 1) // 2 * len(_TITLES)
    means = [sum(each["hit_ratio"]) / len(each["hit_ratio"]) for each in metrics]

    def is_better(one: int, other: int, metric: str) -> bool:
        ours, theirs = metrics[one][metric], metrics[other][metric]
        if len(ours) + len(theirs) > 2 and min(ours) <= max(theirs):
            return False
        found = difference(min(one, other), max(one, other), metric)
        return (found.mean > 0) == (one > other) and found.mean != 0 and found.p_value * n_tests < SIGNIFICANT

    def beaten(one: int, others: list[int]) -> dict[str, list[int]]:
        return {metric: [other for other in others if is_better(one, other, metric)] for metric in _TITLES}

    by_kind = {kind: [i for i, each in enumerate(contenders) if each.kind == kind] for kind in ("network", "baseline")}
    order = sorted(range(n), key=lambda each: -means[each])
    best, sentences = order[0], []
    others = [each for each in range(n) if each != best]
    kinds = {contenders[each].kind for each in others}
    whole = "every other here"
    if kinds == {"network"}:
        whole = "every network here" if contenders[best].kind != "network" else "every other network here"
    names = [contenders[each].name for each in range(n)]
    of_best = beaten(best, others)
    sentences.append(_sentence(names, best, of_best, others, whole if len(others) > 1 else "", k))
    for one in order[1:] if others in of_best.values() else order:
        if one in by_kind["baseline"] and by_kind["network"]:
            found = beaten(one, by_kind["network"])
            if found["hit_ratio"] == by_kind["network"]:
                sentences.append(_sentence(names, one, found, by_kind["network"], "every network here", k))
    return sentences


def _sentence(names: list[str], one: int, beaten: dict[str, list[int]], others: list[int], whole: str, k: int) -> str:
    """What one of them is better than, and in which metric."""
    titles = [f"{title}@{k}" for metric, title in _TITLES.items() if beaten[metric] == others]
    if titles:
        pairs = len(names) * (len(names) - 1) // 2
        tests = "both metrics" if pairs == 1 else f"all {pairs} pairs in both metrics"
        how = f"p < {SIGNIFICANT}, corrected for {tests}"
        return f"{names[one]} is better than {whole or names[others[0]]} in {' and '.join(titles)} ({how})."
    head = f"{names[one]} has the highest HR@{k}"
    left = [names[each] for each in others if each not in beaten["hit_ratio"]]
    if not left:
        return f"{head}."
    told = [names[each] for each in beaten["hit_ratio"]]
    better = f", and is better than {_listed(told)}" if told else ""
    return f"{head}{better}; from {_listed(left)} it cannot be told apart."


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _mean_and_spread(values: list[float]) -> str:
    mean = f"{sum(values) / len(values):.4f}"
    return mean if len(values) == 1 else f"{mean} [{min(values):.4f} to {max(values):.4f}]"


def _text(found: PairedDifference) -> str:
    return f"{found.mean:+.4f} [{found.lower:+.4f}, {found.upper:+.4f}], p = {found.p_holm:.4f}"


def _padded(rows: list[list[str]]) -> list[list[str]]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [[text.ljust(width) for text, width in zip(row, widths, strict=True)] for row in rows]
