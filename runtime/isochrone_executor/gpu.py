"""What NVIDIA's management library says of the GPUs here: which there are, their memory and clocks.

Run as ``python -m isochrone_executor.gpu``: one JSON line for each accelerator that an executor can
be given, for a person or a node's probe to choose from. A GPU in MIG mode is no accelerator itself,
its instances are. An executor gets one by its UUID in ``CUDA_VISIBLE_DEVICES``, and then sees a
single device, whole GPU and instance alike.

Written against NVIDIA's documentation of NVML and tested on a fake of it; it has not run on a
machine with a GPU yet.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol

import msgspec

from isochrone.errors import SetupError
from isochrone.units import Bytes

MIG_ENABLED: Final = 1
"""``NVML_DEVICE_MIG_ENABLE``."""
CLOCK_SM: Final = 1
"""``NVML_CLOCK_SM``."""
CLOCK_MEMORY: Final = 2
"""``NVML_CLOCK_MEM``."""

_NOT_SUPPORTED: Final = 3
_NOT_FOUND: Final = 6


class MemoryInfo(Protocol):
    """What NVML calls ``nvmlMemory_t``; all in bytes."""

    total: int
    free: int


class Nvml(Protocol):
    """What is used of NVML, as the package nvidia-ml-py spells it; handles are its own.

    Its functions raise ``NVMLError``, whose ``value`` is NVML's return code.
    """

    NVMLError: type[Exception]

    def nvmlDeviceGetCount(self) -> int: ...  # noqa: N802, D102
    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any: ...  # noqa: ANN401, N802, D102
    def nvmlDeviceGetUUID(self, handle: Any) -> str: ...  # noqa: ANN401, N802, D102
    def nvmlDeviceGetName(self, handle: Any) -> str: ...  # noqa: ANN401, N802, D102
    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> MemoryInfo: ...  # noqa: ANN401, N802, D102
    def nvmlDeviceGetClockInfo(self, handle: Any, clock: int) -> int: ...  # noqa: ANN401, N802, D102
    def nvmlDeviceGetMaxClockInfo(self, handle: Any, clock: int) -> int: ...  # noqa: ANN401, N802, D102
    def nvmlDeviceGetMigMode(self, handle: Any) -> list[int]: ...  # noqa: ANN401, N802, D102
    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Any) -> int: ...  # noqa: ANN401, N802, D102
    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Any, index: int) -> Any: ...  # noqa: ANN401, N802, D102


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """One accelerator: a GPU, or an instance of the GPU ``parent`` (empty for a whole GPU).

    Clocks are the GPU's, in MHz, now and at most; an instance runs at its parent's. Zero where the
    driver does not tell them.
    """

    uuid: str
    name: str
    parent: str
    memory_bytes: Bytes
    memory_free_bytes: Bytes
    sm_mhz: int
    sm_mhz_max: int
    memory_mhz: int


@contextmanager
def opened() -> Iterator[Nvml]:
    """Give NVML, initialized, and shut it down afterwards.

    Raises ``SetupError`` where there is no driver, or the package nvidia-ml-py is missing.
    """
    try:
        import pynvml  # noqa: PLC0415 - machines without GPUs need not have it
    except ImportError as error:
        message = f"GPUs cannot be looked at: {error}; install nvidia-ml-py"
        raise SetupError(message) from error
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        message = f"GPUs cannot be looked at: {error}; is NVIDIA's driver installed?"
        raise SetupError(message) from error
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def list_gpus(nvml: Nvml) -> tuple[Gpu, ...]:
    """Return the accelerators, by GPU and then by instance, in NVML's order."""
    found: list[Gpu] = []
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        if _is_divided(nvml, handle):
            found += [_read(nvml, instance, handle) for instance in _instances(nvml, handle)]
        else:
            found.append(_read(nvml, handle, handle))
    return tuple(found)


def _is_divided(nvml: Nvml, handle: object) -> bool:
    try:
        return nvml.nvmlDeviceGetMigMode(handle)[0] == MIG_ENABLED
    except nvml.NVMLError as error:
        if _code(error) == _NOT_SUPPORTED:  # a GPU that knows no MIG
            return False
        raise


def _instances(nvml: Nvml, handle: object) -> Iterator[object]:
    """Yield the handles of the instances that exist; their numbers may have gaps."""
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            yield nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
        except nvml.NVMLError as error:
            if _code(error) != _NOT_FOUND:
                raise


def _read(nvml: Nvml, handle: object, gpu: object) -> Gpu:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return Gpu(
        uuid=nvml.nvmlDeviceGetUUID(handle),
        name=nvml.nvmlDeviceGetName(handle),
        parent="" if handle is gpu else nvml.nvmlDeviceGetUUID(gpu),
        memory_bytes=memory.total,
        memory_free_bytes=memory.free,
        sm_mhz=_clock(nvml, gpu, CLOCK_SM, limit=False),
        sm_mhz_max=_clock(nvml, gpu, CLOCK_SM, limit=True),
        memory_mhz=_clock(nvml, gpu, CLOCK_MEMORY, limit=False),
    )


def _clock(nvml: Nvml, gpu: object, clock: int, *, limit: bool) -> int:
    ask = nvml.nvmlDeviceGetMaxClockInfo if limit else nvml.nvmlDeviceGetClockInfo
    try:
        return ask(gpu, clock)
    except nvml.NVMLError as error:
        if _code(error) == _NOT_SUPPORTED:  # virtual GPUs keep their clocks to themselves
            return 0
        raise


def _code(error: Exception) -> int:
    code = getattr(error, "value", None)
    assert isinstance(code, int), f"{error!r} is no error of NVML's"
    return code


def main() -> int:
    """Print what is here; return the process's exit status."""
    try:
        with opened() as nvml:
            for gpu in list_gpus(nvml):
                sys.stdout.write(msgspec.json.encode(gpu).decode() + "\n")
    except SetupError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
