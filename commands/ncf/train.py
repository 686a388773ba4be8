"""`ppt-ncf train`."""

from pathlib import Path
from typing import Any

import click

from commands.ncf.data import open_data
from commands.options import DEVICE_OPTION, FOLDER, JSON_OPTION
from commands.output import print_json, print_metrics, progress_bar, tell


@click.command()
@click.option("--data", type=FOLDER, help="Prepared folder; without it a built-in synthetic sample.")
@click.option("--out", type=FOLDER, help="Run folder; by default the next free runs/N.")
@click.option(
    "--split", default=0.5, show_default=True, help="Fraction of training at full precision: 1 all of it, 0 none."
)
@click.option("--epochs", default=8.0, show_default=True, help="Passes over the samples; fractions are allowed.")
@click.option("--iterations", type=int, help="Optimizer steps, in place of --epochs.")
@click.option("--batch-size", default=2048, show_default=True, help="Samples in a step.")
@click.option("--learning-rate", default=5e-4, show_default=True, help="Of Adam.")
@click.option("--train-negatives", "n_negatives", default=4, show_default=True, help="For each positive, each epoch.")
@click.option(
    "--model",
    type=click.Choice(["neumf", "gmf", "mlp"]),
    default="neumf",
    show_default=True,
    help="Both parts, or one of them alone; gmf has nothing to binarize.",
)
@click.option("--factors", default=64, show_default=True, help="Size of the GMF embeddings.")
@click.option("--layers", default="256,256,128,64", show_default=True, help="Widths of the MLP, input first.")
@click.option("--batch-norm/--no-batch-norm", default=True, show_default=True, help="Before each activation.")
@click.option("--threshold", type=float, help="Stop once HR@10 on the test set reaches this, as MLPerf does.")
@click.option("--eval-every", default=1.0, show_default=True, help="Epochs between evaluations; 0: only at the end.")
@click.option(
    "--optimizer",
    type=click.Choice(["row-adam", "adam"]),
    help="row-adam equals adam and touches only the rows of a batch.  [default: row-adam on a CPU]",
)
@click.option(
    "--precision",
    "arithmetic",
    type=click.Choice(["fp32", "bf16"]),
    default="fp32",
    show_default=True,
    help="Of the matrix products of 32-bit layers.",
)
@click.option(
    "--at-switch",
    type=click.Choice(["reset", "keep"]),
    default="reset",
    show_default=True,
    help="What becomes of Adam's moments at the switch.",
)
@click.option(
    "--scale",
    type=click.Choice(["static", "none"]),
    default="static",
    show_default=True,
    help="Scale of 1-bit weights: mean |w| at the switch, or none.",
)
@click.option("--seed", default=0, show_default=True, help="Of the initial weights and of every sample.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out; give the other options again.")
@DEVICE_OPTION
@JSON_OPTION
def train(
    data: Path | None,
    out: Path | None,
    model: str,
    factors: int,
    layers: str,
    batch_norm: bool,
    resume: bool,
    device: str,
    as_json: bool,
    **training: Any,
) -> None:
    """Train an NCF network: first at full precision, then binarized.

    \b
    Examples:
      ppt-ncf train --split 0.5
      ppt-ncf train --data ml-1m --out run --split 0.5 --epochs 8
      ppt-ncf train --data ml-1m --out run --split 0.5 --epochs 8 --resume
    """
    from ncf_ppt.baselines import fit_baseline
    from ncf_ppt.fit import NCFTrainingConfig, fit
    from ncf_ppt.model import NCFConfig
    from ncf_ppt.ranking import rank_test_items
    from ppt_core.errors import DataError
    from ppt_core.runs import Run, next_free

    if resume and out is None:
        raise DataError("--resume needs --out, the run folder to go on with")
    model_config = NCFConfig(model=model, factors=factors, layers=_widths(layers), batch_norm=batch_norm)  # type: ignore[arg-type]
    config = NCFTrainingConfig(**training)
    if data is None:
        tell("no --data: training on the built-in synthetic sample")
    prepared = open_data(data)
    path = next_free(Path("runs")) if out is None else out
    reference = {"path": None if data is None else str(data.resolve())}
    progress = fit(prepared, path, model_config, config, data_reference=reference, resume=resume, device=device)
    tell(f"training into {path}")
    with progress_bar() as show:
        for step in progress:
            show(step)
    result = Run.open(path).result()
    popular = rank_test_items(fit_baseline("popular", prepared), prepared).metrics()
    if as_json:
        return print_json({"run": str(path), **result, "popular": popular})
    if result["threshold_reached"] is not None:
        reached = "reached" if result["threshold_reached"] else "not reached"
        click.echo(f"threshold {config.threshold} on the test set (MLPerf's rule): {reached}")
    phases = ", ".join(f"{p['iterations']:,} {p['precision']}" for p in result["phases"])
    click.echo(
        f"{path}: {result['epochs']:.2f} epochs ({phases} iterations) in {result['seconds']:.1f} s, "
        f"{result['samples_per_second']:,.0f} samples/s"
    )
    print_metrics({"this network": result, "popularity": popular}, prepared.protocol_label)


def _widths(layers: str) -> tuple[int, ...]:
    try:
        return tuple(int(width) for width in layers.split(","))
    except ValueError:
        raise ValueError(f"--layers is {layers!r}; give widths like 256,256,128,64") from None
