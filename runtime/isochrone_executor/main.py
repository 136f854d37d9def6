"""The executor program: ``python -m isochrone_executor``.

Called by the command line in local mode, and as a pod's entry point. Writes JSON lines to standard
error, the first of them ``listening`` with the address to dial. Exits with 0 when it was told to
stop, 1 when it cannot start (``cannot_start`` says why), 2 when the command line is wrong, and 70
(``EX_SOFTWARE``) after a defect of its own, which ``defect`` describes.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Final

from isochrone.errors import SetupError
from isochrone.units import MIB
from isochrone_executor import predictability
from isochrone_executor.listener import Listener
from isochrone_executor.loop import Loop
from isochrone_executor.settings import Settings, parse_settings
from isochrone_process import steady
from isochrone_process.log import Log

KEPT_BYTES: Final = 1024 * MIB
"""Freed memory that stays this process's: outputs and scratch of the next inference come from it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one executor until it is told to stop; return the process's exit status."""
    settings = parse_settings(sys.argv[1:] if arguments is None else arguments)
    log = Log(worker=settings.worker)
    try:
        _prepare(settings, log)
        with Listener(settings.listen) as listener:
            loop = Loop(settings, listener, log)
            loop.run()
    except SetupError as error:
        log.fault("cannot_start", reason=str(error))
        return 1
    except Exception as error:  # noqa: BLE001  whatever is not foreseen is a defect: say so and end
        log.fault("defect", detail="".join(traceback.format_exception(error)))
        # Not by way of the interpreter's end, which an engine that still loads would not bear.
        os._exit(os.EX_SOFTWARE)
    log.info("stopped")
    if loop.is_loading:
        # A load that outlived its time cannot be stopped, and engines do not bear being torn down
        # under one; the sockets are closed already.
        os._exit(0)
    return 0


def _prepare(settings: Settings, log: Log) -> None:
    """Settle everything that must be settled before an engine is imported."""
    if settings.die_with_parent:
        steady.die_with_parent()
    predictability.limit_threads(settings.cores.threads)
    predictability.pin(settings.cores.numbers)
    steady.steady_memory(log, kept_bytes=KEPT_BYTES)
    steady.steady_timers(log)
    predictability.steady_interpreter()
