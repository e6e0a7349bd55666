#!/usr/bin/env python3
"""Draws a run of bench.py: rates of the quantizers, and products over tokens beside torch. plot.py RESULTS.json PICTURE.svg"""

import json
import sys

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "nvfp4"  # the same figures give the same file
import matplotlib.pyplot as plt


def bars(axes, entries):
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


def lines(axes, name, entries):
    tokens = [entry["tokens"] for entry in entries]
    axes.loglog(tokens, [entry["value"] for entry in entries], marker="o", markersize=3, label="libnvfp4")
    peers = [(entry["tokens"], entry["reference_value"]) for entry in entries if "reference_value" in entry]
    if peers:
        axes.loglog(*zip(*peers), marker="s", markersize=3, label=entries[0]["reference"])
    axes.set_title(name, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=6, frameon=False)


def draw(results, picture):
    run = json.load(open(results))
    rates = [entry for entry in run["entries"] if entry["metric"] == "of copy"]
    shapes = list(dict.fromkeys(entry["shape"] for entry in run["entries"] if "shape" in entry))
    rows = -(-len(shapes) // 4)
    plot = plt.figure(figsize=(12, 0.3 * len(rates) + 2.1 * rows + 1.5), layout="constrained")
    above, below = plot.subfigures(2, 1, height_ratios=[0.3 * len(rates) + 1, 2.1 * rows + 0.5])
    bars(above.subplots(), rates)
    grid = below.subplots(rows, 4, squeeze=False) if rows else []
    for axes, shape in zip([a for row in grid for a in row], shapes):
        lines(axes, shape, [entry for entry in run["entries"] if entry.get("shape") == shape])
    for axes in [a for row in grid for a in row][len(shapes) :]:
        axes.axis("off")
    below.supxlabel("tokens a group", fontsize=8)
    below.supylabel("microseconds", fontsize=8)
    plot.suptitle(f"libnvfp4 on {run['device']}, driver {run['driver']}, {run['date']}, commit {run['commit']}", fontsize=10)
    plot.savefig(picture, metadata={"Date": None})


if __name__ == "__main__":
    draw(*sys.argv[1:])
