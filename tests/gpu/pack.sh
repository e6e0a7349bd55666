#!/usr/bin/env bash
# tests/gpu/pack.sh DIR: builds the library with its CUDA backend and lays down all that a GPU machine without Rust, compiler
# and network needs to test and time it: DIR/test, DIR/bench, DIR/golden CASES. What is built comes from the caller's
# environment (NVCC, NVFP4_KERNELS, CARGO_TARGET_DIR, CC); NVFP4_PACK_PROFILE=dev takes the builds of the tests instead of
# release ones. `./run gpu-pack` calls this.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
dir=${1:?usage: pack.sh DIR}
target=${CARGO_TARGET_DIR:-target}
cc=${CC:-cc}
profile=${NVFP4_PACK_PROFILE:-release}
built=$target/$([ "$profile" = dev ] && echo debug || echo "$profile")

cargo build --profile "$profile" --locked --features cuda --lib
# The paths of the test executables, by name.
cargo test --profile "$profile" --locked --features cuda --test golden --test random_calls --no-run --message-format=json >"$target/pack.json"

rm -rf "$dir"
mkdir -p "$dir"/{lib,bin,bindings/python,tests/gpu,tests/vectors,benches}
dir=$(cd "$dir" && pwd)
strip -s "$built/libnvfp4.so" -o "$dir/lib/libnvfp4.so"
ln -s libnvfp4.so "$dir/lib/libnvfp4.so.1"
python3 - "$target/pack.json" <<'PY' | while read -r name path; do strip -s "$path" -o "$dir/bin/$name"; done
import json, sys
for line in open(sys.argv[1]):
    entry = json.loads(line)
    if entry.get("executable") and "test" in entry["target"]["kind"]:
        print(entry["target"]["name"], entry["executable"])
PY

link=(-Iinclude -Itests/c -L"$dir/lib" -lnvfp4 '-Wl,-rpath,$ORIGIN/../lib' -lm -lpthread -ldl)
for file in tests/c/test_*.c; do
  "$cc" -std=c11 -O1 -w "$file" -o "$dir/bin/$(basename "$file" .c)" "${link[@]}"
done
for file in runtime graph products startup timing tuning; do "$cc" -std=gnu11 -O2 -w "tests/gpu/$file.c" -o "$dir/bin/$file" "${link[@]}"; done
"$cc" -std=gnu11 -O2 -w -shared -fPIC tests/gpu/launches.c -o "$dir/lib/liblaunches.so" -ldl

cp -r include examples "$dir"
cp -r bindings/python/{nvfp4,tests} "$dir/bindings/python"
cp -r tests/vectors/{golden,generate.py,oracle.py} "$dir/tests/vectors"
cp tests/gpu/suite.py "$dir/tests/gpu"
cp -r benches/gpu "$dir/benches"
# The benchmark's read ceiling, which is no part of the library: without a compiler its shares are left out.
for nvcc in "${NVCC:-}" "${CUDA_HOME:+$CUDA_HOME/bin/nvcc}" "$(command -v nvcc || true)" .toolkit/nvidia/cu13/bin/nvcc; do
  [ -x "$nvcc" ] || continue
  "$nvcc" -fatbin -std=c++17 -O3 -gencode=arch=compute_90,code=sm_90 -gencode=arch=compute_90,code=compute_90 \
    benches/gpu/read.cu -o "$dir/benches/gpu/read.fatbin" && break
done
find "$dir" -name __pycache__ -prune -exec rm -rf {} +
printf '{"commit": "%s", "packed": "%s", "kernels": "%s"}\n' "$(git describe --always --dirty --abbrev=10 2>/dev/null || echo unknown)" "$(date -u +%F)" \
  "$([ -n "${NVFP4_KERNELS:-}" ] && echo "built elsewhere" || echo "all of kernels/targets.toml")" >"$dir/pack.json"

script() { printf '#!/usr/bin/env bash\n%s\nhere=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)\n%s\n' "$2" "$3" >"$dir/$1" && chmod +x "$dir/$1"; }
script test '# test [--quick] [--part NAME]… [FOLDER]: everything on GPU 0; JSON and logs into FOLDER, $OUT or results/.' \
  'exec python3 "$here/tests/gpu/suite.py" "$@"'
script golden '# golden CASES: the golden cases of a folder (tests/vectors/generate.py makes fresh ones) on GPU 0.' \
  'NVFP4_TEST_DEVICE=${NVFP4_TEST_DEVICE:-cuda} NVFP4_GOLDEN=${1:?usage: golden CASES} exec "$here/bin/golden"'
script bench '# bench [--quick] [--part NAME]… [FOLDER]: times the library beside its peers on GPU 0; JSON and a picture into FOLDER, $OUT or results/.' \
  'exec python3 "$here/benches/gpu/bench.py" "$@"'
size=$(du -sm "$dir" | cut -f1)
echo "$dir: $size MiB"
[ "$size" -lt 50 ] || { echo "the pack is to stay under 50 MiB" >&2; exit 1; }
