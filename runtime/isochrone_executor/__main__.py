"""Runs the executor: see ``main``."""

import sys

from isochrone_executor.main import main

sys.exit(main())
