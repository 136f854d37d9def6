"""Puts synthetic variants into a store: artifacts that take the time that they declare.

Called by ``entry``. For trying plans, scale and failures without a model; whatever runs them is
called synthetic. Equal arguments give equal digests, so that a ModelVariant can be written first.
"""

import argparse
from typing import Final

from isochrone.catalog import Datatype, Precision, TensorSpec
from isochrone.errors import ManifestError
from isochrone.units import Nanoseconds, parse_bytes, parse_duration
from isochrone_executor.backends.synthetic import make_synthetic_artifact

_TENSOR_PARTS: Final = 3


def add_synthetic_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what describes a synthetic variant to ``parser``."""
    parser.add_argument("--name", required=True, metavar="NAMESPACE/MODEL", help="its Model")
    parser.add_argument(
        "--times", required=True, metavar="SIZE:TIME,…", help="time by batch size: 1:5ms,2:8ms"
    )
    parser.add_argument("--load", default="10ms", metavar="TIME", help="time to load (%(default)s)")
    parser.add_argument("--architecture", default="synthetic", metavar="NAME")
    parser.add_argument(
        "--precision", default="fp32", choices=[precision.value for precision in Precision]
    )
    for side, default in (("input", "input:FP32:4"), ("output", "output:FP32:4")):
        parser.add_argument(
            f"--{side}",
            action="append",
            metavar="NAME:TYPE:SIZE,…",
            help=f"an {side} tensor, its rows left out; may be repeated ({default})",
        )
    parser.add_argument("--noise", type=float, default=0.0, metavar="SIGMA", help="0 to 1")
    parser.add_argument("--weights", default="1Mi", metavar="SIZE", help="memory while loaded")


def put_synthetic(given: argparse.Namespace) -> str:
    """Put the variant that ``given`` describes into its store; return its digest.

    Raises ``ManifestError`` where a description cannot be read, ``ArtifactError`` where it
    contradicts itself.
    """
    try:
        return make_synthetic_artifact(
            given.store,
            model=given.name,
            inputs=[_tensor(text) for text in given.input or ["input:FP32:4"]],
            outputs=[_tensor(text) for text in given.output or ["output:FP32:4"]],
            batch_ns=_times(given.times),
            load_ns=parse_duration(given.load),
            architecture=given.architecture,
            precision=Precision(given.precision),
            noise_sigma=given.noise,
            weights_bytes=parse_bytes(given.weights),
        )
    except ValueError as error:
        raise ManifestError(str(error)) from error


def _times(text: str) -> dict[int, Nanoseconds]:
    times: dict[int, Nanoseconds] = {}
    for part in text.split(","):
        size, colon, duration = part.partition(":")
        if not colon or not size.isascii() or not size.isdigit() or int(size) in times:
            message = f'--times {text}: write each batch size once with its time, as "1:5ms,2:8ms"'
            raise ManifestError(message)
        times[int(size)] = parse_duration(duration)
    return times


def _tensor(text: str) -> TensorSpec:
    parts = text.split(":")
    if len(parts) != _TENSOR_PARTS or parts[1] not in {datatype.value for datatype in Datatype}:
        message = f'{text}: write a tensor as "scores:FP32:10"; its rows are left out'
        raise ManifestError(message)
    name, datatype, sizes = parts
    shape = tuple(int(size) for size in sizes.split(",") if size)
    return TensorSpec(name=name, datatype=Datatype(datatype), shape=(-1, *shape))
