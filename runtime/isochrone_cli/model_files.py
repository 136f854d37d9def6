"""The files that Models name by ``file:`` URIs: which are not there, and what to do about it.

Called by ``inputs`` before anything is built, so that a forgotten step is said at once, for every
file, with its place in the manifest. Other URIs are left to the builder.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from isochrone.api.complaints import spell
from isochrone.api.documents import ManifestProblem, Place, Source, parse
from isochrone.api.model import Model
from isochrone.errors import ArtifactError
from isochrone_builder.samples import resolve

MAKER: Final = "make_models.py"
"""What each example calls the program, beside its manifests, that makes its models."""

_FILE: Final = "file:"


def missing_files(sources: Iterable[Source]) -> tuple[ManifestProblem, ...]:
    """Return a problem for each file that a Model names and that is not there, in order.

    There must be no other mistake in ``sources``: ``isochrone.api.manifests.load`` has taken them.
    """
    problems: list[ManifestProblem] = []
    for source in sources:
        documents, _ = parse(source)
        for document in documents:
            assert isinstance(document.value, dict)
            if document.value["kind"] != Model.definition.kind:
                continue
            model = Model.read(document.value)
            problems += [
                ManifestProblem(
                    path=source.path,
                    document=document.number,
                    line=document.line(place),
                    kind=model.kind,
                    name=model.metadata.name,
                    field=spell(place),
                    message=_advice(uri, source.path),
                )
                for place, uri in _uris(model)
                if uri.startswith(_FILE) and not _is_there(uri)
            ]
    return tuple(problems)


def _uris(model: Model) -> Iterator[tuple[Place, str]]:
    """Yield what ``model`` is made of, in the order of its fields, and where each is named."""
    validation = model.spec.accuracy.validation_set
    if validation is not None:
        yield ("spec", "accuracy", "validationSet", "uri"), validation.uri
    for index, architecture in enumerate(model.spec.architectures):
        yield ("spec", "architectures", index, "artifact", "uri"), architecture.artifact.uri


def _is_there(uri: str) -> bool:
    try:
        resolve(uri)
    except ArtifactError:
        return False
    return True


def _advice(uri: str, manifest: str) -> str:
    where = "" if uri.startswith(f"{_FILE}/") else f" in {Path.cwd()}, where this command runs"
    maker = Path(manifest).parent / MAKER
    if maker.is_file():
        remedy = f"run `python {maker}` here first: it makes what this example needs"
    else:
        remedy = "put the file there, or mend the path (docs/add-a-model.md says what it holds)"
    return f"there is no file {uri.removeprefix(_FILE)}{where}; {remedy}"
