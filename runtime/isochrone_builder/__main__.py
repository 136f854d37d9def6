"""``python -m isochrone_builder``: what a builder's pod runs."""

import sys

from isochrone_builder.entry import main

sys.exit(main(sys.argv[1:]))
