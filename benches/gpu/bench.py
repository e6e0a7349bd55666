#!/usr/bin/env python3
"""Times the library on GPU 0 through its Python package beside its peers, in one run (`./run gpu-bench`, DIR/bench).

usage: bench [--quick] [--part NAME]... [FOLDER]       FOLDER: $OUT, or results/ beside the pack

Writes FOLDER/<device>-<date>.json and .svg and prints every figure with its bar. Needs torch; Triton and matplotlib are
used where they are installed. Without a GPU or torch it says `skipped`.
"""

import argparse
import ctypes
import json
import os
import pathlib
import re
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
#: Seconds after which no further shape is begun.
LIMIT, QUICK_LIMIT = 200, 60
PARTS = ("rows", "host", "layers", "products")


class Bench:
    """What the parts share: where they run, and the list of figures."""

    def __init__(self, told, limit):
        import ceilings
        import nvfp4
        import torch
        from timer import Timer

        self.told, self.entries, self.missing, self.broken = told, [], [], []
        self.until = time.monotonic() + limit
        self.timer = Timer()
        self.context = nvfp4.Context(nvfp4.Backend.CUDA)
        self.context.prepare()
        self.stream = nvfp4.Stream.borrow(self.context, self.timer.stream.cuda_stream)
        self.workspace = torch.empty(2 << 30, dtype=torch.uint8, device="cuda")
        self.ceiling = ceilings.copy_rate()
        self.entry("torch copy_ of 2 GB, read + written", "TB/s", self.ceiling / 1e12)
        self.cublas, self.reader = ceilings.Cublas(), None
        self.guard("read ceiling", lambda: self.read_ceiling(ceilings))
        self.entry("cuBLAS 8192^3 bf16, cool", "TFLOP/s", self.cublas.tflops())

    def read_ceiling(self, ceilings):
        try:
            self.reader = ceilings.Reader(self.timer)
        except FileNotFoundError:
            return self.absent("read.fatbin beside this file: no shares of the read ceiling")
        for megabytes in (1000, 226, 149, 57, 18):
            us = self.timer.us(self.reader.calls(megabytes * 10**6))
            self.entry(f"a launch that reads {megabytes} MB", "TB/s", megabytes / us, us=us)

    def guard(self, what, part):
        """Runs a part; the others still give their figures where it breaks."""
        try:
            part()
        except Exception as problem:
            import traceback

            traceback.print_exc()
            self.broken.append(f"{what}: {type(problem).__name__}: {problem}")

    def spent(self, what, since):
        print(f"-- {what}: {time.monotonic() - since:.1f} s", flush=True)

    def over(self):
        return time.monotonic() > self.until

    def absent(self, what):
        if what not in self.missing:
            self.missing.append(what)
            print(f"absent: {what}", flush=True)

    def entry(self, name, metric, value, *, bar=None, below=False, **more):
        """`bar`: the least that is asked for, or with `below` the most."""
        found = {"name": name, "metric": metric, "value": round(value, 4)}
        found.update({key: round(v, 4) if isinstance(v, float) else v for key, v in more.items() if v is not None})
        if bar is not None:
            found["bar"], found["met"] = round(bar, 4), bool(value <= bar if below else value >= bar)
            found["ratio"] = round(bar / value if below else value / bar, 4)
        self.entries.append(found)
        mark = "" if bar is None else f"  {'at most' if below else 'at least'} {bar:9.3f}  {'met' if found['met'] else 'MISSED'}"
        if "reference_value" in found and found["reference_value"] != found.get("bar"):
            mark += f"  ({found['reference']}: {found['reference_value']:.3f})"
        print(f"{name:<84} {value:10.3f} {metric:<12}{mark}", flush=True)

    def rate(self, name, us, moved, share):
        """Bytes moved beside the ceiling; `share` of it asked for."""
        rate = moved / us * 1e6
        self.entry(name, "of copy", rate / self.ceiling, bar=share, us=us, tb_s=rate / 1e12, reference="torch copy_ of 2 GB", reference_value=self.ceiling / 1e12)

    def parts(self, name, us, parts_us):
        self.entry(f"{name}: fused beside its parts", "us", us, bar=parts_us, below=True, reference="its parts", reference_value=parts_us)


def machine():
    """Device and driver, and the commit of the library."""
    told = {"date": time.strftime("%Y-%m-%d", time.gmtime())}
    try:
        line = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"], stdout=subprocess.PIPE).stdout.decode()
        told["device"], told["driver"] = [w.strip() for w in line.splitlines()[0].split(",")][:2]
    except (OSError, IndexError, ValueError):
        told["device"], told["driver"] = "GPU", "unknown"
    pack = ROOT / "pack.json"
    if pack.exists():
        told["commit"] = json.loads(pack.read_text())["commit"]
    else:
        told["commit"] = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=10"], cwd=ROOT, stdout=subprocess.PIPE).stdout.decode().strip()
    return told


def host(bench):
    """What a call costs the host, and how long the first tensor takes, by programs of their own."""
    done = subprocess.run([ROOT / "bin/timing"], stdout=subprocess.PIPE).stdout.decode().strip()
    if not done.startswith("{"):
        return bench.absent(f"host cost: {done or 'no program'}")
    told = json.loads(done)
    bench.entry("host cost of a run call", "us", told["call_us"], bar=3.0, below=True, reference="a bare launch", reference_value=told["bare_launch_us"])
    done = subprocess.run([ROOT / "bin/startup", ROOT / "lib/libnvfp4.so"], stdout=subprocess.PIPE).stdout.decode().strip()
    if not done.startswith("{"):
        return bench.absent(f"start: {done or 'no program'}")
    told = json.loads(done)
    bench.entry("from dlopen to the first quantized tensor", "ms", told["library_ms"], bar=500.0, below=True, reference="the driver's own start", reference_value=told["driver_ms"])


def no_gpu():
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no CUDA driver"
    count = ctypes.c_int()
    return None if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value else "no GPU"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default=os.environ.get("OUT") or str(ROOT / "results"))
    parser.add_argument("--quick", action="store_true", help="few shapes")
    parser.add_argument("--part", action="append", choices=PARTS, help="these alone")
    options = parser.parse_args()
    started = time.monotonic()
    reason = no_gpu()
    if reason is None:
        try:
            import torch  # noqa: F401
        except ImportError:
            reason = "torch is not installed"
    if reason:
        print(f"skipped: {reason}")
        return 0
    os.environ.setdefault("NVFP4_LIBRARY", str(ROOT / "lib/libnvfp4.so"))
    sys.path[:0] = [str(HERE), str(ROOT / "bindings/python")]
    import layers
    import products
    import rows

    quick = options.quick
    bench = Bench(machine(), QUICK_LIMIT if quick else LIMIT)
    parts = {
        "host": (lambda: host(bench),),
        "rows": (lambda: rows.large(bench), lambda: rows.small(bench)),
        "layers": (lambda: layers.layers(bench, quick),),
        "products": (lambda: products.products(bench, quick),),
    }
    for name in options.part or PARTS:
        since = time.monotonic()
        for part in parts[name]:
            bench.guard(name, part)
        bench.spent(name, since)
    folder = pathlib.Path(options.folder)
    folder.mkdir(parents=True, exist_ok=True)
    slug = re.sub(r"[^a-z0-9]+", "-", bench.told["device"].lower().replace("nvidia", "")).strip("-")
    path = folder / f"{slug}-{bench.told['date']}.json"
    lines = ",\n".join("  " + json.dumps(entry) for entry in bench.entries)
    told = {**bench.told, "seconds": round(time.monotonic() - started), "parts": options.part or PARTS, "quick": quick}
    header = json.dumps({**told, "absent": bench.missing, "broken": bench.broken})[1:-1]
    path.write_text(f"{{{header},\n \"entries\": [\n{lines}\n ]}}\n")
    asked = [entry for entry in bench.entries if "met" in entry]
    print(f"{path}: {len(bench.entries)} figures, {sum(e['met'] for e in asked)} of {len(asked)} bars met, {len(bench.broken)} parts broken")
    try:
        import plot

        plot.draw(path, path.with_suffix(".svg"))
    except ImportError:
        print("no picture: matplotlib is not installed")
    return int(bool(bench.broken))


if __name__ == "__main__":
    sys.exit(main())
