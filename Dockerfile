# The gateway, and only the gateway: manager and workers run on the host, where MLX is.
ARG BASE_IMAGE=python:3.12-slim

FROM ${BASE_IMAGE} AS build
WORKDIR /app
COPY requirements/gateway.lock /tmp/gateway.lock
# No pip in the environment: the base has one.
RUN python -m venv --without-pip /opt/venv \
 && pip --python /opt/venv/bin/python install --no-cache-dir --no-compile --no-deps --require-hashes \
      -r /tmp/gateway.lock
# The official base comes without compiled modules, and the gateway can't write any: each start would compile
# all that it imports, which takes longer than everything else. So that is done here, in a tree of its own.
ENV PYTHONPYCACHEPREFIX=/opt/pycache
RUN python -m compileall -q -j 0 /opt/venv/lib
COPY contracts contracts
COPY web web
COPY gateway gateway
# The import compiles what the gateway uses of the standard library.
RUN python -m compileall -q /app && /opt/venv/bin/python -c "import gateway.__main__"

FROM ${BASE_IMAGE}
# curl: the health check of the homelab's stack calls it inside this container. Its version is not pinned,
# since the distribution keeps but one, the one with the fixes.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends curl \
 && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/*
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/pycache /opt/pycache
COPY --from=build /app /app
WORKDIR /app
# Baked, so that the image runs without a mounted one.
COPY config.yaml config.yaml
# Whatever a config says that is mounted here: inside, the gateway listens on every address.
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
