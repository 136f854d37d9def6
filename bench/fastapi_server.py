"""What users would write instead: FastAPI on uvicorn, the tensor as the raw body, one process.

Started by ``overhead``. It calls the very backend callable that our executor calls, on a batch of
one, right in the event loop (a thread pool would only add to its latency), with uvicorn's fastest
loop and parser, and without an access log.
"""

import argparse
import gc
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request, Response

from isochrone_executor.artifacts import read_manifest
from isochrone_executor.backends.registry import open_backend

Endpoint = Callable[[Request], Awaitable[Response]]


def endpoint(store: Path, sha256: str) -> Endpoint:
    """Load the variant ``sha256``; return what answers a request for it."""
    manifest, directory = read_manifest(store, sha256)
    variant = open_backend(manifest.backend).load(manifest, directory, threads=1, batch_sizes=(1,))
    (tensor,), (scores,) = variant.inputs(1), variant.outputs(1)

    async def infer(request: Request) -> Response:
        tensor[:] = await request.body()
        variant.run(1)
        return Response(bytes(scores), media_type="application/octet-stream")

    return infer


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip())
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--route", action="append", required=True, help="NAME=DIGEST")
    options = parser.parse_args()
    app = FastAPI()
    for route in options.route:
        name, _, sha256 = route.partition("=")
        app.add_api_route(f"/{name}", endpoint(options.store, sha256), methods=["POST"])
    gc.collect()
    gc.freeze()
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=options.port,
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
    )


if __name__ == "__main__":
    main()
