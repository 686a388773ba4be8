"""Top 10 lists over HTTP: `ppt-ncf serve` beside services as a person would write them, on one machine, in one run.

    python -m benchmarks.serve --turns 3

138,493 users, 26,744 items, factors 64, layers 256,256,128,64, BatchNorm, random weights (`benchmarks.two_stage` says
which), 100 items of each user left out. All services run at once, only one is asked at a time. In each turn 32 clients
(`benchmarks.load`) ask each of them without a pause; a figure is the median over the turns, a ratio the median of the
ratios in a turn. Behind the turns each is asked by one client, and at half of its highest rate, as requests arrive.
``nothing`` is no service: it shows what the clients themselves can do here.

    python -m benchmarks.serve --items 10000,100000,1000000 --rows "packed; two stages"

other sizes. Everything runs on this machine's loopback, and clients and services share its cores.
"""

import os

from ppt_core.environment import ENVIRONMENT

os.environ.update({**ENVIRONMENT, **os.environ})

import importlib.util
import statistics
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from benchmarks.load import lists_of
from benchmarks.provenance import document
from benchmarks.servers import SERVE, Server, asked, started, write_model

OWN = {"packed": [], "two stages": ["--candidates", "auto"]}
RIVALS = ("pytorch", "pytorch folded", "implicit", "nothing")
AGAINST = ("pytorch", "pytorch folded", "implicit")
ROWS = (
    "packed",
    "packed, 2 workers",
    "two stages",
    "two stages, 2 workers",
    "pytorch",
    "pytorch folded",
    "implicit",
    "implicit, 2 workers",
    "nothing",
)


def start(row: str, folder: Path, stack: ExitStack) -> Server:
    """Start one row's service of the model in ``folder``."""
    name, _, more = row.partition(", ")
    workers = ["--workers", more.removesuffix(" workers") or "1"]
    data = ["--data", folder / "data"]
    log = folder / f"{row}.log"
    if name in RIVALS:
        command = [sys.executable, "-m", "benchmarks.serve_rivals", name, *data, *workers]
    else:
        command = [*SERVE, folder / "network.packed", *data, *OWN[name], *workers, "--access-log", "none"]
    return stack.enter_context(started(command, log))


def measure(servers: dict[str, Server], *, users: int, turns: int, seconds: float, most: int) -> list[dict[str, Any]]:
    """Ask every server in turns."""
    full: dict[str, list[dict[str, Any]]] = {row: [] for row in servers}
    for turn in range(turns + 1):
        for row, server in servers.items():
            found = asked(server, users, seconds=seconds if turn else seconds / 4, most=most)
            if turn:  # the first compiles and fills caches
                full[row].append(found)
    rows = []
    for row, server in servers.items():
        rate = statistics.median(each["per_second"] for each in full[row])
        lone = asked(server, users, clients=1, seconds=seconds / 2, most=most)
        half = asked(server, users, seconds=seconds, most=most, rate=rate / 2)
        rows.append(
            {
                "row": row,
                "per_second": rate,
                "spread": sorted(each["per_second"] for each in full[row]),
                "full": {key: statistics.median(each[key] for each in full[row]) for key in ("p50_ms", "p99_ms")},
                "half": {key: half[key] for key in ("per_second", "p50_ms", "p99_ms")},
                "one_client": {key: lone[key] for key in ("per_second", "p50_ms", "p99_ms")},
                "memory": server.memory(),
                "lost": [each["lost"] for each in (*full[row], lone, half) if each["lost"]],
                "against": {
                    rival: statistics.median(
                        own["per_second"] / other["per_second"]
                        for own, other in zip(full[row], full[rival], strict=True)
                    )
                    for rival in full
                    if rival.partition(",")[0] in AGAINST
                },
            }
        )
    return rows


def _listed(_: click.Context, __: click.Parameter, value: str) -> list[str]:
    return [each.strip() for each in value.split(";")]


@click.command()
@click.option("--users", default=138_493, show_default=True)
@click.option("--items", default="26744", show_default=True, help="Sizes of the catalogue, with commas between.")
@click.option("--rows", default="; ".join(ROWS), show_default=True, callback=_listed, help="With ; between.")
@click.option("--turns", default=3, show_default=True)
@click.option("--seconds", default=4.0, show_default=True, help="Of one row in a turn.")
@click.option("--most", default=100_000, show_default=True, help="Requests of one row in a turn.")
@click.option("--quick", is_flag=True, help="A small model, one turn: does it run?")
@click.option("--json", "as_json", is_flag=True)
def main(
    users: int, items: str, rows: list[str], turns: int, seconds: float, most: int, quick: bool, as_json: bool
) -> None:
    """Measure and print the table."""
    if unknown := set(rows) - set(ROWS):
        raise click.BadParameter(f"{sorted(unknown)[0]!r} is no row; there are {'; '.join(ROWS)}")
    if quick:
        users, items, turns, seconds = 2000, "600", 1, 0.4
    if importlib.util.find_spec("fastapi") is None:
        click.echo("fastapi is not installed: the rows of PyTorch and implicit are left out", err=True)
        rows = [row for row in rows if row.partition(",")[0] not in AGAINST]
    results = []
    for n_items in map(int, items.split(",")):
        with TemporaryDirectory() as temporary, ExitStack() as stack:
            folder = Path(temporary)
            write_model(folder, users=users, items=n_items)
            servers = {row: start(row, folder, stack) for row in rows}
            for server in servers.values():
                server.wait(lists_of(1, n=1)[0])
            said = {row: server.log.read_text().splitlines() for row, server in servers.items() if row in OWN}
            notes = {row: [line for line in lines if not line.startswith("serving ")] for row, lines in said.items()}
            found = measure(servers, users=users, turns=turns, seconds=seconds, most=most)
            results += [{"items": n_items, **each, "notes": notes.get(each["row"], [])} for each in found]
    if as_json:
        return click.echo(document(results))
    click.echo(
        "| items | service | requests/s | p50, p99 ms | at half | one client, ms | PSS, MB | against |\n|" + "---|" * 8
    )
    for each in results:
        pairs = [f"{each[load]['p50_ms']:.1f}, {each[load]['p99_ms']:.1f}" for load in ("full", "half")]
        memory = sum(process["pss"] for process in each["memory"])
        against = ", ".join(f"{rival} {ratio:.2g}" for rival, ratio in each["against"].items())
        click.echo(
            f"| {each['items']:,} | {each['row']} | {each['per_second']:,.0f} | {pairs[0]} | {pairs[1]} "
            f"| {each['one_client']['p50_ms']:.1f} | {memory:,.0f} | {against} |"
        )


if __name__ == "__main__":
    main()
