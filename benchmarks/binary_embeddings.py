"""HR@10 and bytes of a packed network of 1-bit vectors beside the 32-bit network that it comes from.

    python -m benchmarks.binary_embeddings --data ml-1m-ncf --seeds 0,1,2,3,4

GMF that starts from ALS and is trained by one step of no size to speak of: the rows of ALS's factors at 32 bits, and
the same rotated and kept as signs, ``--bits`` for each row, with a scale. The packed file has the ids in it; the bytes
of the 32-bit network are those of its embeddings alone.
"""

import json
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from benchmarks.provenance import provenance
from data_prep.ratings.any_source import load_data
from data_prep.ratings.interactions import PreparedData
from ncf_ppt.evaluation import evaluate
from ncf_ppt.fitting import fit
from ncf_ppt.trained import load
from ncf_ppt.warm_start import ALSStart


@click.command()
@click.option("--data", required=True)
@click.option("--factors", default=128, show_default=True)
@click.option("--bits", default=448, show_default=True)
@click.option("--seeds", default="0,1,2,3,4", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="JSON lines instead of a table.")
def main(data: str, factors: int, bits: int, seeds: str, as_json: bool) -> None:
    """Train, pack, measure and print."""
    prepared = load_data(data)
    rows = [row(prepared, factors, bits, seed) | {"data": Path(data).name} for seed in map(int, seeds.split(","))]
    if as_json:
        return print("\n".join(json.dumps(each | {"about": provenance()}) for each in rows))
    for key in ("full", "bits_hit_ratio", "kept", "share_of_bytes"):
        values = [each[key] for each in rows]
        print(f"{key}: {statistics.median(values):.4f} [{min(values):.4f}, {max(values):.4f}]")


def row(data: PreparedData, factors: int, bits: int, seed: int) -> dict[str, Any]:
    """One seed: both networks."""
    common: dict[str, Any] = {
        "model": "gmf",
        "warm_start": "als",
        "seed": seed,
        "eval_every": 0,
        "epochs": 0.02,
        "learning_rate": 1e-7,
    }
    full = fit(data, **common, factors=factors, split=1, progress=False)
    start = {"warm_start": ALSStart(factors=factors), "factors": bits, "binarize_embeddings": "all"}
    ones = fit(data, **(common | start), split=0, progress=False)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "network.packed"
        ones.pack(path)
        n_bytes = path.stat().st_size
        packed = evaluate(load(path, data=data).scorer(), data)
        whole = evaluate(load(path, data=data).scorer(), data, ranking="full").hit_ratio()
    own = evaluate(full.scorer(), data)
    own_whole = evaluate(full.scorer(), data, ranking="full").hit_ratio()
    full_bytes = (data.n_users + data.n_items) * factors * 4
    return {
        "seed": seed,
        "protocol": own.protocol,
        "factors": factors,
        "bits": bits,
        "full": own.hit_ratio(),
        "bits_hit_ratio": packed.hit_ratio(),
        "kept": packed.hit_ratio() / own.hit_ratio(),
        "full_in_catalogue": own_whole,
        "bits_in_catalogue": whole,
        "full_bytes": full_bytes,
        "packed_bytes": n_bytes,
        "share_of_bytes": n_bytes / full_bytes,
    }


if __name__ == "__main__":
    main()
