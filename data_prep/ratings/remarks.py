"""What a person should know of a prepared set before believing its numbers."""

from collections.abc import Iterator, Mapping
from typing import Any

MANY = 0.1
"""Share of users above which something is a warning: that the order of the file decides what is held out of theirs."""

FEW_USERS = 20
"""Below so many, shares of users say nothing."""


def warnings_of(manifest: Mapping[str, Any], *, n_users: int) -> Iterator[str]:
    """Yield a sentence for each reason for caution, in the words of the library's arguments."""
    reading = manifest.get("reading", {})
    dropped = sum(manifest.get("users_dropped", {}).values())
    if n_users < dropped and n_users + dropped >= FEW_USERS:
        advice = "; lower min_ratings to keep more" if manifest["users_dropped"].get("below_min_ratings") else ""
        reasons = _reasons(manifest["users_dropped"])
        yield f"only {n_users:,} of {n_users + dropped:,} users are kept ({reasons}){advice}"
    n_tied = manifest.get("n_tied_users", 0)
    if manifest.get("held_out") == "drawn" and manifest.get("constant_times"):
        yield (
            "all times are the same, so the held-out item is drawn by the seed; say order='file' if the rows are in "
            "the order of time"
        )
    elif manifest.get("order") is None and n_users >= FEW_USERS and n_tied > MANY * n_users:
        yield (
            f"the order of the file alone decides which item of {n_tied:,} of {n_users:,} users is held out (their "
            "last items have the same time), and metrics depend on how the file is sorted; say order='random' to draw "
            "among equal times, or order='file' if the rows are in the order of time"
        )
    if reading.get("time_units"):
        units = ", ".join(f"{n:,} in {unit}" for unit, n in reading["time_units"].items())
        yield f"the times seem to be of different units ({units}), so their order means nothing; convert the column"
    if reading.get("n_not_positive") and not manifest.get("min_rating"):
        yield (
            f"{reading['n_not_positive']:,} of {reading['n_rows']:,} rows have a rating of 0 or less, and every row "
            "counts as a positive; say min_rating= to count only rows that mean it"
        )
    if "event" in reading.get("columns", {}) and not manifest.get("events"):
        column = reading["columns"]["event"]["name"]
        yield f"every row counts as a positive, whatever its {column} is; say events= to count only some"
    n_unseen, n_tested = manifest.get("n_unseen_held_out", 0), manifest.get("n_tested_users", n_users)
    if n_tested >= FEW_USERS and n_unseen > MANY * n_tested:
        yield (
            f"{n_unseen / n_tested:.0%} of the held-out items are in no train row, so no model that learns from rows "
            f"can reach an HR above {1 - n_unseen / n_tested:.2f}"
            + ("" if manifest.get("held_out") == "own" else "; say min_item_ratings= to leave out rare items")
        )
    if manifest.get("users_dropped", {}).get("without_negatives"):
        n_heavy = manifest["users_dropped"]["without_negatives"]
        yield (
            f"{n_heavy:,} users with nearly all items were dropped, since too few items were left to draw negatives "
            "from; set n_negatives lower to keep them"
        )


def _reasons(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} {reason.replace('_', ' ')}" for reason, n in dropped.items() if n)


def summary(manifest: Mapping[str, Any], *, n_users: int) -> Iterator[str]:
    """Yield a line for each fact of a preparation: what was read as what, and what filters did."""
    reading = manifest.get("reading")
    if reading is not None:
        yield f"read as {reading['format']}: {reading['text']}"
        if reading["n_bad_rows"]:
            n_rows = reading["n_rows"] + reading["n_bad_rows"]
            yield f"rows that cannot be read, left out: {reading['n_bad_rows']:,} of {n_rows:,}"
    dropped = manifest.get("users_dropped", {})
    if sum(dropped.values()):
        n_all = n_users + sum(dropped.values())
        yield f"users kept: {n_users:,} of {n_all:,} (dropped: {_reasons(dropped)})"
    rows = manifest.get("rows_dropped", {})
    if any(rows.values()):
        yield f"rows dropped: {_reasons(rows)}"
    if manifest.get("n_tied_users") and not manifest.get("held_out"):
        n_tied = manifest["n_tied_users"]
        yield f"users whose last two items have the same time: {n_tied:,} (the later row is held out)"
    if manifest.get("n_unseen_held_out"):
        n_unseen = manifest["n_unseen_held_out"]
        n_tested = manifest.get("n_tested_users", n_users)
        yield (
            f"held-out items that no train row has: {n_unseen:,} of {n_tested:,} ({n_unseen / n_tested:.1%}), "
            f"so HR is at most {1 - n_unseen / n_tested:.3f}"
        )
