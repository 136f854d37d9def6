"""``python -m isochrone_gateway``: see ``main``."""

import sys

from isochrone_gateway.main import main

if __name__ == "__main__":
    sys.exit(main())
