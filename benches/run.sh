#!/usr/bin/env bash
# Times the CPU backend beside OpenBLAS and memcpy in one process. Arguments go to benches/cpu (--json FILE, words of names).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
library=$(.venv/bin/python -c 'import scipy_openblas64 as b; print(b.get_lib_dir())')/libscipy_openblas64_.so
export NVFP4_OPENBLAS=$library NVFP4_COMMIT=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
exec cargo bench --quiet --locked --bench cpu -- "$@"
