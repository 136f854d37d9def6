"""The example's own models: they export, import, build, and know a cat when they see one."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from isochrone.catalog import AccuracyMetric, BackendName, Datatype, Precision, TensorSpec
from isochrone_builder.build import build_model
from isochrone_builder.request import ArchitectureRequest, BuildRequest
from isochrone_executor.artifacts import read_manifest
from isochrone_executor.backends.registry import open_backend

EXAMPLE = Path(__file__).parents[2] / "examples" / "photo-tags" / "make_models.py"


def _example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("photo_tags_make_models", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_lite0_calls_the_cat_a_cat_on_both_backends(tmp_path: Path) -> None:
    categories = pytest.importorskip("torchvision.models._meta")._IMAGENET_CATEGORIES
    photos = pytest.importorskip("skimage.data")
    example = _example()
    example.export_tagger(example.load_tagger(0), tmp_path / "lite0.pt2")
    request = BuildRequest(
        namespace="default",
        name="photo-tags",
        task="image-classification",
        metric=AccuracyMetric.TOP1,
        inputs=(TensorSpec(name="image", datatype=Datatype.UINT8, shape=(-1, 260, 260, 3)),),
        outputs=(TensorSpec(name="scores", datatype=Datatype.FP32, shape=(-1, 1000)),),
        validation_uri=None,
        architectures=(
            ArchitectureRequest(
                name="efficientnet-lite0",
                uri=f"file:{tmp_path / 'lite0.pt2'}",
                format="torch-export",
                sha256=None,
                accuracy_ppm=751_000,
            ),
        ),
        precisions=(Precision.FP32,),
        backends=(BackendName.TORCH, BackendName.OPENVINO),
        batch_sizes=(1, 2),
    )
    report = build_model(request, tmp_path / "store", lambda _: None, threads=1)
    assert report.failures == ()
    image = np.ascontiguousarray(photos.chelsea()[20:280, 100:360])
    for variant in report.variants:
        manifest, directory = read_manifest(tmp_path / "store", variant.artifact.sha256)
        backend = open_backend(manifest.backend)
        loaded = backend.load(manifest, directory, threads=1, batch_sizes=(1,))
        loaded.inputs(1)[0][:] = image.tobytes()
        loaded.run(1)
        scores = np.frombuffer(bytes(loaded.outputs(1)[0]), dtype=np.float32)
        loaded.close()
        assert "cat" in categories[int(scores.argmax())]
        assert scores.sum() == pytest.approx(1.0, abs=1e-4)


def test_crops_are_the_same_at_every_draw_and_the_parts_share_no_photograph() -> None:
    example = _example()
    photos = example.VALIDATION_PHOTOS[:2]
    one, two = (example.draw_crops(photos, 3, np.random.default_rng(5)) for _ in range(2))
    assert one.shape == (3, 260, 260, 3)
    assert np.array_equal(one, two)
    assert not set(example.VALIDATION_PHOTOS) & set(example.CALIBRATION_PHOTOS)
