"""Runs what torch compiled ahead of time: one native library per batch size, no compiler needed.

Opened by ``registry``. A variant holds a folder ``batch-<n>`` for each batch size: an AOTInductor
package, unpacked, with the weights inside the library. Loading one unpickles nothing, but it *is*
native code and runs with all rights of this process. What vouches for it is the digest that
pins the artifact, checked before ``load`` is called, and the builder, which compiles from its own
trace of the model and never takes a package from elsewhere.

Native code also runs on some machines alone, so that ``load`` first compares the manifest's options
with where it is: ``machine`` (x86_64), ``instructions`` (names of
``torch.cpu.get_capabilities``, separated by commas), and ``torch``, the release whose internal
functions the library calls.
"""

import platform
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch._C._aoti import AOTIModelPackageLoader

from isochrone.catalog import BackendName
from isochrone.errors import ArtifactError, SetupError
from isochrone.units import Bytes
from isochrone_executor.artifacts import VariantManifest
from isochrone_executor.backends.resident import resident_bytes
from isochrone_executor.backends.torch_eager import buffers_of, require_promised, views_of

MACHINE_OPTION: Final = "machine"
INSTRUCTIONS_OPTION: Final = "instructions"
TORCH_OPTION: Final = "torch"
WARM_UP_RUNS: Final = 2

_ONE_THREAD: Final = True
"""The executor runs a variant from one thread, so that the package needs no lock of its own."""
_RUNNERS: Final = 1
_DEFAULT_DEVICE: Final = -1


class LoadedAotVariant:
    """A library per batch size, each with buffers of its own."""

    def __init__(self, manifest: VariantManifest, *, threads: int) -> None:
        self._manifest = manifest
        self._threads = threads
        self._mode = torch.inference_mode()
        self._bound: dict[int, tuple[Any, tuple[Tensor, ...], tuple[Tensor, ...]]] = {}
        self._views: dict[int, tuple[tuple[memoryview, ...], tuple[memoryview, ...]]] = {}
        self.weights_bytes: Bytes = 0
        self.workspace_bytes: Bytes = 0

    def prepare(self, batch_size: int, runner: Any) -> None:  # noqa: ANN401 - torch gives no type
        """Give ``batch_size`` its library and buffers, and run it until it is warm.

        Raises ``ArtifactError`` when the library does not give what the manifest promises.
        """
        inputs = buffers_of(self._manifest.inputs, batch_size)
        outputs = buffers_of(self._manifest.outputs, batch_size)
        self._views[batch_size] = (views_of(inputs), views_of(outputs))
        with self._mode:
            require_promised(outputs, tuple(runner.boxed_run([*inputs])))
        self._bound[batch_size] = (runner, inputs, outputs)
        for _ in range(WARM_UP_RUNS):
            self.run(batch_size)

    def inputs(self, batch_size: int) -> tuple[memoryview, ...]:
        """Return the input buffers of ``batch_size``."""
        return self._views[batch_size][0]

    def outputs(self, batch_size: int) -> tuple[memoryview, ...]:
        """Return the output buffers of ``batch_size``."""
        return self._views[batch_size][1]

    def run(self, batch_size: int) -> None:
        """Compute ``batch_size`` rows on the calling thread and torch's own."""
        if torch.get_num_threads() != self._threads:  # the setting is per thread
            torch.set_num_threads(self._threads)
        runner, inputs, outputs = self._bound[batch_size]
        with self._mode:
            # A list of its own: the runner empties it. Shapes were compiled in, so none is checked.
            for target, value in zip(outputs, runner.boxed_run([*inputs]), strict=True):
                target.copy_(value)

    def close(self) -> None:
        """Drop libraries and buffers."""
        self._bound.clear()
        self._views.clear()


class TorchAotBackend:
    """AOTInductor packages on CPU."""

    name = BackendName.TORCH_AOT

    def load(
        self,
        manifest: VariantManifest,
        directory: Path,
        *,
        threads: int,
        batch_sizes: tuple[int, ...],
    ) -> LoadedAotVariant:
        """Return the variant in ``directory``, warm; see ``port.Backend``."""
        _require_this_machine(manifest, directory)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        loaded = LoadedAotVariant(manifest, threads=threads)
        libraries = workspace = 0
        for batch_size in batch_sizes:
            before = resident_bytes()
            package = directory / package_name(batch_size)
            try:
                # What ``aoti_load_package`` wraps: importing that would import the compiler. The
                # folder, not an archive: nothing is unpacked to where digests do not reach.
                runner = AOTIModelPackageLoader(
                    str(package), "model", _ONE_THREAD, _RUNNERS, _DEFAULT_DEVICE
                )
                between = resident_bytes()
                loaded.prepare(batch_size, runner)
            except RuntimeError as error:
                message = f"{package}: torch cannot run this package: {error}"
                raise ArtifactError(message) from error
            libraries += between - before
            workspace += resident_bytes() - between
        rows = sum(batch_sizes)
        loaded.weights_bytes = max(libraries, _package_bytes(manifest, batch_sizes))
        loaded.workspace_bytes = max(
            workspace, rows * (manifest.row_bytes_in + manifest.row_bytes_out)
        )
        return loaded


def package_name(batch_size: int) -> str:
    """Return the folder of the package for ``batch_size``, inside the variant's."""
    return f"batch-{batch_size}"


def torch_release() -> str:
    """Return the release of torch here, without what it was built for."""
    return torch.__version__.partition("+")[0]


def _require_this_machine(manifest: VariantManifest, directory: Path) -> None:
    """Raise ``SetupError`` where the variant cannot run, ``ArtifactError`` if it does not say."""
    try:
        machine = manifest.options[MACHINE_OPTION]
        instructions = manifest.options[INSTRUCTIONS_OPTION].split(",")
        release = manifest.options[TORCH_OPTION]
    except KeyError as error:
        message = f"{directory}: option {error.args[0]!r} is missing; build the variant again"
        raise ArtifactError(message) from error
    found = (platform.machine(), torch_release())
    if found != (machine, release):
        message = (
            f"{directory}: compiled for {machine} and torch {release}, here are {found[0]} and "
            f"torch {found[1]}; build the variant again for this machine"
        )
        raise SetupError(message)
    capabilities = torch.cpu.get_capabilities()
    missing = [name for name in instructions if not capabilities.get(name)]
    if missing:
        message = (
            f"{directory}: compiled for processors with {', '.join(missing)}, which this one lacks; "
            "build the variant on the oldest kind of machine that is to run it"
        )
        raise SetupError(message)


def _package_bytes(manifest: VariantManifest, batch_sizes: tuple[int, ...]) -> Bytes:
    folders = {package_name(size) for size in batch_sizes}
    return sum(
        entry.size for name, entry in manifest.files.items() if name.split("/")[0] in folders
    )
