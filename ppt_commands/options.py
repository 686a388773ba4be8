"""Options that several commands share."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ppt_commands.output import tell

PATH = click.Path(path_type=Path)
EXISTING = click.Path(path_type=Path, exists=True, dir_okay=False)
JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
DATA_OPTION = click.option("--data", type=PATH, help="Prepared folder, if it moved since training.")
DATA_OF_FILE_OPTION = click.option(
    "--data", type=PATH, help="Prepared folder: needed for a packed FILE; for a RUN only if it moved."
)


def _check_device(_context: click.Context, _option: click.Parameter, name: str) -> str:
    from ppt_core.device import check_device

    return check_device(name)


DEVICE_OPTION = click.option(
    "--device", default="cpu", show_default=True, callback=_check_device, help="cpu, cuda or cuda:N."
)


def _set_threads(_context: click.Context, _option: click.Parameter, threads: int | None) -> None:
    from ppt_core.threads import set_threads, usable_cores

    if threads is not None and threads > usable_cores():
        tell(f"--threads is {threads}, and {usable_cores()} cores may be used: so many threads compute")
    set_threads(threads)


THREADS_OPTION = click.option(
    "--threads",
    type=click.IntRange(min=1),
    expose_value=False,
    callback=_set_threads,
    help="Threads that compute. Results depend on them only in training image networks, or by batches above 32,768.  "
    "[default: the cores that may be used]",
)


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
    show_default="packed for a packed file, else torch",
    help="Compute with PyTorch, or 1-bit layers on packed bits, which takes a CPU and a network that ended in low "
    "precision.",
)


def _in_bytes(_context: click.Context, _option: click.Parameter, megabytes: float) -> int:
    if not 0 < megabytes < math.inf:
        raise click.BadParameter(f"{megabytes:g} is not a number of MB above 0")
    return int(megabytes * 1e6)


CANDIDATES_OPTION = click.option(
    "--candidates",
    metavar="auto|FOLDER",
    help="Let vectors find what the network scores: auto takes its own, and as many candidates as --recall asks for; "
    "or a folder of export-embeddings.",
)
RERANK_OPTION = click.option(
    "--rerank",
    "n_candidates",
    type=click.IntRange(min=1),
    show_default="100, chosen by --recall with auto",
    help="Candidates that the network scores for each user, with --candidates.",
)
RECALL_OPTION = click.option(
    "--recall",
    type=float,
    show_default="0.99",
    help="Share of the network's exact lists that candidates must hold, with --candidates auto.",
)
MEMORY_OPTION = click.option(
    "--memory",
    type=float,
    callback=_in_bytes,
    default=64,
    show_default=True,
    help="MB of catalogue scores held at a time, one user's at least, beside the results, which do not depend on it.",
)
K_OPTION = click.option("-k", type=click.IntRange(min=1), default=10, show_default=True, help="Length of the lists.")


class CommandOfRecipes(click.Command):
    """A command that is also called with ``given``, the names of what was said: the rest is for a recipe to say."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, and note where each value comes from."""
        rest = super().parse_args(ctx, args)
        unsaid = (ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)
        ctx.params["given"] = frozenset(name for name in ctx.params if ctx.get_parameter_source(name) not in unsaid)
        return rest


TITLES_OPTION = click.option(
    "--titles",
    type=EXISTING,
    help="File of item ids and titles, which make the lists readable: columns item_id and title, or MovieLens's "
    "u.item, movies.dat or movies.csv.",
)


Default = str | float | None
Command = Callable[..., Any]


def training_options(
    *, epochs: Default, batch_size: Default, learning_rate: Default, metric: str, optimizer: str
) -> Callable[[Command], Command]:
    """What every `train` has: the data, the budget, the switch, and how it runs.

    A default that is text only says where the value comes from: the command then gets None.
    """

    def number(kind: type, default: Default) -> dict[str, Any]:
        if isinstance(default, str):
            return {"type": kind, "show_default": default}
        return {"type": kind, "default": default, "show_default": True}

    options = [
        click.option("--data", type=PATH, help="Prepared folder; without it a built-in synthetic sample."),
        click.option("--out", type=PATH, help="Run folder; by default the next free runs/N."),
        click.option(
            "--split", default=0.5, show_default=True, help="Fraction of training at full precision: 1 all, 0 none."
        ),
        click.option(
            "--epochs", **number(float, epochs), help="Passes over the training samples; fractions are allowed."
        ),
        click.option("--iterations", type=int, help="Optimizer steps, in place of --epochs."),
        click.option("--batch-size", **number(int, batch_size), help="Samples in a step, of all processes together."),
        click.option("--learning-rate", **number(float, learning_rate), help=f"Learning rate of {optimizer}."),
        click.option(
            "--threshold",
            type=float,
            help=f"Stop once {metric} on the test set reaches this in the last phase, as MLPerf does.",
        ),
        click.option(
            "--patience",
            type=int,
            help=f"Stop after so many evaluations of the last phase without a better {metric} on what "
            "`prepare --validation` held out.",
        ),
        click.option(
            "--eval-every", default=1.0, show_default=True, help="Epochs between evaluations; 0: only at the end."
        ),
        click.option(
            "--precision",
            "arithmetic",
            type=click.Choice(["auto", "fp32", "bf16"]),
            default="fp32",
            show_default=True,
            help="Number format of the products of 32-bit layers; auto is bf16 where the device is made for it.",
        ),
        click.option(
            "--at-switch",
            type=click.Choice(["reset", "keep"]),
            default="reset",
            show_default=True,
            help=f"What becomes of {optimizer}'s moments at the switch.",
        ),
        click.option(
            "--scale",
            type=click.Choice(["static", "none"]),
            default="static",
            show_default=True,
            help="Scale of 1-bit weights: mean |w| at the switch, or none.",
        ),
        click.option("--seed", default=0, show_default=True, help="Seed of the initial weights and of every sample."),
        click.option(
            "--log",
            type=click.Choice(["tensorboard", "mlflow"]),
            multiple=True,
            help="Write the numbers of metrics.jsonl there, too (extras tensorboard, mlflow); may be given twice.",
        ),
        click.option("--resume", is_flag=True, help="Go on with the run in --out; give the other options again."),
        DEVICE_OPTION,
        THREADS_OPTION,
        JSON_OPTION,
    ]

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate
