"""Batch times of five recommendation models on four instance types, reduced to fitted curves.

Called by ``kairos_world``. Source: the measurements published with Li et al., "KAIROS: Building
Cost-Efficient Machine Learning Inference Systems with Heterogeneous Cloud Resources" (HPDC 2023),
an MIT-licensed data set: time to load and run batches of 10, 20, …, 1000 rows, 99 samples each.
Here each curve is a broken line through nine batch sizes, fitted to the 100 means by least squares
of the relative error, which is at most 2 % at half of the batch sizes of any curve (t3: 3 %), and
12 % at the worst; and one ratio of p99 to median, the median over the batch sizes.
"""

from dataclasses import dataclass
from typing import Final

from isochrone.ids import PoolId
from isochrone.units import MILLISECOND, Nanoseconds

G4DN, C5N, R5N, T3 = (
    PoolId(name) for name in ("g4dn.xlarge", "c5n.2xlarge", "r5n.large", "t3.xlarge")
)
TYPES: Final = (G4DN, C5N, R5N, T3)
"""Instance types, in the order in which KAIROS writes a pool; the first one is the base type."""

ROWS: Final = (10, 50, 100, 200, 300, 400, 600, 800, 1000)
"""Batch sizes at which the curves bend."""

STEP: Final = 10
"""Batches are rounded up to whole steps."""

TARGETS_MS: Final = {"rm2": 350, "ncf": 5, "wnd": 25, "mtwnd": 25, "dien": 35}
"""What the 99th percentile of latency must keep to (section 8.1)."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Mean milliseconds at ``ROWS``, and p99 over median."""

    means_ms: tuple[float, ...]
    p99_ratio: float

    def mean_ns(self, rows: int) -> Nanoseconds:
        """Return the mean time of a batch of ``rows``, from 10 to 1000."""
        place = next(it for it in range(1, len(ROWS)) if rows <= ROWS[it])
        begin, end = ROWS[place - 1], ROWS[place]
        low, high = self.means_ms[place - 1], self.means_ms[place]
        return round((low + (high - low) * (rows - begin) / (end - begin)) * MILLISECOND)


CURVES: Final = {
    ("dien", G4DN): Curve((6.42, 7.2, 7.8, 8.96, 10.2, 11.9, 13.6, 17, 18.4), 1.019),
    ("dien", C5N): Curve((2.5, 4.96, 8.24, 15.3, 23, 31.4, 45.9, 61.9, 76.8), 1.013),
    ("dien", R5N): Curve((3.05, 5.79, 9.49, 17.3, 24.9, 33, 49.4, 66, 84), 1.034),
    ("dien", T3): Curve((5.61, 11.5, 18.4, 33, 46.4, 59.9, 84.8, 110, 130), 1.688),
    ("mtwnd", G4DN): Curve((3.65, 4.04, 4.56, 5.53, 6.46, 7.66, 9.57, 11.7, 13.7), 1.022),
    ("mtwnd", C5N): Curve((2.42, 3.53, 5.63, 9.55, 13.6, 18.4, 26.5, 35.3, 45.5), 1.046),
    ("mtwnd", R5N): Curve((2.98, 4.84, 6.87, 11.7, 17.2, 21.4, 31.2, 42.6, 51.6), 1.057),
    ("mtwnd", T3): Curve((5.91, 9.39, 13.7, 23.9, 32.3, 40, 56.3, 68.1, 81), 1.750),
    ("ncf", G4DN): Curve((0.638, 0.785, 0.868, 1.06, 1.24, 1.5, 1.81, 2.15, 2.46), 1.102),
    ("ncf", C5N): Curve((0.317, 0.558, 0.816, 1.37, 1.93, 2.45, 3.44, 4.5, 6.41), 1.153),
    ("ncf", R5N): Curve((0.401, 0.673, 1.13, 1.85, 2.54, 3.25, 4.2, 5.64, 6.86), 1.107),
    ("ncf", T3): Curve((0.834, 1.2, 1.67, 2.67, 3.65, 5.2, 7.82, 10.5, 13.4), 1.977),
    ("rm2", G4DN): Curve((5.38, 15.8, 29.2, 55.4, 81.1, 107, 158, 210, 261), 1.005),
    ("rm2", C5N): Curve((4.97, 20.6, 39.2, 80, 120, 158, 235, 312, 388), 1.004),
    ("rm2", R5N): Curve((5.73, 22.6, 43, 84, 125, 165, 246, 325, 403), 1.010),
    ("rm2", T3): Curve((14.5, 55.2, 93.3, 179, 266, 355, 528, 709, 892), 1.023),
    ("wnd", G4DN): Curve((2.44, 2.73, 3.07, 3.74, 4.36, 5.22, 6.5, 8.02, 9.36), 1.030),
    ("wnd", C5N): Curve((1.8, 2.63, 4.15, 7.08, 10.1, 13.6, 19.7, 26.4, 32.6), 1.060),
    ("wnd", R5N): Curve((2.13, 3.69, 5.25, 8.73, 12.2, 16.6, 24.4, 31.3, 37.7), 1.062),
    ("wnd", T3): Curve((3.88, 6.86, 10.4, 17.5, 24.5, 30.9, 43.5, 56.2, 63.2), 1.872),
}
