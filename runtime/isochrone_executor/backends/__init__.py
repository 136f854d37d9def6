"""Engines that run a variant, one file each, behind one port.

``port`` says what a backend must offer, ``contract`` checks that it does, ``registry`` opens one
by name. No backend is imported before a variant needs it.
"""

import os

# OpenVINO, as soon as it is imported, and NNCF report their use to their makers, except in what they take
# for CI; so does ONNX Runtime, with names and hashes of models. Nothing that is run or built here is told to
# anybody. They read this when they are first imported.
os.environ |= {"CI": "true", "ORT_DISABLE_TELEMETRY": "1"}
