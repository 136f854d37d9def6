"""Puts a variant's files into the store: written beside their place, described, and moved in one step.

Called by ``generate`` and ``onnx_source``.
"""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from isochrone.catalog import BackendName, Precision
from isochrone_builder.records import STAGING
from isochrone_builder.request import BuildRequest
from isochrone_executor.artifacts import (
    MANIFEST_FORMAT,
    VariantManifest,
    describe_files,
    install_variant,
    is_whole,
    variant_directory,
    write_manifest,
)


def put_variant(
    store: Path,
    request: BuildRequest,
    architecture: str,
    *,
    backend: BackendName,
    precision: Precision,
    write: Callable[[Path], dict[str, str]],
) -> str:
    """Put what ``write`` writes into a folder into ``store``; return the variant's digest.

    ``write`` returns the backend's options; what it raises leaves nothing behind.
    """
    parent = store / STAGING
    parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=parent))
    try:
        options = write(staging)
        staging.chmod(0o755)  # executors may run as another user than the builder
        for path in staging.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        manifest = VariantManifest(
            format=MANIFEST_FORMAT,
            model=f"{request.namespace}/{request.name}",
            architecture=architecture,
            precision=precision,
            backend=backend,
            inputs=request.inputs,
            outputs=request.outputs,
            batch_sizes=request.batch_sizes,
            files=describe_files(staging),
            options=options,
        )
        return _install(store, staging, manifest)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _install(store: Path, staging: Path, manifest: VariantManifest) -> str:
    sha256 = write_manifest(staging, manifest)
    if variant_directory(store, sha256).exists() and not is_whole(store, sha256):
        _discard(store, sha256)
    try:
        return install_variant(store, staging, manifest)
    except OSError:
        # Another builder of the same variant was faster, in between.
        if is_whole(store, sha256):
            return sha256
        raise


def _discard(store: Path, sha256: str) -> None:
    """Take a damaged variant out of ``store``: first out of sight in one step, then for good."""
    trash = Path(tempfile.mkdtemp(dir=store / STAGING))
    variant_directory(store, sha256).rename(trash / sha256)
    shutil.rmtree(trash)
