// TensorRT: y[T, N] = x[T, K] * W^T with NVFP4 weights, as an IPluginV3 (TensorRT 10 or later): what the plugin is (core), what it
// takes and gives (build), what it does (runtime).
//
// The weights travel in the engine as plugin fields: canonical codes [N, K/2], block scales [N, K/16] and the decode scale, as
// `nvfp4 quantize` writes them. They are prepared when the plugin is attached to an execution context; `enqueue` allocates and
// waits for nothing, so that a CUDA graph may hold it. Build it as a shared object, load it with trtexec --staticPlugins or dlopen.
// Compiled by the tests where TensorRT's headers are present; it has not been run in an engine by them.
#include <NvInferRuntime.h>
#include <NvInferRuntimePlugin.h>
#include <cuda_runtime_api.h>

#include <cstring>
#include <memory>
#include <nvfp4.hpp>
#include <string>
#include <vector>

namespace {

using namespace nvinfer1;

constexpr char kName[] = "NvFp4Linear", kVersion[] = "1", kNamespace[] = "";

/// What the engine stores.
struct Layer {
  std::int32_t n = 0, k = 0;
  std::vector<std::uint8_t> codes, scales;
  float decode_scale = 0;
};

/// Prepared weights on the GPU that is current, in the host's CUDA context.
struct Prepared {
  static nvfp4_context_options adopt() {
    auto options = nvfp4::args<nvfp4_context_options>();
    options.backend = NVFP4_BACKEND_CUDA;
    options.flags = NVFP4_CONTEXT_ADOPT_CURRENT;
    return options;
  }

  explicit Prepared(const Layer& layer) : context(adopt()), stream(context) {
    context.prepare();
    const nvfp4::Buffer codes(context, layer.codes.size(), stream), scales(context, layer.scales.size(), stream),
        decode(context, sizeof(float), stream);
    codes.upload(layer.codes.data(), layer.codes.size(), stream);
    scales.upload(layer.scales.data(), layer.scales.size(), stream);
    decode.upload(&layer.decode_scale, sizeof(float), stream);
    auto args = nvfp4::args<nvfp4_weights_prepare_args>();
    args.groups = 1;
    args.rows = layer.n;
    args.cols = layer.k;
    args.codes = codes.data<std::uint8_t>();
    args.scales = scales.data<std::uint8_t>();
    args.decode_scales = decode.data<float>();
    args.storage_size = nvfp4::Weights::storage_size(context, args);
    storage = std::make_unique<nvfp4::Buffer>(context, args.storage_size, stream);
    args.storage = storage->data();
    weights = std::make_unique<nvfp4::Weights>(context, args, stream);
    stream.synchronize();  // before the buffers above go
  }

  nvfp4_gemm_args gemm(std::int64_t rows, const void* x, void* y) const {
    auto args = nvfp4::args<nvfp4_gemm_args>();
    args.weights = weights->get();
    args.rows = rows;
    args.a = x;
    args.a_dtype = NVFP4_DTYPE_BF16;
    args.out = y;
    args.out_dtype = NVFP4_DTYPE_BF16;
    return args;
  }

  nvfp4::Context context;
  nvfp4::Stream stream;
  std::unique_ptr<nvfp4::Buffer> storage;
  std::unique_ptr<nvfp4::Weights> weights;
};

std::int64_t rows_of(const Dims& dims) {
  std::int64_t rows = 1;
  for (std::int32_t d = 0; d + 1 < dims.nbDims; d++) rows *= dims.d[d];
  return rows;
}

class Linear final : public IPluginV3, public IPluginV3OneCore, public IPluginV3OneBuild, public IPluginV3OneRuntime {
 public:
  explicit Linear(std::shared_ptr<const Layer> layer) : layer_(std::move(layer)) {}

  // The plugin itself.
  IPluginCapability* getCapabilityInterface(PluginCapabilityType type) noexcept override {
    switch (type) {
      case PluginCapabilityType::kCORE: return static_cast<IPluginV3OneCore*>(this);
      case PluginCapabilityType::kBUILD: return static_cast<IPluginV3OneBuild*>(this);
      case PluginCapabilityType::kRUNTIME: return static_cast<IPluginV3OneRuntime*>(this);
    }
    return nullptr;
  }
  IPluginV3* clone() noexcept override { return new (std::nothrow) Linear(*this); }
  const char* getPluginName() const noexcept override { return kName; }
  const char* getPluginVersion() const noexcept override { return kVersion; }
  const char* getPluginNamespace() const noexcept override { return kNamespace; }

  // What it takes and gives: bf16 in, bf16 out, dense rows.
  std::int32_t getNbOutputs() const noexcept override { return 1; }
  std::int32_t getOutputDataTypes(DataType* types, std::int32_t, const DataType*, std::int32_t) const noexcept override {
    types[0] = DataType::kBF16;
    return 0;
  }
  std::int32_t getOutputShapes(const DimsExprs* inputs, std::int32_t, const DimsExprs*, std::int32_t, DimsExprs* outputs,
                               std::int32_t, IExprBuilder& build) noexcept override {
    outputs[0] = inputs[0];
    outputs[0].d[inputs[0].nbDims - 1] = build.constant(layer_->n);
    return 0;
  }
  bool supportsFormatCombination(std::int32_t at, const DynamicPluginTensorDesc* all, std::int32_t,
                                 std::int32_t) noexcept override {
    return all[at].desc.type == DataType::kBF16 && all[at].desc.format == TensorFormat::kLINEAR;
  }
  std::int32_t configurePlugin(const DynamicPluginTensorDesc* in, std::int32_t, const DynamicPluginTensorDesc*,
                               std::int32_t) noexcept override {
    return in[0].desc.dims.d[in[0].desc.dims.nbDims - 1] == layer_->k ? 0 : -1;
  }
  /// Scratch for every batch of the profile: a smaller one may be split in more parts than the largest.
  std::size_t getWorkspaceSize(const DynamicPluginTensorDesc* in, std::int32_t, const DynamicPluginTensorDesc*,
                               std::int32_t) const noexcept override {
    try {
      const Prepared prepared(*layer_);
      const std::int64_t rows = rows_of(in[0].max);
      std::size_t bytes = 0;
      for (std::int64_t m = 1; m <= rows; m++) {
        // A query takes NULL for memory that is not there yet.
        const auto args = prepared.gemm(m, nullptr, nullptr);
        const std::size_t needed = nvfp4::gemm_workspace_size(prepared.context, args);
        bytes = needed > bytes ? needed : bytes;
      }
      return bytes;
    } catch (const std::exception&) {
      return 0;  // enqueue reports it
    }
  }

  // What it does.
  std::int32_t onShapeChange(const PluginTensorDesc*, std::int32_t, const PluginTensorDesc*, std::int32_t) noexcept override {
    return 0;
  }
  IPluginV3* attachToContext(IPluginResourceContext*) noexcept override {
    try {
      auto attached = std::make_unique<Linear>(*this);
      attached->prepared_ = std::make_shared<Prepared>(*layer_);
      return attached.release();
    } catch (const std::exception&) {
      return nullptr;
    }
  }
  std::int32_t enqueue(const PluginTensorDesc* in, const PluginTensorDesc*, const void* const* inputs, void* const* outputs,
                       void* workspace, cudaStream_t stream) noexcept override {
    try {
      const auto borrowed = nvfp4::Stream::borrow(prepared_->context, stream);
      auto args = prepared_->gemm(rows_of(in[0].dims), inputs[0], outputs[0]);
      args.workspace_size = nvfp4::gemm_workspace_size(prepared_->context, args);
      args.workspace = args.workspace_size > 0 ? workspace : nullptr;
      nvfp4::gemm(prepared_->context, args, borrowed);
      return 0;
    } catch (const std::exception&) {
      return -1;
    }
  }
  const PluginFieldCollection* getFieldsToSerialize() noexcept override {
    const auto bytes = [](const char* name, const std::vector<std::uint8_t>& data) {
      return PluginField{name, data.data(), PluginFieldType::kUNKNOWN, static_cast<std::int32_t>(data.size())};
    };
    fields_ = {PluginField{"n", &layer_->n, PluginFieldType::kINT32, 1}, PluginField{"k", &layer_->k, PluginFieldType::kINT32, 1},
               PluginField{"decode_scale", &layer_->decode_scale, PluginFieldType::kFLOAT32, 1}, bytes("codes", layer_->codes),
               bytes("scales", layer_->scales)};
    collection_ = {static_cast<std::int32_t>(fields_.size()), fields_.data()};
    return &collection_;
  }

 private:
  std::shared_ptr<const Layer> layer_;
  std::shared_ptr<const Prepared> prepared_;
  std::vector<PluginField> fields_;
  PluginFieldCollection collection_{};
};

class Creator final : public IPluginCreatorV3One {
 public:
  IPluginV3* createPlugin(const char*, const PluginFieldCollection* given, TensorRTPhase) noexcept override {
    try {
      auto layer = std::make_shared<Layer>();
      for (std::int32_t i = 0; i < given->nbFields; i++) {
        const PluginField& field = given->fields[i];
        const std::string name = field.name;
        const auto* bytes = static_cast<const std::uint8_t*>(field.data);
        if (name == "n") std::memcpy(&layer->n, bytes, sizeof layer->n);
        if (name == "k") std::memcpy(&layer->k, bytes, sizeof layer->k);
        if (name == "decode_scale") std::memcpy(&layer->decode_scale, bytes, sizeof layer->decode_scale);
        if (name == "codes") layer->codes.assign(bytes, bytes + field.length);
        if (name == "scales") layer->scales.assign(bytes, bytes + field.length);
      }
      const auto n = static_cast<std::size_t>(layer->n), k = static_cast<std::size_t>(layer->k);
      if (layer->n <= 0 || layer->k <= 0 || layer->codes.size() != n * k / 2 || layer->scales.size() != n * k / 16) return nullptr;
      return new Linear(std::move(layer));
    } catch (const std::exception&) {
      return nullptr;
    }
  }
  const PluginFieldCollection* getFieldNames() noexcept override { return &names_; }
  const char* getPluginName() const noexcept override { return kName; }
  const char* getPluginVersion() const noexcept override { return kVersion; }
  const char* getPluginNamespace() const noexcept override { return kNamespace; }

 private:
  std::vector<PluginField> fields_{PluginField{"n", nullptr, PluginFieldType::kINT32, 1},
                                   PluginField{"k", nullptr, PluginFieldType::kINT32, 1},
                                   PluginField{"decode_scale", nullptr, PluginFieldType::kFLOAT32, 1},
                                   PluginField{"codes", nullptr, PluginFieldType::kUNKNOWN, 1},
                                   PluginField{"scales", nullptr, PluginFieldType::kUNKNOWN, 1}};
  PluginFieldCollection names_{5, fields_.data()};
};

}  // namespace

REGISTER_TENSORRT_PLUGIN(Creator);
