"""The photograph that tests send, as a file of an Open Inference Protocol request.

The cat is scikit-image's; the class names are torchvision's.
"""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from isochrone.errors import SetupError
from isochrone_cli.photo import classify, photo_rows
from isochrone_cluster.failures import ClusterError

SIDE = 260


@dataclass(frozen=True, slots=True, kw_only=True)
class Photo:
    """A request about one photograph: the file that holds it, and the bytes of its JSON part."""

    body: Path
    length: int

    @classmethod
    def write(cls, folder: Path) -> "Photo":
        """Write the request into ``folder``."""
        row = photo_rows(SIDE)
        tensor = {
            "name": "image",
            "datatype": "UINT8",
            "shape": [1, SIDE, SIDE, 3],
            "parameters": {"binary_data_size": len(row)},
        }
        head = msgspec.json.encode({"inputs": [tensor]})
        body = folder / "photo.bin"
        body.write_bytes(head + row)
        return cls(body=body, length=len(head))


def label(url: str, service: str) -> str:
    """Return what ``service`` says the photograph shows. Raises ``ClusterError`` when it refuses.

    Which it may: the machine is busy, and the objective is short.
    """
    try:
        return classify(url, service, photo_rows(SIDE), SIDE).label
    except SetupError as error:
        raise ClusterError(str(error)) from error
