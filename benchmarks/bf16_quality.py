"""Whether bf16 costs accuracy: HR@10 of trainings in fp32 and in bf16, the same seeds, at all three splits.

    python -m benchmarks.bf16_quality --data ml-1m-ncf --epochs 1 --out lines.jsonl --json

``--products rounded`` computes a product of bf16 numbers in fp32 and rounds the sum to bf16. That is what a processor
with bf16 instructions does, up to the order of the sum, at the speed of fp32 on those without. All else is the training
of ``--precision bf16`` as it is. Trainings that the file holds already are not run again; the table shows the file.
"""

import json
import os
import statistics
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from benchmarks.provenance import document
from benchmarks.result_files import Row, spread, table
from ppt_core.environment import set_environment
from ppt_core.threads import set_threads

FORMATS = ("fp32", "bf16")
SPLITS = (1.0, 0.5, 0.0)


def train(data: Path, split: float, seed: int, epochs: float, arithmetic: str, kind: str) -> dict[str, Any]:
    """Train once and return a line of results."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    import ncf_ppt

    class RoundedProducts(TorchDispatchMode):  # type: ignore[no-untyped-call]
        """Compute the products of bf16 matrices in fp32."""

        def __torch_dispatch__(
            self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            products = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
            if function in products and args[-1].dtype == torch.bfloat16:
                return function(*(x.float() for x in args), **(kwargs or {})).bfloat16()
            return function(*args, **(kwargs or {}))

    is_rounded = kind == "rounded" and arithmetic == "bf16"
    with RoundedProducts() if is_rounded else nullcontext():  # type: ignore[no-untyped-call]
        settings: dict[str, Any] = {"split": split, "epochs": epochs, "seed": seed, "arithmetic": arithmetic}
        model = ncf_ppt.fit(ncf_ppt.load_data(data), eval_every=0, progress=False, **settings)
    result = model.evaluate()
    found = {"hit_ratio": result.hit_ratio(10), "ndcg": result.ndcg(10), "protocol": result.protocol}
    return {"data": data.name, **settings, "products": kind if arithmetic == "bf16" else "processor", **found}


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--epochs", default=1.0, show_default=True)
@click.option("--seeds", default="0,1,2,3,4", show_default=True)
@click.option("--products", type=click.Choice(["processor", "rounded"]), default="processor", show_default=True)
@click.option("--threads", type=click.IntRange(min=1))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File of JSON lines, added to.")
@click.option("--json", "as_json", is_flag=True)
def main(data: Path, epochs: float, seeds: str, products: str, threads: int | None, out: Path, as_json: bool) -> None:
    """Train what is missing, then print the table."""
    set_environment()
    if threads is not None:
        set_threads(threads)
    lines = [json.loads(line) for line in out.read_text("utf-8").splitlines()] if out.exists() else []
    keys = ("data", "split", "seed", "epochs", "arithmetic")
    done = {tuple(line[key] for key in keys) for line in lines}
    for seed in map(int, seeds.split(",")):
        for split in SPLITS:
            for arithmetic in FORMATS:
                if (data.name, split, seed, epochs, arithmetic) not in done:
                    lines.append(train(data, split, seed, epochs, arithmetic, products))
                    with out.open("a", encoding="utf-8") as file:
                        print(json.dumps(lines[-1]), file=file)
                        os.fsync(file.fileno())
    found = [line for line in lines if line["data"] == data.name and line["epochs"] == epochs]
    click.echo(document(found) if as_json else comparison(found).strip())


def comparison(lines: Iterable[Row], setting: str = "arithmetic", values: tuple[str, str] = FORMATS) -> str:
    """Markdown: both values of a setting at each split, and the mean of the differences seed by seed."""
    found = {(line["split"], line["seed"], line[setting]): line["hit_ratio"] for line in lines}
    seeds = sorted({seed for _, seed, _ in found})
    body = []
    for split in sorted({split for split, _, _ in found}, reverse=True):
        usual, other = ([found[split, seed, value] for seed in seeds] for value in values)
        differences = [b - a for a, b in zip(usual, other, strict=True)]
        each = ", ".join(f"{difference:+.4f}" for difference in differences)
        body.append([f"{split:g}", spread(usual), spread(other), f"{statistics.mean(differences):+.4f}", each])
    usual_name, other_name = values
    return table(
        ["split", f"HR@10, {usual_name}", other_name, f"{other_name} less {usual_name}, mean", "seed by seed"], body
    )


if __name__ == "__main__":
    main()
