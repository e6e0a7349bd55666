#!/usr/bin/env python3
"""Times every way of carrying out a product that the planner chooses from: what its choice is worth, and figures to refit its
model (src/plan/cost_sm90.rs, by fit.py) from.

usage: sweep [--seconds S] [--only NAME] [FOLDER]      FOLDER: $OUT, or results/ beside the pack

Writes FOLDER/sweep.json: for each product its shape, its split of the rows, and microseconds by choice, '' being the planner's
own. Choices are forced by tuning files, so nothing here knows how the planner thinks; FORMS and TILES name the kernels.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import time
import types

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TOKENS = (1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 48, 64, 96, 128, 160, 192, 256, 384, 512, 1024)
#: Kernels by name, tokens of a tile, least and most tokens a group that they are worth a measurement at.
FORMS = {"few_{0}_8x2": (1, 24), "few_{0}_8x4": (1, 24), "few_{0}_16x4": (1, 48), "many_{1}_32": (6, 160), "many_{1}_64": (12, 320), "many_{1}_128": (24, 1 << 30), "many_{1}_256": (64, 1 << 30), "many_{1}_64x1": (12, 320), "many_{1}_128x1": (24, 1 << 30)}
#: The portable kernel's, without a schedule; the splits that it takes by itself are worth one.
TILES = {"{0}_8": (1, 8), "{0}_16": (1, 24), "{0}_32": (8, 48), "{0}_64": (24, 96)}
SCHEDULES = 4
#: Microseconds of a graph, and rounds of all choices.
GRAPH_US, ROUNDS = 250.0, 5


class Graph:
    """Calls on a stream; without torch.cuda.graph, whose collections of garbage take longer than all else here."""

    def __init__(self, torch, stream, calls, us):
        self.torch, self.stream, self.graph = torch, stream, torch.cuda.CUDAGraph()
        self.count = max(1, min(64, int(GRAPH_US / us)))
        with torch.cuda.stream(stream):
            self.graph.capture_begin(capture_error_mode="thread_local")
            for i in range(self.count):
                calls[i % len(calls)]()
            self.graph.capture_end()
        self.events = []

    def replay(self):
        start, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record(self.stream)
        with self.torch.cuda.stream(self.stream):
            self.graph.replay()
        end.record(self.stream)
        self.events.append((start, end))

    def us(self):
        return statistics.median(start.elapsed_time(end) for start, end in self.events) * 1e3 / self.count


class Sweep:
    def __init__(self, nvfp4, torch, folder, seconds):
        from timer import Timer

        self.nvfp4, self.torch, self.timer = nvfp4, torch, Timer()
        self.context = nvfp4.Context(nvfp4.Backend.CUDA)
        self.context.prepare()
        self.stream = nvfp4.Stream.borrow(self.context, self.timer.stream.cuda_stream)
        self.workspace = torch.empty(2 << 30, dtype=torch.uint8, device="cuda")
        self.tuning, self.until, self.cases = folder / "tuning", time.monotonic() + seconds, []
        self.context.save_tuning(self.tuning)
        self.head = self.tuning.read_text().rpartition("checksum ")[0]

    def absent(self, what):
        print(what, flush=True)

    def choices(self, operand, tokens, rows_of_key, shape):
        """Lines of tuning files by choice."""
        import table

        key = f"gemm {operand} groups={shape.groups} tokens={1 << max(rows_of_key - 1, 0).bit_length()} n={shape.n} k={shape.k} plain nvfp4_gemm_"
        found = {}
        for name, (least, most) in FORMS.items():
            kernel = name.format(operand, "bf16" if operand == "codes" else operand)
            found |= {f"{kernel}/{s}": f"{key}{kernel} splits={s + 1}\n" for s in range(SCHEDULES) if least <= tokens <= most}
        _, splits = table.portable_choice(shape, rows_of_key, self.timer.processors)
        for name, (least, most) in TILES.items():
            kernel = name.format(operand)
            found |= {f"{kernel}/{s}": f"{key}{kernel} splits={s}\n" for s in {splits, 1, 4} if least <= tokens <= most and operand == "bf16"}
        return found

    def force(self, line):
        import table

        if not line:
            self.context.load_tuning(None)
        else:
            self.tuning.write_text(table.sealed(self.head + line))
            if self.context.load_tuning(self.tuning) != 1:
                raise RuntimeError(f"the library does not take {line}")

    def case(self, problem, split, label, tokens, counts, operand="bf16", **more):
        """`tokens`: a group, on average; `counts` of the rows of each group, for each variant."""
        shape = problem.shape
        rows = split.rows if split.kind != "grouped" else -(-split.rows // min(shape.groups, split.rows))
        a, out = problem.operands(split)
        if operand == "codes":
            a = self.nvfp4.quantize(self.context, a, groups=split.groups[0], scope=self.nvfp4.Scope.ROW, stream=self.stream)
        calls, graphs = problem.calls(a, split, out, **more), {}
        flops = 2.0 * split.rows * shape.k * shape.n * (shape.groups if split.kind == "batched" else 1)
        guess = max(8.0, split.active * shape.group_bytes / 4.5e6, flops / 6e8)
        for name, line in {"": None, **self.choices(operand, tokens, rows, shape)}.items():
            self.force(line)
            graphs[name] = Graph(self.torch, self.timer.stream, calls, guess)
        self.force(None)
        if operand == "bf16" and not more and split.kind != "grouped":
            # Which torch is asked is no matter of a tuning file.
            wide = a if split.kind == "dense" else a.unsqueeze(0).expand(shape.groups, -1, -1)
            theirs, multiply = self.torch.empty_like(out), self.torch.matmul if split.kind == "dense" else self.torch.bmm
            told = [v[0].t() if split.kind == "dense" else v.transpose(1, 2) for v in problem.values]
            torch_calls = [lambda v=v: multiply(wide, v, out=theirs) for v in told]
            with self.torch.cuda.stream(self.timer.stream):
                torch_calls[0]()
            self.timer.stream.synchronize()
            graphs["torch"] = Graph(self.torch, self.timer.stream, torch_calls, guess)
        first = next(iter(graphs.values()))
        for _ in range(1 + (ROUNDS if guess < 1000 else 3)):
            first.replay()  # an idle card's first graph starts late
            del first.events[-1]
            for graph in graphs.values():
                graph.replay()
            self.timer.stream.synchronize()
        for graph in graphs.values():
            del graph.events[0]
        times = {name: round(graph.us(), 2) for name, graph in graphs.items()}
        ours = times[""]
        best = min((us, name) for name, us in times.items() if name not in ("", "torch"))
        self.cases.append({"label": label, "kind": split.kind, "groups": shape.groups, "k": shape.k, "n": shape.n, "rows": split.rows, "tokens": tokens, "operand": operand, "flags": int(more.get("flags", 0)), "counts": counts, "us": times})
        theirs = f"  torch {times['torch']:9.2f}" if "torch" in times else ""
        print(f"{label:<72} {ours:9.2f}  best {best[0]:9.2f} {ours / best[0]:6.3f}  {best[1]}{theirs}", flush=True)

    def shape(self, shape):
        import products

        problem = products.Problem(self, shape)
        even = lambda tokens: products.even(shape, tokens)
        dependent = {"flags": self.nvfp4.GemmFlags.DEPENDENT_LAUNCH}
        for tokens in TOKENS:
            each = [tokens] * (shape.groups if shape.kind != "dense" else 1)
            self.case(problem, even(tokens), f"{shape.title}, {tokens} a group", tokens, [each])
            if tokens in (1, 4, 8):
                self.case(problem, even(tokens), f"{shape.title}, {tokens} a group, dependent", tokens, [each], **dependent)
            if tokens in (1, 8, 16, 32, 64) and shape.kind == "grouped":
                self.case(problem, even(tokens), f"{shape.title}, {tokens} a group, codes", tokens, [each], operand="codes")
        if not shape.topk:
            return
        for batch in (1, 8, 16, 64, 256, 1024, 4096):
            variants = [[int(x) for x in self.torch.bincount(self.torch.rand(batch, shape.groups).topk(shape.topk).indices.flatten(), minlength=shape.groups)] for _ in range(8 if batch <= 16 else 2)]
            split = products.Split("grouped", shape.groups, variants)
            tokens = -(-split.rows // min(shape.groups, split.rows))
            self.case(problem, split, f"{shape.title}, {batch} tokens to {shape.topk}", tokens, variants)
            if batch == 1:
                self.case(problem, split, f"{shape.title}, {batch} tokens to {shape.topk}, dependent", tokens, variants, **dependent)
        for rows in (4096, 4096 * shape.topk):
            split = products.hot(shape, rows)
            counts = split.ends[0].diff(prepend=split.ends[0].new_zeros(1)).tolist()
            self.case(problem, split, f"{shape.title}, {rows} rows, half of them in one", -(-rows // shape.groups), [counts])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default=os.environ.get("OUT") or str(ROOT / "results"))
    parser.add_argument("--seconds", type=float, default=120, help="after which no further shape is begun")
    parser.add_argument("--only", action="append", help="shapes whose title has this")
    options = parser.parse_args()
    os.environ.setdefault("NVFP4_LIBRARY", str(ROOT / "lib/libnvfp4.so"))
    sys.path[:0] = [str(HERE), str(ROOT / "bindings/python")]
    import nvfp4
    import table
    import torch

    folder = pathlib.Path(options.folder)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)
    sweep = Sweep(nvfp4, torch, folder, options.seconds)
    for shape in table.SHAPES:
        if options.only and not any(word in shape.title for word in options.only):
            continue
        if time.monotonic() > sweep.until:
            print(f"{shape.title}: the time is up")
            continue
        started = time.monotonic()
        try:
            sweep.shape(shape)
        except Exception as problem:
            print(f"{shape.title}: {type(problem).__name__}: {problem}", flush=True)
        (folder / "sweep.json").write_text("[\n" + ",\n".join(json.dumps(case) for case in sweep.cases) + "\n]\n")
        torch.cuda.empty_cache()
        print(f"-- {shape.title}: {time.monotonic() - started:.1f} s", flush=True)
    ratios = [case["us"][""] / min(us for name, us in case["us"].items() if name not in ("", "torch")) for case in sweep.cases]
    print(f"{len(ratios)} products: {statistics.mean(ratios):.3f} of the best on average, {max(ratios):.3f} at most, {sum(r > 1.05 for r in ratios)} above 1.05")


if __name__ == "__main__":
    main()
