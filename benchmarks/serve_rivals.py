"""Services that answer ``/recommend?user=..&k=..`` as a person would write them, for `benchmarks.serve` to measure.

    python -m benchmarks.serve_rivals implicit --data DIR --port 8080 --workers 1

FastAPI on uvicorn, random weights, items that the user has left out:

  pytorch         the network in PyTorch (`benchmarks.score.PlainNeuMF`): an endpoint that FastAPI runs in its threads
  pytorch folded  the same network at its best: first layer split, BatchNorm folded, a request at a time on all threads
  implicit        ALS of `implicit` with 64 factors, its own recommend(), one request at a time
  nothing         no service: a fixed answer from bare asyncio, which shows what the clients can ask
"""

import asyncio
import os
from pathlib import Path
from typing import Any

import click

ROWS = ("pytorch", "pytorch folded", "implicit", "nothing")


def app() -> Any:
    """The service that the environment names, for uvicorn."""
    from data_prep.ratings.interactions import PreparedData

    data = PreparedData.load(Path(os.environ["RIVAL_DATA"]))
    return implicit_app(data) if os.environ["RIVAL"] == "implicit" else pytorch_app(data, os.environ["RIVAL"])


def pytorch_app(data: Any, row: str) -> Any:
    """The network in PyTorch."""
    import numpy as np
    import torch
    from fastapi import FastAPI

    from benchmarks.score import Folded, PlainNeuMF, plain

    service = FastAPI()
    torch.manual_seed(0)
    model = PlainNeuMF(data.n_users, data.n_items).eval()
    with torch.inference_mode():
        score = Folded(model).score if row == "pytorch folded" else plain(model, data.n_items)

    def top(user: int, k: int) -> dict[str, Any]:
        with torch.inference_mode():
            scores = score(np.array([user]))[0]
            scores[torch.from_numpy(data.train.items_of(user)).long()] = -torch.inf
            found = scores.topk(k)
        return {"user_id": user, "item_ids": found.indices.tolist(), "scores": found.values.tolist()}

    if row == "pytorch":

        def recommend(user: int, k: int = 10) -> dict[str, Any]:
            return top(user, k)

        service.get("/recommend")(recommend)

    else:

        async def recommend_in_turn(user: int, k: int = 10) -> dict[str, Any]:
            return top(user, k)

        service.get("/recommend")(recommend_in_turn)

    return service


def implicit_app(data: Any) -> Any:
    """ALS of `implicit`."""
    import numpy as np
    import scipy.sparse as sp
    from fastapi import FastAPI
    from implicit.cpu.als import AlternatingLeastSquares

    rng = np.random.default_rng(0)
    model = AlternatingLeastSquares(factors=64)
    model.user_factors = rng.standard_normal((data.n_users, 64), np.float32)
    model.item_factors = rng.standard_normal((data.n_items, 64), np.float32)
    ones = np.ones(len(data.train.items), np.float32)
    seen = sp.csr_matrix((ones, data.train.items, data.train.offsets), shape=(data.n_users, data.n_items))
    service = FastAPI()

    async def recommend(user: int, k: int = 10) -> dict[str, Any]:
        items, scores = model.recommend(user, seen[user], N=k)
        return {"user_id": user, "item_ids": items.tolist(), "scores": scores.tolist()}

    service.get("/recommend")(recommend)

    return service


class Nothing(asyncio.Protocol):
    """Answers whatever comes by the same 300 bytes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer once for each piece."""
        self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 300\r\n\r\n" + b"x" * 300)


async def answer_nothing(port: int) -> None:
    """Serve `Nothing` until this process ends."""
    server = await asyncio.get_running_loop().create_server(Nothing, "127.0.0.1", port)
    await server.serve_forever()


@click.command()
@click.argument("row", type=click.Choice(ROWS))
@click.option("--data", type=click.Path(path_type=Path), help="Prepared folder.")
@click.option("--port", required=True, type=int)
@click.option("--workers", default=1, show_default=True)
def main(row: str, data: Path | None, port: int, workers: int) -> None:
    """Serve until the process is ended."""
    if row == "nothing":
        return asyncio.run(answer_nothing(port))
    import uvicorn

    os.environ |= {"RIVAL": row, "RIVAL_DATA": str(data), "OPENBLAS_NUM_THREADS": "1"}
    uvicorn.run(
        "benchmarks.serve_rivals:app",
        factory=True,
        host="127.0.0.1",
        port=port,
        workers=workers,
        log_level="error",
    )


if __name__ == "__main__":
    main()
