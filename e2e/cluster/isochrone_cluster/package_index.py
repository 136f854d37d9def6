"""What pip and uv need of the host while an image is built: certificates, and where packages are.

Mounted as files over the build's own, so that no layer of the image holds them. Called by ``images``.
"""

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Final

BUNDLE: Final = Path("/etc/ssl/certs/ca-certificates.crt")
PIP_FILE: Final = "/etc/pip.conf"
UV_FILE: Final = "/etc/uv/uv.toml"
SETTINGS: Final = ("index-url", "extra-index-url", "trusted-host", "proxy")


@cache
def pip_settings() -> dict[str, str]:
    """Return those of pip's settings on this machine, by files and environment, that builds need."""
    found: dict[str, str] = {}
    pip = next((p for p in (sys.executable, "python3") if _has_pip(p)), None)
    if pip is not None:
        listed = subprocess.run(
            [pip, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
        ).stdout
        for line in listed.splitlines():
            key, _, quoted = line.partition("=")
            name = key.rpartition(".")[2]
            if name in SETTINGS and key.startswith(("global.", "install.", "download.")):
                found[name] = quoted.strip("'\"").replace("\\n", " ").strip()
    for name in SETTINGS:
        value = os.environ.get(f"PIP_{name.upper().replace('-', '_')}")
        if value:
            found[name] = value
    return found


def _has_pip(python: str) -> bool:
    tried = subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False)
    return tried.returncode == 0


def mounts(scratch: Path) -> tuple[str, ...]:
    """Write the files into ``scratch``; return buildah's options that mount them."""
    settings = pip_settings()
    pip = ["[global]", *(f"{name} = {value}" for name, value in settings.items())]
    uv: list[str] = ["system-certs = true"]
    for number, url in enumerate(settings.get("extra-index-url", "").split()):
        uv += ["[[index]]", f'name = "extra-{number}"', f"url = {json.dumps(url)}"]
    if "index-url" in settings:
        uv += ["[[index]]", 'name = "main"', f"url = {json.dumps(settings['index-url'])}"]
        uv += ["default = true"]
    options: list[str] = []
    if BUNDLE.exists():
        pip.append(f"cert = {BUNDLE}")
        shutil.copy(BUNDLE, scratch / "bundle.crt")
        options += ["--volume", f"{scratch / 'bundle.crt'}:{BUNDLE}:ro"]
    for text, name, place in ((pip, "pip.conf", PIP_FILE), (uv, "uv.toml", UV_FILE)):
        (scratch / name).write_text("\n".join(text) + "\n", encoding="utf-8")
        options += ["--volume", f"{scratch / name}:{place}:ro"]
    return tuple(options)
