"""The command line: parse, one library call, print. Nothing imports this module.

torch, numba and pandas load inside the commands that need them, so that help answers at once.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ncf_ppt.interactions import PreparedData
    from ncf_ppt.model import NCF
    from ncf_ppt.ranking import Scorer
    from ppt_core.runs import Run

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


class OneLineErrors(click.Group):
    """A group whose errors are one line on standard error: exit code 2 for settings, 1 for data and files."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; turn what the library raises into one line."""
        from ppt_core.errors import DataError

        try:
            return super().invoke(ctx)
        except DataError as error:
            _fail(str(error), 1)
        except ValueError as error:
            _fail(str(error), 2)
        except OSError as error:
            _fail(f"{error.filename or 'a file'}: {error.strerror or error}", 1)


def _fail(message: str, code: int) -> None:
    click.echo(f"Error: {' '.join(message.split())}", err=True)
    sys.exit(code)


@click.group(cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="ppt-ncf")
def main() -> None:
    """Train, measure and serve binarized (1-bit) recommender networks by partial pre-training.

    \b
    A first run, without any data:   ppt-ncf train --split 0.5
    On MovieLens:                    ppt-ncf prepare ml-1m --out ml-1m
                                     ppt-ncf train --data ml-1m --out run
                                     ppt-ncf recommend run --user 1
    """
    # Read when torch and Numba load: their thread pools would spin against each other, and MKL's sums would
    # depend on the number of threads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")


@main.command()
@click.argument("source")
@click.option("--out", type=FOLDER, required=True, help="New folder for the prepared set.")
@click.option("--min-ratings", default=20, show_default=True, help="Drop users with fewer ratings.")
@click.option("--negatives", default=999, show_default=True, help="Test negatives of each user.")
@click.option(
    "--protocol",
    type=click.Choice(["strict", "mlperf"]),
    default="strict",
    show_default=True,
    help="strict: distinct negatives without the held-out item; mlperf: as the MLPerf v0.5 reference.",
)
@click.option("--seed", default=0, show_default=True, help="Of the negatives and of synthetic data.")
@click.option("--source", "source_file", type=FOLDER, help="A copy at hand of a known data set.")
@click.option("--users", type=int, help="Number of synthetic users.")
@click.option("--items", type=int, help="Number of synthetic items.")
@click.option("--interactions", type=int, help="Number of synthetic interactions.")
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
    from data_prep.prepare import prepare_source

    data = prepare_source(source, out, progress=sys.stderr.isatty(), **options)
    manifest = data.manifest
    if as_json:
        return _print_json({"out": str(out), **_counts(data), "manifest": manifest})
    click.echo(f"{out}: {data.n_users:,} users x {data.n_items:,} items, {len(data.train):,} train positives")
    click.echo(f"test: {data.protocol_label}")
    for line in _dropped(manifest):
        click.echo(line)


@main.command()
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
        _tell("no --data: training on the built-in synthetic sample")
    prepared = _open_data(data)
    path = next_free(Path("runs")) if out is None else out
    reference = {"path": None if data is None else str(data.resolve())}
    progress = fit(prepared, path, model_config, config, data_reference=reference, resume=resume, device=device)
    _tell(f"training into {path}")
    with _progress_bar() as show:
        for step in progress:
            show(step)
    result = Run.open(path).result()
    popular = rank_test_items(fit_baseline("popular", prepared), prepared).metrics()
    if as_json:
        return _print_json({"run": str(path), **result, "popular": popular})
    if result["threshold_reached"] is not None:
        reached = "reached" if result["threshold_reached"] else "not reached"
        click.echo(f"threshold {config.threshold} on the test set (MLPerf's rule): {reached}")
    phases = ", ".join(f"{p['iterations']:,} {p['precision']}" for p in result["phases"])
    click.echo(
        f"{path}: {result['epochs']:.2f} epochs ({phases} iterations) in {result['seconds']:.1f} s, "
        f"{result['samples_per_second']:,.0f} samples/s"
    )
    _print_metrics({"this network": result, "popularity": popular}, prepared.protocol_label)


@main.command()
@click.argument("run", type=FOLDER)
@RANKING_OPTION
@ENGINE_OPTION
@click.option("--per-user", type=FOLDER, help="New Parquet file: user_id, item_id, above, equal, rank.")
@K_OPTION
@DATA_OPTION
@DEVICE_OPTION
@JSON_OPTION
def evaluate(
    run: Path, ranking: str, engine: str, per_user: Path | None, k: int, data: Path | None, device: str, as_json: bool
) -> None:
    """Measure HR@k and NDCG@k of a finished RUN on its held-out items.

    \b
    Examples:
      ppt-ncf evaluate run
      ppt-ncf evaluate run -k 20 --per-user ranks.parquet --json
      ppt-ncf evaluate run --ranking full --engine packed
    """
    from ncf_ppt.catalogue import rank_catalogue
    from ncf_ppt.fit import load_model
    from ncf_ppt.ranking import rank_test_items, save_ranks
    from ppt_core.files import refuse_existing
    from ppt_core.runs import Run

    if per_user is not None:
        refuse_existing(per_user)
    opened = Run.open(run)
    network = load_model(opened, device=device)
    prepared = _data_of(opened, data)
    score = _scorer(network, prepared, engine)
    ranks = rank_test_items(score, prepared) if ranking == "sampled" else rank_catalogue(score, prepared, k=k)
    if per_user is not None:
        save_ranks(ranks, prepared, per_user)
    metrics = {**_description(prepared, ranking, engine), **ranks.metrics(k), "run": str(run)}
    if as_json:
        trained = {key: opened.result()[key] for key in ("iterations", "epochs", "seconds", "split", "phases", "seed")}
        return _print_json({**metrics, **trained})
    _print_metrics({str(run): metrics}, metrics["protocol"])


@main.command()
@click.argument("name", type=click.Choice(["popular", "item-knn", "als", "bpr"]))
@click.option("--data", type=FOLDER, help="Prepared folder; without it the built-in synthetic sample.")
@click.option("--per-user", type=FOLDER, help="New Parquet file: user_id, item_id, above, equal, rank.")
@click.option("--seed", default=0, show_default=True, help="Of als and bpr.")
@RANKING_OPTION
@K_OPTION
@JSON_OPTION
def baseline(
    name: str, data: Path | None, per_user: Path | None, seed: int, ranking: str, k: int, as_json: bool
) -> None:
    """Train a simple recommender and measure it as `evaluate` does.

    \b
    Examples:
      ppt-ncf baseline popular --data ml-1m
      ppt-ncf baseline als --data ml-1m --json
    """
    import time

    from ncf_ppt.baselines import fit_baseline
    from ncf_ppt.catalogue import rank_catalogue
    from ncf_ppt.ranking import rank_test_items, save_ranks
    from ppt_core.files import refuse_existing

    if per_user is not None:
        refuse_existing(per_user)
    prepared = _open_data(data)
    start = time.perf_counter()
    score = fit_baseline(name, prepared, seed=seed)
    seconds = time.perf_counter() - start
    ranks = rank_test_items(score, prepared) if ranking == "sampled" else rank_catalogue(score, prepared, k=k)
    if per_user is not None:
        save_ranks(ranks, prepared, per_user)
    metrics = {**_description(prepared, ranking, "implicit"), **ranks.metrics(k), "seconds": seconds, "seed": seed}
    if as_json:
        return _print_json({"baseline": name, **metrics})
    _print_metrics({name: metrics}, metrics["protocol"])


@main.command()
@click.argument("run", type=FOLDER)
@click.option("--user", "users", multiple=True, help="An original user id; may be given several times.")
@click.option(
    "--users",
    "users_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="File with one user id a line.",
)
@click.option("--all", "all_users", is_flag=True, help="Every user of the training data.")
@click.option("--out", type=FOLDER, help="New Parquet file: user_id, item_id, rank, score.")
@click.option(
    "--new-users",
    type=click.Choice(["error", "popular"]),
    default="error",
    show_default=True,
    help="What unknown users get: an error, or what is most popular.",
)
@ENGINE_OPTION
@K_OPTION
@DATA_OPTION
@DEVICE_OPTION
@JSON_OPTION
def recommend(
    run: Path,
    users: tuple[str, ...],
    users_file: Path | None,
    all_users: bool,
    out: Path | None,
    new_users: str,
    k: int,
    data: Path | None,
    engine: str,
    device: str,
    as_json: bool,
) -> None:
    """Recommend the best k items of the catalogue that a user has not seen in training.

    \b
    Examples:
      ppt-ncf recommend run --user 1 --user 42
      ppt-ncf recommend run --all -k 20 --out recommendations.parquet
    """
    from ncf_ppt import recommend as library
    from ncf_ppt.fit import load_model
    from ppt_core.errors import DataError
    from ppt_core.files import refuse_existing
    from ppt_core.runs import Run

    if sum((bool(users), users_file is not None, all_users)) != 1:
        raise DataError("name the users by one of --user, --users or --all")
    if out is not None:
        refuse_existing(out)
    opened = Run.open(run)
    network = load_model(opened, device=device)
    prepared = _data_of(opened, data)
    if users_file is not None:
        users = tuple(line.strip() for line in users_file.read_text("utf-8").splitlines() if line.strip())
    wanted = None if all_users else list(users)
    lists = library.recommend(_scorer(network, prepared, engine), prepared, wanted, k=k, new_users=new_users)  # type: ignore[arg-type]
    if lists.n_new_users:
        _tell(f"{lists.n_new_users} unknown users got what is most popular")
    if out is not None:
        lists.save(out)
        return _print_json({"out": str(out), "n_users": len(lists), "k": k}) if as_json else click.echo(f"{out}: done")
    if as_json:
        return _print_json({"k": k, "recommendations": list(lists.to_dicts())})
    for entry in lists.to_dicts():
        click.echo(f"{entry['user_id']}: {', '.join(str(item) for item in entry['item_ids'])}")


@main.command()
@click.argument("run", type=FOLDER)
@click.option("--out", type=FOLDER, required=True, help="New file.")
@DATA_OPTION
@JSON_OPTION
def pack(run: Path, out: Path, data: Path | None, as_json: bool) -> None:
    """Write a RUN that ended in low precision as one self-contained file of packed bits, and verify it.

    Every bit behind the first 1-bit activation is compared with the simulated network's, on the candidates of the
    test users and on inputs made up for every threshold; what the rounding of the first layer changes is reported.

    \b
    Example:
      ppt-ncf pack run --out network.packed
    """
    from ncf_ppt.fit import load_model
    from ncf_ppt.packed import packing
    from ncf_ppt.packed.file import save_packed
    from ncf_ppt.packed.verification import verify_on_test_items
    from ppt_core.files import refuse_existing
    from ppt_core.runs import Run

    refuse_existing(out)
    opened = Run.open(run)
    network = load_model(opened)
    prepared = _data_of(opened, data)
    packed = packing.pack(
        network,
        user_ids=prepared.user_ids,
        item_ids=prepared.item_ids,
        protocol=prepared.protocol_label,
        provenance={"model": opened.config["model"], "training": opened.config["training"]},
    )
    report = verify_on_test_items(packed, network, prepared).to_dict()
    save_packed(packed, out)
    document = {"out": str(out), "bytes": out.stat().st_size, **report}
    if as_json:
        return _print_json(document)
    click.echo(f"{out}: {document['bytes']:,} bytes, embeddings at 32 bits among them")
    click.echo(
        f"bits that differ from the simulated network: 0 of {report['compared_bits'] + report['boundary_bits']:,}"
    )
    click.echo(
        f"rounding of the first layer: {report['first_layer_differences']:,} of {report['first_layer_bits']:,} bits, "
        f"{report['changed_ranks']:,} of {report['n_ranks']:,} ranks"
    )


@main.command("export-embeddings")
@click.argument("run", type=FOLDER)
@click.option("--out", type=FOLDER, required=True, help="New folder.")
@click.option(
    "--format", type=click.Choice(["parquet", "npy"]), default="parquet", show_default=True, help="Of the files."
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "int8", "binary"]),
    default="float32",
    show_default=True,
    help="Of the components; int8 has a scale for each row, binary keeps the signs.",
)
@DATA_OPTION
@JSON_OPTION
def export_embeddings(run: Path, out: Path, data: Path | None, as_json: bool, **encoding: Any) -> None:
    """Write the user and item vectors of a RUN with their original ids.

    \b
    Examples:
      ppt-ncf export-embeddings run --out vectors
      ppt-ncf export-embeddings run --out codes --format npy --dtype binary
    """
    from ncf_ppt.embeddings import export_embeddings as export
    from ncf_ppt.fit import load_model
    from ppt_core.runs import Run

    opened = Run.open(run)
    manifest = export(load_model(opened), _data_of(opened, data), out, **encoding)
    if as_json:
        return _print_json({"out": str(out), **manifest})
    click.echo(f"{out}: {manifest['n_users']:,} users, {manifest['n_items']:,} items, {manifest['meaning']}")


def _open_data(path: Path | None) -> "PreparedData":
    from data_prep.prepare import sample
    from ncf_ppt.interactions import PreparedData

    return sample() if path is None else PreparedData.load(path)


def _data_of(run: "Run", path: Path | None) -> "PreparedData":
    """Open the data that a run was trained on, or its copy at ``path``."""
    from ppt_core.errors import DataError

    recorded = run.config["data"]["path"]
    if path is None and recorded is not None:
        path = Path(recorded)
        if not path.exists():
            raise DataError(f"{path}, the data of {run.path}, is gone; say where it is now with --data")
    data = _open_data(path)
    if data.manifest.get("sha256") != run.config["data"]["sha256"]:
        raise DataError(f"{path} is not the data that {run.path} was trained on (another checksum); name that one")
    return data


def _widths(layers: str) -> tuple[int, ...]:
    try:
        return tuple(int(width) for width in layers.split(","))
    except ValueError:
        raise ValueError(f"--layers is {layers!r}; give widths like 256,256,128,64") from None


def _counts(data: "PreparedData") -> dict[str, Any]:
    return {
        "n_users": data.n_users,
        "n_items": data.n_items,
        "n_train": len(data.train),
        "n_negatives": data.n_negatives,
        "protocol": data.protocol_label,
    }


def _scorer(network: "NCF", data: "PreparedData", engine: str) -> "Scorer":
    from ncf_ppt.packed.packing import pack
    from ncf_ppt.scoring import scorer

    if engine == "torch":
        return scorer(network)
    return pack(network, user_ids=data.user_ids, item_ids=data.item_ids, protocol=data.protocol_label)


def _description(data: "PreparedData", ranking: str, engine: str) -> dict[str, Any]:
    full = ranking == "full"
    return {
        "n_users": data.n_users,
        "n_negatives": None if full else data.n_negatives,
        "ranking": ranking,
        "engine": engine,
        "protocol": "leave-one-out, whole catalogue without train items" if full else data.protocol_label,
    }


def _dropped(manifest: dict[str, Any]) -> Iterator[str]:
    rows = manifest.get("rows_dropped", {})
    reasons = [f"{n:,} {reason.replace('_', ' ')}" for reason, n in rows.items() if n]
    if reasons:
        yield f"rows dropped: {', '.join(reasons)}"
    if manifest.get("n_tied_users"):
        yield f"users whose last two items have the same time: {manifest['n_tied_users']:,} (the later row is held out)"


def _print_json(document: dict[str, Any]) -> None:
    click.echo(json.dumps(document, ensure_ascii=False))


def _print_metrics(rows: dict[str, dict[str, Any]], protocol: str) -> None:
    k = next(iter(rows.values()))["k"]
    width = max(map(len, rows))
    click.echo(f"{'':{width}}  HR@{k:<4} NDCG@{k:<4} [{protocol}; ties lost]")
    for name, metrics in rows.items():
        more = f"  MRR {metrics['mrr']:.4f}, coverage {metrics['coverage']:.1%}" if "mrr" in metrics else ""
        ties = f"  {metrics['tie_rate']:.1%} of users tie" if metrics["tie_rate"] else ""
        click.echo(f"{name:{width}}  {metrics['hit_ratio']:<7.4f} {metrics['ndcg']:<9.4f}{more}{ties}")


def _tell(message: str) -> None:
    click.echo(message, err=True)


@contextmanager
def _progress_bar() -> Iterator[Callable[[Any], None]]:
    """Yield a function that shows a `ppt_core.fit.Progress` on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("full")

        def show(step: Any) -> None:
            bar.update(
                task, completed=step.iteration, total=step.iterations, description=f"{step.phase.precision} precision"
            )
            if step.metrics is not None:
                console.print(
                    f"epoch {step.metrics['epochs']:.2f}  {step.phase.precision} precision  "
                    f"HR@10 {step.metrics['hit_ratio']:.4f}  NDCG@10 {step.metrics['ndcg']:.4f}  "
                    f"{step.metrics['seconds']:.1f} s"
                )

        yield show


if __name__ == "__main__":
    main()
