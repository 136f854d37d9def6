"""The custom resources of group ``isochrone.dev`` as typed models, and the CRDs made from them.

``schema`` and ``resource`` say how a kind is declared, ``common`` what kinds share; one module per
kind; ``kinds`` is their table. ``crds`` makes the CRDs, ``manifests`` reads files' texts, and
``convert`` goes from objects to domain values and back.
"""
