#!/bin/sh
# Resolves pyproject.toml into requirements/*.lock: universal (macOS arm64 and Linux, Python 3.11-3.13),
# with versions and hashes and without addresses. `make lock` runs it.
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
if grep -nE '^ *(--index|--extra-index|--find-links)|://' requirements/*.lock; then
  echo "lock: an address got into a lock file" >&2
  exit 1
fi
