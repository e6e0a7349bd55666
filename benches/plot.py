"""Draws the figures of a benchmark run beside their peers: plot.py RESULTS.json PICTURE.svg"""
import json
import sys

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "nvfp4"  # the same figures give the same file
import matplotlib.pyplot as plt


def main(results, picture):
    figures = json.load(open(results))
    names = [f"{f['name']}  ({f['value']:.3g} {f['metric']})" for f in figures]
    ratios = [f["ratio"] for f in figures]
    height = 0.27 * len(figures) + 1.2
    plot, axes = plt.subplots(figsize=(10, height), layout="constrained")
    peers = list(dict.fromkeys(f["reference"] for f in figures))
    colours = {peer: f"C{i}" for i, peer in enumerate(peers)}
    bars = axes.barh(names, ratios, color=[colours[f["reference"]] for f in figures])
    axes.bar_label(bars, [f"{r:.2f}" for r in ratios], padding=3, fontsize=8)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=8)
    axes.set_xlabel("rate over the peer's, measured in turns in one run (1: as fast)")
    handles = [plt.Rectangle((0, 0), 1, 1, color=colours[p]) for p in peers]
    axes.legend(handles, peers, fontsize=8, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    one = figures[0]
    plot.suptitle(f"libnvfp4 on {one['device']}, {one['date']}, commit {one['commit']}", fontsize=10)
    plot.savefig(picture, metadata={"Date": None})


main(*sys.argv[1:])
