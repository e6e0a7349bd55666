"""The pure parts of the GPU benchmark: what is asked of which shape, a tuning file's seal, and the picture."""

import json

import pytest
import table


def shape(name):
    return next(s for s in table.SHAPES if s.name == name)


@pytest.mark.parametrize(
    "name, tokens, expected",
    [
        ("DeepSeek-V4-Pro L1", 1, [("read", 0.92)]),
        ("DeepSeek-V4-Pro L1", 16, [("read", 0.85)]),
        ("DeepSeek-V4-Pro L1", 64, [("roof", 0.80)]),
        ("DeepSeek-V4-Pro L1", 128, [("cuBLAS", 0.97)]),
        ("DeepSeek-V4-Pro L1", 1024, [("cuBLAS", 1.00)]),
        ("DeepSeek-V4-Pro L2", 512, [("cuBLAS", 0.97)]),
        ("DeepSeek-V4-Pro L2", 128, []),
        ("Qwen3-30B L1", 4, [("read", 0.92)]),
        ("Qwen3-30B L1", 128, [("cuBLAS", 0.92)]),
        ("Qwen3-30B L1", 512, [("cuBLAS", 0.95)]),
        ("Qwen3-30B L2", 1, []),  # 113 MB
        ("output projection 8192", 1024, [("cuBLAS", 1.00)]),
        ("DeepSeek-V4-Flash L2", 1, []),  # 151 MB
    ],
)
def test_what_is_asked(name, tokens, expected):
    assert table.asked(shape(name), tokens) == expected


def test_weights_are_counted_as_they_are_stored():
    assert 6 * shape("DeepSeek-V4-Pro L1").group_bytes == 148_635_648
    nemotron = shape("Nemotron-3 Nano L1")  # 1856 rows are 14.5 units
    assert nemotron.group_bytes == 15 * 42 * 4608


def test_a_ceiling_is_the_later_of_its_parts():
    assert table.ceiling_us("read", 50.0, 7e11, 700.0) == 50.0
    assert table.ceiling_us("cuBLAS", 50.0, 7e11, 700.0) == pytest.approx(1000.0)
    assert table.ceiling_us("roof", 50.0, 7e11, 700.0) == pytest.approx(1000.0)
    assert table.ceiling_us("roof", 5000.0, 7e11, 700.0) == 5000.0


def test_portable_choices():
    pro, wide = shape("DeepSeek-V4-Pro L1"), shape("output projection 8192")
    assert table.portable_choice(pro, 1, 132) == ("nvfp4_gemm_bf16_8", 1)
    assert table.portable_choice(pro, 512, 132) == ("nvfp4_gemm_bf16_128", 1)
    assert table.portable_choice(wide, 1, 132) == ("nvfp4_gemm_bf16_8", 4)
    line = table.tuning_line(pro, 16, ("nvfp4_gemm_bf16_16", 1))
    assert line == "gemm bf16 groups=48 tokens=16 n=6144 k=7168 plain nvfp4_gemm_bf16_16 splits=1\n"


def test_a_seal_is_fnv_1a():
    assert table.sealed("a") == "achecksum af63dc4c8601ec8c\n"


def run_of(entries):
    return {"device": "Some GPU", "driver": "1.2", "date": "2026-01-01", "commit": "abc", "entries": entries}


def sweep(title, axis):
    return [
        {"name": f"{title} {t}", "metric": "us", "value": 10.0 * t, "shape": title, axis: t, "roof_us": 5.0 * t,
         "peers": {"torch._grouped_mm bf16": 20.0 * t, "torch fp8 rowwise": 15.0 * t}}
        for t in (16, 1, 64)
    ]


def test_panels_and_lines():
    plot = pytest.importorskip("plot")
    title = "DeepSeek-V4-Pro L1, 48 x 7168 to 6144"
    entries = sweep(title, "tokens") + sweep(title, "batch") + [{"name": "single", "metric": "us", "value": 1.0, "shape": "x", "batch": 1, "peers": {}}]
    found = plot.panels(entries)
    assert [(name, axis, [e[axis] for e in rows]) for name, axis, rows in found] == [(title, "tokens", [1, 16, 64]), (title, "batch", [1, 16, 64])]
    drawn = plot.lines(found[0][2], "tokens")
    assert drawn["libnvfp4"][1] == [(1, 10.0), (16, 160.0), (64, 640.0)]
    assert drawn["torch bf16"][1][0] == (1, 20.0) and drawn["torch fp8 rowwise"][1][-1] == (64, 960.0)
    assert plot.MARLIN[0] not in drawn and plot.MARLIN[0] in plot.lines(found[1][2], "batch")


def test_pictures(tmp_path):
    plot = pytest.importorskip("plot")
    layer = [{"name": f"l{m}", "metric": "us", "value": 2.0 * m, "reference_value": 1.0 * m, "batch": m, "layer": "some, bf16"} for m in (1, 8)]
    rate = [{"name": "quantize static", "metric": "of copy", "value": 0.9, "bar": 0.88}, {"name": "Triton", "metric": "of copy", "value": 0.4}]
    path = tmp_path / "some.json"
    path.write_text(json.dumps(run_of(sweep("one", "tokens") + sweep("dense", "tokens") + layer + rate)))
    for _ in range(2):
        plot.draw(path, tmp_path / "some.svg")
        texts = [(tmp_path / name).read_bytes() for name in ("some.svg", "some-shapes.svg", "some-quantizers.svg")]
        assert all(text.startswith(b"<?xml") for text in texts)
        first = texts if _ == 0 else first
    assert texts == first  # the same figures give the same files
    path.write_text(json.dumps(run_of([])))
    plot.draw(path, tmp_path / "none.svg")
    assert not (tmp_path / "none.svg").exists()
