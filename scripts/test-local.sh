#!/bin/sh
# Call every endpoint of a running stack and print a table; status 1 if a check fails.
# For another machine: ./scripts/test-local.sh --url http://mac:8000
set -eu
cd "$(dirname "$0")/.."
[ -x .venv/bin/python ] || { echo "test-local: no .venv yet: run make install" >&2; exit 1; }
exec .venv/bin/python -m hostctl smoke all "$@"
