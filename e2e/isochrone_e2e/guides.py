"""The commands of a page of `docs/kubernetes`, run section by section as its reader types them.

Called by the tests, which look at what has come of a section before they go on to the next.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from isochrone_cluster.client_tools import Kubectl
from isochrone_cluster.failures import run
from isochrone_cluster.places import REPOSITORY

PAGES: Final = REPOSITORY / "docs" / "kubernetes"
SECTION_S: Final = 1200.0
"""A first build measures every variant."""

_SECTION: Final = re.compile(r"^## (.+)$", re.MULTILINE)
_BLOCK: Final = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Guide:
    """One page. Its commands run in ``folder``, which is given the repository's charts and examples.

    ``files`` are written there beside them.
    """

    def __init__(
        self, page: str, kubectl: Kubectl, folder: Path, files: Mapping[str, str] | None = None
    ) -> None:
        _, *parts = _SECTION.split((PAGES / page).read_text(encoding="utf-8"))
        pairs = zip(parts[::2], parts[1::2], strict=True)
        self._blocks = {head: found for head, text in pairs if (found := _BLOCK.findall(text))}
        self._unread = set(self._blocks)
        self._folder = folder
        self._environment = kubectl.environment()
        for name in ("charts", "examples"):
            (folder / name).symlink_to(REPOSITORY / name)
        for name, text in (files or {}).items():
            (folder / name).write_text(text, encoding="utf-8")

    @property
    def unread(self) -> set[str]:
        """Sections whose commands nobody has run."""
        return self._unread

    def read(self, section: str) -> str:
        """Run the commands of ``section``, each of which must succeed; return what they wrote."""
        script = "\n".join(("set -e -o pipefail", *self._blocks[section]))
        self._unread.discard(section)
        return run(
            ["bash", "-c", script],
            folder=self._folder,
            environment=self._environment,
            timeout_s=SECTION_S,
        )
