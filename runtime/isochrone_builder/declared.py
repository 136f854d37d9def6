"""Holds what a ModelVariant declares against what the store has under its digest.

Called by ``profile`` and ``judging`` before they run what somebody wrote down by hand.
"""

from pathlib import Path

from isochrone.build_document import (
    ARTIFACT_MISMATCH,
    ARTIFACT_MISSING,
    VariantFailure,
    bounded,
)
from isochrone.catalog import TensorSpec, Variant
from isochrone.errors import ArtifactError
from isochrone_executor.artifacts import MANIFEST_NAME, read_manifest, variant_directory


def mismatch(
    variant: Variant,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    store: Path,
) -> VariantFailure | None:
    """Return what ``store`` lacks of ``variant``, or holds otherwise than it is declared.

    ``inputs`` and ``outputs`` are those of its Model.
    """
    sha256 = variant.artifact.sha256
    if not (variant_directory(store, sha256) / MANIFEST_NAME).is_file():
        reason = (
            f"the store holds no artifact {sha256}: put the variant that has this digest into it, "
            "or name one that is there"
        )
        return VariantFailure(variant=variant.id, code=ARTIFACT_MISSING, reason=reason)
    try:
        manifest, _ = read_manifest(store, sha256)
    except ArtifactError as error:
        return VariantFailure(
            variant=variant.id, code=ARTIFACT_MISMATCH, reason=bounded(str(error))
        )
    lacking = sorted(set(variant.batch_sizes) - set(manifest.batch_sizes))
    sides = (
        ("backend", variant.backend.value, manifest.backend.value),
        ("precision", variant.precision.value, manifest.precision.value),
        ("inputs", _signature(inputs), _signature(manifest.inputs)),
        ("outputs", _signature(outputs), _signature(manifest.outputs)),
        ("batch sizes that it lacks", "[]", str(lacking)),
    )
    for what, wanted, found in sides:
        if wanted != found:
            reason = (
                f"artifact {sha256[:12]}…: {what}: the Model and the ModelVariant declare "
                f"{wanted}, the artifact has {found}"
            )
            return VariantFailure(
                variant=variant.id, code=ARTIFACT_MISMATCH, reason=bounded(reason)
            )
    return None


def _signature(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{it.name} {it.datatype.value} {list(it.shape)}" for it in specs)
