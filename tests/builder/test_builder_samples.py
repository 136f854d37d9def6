"""Validation sets: what is accepted, and what is refused with its reason."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from isochrone.catalog import Datatype, TensorSpec
from isochrone.errors import ArtifactError, CapacityError, ManifestError
from isochrone_builder.records import Records, exclusive, key_of
from isochrone_builder.samples import open_samples, resolve, resolve_artifact

INPUTS = (TensorSpec(name="x", datatype=Datatype.UINT8, shape=(-1, 2)),)
ROWS = np.arange(8, dtype=np.uint8).reshape(4, 2)


def _write(folder: Path, **tensors: NDArray[np.generic]) -> str:
    path = folder / "set.safetensors"
    save_file(
        {name.replace("__", "/"): np.ascontiguousarray(a) for name, a in tensors.items()}, path
    )
    return f"file:{path}"


def test_rows_labels_and_calibration_are_read(tmp_path: Path) -> None:
    labels = np.array([0, 1], dtype=np.int32)
    uri = _write(
        tmp_path, validation__x=ROWS[:2], calibration__x=ROWS[2:], validation__label=labels
    )
    samples = open_samples(uri, INPUTS)
    assert samples.count == 2
    assert samples.labels is not None
    assert samples.labels.tolist() == [0, 1]
    assert samples.calibration is not None
    assert samples.calibration[0].tolist() == [[4, 5], [6, 7]]


def test_a_row_in_both_parts_is_refused(tmp_path: Path) -> None:
    uri = _write(tmp_path, validation__x=ROWS, calibration__x=ROWS[3:])
    with pytest.raises(ArtifactError, match="disjoint"):
        open_samples(uri, INPUTS)


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ({"other": ROWS}, "lacks validation/x"),
        ({"validation__x": ROWS.astype(np.float32)}, "the model takes uint8"),
        ({"validation__x": ROWS[:, :1]}, "the model takes uint8"),
        ({"validation__x": ROWS, "validation__label": ROWS[:2, 0]}, "one for each row"),
        (
            {"validation__x": ROWS, "validation__label": np.zeros(4, dtype=np.bool_)},
            "must be numbers",
        ),
    ],
)
def test_a_set_that_does_not_fit_the_model_is_refused(
    tmp_path: Path, tensors: dict[str, NDArray[np.generic]], match: str
) -> None:
    with pytest.raises(ArtifactError, match=match):
        open_samples(_write(tmp_path, **tensors), INPUTS)


def test_a_set_of_pickled_objects_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    np.savez(path, **{"validation/x": np.array([{"a": 1}], dtype=object)})
    with pytest.raises(ArtifactError, match="cannot be read"):
        open_samples(f"file:{path}", INPUTS)


def test_only_files_are_opened(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="only file:"):
        resolve("s3://bucket/model.pt2")
    with pytest.raises(ArtifactError, match="there is no file"):
        resolve(f"file:{tmp_path / 'absent'}")


def test_a_wrong_digest_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"weights")
    with pytest.raises(ArtifactError, match="as the manifest says"):
        resolve_artifact(f"file:{path}", "0" * 64)


def test_records_survive_and_half_written_ones_count_for_nothing(tmp_path: Path) -> None:
    records, key = Records(tmp_path), key_of(a=1, b=[2])
    assert key == key_of(b=[2], a=1)
    assert records.read("kind", key) is None
    records.write("kind", key, {"x": 1})
    assert Records(tmp_path).read("kind", key) == {"x": 1}
    records.path("kind", key).write_bytes(b'{"x":')
    assert records.read("kind", key) is None


def test_a_second_builder_waits_and_then_says_who_is_in_the_way(tmp_path: Path) -> None:
    with exclusive(tmp_path), pytest.raises(CapacityError, match="another builder"):  # noqa: SIM117
        with exclusive(tmp_path, wait_s=0.3):
            pass
    with exclusive(tmp_path, wait_s=0.0):
        pass
