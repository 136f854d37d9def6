"""Compiles the hot path into the wheel: the same sources, through mypyc.

Called by hatchling for a wheel when ``HATCH_BUILD_HOOKS_ENABLE`` is set (releases, images, ``make
compiled``); without it, and for editable installs, the wheel is pure Python. What is compiled is
said in ``pyproject.toml``; nothing is written beside the sources.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_SETUP = """
import sys
from mypyc.build import mypycify
from setuptools import setup
sources, target = sys.argv.pop().split(","), sys.argv.pop()
setup(name="isochrone", packages=[], ext_modules=mypycify(sources, opt_level="3", debug_level="0",
      target_dir=target))
"""


class CompiledHook(BuildHookInterface):  # type: ignore[type-arg,misc,unused-ignore]
    """Adds one extension module for each source file named, beside that file."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and have the wheel take what came out of it. Raises when mypyc does."""
        if version == "editable":
            return
        sources = self._sources()
        self._folder = Path(tempfile.mkdtemp(prefix="isochrone-mypyc-"))
        library = self._folder / "library"
        command = [sys.executable, "-c", _SETUP, "build_ext", "--build-lib", str(library)]
        command += ["--build-temp", str(self._folder / "objects"), str(self._folder / "c")]
        done = subprocess.run(
            [*command, ",".join(sources)],
            cwd=self.root,
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, "MYPYPATH": os.pathsep.join(self.config["roots"])},
        )
        if done.returncode:
            message = f"mypyc cannot compile this:\n{done.stdout}{done.stderr}"
            raise RuntimeError(message)
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        for path in sorted(library.rglob("*.so")):
            build_data["force_include"][str(path)] = str(path.relative_to(library))

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Forget what was compiled: the wheel holds it."""
        del version, build_data, artifact_path
        if hasattr(self, "_folder"):
            shutil.rmtree(self._folder)

    def _sources(self) -> list[str]:
        """Return the files to compile, as paths from the project's root."""
        root = Path(self.root)
        interpreted = {root / path for path in self.config["interpreted"]}
        found: list[str] = []
        for given in self.config["compiled"]:
            paths = (
                sorted((root / given).rglob("*.py")) if (root / given).is_dir() else [root / given]
            )
            for path in paths:
                if not path.is_file():
                    message = f"pyproject.toml names {given} to be compiled: there is no such file"
                    raise FileNotFoundError(message)
                if path not in interpreted and path.name != "__init__.py":
                    found.append(str(path.relative_to(root)))
        return found
