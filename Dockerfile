# The gateway, and only the gateway: manager and workers run on the host, where MLX is.
ARG BASE_IMAGE=python:3.12-slim

FROM ${BASE_IMAGE} AS build
COPY requirements/gateway.lock /tmp/gateway.lock
RUN python -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --no-deps --require-hashes -r /tmp/gateway.lock

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="Vision Insight API gateway" \
      org.opencontainers.image.licenses="MIT"
# curl: the health check of the homelab's stack calls it inside this container.
RUN apt-get update \
 && apt-get install -y --no-install-recommends curl \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/venv /opt/venv
WORKDIR /app
COPY contracts contracts
COPY web web
COPY gateway gateway
# Baked, so that the image runs without a mounted one.
COPY config.yaml config.yaml
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 WORKER_MANAGER_HOST=host.docker.internal
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=10s --retries=3 \
  CMD ["sh", "-c", "curl -fsS http://127.0.0.1:${GATEWAY_PORT:-8000}/healthz"]
CMD ["/opt/venv/bin/python", "-m", "gateway"]
