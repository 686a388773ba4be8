"""Tables of the page about scaling: measured ones, and what follows from them on paper."""

from collections.abc import Callable

from benchmarks.result_files import Row, measured, table

MEASURED_SCALING = ("scaling-bytes", "scaling-sizes", "scaling-quality", "scaling-shards")
_FLOATS = 64 + 128  # of a user or an item: a GMF vector of 64 factors and half of the MLP's input of 256
_STATE_OF_A_ROW = 4 * _FLOATS * 3 + 2 * 8  # weights and two moments in float32; the last step of each table's row
_SENT_OF_A_SAMPLE = 2 * 4 * _FLOATS + 4 * 8  # float32 gradients and int64 numbers of the rows of four tables
_SENT_OF_A_PAIR = 4 * (64 + 256)  # in an evaluation: an item's GMF vector and what the first layer makes of the item
_DEALT_TO = 8  # processes
_SAMPLES = 5  # of a train positive: itself and four negatives
_NETWORK = 10e9 / 8  # bytes a second
_EXPANDED = {"users": 2_200_000, "items": 860_000, "interactions": 1_200_000_000}
_SIZES = {"MLPerf's expanded set": _EXPANDED, "ten times that": {name: 10 * n for name, n in _EXPANDED.items()}}


def sent() -> str:
    """What a process sends in a step, by rows and by whole tables."""
    found = measured("scaling-bytes")
    by = {(row["processes"], row["optimizer"]): max(row["bytes_per_step"]) for row in found}
    body = []
    for n in (2, 3):
        rows, whole = by[n, "row-adam"], by[n, "adam"]
        body.append([str(n), f"{rows / 1e6:.2f}", f"{whole / 1e6:.2f}", f"{whole / rows:.0f}"])
    return table(["processes", "touched rows, MB", "whole tables (`--optimizer adam`), MB", "times"], body)


def sizes() -> str:
    """The same number of steps on 1, 4 and 16 times the data, by 1 and 2 processes."""
    body = []
    for row in measured("scaling-sizes"):
        counts = [f"{row[name]:,}" for name in ("users", "items", "interactions")]
        milliseconds, peak = 1e3 * max(row["processor_seconds_per_step"]), max(row["peak_mb"])
        figures = [f"{milliseconds:.0f}", f"{max(row['bytes_per_step']) / 1e6:.2f}", f"{peak:,.0f}"]
        body.append([*counts, str(row["processes"]), *figures])
    head = ["users", "items", "interactions", "processes", "processor ms a step", "MB sent a step", "peak MB"]
    return table(head, body)


def shards() -> str:
    """Whole and dealt out tables by as many processes."""
    body = []
    for row in measured("scaling-shards"):
        milliseconds, sent = 1e3 * max(row["processor_seconds_per_step"]), max(row["bytes_per_step"]) / 1e6
        peaks = [f"{max(row[name]):,.0f}" for name in ("steps_peak_mb", "peak_mb")]
        figures = [*peaks, f"{sent:.2f}", f"{milliseconds:.0f}", f"{row['loss']:.9f}"]
        body.append([str(row["processes"]), "dealt out" if row["shard_embeddings"] else "whole", *figures])
    peaks = ["peak MB in steps", "peak MB with evaluation"]
    head = ["processes", "tables", *peaks, "MB sent a step", "processor ms a step", "loss at the end"]
    return table(head, body)


def by_processes() -> str:
    """HR@10 of one global batch by 1, 2 and 3 processes."""
    head = ["processes", "HR@10", "NDCG@10", "loss"]
    found = measured("scaling-quality")
    body = ([str(row["processes"]), *(f"{row[key]:.5f}" for key in ("hit_ratio", "ndcg", "loss"))] for row in found)
    return table(head, body)


def on_paper() -> str:
    """The arithmetic for sizes that nobody here has measured."""
    speed = {row["row"]: row for row in measured("train-step")}["ppt full fp32"]["samples_per_second"]
    ranked = {row["row"]: row for row in measured("evaluate")}["ppt full precision"]["pairs_per_second"]
    batch = 2_048
    found = {(row["processes"], row["optimizer"]): row for row in measured("scaling-bytes")}
    step_bytes = max(found[2, "row-adam"]["bytes_per_step"])

    def of(size: Row) -> list[str]:
        rows, samples = size["users"] + size["items"], _SAMPLES * size["interactions"]
        steps = samples / batch
        return [
            f"{rows / 1e6:.2f} M",
            _bytes(rows * _FLOATS * 4),
            _bytes(rows * _STATE_OF_A_ROW),
            _bytes(4 * size["interactions"] + 8 * size["users"]),
            _bytes(4 * 999 * size["users"]),
            f"{samples / 1e9:.0f} G in {steps / 1e6:.1f} M steps",
            f"{samples / speed / 3600:,.0f} h",
            f"{1000 * size['users'] / ranked / 3600:.1f} h",
            f"{step_bytes / 1e6:.1f} MB",
            _bytes(rows * _FLOATS * 4),
            f"{steps * step_bytes / _NETWORK / 3600:.1f} h",
            f"{_NETWORK / _SENT_OF_A_SAMPLE:,.0f}",
            f"{_NETWORK / _SENT_OF_A_SAMPLE / speed:.0f}",
            _bytes(rows * _STATE_OF_A_ROW / _DEALT_TO),
            f"{_NETWORK * _DEALT_TO / _sent_of_a_dealt_sample():,.0f}",
            _bytes(1000 * size["users"] * _SENT_OF_A_PAIR * (_DEALT_TO - 1) / _DEALT_TO),
        ]

    names = [
        "rows: users + items",
        "weights of the tables, and the model's file: rows x 192 x 4 B",
        "state of each process, and a checkpoint: rows x (192 x 4 x 3 + 16) B",
        "train items on disk, mapped: interactions x 4 B + users x 8 B",
        "999 test negatives a user, mapped: users x 999 x 4 B",
        f"samples of an epoch: interactions x 5, batches of {batch:,}",
        f"an epoch by one machine of two cores: samples / {speed:,.0f} a second",
        f"an evaluation by it: users x 1,000 / {ranked:,.0f} pairs a second",
        "sent by each of two processes in a step, as touched rows (measured above)",
        "the same as whole tables: rows x 192 x 4 B",
        "network of an epoch, two machines at 10 Gbit/s: steps x touched rows / 1.25 GB/s",
        f"samples a second that 10 Gbit/s let through, however many machines: 1.25 GB/s / {_SENT_OF_A_SAMPLE:,} B",
        f"machines of two cores that compute as many: that / {speed:,.0f}",
        f"dealt out: state of each of {_DEALT_TO} processes",
        f"dealt out: samples a second that 10 Gbit/s let through to {_DEALT_TO} machines, "
        f"{_DEALT_TO} x 1.25 GB/s / {_sent_of_a_dealt_sample():,.0f} B",
        f"dealt out: sent by all {_DEALT_TO} in an evaluation, at most: users x 1,000 x {_SENT_OF_A_PAIR:,} B x 7 / 8",
    ]
    columns = [of(size) for size in _SIZES.values()]
    return table(["", *_SIZES], [list(line) for line in zip(names, *columns, strict=True)])


def _sent_of_a_dealt_sample() -> float:
    """Its rows and then their gradients, but for those of the process itself."""
    return 2 * _SENT_OF_A_SAMPLE * (_DEALT_TO - 1) / _DEALT_TO


def _bytes(n: float) -> str:
    return f"{n / 1e9:,.1f} GB"


SCALING_TABLES: dict[str, Callable[[], str]] = {
    "scaling-bytes": sent,
    "scaling-sizes": sizes,
    "scaling-quality": by_processes,
    "scaling-shards": shards,
    "scaling-on-paper": on_paper,
}
