"""Which namespaces a selector selects. Namespaces come as a mapping from name to labels."""

from collections.abc import Mapping
from typing import Final

from isochrone.api.common import LabelSelector
from isochrone.ids import Namespace

NamespaceLabels = Mapping[str, Mapping[str, str]]
"""Labels by namespace: one entry for every namespace there is, even one without labels."""

NAMESPACE_NAME_LABEL: Final = "kubernetes.io/metadata.name"
"""The label that every namespace has in any cluster: its name. It need not be passed in."""


def selected(selector: LabelSelector, namespaces: NamespaceLabels) -> tuple[Namespace, ...]:
    """Return the namespaces that ``selector`` selects, sorted."""
    return tuple(
        Namespace(name)
        for name in sorted(namespaces)
        if selector.matches({**namespaces[name], NAMESPACE_NAME_LABEL: name})
    )
