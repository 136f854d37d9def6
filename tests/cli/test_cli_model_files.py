"""A Model that names a file that is not there: what is said, and when nothing is said."""

from pathlib import Path

import pytest

from isochrone.errors import ManifestError
from isochrone_cli.inputs import read_buildable, read_manifests

ROOT = Path(__file__).parents[2]
DIGITS = (ROOT / "examples/digits/digits.yaml").read_text(encoding="utf-8")
FILES = ("digits.safetensors", "linear.pt2", "perceptron.pt2")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(folder: Path, *names: str) -> None:
    (folder / "build/digits").mkdir(parents=True)
    for name in names:
        (folder / "build/digits" / name).write_bytes(b"something")


def test_each_missing_file_is_named_with_its_place_and_the_command_that_makes_it(
    here: Path,
) -> None:
    make(here, "linear.pt2")
    manifest = ROOT / "examples/digits/digits.yaml"

    with pytest.raises(ManifestError) as raised:
        read_buildable([str(manifest)])

    place = f"in {here}, where this command runs"
    remedy = f"run `python {ROOT}/examples/digits/make_models.py` here first"
    for line, (number, field, name) in zip(
        str(raised.value).splitlines(),
        (
            (11, "spec.accuracy.validationSet.uri", "digits.safetensors"),
            (16, "spec.architectures[1].artifact.uri", "perceptron.pt2"),
        ),
        strict=True,
    ):
        assert line.startswith(f"{manifest}:{number}: document 1, Model digits, {field}: ")
        assert f"there is no file build/digits/{name} {place}; {remedy}" in line


def test_the_example_is_called_as_its_guide_calls_it(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(here)

    with pytest.raises(ManifestError, match=r"run `python examples/digits/make_models\.py` here"):
        read_buildable(["examples/digits"])


def test_a_manifest_of_ones_own_is_told_where_the_file_should_be(here: Path) -> None:
    path = here / "mine.yaml"
    path.write_text(
        f"---\n{DIGITS}".replace("file:build/digits/linear.pt2", "file:///models/linear.pt2"),
        encoding="utf-8",
    )
    make(here, "digits.safetensors", "perceptron.pt2")

    with pytest.raises(ManifestError) as raised:
        read_buildable([str(path)])

    assert str(raised.value).endswith(
        "spec.architectures[0].artifact.uri: there is no file ///models/linear.pt2; put the file "
        "there, or mend the path (docs/add-a-model.md says what it holds)"
    )


def test_files_that_are_there_and_other_places_are_no_complaint(here: Path) -> None:
    path = here / "mine.yaml"
    path.write_text(
        DIGITS.replace("file:build/digits/linear.pt2", "s3://models/linear.pt2"), encoding="utf-8"
    )
    make(here, "digits.safetensors", "perceptron.pt2")

    assert read_buildable([str(path)]) == read_manifests([str(path)])


def test_other_mistakes_are_said_before_files_are_looked_for(here: Path) -> None:
    path = here / "mine.yaml"
    path.write_text(DIGITS.replace("accuracyFloor", "acuracyFloor"), encoding="utf-8")

    with pytest.raises(ManifestError, match="acuracyFloor") as raised:
        read_buildable([str(path)])

    assert "there is no file" not in str(raised.value)
