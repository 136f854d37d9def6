"""What one part of the cluster should look like, as a value. Made here, merged by ``reconcile``."""

from dataclasses import dataclass

from isochrone_operator.reconciliation import LeafOrder, Manifest, ScaleOrder


@dataclass(frozen=True, slots=True, kw_only=True)
class Children:
    """Objects to apply, in the order in which they should be; certificates to issue; scales to set.

    ``desired`` holds only fields that the operator owns. What an object bears our label and is in
    nobody's ``desired`` is surplus.
    """

    desired: tuple[Manifest, ...] = ()
    leaves: tuple[LeafOrder, ...] = ()
    scales: tuple[ScaleOrder, ...] = ()
