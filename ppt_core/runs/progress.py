"""How a training is shown while it runs."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any


def follow(steps: Iterable[Any], metrics: dict[str, str], *, shown: bool | None = None) -> None:
    """Train to the end.

    Args:
        steps: yields a `ppt_core.runs.fit.Progress` after each iteration.
        metrics: keys of its metrics by their titles.
        shown: whether evaluations and, on a terminal, a progress bar are written to standard error; None shows them
            on a terminal only.
    """
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    if not (console.is_terminal if shown is None else shown):
        for _ in steps:
            pass
        return
    with _progress_bar(console, metrics) as show:
        for step in steps:
            show(step)


@contextmanager
def _progress_bar(console: Any, metrics: dict[str, str]) -> Iterator[Callable[[Any], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("full")

        def show(step: Any) -> None:
            bar.update(
                task, completed=step.iteration, total=step.iterations, description=f"{step.phase.precision} precision"
            )
            if step.metrics is not None:
                values = "  ".join(f"{title} {step.metrics[key]:.4f}" for title, key in metrics.items())
                console.print(
                    f"epoch {step.metrics['epochs']:.2f}  {step.phase.precision} precision  {values}  "
                    f"{step.metrics['seconds']:.1f} s"
                )

        yield show
