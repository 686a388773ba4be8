"""`ppt-ncf train`."""

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ppt_commands.options import PATH, CommandOfRecipes, training_options
from ppt_commands.output import print_json, print_metrics, print_training, tell
from ppt_commands.training import run_folder, say_what_is_trained

if TYPE_CHECKING:
    from ncf_ppt.recipes import Recipe
    from ncf_ppt.warm_start import ALSStart
    from ppt_core.runs.trackers import Log


@click.command(cls=CommandOfRecipes)
@click.option(
    "--recipe",
    type=click.Choice(["paper", "mlperf", "mlperf-intel", "mlperf-nvidia", "published", "warm"]),
    default="paper",
    show_default=True,
    help="What all options that are not given say. paper: NeuMF as it was binarized, whose defaults stand here; "
    "mlperf: MLPerf v0.5's reference, that is --no-batch-norm --split 1 --epochs 20 --threshold 0.635, or with the "
    "batches and Adam that Intel or NVIDIA submitted; published: NeuMF with 8 factors as its authors trained it; "
    "warm: what recommends best, two towers that start from ALS and read a user's last items.",
)
@training_options(epochs=8.0, batch_size=2048, learning_rate=5e-4, metric="HR@10", optimizer="Adam")
@click.option("--beta1", default=0.9, show_default=True, help="Decay rate of Adam's first moment.")
@click.option("--beta2", default=0.999, show_default=True, help="Decay rate of Adam's second moment.")
@click.option("--eps", default=1e-8, show_default=True, help="Epsilon of Adam.")
@click.option(
    "--train-negatives",
    "n_negatives",
    default=4,
    show_default=True,
    help="Draw so many negatives for each positive, anew in each epoch.",
)
@click.option(
    "--batches",
    type=click.Choice(["shuffled", "grouped"]),
    default="shuffled",
    show_default=True,
    help="Shuffle all samples; or shuffle the positives and keep each with its negatives in one batch, which then has "
    "as many whole groups as --batch-size holds: faster.",
)
@click.option(
    "--model",
    type=click.Choice(["neumf", "gmf", "mlp"]),
    default="neumf",
    show_default=True,
    help="Train both parts, or one of them alone; gmf has nothing to binarize but embeddings.",
)
@click.option("--factors", default=64, show_default=True, help="Size of the GMF embeddings.")
@click.option("--layers", default="256,256,128,64", show_default=True, help="Widths of the MLP, input first.")
@click.option(
    "--batch-norm/--no-batch-norm", default=True, show_default=True, help="Put BatchNorm before each activation."
)
@click.option(
    "--binarize-embeddings",
    type=click.Choice(["items", "all"]),
    is_flag=False,
    flag_value="all",
    help="Make the embeddings of items, or all of them, 1-bit at the switch, too; all if no word follows.",
)
@click.option(
    "--recent",
    "n_recent",
    default=0,
    show_default=True,
    help="Let the network read so many of a user's last items; the data must hold their order in time.",
)
@click.option(
    "--regularization", default=0.0, show_default=True, help="L2 penalty on the rows that a batch reads, per sample."
)
@click.option(
    "--warm-start",
    type=click.Choice(["als", "none"]),
    default="none",
    show_default=True,
    help="Start from the factors of ALS; an mlp cannot.",
)
@click.option("--als-regularization", type=float, help="L2 penalty of --warm-start als.  [default: 30]")
@click.option(
    "--als-factors",
    type=int,
    help="Factors of --warm-start als, if fewer than the network's; with 1-bit embeddings its "
    "factors are their bits.  [default: as many]",
)
@click.option("--als-alpha", type=float, help="Confidence of an interaction in --warm-start als.  [default: 5]")
@click.option(
    "--init",
    type=PATH,
    help="Start from this finished run, of last week's data say: rows of the users and items that both know are taken "
    "over, and layers of the same shape.",
)
@click.option(
    "--optimizer",
    type=click.Choice(["row-adam", "adam"]),
    help="row-adam equals adam and touches only the rows of a batch.  [default: row-adam on a CPU]",
)
@click.option(
    "--shard-embeddings",
    is_flag=True,
    help="Under torchrun: deal the rows of the embedding tables out to the processes, to the same result.",
)
def train(
    data: Path | None,
    out: Path | None,
    resume: bool,
    device: str,
    as_json: bool,
    init: Path | None,
    log: tuple["Log", ...],
    shard_embeddings: bool,
    **options: Any,
) -> None:
    """Train an NCF network: first at full precision, then binarized.

    \b
    Examples:
      ppt-ncf train --split 0.5
      ppt-ncf train --data ml-1m --out run --split 0.5 --epochs 8
      ppt-ncf train --data ml-1m --out run --split 0.5 --epochs 8 --resume
      ppt-ncf train --data ml-1m --out run --recipe warm
      ppt-ncf train --data ml-20m --out run --recipe mlperf
      ppt-ncf train --data next-week --out next-run --init run
      ppt-ncf train --data ml-1m --out run --recent 10 --regularization 1e-3
      torchrun --nproc-per-node 2 --no-python ppt-ncf train --data ml-1m --out run
      torchrun --nproc-per-node 2 --no-python ppt-ncf train --data ml-1m --out run --shard-embeddings
    """
    from data_prep.ratings.any_source import load_data
    from ncf_ppt.baselines import fit_baseline
    from ncf_ppt.continuation import Continuation
    from ncf_ppt.evaluation import evaluate
    from ncf_ppt.fitting import fit
    from ppt_core.distributed import join_world

    world = click.get_current_context().with_resource(join_world(device))
    path, resume = run_folder(out, world, resume=resume)
    if init is not None and options["warm_start"] == "als":
        raise ValueError("--init and --warm-start als are two starts; leave one out")
    recipe = configs(**options)
    started = time.time()
    prepared = load_data(data)
    say_what_is_trained(data, path)
    if shard_embeddings and world.size == 1:
        tell("--shard-embeddings deals rows out to the processes that torchrun starts; this one has them all")
    how: dict[str, Any] = {"resume": resume, "started": started, "world": world, "init": init, "log": log}
    how["shard_embeddings"] = shard_embeddings
    trained = fit(prepared, out=path, recipe=recipe, **how, progress=True)
    if not world.is_first:
        return
    result = trained.result
    popular = evaluate(fit_baseline("popular", prepared), prepared).ranks.metrics()
    if as_json:
        return print_json({"run": str(path), **result.to_dict(), "popular": popular})
    for line in () if init is None else Continuation.from_dict(result.metrics["init"]).lines():
        tell(line)
    print_training(path, result, recipe.training.threshold)
    print_metrics({"this network": result.to_dict(), "popularity": popular}, prepared.protocol_label)


def configs(
    *,
    recipe: str,
    given: frozenset[str],
    layers: str,
    warm_start: str,
    als_regularization: float | None,
    als_alpha: float | None,
    als_factors: int | None,
    **others: Any,
) -> "Recipe":
    """The recipe, with what the options that were given say about the network and how it is trained."""
    from ncf_ppt.recipes import recipe as find_recipe

    found = find_recipe(recipe)
    settings = {name: value for name, value in others.items() if name in given}
    if "layers" in given:
        settings["layers"] = _widths(layers)
    als = {"regularization": als_regularization, "alpha": als_alpha, "factors": als_factors}
    chosen = {name: value for name, value in als.items() if value is not None}
    if chosen or "warm_start" in given:
        settings["warm_start"] = _start(found, warm_start if "warm_start" in given else None, chosen)
    try:
        return found.with_settings(**settings)
    except TypeError as error:
        raise ValueError(f"--recipe {recipe}: {str(error).partition(';')[0]}; leave it out") from None


def _start(recipe: "Recipe", name: str | None, settings: dict[str, Any]) -> "ALSStart | None":
    """What a training starts from, the recipe's own if no ``name`` is given."""
    from ncf_ppt.warm_start import ALSStart

    start = recipe.training.warm_start if name is None else ALSStart() if name == "als" else None
    if start is None and settings:
        raise ValueError(f"--als-{next(iter(settings))} is a setting of --warm-start als; give that, too")
    return None if start is None else replace(start, **settings)


def _widths(layers: str) -> tuple[int, ...]:
    try:
        return tuple(int(width) for width in layers.split(","))
    except ValueError:
        raise ValueError(f"--layers is {layers!r}; give widths like 256,256,128,64") from None
