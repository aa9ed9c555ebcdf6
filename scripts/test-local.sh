#!/bin/sh
# Asks every endpoint of a running stack and prints a table; status 1 if a row fails.
# Another machine's gateway: ./scripts/test-local.sh --url http://mac:8000
set -eu
cd "$(dirname "$0")/.."
[ -x .venv/bin/python ] || { echo "test-local: there is no .venv yet: make install" >&2; exit 1; }
exec .venv/bin/python -m hostctl smoke all "$@"
