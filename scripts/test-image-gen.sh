#!/bin/sh
# Call the image endpoints of a running stack and print a table; status 1 if a check fails.
# For another machine: ./scripts/test-image-gen.sh --url http://mac:8000
set -eu
cd "$(dirname "$0")/.."
[ -x .venv/bin/python ] || { echo "test-image-gen: no .venv yet: run make install" >&2; exit 1; }
exec .venv/bin/python -m hostctl smoke images "$@"
