"""Finds what a Job's request names on claims that its pod has mounted.

Called by ``entry``. A claim's files lie in ``<sources>/<claim>``; the pod mounts them read-only.
"""

from dataclasses import replace
from pathlib import Path
from typing import Final
from urllib.parse import quote

from isochrone.build_document import ArchitectureRequest, BuildRequest, source_path
from isochrone.errors import ManifestError

SOURCES_DIRECTORY: Final = "/var/lib/isochrone/sources"
_CLAIM_SCHEME: Final = "pvc://"


def localized(request: BuildRequest, sources: Path) -> BuildRequest:
    """Return ``request`` with ``file:`` in place of ``pvc:`` locations.

    Raises ``ManifestError`` when a location names no file within a claim.
    """
    return replace(
        request,
        validation_uri=(
            None if request.validation_uri is None else _local(request.validation_uri, sources)
        ),
        architectures=tuple(_localized(it, sources) for it in request.architectures),
    )


def _localized(given: ArchitectureRequest, sources: Path) -> ArchitectureRequest:
    return replace(given, uri=_local(given.uri, sources))


def _local(uri: str, sources: Path) -> str:
    if not uri.startswith(_CLAIM_SCHEME):
        return uri
    claim, path = source_path(uri)
    folder = (sources / claim).resolve()
    found = (folder / path).resolve()
    if not found.is_relative_to(folder):
        message = f"{uri}: leads out of its claim: name a file within it"
        raise ManifestError(message)
    return f"file:{quote(str(found))}"
