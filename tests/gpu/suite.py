#!/usr/bin/env python3
"""The GPU suite of a pack (`./run gpu-pack DIR`; this is DIR/test): a line a part, one closing line, JSON and logs.

usage: test [--quick] [--part NAME]... [FOLDER]        FOLDER: $OUT, or results/ beside this pack

Parts run side by side where they do not time anything. Without a GPU every part is skipped, which is no failure and no
pass. Needs Python 3.9 and the driver; torch, CuPy, ml_dtypes and compute-sanitizer are used where they are.
"""

import argparse
import concurrent.futures
import ctypes
import importlib.util
import json
import os
import pathlib
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time

PACK = pathlib.Path(__file__).resolve().parents[2]
BIN, LIB = PACK / "bin", PACK / "lib"
#: dlopen to the first quantized tensor, beyond the driver's own context, in milliseconds.
STARTUP_BAR_MS = 500
#: What compute-sanitizer watches (tests/random_calls/device.rs says what the names mean).
CORPUS = {"NVFP4_RANDOM_CALLS": "12", "NVFP4_RANDOM_SEED": "1000", "NVFP4_TEST_THREADS": "3", "NVFP4_TEST_SHORT": "1", "NVFP4_TEST_STEP": "5"}
#: The part of it that launches every kernel. racecheck, which follows every access to shared memory, watches this alone,
#: each kind of calls in a process of its own.
KINDS = ("forms", "moe", "products", "choices", "seeds")
#: Seconds of a process under compute-sanitizer, of which the slowest takes 70 beside all other parts.
SLOWEST = 150
LEAST = {**CORPUS, "NVFP4_RANDOM_CALLS": "2", "NVFP4_TEST_PRODUCT_STEP": "7", "NVFP4_TEST_CORPUS": ",".join(KINDS)}
#: racecheck sees one launch at a time: where two threads launched it stopped twice in some fifty runs, the second time in two
#: launches of the portable product, in which no block waits for another.
ONE_THREAD = {"NVFP4_TEST_THREADS": "1"}

CHILDREN = set()


def end(child):
    """A child with all that it has started."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def stop(*_):
    for child in list(CHILDREN):
        end(child)
    os._exit(1)


def together(bodies):
    """Side by side, to the end of all; the first one's exception is the caller's."""
    with concurrent.futures.ThreadPoolExecutor(len(bodies) or 1) as pool:
        for done in [pool.submit(body) for body in bodies]:
            done.result()


class Part:
    """What a part has counted, and its log."""

    def __init__(self, name, folder):
        self.name, self.log = name, folder / f"{name}.log"
        self.passed = self.failed = self.skipped = 0
        self.notes, self.figures, self.lock = [], {}, threading.Lock()

    def add(self, passed=0, failed=0, skipped=0, note=None):
        with self.lock:
            self.passed, self.failed, self.skipped = self.passed + passed, self.failed + failed, self.skipped + skipped
            if note:
                self.notes.append(note)

    def write(self, text):
        with self.lock, open(self.log, "a") as file:
            file.write(text if text.endswith("\n") else text + "\n")

    def run(self, argv, timeout=300, **environment):
        """Standard output and error; None (and a failure) where the time is up."""
        env = {**os.environ, "NVFP4_LIBRARY": str(LIB / "libnvfp4.so"), **environment}
        start, code = time.time(), None
        child = subprocess.Popen([str(a) for a in argv], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
        CHILDREN.add(child)
        try:
            text = child.communicate(timeout=timeout)[0].decode(errors="replace")
            code = child.returncode
        except subprocess.TimeoutExpired:
            end(child)
            text = child.communicate()[0].decode(errors="replace")
        CHILDREN.discard(child)
        self.write(f"$ {' '.join(str(a) for a in argv)}   [{code}, {time.time() - start:.1f} s]\n{text}")
        if code is None:
            self.add(failed=1, note=f"{pathlib.Path(str(argv[0])).name} took more than {timeout} s")
        return code, text

    def counts(self, name, code, text):
        """The counts of a closing line such as `3 passed, 0 failed`, or of `skipped: REASON`."""
        lines = [line for line in text.splitlines() if line.strip()]
        last = lines[-1] if lines else ""
        if last.startswith("skipped: "):
            return self.add(skipped=1, note=f"{name}: {last}")
        found = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped|error|errors)\b", last)}
        passed, failed = found.get("passed", 0), found.get("failed", 0) + found.get("error", 0) + found.get("errors", 0)
        skipped = max(found.get("skipped", 0), sum(line.startswith("skipped ") for line in lines))
        if code is None:  # counted as a failure by `run`
            return self.add(passed, failed)
        if code != 0 and failed == 0:
            failed = 1
            self.add(note=f"{name} ended with status {code}: {last[:200]}")
        if code == 0 and passed == 0 and skipped == 0:
            failed = 1
            self.add(note=f"{name} has no closing line: {last[:200]}")
        self.add(passed, failed, skipped)
        for line in lines:
            if line.startswith(("FAILED", "SKIPPED")):
                self.add(note=f"{name}: {line[:300]}")


# ---------------------------------------------------------------- the parts


def golden(part, quick):
    part.counts("golden", *part.run([BIN / "golden"], NVFP4_TEST_DEVICE="cuda", NVFP4_GOLDEN=str(PACK / "tests/vectors/golden")))


def c_programs(part, quick):
    together([lambda p=p: part.counts(p.name, *part.run([p], NVFP4_TEST_DEVICE="cuda")) for p in sorted(BIN.glob("test_*"))])


def runtime(part, quick):
    part.counts("runtime", *part.run([BIN / "runtime"]))


def tuning(part, quick):
    part.counts("tuning", *part.run([BIN / "tuning", "1000" if quick else "20000"]))


def graph(part, quick):
    part.counts("graph", *part.run([BIN / "graph", "5000" if quick else "100000", "100" if quick else "1000"]))


def random_calls(part, quick):
    code, text = part.run(
        [BIN / "random_calls", "device::a_device_agrees", "--nocapture"],
        NVFP4_TEST_DEVICE="cuda", NVFP4_RANDOM_CALLS="60" if quick else "700", NVFP4_RANDOM_SEED=os.environ.get("NVFP4_SEED", "0"),
    )
    agreement(part, code, text)


def random_products(part, quick):
    code, text = part.run(
        [BIN / "random_calls", "device::a_device_agrees", "--nocapture"], NVFP4_TEST_DEVICE="cuda", NVFP4_RANDOM_ONLY="products",
        NVFP4_RANDOM_CALLS="0", NVFP4_RANDOM_PRODUCTS="100" if quick else "1300", NVFP4_RANDOM_SEED=os.environ.get("NVFP4_SEED", "0"),
    )
    agreement(part, code, text)


def products(part, quick):
    part.counts("products", *part.run([BIN / "products", "5000" if quick else "100000", "500" if quick else "5000"]))


def agreement(part, code, text):
    """The line of tests/random_calls/device.rs."""
    found = re.search(r"(\d+) problems, .*? (\d+) failed", text)
    if code is None:  # counted as a failure by `run`
        return
    if re.search(r"^skipped: ", text, re.M):
        return part.add(skipped=1, note=text.strip().splitlines()[-1])
    if not found:
        return part.add(failed=1, note=f"random_calls ended with status {code}: {text.strip()[-300:]}")
    total, failed = int(found[1]), int(found[2])
    part.add(total - failed, max(failed, int(code != 0)), note=found.string[found.start() :].splitlines()[0])
    for line in text.splitlines():
        if line.startswith("FAILED"):
            part.add(note=line[:300])


def python_tests(device, module):
    def run(part, quick):
        for name in (module, "pytest", "ml_dtypes", "numpy"):
            if importlib.util.find_spec(name) is None:
                return part.add(skipped=1, note=f"{name} is not installed")
        workers = ["-n", "4"] if importlib.util.find_spec("xdist") else []
        tests = [PACK / "bindings/python/tests" / name for name in (("test_quantize.py", "test_products.py") if quick else ("",))]
        code, text = part.run(
            [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:benchmark", "-p", "no:cacheprovider", *workers, *tests],
            NVFP4_TEST_DEVICES=device, PYTHONPATH=str(PACK / "bindings/python"), PYTHONDONTWRITEBYTECODE="1",
        )
        part.counts("pytest", code, text)

    return run


def sanitizer():
    places = [os.environ.get("CUDA_HOME", ""), "/usr/local/cuda", "/opt/cuda"]
    found = shutil.which("compute-sanitizer") or next((p for p in (f"{h}/bin/compute-sanitizer" for h in places if h) if os.path.exists(p)), None)
    return found


def kernels(part, quick):
    """Every kernel of the library is launched by the least that a sanitizer watches, or by the whole layers of test_layers."""
    launches = {}

    def counted(name, *argv, **environment):
        written = part.log.parent / f"kernels-{name}.txt"
        told = part.run(argv, NVFP4_TEST_DEVICE="cuda", LD_PRELOAD=str(LIB / "liblaunches.so"), NVFP4_LAUNCHES=str(written), **environment)
        for line in written.read_text().splitlines() if written.exists() else ():
            kernel, count = line.split()
            launches[kernel] = launches.get(kernel, 0) + int(count)
        return told

    agreement(part, *counted("calls", BIN / "random_calls", "device::a_device_agrees", "--nocapture", **LEAST))
    part.counts("test_layers", *counted("layers", BIN / "test_layers"))
    part.figures = launches
    never = sorted(name for name, n in launches.items() if n == 0)
    part.add(len(launches) - len(never), len(never), note=f"never launched: {' '.join(never)}" if never else f"all {len(launches)} kernels launched")
    if not launches:
        part.add(failed=1, note="no list of kernels was written")


def unended(text):
    """What NVFP4_TEST_TRACE says has begun and not ended: where a process that took too long is."""
    began = re.findall(r"^(.*) begins$", text, re.M)
    ended = set(re.findall(r"^(.*): [0-9.]+ s$", text, re.M))
    open_ = [what for what in began if what not in ended]
    return f"not ended: {'; '.join(open_)}" if open_ else f"{len(ended)} calls ended, none is open"


def watched(part, tool, corpus):
    """One process under a tool of compute-sanitizer, which must find nothing."""
    code, text = part.run(
        [sanitizer(), "--tool", tool, "--error-exitcode", "99", "--print-limit", "20", BIN / "random_calls", "device::a_device_agrees", "--nocapture"],
        timeout=SLOWEST, NVFP4_TEST_DEVICE="cuda", NVFP4_TEST_TRACE="1", **corpus,
    )
    if code is None:  # counted as a failure by `run`
        return part.add(note=f"{tool}, {corpus.get('NVFP4_TEST_CORPUS', 'all calls')}: {unended(text)}")
    found = re.search(r"(\d+) problems, .*? (\d+) failed", text)
    if not found or int(found[2]):
        part.add(failed=1, note=f"the corpus under {tool}: {found[0] if found else 'did not end'}")
    summary = re.findall(r"^=+ (?:ERROR|RACECHECK) SUMMARY: (.*)$", text, re.M)
    clean = code == 0 and summary and all(re.match(r"0 (errors|hazards)", words) for words in summary)
    what = f"{summary[-1]}; {found[0] if found else ''}" if summary else f"status {code}, no summary: {text.strip()[-200:]}"
    part.add(int(bool(clean)), int(not clean), note=what)


def sanitized(tool):
    def run(part, quick):
        if quick and tool != "memcheck":
            return part.add(skipped=1, note="not in the short form")
        if not sanitizer():
            return part.add(skipped=1, note="compute-sanitizer is not installed")
        corpora = [CORPUS] if tool != "racecheck" else [{**LEAST, **ONE_THREAD, "NVFP4_TEST_CORPUS": kind} for kind in KINDS]
        together([lambda corpus=corpus: watched(part, tool, corpus) for corpus in corpora])

    return run


def startup(part, quick):
    times = []
    for _ in range(5):
        code, text = part.run([BIN / "startup", LIB / "libnvfp4.so"], timeout=60)
        if text.startswith("skipped: "):
            return part.add(skipped=1, note=text.strip())
        if code != 0:
            return part.add(failed=1, note=text.strip()[-200:])
        times.append(json.loads(text.splitlines()[-1]))
    ours, driver = (statistics.median(t[key] for t in times) for key in ("library_ms", "driver_ms"))
    part.figures = {"library_ms": ours, "driver_ms": driver, "bar_ms": STARTUP_BAR_MS}
    good = ours <= STARTUP_BAR_MS
    part.add(int(good), int(not good), note=f"dlopen to the first tensor {ours:.0f} ms beyond the driver's {driver:.0f}; at most {STARTUP_BAR_MS}")


#: name, what runs it; the first row alone, the others together.
ALONE = [("startup", startup)]
TOGETHER = [
    ("golden", golden),
    ("c", c_programs),
    ("runtime", runtime),
    ("tuning", tuning),
    ("random", random_calls),
    ("random-products", random_products),
    ("products", products),
    ("kernels", kernels),
    ("python-torch", python_tests("cuda", "torch")),
    ("python-cupy", python_tests("cupy", "cupy")),
    *((tool, sanitized(tool)) for tool in ("memcheck", "racecheck", "initcheck", "synccheck")),
]
#: Watches the device's free memory: nothing else may run.
LAST = [("graph", graph)]
PARTS = [*ALONE, *TOGETHER, *LAST]


# ---------------------------------------------------------------- the suite


def no_gpu():
    """Why there is none, or None."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no CUDA driver"
    count = ctypes.c_int()
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    return None if status == 0 and count.value else f"no GPU (driver status {status})"


def machine():
    told = {}
    if shutil.which("nvidia-smi"):
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        words = done.stdout.decode().strip().splitlines()
        if words:
            told["device"], told["driver"] = [w.strip() for w in words[0].split(",")][:2]
    try:
        told.update(json.loads((PACK / "pack.json").read_text()))
    except OSError:
        pass
    return {**told, "date": time.strftime("%Y-%m-%d", time.gmtime())}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default=os.environ.get("OUT") or str(PACK / "results"))
    parser.add_argument("--quick", action="store_true", help="a short form")
    parser.add_argument("--part", action="append", choices=[name for name, _ in PARTS], help="only this part; may be given again")
    options = parser.parse_args()
    folder = pathlib.Path(options.folder)
    folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    reason, results, began = no_gpu(), [], time.time()

    def run(name, body):
        part, start = Part(name, folder), time.time()
        part.log.write_text("")
        if reason:
            part.add(skipped=1, note=reason)
        else:
            try:
                body(part, options.quick)
            except Exception as problem:  # a part that cannot run is a failure of that part alone
                part.add(failed=1, note=f"{type(problem).__name__}: {problem}")
        seconds = time.time() - start
        line = f"{name}: passed {part.passed}, failed {part.failed}, skipped {part.skipped} ({seconds:.0f} s)"
        sys.stdout.write("".join(f"{text}\n" for text in (line, *(f"    {note}" for note in part.notes[:12]))))
        sys.stdout.flush()
        results.append({
            "part": name, "passed": part.passed, "failed": part.failed, "skipped": part.skipped, "seconds": round(seconds, 1),
            "notes": part.notes, **({"figures": part.figures} if part.figures else {}),
        })

    for group in (ALONE, TOGETHER, LAST):
        together([lambda row=row: run(*row) for row in group if not options.part or row[0] in options.part])
    totals = {key: sum(part[key] for part in results) for key in ("passed", "failed", "skipped")}
    document = {**machine(), "quick": options.quick, "seconds": round(time.time() - began), **totals, "parts": results}
    (folder / "test.json").write_text(json.dumps(document, indent=1) + "\n")
    print(f"passed {totals['passed']}, failed {totals['failed']}, skipped {totals['skipped']}")
    return int(totals["failed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
