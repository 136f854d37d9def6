"""``python -m isochrone_operator.agent``: the agent's program."""

import sys

from isochrone_operator.agent.main import main

if __name__ == "__main__":
    sys.exit(main())
