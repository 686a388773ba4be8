"""`ppt-ncf serve`."""

from pathlib import Path
from typing import Any

import click

from ppt_commands.options import (
    CANDIDATES_OPTION,
    EXISTING,
    K_OPTION,
    PATH,
    RECALL_OPTION,
    RERANK_OPTION,
    TITLES_OPTION,
)
from ppt_commands.output import tell


@click.command()
@click.argument("model", type=PATH, metavar="RUN|FILE")
@click.option(
    "--data", type=PATH, help="Prepared folder, by which what a user has is left out of a packed FILE's lists."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="Port; 0 takes a free one."
)
@click.option("--workers", default=1, show_default=True, help="Processes that answer; the model is in memory once.")
@click.option(
    "--threads", type=click.IntRange(min=1), help="Threads of each worker.  [default: the cores shared among them]"
)
@click.option("--token-file", type=EXISTING, help="File of tokens, one a line: a request must bear one of them.")
@TITLES_OPTION
@CANDIDATES_OPTION
@RERANK_OPTION
@RECALL_OPTION
@K_OPTION
@click.option("--max-k", default=1000, show_default=True, help="Longest list that a request may ask for.")
@click.option(
    "--max-users", default=1000, show_default=True, help="Users, items or pairs that a request may ask about."
)
@click.option("--max-bytes", default=1 << 18, show_default=True, help="Bytes of a request's body.")
@click.option(
    "--max-requests", default=256, show_default=True, help="Requests that a worker answers at a time; 429 beyond."
)
@click.option("--timeout", default=10.0, show_default=True, help="Seconds for a request to arrive, and for it to wait.")
@click.option(
    "--grace", default=10.0, show_default=True, help="Seconds for requests to end when the server is to stop."
)
@click.option(
    "--access-log",
    default="-",
    show_default=True,
    help="File for a JSON line a request; - standard output, none: none.",
)
def serve(model: Path, k: int, access_log: str, host: str, token_file: Path | None, **options: Any) -> None:
    """Answer requests over HTTP with a packed network: lists, scores, items alike, and a page at /.

    SIGHUP, or another file in FILE's place, takes a new model without losing a request; a bad one is refused. SIGUSR1
    starts the workers anew, SIGTERM ends.

    \b
    Examples:
      ppt-ncf serve network.packed --data ml-1m --titles titles.csv
      ppt-ncf serve warm.packed --data ml-1m --workers 2 --port 8000
      ppt-ncf serve network.packed --data ml-1m --host 0.0.0.0 --token-file tokens.txt
    """
    from ncf_ppt.http.settings import Limits, Settings
    from ncf_ppt.http.supervisor import serve as serve_until_stopped

    names = ("max_k", "max_users", "max_bytes", "max_requests", "timeout")
    limits = Limits(k=k, **{name: options.pop(name) for name in names})
    settings = Settings(
        model=model,
        host=host,
        token_file=token_file,
        access_log=None if access_log == "none" else access_log,
        limits=limits,
        **options,
    )
    if not settings.is_local and token_file is None:
        tell(f"{host} can be reached from elsewhere, and no --token-file is given: whoever reaches it may ask")
    serve_until_stopped(settings, tell=tell, ready=lambda address: tell(f"serving {model} at {address}"))
