"""libnvfp4 as the linear layers of vLLM, from a ModelOpt NVFP4 checkpoint (`nvfp4 quantize`, `nvfp4 convert --to modelopt`).

    import vllm_hook                                     # or as a `vllm.general_plugins` entry point
    LLM("model-nvfp4", quantization="libnvfp4")

vLLM asks a quantization config for a method of each linear layer; the method below declares the checkpoint's tensors, prepares
them once after loading, and runs `torch.ops.nvfp4.*` in its forward: opaque to torch.compile, captured by CUDA graphs. SGLang's
interface has the same three methods (`create_weights`, `process_weights_after_loading`, `apply`) under
`sglang.srt.layers.quantization.base_config`.

The part that computes (`prepare`, `apply`) needs torch alone, and running this file checks it. The classes need vLLM, whose
interface moves: they were written for its 0.10 line and have not been run by this project's tests.
"""

from __future__ import annotations

import fnmatch
import sys

try:
    import torch

    import nvfp4.torch as nv
except ImportError:
    torch = None

try:
    from vllm.model_executor.layers.linear import LinearBase, LinearMethodBase, UnquantizedLinearMethod
    from vllm.model_executor.layers.quantization import register_quantization_config
    from vllm.model_executor.layers.quantization.base_config import QuantizationConfig
    from vllm.model_executor.parameter import GroupQuantScaleParameter, ModelWeightParameter, PerTensorScaleParameter
except ImportError:
    LinearMethodBase = None


def prepare(codes, scales, decode_scales):
    """A checkpoint's tensors, fused shards one below the other, as weights for the kernels."""
    decode = decode_scales.reshape(-1).float()
    if not torch.all(decode == decode[0]):
        # One matrix has one decode scale. Never averaged: the command merges them and says what that costs.
        raise ValueError(f"the shards have decode scales {decode.tolist()}; run `nvfp4 convert --merge-scales`")
    return nv.Weights(codes=codes.contiguous(), scales=scales.contiguous(), decode_scales=decode[:1].contiguous())


def is_excluded(module, patterns, fused):
    """Whether a checkpoint keeps a module as it is. `fused`: layers that the engine made of several, "qkv_proj": ["q_proj", ...]."""
    parent, _, leaf = module.rpartition(".")
    names = [f"{parent}.{part}" if parent else part for part in fused.get(leaf, [leaf])]
    kept = [any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns) for name in names]
    if any(kept) != all(kept):
        raise ValueError(f"{module}: some of {names} are NVFP4 and some are not")
    return all(kept)


def apply(x, weights, bias=None, quantize_activations=False):
    """[..., K] bf16 -> [..., N] bf16; activations as they are (more exact) or NVFP4 with a decode scale a token."""
    rows = x.reshape(-1, x.shape[-1])
    a = nv.quantize(rows, scope=nv.Scope.ROW) if quantize_activations else rows
    return nv.gemm(a, weights, bias=bias, dtype=x.dtype).reshape(*x.shape[:-1], weights.rows)


if LinearMethodBase is not None and torch is not None:

    class NvFp4LinearMethod(LinearMethodBase):
        def create_weights(self, layer, input_size_per_partition, output_partition_sizes, input_size, output_size, params_dtype, **extra):
            loader, rows, k = extra.get("weight_loader"), sum(output_partition_sizes), input_size_per_partition
            shape = {"input_dim": 1, "output_dim": 0, "weight_loader": loader}
            codes = torch.empty(rows, k // 2, dtype=torch.uint8)
            scales = torch.empty(rows, k // 16, dtype=torch.float8_e4m3fn)
            each = torch.empty(len(output_partition_sizes), dtype=torch.float32)
            layer.register_parameter("weight", ModelWeightParameter(data=codes, **shape))
            layer.register_parameter("weight_scale", GroupQuantScaleParameter(data=scales, **shape))
            layer.register_parameter("weight_scale_2", PerTensorScaleParameter(data=each, weight_loader=loader))
            layer.register_parameter("input_scale", PerTensorScaleParameter(data=each.clone(), weight_loader=loader))

        def process_weights_after_loading(self, layer):
            layer.nvfp4_weights = prepare(layer.weight.data, layer.weight_scale.data, layer.weight_scale_2.data)
            for name in ("weight", "weight_scale", "weight_scale_2", "input_scale"):
                delattr(layer, name)  # the prepared copy is the only one

        def apply(self, layer, x, bias=None):
            return apply(x, layer.nvfp4_weights, bias)

    @register_quantization_config("libnvfp4")
    class NvFp4Config(QuantizationConfig):
        def __init__(self, excluded):
            super().__init__()
            self.excluded = excluded

        def get_name(self):
            return "libnvfp4"

        def get_supported_act_dtypes(self):
            return [torch.bfloat16, torch.float16]

        @classmethod
        def get_min_capability(cls):
            return 80

        @staticmethod
        def get_config_filenames():
            return ["hf_quant_config.json"]

        @classmethod
        def override_quantization_method(cls, hf_quant_cfg, user_quant, **extra):
            # The checkpoint's own config names ModelOpt: without this vLLM refuses another name.
            return "libnvfp4" if user_quant == "libnvfp4" else None

        @classmethod
        def from_config(cls, config):
            config = config.get("quantization", config)
            return cls(config.get("exclude_modules") or config.get("ignore") or [])

        def get_quant_method(self, layer, prefix):
            if not isinstance(layer, LinearBase):
                return None
            return UnquantizedLinearMethod() if is_excluded(prefix, self.excluded, self.packed_modules_mapping) else NvFp4LinearMethod()


def main():
    fused = {"qkv_proj": ["q_proj", "k_proj", "v_proj"]}
    kept = ["lm_head", "model.vision*", "l.1.q_proj", "l.1.k_proj", "l.1.v_proj"]
    found = [is_excluded(m, kept, fused) for m in ("lm_head", "model.vision.a", "l.1.qkv_proj", "l.0.qkv_proj", "l.0.up_proj")]
    assert found == [True, True, True, False, False]
    if torch is None:
        print("torch is not installed: names of modules were checked, products were not")
        return 0
    where = "cuda" if torch.cuda.is_available() and nv.available("cuda") else "cpu"
    w = torch.randn(96, 128, dtype=torch.bfloat16, device=where)
    q = nv.quantize(w)
    weights = prepare(q.codes, q.scales, q.decode_scales)
    x = torch.randn(2, 5, 128, dtype=torch.bfloat16, device=where)
    exact = x.float() @ w.float().T
    for quantized in (False, True):
        y = apply(x, weights, quantize_activations=quantized)
        error = ((y.float() - exact).norm() / exact.norm()).item()
        print(f"{where}, {'NVFP4' if quantized else 'bf16'} activations: relative error {error:.3f}")
        assert error < 0.2
    print("vLLM is not installed: its classes were not run" if LinearMethodBase is None else "registered with vLLM as libnvfp4")
    return 0


if __name__ == "__main__":
    sys.exit(main())
