#!/bin/sh
# Resolve pyproject.toml into requirements/*.lock: universal (macOS arm64 and Linux, Python 3.11-3.14), with
# versions and hashes, without URLs. `make lock` runs it.
set -eu
cd "$(dirname "$0")/.."
uv=.venv/tools/bin/uv
compile() {
  "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
    --upgrade "$@" pyproject.toml
}
compile --output-file requirements/gateway.lock
compile --extra cli --output-file requirements/cli.lock
compile --extra cli --extra manager --extra workers --output-file requirements/host.lock
compile --extra cli --extra manager --extra workers --group dev --output-file requirements/dev.lock
for client in pydantic-ai langchain litellm; do
  "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
    --upgrade --output-file "tests/clients/requirements-$client.lock" "tests/clients/requirements-$client.in"
done
if command -v npm >/dev/null; then (cd tests/clients && npm update --package-lock-only --loglevel=error); fi
if grep -nE '^ *(--index|--extra-index|--find-links)|://' requirements/*.lock tests/clients/*.lock ||
  grep -n '"resolved"' tests/clients/package-lock.json; then
  echo "lock: a lock file contains a URL" >&2
  exit 1
fi
