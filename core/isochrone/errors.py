"""The error tree: what went wrong, whose fault it is, and whether trying again helps.

::

    IsochroneError
     ├─ ManifestError      the user's      a manifest is wrong; mend it            no retry
     ├─ ArtifactError      the user's      a model file is wrong, or refused       no retry
     ├─ RequestError       the client's    a request is wrong; the reply says how  no retry
     ├─ ProtocolError      the peer's      a frame breaks the link's rules         reconnect
     ├─ CapacityError      nobody's        a named bound is reached                later
     └─ SetupError         the machine's   a program, package or device is absent  after mending

A broken *promise of ours* is an ``AssertionError``, never one of these: it is a defect.
"""

from typing import Final

import msgspec

UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""All that msgspec raises for bytes that are no document of the wanted type: not UTF-8, and nested too deeply,
have errors of their own."""


class IsochroneError(Exception):
    """Base of every error that Isochrone raises on purpose; the message is for a person."""


class ManifestError(IsochroneError):
    """A manifest, or what it refers to, cannot be used as it stands."""


class ArtifactError(IsochroneError):
    """A model artifact is broken, does not match its digest or signature, or is unsafe to open."""


class RequestError(IsochroneError):
    """A client's request is malformed or does not fit the model that it names."""


class ProtocolError(IsochroneError):
    """A peer inside the cell sent what the protocol does not allow; the link is closed."""


class CapacityError(IsochroneError):
    """A named bound of ours (queue, memory, connections) is reached."""


class SetupError(IsochroneError):
    """The machine lacks what the command needs; the message says what to install or change."""
