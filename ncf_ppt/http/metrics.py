"""Counters that all workers write and any of them tells: numbers in a mapped file, a row for each process."""

import mmap
from collections.abc import Iterator
from typing import BinaryIO

ROUTES = ("recommend", "similar", "score", "user", "page", "healthz", "readyz", "metrics", "openapi.json", "other")
STATUSES = (200, 400, 401, 404, 405, 408, 413, 429, 431, 500, 503)
BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds, upper ends of the histogram's buckets."""

_REQUESTS = {(route, status): n for n, (route, status) in enumerate((r, s) for r in ROUTES for s in STATUSES)}
_SECONDS = len(_REQUESTS)  # buckets, the last one without an end, and the sum
_NAMES = (
    "calls",
    "rows",
    "call_seconds",
    "under_way",
    "connections",
    "workers",
    "lines_dropped",
    "swaps",
    "refused",
    "restarts",
)
_PLACES = {name: _SECONDS + len(BOUNDS) + 2 + number for number, name in enumerate(_NAMES)}
_GAUGES = {"under_way", "connections", "workers"}
N_COLUMNS = _SECONDS + len(BOUNDS) + 2 + len(_NAMES)

_HELP = {
    "calls": ("ppt_engine_calls_total", "Calls of the engine, each for all requests that had come together."),
    "rows": ("ppt_engine_rows_total", "Lists and pairs that were scored."),
    "call_seconds": ("ppt_engine_seconds_total", "Seconds in calls of the engine."),
    "under_way": ("ppt_requests_under_way", "Requests that are being answered."),
    "connections": ("ppt_connections", "Open connections."),
    "workers": ("ppt_workers", "Processes that take connections."),
    "lines_dropped": ("ppt_log_lines_dropped_total", "Lines of the access log that nobody took in time."),
    "swaps": ("ppt_model_swaps_total", "Models that took the place of another."),
    "refused": ("ppt_models_refused_total", "Models that could not be loaded."),
    "restarts": ("ppt_worker_restarts_total", "Workers that were started again after they died."),
}


class Metrics:
    """One process's row of counters, and the sums over all rows.

    Args:
        file: of ``n_rows * N_COLUMNS`` float64 numbers.
        row: this process's.
    """

    def __init__(self, file: BinaryIO, row: int) -> None:
        self._map = mmap.mmap(file.fileno(), 0)
        self._all = memoryview(self._map).cast("d")
        self.row = row
        self._own = self._all[row * N_COLUMNS : (row + 1) * N_COLUMNS]

    @staticmethod
    def make(file: BinaryIO, n_rows: int) -> None:
        """Fill a new file with zeros."""
        file.truncate(n_rows * N_COLUMNS * 8)

    def close(self) -> None:
        """Give back the file."""
        for view in (self._own, self._all):
            view.release()
        self._map.close()

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count a request and its time."""
        own = self._own
        own[_REQUESTS[route, status if status in STATUSES else 500]] += 1
        place = _SECONDS
        for bound in BOUNDS:
            if seconds <= bound:
                break
            place += 1
        own[place] += 1
        own[_SECONDS + len(BOUNDS) + 1] += seconds

    def add(self, name: str, number: float = 1) -> None:
        """Add to one of the named counters."""
        self._own[_PLACES[name]] += number

    def set(self, name: str, number: float) -> None:
        """Set one of the named counters."""
        self._own[_PLACES[name]] = number

    def called(self, n_requests: int, n_rows: int, seconds: float) -> None:
        """Count a call of the engine."""
        self.add("calls")
        self.add("rows", n_rows)
        self.add("call_seconds", seconds)

    def of(self, name: str, row: int) -> float:
        """A named counter of one process."""
        return self._all[row * N_COLUMNS + _PLACES[name]]

    def take_over(self, row: int) -> None:
        """Add the row of a process that has ended to this one, and clear it; what is open there is gone."""
        start = row * N_COLUMNS
        for column in range(N_COLUMNS):
            is_gauge = column in {_PLACES[name] for name in _GAUGES}
            self._own[column] += 0 if is_gauge else self._all[start + column]
            self._all[start + column] = 0

    def text(self, model: str, identity: str) -> str:
        """All of them in the format of Prometheus (version 0.0.4)."""
        return "\n".join([*self._lines(model, identity), ""])

    def _lines(self, model: str, identity: str) -> Iterator[str]:
        sums = [sum(self._all[column::N_COLUMNS]) for column in range(N_COLUMNS)]
        yield "# HELP ppt_requests_total Answers by what was asked for and by status."
        yield "# TYPE ppt_requests_total counter"
        for (route, status), column in _REQUESTS.items():
            if sums[column]:
                yield f'ppt_requests_total{{route="{route}",status="{status}"}} {sums[column]:.0f}'
        yield "# HELP ppt_request_seconds From the head of a request to the end of its answer."
        yield "# TYPE ppt_request_seconds histogram"
        below = 0.0
        for place, bound in enumerate([*map(str, BOUNDS), "+Inf"]):
            below += sums[_SECONDS + place]
            yield f'ppt_request_seconds_bucket{{le="{bound}"}} {below:.0f}'
        yield f"ppt_request_seconds_sum {sums[_SECONDS + len(BOUNDS) + 1]:.6f}"
        yield f"ppt_request_seconds_count {below:.0f}"
        for name, (title, words) in _HELP.items():
            yield f"# HELP {title} {words}"
            yield f"# TYPE {title} {'gauge' if name in _GAUGES else 'counter'}"
            yield f"{title} {sums[_PLACES[name]]:.15g}"
        yield "# HELP ppt_model The model that is served."
        yield "# TYPE ppt_model gauge"
        yield f'ppt_model{{name="{_label(model)}",identity="{identity}"}} 1'


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
