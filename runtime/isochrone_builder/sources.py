"""Finds what a build's request names: on claims that its pod has mounted, or fetched before.

Called by ``entry`` and by the command line. A claim's files lie in ``<sources>/<claim>``, which the pod
mounts read-only; fetched files lie in the store, by digest.
"""

from dataclasses import replace
from pathlib import Path
from typing import Final
from urllib.parse import quote

from isochrone.build_document import BuildRequest, is_fetched, source_path
from isochrone.errors import ManifestError
from isochrone_builder.source_cache import SourceCache

SOURCES_DIRECTORY: Final = "/var/lib/isochrone/sources"
_CLAIM_SCHEME: Final = "pvc://"


def localized(request: BuildRequest, sources: Path | None, store: Path) -> BuildRequest:
    """Return ``request`` with ``file:`` in place of all other locations; of claims, if ``sources``.

    Raises ``ManifestError`` when a location names no file within a claim, or none that was fetched.
    """

    def local(uri: str, sha256: str | None) -> str:
        if is_fetched(uri):
            return _fetched(uri, sha256, store)
        return uri if sources is None else _local(uri, sources)

    return replace(
        request,
        validation_uri=(
            None
            if request.validation_uri is None
            else local(request.validation_uri, request.validation_sha256)
        ),
        architectures=tuple(
            replace(it, uri=local(it.uri, it.sha256)) for it in request.architectures
        ),
    )


def _fetched(uri: str, sha256: str | None, store: Path) -> str:
    path = None if sha256 is None else SourceCache(store, 0).use(sha256)
    if path is None:
        message = f"{uri}: is not among the fetched files of this store: fetch it first"
        raise ManifestError(message)
    return f"file:{quote(str(path.absolute()))}"


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
