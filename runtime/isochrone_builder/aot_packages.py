"""Compiles an architecture ahead of time with AOTInductor, a package for each batch size.

Called by ``generate``. Needs a C++ compiler; who runs the packages needs none. Shapes are compiled
in, because a library for open batch sizes was slower at a batch of one (EfficientNet-Lite0: 20
against 13 ms). Packages are kept unpacked, without the sources that torch puts beside its libraries.
"""

import json
import os
import platform
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from isochrone.errors import ArtifactError
from isochrone_builder.lowering import Lowered
from isochrone_builder.tracing import trace_fixed
from isochrone_executor.backends import torch_aot

_LEVEL: Final = "x86-64-v3"
"""What all code may use; vector kernels use more, and say so. Never ``native``: nobody could tell
on which other machines a library runs."""
_CONFIGURATION: Final[Mapping[str, object]] = {
    "freezing": True,  # weights are constants: fold, fuse and lay them out as kernels want them
    "cpp.march": _LEVEL,
    "cpp.dynamic_threads": True,  # as many as the executor says, not as the builder had
    "aot_inductor.precompile_headers": False,  # pays only from the tenth package on
}
_LEVEL_INSTRUCTIONS: Final = ("avx2", "bmi", "bmi2", "f16c", "fma3", "lzcnt")
_KERNEL_INSTRUCTIONS: Final = {
    "AVX2": (),
    "AVX512": ("avx512_f", "avx512_dq", "avx512_bw", "avx512_vl"),
    "AVX512_VNNI": ("avx512_vnni",),
    "AMX_TILE": ("amx_tile", "amx_int8", "amx_bf16"),
    "AMX_FP16": ("amx_fp16",),
}
"""What Inductor's names for vector units ask of a processor, as ``torch.cpu`` names it."""
_KEPT_SUFFIXES: Final = (".so", ".json")


def write_packages(
    folder: Path,
    lowered: Lowered,
    example: Callable[[int], Sequence[Tensor]],
    batch_sizes: Sequence[int],
) -> dict[str, str]:
    """Write a package of ``lowered`` for each batch size into ``folder``; return the options.

    ``example`` gives inputs of so many rows. Raises ``ArtifactError``, with the reason, where there
    is no compiler, or torch cannot compile the architecture.
    """
    _require_compiler()
    from torch._inductor import aoti_compile_and_package  # noqa: PLC0415 - takes seconds

    kernels: set[str] = set()
    with tempfile.TemporaryDirectory() as name, _compiling_in(Path(name)):
        for batch_size in batch_sizes:
            archive = Path(name, f"{torch_aot.package_name(batch_size)}.pt2")
            try:
                aoti_compile_and_package(
                    trace_fixed(lowered, example(batch_size)),
                    package_path=str(archive),
                    inductor_configs={**_CONFIGURATION},
                )
            except (RuntimeError, ValueError) as error:
                message = f"torch cannot compile this architecture: {_first_line(error)}"
                raise ArtifactError(message) from error
            kernels |= _unpack(archive, folder / torch_aot.package_name(batch_size))
    unknown = kernels - _KERNEL_INSTRUCTIONS.keys()
    if unknown:
        message = f"torch compiled for vector units that this builder cannot name: {unknown}"
        raise ArtifactError(message)
    needed = {each for kernel in kernels for each in _KERNEL_INSTRUCTIONS[kernel]}
    return {
        torch_aot.MACHINE_OPTION: platform.machine(),
        torch_aot.INSTRUCTIONS_OPTION: ",".join(sorted(needed | {*_LEVEL_INSTRUCTIONS})),
        torch_aot.TORCH_OPTION: torch_aot.torch_release(),
    }


def _require_compiler() -> None:
    if platform.machine() != "x86_64":
        message = f"torch-aot variants are made on x86_64 alone; this is {platform.machine()}"
        raise ArtifactError(message)
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        message = (
            f"torch-aot variants need a C++ compiler where they are built, and {compiler!r} is not "
            "installed: install g++, or name another in CXX (running them needs none)"
        )
        raise ArtifactError(message)


def _compiling_in(folder: Path) -> Any:  # noqa: ANN401 - a context manager of torch's
    """Keep what the compiler leaves in ``folder``: the default is a guessable place in ``/tmp``."""
    from torch._inductor.utils import fresh_cache  # noqa: PLC0415

    return fresh_cache(dir=str(folder))


def _unpack(archive: Path, folder: Path) -> set[str]:
    """Put the libraries of ``archive`` into ``folder``; return the vector units that they use."""
    kernels: set[str] = set()
    with zipfile.ZipFile(archive) as package:
        for member in package.namelist():
            # The first part of each path is the archive's own name.
            path = folder.joinpath(*Path(member).parts[1:])
            if path.suffix not in _KEPT_SUFFIXES:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(package.read(member))
            if path.suffix == ".json":
                kernels.update(json.loads(path.read_bytes())["AOTI_CPU_ISA"].split())
    return kernels


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
