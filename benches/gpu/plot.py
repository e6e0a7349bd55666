#!/usr/bin/env python3
"""Draws a run of bench.py. plot.py RESULTS.json PICTURE.svg

PICTURE.svg has products over tokens, with the roof and the peers, and layers; beside it stand PICTURE-shapes.svg with the
products of all other shapes and PICTURE-quantizers.svg.
"""

import json
import pathlib
import sys

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "nvfp4"  # the same figures give the same file
matplotlib.rcParams["svg.fonttype"] = "none"  # text as text: half the bytes
import matplotlib.pyplot as plt
import table
from matplotlib.ticker import FuncFormatter, LogLocator

COLUMNS = 4
#: What the first picture shows: names of shapes, and how tokens are counted.
CHOSEN = [
    ("DeepSeek-V4-Pro L1", "batch"), ("DeepSeek-V4-Pro L2", "batch"), ("DeepSeek-V4-Flash L1", "batch"), ("Qwen3-30B L1", "batch"),
    ("DeepSeek-V4-Pro L1", "tokens"), ("output projection 8192", "tokens"), ("dense", "tokens"),
]
OURS, ROOF = {"color": "C0", "marker": "o", "linewidth": 2}, {"color": "black", "linestyle": ":", "linewidth": 1}
#: Peers, in the order of the legend: what their names begin with, label, style.
PEERS = [
    ("torch._grouped_mm", "torch bf16", {"color": "C1", "marker": "s"}),
    ("torch.bmm", "torch bf16", {"color": "C1", "marker": "s"}),
    ("torch.matmul", "torch bf16", {"color": "C1", "marker": "s"}),
    ("torch fp8", "torch fp8 rowwise", {"color": "C2", "marker": "^"}),
    ("portable", "portable kernel", {"color": "C7", "marker": ".", "linewidth": 1}),
]
MARLIN = ("vLLM Marlin NVFP4 (another run)", {"color": "C3", "marker": "v"})


def panels(entries):
    """[(title, axis, entries)]: a panel a shape and way of counting tokens, the longest sweeps first."""
    found = {}
    for entry in entries:
        for axis in ("tokens", "batch"):
            if "shape" in entry and "peers" in entry and axis in entry:
                found.setdefault((entry["shape"], axis), []).append(entry)
    return [(title, axis, sorted(rows, key=lambda e: e[axis])) for (title, axis), rows in found.items() if len({e[axis] for e in rows}) > 1]


def lines(entries, axis):
    """{label: (style, [(tokens, microseconds)])} of a panel."""
    drawn = {"libnvfp4": (OURS, [(e[axis], e["value"]) for e in entries])}
    for begin, label, style in PEERS:
        points = [(e[axis], us) for e in entries for name, us in e["peers"].items() if name.startswith(begin)]
        if points:
            drawn[label] = (style, points)
    known = table.MARLIN.get(entries[0]["shape"].split(",")[0], {}) if axis == "batch" else {}
    if known:
        drawn[MARLIN[0]] = (MARLIN[1], sorted(known.items()))
    roof = [(e[axis], e["roof_us"]) for e in entries if "roof_us" in e]
    if roof:
        drawn["roof: read, or cuBLAS's rate"] = (ROOF, roof)
    return drawn


def draw_products(axes, entries, axis):
    for label, (style, points) in lines(entries, axis).items():
        axes.loglog(*zip(*points), label=label, markersize=3, **style)


def draw_layer(axes, entries):
    for name in dict.fromkeys(entry["layer"] for entry in entries):
        points = [(e["batch"], e["value"]) for e in entries if e["layer"] == name]
        line = axes.loglog(*zip(*points), marker="o", markersize=3, label=name)[0]
        points = [(e["batch"], e["reference_value"]) for e in entries if e["layer"] == name]
        axes.loglog(*zip(*points), linestyle=":", color=line.get_color())


def titled(run):
    return f"libnvfp4 on {run['device']}, driver {run['driver']}, {run['date']}, commit {run['commit']}"


def plainly(axes, ticks):
    """Numbers as they are, and the counts of tokens that were measured."""
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda us, _: f"{us:g}"))
    axes.tick_params(labelsize=6)
    axes.grid(alpha=0.3, linewidth=0.5)


def products(run, picture, shown, whole):
    """`whole`: entries of layers, or none."""
    count = len(shown) + bool(whole)
    if not count:
        return
    rows = -(-count // COLUMNS)
    figure, grid = plt.subplots(rows, COLUMNS, figsize=(14, 2.9 * rows + 0.9), squeeze=False, layout="constrained")
    places = [axes for row in grid for axes in row]
    legend = {}
    for axes, (title, axis, entries) in zip(places, shown):
        draw_products(axes, entries, axis)
        legend.update(zip(*reversed(axes.get_legend_handles_labels())))
        axes.set_title(title, fontsize=8)
        axes.set_xlabel("tokens a group" if axis == "tokens" else "tokens, each to top-k groups", fontsize=7)
        axes.set_ylabel("µs", fontsize=7)
        plainly(axes, sorted({entry[axis] for entry in entries}))
    if whole:
        draw_layer(places[len(shown)], whole)
        plainly(places[len(shown)], sorted({entry["batch"] for entry in whole}))
        places[len(shown)].set_title("whole layers (dotted: their two products)", fontsize=8)
        places[len(shown)].set_xlabel("tokens", fontsize=7)
        places[len(shown)].legend(fontsize=5, frameon=False)
    for axes in places[count:]:
        axes.axis("off")
    figure.legend(legend.values(), legend.keys(), loc="outside lower center", ncols=len(legend) or 1, fontsize=8, frameon=False)
    figure.suptitle(titled(run), fontsize=10)
    save(figure, picture)


def quantizers(run, picture):
    entries = [entry for entry in run["entries"] if entry["metric"] == "of copy"]
    if not entries:
        return
    figure, axes = plt.subplots(figsize=(10, 0.28 * len(entries) + 1.5), layout="constrained")
    names = [entry["name"] for entry in entries]
    colours = ["C7" if entry["name"].startswith("Triton") else "C0" for entry in entries]
    drawn = axes.barh(names, [entry["value"] for entry in entries], color=colours)
    axes.bar_label(drawn, [f"{entry['value']:.2f}" for entry in entries], padding=3, fontsize=8)
    for i, entry in enumerate(entries):
        if "bar" in entry:
            axes.plot([entry["bar"]] * 2, [i - 0.4, i + 0.4], color="black", linewidth=1.5)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.05)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_xlabel("bytes a second over torch's copy_ of gigabytes (black: what is asked for)")
    figure.suptitle(titled(run), fontsize=9)
    save(figure, picture)


def save(figure, picture):
    figure.savefig(picture, metadata={"Date": None})
    plt.close(figure)


def draw(results, picture):
    run = json.loads(pathlib.Path(results).read_text())
    picture = pathlib.Path(picture)
    shown = {(title.split(",")[0], axis): (title, axis, entries) for title, axis, entries in panels(run["entries"])}
    first = [shown.pop(which) for which in CHOSEN if which in shown]
    products(run, picture, first, [entry for entry in run["entries"] if "layer" in entry])
    products(run, picture.with_name(f"{picture.stem}-shapes.svg"), list(shown.values()), [])
    quantizers(run, picture.with_name(f"{picture.stem}-quantizers.svg"))


if __name__ == "__main__":
    draw(*sys.argv[1:])
