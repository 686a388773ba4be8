"""Options that several commands share."""

from pathlib import Path

import click

FOLDER = click.Path(path_type=Path)
JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
DATA_OPTION = click.option("--data", type=FOLDER, help="Prepared folder, if it moved since training.")
DEVICE_OPTION = click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
RANKING_OPTION = click.option(
    "--ranking",
    type=click.Choice(["sampled", "full"]),
    default="sampled",
    show_default=True,
    help="Rank the held-out item among its frozen negatives, or in the whole catalogue.",
)
ENGINE_OPTION = click.option(
    "--engine",
    type=click.Choice(["torch", "packed"]),
    default="torch",
    show_default=True,
    help="PyTorch, or 1-bit layers on packed bits: a CPU, and a network that ended in low precision.",
)
K_OPTION = click.option("-k", type=click.IntRange(min=1), default=10, show_default=True, help="Length of the lists.")
