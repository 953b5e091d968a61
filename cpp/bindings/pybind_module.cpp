// bert_op._native: the kernels on NumPy arrays, for tests and micro-benchmarks. Knows no torch; no user needs it.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "bindings/info.h"
#include "encoder/arena.h"
#include "encoder/pack.h"
#include "encoder/shape.h"
#include "encoder/workspace.h"
#include "kernels/kernels.h"

namespace py = pybind11;

namespace {

using namespace bert_op;
using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;

const Kernels& kernels_of(const std::optional<std::string>& isa) {
  return kernels(isa.has_value() ? parse_isa(*isa) : active_isa());
}

// Zeroed memory that frees itself; kernels read the padding of a buffer.
struct Buffer {
  explicit Buffer(std::size_t bytes) : memory(allocate_huge(bytes == 0 ? 1 : bytes)) { std::memset(memory, 0, bytes); }
  ~Buffer() { free_huge(memory); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  std::byte* memory;
};

std::vector<std::int64_t> consecutive(std::int64_t count) {
  std::vector<std::int64_t> rows(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) rows[static_cast<std::size_t>(i)] = i;
  return rows;
}

void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

bool is_matrix(const Floats& array, py::ssize_t rows, py::ssize_t columns) {
  return array.ndim() == 2 && array.shape(0) == rows && array.shape(1) == columns;
}

bool is_vector(const Floats& array, py::ssize_t size) { return array.ndim() == 1 && array.shape(0) == size; }

// A matrix that is not empty, with a multiple of 32 columns: what the kernels take.
void require_matrix(const Floats& array, const char* problem) {
  require(array.ndim() == 2 && array.size() > 0 && array.shape(1) % 32 == 0, problem);
}

// Round to nearest even; NaN stays NaN.
std::uint16_t to_bf16(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if (std::isnan(value)) return static_cast<std::uint16_t>((bits >> 16) | 0x40u);
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

Floats gemm(const Floats& a, const Floats& weight, const Floats& bias, const std::string& type_name,
            const std::string& activation, const std::string& out_type_name, const std::optional<std::string>& isa) {
  require_matrix(a, "a must be (rows, k), not empty, with k a multiple of 32");
  require_matrix(weight, "weight must be (n, k), not empty, with k a multiple of 32");
  const std::int64_t rows = a.shape(0), k = a.shape(1), n = weight.shape(0);
  require(is_matrix(weight, n, k) && is_vector(bias, n) && n % kPanelColumns == 0,
          "weight must be (n, k) with the k of a, and bias (n), with n a multiple of 32");
  const Kernels& tier = kernels_of(isa);
  const ElementType type = parse_element_type(type_name), out_type = parse_element_type(out_type_name);
  const Activation applied = activation == "none" ? Activation::none : parse_activation(activation);
  require(out_type != ElementType::u8, "out_type must be f32 or bf16");
  // Packing rounds and quantizes, which NaN and infinity would not survive.
  require(std::all_of(weight.data(), weight.data() + weight.size(), [](float w) { return std::isfinite(w); }),
          "weight contains NaN or infinity");
  const std::int64_t tiles = k_tiles(type, k), chunks = chunk_count(type, tiles);
  Buffer packed_b(static_cast<std::size_t>(n / kPanelColumns * tiles * kPanelTileBytes));
  Buffer packed_a(static_cast<std::size_t>(activation_bytes(rows, tiles)));
  std::vector<float> packed_bias(n), weight_scale(n * chunks), column_sum(n * chunks),
      partial(round_up(rows, kRowBlock) * kPanelColumns);
  std::vector<RowScale> row_scale(rows * chunks);
  std::optional<Buffer> split;
  if (type == ElementType::f32 && tier.split_bytes != nullptr) {
    split.emplace(static_cast<std::size_t>(tier.split_bytes(rows, tiles)));
  }
  const Linear linear{
      k,       n,     type,   tiles, packed_b.memory, packed_bias.data(), weight_scale.data(), column_sum.data(),
      nullptr, false, nullptr};
  pack_linear(linear, weight.data(), bias.data(), 0, n);
  std::vector<float> source(a.data(), a.data() + a.size());
  const auto row_index = consecutive(rows);
  std::vector<std::byte> raw(static_cast<std::size_t>(rows * n * element_bytes(out_type)));
  tier.enter();
  tier.layer_norm({source.data(),
                   row_index.data(),
                   k,
                   nullptr,
                   nullptr,
                   0.0f,
                   0,
                   rows,
                   {type, packed_a.memory, tiles, row_scale.data(), nullptr}});
  GemmArgs args{.type = type,
                .rows = rows,
                .tiles = tiles,
                .a = packed_a.memory,
                .b = packed_b.memory,
                .bias = packed_bias.data(),
                .weight_scale = weight_scale.data(),
                .column_sum = column_sum.data(),
                .row_scale = row_scale.data(),
                .columns = n,
                .panel_begin = 0,
                .panel_end = n / kPanelColumns,
                .partial = partial.data(),
                .split = split ? split->memory : nullptr};
  args.activation = applied;
  args.out_type = out_type;
  args.out = store_rows(raw.data(), out_type, n);
  tier.gemm(args);
  tier.leave();
  Floats result({rows, n});
  float* to = result.mutable_data();
  for (std::int64_t i = 0; i < rows * n; ++i) {
    if (out_type == ElementType::f32) {
      std::memcpy(to + i, raw.data() + i * 4, 4);
    } else {
      std::uint16_t half;
      std::memcpy(&half, raw.data() + i * 2, 2);
      const std::uint32_t bits = std::uint32_t{half} << 16;
      std::memcpy(to + i, &bits, 4);
    }
  }
  return result;
}

// One head. q, k, v: (seq_len, head_size); mask: none, (seq_len) or (seq_len, seq_len), added to the scaled scores.
Floats attention(const Floats& q, const Floats& k, const Floats& v, const std::optional<Floats>& mask, float scale,
                 const std::string& type_name, const std::optional<std::string>& isa) {
  require_matrix(q, "q must be (seq_len, head_size), not empty, with head_size a multiple of 32");
  const std::int64_t seq_len = q.shape(0), head_size = q.shape(1);
  const ElementType type = parse_element_type(type_name);
  require(type != ElementType::u8, "type must be f32 or bf16");
  require(is_matrix(k, seq_len, head_size) && is_matrix(v, seq_len, head_size), "q, k and v must have the same shape");
  require(!mask || is_vector(*mask, seq_len) || is_matrix(*mask, seq_len, seq_len),
          "mask must be (seq_len) or (seq_len, seq_len)");
  const Kernels& tier = kernels_of(isa);
  const auto convert = [&](const Floats& from, std::byte* to) {
    for (py::ssize_t i = 0; i < from.size(); ++i) {
      if (type == ElementType::f32) {
        std::memcpy(to + i * 4, from.data() + i, 4);
      } else {
        const std::uint16_t half = to_bf16(from.data()[i]);
        std::memcpy(to + i * 2, &half, 2);
      }
    }
  };
  const auto bytes = static_cast<std::size_t>(seq_len * head_size * element_bytes(type));
  Buffer q_rows(bytes), k_rows(bytes), v_rows(bytes);
  convert(q, q_rows.memory);
  convert(k, k_rows.memory);
  convert(v, v_rows.memory);
  Buffer scratch(static_cast<std::size_t>(attention_scratch_bytes(type, seq_len, head_size)));
  Floats result({seq_len, head_size});
  tier.enter();
  tier.attention({.type = type,
                  .q = q_rows.memory,
                  .k = k_rows.memory,
                  .v = v_rows.memory,
                  .seq_len = seq_len,
                  .head_size = head_size,
                  .scale = scale,
                  .mask = mask ? mask->data() : nullptr,
                  .mask_row_stride = mask && mask->ndim() == 2 ? seq_len : 0,
                  .row_begin = 0,
                  .row_end = seq_len,
                  .scratch = scratch.memory,
                  .out = store_rows(result.mutable_data(), ElementType::f32, head_size),
                  .out_row = 0,
                  .out_panel = 0,
                  .out_type = ElementType::f32});
  tier.leave();
  return result;
}

Floats layer_norm(const Floats& x, const Floats& gamma, const Floats& beta, float eps,
                  const std::optional<std::string>& isa) {
  require_matrix(x, "x must be (rows, n), not empty, with n a multiple of 32");
  require(is_vector(gamma, x.shape(1)) && is_vector(beta, x.shape(1)), "gamma and beta must be (n), with the n of x");
  require(std::isfinite(eps) && eps >= 0.0f, "eps must be a finite number of at least 0");
  Floats result({x.shape(0), x.shape(1)});
  std::memcpy(result.mutable_data(), x.data(), static_cast<std::size_t>(x.size()) * 4);
  const auto rows = consecutive(x.shape(0));
  kernels_of(isa).layer_norm(
      {result.mutable_data(), rows.data(), x.shape(1), gamma.data(), beta.data(), eps, 0, x.shape(0), {}});
  return result;
}

std::string plan(const std::string& precision, std::int64_t num_layers, std::int64_t hidden_size,
                 std::int64_t num_heads, std::int64_t intermediate_size, const std::vector<std::int64_t>& lengths,
                 int threads, const std::string& isa) {
  require(!lengths.empty() && *std::min_element(lengths.begin(), lengths.end()) > 0, "lengths must be positive");
  require(threads > 0, "threads must be positive");
  const ModelShape shape{.precision = parse_precision(precision),
                         .activation = Activation::gelu_erf,
                         .num_layers = num_layers,
                         .hidden_size = hidden_size,
                         .num_heads = num_heads,
                         .intermediate_size = intermediate_size,
                         .layer_norm_eps = 1e-12f,
                         .static_quantization = false};
  check_shape(shape);
  return plan_json(shape, parse_isa(isa), lengths, threads);
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "The kernels of every tier on NumPy arrays.";
  m.def(
      "available_isas",
      [] {
        std::vector<std::string> names;
        for (const Isa isa : available_isas()) names.emplace_back(isa_name(isa));
        return names;
      },
      "The tiers of this CPU, the slowest first.");
  m.def(
      "gemm", &gemm, py::arg("a"), py::arg("weight"), py::arg("bias"), py::arg("type"), py::arg("activation") = "none",
      py::arg("out_type") = "f32", py::arg("isa") = py::none(),
      "activation(a @ weight.T + bias) by the kernels of one tier; a (m, k), weight (n, k), n and k multiples of 32.");
  m.def("plan", &plan, py::arg("precision"), py::arg("num_layers"), py::arg("hidden_size"), py::arg("num_heads"),
        py::arg("intermediate_size"), py::arg("lengths"), py::arg("threads"), py::arg("isa"),
        "How sequences of these lengths would be computed on a machine of this tier, as JSON; no such machine is "
        "needed.");
  m.def("attention", &attention, py::arg("q"), py::arg("k"), py::arg("v"), py::arg("mask") = py::none(),
        py::arg("scale") = 1.0f, py::arg("type") = "f32", py::arg("isa") = py::none(),
        "softmax(q @ k.T * scale + mask) @ v of one head; q, k, v (seq_len, head_size).");
  m.def("layer_norm", &layer_norm, py::arg("x"), py::arg("gamma"), py::arg("beta"), py::arg("eps"),
        py::arg("isa") = py::none(), "LayerNorm over the last dimension of x (rows, n).");
}
