#!/usr/bin/env bash
# Times the CPU backend beside OpenBLAS and memcpy in one process. Arguments go to benches/cpu; with --json FILE.json a
# picture FILE.svg is drawn too.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
library=$(.venv/bin/python -c 'import scipy_openblas64 as b; print(b.get_lib_dir())')/libscipy_openblas64_.so
export NVFP4_OPENBLAS=$library NVFP4_COMMIT=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
cargo bench --quiet --locked --bench cpu -- "$@"
while [ $# -gt 0 ]; do
  if [ "$1" = --json ]; then .venv/bin/python benches/plot.py "$2" "${2%.json}.svg"; fi
  shift
done
