"""Figures of the studies, as `benchmarks.tables` writes them."""

import functools
import statistics
from collections.abc import Callable, Sequence
from fractions import Fraction

from benchmarks.result_files import TECHNIQUES, Row, machine, measured, pooled, report, rows, share, spread, table

STUDIES = {
    "ml-100k-99": "MovieLens-100K, 99 strict negatives, 0.5 to 16 epochs",
    "ml-100k-999": "MovieLens-100K, 999 MLPerf negatives, 0.5 to 16 epochs",
    "ml-1m": "MovieLens-1M, the NCF authors' 99 negatives, 1 to 8 epochs",
}

IMAGE_STUDIES = {
    "cifar10-resnet20-more": "CIFAR-10, ResNet-20",
    "cifar10-vgg16": "CIFAR-10, VGG-16 in bf16",
    "imagenette-resnet34": "Imagenette at 64x64, ResNet-34",
}


def accuracies(budgets: Sequence[float], *studies: str) -> str:
    """What the curves of a study, or of several of one thing, reach at some budgets."""
    document = report(studies[0])
    an_epoch = document["speed"]["iterations_per_epoch"]
    body = [
        [TECHNIQUES[split], *(spread(points[round(epochs * an_epoch)]) for epochs in budgets)]
        for split, points in pooled(studies).items()
        if split in TECHNIQUES
    ]
    return table([document["metric"]["title"], *_epochs(budgets)], body)


def seconds(study: str, budgets: Sequence[float]) -> str:
    """Median seconds of a study's trainings."""
    document = report(study)
    an_epoch = document["speed"]["iterations_per_epoch"]
    body = []
    for curve in document["curves"]:
        points = {point["iterations"]: point["seconds"] for point in curve["points"]}
        body.append([curve["name"], *(f"{points[epochs * an_epoch]:,.0f}" for epochs in budgets)])
    return table(["median seconds", *_epochs(budgets)], body)


def _epochs(budgets: Sequence[float]) -> list[str]:
    return [f"{Fraction(epochs)} epoch{'s' * (epochs > 1)}" for epochs in budgets]


def _factor(speed_up: Row) -> str:
    interval = speed_up["interval"]
    return f"{speed_up['factor']:.2f}" + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "")


def _speed_ups(study: str, split: float) -> dict[str, Row]:
    return {each["cost"]: each for each in report(study)["speed_ups"] if each["split"] == split}


def _simulated(study: str) -> Row:
    """The rates of simulated steps on the data of a study, and its speed-ups at them."""
    return next(row for row in measured("simulated-rates") if row["study"] == study)


def _covered(study: str, lowest: float, highest: float) -> str:
    """The share of the paper's range, from half of the best binarized accuracy up to ``highest``, that was compared."""
    medians = [point["median"] for curve in report(study)["curves"] if curve["split"] < 1 for point in curve["points"]]
    return f"{(highest - lowest) / (highest - max(medians) / 2):.0%}"


def speed_ups() -> str:
    """How many times as soon partial pre-training (split 0.5) reaches an accuracy as low precision does."""
    body = []
    for study, title in STUDIES.items():
        found = _speed_ups(study, 0.5)
        compared = f"{share(found['iterations']['lowest'])} to {share(found['iterations']['highest'])}"
        covered = _covered(study, found["iterations"]["lowest"], found["iterations"]["highest"])
        computed = _factor(_simulated(study)["speed_ups"]["0.5"])
        body.append([title, compared, covered, _factor(found["iterations"]), _factor(found["seconds"]), computed])
    whole = measured("whole-range")["ml-1m"]
    compared = f"{share(whole['lowest'])} to {share(whole['highest'])}"
    body.append(["the same, 1/8 to 8 epochs", compared, f"{whole['range_covered']:.0%}", _factor(whole), "", ""])
    head = ["accuracies compared", "of the paper's range", "iterations", "seconds"]
    return table(["", *head, "computed seconds of simulated layers"], body)


def ml_1m_today() -> str:
    """One epoch of MovieLens-1M by later code, beside seed 0 of the study."""
    found, before = (pooled([study]) for study in ("ml-1m-today", "ml-1m"))
    (an_epoch,) = found[1.0]
    return "; ".join(
        f"{TECHNIQUES[split]} {share(points[an_epoch][0])}, before {share(before[split][an_epoch][0])}"
        for split, points in found.items()
    )


def above_popularity() -> str:
    """The factor of MovieLens-1M from an eighth of an epoch on, where only accuracies above popularity's count."""
    ((start, factor),) = measured("whole-range")["ml-1m"]["from"].items()
    return f"{factor:.2f} counted from popularity's {share(float(start))} up"


def sizes() -> str:
    """The speed-up on synthetic ratings of three sizes, over all accuracies and over those above popularity's."""
    body = []
    for size in ("25k", "100k", "400k"):
        found = measured("whole-range")[f"synthetic-{size}"]
        (popular,) = (
            row["hit_ratio"]
            for row in rows("baselines")
            if (row["data"], row["baseline"]) == (f"synthetic-{size}", "popular")
        )
        above = [f"{factor:.2f}" for factor in found["from"].values()]
        compared = f"{share(found['lowest'])} to {share(found['highest'])}"
        covered = f"{found['range_covered']:.0%}"
        body.append([f"{size[:-1]},000", share(popular), compared, covered, _factor(found), *(above or ["none"])])
    head = ["interactions", "popularity's HR@10", "accuracies compared", "of the paper's range", "iterations"]
    return table([*head, "the same above popularity"], body)


def larger_data() -> str:
    """What the largest synthetic set reaches."""
    return accuracies((1 / 8, 1 / 4, 1 / 2, 1, 2, 4), "synthetic-400k")


def simulated_curve() -> str:
    """Whole trainings with simulated layers, and what was computed for them."""
    body = [
        [
            row["technique"],
            f"{row['epochs']:g}",
            f"{row['seconds']:.1f}",
            f"{row['computed_seconds']:.1f}",
            f"{row['ratio']:.2f}",
        ]
        for row in measured("simulated-curve")["trainings"]
    ]
    return table(["simulated throughout", "epochs", "seconds", "computed seconds", "computed / measured"], body)


def simulated_slowdown() -> str:
    """Of a low-precision step with simulated layers."""
    return f"{measured('simulated-curve')['slowdown']:.2f}"


def speed_ups_by_split() -> str:
    """The same of MovieLens-100K for three splits; the seconds of the later two do not compare."""
    body = []
    for split in (0.5, 0.75, 0.25):
        found = _speed_ups("ml-100k-99", split)
        in_seconds = _factor(found["seconds"]) if split == 0.5 else ""
        computed = _factor(_simulated("ml-100k-99")["speed_ups"][f"{split:g}"])
        body.append([f"{split:g}", _factor(found["iterations"]), in_seconds, computed])
    return table(["split", "iterations", "seconds", "computed seconds of simulated layers"], body)


def best_splits() -> str:
    """The best split at each budget of MovieLens-100K, chosen with the test set in sight."""
    body = []
    for each in report("ml-100k-99")["splits"]:
        best, half = each["best"], each["half"]
        own = half is not None and best["split"] != 0.5
        beside = spread(half["accuracies"]) if own else ""
        body.append([f"{each['epochs']:g}", f"{best['split']:.2g}", spread(best["accuracies"]), beside])
    return table(["epochs", "best split", "its HR@10", "split 0.5"], body)


def steps() -> str:
    """Iterations per second of both precisions in every study: the paper's Table 2."""
    body = []
    titles = {study: title.rsplit(",", 1)[0] for study, title in STUDIES.items()}
    for study, title in {**titles, **IMAGE_STUDIES}.items():
        speed = _simulated(study) if study in STUDIES else report(study)["speed"]
        digits = 2 if speed["full"] < 10 else 1
        cells = [f"{each[key]:.{digits}f}" for each in (speed, speed["plain"]) for key in ("full", "low")]
        ratios = [f"{each['slowdown']:.2f}" for each in (speed, speed["plain"])]
        body.append([title, *cells[:2], ratios[0], *cells[2:], ratios[1]])
    plain = "plain PyTorch: "
    return table(["iterations/s", "full", "low", "slowdown", f"{plain}full", f"{plain}low", f"{plain}slowdown"], body)


def images(learning_rate: float) -> str:
    """Trainings of VGG-16, over their seeds."""
    found = [row for row in rows("vgg16") if row["learning_rate"] == learning_rate]
    body = []
    for split in TECHNIQUES:
        seeds = [row for row in found if row["split"] == split]
        if not seeds:
            continue
        rates: dict[str, list[float]] = {"full": [], "low": []}
        for row in seeds:
            size = row["samples_per_second"] * row["seconds"] / row["iterations"]
            for phase in row["phases"]:
                rates[phase["precision"]].append(phase["iterations"] * size / phase["seconds"])
        speeds = [f"{statistics.median(each):.0f}" if each else "" for each in rates.values()]
        accuracy = spread(row["accuracy"] for row in seeds)
        taken = f"{statistics.median(row['seconds'] for row in seeds):,.0f}"
        body.append([TECHNIQUES[split], ", ".join(str(row["seed"]) for row in seeds), accuracy, taken, *speeds])
    return table(["", "seeds", "accuracy", "seconds", "images/s, full", "images/s, low"], body)


def range_of_speed_ups() -> str:
    """The speed-ups in iterations, over all budgets of each set."""
    small = sorted(_speed_ups(study, 0.5)["iterations"]["factor"] for study in STUDIES if study != "ml-1m")
    large, images = (measured("whole-range")[name]["factor"] for name in ("ml-1m", "cifar10"))
    ratings = f"{large:.2f} (MovieLens-1M), {small[0]:.2f} to {small[-1]:.2f} (MovieLens-100K)"
    return f"{ratings} or {images:.2f} (CIFAR-10)"


def speed_up_of_the_first_start() -> str:
    """Of the study of MovieLens-100K that has three ways to start, from scratch, in iterations."""
    found = report("starts")["studies"]["from-scratch"]["speed_ups"]
    return _factor(next(each for each in found if each["cost"] == "iterations"))


def speed_up_of_images() -> str:
    """Of ResNet-20, in iterations, and the share of the paper's range that it covers."""
    found = measured("whole-range")["cifar10"]
    compared = f"between {share(found['lowest'])} and {share(found['highest'])}"
    return f"{_factor(found)} times as soon, {compared}, {found['range_covered']:.0%} of the paper's range"


STUDY_TABLES: dict[str, Callable[[], str]] = {
    "speed-ups": speed_ups,
    "speed-ups-by-split": speed_ups_by_split,
    "range-of-speed-ups": range_of_speed_ups,
    "speed-up-of-the-first-start": speed_up_of_the_first_start,
    "above-popularity": above_popularity,
    "ml-1m-today": ml_1m_today,
    "sizes": sizes,
    "larger-data": larger_data,
    "study-ml-1m-short": lambda: accuracies((1 / 8, 1 / 4, 1 / 2), "ml-1m-short"),
    "simulated-curve": simulated_curve,
    "simulated-slowdown": simulated_slowdown,
    "simulated-curve-machine": functools.partial(machine, "simulated-curve"),
    "simulated-rates-machine": functools.partial(machine, "simulated-rates"),
    "best-splits": best_splits,
    "steps": steps,
    "study-ml-1m": lambda: accuracies((1, 2, 4, 8), "ml-1m"),
    "study-ml-1m-seconds": lambda: seconds("ml-1m", (1, 2, 4, 8)),
    "study-ml-100k-99": lambda: accuracies((1, 2, 4, 8, 16), "ml-100k-99"),
    "study-ml-100k-999": lambda: accuracies((0.5, 1, 2, 4, 8, 16), "ml-100k-999"),
    "study-cifar10": lambda: accuracies((1 / 4, 1 / 2, 1, 2, 4), "cifar10-resnet20", "cifar10-resnet20-more"),
    "study-cifar10-seconds": lambda: seconds("cifar10-resnet20", (1, 2, 4)),
    "study-cifar10-speed-up": speed_up_of_images,
    "study-cifar10-binary": lambda: accuracies((1, 2, 4), "cifar10-resnet20-binary"),
    "study-imagenette": lambda: accuracies((3, 6), "imagenette-resnet34"),
    "study-imagenette-seconds": lambda: seconds("imagenette-resnet34", (3, 6)),
    "study-vgg16": lambda: accuracies((1, 2, 4), "cifar10-vgg16"),
    "vgg16": lambda: images(0.02),
    "vgg16-recipe": lambda: images(0.1),
}
