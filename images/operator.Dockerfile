# The operator and the agent (one image): planner and Kubernetes client, no engine, no torch.
#
#   docker build --build-arg BASE=<a Debian bookworm with Python 3.11> -f images/operator.Dockerfile .
#
# BASE is any Debian bookworm with python3 3.11 and its venv module; build and final stage use the
# same, because a virtual environment points at the Python that made it.
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

# What is to be installed, each version named: the layer below is rebuilt when this list changes.
FROM tools AS requirements
WORKDIR /src
COPY pyproject.toml constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip compile --quiet --no-header --no-annotate --constraint constraints.txt \
    --extra operator --output-file /requirements.txt pyproject.toml

# Byte code is made here, once: nothing can be written where the root file system is read-only.
FROM tools AS packages
COPY --from=requirements /requirements.txt /
RUN --mount=type=cache,target=/root/.cache/uv \
    uv venv --quiet --python "$(command -v python3)" /opt/isochrone \
    && uv pip install --quiet --no-deps --python /opt/isochrone/bin/python \
    --requirement /requirements.txt \
    && cd /opt/isochrone/lib/python3.*/site-packages \
    && find . -depth -type d \( -name tests -o -name __pycache__ \) ! -path './numpy/*' -exec rm -rf {} + \
    && echo /opt/app > image.pth \
    && /opt/isochrone/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash \
    /opt/isochrone/lib

FROM tools AS wheel
WORKDIR /src
COPY LICENSE README.md constraints.txt hatch_build.py pyproject.toml ./
COPY core core
COPY operator operator
RUN --mount=type=cache,target=/root/.cache/uv \
    uv build --wheel --build-constraint constraints.txt --out-dir /dist . \
    && uv pip install --quiet --no-deps --target /opt/app /dist/*.whl \
    && rm -rf /opt/app/bin \
    && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/app

# All but our own wheel.
FROM ${BASE} AS packaged
RUN echo 'isochrone:x:65532:65532::/tmp:/usr/sbin/nologin' >> /etc/passwd \
    && echo 'isochrone:x:65532:' >> /etc/group
ENV PATH=/opt/isochrone/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp USER=isochrone LANG=C.UTF-8 \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONSAFEPATH=1 PYTHONFAULTHANDLER=1
LABEL org.opencontainers.image.title="isochrone-operator" \
      org.opencontainers.image.description="Isochrone's operator and the agent of its gateways" \
      org.opencontainers.image.licenses="Apache-2.0"
WORKDIR /
COPY --from=packages /opt/isochrone /opt/isochrone

FROM packaged
COPY --from=wheel /opt/app /opt/app
USER 65532:65532
CMD ["python", "-m", "isochrone_operator"]
