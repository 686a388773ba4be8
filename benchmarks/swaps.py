"""Models that are swapped and workers that start anew under load: how many requests are lost.

    python -m benchmarks.swaps --swaps 50 --restarts 20

Two workers of `ppt-ncf serve` are asked by 8 clients without a pause while another packed file is put in the model's
place again and again, and while SIGUSR1 starts the workers anew. A request is lost that has no answer of status 200.
"""

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from benchmarks.load import lists_of, load
from benchmarks.provenance import document
from benchmarks.servers import SERVE, Server, started, write_model

N_USERS, N_ITEMS = 300, 600
_PATIENCE = 120.0  # seconds for one of them


def until(holds: Callable[[], bool], what: str) -> None:
    """Wait until something holds. Raises ClickException if it does not come."""
    end = time.monotonic() + _PATIENCE
    while not holds():
        if time.monotonic() > end:
            raise click.ClickException(f"{what} did not come within {_PATIENCE:g} seconds")
        time.sleep(0.05)


def swap(server: Server, model: Path, by: Path) -> None:
    """Put another file in the model's place, and wait until it is served."""
    before = server.counter("ppt_model_swaps_total")
    beside = model.with_name("beside")
    beside.write_bytes(by.read_bytes())
    beside.replace(model)
    until(lambda: server.counter("ppt_model_swaps_total") > before, "a swap")


def restart(server: Server) -> None:
    """Start the workers anew, and wait until the former ones are gone."""
    before = set(server.processes()[1:])
    server.process.send_signal(signal.SIGUSR1)
    until(lambda: not before & set(server.processes()) and server.counter("ppt_workers") == 2, "a restart")


def repeat(n: int, work: Callable[[int], None]) -> None:
    """Do it ``n`` times; it is told how often it was done before."""
    for number in range(n):
        work(number)


def under_load(server: Server, clients: int, work: Callable[[], None]) -> dict[str, Any]:
    """Ask without a pause while ``work`` is done; return what `benchmarks.load.load` does."""
    found: list[dict[str, Any]] = []
    is_over, lists = threading.Event(), lists_of(N_USERS)

    def ask() -> None:
        while not is_over.is_set():
            found.append(load(server.port, lists, clients=clients, seconds=0.5))

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            work()
        finally:
            is_over.set()
        asking.result()  # what ended it ends this
    lost = [each["lost"] for each in found if each["lost"]]
    return {"answers": sum(each["answers"] for each in found), "lost": lost}


@click.command()
@click.option("--swaps", default=50, show_default=True)
@click.option("--restarts", default=20, show_default=True)
@click.option("--clients", default=8, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(swaps: int, restarts: int, clients: int, as_json: bool) -> None:
    """Count, and print; end with an error if a request was lost."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        models = []
        for number, share in enumerate((0.1, 0.3)):
            (folder / str(number)).mkdir()
            write_model(folder / str(number), users=N_USERS, items=N_ITEMS, mlp_share=share)
            models.append(folder / str(number) / "network.packed")
        served = folder / "served"
        served.write_bytes(models[0].read_bytes())
        data = folder / "0" / "data"
        command = [*SERVE, served, "--data", data, "--workers", 2, "--access-log", "none"]
        with started(command, folder / "said") as server:
            server.wait()
            until(lambda: server.counter("ppt_workers") == 2, "the second worker")
            works: dict[str, tuple[int, Callable[[int], None]]] = {
                "swaps": (swaps, lambda number: swap(server, served, models[(number + 1) % 2])),
                "restarts": (restarts, lambda _: restart(server)),
            }
            rows = []
            for name, (n, work) in works.items():
                start = time.monotonic()
                found = under_load(server, clients, partial(repeat, n, work))
                rows.append({"row": name, "n": n, "seconds": time.monotonic() - start, **found})
    if as_json:
        click.echo(document(rows))
    else:
        for row in rows:
            click.echo(f"{row['n']} {row['row']}: {row['answers']:,} answers, lost: {row['lost'] or 0}")
    if any(row["lost"] for row in rows):
        raise click.ClickException("requests were lost")


if __name__ == "__main__":
    main()
