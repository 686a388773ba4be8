"""Memory of a server that is asked without a pause for minutes.

    python -m benchmarks.soak --minutes 10

32 clients ask `ppt-ncf serve` for top 10 lists of a small packed network, so that there are many requests; the access
log goes to a file. Memory is that of all its processes, shared pages counted once.
"""

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from benchmarks.load import lists_of, load
from benchmarks.provenance import document
from benchmarks.servers import SERVE, started, write_model


@click.command()
@click.option("--minutes", default=10.0, show_default=True)
@click.option("--workers", default=1, show_default=True)
@click.option("--users", default=10_000, show_default=True)
@click.option("--items", default=2_000, show_default=True)
@click.option("--clients", default=32, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(minutes: float, workers: int, users: int, items: int, clients: int, as_json: bool) -> None:
    """Ask, and print memory ten times; end with an error if a request was lost."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_model(folder, users=users, items=items)
        command = [*SERVE, folder / "network.packed", "--data", folder / "data", "--workers", workers]
        with started([*command, "--access-log", folder / "access.log"], folder / "said") as server:
            server.wait()
            load(server.port, lists_of(users), clients=clients, seconds=minutes * 3)  # caches fill
            rows, start = [], time.monotonic()
            for _ in range(10):
                found = load(server.port, lists_of(users), clients=clients, seconds=minutes * 6)
                memory = sum(each["pss"] for each in server.memory())
                rows.append({"minutes": (time.monotonic() - start) / 60, "pss_mb": memory, **found})
    if as_json:
        click.echo(document(rows))
    else:
        for row in rows:
            click.echo(f"{row['minutes']:.1f} minutes: {row['pss_mb']:.1f} MB, {row['answers']:,} answers")
    if any(row["lost"] for row in rows):
        raise click.ClickException("requests were lost")


if __name__ == "__main__":
    main()
