"""Whether an object must be written: its manifest changed, it is gone, or somebody changed it.

Pure. Called by ``apply``, which remembers an ``Applied`` of each object.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

from isochrone_operator.json_values import Json, integer, mapping, text, texts
from isochrone_operator.observe_values import quantity
from isochrone_operator.store import version

DIGEST_ANNOTATION: Final = "isochrone.dev/applied"
"""On each object that is applied: the digest of its manifest, for whoever leads next."""
DIGEST_LENGTH: Final = 16

_QUANTITIES: Final = frozenset({"requests", "limits", "hard", "capacity"})
"""Maps whose values may be written in another way than they were given: 1000m is 1."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What writing a manifest led to: its digest, and the object's version, generation and uid."""

    digest: str
    version: int
    generation: int
    uid: str

    @classmethod
    def of(cls, digest: str, found: Json) -> Self:
        """Return what is remembered of ``found``, which has what the manifest says."""
        uid = text(found, "metadata", "uid")
        return cls(digest, version(found), integer(found, "metadata", "generation"), uid)


def is_due(manifest: Json, digest: str, live: Json | None, known: Applied | None) -> bool:
    """Return whether ``manifest`` must be written.

    ``live`` is the object as the watches show it, and ``known`` what this process wrote of it.
    """
    if known is not None and known.digest != digest:
        return True
    if live is None:
        # Not watched, or not shown by the watch yet: what was written is taken to be there.
        return known is None
    if known is not None and version(live) <= known.version:
        return False
    generation = integer(live, "metadata", "generation")
    if known is not None and known.generation and generation == known.generation:
        # The spec is as it was written; only status or metadata changed.
        return not covers(mapping(live, "metadata"), mapping(manifest, "metadata"))
    applied = texts(live, "metadata", "annotations").get(DIGEST_ANNOTATION)
    return applied != digest or not covers(live, manifest)


def digest_of(manifest: Json) -> str:
    """Return the digest of ``manifest``, whatever the order of its keys."""
    encoded = json.dumps(manifest, sort_keys=True, separators=(",", ":"), default=dict)
    return hashlib.sha256(encoded.encode()).hexdigest()[:DIGEST_LENGTH]


def marked(manifest: Json, digest: str) -> Json:
    """Return ``manifest`` with its digest in an annotation."""
    metadata = mapping(manifest, "metadata")
    annotations = {**texts(metadata, "annotations"), DIGEST_ANNOTATION: digest}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def covers(live: object, wanted: object) -> bool:
    """Return whether ``live`` has each field that ``wanted`` has, with the same value.

    Lists must be equally long and match one by one; what ``live`` has besides does not count.
    An empty object, list or text is the same as none: API servers leave those out.
    """
    if not isinstance(wanted, bool) and wanted in (None, "", [], {}, ()):
        return live in (None, "", [], {}, ())
    match wanted:
        case Mapping():
            return isinstance(live, Mapping) and all(
                _same_quantities(live.get(key), value)
                if key in _QUANTITIES
                else covers(live.get(key), value)
                for key, value in wanted.items()
            )
        case str():
            return live == wanted
        case Sequence():
            return (
                isinstance(live, Sequence)
                and not isinstance(live, str)
                and len(live) == len(wanted)
                and all(covers(one, other) for one, other in zip(live, wanted, strict=True))
            )
        case _:
            return live == wanted


def _same_quantities(live: object, wanted: object) -> bool:
    if not isinstance(live, Mapping) or not isinstance(wanted, Mapping):
        return covers(live, wanted)
    return all(
        key in live and quantity(live[key]) == quantity(value) for key, value in wanted.items()
    )
