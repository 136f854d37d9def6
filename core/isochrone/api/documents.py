"""YAML text → plain values with the line of each: strict where YAML readers disagree.

What one reader takes for a word and another for a boolean or an octal number is refused, and so are
duplicate keys, tags, merge keys and empty values: a manifest must mean the same here and in a
cluster. Called by ``isochrone.api.manifests`` alone.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import yaml

from isochrone.errors import ManifestError

Place = tuple[str | int, ...]
"""Keys and indices that lead from the top of a document to a value."""

SOURCE_CHARACTERS_MAX: Final = 4 * 1024 * 1024
"""Longest text that is read: more than any set of manifests that people write."""
DOCUMENT_NODES_MAX: Final = 100_000
"""Values of one document with every alias written out: aliases cannot blow a file up."""
DEPTH_MAX: Final = 40
"""Deepest nesting: twice what any kind has."""

_TAG: Final = "tag:yaml.org,2002:"
_PLAIN_INTEGER: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
_PLAIN_FLOAT: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})\.[0-9]{0,18}(?:[eE][-+][0-9]{1,2})?")
_TRUE_WORDS: Final = frozenset({"yes", "on"})


@dataclass(frozen=True, slots=True)
class Source:
    """The text of one file. ``path`` only appears in messages."""

    path: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestProblem:
    """One thing that is wrong: where, in which object, what, and what would be right.

    ``document`` counts from 1 within the file; 0 where the file as a whole is wrong. ``line`` counts
    from 1. ``kind``, ``name`` and ``field`` are empty where they are not known.
    """

    path: str
    document: int
    line: int
    kind: str
    name: str
    field: str
    message: str

    def __str__(self) -> str:
        """Return the problem as one line for a person."""
        place = f"document {self.document}" if self.document else ""
        thing = f"{self.kind} {self.name}".strip()
        where = ", ".join(part for part in (place, thing, self.field) if part)
        return f"{self.path}:{self.line}: {where}{': ' if where else ''}{self.message}"


class ManifestProblemsError(ManifestError):
    """Manifests cannot be used; ``problems`` holds everything that is wrong, in order."""

    def __init__(self, problems: tuple[ManifestProblem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


@dataclass(slots=True, kw_only=True)
class Document:
    """One document while it is read: its value, where its values stand, what is wrong so far."""

    path: str
    number: int
    value: object = None
    lines: dict[Place, int] = field(default_factory=dict)
    faults: list[tuple[Place, str]] = field(default_factory=list)

    def line(self, place: Place) -> int:
        """Return the line of ``place``, or of the nearest thing around it."""
        for length in range(len(place), -1, -1):
            if place[:length] in self.lines:
                return self.lines[place[:length]]
        return 1


def parse(source: Source) -> tuple[tuple[Document, ...], tuple[ManifestProblem, ...]]:
    """Return the documents of ``source``, and what makes the file unreadable from some line on.

    Empty documents are left out, yet counted. What is wrong inside a document is in its ``faults``.
    """
    if len(source.text) > SOURCE_CHARACTERS_MAX:
        message = f"{len(source.text)} characters are too many: at most {SOURCE_CHARACTERS_MAX}"
        return (), (_unreadable(source, 0, 1, message),)
    documents: list[Document] = []
    number = 0
    try:
        for number, node in enumerate(_nodes(source.text), start=1):
            document = Document(path=source.path, number=number)
            document.lines[()] = node.start_mark.line + 1
            document.value = _Reader(document).value(node, ())
            if document.value is not None:
                documents.append(document)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = "; ".join(part for part in (error.context, error.problem) if part)
        if mark is not None and source.text[mark.index : mark.index + 1] == "\t":
            message = "a tab stands where a line is indented: indent it with spaces"
        problem = _unreadable(
            source, number + 1, mark.line + 1 if mark else 1, f"no YAML: {message}"
        )
        return tuple(documents), (problem,)
    except yaml.reader.ReaderError as error:
        line = source.text.count("\n", 0, error.position) + 1
        message = f"no YAML: the character U+{ord(source.text[error.position]):04X} is not allowed"
        return tuple(documents), (_unreadable(source, number + 1, line, message),)
    except RecursionError:
        message = f"nested too deeply: at most {DEPTH_MAX} levels"
        return tuple(documents), (_unreadable(source, number + 1, 1, message),)
    return tuple(documents), ()


def _nodes(text: str) -> Iterator[yaml.Node]:
    yield from yaml.compose_all(text, Loader=yaml.SafeLoader)


def _unreadable(source: Source, document: int, line: int, message: str) -> ManifestProblem:
    return ManifestProblem(
        path=source.path, document=document, line=line, kind="", name="", field="", message=message
    )


class _Reader:
    """Turns the nodes of one document into values, and notes lines and faults on the way."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._nodes_read = 0

    def value(self, node: yaml.Node, place: Place) -> object:
        """Return what ``node`` stands for."""
        self._nodes_read += 1
        if self._nodes_read == DOCUMENT_NODES_MAX:
            self._fault(place, f"more than {DOCUMENT_NODES_MAX} values in one document")
        if len(place) == DEPTH_MAX:
            self._fault(place, f"nested too deeply: at most {DEPTH_MAX} levels")
        if self._nodes_read >= DOCUMENT_NODES_MAX or len(place) >= DEPTH_MAX:
            return ""
        match node:
            case yaml.MappingNode():
                return self._mapping(node, place)
            case yaml.SequenceNode():
                return self._sequence(node, place)
            case _:
                return self._scalar(node, place)

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, object]:
        self._expect_tag(node, "map", place)
        values: dict[str, object] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node, place)
            if key is None:
                continue
            here = (*place, key)
            line = key_node.start_mark.line + 1
            if key in values:
                self._fault(here, f"`{key}` stands twice (also on line {line}): keep one")
                continue
            self._document.lines[here] = line
            values[key] = self.value(value_node, here)
            self._refuse_null(values[key], here)
        return values

    def _key(self, node: yaml.Node, place: Place) -> str | None:
        if node.tag == f"{_TAG}merge":
            self._fault(place, "merge keys (<<) are not read: write the fields out")
            return None
        key = self._scalar(node, place) if isinstance(node, yaml.ScalarNode) else None
        if not isinstance(key, str):
            self._fault(place, f"the key on line {node.start_mark.line + 1} must be text in quotes")
            return None
        return key

    def _sequence(self, node: yaml.SequenceNode, place: Place) -> list[object]:
        self._expect_tag(node, "seq", place)
        items: list[object] = []
        for index, item_node in enumerate(node.value):
            here = (*place, index)
            self._document.lines[here] = item_node.start_mark.line + 1
            items.append(self.value(item_node, here))
            self._refuse_null(items[-1], here)
        return items

    def _scalar(self, node: yaml.Node, place: Place) -> object:
        text = str(node.value)
        match node.tag.removeprefix(_TAG):
            case "str" | "timestamp" | "value":
                return text
            case "null":
                return None
            case "bool" if text.lower() in {"true", "false"}:
                return text.lower() == "true"
            case "bool":
                meant = "true" if text.lower() in _TRUE_WORDS else "false"
                self._fault(
                    place,
                    f"{text} is a word to some YAML readers and {meant} to others: "
                    f'write {meant}, or "{text}" in quotes',
                )
            case "int" if _PLAIN_INTEGER.fullmatch(text):
                return int(text)
            case "float" if _PLAIN_FLOAT.fullmatch(text):
                return float(text)
            case "int" | "float":
                self._fault(
                    place,
                    f"{text[:40]} is not the same number to every YAML reader: "
                    "write it in plain decimal digits, or in quotes if it is text",
                )
            case _:
                self._fault(place, f"the tag {node.tag} is not read: write a plain value")
        return text

    def _expect_tag(self, node: yaml.Node, kind: str, place: Place) -> None:
        if node.tag != f"{_TAG}{kind}":
            self._fault(place, f"the tag {node.tag} is not read: write a plain value")

    def _refuse_null(self, value: object, place: Place) -> None:
        if value is None:
            self._fault(place, "no value is given: write one ({} for an empty block), or remove it")

    def _fault(self, place: Place, message: str) -> None:
        self._document.faults.append((place, message))
