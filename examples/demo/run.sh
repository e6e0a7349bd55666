#!/usr/bin/env bash
# Runs the demo in the tree's virtual environment. `./run demo` builds the library and the command first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
[ -x .venv/bin/python ] || python3 -m venv .venv
# Does nothing, and needs no network, where the pinned versions are installed.
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r examples/demo/requirements.txt || {
  echo 'The demo needs the packages of examples/demo/requirements.txt once; then it also runs without a network.' >&2
  exit 1
}
PYTHONPATH=bindings/python NVFP4_LIBRARY=${NVFP4_LIBRARY:-$PWD/target/release/libnvfp4.so} \
  exec .venv/bin/python examples/demo/demo.py "$@"
