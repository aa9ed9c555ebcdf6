# Only the gateway: manager and workers run on the host, because MLX needs it.
ARG BASE_IMAGE=python:3.12-slim

FROM ${BASE_IMAGE} AS build
WORKDIR /app
COPY requirements/gateway.lock /tmp/gateway.lock
# No pip in the environment: use the pip of the base image.
RUN python -m venv --without-pip /opt/venv \
 && pip --python /opt/venv/bin/python install --no-cache-dir --no-compile --no-deps --require-hashes \
      -r /tmp/gateway.lock
# The official base image has no compiled modules, and the gateway can't write any. Compile them here, or
# each start would spend most of its time on it.
ENV PYTHONPYCACHEPREFIX=/opt/pycache
RUN python -m compileall -q -j 0 /opt/venv/lib
COPY contracts contracts
COPY web web
COPY gateway gateway
# The import compiles the modules of the standard library that the gateway uses.
RUN python -m compileall -q /app && /opt/venv/bin/python -c "import gateway.__main__"

FROM ${BASE_IMAGE}
# curl: health checks run it in this container. Its version is not pinned, because the distribution has only
# the latest one.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends curl \
 && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/*
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/pycache /opt/pycache
COPY --from=build /app /app
WORKDIR /app
# Default settings, used if no file is mounted.
COPY config.yaml config.yaml
# In the container the gateway listens on every address, independent of the mounted settings.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPYCACHEPREFIX=/opt/pycache \
    GATEWAY_HOST=0.0.0.0 \
    GATEWAY_PORT=8000 \
    WORKER_MANAGER_HOST=host.docker.internal
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=10s --start-period=10s --retries=3 \
  CMD ["sh", "-c", "curl -fsS --noproxy '*' -o /dev/null http://127.0.0.1:${GATEWAY_PORT}/healthz"]
CMD ["python", "-m", "gateway"]
ARG VERSION=0.1.0 REVISION=
LABEL org.opencontainers.image.title="Vision Insight API gateway" \
      org.opencontainers.image.description="The gateway of an OpenAI-compatible vision API; its worker manager runs on the host" \
      org.opencontainers.image.source="https://github.com/vibe-homelab/vision-insight-api" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="docker.io/library/python:3.12-slim"
