#!/usr/bin/env bash
# What a run call costs the host: over a driver that does nothing (here, anywhere), or with --gpu over the real one.
# Needs a library with the CUDA backend: cargo build --release --features cuda (NVFP4_KERNELS=placeholder will do for the
# driver that does nothing).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
out=target/host library=${NVFP4_LIBRARY:-target/release/libnvfp4.so}
mkdir -p $out
${CC:-cc} -O2 -std=gnu11 -Wall -Wextra -Iinclude benches/host/host_cost.c -o $out/host_cost -ldl
if [ "${1:-}" = --gpu ]; then
  for mode in all problem lazy; do $out/host_cost "$library" $mode; done
else
  ${CC:-cc} -O1 -w -shared -fPIC -Wl,-soname,libcuda.so.1 benches/host/null_driver.c -o $out/libcuda.so.1
  LD_LIBRARY_PATH=$out $out/host_cost "$library" all 20000
fi
