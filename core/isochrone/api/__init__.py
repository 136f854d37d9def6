"""The custom resources of group ``isochrone.dev`` as typed models, and the CRDs made from them."""
