// libnvfp4 for C++17: handles that destroy themselves, statuses that throw, args structs that know their size.
// SPDX-License-Identifier: MIT OR Apache-2.0
//
// A thin layer over nvfp4.h, header only, which documents every field and function:
//
//   nvfp4::Context context;                                   // the CPU; or options, see nvfp4_context_options
//   nvfp4::Stream stream(context);
//   auto args = nvfp4::args<nvfp4_quantize_args>();
//   args.src = x; args.rows = rows; ...
//   nvfp4::quantize(context, args, stream);                   // throws nvfp4::Error with the library's message
//
// Every function of nvfp4.h is here under its name without the prefix, a member where its first argument is a handle.
// What takes a workspace has a query `<name>_workspace_size`. Destructors drop errors; `close()` reports them.
#ifndef NVFP4_HPP
#define NVFP4_HPP

#include <nvfp4.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>

namespace nvfp4 {

/// A call that failed: its status, and the message that names the argument, its value and the next step.
class Error : public std::runtime_error {
 public:
  explicit Error(nvfp4_status status) : std::runtime_error(nvfp4_last_message()), status_(status) {}
  nvfp4_status status() const noexcept { return status_; }

 private:
  nvfp4_status status_;
};

inline void check(nvfp4_status status) {
  if (status != NVFP4_STATUS_SUCCESS) throw Error(status);
}

/// A struct of the header, all zero but for its struct_size.
template <typename T>
T args() noexcept {
  T value{};
  value.struct_size = sizeof(T);
  return value;
}

/// Owns one handle; moved, never copied.
template <typename T, nvfp4_status (*Destroy)(T*)>
class Handle {
 public:
  Handle() noexcept = default;
  explicit Handle(T* handle) noexcept : handle_(handle) {}
  Handle(Handle&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Handle& operator=(Handle&& other) noexcept {
    if (this != &other) {
      reset();
      handle_ = std::exchange(other.handle_, nullptr);
    }
    return *this;
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() { reset(); }

  T* get() const noexcept { return handle_; }
  explicit operator bool() const noexcept { return handle_ != nullptr; }
  /// Hands the handle to the caller.
  T* release() noexcept { return std::exchange(handle_, nullptr); }
  /// Destroys the handle now; a stream that captures refuses, and stays.
  void close() {
    if (handle_ != nullptr) check(Destroy(handle_));
    handle_ = nullptr;
  }

 protected:
  T** out() noexcept { return &handle_; }

 private:
  void reset() noexcept {
    if (handle_ != nullptr) (void)Destroy(handle_);
    handle_ = nullptr;
  }
  T* handle_ = nullptr;
};

// Of the library

inline std::uint32_t version() noexcept { return nvfp4_version(); }
inline const char* version_string() noexcept { return nvfp4_version_string(); }
inline std::uint32_t abi_version() noexcept { return nvfp4_abi_version(); }
/// "NVFP4_STATUS_...", or null for a number that is none.
inline const char* status_name(nvfp4_status status) noexcept { return nvfp4_status_name(status); }
inline std::string last_message() { return nvfp4_last_message(); }
inline void set_log_callback(nvfp4_log_callback callback, void* user_data, nvfp4_log_level level) {
  check(nvfp4_set_log_callback(callback, user_data, level));
}
/// The table of all functions.
inline const nvfp4_api_table& api() {
  const nvfp4_api_table* table = nvfp4_api(NVFP4_ABI_VERSION);
  if (table == nullptr) throw Error(NVFP4_STATUS_UNSUPPORTED);
  return *table;
}
inline nvfp4_backend_info backend_query(nvfp4_backend backend, std::uint32_t device = 0) {
  auto info = args<nvfp4_backend_info>();
  check(nvfp4_backend_query(backend, device, &info));
  return info;
}

// Handles

class Context : public Handle<nvfp4_context, nvfp4_context_destroy> {
 public:
  Context() { check(nvfp4_context_create(nullptr, out())); }
  explicit Context(const nvfp4_context_options& options) { check(nvfp4_context_create(&options, out())); }
  explicit Context(nvfp4_backend backend, std::uint32_t device = 0) {
    auto options = args<nvfp4_context_options>();
    options.backend = backend;
    options.device = device;
    check(nvfp4_context_create(&options, out()));
  }

  nvfp4_backend_info info() const {
    auto info = args<nvfp4_backend_info>();
    check(nvfp4_context_info(get(), &info));
    return info;
  }
  nvfp4_faults faults() const {
    auto faults = args<nvfp4_faults>();
    check(nvfp4_context_faults(get(), &faults));
    return faults;
  }
  void clear_faults() const { check(nvfp4_context_clear_faults(get())); }
  void synchronize() const { check(nvfp4_context_synchronize(get())); }
  nvfp4_pool_stats pool_stats() const {
    auto stats = args<nvfp4_pool_stats>();
    check(nvfp4_context_pool_stats(get(), &stats));
    return stats;
  }
  void pool_trim(std::size_t keep_bytes = 0) const { check(nvfp4_context_pool_trim(get(), keep_bytes)); }
  bool feature_supported(nvfp4_feature feature) const {
    std::int32_t supported = 0;
    check(nvfp4_feature_supported(get(), feature, &supported));
    return supported != 0;
  }
  /// Loads all that calls need.
  void prepare() const { check(nvfp4_prepare(get(), nullptr)); }
  /// Loads what one call takes.
  void prepare(const nvfp4_prepare_args& args) const { check(nvfp4_prepare(get(), &args)); }
  /// Takes the choices of a file, null: none. Gives how many are in use now.
  std::size_t tuning_load(const char* path) const {
    std::size_t choices = 0;
    check(nvfp4_tuning_load(get(), path, &choices));
    return choices;
  }
  void tuning_save(const char* path) const { check(nvfp4_tuning_save(get(), path)); }
};

class Stream : public Handle<nvfp4_stream, nvfp4_stream_destroy> {
 public:
  explicit Stream(const Context& context) { check(nvfp4_stream_create(context.get(), out())); }
  /// A CUstream or cudaStream_t of the host's, which stays its own; null on the CPU.
  static Stream borrow(const Context& context, void* native) {
    Stream stream;
    check(nvfp4_stream_borrow(context.get(), native, stream.out()));
    return stream;
  }

  void synchronize() const { check(nvfp4_stream_synchronize(get())); }
  /// Whether all work is done.
  bool query() const {
    std::int32_t done = 0;
    check(nvfp4_stream_query(get(), &done));
    return done != 0;
  }
  void begin_capture(nvfp4_capture_mode mode = NVFP4_CAPTURE_MODE_GLOBAL) const {
    check(nvfp4_graph_begin_capture(get(), mode));
  }

 private:
  Stream() noexcept = default;
};

class Event : public Handle<nvfp4_event, nvfp4_event_destroy> {
 public:
  explicit Event(const Context& context) { check(nvfp4_event_create(context.get(), out())); }

  void record(const Stream& stream) const { check(nvfp4_event_record(get(), stream.get())); }
  /// Makes later work of the stream wait for this.
  void wait(const Stream& stream) const { check(nvfp4_event_wait(get(), stream.get())); }
  void synchronize() const { check(nvfp4_event_synchronize(get())); }
  bool query() const {
    std::int32_t done = 0;
    check(nvfp4_event_query(get(), &done));
    return done != 0;
  }
  float elapsed_ms(const Event& end) const {
    float milliseconds = 0;
    check(nvfp4_event_elapsed_ms(get(), end.get(), &milliseconds));
    return milliseconds;
  }
};

class Graph : public Handle<nvfp4_graph, nvfp4_graph_destroy> {
 public:
  /// What the stream has recorded since begin_capture.
  static Graph end_capture(const Stream& stream) {
    Graph graph;
    check(nvfp4_graph_end_capture(stream.get(), graph.out()));
    return graph;
  }

  void instantiate() const { check(nvfp4_graph_instantiate(get())); }
  void update(const Graph& from) const { check(nvfp4_graph_update(get(), from.get())); }
  void launch(const Stream& stream) const { check(nvfp4_graph_launch(get(), stream.get())); }
  std::size_t node_count() const {
    std::size_t count = 0;
    check(nvfp4_graph_node_count(get(), &count));
    return count;
  }

 private:
  Graph() noexcept = default;
};

class Buffer : public Handle<nvfp4_buffer, nvfp4_buffer_destroy> {
 public:
  Buffer(const Context& context, std::size_t bytes, const Stream& stream) {
    check(nvfp4_buffer_create(context.get(), bytes, stream.get(), out()));
  }

  template <typename T = void>
  T* data() const {
    void* data = nullptr;
    check(nvfp4_buffer_data(get(), &data));
    return static_cast<T*>(data);
  }
  std::size_t size() const {
    std::size_t bytes = 0;
    check(nvfp4_buffer_size(get(), &bytes));
    return bytes;
  }
  void upload(const void* src, std::size_t bytes, const Stream& stream, std::size_t offset = 0) const {
    check(nvfp4_buffer_upload(get(), offset, src, bytes, stream.get()));
  }
  void download(void* dst, std::size_t bytes, const Stream& stream, std::size_t offset = 0) const {
    check(nvfp4_buffer_download(get(), offset, dst, bytes, stream.get()));
  }
  void copy_from(const Buffer& src, std::size_t bytes, const Stream& stream, std::size_t dst_offset = 0,
                 std::size_t src_offset = 0) const {
    check(nvfp4_buffer_copy(get(), dst_offset, src.get(), src_offset, bytes, stream.get()));
  }
};

/// The storage of the args is the caller's and outlives the weights.
class Weights : public Handle<nvfp4_weights, nvfp4_weights_destroy> {
 public:
  Weights(const Context& context, const nvfp4_weights_prepare_args& args, const Stream& stream) {
    check(nvfp4_weights_prepare(context.get(), &args, stream.get(), out()));
  }

  static std::size_t storage_size(const Context& context, const nvfp4_weights_prepare_args& args) {
    std::size_t bytes = 0;
    check(nvfp4_weights_storage_size(context.get(), &args, &bytes));
    return bytes;
  }
  nvfp4_weights_shape info() const {
    auto shape = args<nvfp4_weights_shape>();
    check(nvfp4_weights_info(get(), &shape));
    return shape;
  }
  /// Fills `args.weights` itself.
  void write(const Context& context, nvfp4_weights_export_args args, const Stream& stream) const {
    args.weights = get();
    check(nvfp4_weights_export(context.get(), &args, stream.get()));
  }
};

// Operations

inline void quantize(const Context& context, const nvfp4_quantize_args& args, const Stream& stream) {
  check(nvfp4_quantize(context.get(), &args, stream.get()));
}
inline std::size_t quantize_workspace_size(const Context& context, const nvfp4_quantize_args& args) {
  std::size_t bytes = 0;
  check(nvfp4_quantize_workspace_size(context.get(), &args, &bytes));
  return bytes;
}
inline void amax_scale(const Context& context, const nvfp4_amax_scale_args& args, const Stream& stream) {
  check(nvfp4_amax_scale(context.get(), &args, stream.get()));
}
inline std::size_t amax_scale_workspace_size(const Context& context, const nvfp4_amax_scale_args& args) {
  std::size_t bytes = 0;
  check(nvfp4_amax_scale_workspace_size(context.get(), &args, &bytes));
  return bytes;
}
inline void dequantize(const Context& context, const nvfp4_dequantize_args& args, const Stream& stream) {
  check(nvfp4_dequantize(context.get(), &args, stream.get()));
}
inline void rmsnorm_quantize(const Context& context, const nvfp4_rmsnorm_quantize_args& args, const Stream& stream) {
  check(nvfp4_rmsnorm_quantize(context.get(), &args, stream.get()));
}
inline std::size_t rmsnorm_quantize_workspace_size(const Context& context, const nvfp4_rmsnorm_quantize_args& args) {
  std::size_t bytes = 0;
  check(nvfp4_rmsnorm_quantize_workspace_size(context.get(), &args, &bytes));
  return bytes;
}
inline void hc_rmsnorm_quantize(const Context& context, const nvfp4_hc_rmsnorm_quantize_args& args, const Stream& stream) {
  check(nvfp4_hc_rmsnorm_quantize(context.get(), &args, stream.get()));
}
inline std::size_t hc_rmsnorm_quantize_workspace_size(const Context& context, const nvfp4_hc_rmsnorm_quantize_args& args) {
  std::size_t bytes = 0;
  check(nvfp4_hc_rmsnorm_quantize_workspace_size(context.get(), &args, &bytes));
  return bytes;
}
inline void swiglu_quantize(const Context& context, const nvfp4_swiglu_quantize_args& args, const Stream& stream) {
  check(nvfp4_swiglu_quantize(context.get(), &args, stream.get()));
}
inline std::size_t swiglu_quantize_workspace_size(const Context& context, const nvfp4_swiglu_quantize_args& args) {
  std::size_t bytes = 0;
  check(nvfp4_swiglu_quantize_workspace_size(context.get(), &args, &bytes));
  return bytes;
}
inline void stage_moe_inputs(const Context& context, const nvfp4_stage_moe_inputs_args& args, const Stream& stream) {
  check(nvfp4_stage_moe_inputs(context.get(), &args, stream.get()));
}
inline void tile_scales(const Context& context, const nvfp4_tile_scales_args& args, const Stream& stream) {
  check(nvfp4_tile_scales(context.get(), &args, stream.get()));
}
inline void untile_scales(const Context& context, const nvfp4_tile_scales_args& args, const Stream& stream) {
  check(nvfp4_untile_scales(context.get(), &args, stream.get()));
}
inline void interleave_gate_up(const Context& context, const nvfp4_interleave_gate_up_args& args, const Stream& stream) {
  check(nvfp4_interleave_gate_up(context.get(), &args, stream.get()));
}
inline void deinterleave_gate_up(const Context& context, const nvfp4_interleave_gate_up_args& args, const Stream& stream) {
  check(nvfp4_deinterleave_gate_up(context.get(), &args, stream.get()));
}
inline void group_ends(const Context& context, const nvfp4_group_ends_args& args, const Stream& stream) {
  check(nvfp4_group_ends(context.get(), &args, stream.get()));
}
inline void grouped_gemm(const Context& context, const nvfp4_grouped_gemm_args& args, const Stream& stream) {
  check(nvfp4_grouped_gemm(context.get(), &args, stream.get()));
}
inline std::size_t grouped_gemm_workspace_size(const Context& context, const nvfp4_grouped_gemm_args& args) {
  std::size_t bytes = 0;
  check(nvfp4_grouped_gemm_workspace_size(context.get(), &args, &bytes));
  return bytes;
}
inline void gemm(const Context& context, const nvfp4_gemm_args& args, const Stream& stream) {
  check(nvfp4_gemm(context.get(), &args, stream.get()));
}
inline std::size_t gemm_workspace_size(const Context& context, const nvfp4_gemm_args& args) {
  std::size_t bytes = 0;
  check(nvfp4_gemm_workspace_size(context.get(), &args, &bytes));
  return bytes;
}
inline void linear(const Context& context, const nvfp4_linear_args& args, const Stream& stream) {
  check(nvfp4_linear(context.get(), &args, stream.get()));
}
inline std::size_t linear_workspace_size(const Context& context, const nvfp4_linear_args& args) {
  std::size_t bytes = 0;
  check(nvfp4_linear_workspace_size(context.get(), &args, &bytes));
  return bytes;
}
inline void grouped_linear(const Context& context, const nvfp4_grouped_linear_args& args, const Stream& stream) {
  check(nvfp4_grouped_linear(context.get(), &args, stream.get()));
}
inline std::size_t grouped_linear_workspace_size(const Context& context, const nvfp4_grouped_linear_args& args) {
  std::size_t bytes = 0;
  check(nvfp4_grouped_linear_workspace_size(context.get(), &args, &bytes));
  return bytes;
}
inline void moe_route(const Context& context, const nvfp4_moe_route_args& args, const Stream& stream) {
  check(nvfp4_moe_route(context.get(), &args, stream.get()));
}
inline void moe_permute(const Context& context, const nvfp4_moe_permute_args& args, const Stream& stream) {
  check(nvfp4_moe_permute(context.get(), &args, stream.get()));
}
inline std::size_t moe_permute_workspace_size(const Context& context, const nvfp4_moe_permute_args& args) {
  std::size_t bytes = 0;
  check(nvfp4_moe_permute_workspace_size(context.get(), &args, &bytes));
  return bytes;
}
inline void moe_combine(const Context& context, const nvfp4_moe_combine_args& args, const Stream& stream) {
  check(nvfp4_moe_combine(context.get(), &args, stream.get()));
}
inline void moe_forward(const Context& context, const nvfp4_moe_forward_args& args, const Stream& stream) {
  check(nvfp4_moe_forward(context.get(), &args, stream.get()));
}
inline std::size_t moe_forward_workspace_size(const Context& context, const nvfp4_moe_forward_args& args) {
  std::size_t bytes = 0;
  check(nvfp4_moe_forward_workspace_size(context.get(), &args, &bytes));
  return bytes;
}

inline nvfp4_tune_result tune(const Context& context, const nvfp4_tune_args& args, const Stream& stream) {
  auto result = nvfp4::args<nvfp4_tune_result>();
  check(nvfp4_tune(context.get(), &args, stream.get(), &result));
  return result;
}

inline std::size_t scales_size(const nvfp4_scales_size_args& args) {
  std::size_t bytes = 0;
  check(nvfp4_scales_size(&args, &bytes));
  return bytes;
}

}  // namespace nvfp4

#endif  // NVFP4_HPP
