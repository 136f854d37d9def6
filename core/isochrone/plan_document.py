"""The plan as a file: what local mode hands to a gateway, and what a gateway keeps on disk.

JSON of ``Plan`` and the ``Catalog`` that it names, with a format number. Written by the command
line and by the operator's publisher; read by the gateway and by ``isochrone plan``.
"""

from dataclasses import dataclass
from typing import Final

import msgspec

from isochrone.catalog import Catalog
from isochrone.errors import UNREADABLE, ManifestError
from isochrone.plan import Plan

FORMAT: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanDocument:
    """A plan and the catalog that it names."""

    plan: Plan
    catalog: Catalog
    format: int = FORMAT


def encode(document: PlanDocument) -> bytes:
    """Return ``document`` as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(document), indent=1)


def decode(data: bytes) -> PlanDocument:
    """Return the document that ``data`` holds.

    Raises ``ManifestError`` when it is no such document, or of another format.
    """
    try:
        document = msgspec.json.decode(data, type=PlanDocument)
    except UNREADABLE as error:
        message = f"no plan document: {error}"
        raise ManifestError(message) from error
    if document.format != FORMAT:
        message = f"plan document has format {document.format}; this program reads {FORMAT}"
        raise ManifestError(message)
    return document
