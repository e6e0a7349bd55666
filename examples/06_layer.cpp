// C++: a norm, a product and SwiGLU in its epilogue, through the wrapper; handles go by themselves and errors throw.
#include <nvfp4.hpp>

#include <cmath>
#include <cstdio>
#include <vector>

namespace {

constexpr std::int64_t tokens = 16, hidden = 128, inner = 96;

float* noise(const nvfp4::Buffer& buffer, float scale, std::uint32_t seed) {
  auto* x = buffer.data<float>();
  for (std::size_t i = 0; i < buffer.size() / sizeof(float); i++) {
    seed = seed * 1664525u + 1013904223u;
    x[i] = scale * (static_cast<float>(seed >> 8) / 8388608.0f - 1.0f);
  }
  return x;
}

float silu_up(const float* x, const float* gate, const float* up) {
  double g = 0, u = 0;
  for (std::int64_t k = 0; k < hidden; k++) g += double(x[k]) * gate[k], u += double(x[k]) * up[k];
  return static_cast<float>(g / (1 + std::exp(-g)) * u);
}

}  // namespace

int main() try {
  const nvfp4::Context context;
  const nvfp4::Stream stream(context);
  const auto memory = [&](std::size_t bytes) { return nvfp4::Buffer(context, bytes, stream); };
  const auto x = memory(tokens * hidden * 4), weight = memory(hidden * 4), w = memory(2 * inner * hidden * 4);
  noise(x, 1.0f, 1);
  noise(w, 0.2f, 2);
  for (std::int64_t k = 0; k < hidden; k++) weight.data<float>()[k] = 1.0f;

  auto prepare = nvfp4::args<nvfp4_weights_prepare_args>();
  prepare.groups = 1, prepare.rows = 2 * inner, prepare.cols = hidden, prepare.gate_up = 1;
  prepare.source = NVFP4_WEIGHTS_SOURCE_VALUES, prepare.src = w.data(), prepare.src_dtype = NVFP4_DTYPE_F32;
  const auto storage = memory(nvfp4::Weights::storage_size(context, prepare));
  prepare.storage = storage.data(), prepare.storage_size = storage.size();
  const nvfp4::Weights weights(context, prepare, stream);

  // The norm's quantized output, a decode scale a token, is what the product reads.
  const auto codes = memory(tokens * hidden / 2), scales = memory(tokens * hidden / 16), decode = memory(tokens * 4);
  const auto normed = memory(tokens * hidden * 4);
  auto norm = nvfp4::args<nvfp4_rmsnorm_quantize_args>();
  norm.src = x.data(), norm.weight = weight.data(), norm.src_dtype = norm.weight_dtype = NVFP4_DTYPE_F32;
  norm.rows = tokens, norm.cols = hidden, norm.eps = 1e-6f, norm.normed = normed.data();
  norm.out.codes = codes.data<std::uint8_t>(), norm.out.scales = scales.data<std::uint8_t>();
  norm.out.scope = NVFP4_SCOPE_ROW, norm.out.decode_scales = decode.data<float>();
  nvfp4::rmsnorm_quantize(context, norm, stream);

  const auto out = memory(tokens * inner * 4);
  auto gemm = nvfp4::args<nvfp4_gemm_args>();
  gemm.weights = weights.get(), gemm.rows = tokens, gemm.a_dtype = NVFP4_DTYPE_NVFP4;
  gemm.a_quantized.codes = norm.out.codes, gemm.a_quantized.scales = norm.out.scales;
  gemm.a_quantized.scope = NVFP4_SCOPE_ROW, gemm.a_quantized.decode_scales = norm.out.decode_scales;
  gemm.activation = NVFP4_ACTIVATION_SWIGLU, gemm.out = out.data(), gemm.out_dtype = NVFP4_DTYPE_F32;
  const std::size_t bytes = nvfp4::gemm_workspace_size(context, gemm);
  const auto scratch = memory(bytes + 1);
  gemm.workspace = bytes > 0 ? scratch.data() : nullptr, gemm.workspace_size = bytes;
  nvfp4::gemm(context, gemm, stream);
  stream.synchronize();

  double error = 0, size = 0;
  for (std::int64_t t = 0; t < tokens; t++)
    for (std::int64_t i = 0; i < inner; i++) {
      const auto* matrix = w.data<float>();
      const double exact = silu_up(normed.data<float>() + t * hidden, matrix + i * hidden, matrix + (inner + i) * hidden);
      error += std::pow(out.data<float>()[t * inner + i] - exact, 2), size += exact * exact;
    }
  std::printf("%lld tokens through norm, product and SwiGLU: relative error %.3f\n", static_cast<long long>(tokens), std::sqrt(error / size));
  return 0;
} catch (const nvfp4::Error& error) {
  std::fprintf(stderr, "%s: %s\n", nvfp4::status_name(error.status()), error.what());
  return 1;
}
