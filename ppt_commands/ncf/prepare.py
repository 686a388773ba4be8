"""`ppt-ncf prepare`."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ppt_commands.options import FOLDER, JSON_OPTION, THREADS_OPTION
from ppt_commands.output import print_json

if TYPE_CHECKING:
    from data_prep.ratings.interactions import PreparedData


@click.command()
@click.argument("source")
@click.option("--out", type=FOLDER, required=True, help="New folder for the prepared set.")
@click.option("--min-ratings", default=20, show_default=True, help="Drop users with fewer ratings.")
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
@click.option("--source", "source_file", type=FOLDER, help="A copy at hand of a known data set.")
@click.option("--users", "n_users", type=int, help="Number of synthetic users.")
@click.option("--items", "n_items", type=int, help="Number of synthetic items.")
@click.option("--interactions", "n_interactions", type=int, help="Number of synthetic interactions.")
@THREADS_OPTION
@JSON_OPTION
def prepare(source: str, as_json: bool, out: Path, **options: Any) -> None:
    """Make a leave-one-out split with frozen test negatives from SOURCE.

    SOURCE is a known data set (ml-100k, ml-1m, ml-20m, ml-25m, ml-32m: downloaded and checked), a ratings file
    (tab- or ::-separated, csv with a header, parquet; also .gz and .zip), the train file of the NCF authors'
    split (X.train.rating beside its siblings), or "synthetic".

    \b
    Examples:
      ppt-ncf prepare ml-1m --out ml-1m
      ppt-ncf prepare ratings.csv.gz --out mine --negatives 99
      ppt-ncf prepare synthetic --users 1000 --items 2000 --interactions 80000 --out sample
    """
    from data_prep.ratings.prepare import prepare_source

    data = prepare_source(source, out, progress=sys.stderr.isatty(), **options)
    manifest = data.manifest
    if as_json:
        return print_json({"out": str(out), **_counts(data), "manifest": manifest})
    click.echo(f"{out}: {data.n_users:,} users x {data.n_items:,} items, {len(data.train):,} train positives")
    click.echo(f"test: {data.protocol_label}")
    if manifest["source"].get("is_official") is False:
        click.echo("the bytes are not the published ones (a copy in another form, say); the manifest has their SHA-256")
    for line in _dropped(manifest):
        click.echo(line)


def _counts(data: "PreparedData") -> dict[str, Any]:
    return {
        "n_users": data.n_users,
        "n_items": data.n_items,
        "n_train": len(data.train),
        "n_negatives": data.n_negatives,
        "protocol": data.protocol_label,
    }


def _dropped(manifest: dict[str, Any]) -> Iterator[str]:
    rows = manifest.get("rows_dropped", {})
    reasons = [f"{n:,} {reason.replace('_', ' ')}" for reason, n in rows.items() if n]
    if reasons:
        yield f"rows dropped: {', '.join(reasons)}"
    if manifest.get("n_tied_users"):
        yield f"users whose last two items have the same time: {manifest['n_tied_users']:,} (the later row is held out)"
