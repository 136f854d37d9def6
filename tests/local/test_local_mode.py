"""Local mode, end to end: real models, real processes, real sockets."""

import os
import signal
import threading
from collections import Counter
from pathlib import Path

import httpx
import numpy as np
import pytest
from conftest import ROOT, Local, is_ready, wait_for  # type: ignore[import-not-found]
from safetensors.numpy import load_file

pytestmark = pytest.mark.slow


def infer(local: Local, image: bytes, timeout_s: float = 10) -> httpx.Response:
    shape = "[1,8,8]"
    head = (
        f'{{"inputs":[{{"name":"image","datatype":"UINT8","shape":{shape},'
        f'"parameters":{{"binary_data_size":{len(image)}}}}}],'
        '"parameters":{"binary_data_output":true}}'
    ).encode()
    return httpx.post(
        f"{local.url}/v2/models/read-digits/infer",
        content=head + image,
        headers={"Inference-Header-Content-Length": str(len(head))},
        timeout=timeout_s,
    )


def gone(pids: list[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_the_service_reads_digits_as_well_as_it_promised(up: Local) -> None:
    rows = load_file(ROOT / "build/digits/digits.safetensors")
    images, labels = rows["validation/image"], rows["validation/label"]
    right = 0
    for image, label in zip(images, labels, strict=True):
        reply = infer(up, image.tobytes())
        assert reply.status_code == 200, reply.text
        start = int(reply.headers["inference-header-content-length"])
        right += int(np.frombuffer(reply.content[start:], "<f4").argmax()) == label

    assert right / len(labels) >= 0.90


def test_an_interrupt_stops_everything(up: Local) -> None:
    children = up.children()
    assert len(children) == 2

    assert up.interrupt() == 0

    wait_for(lambda: gone(children), "every child has ended")
    assert not list(up.run_directory.glob("*.sock"))


def test_a_killed_parent_leaves_nothing_behind(up: Local) -> None:
    children = up.children()

    up.process.kill()
    up.process.wait()

    wait_for(lambda: gone(children), "every child has ended")


def test_a_killed_executor_under_load_hangs_nobody_and_comes_back(up: Local) -> None:
    executor = next(
        pid
        for pid in up.children()
        if b"isochrone_executor" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )
    statuses: Counter[int] = Counter()
    sent = 0
    stop = threading.Event()

    def ask() -> None:
        nonlocal sent
        while not stop.is_set():
            sent += 1
            statuses[infer(up, bytes(64), timeout_s=20).status_code] += 1

    client = threading.Thread(target=ask)
    client.start()
    wait_for(lambda: statuses[200] > 20, "requests are served")
    os.kill(executor, signal.SIGKILL)
    wait_for(lambda: gone([executor]), "the executor is dead")
    served = statuses[200]
    wait_for(lambda: is_ready(up), "the executor is back", 120)
    wait_for(lambda: statuses[200] > served + 20, "requests are served again")
    stop.set()
    client.join(timeout=30)

    assert not client.is_alive()
    assert sum(statuses.values()) == sent
    assert set(statuses) <= {200, 500, 503, 504}
