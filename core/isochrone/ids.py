"""Names of things, as new-types, so that a service is never passed where a variant is meant.

Identities of namespaced objects are ``namespace/name``; cluster-scoped ones are the bare name.
"""

from typing import NewType

Namespace = NewType("Namespace", str)
ModelId = NewType("ModelId", str)
"""``namespace/name`` of a Model."""
VariantId = NewType("VariantId", str)
"""``namespace/name`` of a ModelVariant."""
ServiceId = NewType("ServiceId", str)
"""``namespace/name`` of an InferenceService."""
PoolId = NewType("PoolId", str)
"""Name of an AcceleratorPool."""
HostId = NewType("HostId", str)
"""Name of one machine that several local pools share."""
GroupId = NewType("GroupId", str)
"""Name of a worker group: unique in a plan."""
WorkerId = NewType("WorkerId", str)
"""Name of one executor."""
RequestId = NewType("RequestId", int)
"""Number of a request, unique in one gateway's life, in order of arrival."""
ActionId = NewType("ActionId", int)
"""Number of an action, unique in one scheduler's life, in order of issue."""


def qualify(namespace: str, name: str) -> str:
    """Return the identity of the object ``name`` in ``namespace``."""
    return f"{namespace}/{name}"


def split_qualified(identity: str) -> tuple[Namespace, str]:
    """Return the namespace and the name of ``identity``.

    Raises ``ValueError`` when ``identity`` is not ``namespace/name``.
    """
    namespace, separator, name = identity.partition("/")
    if not (namespace and separator and name) or "/" in name:
        message = f"{identity!r} is not namespace/name"
        raise ValueError(message)
    return Namespace(namespace), name
