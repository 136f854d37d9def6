"""A histogram of durations whose buckets are at most 1/64 wide: a quantile is off by at most 0.8 %.

Counts by bucket, in a plain dictionary. Used by ``observed`` and ``execution_times``.
"""

from typing import Final

from isochrone.units import ONE_PPM, Nanoseconds, PartsPerMillion

QUANTILE_SAMPLES: Final = 10
"""A quantile p is given from this many samples over 1 - p; below, it is anybody's guess."""
_MANTISSA_BITS: Final = 6


def bucket_of(value: Nanoseconds) -> int:
    """Return the number of the bucket of ``value``: exact below 128, then 64 to each doubling."""
    shift = max(0, value.bit_length() - 1 - _MANTISSA_BITS)
    return (shift << _MANTISSA_BITS) + (value >> shift)


def middle_of(bucket: int) -> Nanoseconds:
    """Return the middle of a bucket."""
    shift = max(0, (bucket >> _MANTISSA_BITS) - 1)
    low = (bucket - (shift << _MANTISSA_BITS)) << shift
    return low + (1 << shift) // 2


def quantile(latencies: dict[int, int], share_ppm: PartsPerMillion) -> Nanoseconds | None:
    """Return the quantile by nearest rank, None where there are too few samples for it."""
    samples = sum(latencies.values())
    if samples * (ONE_PPM - share_ppm) < QUANTILE_SAMPLES * ONE_PPM:
        return None
    rank = -(-samples * share_ppm // ONE_PPM)
    reached = 0
    for bucket in sorted(latencies):
        reached += latencies[bucket]
        if reached >= rank:
            return middle_of(bucket)
    raise AssertionError(rank)
