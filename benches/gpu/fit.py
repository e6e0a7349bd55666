#!/usr/bin/env python3
"""Fits the planner's model of Hopper products (src/plan/cost_sm90.rs) to the times of sweep.py, and says what it is worth.

usage: fit SWEEP.json...      (also bench/results/h200-sweep.json) Prints the rows of COSTS, and for each kind of split how far choices are from the best.

The model is that of cost_sm90.rs, over arrays; FORMS is the table of gemm_sm90.rs. Needs numpy.
"""

import json
import math
import pathlib
import random
import sys

import numpy as np

#: Name, tokens and units of a tile, units of 64 k of a stage, blocks a processor, numbers of tokens that a tile multiplies, share
#: of a step that does not shrink with them.
FORMS = [
    ("few_{0}_8x2", 8, 2, 2, 2, (8,), 0),
    ("few_{0}_8x4", 8, 4, 2, 1, (8,), 0),
    ("few_{0}_16x4", 16, 4, 2, 1, (16,), 0),
    ("many_{1}_32", 32, 3, 2, 1, (32,), 0),
    ("many_{1}_64", 64, 3, 2, 1, (64,), 0),
    ("many_{1}_128", 128, 2, 2, 1, (72, 128), 0.6),
    ("many_{1}_256", 256, 1, 1, 1, (136, 200, 256), 0.45),
    ("many_{1}_64x1", 64, 1, 2, 1, (64,), 0),
    ("many_{1}_128x1", 128, 1, 2, 1, (72, 128), 0.7),
]
PROCESSORS, READ, VARYING, LEAST_STEPS = 132, 4.6e6, 0.8, 4.0
#: Where a fit begins: start, step, tile, cut, part.
FIRST = [(5, 0.45, 1.5, 2, 0.5), (5, 0.45, 1.5, 2, 0.5), (4, 0.52, 3, 2.5, 1.5), (3, 0.6, 1.5, 3, 1), (2, 0.8, 2, 2, 2), (2, 0.78, 1, 2.5, 2), (2, 0.72, 1, 4, 2), (2, 0.26, 0.5, 1.5, 0.5), (2, 0.33, 0.5, 1.5, 1)]
#: Candidates beyond this share of the best are no choices; a case counts most for those that are near.
FAR, NEAR = 1.7, 0.15


def up(a, b):
    return -(-a // b)


def name(form, operand, schedule):
    return f"{FORMS[form][0].format(operand, 'bf16' if operand == 'codes' else operand)}/{schedule}"


def split(case, form, lengths, groups):
    """(tiles, steps of a tile that count in full, bytes of weights, those of all token tiles); `groups`: of each length."""
    _, tokens, units, depth, _, widths, alone = FORMS[form]
    down = [up(rows, tokens) for rows in lengths]
    wide = sum(d * next(w for w in widths if up(rows, d) <= w) for rows, d in zip(lengths, down) if d)
    multiplied = alone * sum(down) * tokens + (1 - alone) * wide
    steps = up(case["k"], 64 * depth) * depth
    unit_bytes = up(case["n"], 128) * up(case["k"], 64) * 4608
    tiles = sum(down) * up(case["n"], 128 * units) * groups
    once, every = (unit_bytes * groups * count for count in (sum(rows > 0 for rows in lengths), sum(down)))
    return tiles, steps * multiplied / max(1, sum(down) * tokens), once, every


def features(form, schedule, tiles, steps, once, every, varies=False):
    """What multiplies step, tile, cut and part, and bytes of weights."""
    depth, resident = FORMS[form][3:5]
    blocks = PROCESSORS * resident
    waves, rest = divmod(tiles, blocks)
    if schedule == 0:
        whole, cut = (max(tiles / blocks + 0.5, 1.0) if varies else math.ceil(tiles / blocks)), 0
    elif schedule == 2 and waves and rest:
        whole, cut = waves - 1, rest + blocks
    else:
        whole, cut = (0, tiles) if schedule == 3 else (waves, rest)
    step, tile, waits, parts = whole * steps, whole, 0.0, 0.0
    if cut:
        workers = max(1.0, min(blocks, cut * steps / depth / LEAST_STEPS))
        alike = workers // cut * cut  # as Work has it: a few tiles are shared by as many blocks each
        workers = alike if 16 * alike >= (14 if form < 3 and alike == cut else 15) * workers else workers
        parts = workers != cut or varies
        step, tile, waits, parts = step + cut * steps / workers, tile + max(cut / workers, 1.0), float(parts), max(workers / cut, 1.0) * parts
    # A block that walks on through the token tiles of a group has its weights brought again.
    return step, tile, waits, parts, every if form < 3 and schedule == 3 else once


def microseconds(costs, rows):
    """`costs` [n, 5], `rows` [n, 5]."""
    multiply = (rows[:, :4] * costs[:, 1:]).sum(axis=1)
    return costs[:, 0] + (multiply**4 + (rows[:, 4] / READ) ** 4) ** 0.25


def known(case, form, schedule):
    """Features of the split that was timed: averages of its variants."""
    variants = case["counts"] if case["kind"] == "grouped" else [[case["rows"]] * (case["groups"] if case["kind"] == "batched" else 1)]
    parts = [split(case, form, counts, 1) for counts in variants]
    return features(form, schedule, *(sum(column) / len(parts) for column in zip(*parts)))


def expected(costs, case, form, schedule):
    """Microseconds as the planner expects them, which knows rows and groups alone."""
    groups = {"dense": 1, "batched": case["groups"]}.get(case["kind"], min(case["groups"], case["rows"]))
    average = case["rows"] if case["kind"] != "grouped" else up(case["rows"], groups)
    one = lambda lengths, varies: microseconds(costs[form : form + 1], np.array([features(form, schedule, *split(case, form, lengths, groups / len(lengths)), varies)]))[0]
    even = one([average], False)
    if case["kind"] != "grouped" or groups == 1 or average == 1:
        return even
    around = int(math.sqrt(average) + 0.5)
    lengths = [average - around, average, average + around]
    # Hardly any group is two standard deviations off; one of few rows may be empty, which costs no tile.
    varies = up(max(1, average - 2 * around), FORMS[form][1]) < up(average + 2 * around, FORMS[form][1])
    return even + VARYING * (one(lengths, varies) - even)


def sensible(case, form, schedule):
    """Whether the model is to hold: not for blocks that have a processor for themselves, nor where it has nothing to say."""
    resident = FORMS[form][4]
    tiles = split(case, form, case["counts"][0] if case["kind"] == "grouped" else [case["rows"]], case["groups"] if case["kind"] == "batched" else 1)[0]
    return (form < 3 or schedule != 3) and (schedule or resident == 1 or tiles > PROCESSORS * resident)


def fit(cases, turns=8000):
    rows = []
    for at, case in enumerate(cases):
        best = min(us for choice, us in case["us"].items() if choice not in ("", "torch"))
        for form in range(len(FORMS)):
            for schedule in range(4):
                us = case["us"].get(name(form, case["operand"], schedule), 1e9)
                if us < FAR * best and sensible(case, form, schedule):
                    rows.append((at, form, us, us / best, known(case, form, schedule)))
    form, measured = np.array([r[1] for r in rows]), np.log(np.array([r[2] for r in rows]))
    given = np.array([r[4] for r in rows], dtype=float)
    case = np.unique([r[0] for r in rows], return_inverse=True)[1]
    weight = 1 / (1 + ((np.array([r[3] for r in rows]) - 1) / NEAR) ** 2)
    total = np.bincount(case, weight)

    def loss(costs):
        # What matters is the order within a case; how far all of them are off, a little.
        error = np.log(microseconds(costs[form], given)) - measured
        inside = error - (np.bincount(case, weight * error) / total)[case]
        return float((weight * (np.minimum(inside**2, 0.04) + 0.15 * np.minimum(error**2, 0.04))).sum() / weight.sum())

    costs, dice = np.array(FIRST, dtype=float), random.Random(2)
    least = loss(costs)
    for turn in range(turns):
        trial, spread = costs.copy(), 0.4 * (1 - turn / turns) + 0.01
        one = dice.randrange(len(FORMS))
        for column in range(5):
            if dice.random() < 0.4:
                trial[one, column] = max(0.1, trial[one, column] * math.exp(dice.gauss(0, spread)))
        trial[one, 0] = min(max(trial[one, 0], 2.0), 9.0)
        now = loss(trial)
        if now < least:
            costs, least = trial, now
    off = np.abs(np.log(microseconds(costs[form], given)) - measured)
    for i, (title, *_) in enumerate(FORMS):
        print("    cost({:.1f}, {:.3f}, {:.1f}, {:.1f}, {:.1f}),".format(*costs[i]), f"// {title.format('*', '*')}: {(form == i).sum()} times, {off[form == i].mean() if (form == i).any() else 0:.3f} off")
    print(f"{len(rows)} times of {len(cases)} products, {off.mean():.3f} off")
    return costs


def chosen(costs, case, told):
    """The planner's choice; `told`: it knows the split."""
    found = []
    for form in range(len(FORMS)):
        for schedule in (3, 0, 1, 2) if form < 3 else (0, 1, 2):
            title = name(form, case["operand"], schedule)
            if title in case["us"]:
                us = microseconds(costs[form : form + 1], np.array([known(case, form, schedule)]))[0] if told else expected(costs, case, form, schedule)
                found.append((us, len(found), title))
    return min(found)[2]


def worth(costs, cases):
    def line(what, ratios):
        if ratios:
            print(f"{what:<40} {len(ratios):4} products: {sum(ratios) / len(ratios):.3f} of the best, {max(ratios):.3f} at most, {sum(r > 1.05 for r in ratios)} above 1.05, {sum(r > 1.1 for r in ratios)} above 1.10")

    kinds = {"even": lambda c: "a group" in c["label"], "routed": lambda c: "tokens to" in c["label"], "one hot expert": lambda c: "in one" in c["label"], "all": lambda c: True}
    far = []
    for case in cases:
        us = {choice: us for choice, us in case["us"].items() if choice not in ("", "torch")}
        choice, best = chosen(costs, case, False), min(us, key=us.get)
        case["ratios"] = us[choice] / us[best], us[chosen(costs, case, True)] / us[best], case["us"][""] / us[best]
        far.append((case["ratios"][0], case["label"], choice, us[choice], best, us[best], case["us"].get("torch", 0.0)))
    for kind, which in kinds.items():
        for at, what in enumerate(("", ", split known", ", as timed")):
            line(kind + what, [case["ratios"][at] for case in cases if which(case)])
    for ratio, label, choice, us, best, least, torch in sorted(far, reverse=True)[:25]:
        print(f"{ratio:.3f} {label:<68} {choice:<18} {us:8.1f}  {best:<18} {least:8.1f}" + (f"  torch {torch:.1f}" if torch else ""))


def main():
    read = [json.loads(pathlib.Path(path).read_text()) for path in sys.argv[1:]]
    cases = [case for told in read for case in (told["products"] if isinstance(told, dict) else told)]
    cases = [case for case in cases if case["operand"] != "codes"]
    worth(fit([case for case in cases if not case["flags"]]), cases)


if __name__ == "__main__":
    main()
