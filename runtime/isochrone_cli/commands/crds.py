"""``isochrone crds``: the custom resource definitions, printed, written or checked for drift."""

import argparse
import sys
from pathlib import Path

from isochrone.api.crds import render
from isochrone.errors import SetupError
from isochrone_cli.console import progress, sayer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--write", metavar="DIR", type=Path, help="write a file per kind to DIR")
    where.add_argument(
        "--check", metavar="DIR", type=Path, help="fail when DIR holds anything else"
    )


def run(options: argparse.Namespace) -> int:
    """Print, write or check the definitions."""
    files = render()
    if options.write:
        options.write.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (options.write / name).write_text(text, encoding="utf-8")
        return 0
    if options.check:
        return _check(options.check, files)
    sys.stdout.write("---\n".join(text for _, text in sorted(files.items())))
    return 0


def _check(folder: Path, files: dict[str, str]) -> int:
    if not folder.is_dir():
        raise SetupError(f"--check {folder}: there is no such folder")
    there = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.yaml"))}
    drifted = sorted(name for name in {**files, **there} if files.get(name) != there.get(name))
    say = sayer(progress())
    for name in drifted:
        say(f"{folder / name}: differs from the API models; run `isochrone crds --write {folder}`")
    return 1 if drifted else 0
