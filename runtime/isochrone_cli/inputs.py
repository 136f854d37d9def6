"""Manifests from files and folders: the I/O around ``isochrone.api.manifests``.

Called by every command that takes ``-f``.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from isochrone.api.manifests import ManifestProblemsError, Manifests, Source, load
from isochrone.errors import ManifestError
from isochrone.units import MIB
from isochrone_cli.model_files import missing_files

SUFFIXES: Final = (".yaml", ".yml", ".json")

FILE_BYTES_MAX: Final = 4 * MIB
"""Largest manifest file; etcd's own limit on an object is below half of it."""

STANDARD_INPUT: Final = "-"


def read_manifests(paths: Sequence[str]) -> Manifests:
    """Return what the files, the folders (not recursive, as kubectl) or ``-`` in ``paths`` hold.

    Raises ``ManifestError`` that lists every problem, or names the path that cannot be read.
    """
    return load([_read(path) for path in _files(paths)])


def read_buildable(paths: Sequence[str]) -> Manifests:
    """Return the same, after a look at every file that the Models name: variants are made of them.

    Raises ``ManifestError`` as ``read_manifests`` does, and where such a file is not there.
    """
    sources = [_read(path) for path in _files(paths)]
    manifests = load(sources)
    missing = missing_files(sources)
    if missing:
        raise ManifestProblemsError(missing)
    return manifests


def _files(paths: Sequence[str]) -> list[str]:
    files: list[str] = []
    for given in paths:
        path = Path(given)
        if path.is_dir():
            found = sorted(str(entry) for entry in path.iterdir() if entry.suffix in SUFFIXES)
            if not found:
                message = f"{given}: the folder holds no .yaml, .yml or .json file"
                raise ManifestError(message)
            files += found
        elif given == STANDARD_INPUT or path.exists():  # also a pipe, as a shell's <(…) is
            files.append(given)
        else:
            message = f"{given}: there is no such file or folder"
            raise ManifestError(message)
    return files


def _read(path: str) -> Source:
    name = "(standard input)" if path == STANDARD_INPUT else path
    try:
        if path == STANDARD_INPUT:
            data = sys.stdin.buffer.read(FILE_BYTES_MAX + 1)
        else:
            with Path(path).open("rb") as file:
                data = file.read(FILE_BYTES_MAX + 1)
        if len(data) > FILE_BYTES_MAX:
            raise ManifestError(
                f"{name}: longer than {FILE_BYTES_MAX} bytes, the limit for a manifest"
            )
        return Source(path=name, text=data.decode("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{name}: cannot be read: {error}") from error
