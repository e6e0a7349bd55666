// The C++ wrapper on the CPU: every function of the library is called through it and does what it says; errors throw;
// handles are destroyed once. Prints one line a check, like the C tests.
#include <nvfp4.hpp>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <type_traits>
#include <vector>

namespace {

int passed = 0, failed = 0;

void expect(bool good, const char* what) {
  std::printf("%s %s\n", good ? "ok" : "FAILED", what);
  good ? ++passed : ++failed;
}

template <typename F>
void refuses(nvfp4_status status, const char* part, F call, const char* what) {
  try {
    call();
    expect(false, what);
  } catch (const nvfp4::Error& error) {
    expect(error.status() == status && std::strstr(error.what(), part) != nullptr, what);
  }
}

/// Memory of the context's pool: aligned for every argument.
struct Memory {
  const nvfp4::Context& context;
  const nvfp4::Stream& stream;
  std::vector<nvfp4::Buffer> kept{};

  template <typename T>
  T* make(std::size_t count, T fill = T{}) {
    kept.emplace_back(context, count * sizeof(T), stream);
    T* data = kept.back().template data<T>();
    for (std::size_t i = 0; i < count; i++) data[i] = fill;
    return data;
  }
  float* values(std::size_t count) {
    float* data = make<float>(count);
    std::uint32_t state = 7;
    for (std::size_t i = 0; i < count; i++) {
      state = state * 1664525u + 1013904223u;
      data[i] = static_cast<float>(state >> 8) / 8388608.0f - 1.0f;
    }
    return data;
  }
};

constexpr std::int64_t ROWS = 32, K = 64;

nvfp4_quantized target(Memory& memory, std::int64_t rows = ROWS, std::int64_t cols = K) {
  nvfp4_quantized out{};
  out.codes = memory.make<std::uint8_t>(static_cast<std::size_t>(rows * cols / 2));
  out.scales = memory.make<std::uint8_t>(static_cast<std::size_t>(rows * cols / 16));
  out.decode_scales = memory.make<float>(static_cast<std::size_t>(rows));
  return out;
}

double difference(const float* a, const float* b, std::size_t count) {
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < count; i++) {
    error += (a[i] - b[i]) * static_cast<double>(a[i] - b[i]);
    norm += static_cast<double>(b[i]) * b[i];
  }
  return std::sqrt(error / norm);
}

void library() {
  expect(nvfp4::version() / 10000 == NVFP4_VERSION_MAJOR && nvfp4::version_string()[0] != 0, "version");
  expect(nvfp4::abi_version() == NVFP4_ABI_VERSION, "abi_version");
  expect(std::strcmp(nvfp4::status_name(NVFP4_STATUS_SUCCESS), "NVFP4_STATUS_SUCCESS") == 0, "status_name");
  expect(nvfp4::api().struct_size == sizeof(nvfp4_api_table), "api");
  expect(nvfp4::backend_query(NVFP4_BACKEND_CPU).available == 1, "backend_query");
  int messages = 0;
  const auto count = [](nvfp4_log_level, const char*, void* user) { ++*static_cast<int*>(user); };
  nvfp4::set_log_callback(count, &messages, NVFP4_LOG_LEVEL_INFO);
  refuses(NVFP4_STATUS_INVALID_ARGUMENT, "backend", [] { nvfp4::backend_query(77); }, "errors throw the message");
  nvfp4::set_log_callback(nullptr, nullptr, NVFP4_LOG_LEVEL_ERROR);
  expect(messages > 0, "set_log_callback");
  expect(!nvfp4::last_message().empty(), "last_message");
}

void handles(const nvfp4::Context& context, const nvfp4::Stream& stream) {
  static_assert(!std::is_copy_constructible<nvfp4::Buffer>::value, "handles are not copied");
  static_assert(std::is_nothrow_move_constructible<nvfp4::Graph>::value, "handles are moved");
  expect(context.info().backend == NVFP4_BACKEND_CPU, "context info");
  context.clear_faults();
  expect(context.faults().flags == 0, "faults");
  context.prepare();
  context.prepare(nvfp4::args<nvfp4_prepare_args>());
  expect(context.tuning_load(nullptr) == 0, "tuning_load");
  refuses(NVFP4_STATUS_UNSUPPORTED, "CPU", [&] { context.tuning_save("/nowhere"); }, "tuning_save has nothing to save on the CPU");
  context.synchronize();
  expect(context.feature_supported(NVFP4_FEATURE_GRAPH), "feature_supported");
  auto options = nvfp4::args<nvfp4_context_options>();
  options.threads = 2;
  expect(nvfp4::Context(options).info().threads == 2, "context with options");
  expect(nvfp4::Context(NVFP4_BACKEND_CPU, 0).get() != nullptr, "context of a backend");

  auto borrowed = nvfp4::Stream::borrow(context, nullptr);
  borrowed.synchronize();
  expect(borrowed.query(), "stream");
  nvfp4_stream* raw = borrowed.get();
  nvfp4::Stream moved = std::move(borrowed);
  expect(moved.get() == raw && !borrowed, "a move leaves nothing behind");
  moved.close();
  expect(!moved, "close");
  nvfp4_stream* released = nvfp4::Stream(context).release();
  expect(nvfp4_stream_destroy(released) == NVFP4_STATUS_SUCCESS, "release");

  const nvfp4::Event begin(context), end(context);
  begin.record(stream);
  end.record(stream);
  end.wait(stream);
  end.synchronize();
  expect(end.query() && begin.elapsed_ms(end) >= 0, "events");

  {
    const nvfp4::Buffer a(context, 64, stream), b(context, 64, stream);
    const std::uint64_t sent = 0x1122334455667788;
    std::uint64_t got = 0;
    a.upload(&sent, sizeof sent, stream, 8);
    b.copy_from(a, 16, stream, 16, 8);
    b.download(&got, sizeof got, stream, 16);
    stream.synchronize();
    expect(got == sent && a.size() == 64, "buffers");
    expect(context.pool_stats().bytes_in_use >= 128, "pool_stats");
  }
  context.pool_trim();
}

void quantizers(const nvfp4::Context& context, const nvfp4::Stream& stream, Memory& memory) {
  float* x = memory.values(ROWS * K);
  auto quantize = nvfp4::args<nvfp4_quantize_args>();
  quantize.src = x;
  quantize.src_dtype = NVFP4_DTYPE_F32;
  quantize.rows = ROWS;
  quantize.cols = K;
  quantize.out = target(memory);
  expect(nvfp4::quantize_workspace_size(context, quantize) == 0, "quantize_workspace_size");
  nvfp4::quantize(context, quantize, stream);

  auto amax = nvfp4::args<nvfp4_amax_scale_args>();
  amax.src = x;
  amax.src_dtype = NVFP4_DTYPE_F32;
  amax.rows = ROWS;
  amax.cols = K;
  amax.decode_scales = memory.make<float>(1);
  (void)nvfp4::amax_scale_workspace_size(context, amax);
  nvfp4::amax_scale(context, amax, stream);
  expect(amax.decode_scales[0] == quantize.out.decode_scales[0], "amax_scale");

  auto dequantize = nvfp4::args<nvfp4_dequantize_args>();
  dequantize.input.codes = quantize.out.codes;
  dequantize.input.scales = quantize.out.scales;
  dequantize.input.decode_scales = quantize.out.decode_scales;
  dequantize.rows = ROWS;
  dequantize.cols = K;
  dequantize.dst = memory.make<float>(ROWS * K);
  dequantize.dst_dtype = NVFP4_DTYPE_F32;
  nvfp4::dequantize(context, dequantize, stream);
  const double error = difference(static_cast<float*>(dequantize.dst), x, ROWS * K);
  expect(error > 0.02 && error < 0.12, "quantize and dequantize");

  auto norm = nvfp4::args<nvfp4_rmsnorm_quantize_args>();
  norm.src = x;
  norm.src_dtype = norm.weight_dtype = NVFP4_DTYPE_F32;
  norm.rows = ROWS;
  norm.cols = K;
  norm.weight = memory.make<float>(K, 1.0f);
  norm.eps = 1e-6f;
  norm.out = target(memory);
  (void)nvfp4::rmsnorm_quantize_workspace_size(context, norm);
  nvfp4::rmsnorm_quantize(context, norm, stream);

  // One stream with weight one is the plain norm.
  auto hyper = nvfp4::args<nvfp4_hc_rmsnorm_quantize_args>();
  hyper.streams = x;
  hyper.src_dtype = hyper.weight_dtype = NVFP4_DTYPE_F32;
  hyper.stream_count = 1;
  hyper.mix = memory.make<float>(ROWS, 1.0f);
  hyper.rows = ROWS;
  hyper.cols = K;
  hyper.weight = norm.weight;
  hyper.eps = norm.eps;
  hyper.out = target(memory);
  (void)nvfp4::hc_rmsnorm_quantize_workspace_size(context, hyper);
  nvfp4::hc_rmsnorm_quantize(context, hyper, stream);
  expect(std::memcmp(norm.out.codes, hyper.out.codes, ROWS * K / 2) == 0, "rmsnorm_quantize and hc_rmsnorm_quantize");

  auto swiglu = nvfp4::args<nvfp4_swiglu_quantize_args>();
  swiglu.src = x;
  swiglu.src_dtype = NVFP4_DTYPE_F32;
  swiglu.rows = ROWS;
  swiglu.width = K / 2;
  swiglu.activation = NVFP4_ACTIVATION_SWIGLU;
  swiglu.out = target(memory, ROWS, K / 2);
  (void)nvfp4::swiglu_quantize_workspace_size(context, swiglu);
  nvfp4::swiglu_quantize(context, swiglu, stream);
  expect(swiglu.out.decode_scales[0] > 0, "swiglu_quantize");

  auto stage = nvfp4::args<nvfp4_stage_moe_inputs_args>();
  stage.src = x;
  stage.src_dtype = NVFP4_DTYPE_F32;
  stage.tokens = ROWS;
  stage.hidden = K;
  stage.codes = memory.make<std::uint8_t>(ROWS * K / 2);
  stage.packed_scales = memory.make<std::int32_t>(ROWS * K / 64);
  nvfp4::stage_moe_inputs(context, stage, stream);
  expect(stage.packed_scales[0] != 0, "stage_moe_inputs");

  refuses(NVFP4_STATUS_INVALID_ARGUMENT, "cols", [&] {
    quantize.cols = 63;
    nvfp4::quantize(context, quantize, stream);
  }, "a refused argument throws");
}

void layouts(const nvfp4::Context& context, const nvfp4::Stream& stream, Memory& memory) {
  auto size = nvfp4::args<nvfp4_scales_size_args>();
  size.scale_layout = NVFP4_SCALE_LAYOUT_TILED_128X4;
  size.rows = 130;
  size.cols = 96;
  const std::size_t bytes = nvfp4::scales_size(size);
  expect(bytes == 256 * 8, "scales_size");

  auto tile = nvfp4::args<nvfp4_tile_scales_args>();
  auto* linear = memory.make<std::uint8_t>(130 * 6);
  for (int i = 0; i < 130 * 6; i++) linear[i] = static_cast<std::uint8_t>(i % 127);
  tile.linear = linear;
  tile.tiled = memory.make<std::uint8_t>(bytes);
  tile.scale_layout = NVFP4_SCALE_LAYOUT_TILED_128X4;
  tile.rows = 130;
  tile.blocks = 6;
  nvfp4::tile_scales(context, tile, stream);
  tile.linear = memory.make<std::uint8_t>(130 * 6);
  nvfp4::untile_scales(context, tile, stream);
  expect(std::memcmp(linear, tile.linear, 130 * 6) == 0, "tile_scales and untile_scales");

  auto pairs = nvfp4::args<nvfp4_interleave_gate_up_args>();
  auto* rows = memory.make<std::uint8_t>(32 * 16);
  for (int i = 0; i < 32 * 16; i++) rows[i] = static_cast<std::uint8_t>(i * 7);
  auto* mixed = memory.make<std::uint8_t>(32 * 16);
  auto* back = memory.make<std::uint8_t>(32 * 16);
  pairs.count = 1;
  pairs.half_rows = 16;
  pairs.row_bytes = 16;
  pairs.src = rows;
  pairs.dst = mixed;
  nvfp4::interleave_gate_up(context, pairs, stream);
  pairs.src = mixed;
  pairs.dst = back;
  nvfp4::deinterleave_gate_up(context, pairs, stream);
  expect(std::memcmp(rows, mixed, 512) != 0 && std::memcmp(rows, back, 512) == 0, "interleave and deinterleave");

  auto ends = nvfp4::args<nvfp4_group_ends_args>();
  auto* counts = memory.make<std::int32_t>(3, 5);
  ends.counts = counts;
  ends.ends = memory.make<std::int32_t>(3);
  ends.count = 3;
  nvfp4::group_ends(context, ends, stream);
  expect(ends.ends[0] == 5 && ends.ends[2] == 15, "group_ends");
}

void products(const nvfp4::Context& context, const nvfp4::Stream& stream, Memory& memory) {
  constexpr std::int64_t N = 48;
  auto prepare = nvfp4::args<nvfp4_weights_prepare_args>();
  prepare.groups = 1;
  prepare.rows = N;
  prepare.cols = K;
  prepare.source = NVFP4_WEIGHTS_SOURCE_VALUES;
  prepare.src = memory.values(N * K);
  prepare.src_dtype = NVFP4_DTYPE_F32;
  prepare.storage_size = nvfp4::Weights::storage_size(context, prepare);
  prepare.storage = memory.make<std::uint8_t>(prepare.storage_size);
  const nvfp4::Weights weights(context, prepare, stream);
  expect(weights.info().rows == N && weights.info().cols == K, "weights info");

  auto out = nvfp4::args<nvfp4_weights_export_args>();
  out.codes = memory.make<std::uint8_t>(N * K / 2);
  out.scales = memory.make<std::uint8_t>(N * K / 16);
  out.decode_scales = memory.make<float>(1);
  weights.write(context, out, stream);
  expect(out.decode_scales[0] > 0, "weights export");

  auto gemm = nvfp4::args<nvfp4_gemm_args>();
  gemm.weights = weights.get();
  gemm.rows = ROWS;
  gemm.a = memory.make<std::uint16_t>(ROWS * K, 0x3F80);  // bf16 one
  gemm.a_dtype = NVFP4_DTYPE_BF16;
  gemm.out = memory.make<float>(ROWS * N);
  gemm.out_dtype = NVFP4_DTYPE_F32;
  const auto scratch = [&](std::size_t bytes) {
    gemm.workspace_size = bytes;
    gemm.workspace = bytes > 0 ? memory.make<std::uint8_t>(bytes) : nullptr;
  };
  scratch(nvfp4::gemm_workspace_size(context, gemm));
  nvfp4::gemm(context, gemm, stream);
  const auto* single = static_cast<const float*>(gemm.out);

  auto tune = nvfp4::args<nvfp4_tune_args>();
  tune.operation = NVFP4_OPERATION_GROUPED_GEMM;
  tune.args = &gemm;
  expect(nvfp4::tune(context, tune, stream).candidates == 0, "tune has nothing to choose on the CPU");

  auto grouped = gemm;
  grouped.groups.grouping = NVFP4_GROUPING_ENDS;
  grouped.groups.count = 1;
  grouped.groups.ends = memory.make<std::int32_t>(1, static_cast<std::int32_t>(ROWS));
  grouped.out = memory.make<float>(ROWS * N);
  scratch(nvfp4::grouped_gemm_workspace_size(context, grouped));
  grouped.workspace = gemm.workspace;
  grouped.workspace_size = gemm.workspace_size;

  stream.begin_capture();
  nvfp4::grouped_gemm(context, grouped, stream);
  const auto graph = nvfp4::Graph::end_capture(stream);
  stream.begin_capture();
  nvfp4::grouped_gemm(context, grouped, stream);
  const auto twin = nvfp4::Graph::end_capture(stream);
  graph.instantiate();
  graph.update(twin);
  graph.launch(stream);
  stream.synchronize();
  expect(graph.node_count() == 1, "graphs");
  expect(std::memcmp(single, grouped.out, ROWS * N * sizeof(float)) == 0 && single[0] != 0, "gemm and grouped_gemm");
}

template <typename Args>
void scratch(Memory& memory, Args& args, std::size_t bytes) {
  args.workspace_size = bytes;
  args.workspace = bytes > 0 ? memory.make<std::uint8_t>(bytes) : nullptr;
}

nvfp4::Weights prepared(const nvfp4::Context& context, const nvfp4::Stream& stream, Memory& memory, std::int64_t groups,
                        std::int64_t rows, std::int64_t cols) {
  auto args = nvfp4::args<nvfp4_weights_prepare_args>();
  args.groups = groups;
  args.rows = rows;
  args.cols = cols;
  args.source = NVFP4_WEIGHTS_SOURCE_VALUES;
  args.src = memory.values(static_cast<std::size_t>(groups * rows * cols));
  args.src_dtype = NVFP4_DTYPE_F32;
  args.storage_size = nvfp4::Weights::storage_size(context, args);
  args.storage = memory.make<std::uint8_t>(args.storage_size);
  return nvfp4::Weights(context, args, stream);
}

void layers(const nvfp4::Context& context, const nvfp4::Stream& stream, Memory& memory) {
  constexpr std::int64_t N = 48, E = 4, TOPK = 2;
  const auto one = prepared(context, stream, memory, 1, N, K);
  auto linear = nvfp4::args<nvfp4_linear_args>();
  linear.weights = one.get();
  linear.tokens = ROWS;
  linear.a = memory.make<std::uint16_t>(ROWS * K, 0x3F80);
  linear.a_dtype = NVFP4_DTYPE_BF16;
  linear.out = memory.make<float>(ROWS * N);
  linear.out_dtype = NVFP4_DTYPE_F32;
  scratch(memory, linear, nvfp4::linear_workspace_size(context, linear));
  nvfp4::linear(context, linear, stream);
  nvfp4_grouped_linear_args grouped = linear;
  grouped.out = memory.make<float>(ROWS * N);
  scratch(memory, grouped, nvfp4::grouped_linear_workspace_size(context, grouped));
  nvfp4::grouped_linear(context, grouped, stream);
  expect(std::memcmp(linear.out, grouped.out, ROWS * N * sizeof(float)) == 0, "linear and grouped_linear");

  // A whole layer has the bits of its last part on the routes of its first.
  const auto w1 = prepared(context, stream, memory, E, N, K), w2 = prepared(context, stream, memory, E, K, N);
  auto route = nvfp4::args<nvfp4_moe_route_args>();
  route.logits = memory.values(ROWS * E);
  route.logits_dtype = NVFP4_DTYPE_F32;
  route.topk = TOPK;
  route.tokens = ROWS;
  route.experts = E;
  route.topk_ids = memory.make<std::int32_t>(ROWS * TOPK, -7);
  route.topk_weights = memory.make<float>(ROWS * TOPK);
  nvfp4::moe_route(context, route, stream);
  expect(route.topk_ids[0] >= 0 && route.topk_ids[0] != route.topk_ids[1], "moe_route");

  auto permute = nvfp4::args<nvfp4_moe_permute_args>();
  permute.tokens = ROWS;
  permute.experts = E;
  permute.topk = TOPK;
  permute.topk_ids = route.topk_ids;
  permute.ends = memory.make<std::int32_t>(E);
  permute.source_rows = memory.make<std::int32_t>(ROWS * TOPK);
  permute.inverse = memory.make<std::int32_t>(ROWS * TOPK);
  scratch(memory, permute, nvfp4::moe_permute_workspace_size(context, permute));
  nvfp4::moe_permute(context, permute, stream);
  expect(permute.ends[E - 1] == ROWS * TOPK && permute.source_rows[permute.inverse[5]] == 2, "moe_permute");

  auto combine = nvfp4::args<nvfp4_moe_combine_args>();
  combine.tokens = ROWS;
  combine.cols = K;
  combine.topk = TOPK;
  combine.rows = ROWS * TOPK;
  combine.y = memory.make<float>(ROWS * TOPK * K, 1.0f);
  combine.y_dtype = combine.out_dtype = NVFP4_DTYPE_F32;
  combine.inverse = permute.inverse;
  combine.topk_weights = route.topk_weights;
  combine.out = memory.make<float>(ROWS * K);
  nvfp4::moe_combine(context, combine, stream);
  const float sum = route.topk_weights[0] + route.topk_weights[1];
  expect(std::fabs(static_cast<float*>(combine.out)[0] - sum) < 1e-5f, "moe_combine");

  auto layer = nvfp4::args<nvfp4_moe_forward_args>();
  layer.w1 = w1.get();
  layer.w2 = w2.get();
  layer.tokens = ROWS;
  layer.hidden = linear.a;
  layer.topk = TOPK;
  layer.logits = route.logits;
  layer.logits_dtype = NVFP4_DTYPE_F32;
  layer.activation = NVFP4_ACTIVATION_RELU2;
  layer.out = memory.make<float>(ROWS * K);
  layer.out_dtype = NVFP4_DTYPE_F32;
  scratch(memory, layer, nvfp4::moe_forward_workspace_size(context, layer));
  nvfp4::moe_forward(context, layer, stream);
  auto given = layer;
  given.logits = nullptr;
  given.logits_dtype = 0;
  given.topk_ids = route.topk_ids;
  given.topk_weights = route.topk_weights;
  given.out = memory.make<float>(ROWS * K);
  nvfp4::moe_forward(context, given, stream);
  expect(std::memcmp(layer.out, given.out, ROWS * K * sizeof(float)) == 0, "moe_forward");
}

}  // namespace

int main() {
  library();
  const nvfp4::Context context;
  const nvfp4::Stream stream(context);
  handles(context, stream);
  Memory memory{context, stream};
  quantizers(context, stream, memory);
  layouts(context, stream, memory);
  products(context, stream, memory);
  layers(context, stream, memory);
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 ? 0 : 1;
}
