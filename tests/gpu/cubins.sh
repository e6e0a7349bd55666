#!/usr/bin/env bash
# Machine code of the product and weight kernels for one architecture, for kernels_gemm.py to load:
# tests/gpu/cubins.sh [DIR=target/gpu-kit] [ARCH=sm_90a]; the compiler comes from NVCC or PATH.
# With ARCH `emulate`: DIR/libemulator.so instead, for kernels_gemm.py --emulate.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
dir=${1:-target/gpu-kit} arch=${2:-sm_90a}
mkdir -p "$dir"
if [ "$arch" = emulate ]; then
  exec g++ -std=c++20 -O2 -ffp-contract=off -w -DNVFP4_EMULATED -Itests/gpu/emulator -Ikernels -shared -fPIC \
    tests/gpu/emulator/emulator.cpp -o "$dir/libemulator.so"
fi
files="gemm weights"
[ "$arch" = sm_90a ] && files="$files gemm_sm90_few gemm_sm90_many"
for file in $files; do
  "${NVCC:-nvcc}" -cubin -gencode="arch=compute_${arch#sm_},code=$arch" -O3 -std=c++17 -fmad=false \
    -Xptxas -v,-warn-spills "kernels/$file.cu" -o "$dir/$file.cubin" 2>&1 | grep -E 'error|warning|Used' || true
  test -s "$dir/$file.cubin"
done
