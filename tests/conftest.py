"""For all tests: programs that they start can be interrupted.

A shell starts its background jobs with SIGINT ignored, and whatever those start inherits that.
"""

import signal


def pytest_configure() -> None:
    """Have SIGINT interrupt this process, and so what it starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
