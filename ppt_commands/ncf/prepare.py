"""`ppt-ncf prepare`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ppt_commands.options import JSON_OPTION, PATH, THREADS_OPTION
from ppt_commands.output import print_json, say

if TYPE_CHECKING:
    from data_prep.ratings.interactions import PreparedData


def _words(_context: click.Context, _option: click.Parameter, text: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())


def _size(_context: click.Context, _option: click.Parameter, text: str | None) -> int | None:
    from data_prep.ratings.memory_limit import bytes_of

    try:
        return None if text is None else bytes_of(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--out", type=PATH, required=True, help="New folder for the prepared set.")
@click.option("--user-column", help="Column of the users: its name, or its position from 1.")
@click.option("--item-column", help="Column of the items.")
@click.option("--time-column", help="Column of the times: numbers, timestamps or dates.")
@click.option("--rating-column", help="Column of the ratings, for --min-rating.")
@click.option("--event-column", help="Column of the events, for --events.")
@click.option("--separator", help="What separates values: one character, ::, tab, comma, semicolon, pipe or space.")
@click.option("--header/--no-header", default=None, help="Whether the first line names the columns.  [default: seen]")
@click.option("--time-format", help="How dates are written, e.g. '%d/%m/%Y %H:%M'.  [default: seen]")
@click.option("--member", "members", multiple=True, help="Member of an archive: a name, or a pattern as 'part*.csv'.")
@click.option("--min-rating", type=float, help="Count only rows with at least this rating, not every row.")
@click.option("--events", callback=_words, help="Count only rows with these events, e.g. purchase,cart.")
@click.option("--skip-bad-rows", is_flag=True, help="Leave out rows that cannot be read, and say how many.")
@click.option("--max-bad-rows", default=0.1, show_default=True, help="The largest share of such rows.")
@click.option("--min-ratings", default=20, show_default=True, help="Drop users with fewer ratings.")
@click.option(
    "--min-item-ratings", default=1, show_default=True, help="Drop items with fewer ratings, until both limits hold."
)
@click.option(
    "--heavy-users",
    type=click.Choice(["drop", "fail"]),
    default="drop",
    show_default=True,
    help="What becomes of users with too few items left to draw negatives from.",
)
@click.option(
    "--order",
    type=click.Choice(["file", "random"]),
    help="What orders a user's rows where times do not.  [default: the file; without times the seed]",
)
@click.option("--test", type=PATH, help="Test rows of a split of your own; SOURCE holds the train rows.")
@click.option("--test-negatives", type=PATH, help="Negatives of each test user: a user and items a line.")
@click.option("--split-time", help="One moment for all: train before it, hold out each user's next item.")
@click.option("--negatives", "n_negatives", default=999, show_default=True, help="Test negatives of each user.")
@click.option(
    "--protocol",
    type=click.Choice(["strict", "mlperf"]),
    default="strict",
    show_default=True,
    help="strict: distinct negatives without the held-out item; mlperf: as the MLPerf v0.5 reference.",
)
@click.option("--validation", is_flag=True, help="Hold out the item before the last, too: for `train --patience`.")
@click.option("--seed", default=0, show_default=True, help="Seed of the negatives and of synthetic data.")
@click.option("--source", "source_file", type=PATH, help="A copy at hand of a known data set.")
@click.option("--users", "n_users", type=int, help="Number of synthetic users.")
@click.option("--items", "n_items", type=int, help="Number of synthetic items.")
@click.option("--interactions", "n_interactions", type=int, help="Number of synthetic interactions.")
@click.option("--in-order", type=float, help="Share of each synthetic user's items that follow a planted order.")
@click.option(
    "--memory",
    metavar="SIZE",
    callback=_size,
    help="Memory to take, e.g. 4GB or 500MB; larger files are prepared in parts on disk.  [default: what is available]",
)
@THREADS_OPTION
@JSON_OPTION
def prepare(sources: tuple[str, ...], as_json: bool, out: Path, **options: Any) -> None:
    """Make a leave-one-out split with frozen test negatives from SOURCE.

    SOURCE is a known data set (ml-100k, ml-1m, ml-20m, ml-25m, ml-32m: downloaded and checked), one or several
    files of ratings or clicks (text with or without a header, JSON lines, Parquet, Arrow; also compressed, in an
    archive, or a folder of parts), the train file of the NCF authors' split (X.train.rating beside its siblings) or of
    MLPerf's converter (train-ratings.csv), or "synthetic". Every row is a positive, whatever its rating, unless
    --min-rating or --events says which are.

    \b
    Examples:
      ppt-ncf prepare ml-1m --out ml-1m
      ppt-ncf prepare ratings.csv.gz --out mine --negatives 99
      ppt-ncf prepare clicks.tsv --no-header --user-column 1 --item-column 3 --out mine
      ppt-ncf prepare clicks.parquet --memory 4GB --out large
      ppt-ncf prepare train.csv --test test.csv --out own --negatives 99
      ppt-ncf prepare synthetic --users 1000 --items 2000 --interactions 80000 --out sample
      ppt-ncf prepare synthetic --in-order 0.8 --out ordered
    """
    from data_prep.ratings.any_source import prepare_source

    source = sources[0] if len(sources) == 1 else list(sources)
    data = prepare_source(source, out, progress=sys.stderr.isatty(), **options)
    if as_json:
        return print_json({"out": str(out), **_counts(data), "manifest": data.manifest})
    say(f"{out}: {data.n_users:,} users x {data.n_items:,} items, {len(data.train):,} train positives")
    for line in data.summary:
        say(line)
    say(f"test: {data.protocol_label}")
    if data.manifest["source"].get("is_official") is False:
        say("the bytes are not the published ones (a copy in another form, say); the manifest has their SHA-256")


def _counts(data: "PreparedData") -> dict[str, Any]:
    return {
        "n_users": data.n_users,
        "n_items": data.n_items,
        "n_train": len(data.train),
        "n_negatives": data.n_negatives,
        "protocol": data.protocol_label,
    }
