"""A variant that was built on another machine: by the builder's own command, in a store of its own.

Called by the tests of variants that people bring themselves.
"""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

from isochrone.api.model import Model
from isochrone.build_document import BuildReport, decode, encode, result_in
from isochrone.catalog import Variant
from isochrone_cluster.failures import ClusterError, run
from isochrone_e2e.grounds import STORES
from isochrone_e2e.manifests import Manifest
from isochrone_operator.jobs.requests import build_request

STORE: Final = STORES / "elsewhere"
"""Kept between runs: a variant is made once."""
BUILD_S: Final = 300.0


def built_elsewhere(model: Manifest, claims: Path) -> Variant:
    """Return the one variant that ``model`` asks for, with its accuracy as it was measured there.

    ``claims`` holds a folder for each claim that the Model names. Raises ``ClusterError`` when there is
    not one variant, or it cannot be made.
    """
    request, _ = build_request(Model.read(model))
    STORE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "request.json"
        file.write_bytes(encode(request))
        command = [sys.executable, "-m", "isochrone_builder", "build", "--request", str(file)]
        where = ["--store", str(STORE), "--sources", str(claims)]
        said = run([*command, *where], timeout_s=BUILD_S)
    report = decode(result_in(said) or "", BuildReport)
    if report.failures or len(report.variants) != 1:
        raise ClusterError(f"built elsewhere: not one variant, but {report}")
    return report.variants[0]


def bring(variant: Variant, store: Path) -> None:
    """Copy the folder of ``variant`` into the artifact store ``store``, as a person would."""
    folder, digest = store / "variants", variant.artifact.sha256
    folder.mkdir(parents=True)
    folder.chmod(0o777)  # as the store: the builder's Jobs put theirs beside it
    shutil.copytree(STORE / "variants" / digest, folder / digest)
