"""What a server may be told."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ppt_core.errors import DataError
from ppt_core.runs.files import read_bytes


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request, and all of them together, may take.

    Attributes:
        k: length of the lists if a request names none, and that candidates are chosen for.
        max_k: longest list.
        max_users: users, items or pairs that one request may ask about.
        max_bytes: of a request's body.
        timeout: seconds from the first byte of a request to the last, and as many again until it is computed.
        max_requests: requests that a worker answers at a time.
    """

    k: int = 10
    max_k: int = 1000
    max_users: int = 1000
    max_bytes: int = 1 << 18
    timeout: float = 10.0
    max_requests: int = 256

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value <= 0:
                raise ValueError(f"{name} is {value}; it must be above 0")
        if self.k > self.max_k:
            raise ValueError(f"k is {self.k}; it must be at most max_k, {self.max_k}")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is served, and how.

    Attributes:
        model: a packed file, or a run that ended in low precision.
        data: the prepared data, as `ncf_ppt.trained.load` takes them; a packed file needs them to leave out what a
            user has.
        titles: file of titles, see `ncf_ppt.side_files.read_titles`.
        candidates: what finds the items that the network scores, see `ncf_ppt.two_stages.Candidates`.
        n_candidates: see there.
        recall: see there.
        host: address to listen on.
        port: likewise; 0 takes a free one.
        workers: processes that answer.
        threads: of each worker that compute; None shares the cores among the workers.
        token_file: file of tokens, one a line, one of which a request must bear; None asks for none.
        access_log: file to add a line for each request to, ``-`` for standard output; None keeps none.
        grace: seconds that a worker has to end its requests when it is to stop.
        limits: see `Limits`.
    """

    model: Path
    data: Path | None = None
    titles: Path | None = None
    candidates: str | None = None
    n_candidates: int | None = None
    recall: float | None = None
    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    threads: int | None = None
    token_file: Path | None = None
    access_log: str | None = "-"
    grace: float = 10.0
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers is {self.workers}; it must be at least 1")
        if self.grace < 0:
            raise ValueError(f"grace is {self.grace}; it must be 0 or above")

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")

    def to_dict(self) -> dict[str, Any]:
        """The attributes as JSON values."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Settings":
        """Read what `to_dict` returned."""
        paths = ("model", "data", "titles", "token_file")
        values = {name: Path(value) if name in paths and value else value for name, value in values.items()}
        return cls(**values | {"limits": Limits(**values["limits"])})


def read_tokens(path: Path) -> tuple[bytes, ...]:
    """Read tokens, one a line. Raises `DataError` if there is none, or one that no header can hold."""
    tokens = tuple(line.strip() for line in read_bytes(path).splitlines() if line.strip())
    if not tokens:
        raise DataError(f"{path} holds no token; write one a line")
    for number, token in enumerate(tokens, 1):
        if not all(33 <= octet < 127 for octet in token):
            raise DataError(f"{path}: token {number} holds other signs than letters, digits and punctuation of ASCII")
    return tokens
