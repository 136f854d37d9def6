"""Files for the gateway: whole or not at all. Called by ``agent.main``."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

PLAN_FILE: Final = "plan.json"
CELL_FILE: Final = "cell.json"


@dataclass(slots=True)
class RunDirectory:
    """The folder that gateway and agent share; it outlives either container."""

    folder: Path
    _written: dict[str, bytes] = field(default_factory=dict)

    def write(self, name: str, content: bytes) -> bool:
        """Put ``content`` into the file ``name``, unless it is there; return whether it was not.

        Raises ``OSError`` when the folder cannot be written.
        """
        if self._written.get(name) == content:
            return False
        path, fresh = self.folder / name, self.folder / f".{name}.new"
        with fresh.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
        self._written[name] = content
        return True

    def last_epoch(self) -> int:
        """Return the epoch that ``cell.json`` was left with; 0 when there is none."""
        try:
            found = json.loads((self.folder / CELL_FILE).read_bytes())
        except (OSError, ValueError):
            return 0
        epoch = found.get("epoch") if isinstance(found, dict) else None
        return epoch if isinstance(epoch, int) else 0
