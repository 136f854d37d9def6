# The programs of the data plane. Two images, the second built upon the first one's layers:
#
#   light: gateway and executor, with OpenVINO, ONNX Runtime and the synthetic backend; no torch.
#   torch: the same, and torch with its CUDA libraries, and what the builder needs.
#
#   docker build --build-arg BASE=<a Debian bookworm with Python 3.11> --target light \
#     -f images/runtime.Dockerfile .
#
# BASE is any Debian bookworm with python3 3.11 and its venv module; build and final stages use the
# same, because a virtual environment points at the Python that made it. The layers, from the one that
# changes least: BASE, the light packages, torch (gigabytes: it changes with torch's pins alone), the
# builder's packages, our own wheel (megabytes).
ARG BASE

# uv at the pinned version. Only that pin reaches the next stage, so that no other pin rebuilds it.
FROM ${BASE} AS pins
COPY constraints.txt /pins/
RUN grep '^uv==' /pins/constraints.txt > /pins/uv.txt

FROM ${BASE} AS tools
COPY --from=pins /pins/uv.txt /pins/
RUN python3 -m venv /tools && /tools/bin/pip install --quiet --no-cache-dir \
    --disable-pip-version-check --requirement /pins/uv.txt
ENV PATH=/tools/bin:/usr/local/bin:/usr/bin:/bin UV_SYSTEM_CERTS=1 UV_PYTHON_DOWNLOADS=never \
    UV_LINK_MODE=copy

# What is to be installed, each version named, a list for each layer: a layer is rebuilt when its list
# changes. torch.txt and builder.txt leave out what the layers below them hold.
FROM tools AS requirements
WORKDIR /src
COPY pyproject.toml constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/uv \
    mkdir /requirements && compile="uv pip compile --quiet --no-header --no-annotate --constraint constraints.txt" \
    && $compile --extra gateway --extra executor-light pyproject.toml > /requirements/light.txt \
    && echo torch | $compile - > all-torch.txt \
    && $compile --extra gateway --extra builder pyproject.toml > all-builder.txt \
    && grep -vxFf /requirements/light.txt all-torch.txt > /requirements/torch.txt \
    && cat /requirements/light.txt all-torch.txt > lower.txt \
    && grep -vxFf lower.txt all-builder.txt > /requirements/builder.txt

# Byte code is made in these stages, once: nothing can be written where the root file system is
# read-only. OpenVINO's plugins for devices that no pool can name are left out.
FROM tools AS light-packages
COPY --from=requirements /requirements/light.txt /
RUN --mount=type=cache,target=/root/.cache/uv \
    uv venv --quiet --python "$(command -v python3)" /opt/isochrone \
    && uv pip install --quiet --no-deps --python /opt/isochrone/bin/python --requirement /light.txt \
    && cd /opt/isochrone/lib/python3.*/site-packages \
    && find . -depth -type d \( -name tests -o -name __pycache__ \) ! -path './numpy/*' -exec rm -rf {} + \
    && rm -f openvino/libs/libopenvino_intel_gpu_plugin.so openvino/libs/libopenvino_intel_npu_*.so \
    && printf '%s\n' /opt/app /opt/torch /opt/builder > image.pth \
    && /opt/isochrone/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/isochrone/lib

# torch ships files in the syntax of newer Pythons, named after them, which are left as they are.
FROM tools AS torch-packages
COPY --from=requirements /requirements/torch.txt /
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip install --quiet --no-deps --target /opt/torch --requirement /torch.txt \
    && rm -rf /opt/torch/bin /opt/torch/torch/test \
    && find /opt/torch -name '*.a' -delete \
    && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash -x '/py31[2-9]_' /opt/torch

FROM tools AS builder-packages
COPY --from=requirements /requirements/builder.txt /
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip install --quiet --no-deps --target /opt/builder --requirement /builder.txt \
    && rm -rf /opt/builder/bin \
    && find /opt/builder -depth -type d \( -name tests -o -name __pycache__ \) -exec rm -rf {} + \
    && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/builder

# Our own wheel, its hot path compiled, which takes minutes; the operator's sources are left out, so that
# they do not matter here. The compiler stays in this stage.
FROM tools AS compiler
RUN apt-get update -qq && apt-get install -qq --no-install-recommends gcc libc6-dev python3-dev \
    > /dev/null

# COMPILED empty: the hot path is run from its sources, for a quick build while developing.
FROM compiler AS wheel
ARG COMPILED=1
WORKDIR /src
COPY LICENSE README.md constraints.txt hatch_build.py pyproject.toml ./
COPY core core
COPY runtime runtime
RUN --mount=type=cache,target=/root/.cache/uv \
    HATCH_BUILD_HOOKS_ENABLE=${COMPILED} uv build --wheel --build-constraint constraints.txt \
    --out-dir /dist . \
    && uv pip install --quiet --no-deps --target /opt/app /dist/*.whl \
    && rm -rf /opt/app/bin /opt/app/isochrone_cli \
    && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/app

# All but our own wheel. Caches of engines go below /tmp, which a pod mounts: nothing else need be writable.
FROM ${BASE} AS packaged
RUN echo 'isochrone:x:65532:65532::/tmp:/usr/sbin/nologin' >> /etc/passwd \
    && echo 'isochrone:x:65532:' >> /etc/group
ENV PATH=/opt/isochrone/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp USER=isochrone LANG=C.UTF-8 XDG_CACHE_HOME=/tmp/cache \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONSAFEPATH=1 PYTHONFAULTHANDLER=1
LABEL org.opencontainers.image.licenses="Apache-2.0"
COPY --from=light-packages /opt/isochrone /opt/isochrone
WORKDIR /

FROM packaged AS light
LABEL org.opencontainers.image.title="isochrone-runtime" \
      org.opencontainers.image.description="Isochrone's gateway and executor, without torch"
COPY --from=wheel /opt/app /opt/app
USER 65532:65532
CMD ["python", "-m", "isochrone_gateway", "--help"]

FROM packaged AS torch-packaged
ENV TORCHINDUCTOR_CACHE_DIR=/tmp/cache/inductor TRITON_CACHE_DIR=/tmp/cache/triton
LABEL org.opencontainers.image.title="isochrone-runtime-torch" \
      org.opencontainers.image.description="Isochrone's executor and builder, with torch"
COPY --from=torch-packages /opt/torch /opt/torch
COPY --from=builder-packages /opt/builder /opt/builder

FROM torch-packaged AS torch
COPY --from=wheel /opt/app /opt/app
USER 65532:65532
CMD ["python", "-m", "isochrone_builder", "--help"]
