"""Tables of speed, from the ``--json`` of the benchmarks that `MEASURED` names."""

import json
from collections.abc import Callable

from benchmarks.result_files import RESULTS, Row, machine, measured, share, table

MEASURED = (
    "contention",
    "train-step",
    "grouped-step",
    "score",
    "evaluate",
    "prepare",
    "prepare-large",
    "prepare-small",
    "sampling",
    "conv",
    "vision-step",
    "packed-images",
    "noise",
    "retrieval",
    "two-stage",
    "serve",
    "serve-sizes",
)
HTTP_RIVALS = ("pytorch", "pytorch folded", "implicit")
IMAGE_NETWORKS = {
    "pytorch": "PyTorch fp32, as trained",
    "pytorch folded": "PyTorch fp32, BatchNorm folded, channels last",
    "onnxruntime": "ONNX Runtime fp32, BatchNorm folded",
    "onnxruntime int8": "ONNX Runtime int8",
    "packed": "**packed**",
}
STEPS = {
    "mlperf": "MLPerf v0.5's recipe as it is",
    "fused": "the same, vectorized sampling and fused Adam",
    "stock": "sparse gradients: SparseAdam (another optimizer) and fused Adam",
    "ppt full fp32": "**ppt, full precision**",
    "ppt low fp32": "**ppt, low precision**",
    "ppt full bf16": "**ppt, full precision, bf16**",
    "ppt low bf16": "**ppt, low precision, bf16**",
    "ppt full fp32 grouped": "**ppt, full precision, `--batches grouped`**",
    "ppt low fp32 grouped": "**ppt, low precision, `--batches grouped`**",
    "ppt full bf16 grouped": "**ppt, full precision, bf16, `--batches grouped`**",
    "ppt low bf16 grouped": "**ppt, low precision, bf16, `--batches grouped`**",
    "ppt full fp32 recent": "**ppt, full precision, with the last 10 items**",
    "ppt full fp32 grouped recent": "**ppt, full precision, with the last 10 items, `--batches grouped`**",
}
SCORERS = {
    "fp32": "PyTorch fp32 as a person would write it",
    "fp32 split": "PyTorch fp32, first layer split",
    "fp32 folded": "PyTorch fp32, first layer split, BatchNorm folded",
    "int8 split": "int8 (`torch._int_mm`), first layer split",
    "onnxruntime": "ONNX Runtime, split and folded",
    "packed": "**packed**",
    "inner product": "an inner product of 64 factors, as of ALS or two towers: another network",
}


def contention() -> str:
    """Samples a second beside busy processes, and of the fair share."""
    found = measured("contention")
    names = list(dict.fromkeys(row["threads"] for row in found))
    cells = {(row["neighbours"], row["threads"]): row for row in found}
    body = []
    for count in dict.fromkeys(row["neighbours"] for row in found):
        row = [cells[count, name] for name in names]
        body.append([str(count), *(f"{r['samples_per_second']:,.0f} ({share(r['of_fair_share'])})" for r in row)])
    return table(["busy neighbours", *names], body)


def train_step() -> str:
    """Samples a second of a training step, by part, against the rivals."""
    found = {row["row"]: row for row in measured("train-step")}
    parts = [key for key in found["stock"] if key.endswith(" ms")]
    body = []
    for row, name in STEPS.items():
        if row not in found:  # bf16 only where a processor is made for it
            continue
        speed = found[row]["samples_per_second"]
        against = (speed / found[rival]["samples_per_second"] for rival in ("mlperf", "fused", "stock"))
        times = (f"{found[row][part]:.1f}" for part in parts)
        ratios = (f"{ratio:.2f}" for ratio in against)
        body.append([name, f"{speed:,.0f}", *times, f"{found[row]['peak MB']:,.0f}", *ratios])
    head = ["", "samples/s", *parts, "peak MB", "against mlperf", "against fused", "against stock"]
    return table(head, body)


def grouped_step() -> str:
    """Samples a second with a positive's negatives beside it and without, in fp32 and in bf16."""
    speeds = {row["row"]: row["samples_per_second"] for row in measured("grouped-step")}
    usual = speeds["ppt full fp32"]
    pairs = {
        f"{precision} precision, {arithmetic}": (
            f"ppt {precision} {arithmetic}",
            f"ppt {precision} {arithmetic} grouped",
        )
        for arithmetic in ("fp32", "bf16")
        for precision in ("full", "low")
    }
    pairs["full precision, fp32, the last 10 items"] = ("ppt full fp32 recent", "ppt full fp32 grouped recent")
    body = []
    for name, (one, other) in pairs.items():
        shuffled, grouped = speeds[one], speeds[other]
        times = (f"{grouped / shuffled:.2f}", f"{grouped / usual:.2f}")
        body.append([name, f"{shuffled:,.0f}", f"{grouped:,.0f}", *times])
    return table(["samples/s", "shuffled", "grouped", "times", "against shuffled full fp32"], body)


def scoring() -> str:
    """Million pairs a second of scoring a catalogue."""
    found = {(row["row"], row["users"], row["threads"]): row for row in measured("score")["throughput"]}
    cells = sorted({key[1:] for key in found}, key=lambda cell: cell[::-1])
    head = ["M pairs/s (packed is faster by)", *(f"{n} user{'s'[: n > 1]}, {t} thread{'s'[: t > 1]}" for n, t in cells)]
    body = []
    for row, name in SCORERS.items():
        entries = [found.get((row, *cell)) for cell in cells]
        texts = (f"{e['pairs_per_second'] / 1e6:.2f} ({e['packed_is_faster']:.2g})" if e else "" for e in entries)
        body.append([name, *texts])
    return table(head, body)


def one_user() -> str:
    """What one user's top 10 takes."""
    found = measured("score")["latency"]
    return ", ".join(f"of {row['n_items']:,} items {row['milliseconds']:.2g} ms" for row in found)


def by_row(name: str, key: str, unit: str, scale: float = 1) -> str:
    """A benchmark's rows: a figure and its ratio."""
    body = [[row["row"], f"{row[key] * scale:,.2f}", f"{row['ratio']:.1f}"] for row in measured(name)]
    return table(["", unit, "ratio"], body)


def in_parts(name: str) -> str:
    """Preparing within a limit: seconds, and what the operating system counts."""
    sizes = ("csv MB", "peak MB", "disk MB")
    body = [
        [f"`{row['row']}`", f"{row['rows']:,}", *(f"{row[size] / 1e3:.2f}" for size in sizes), f"{row['seconds']:,.0f}"]
        for row in measured(name)
    ]
    return table(["", "rows", "csv, GB", "peak memory, GB", "disk beside it, GB", "s"], body)


def sampling() -> str:
    """Million negatives a second."""
    found = measured("sampling")
    return table(
        ["", "threads", "M negatives/s"],
        [[row["row"], str(row["threads"]), f"{row['negatives_per_second'] / 1e6:.1f}"] for row in found],
    )


def convolutions() -> str:
    """Microseconds of packed convolutions and of PyTorch's."""
    found = measured("conv")
    kinds = list(found[0]["microseconds"])
    head = ["channels, size", "batch", *(f"{kind}, us" for kind in kinds), "ratio to the faster"]
    body = []
    for row in found:
        times = (f"{row['microseconds'][kind]:,.0f}" for kind in kinds)
        shape = f"{row['channels']}, {row['size']}x{row['size']}"
        body.append([shape, str(row["batch_size"]), *times, f"{row['ratio']:.1f}"])
    return table(head, body)


def packed_images() -> str:
    """Images a second of a whole network, and microseconds of one image."""
    found = {(row["row"], row["batch_size"]): row for row in measured("packed-images")}
    sizes = sorted({size for _, size in found})
    body = []
    for row, name in IMAGE_NETWORKS.items():
        entries = [found[row, size] for size in sizes]
        texts = (f"{e['images_per_second']:,.0f} ({e['packed_is_faster']:.2f})" for e in entries)
        body.append([name, f"{found[row, 1]['microseconds']:,.0f}", *texts])
    return table(["", "us an image alone", *(f"images/s at batch {n} (packed is faster by)" for n in sizes)], body)


def retrieval() -> str:
    """Million pairs a second of searching a catalogue."""
    found = {(row["row"], row["threads"]): row for row in measured("retrieval")}
    threads = sorted({key[1] for key in found})
    head = ["M pairs/s (against the fastest fp32)", *(f"{n} thread{'s'[: n > 1]}" for n in threads)]
    body = []
    for name in dict.fromkeys(key[0] for key in found):
        entries = (found[name, n] for n in threads)
        texts = (f"{e['pairs_per_second'] / 1e6:,.0f} ({e['against_fastest_fp32']:.2f})" for e in entries)
        body.append([name, *texts])
    return table(head, body)


def two_stages() -> str:
    """Users a second of top-10 lists."""
    found = measured("two-stage")
    body = [
        [row["row"], str(row["threads"]), f"{row['users_per_second']:,.0f}", f"{row['against_packed']:.2f}"]
        for row in found
    ]
    return table(["", "threads", "users/s", "against packed"], body)


def two_stage_candidates() -> str:
    """What the first of two stages finds."""
    found = next(row["candidates"] for row in measured("two-stage") if "candidates" in row)
    by = {"codes": "1-bit codes", "product": "the product of vectors"}[found["by"]]
    share = f"{found['recall']:.1%} of those of {found['n_users']} other users"
    return f"{found['n_candidates']} of {found['n_items']:,} by {by}, which hold {share}"


def over_http(result: str = "serve") -> str:
    """Requests a second of services, what they took, and memory."""
    rows = measured(result)
    rivals = [rival for rival in HTTP_RIVALS if rival in rows[0]["against"]]
    body = []
    for row in rows:
        times = (f"{row[load]['p50_ms']:,.1f} / {row[load]['p99_ms']:,.1f}" for load in ("full", "half"))
        ratios = [row["against"].get(rival) for rival in rivals]
        shown = ("" if ratio is None else f"{ratio:.2g}" if ratio < 10 else f"{ratio:,.0f}" for ratio in ratios)
        memory = sum(process["pss"] for process in row["memory"])
        body.append([f"{row['items']:,}", row["row"], f"{row['per_second']:,.0f}", *times, f"{memory:,.0f}", *shown])
    against = (f"against {rival}" for rival in rivals)
    return table(["items", "", "requests/s", "p50 / p99, ms", "at half the load", "MB", *against], body)


def endurance() -> str:
    """What a server went through, and what it lost."""
    (attack,), soak = measured("hostile"), measured("soak")
    wrong = sum(n for status, n in attack["answers"].items() if status.startswith("5"))
    before, after = attack["memory_mb"]
    memory = [row["pss_mb"] for row in soak]
    body = [
        ["hostile requests", f"{attack['requests']:,}", f"answers of 500 and above: {wrong}",
         f"{before:.0f} MB after a tenth of them, {after:.0f} MB at the end"],
        [f"{soak[-1]['minutes']:.0f} minutes without a pause", f"{sum(row['answers'] for row in soak):,}",
         f"lost: {sum(sum(row['lost'].values()) for row in soak)}",
         f"{memory[0]:.0f} MB in the first tenth, {memory[-1]:.0f} MB in the last, {max(memory):.0f} MB at most"],
        *([f"{row['n']} {row['row']} of two workers", f"{row['answers']:,}",
           f"lost: {sum(sum(each.values()) for each in row['lost'])}", ""] for row in measured("swaps")),
    ]  # fmt: skip
    return table(["", "requests", "", "memory"], body)


def kills() -> str:
    """Kills of each command, and what they left under the output's name."""
    body = []
    for row in measured("kills"):
        states = ", ".join(f"{n} {state}" for state, n in row["states"].items())
        body.append([f"`{row['command']}`", f"{row['survived']} of {row['kills']}", states, str(row["left"])])
    found = measured("kills")
    total = [sum(row[key] for row in found) for key in ("survived", "kills", "left")]
    body.append(["all", f"**{total[0]:,} of {total[1]:,}**", "", f"{total[2]:,}"])
    head = ["command", "survived", "the output then: absent, begun, old or whole", "left something temporary"]
    return table(head, body) + f"{machine('kills')}.\n"


def fuzzed() -> str:
    """Mutated files of each kind: read, refused, failed."""
    found = measured("fuzz")
    body = []
    for row in found:
        by = row["readers"], row["commands"]
        counts = [f"{sum(each[key] for each in by):,}" for key in ("accepted", "refused", "failed")]
        body.append([row["files"], f"{by[0]['n']:,}", f"{by[1]['n']:,}", *counts])
    sums = [f"**{sum(row[who]['n'] for row in found):,}**" for who in ("readers", "commands")]
    keys = ("accepted", "refused", "failed")
    sums += [f"{sum(row[who][key] for row in found for who in ('readers', 'commands')):,}" for key in keys]
    head = ["files", "by a reader", "by a command", "read", "refused", "failed"]
    return table(head, [*body, ["all", *sums]]) + f"{machine('fuzz')}.\n"


def noise_by_layer(network: str) -> str:
    """How alike an image and its noisy copy are at places of an untrained network."""
    shown = {"vgg16": (1, 2, 4, 7, 10, 13), "resnet20": (1, 3, 5, 7, 9)}[network]
    place = {"vgg16": "convolution", "resnet20": "block"}[network]
    body = [
        [f"{row['precision']} precision", *(share(row["correlations"][number - 1]) for number in (*shown, 0))]
        for row in measured("noise")
        if row["network"] == network
    ]
    return table(["", *(f"{place} {number}" for number in shown), "read by the last layer"], body)


def vision_step() -> str:
    """Images a second of training ResNet-20."""
    found = measured("vision-step")
    keys = list(found[0])
    return table(keys, [[f"{v:,.1f}" if isinstance(v, float) else str(v) for v in row.values()] for row in found])


def speed() -> str:
    """The strongest rival of each measure, and the recipe as it is published."""
    steps = {row["row"]: row["samples_per_second"] for row in measured("train-step")}
    ours = steps["ppt full fp32"]
    scores = [row for row in measured("score")["throughput"] if row["threads"] == 2]
    best = {row["row"]: max(r["pairs_per_second"] for r in scores if r["row"] == row["row"]) for row in scores}
    packed, product = best.pop("packed"), best.pop("inner product")
    rival = max(best, key=lambda row: best[row])
    ranks = {row["row"]: row["pairs_per_second"] for row in measured("evaluate")}
    prepared = {row["row"]: row["seconds"] for row in measured("prepare")}
    served = {row["row"]: row["per_second"] for row in measured("serve")}
    against = {row["row"]: row["against"] for row in measured("serve")}
    als = max("implicit", "implicit, 2 workers", key=lambda row: served[row])
    quickest = min(prepared.keys() - {"ppt-ncf prepare"}, key=lambda row: prepared[row])
    body = [
        ["training NeuMF at MovieLens-20M's size, samples/s", f"{ours:,.0f}",
         f"PyTorch at its best (sparse gradients, SparseAdam): {steps['stock']:,.0f}", f"{ours / steps['stock']:.1f}x"],
        ["", "", f"the same optimizer, fused: {steps['fused']:,.0f}", f"{ours / steps['fused']:.1f}x"],
        ["", "", f"MLPerf v0.5's recipe as it is: {steps['mlperf']:,.0f}", f"{ours / steps['mlperf']:.0f}x"],
        ["its low-precision steps, samples/s", f"{steps['ppt low fp32']:,.0f}",
         f"its full-precision steps: {ours:,.0f}", f"{steps['ppt low fp32'] / ours:.2f}x"],
        ["scoring a catalogue, packed on bits, M pairs/s", f"{packed / 1e6:.1f}",
         f"{SCORERS[rival]}: {best[rival] / 1e6:.1f}", f"{packed / best[rival]:.1f}x"],
        ["", "", f"an inner product of 64 factors, another network: {product / 1e6:,.0f}", f"{packed / product:.2f}x"],
        ["sampled evaluation, M pairs/s", f"{ranks['ppt full precision'] / 1e6:.1f}",
         f"PyTorch at its best: {ranks['PyTorch, folded'] / 1e6:.1f}",
         f"{ranks['ppt full precision'] / ranks['PyTorch, folded']:.1f}x"],
        ["preparing 20 million ratings on two cores, s", f"{prepared['ppt-ncf prepare']:.0f}",
         f"{quickest}: {prepared[quickest]:.0f}", f"{prepared[quickest] / prepared['ppt-ncf prepare']:.1f}x"],
        ["top 10 of 26,744 items over HTTP, each item scored, requests/s", f"{served['packed']:,.0f}",
         f"FastAPI around PyTorch at its best: {served['pytorch folded']:,.0f}",
         f"{against['packed']['pytorch folded']:.0f}x"],
        ["the same, `--candidates auto`", f"{served['two stages']:,.0f}",
         f"FastAPI around `implicit`'s ALS, another model: {served[als]:,.0f}", f"{against['two stages'][als]:.2f}x"],
    ]  # fmt: skip
    return table(["what", "this project", "against", "ratio"], body)


def gpu(part: str, is_shown: Callable[[Row], bool], form: Callable[[float], str]) -> str:
    """What a GPU does in a second, by batch: of a part of `benchmarks.gpu` the recorded steps that are shown."""
    found = json.loads((RESULTS / "gpu-h100.json").read_text())["parts"][part]
    per_second = {
        (row["batch_size"], row["precision"], row["arithmetic"]): row["per_second"]
        for row in found
        if row.get("recorded") and is_shown(row)
    }
    kinds = [("full", "fp32"), ("full", "bf16"), ("low", "fp32"), ("low", "bf16")]
    sizes = sorted({size for size, *_ in per_second})
    body = [[f"{size:,}", *(form(per_second[(size, *kind)]) for kind in kinds)] for size in sizes]
    return table(["batch", *(", ".join(kind) for kind in kinds)], body)


def gpu_neumf() -> str:
    """Millions of samples a second of NeuMF on a GPU."""
    return gpu("neumf", lambda row: row["optimizer"] == "adam", lambda rate: f"{rate / 1e6:.1f}")


def gpu_resnet() -> str:
    """Images a second of ResNet-20 on a GPU."""
    return gpu("resnet", lambda row: row["fed_by"] == "device", lambda rate: f"{rate:,.0f}")


SPEED_TABLES: dict[str, Callable[[], str]] = {
    "contention": contention,
    "speed": speed,
    "train-step": train_step,
    "grouped-step": grouped_step,
    "scoring": scoring,
    "one-user": one_user,
    "evaluate": lambda: by_row("evaluate", "pairs_per_second", "M pairs/s", 1e-6),
    "prepare": lambda: by_row("prepare", "seconds", "s"),
    "prepare-large": lambda: in_parts("prepare-large"),
    "prepare-small": lambda: in_parts("prepare-small"),
    "sampling": sampling,
    "conv": convolutions,
    "packed-images": packed_images,
    "gpu-neumf": gpu_neumf,
    "gpu-resnet": gpu_resnet,
    "retrieval": retrieval,
    "two-stage": two_stages,
    "serve": over_http,
    "serve-sizes": lambda: over_http("serve-sizes"),
    "endurance": endurance,
    "kills": kills,
    "fuzz": fuzzed,
    "two-stage-candidates": two_stage_candidates,
    "noise-vgg16": lambda: noise_by_layer("vgg16"),
    "noise-resnet20": lambda: noise_by_layer("resnet20"),
    "vision-step": vision_step,
}
