// The packed model's head, its refusal of what is no packed model, and names and sizes of shape.h.
#include "encoder/arena.h"

#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <stdexcept>

#include "tests/check.h"
#include "tests/models.h"

namespace bert_op::testing {
namespace {

// The message of the std::invalid_argument that `call` throws, or "" when it throws none.
std::string refusal(const std::function<void()>& call) {
  try {
    call();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

// Gives a head that was changed its right checksum (FNV-1a on words of 8 bytes) again.
void seal(std::vector<std::byte>& arena) {
  std::uint64_t sum = 0xcbf29ce484222325u, word;
  for (std::size_t at = 16; at < 4096; at += 8) {
    std::memcpy(&word, arena.data() + at, 8);
    sum = (sum ^ word) * 0x100000001b3u;
  }
  std::memcpy(arena.data() + 8, &sum, 8);
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST(head_is_read_as_it_was_written) {
  for (int precision = 0; precision < 4; ++precision) {
    for (const Activation activation : {Activation::gelu_erf, Activation::gelu_tanh, Activation::relu}) {
      ModelShape shape = small_shape(static_cast<Precision>(precision), activation);
      shape.static_quantization = precision == 3;
      shape.kept = precision % 2 == 1 ? 5 : 0;
      std::vector<std::byte> arena(arena_bytes(shape));
      write_head(arena.data(), shape);
      const ModelShape read = read_head(arena.data(), arena.size());
      CHECK(read.precision == shape.precision);
      CHECK(read.activation == shape.activation);
      CHECK(read.num_layers == shape.num_layers);
      CHECK(read.hidden_size == shape.hidden_size);
      CHECK(read.num_heads == shape.num_heads);
      CHECK(read.intermediate_size == shape.intermediate_size);
      CHECK(read.layer_norm_eps == shape.layer_norm_eps);
      CHECK(read.static_quantization == shape.static_quantization);
      CHECK(read.kept == shape.kept);
    }
  }
}

TEST(head_of_something_else_is_refused) {
  const ModelShape shape = small_shape(Precision::bf16_qint8);
  std::vector<std::byte> arena(arena_bytes(shape));
  write_head(arena.data(), shape);
  const auto read = [](const std::vector<std::byte>& bytes, std::size_t count) {
    return refusal([&] { read_head(bytes.data(), count); });
  };
  CHECK(read(arena, arena.size()).empty());
  CHECK(contains(read(arena, 0), "too short"));
  CHECK(contains(read(arena, 100), "too short"));
  CHECK(contains(read(arena, arena.size() - 1), "bytes"));
  std::vector<std::byte> longer = arena;
  longer.resize(arena.size() + 4096);
  CHECK(contains(read(longer, longer.size()), "bytes"));
  CHECK(refusal([&] { read_head(longer.data(), longer.size(), true); }).empty());
  CHECK(contains(refusal([&] { read_head(arena.data(), arena.size() - 1, true); }), "bytes"));
  for (std::size_t at = 0; at < 8; ++at) {
    std::vector<std::byte> other = arena;
    other[at] ^= std::byte{1};
    CHECK(contains(read(other, other.size()), "not the result of bert_op::prepack"));
  }
  for (std::size_t at = 8; at < 4096; ++at) {
    arena[at] ^= std::byte{1};
    CHECK(contains(read(arena, arena.size()), "damaged"));
    arena[at] ^= std::byte{1};
  }
  std::vector<std::byte> miscounted = arena;
  miscounted[16] ^= std::byte{1};
  seal(miscounted);
  CHECK(contains(read(miscounted, miscounted.size()), "bytes"));
  CHECK(!read(std::vector<std::byte>(arena.size()), arena.size()).empty());
}

// A head that was made up is refused or gives a shape that is again that of a model of this many bytes: no other one would
// keep the views inside the arena.
TEST(made_up_head_never_leads_out_of_the_arena) {
  Random random(1);
  const ModelShape shape = small_shape(Precision::fp32_qint8);
  std::vector<std::byte> arena(arena_bytes(shape));
  int refused = 0;
  for (int trial = 0; trial < 4000; ++trial) {
    write_head(arena.data(), shape);
    for (int change = trial % 3; change >= 0; --change) {
      arena[16 + random() % 56] = static_cast<std::byte>(random());
    }
    seal(arena);
    const std::string message = refusal([&] {
      const ModelShape read = read_head(arena.data(), arena.size());
      CHECK(arena_bytes(read) == arena.size());
      CHECK(refusal([&] { check_shape(read); }).empty());
    });
    refused += message.empty() ? 0 : 1;
  }
  CHECK(refused > 2000);
}

TEST(views_of_all_layers_lie_in_the_arena_one_after_the_other) {
  for (const auto& [precision, kept] : {std::pair(Precision::fp32, 0), std::pair(Precision::fp32_qint8, 0),
                                        std::pair(Precision::bf16, 0), std::pair(Precision::bf16_qint8, 0),
                                        std::pair(Precision::bf16_qint8, 9), std::pair(Precision::fp32_qint8, 6)}) {
    ModelShape shape = small_shape(precision);
    shape.kept = static_cast<std::uint8_t>(kept);
    std::vector<std::byte> arena(arena_bytes(shape));
    const std::byte* at = arena.data() + 64;  // behind the head
    const auto next = [&](const void* piece, std::int64_t bytes) {
      const auto* begin = static_cast<const std::byte*>(piece);
      CHECK(begin >= at);
      CHECK(begin + bytes <= arena.data() + arena.size());
      at = begin + bytes;
    };
    for (std::int64_t index = 0; index < shape.num_layers; ++index) {
      const Layer layer = layer_view(shape, arena.data(), index);
      const auto linear = [&](const Linear& l, LinearKind kind, std::int64_t in, std::int64_t out) {
        CHECK(l.in_features == in && l.out_features == out && l.type == shape.type_of(kind));
        CHECK(l.tiles * elements_per_tile_row(l.type) >= in);
        next(l.weight, out * l.tiles * kTileRowBytes);
        next(l.bias, out * 4);
        CHECK((l.weight_scale != nullptr) == (l.type == ElementType::u8));
        if (l.type != ElementType::u8) return;
        next(l.weight_scale, out * chunk_count(l.type, l.tiles) * 4);
        next(l.column_sum, out * chunk_count(l.type, l.tiles) * 4);
        next(l.static_range, 8);
      };
      const auto norm = [&](const LayerNormWeights& n) {
        next(n.gamma, shape.hidden_size * 4);
        next(n.beta, shape.hidden_size * 4);
      };
      linear(layer.qkv, LinearKind::qkv, shape.hidden_size, 3 * shape.hidden_size);
      linear(layer.attention_output, LinearKind::attention_output, shape.hidden_size, shape.hidden_size);
      norm(layer.attention_norm);
      linear(layer.intermediate, LinearKind::intermediate, shape.hidden_size, shape.intermediate_size);
      linear(layer.output, LinearKind::output, shape.intermediate_size, shape.hidden_size);
      norm(layer.output_norm);
    }
  }
}

TEST(shapes_that_the_kernels_do_not_have_are_refused_by_name) {
  const auto refused = [](auto change) {
    ModelShape shape = small_shape(Precision::bf16);
    change(shape);
    return refusal([&] { check_shape(shape); });
  };
  CHECK(refused([](ModelShape&) {}).empty());
  CHECK(contains(refused([](ModelShape& s) { s.num_layers = 0; }), "num_hidden_layers=0"));
  CHECK(contains(refused([](ModelShape& s) { s.num_layers = 1 << 20; }), "num_hidden_layers=1048576"));
  CHECK(contains(refused([](ModelShape& s) { s.hidden_size = 100; }), "hidden_size=100"));
  CHECK(contains(refused([](ModelShape& s) { s.hidden_size = -96; }), "hidden_size=-96"));
  CHECK(contains(refused([](ModelShape& s) { s.num_heads = 0; }), "num_attention_heads=0"));
  CHECK(contains(refused([](ModelShape& s) { s.num_heads = 5; }), "num_attention_heads=5"));
  CHECK(contains(refused([](ModelShape& s) { s.intermediate_size = 33; }), "intermediate_size=33"));
  CHECK(contains(refused([](ModelShape& s) { s.hidden_size = 64, s.num_heads = 4; }), "=16"));
  CHECK(contains(refused([](ModelShape& s) { s.hidden_size = 160, s.num_heads = 1; }), "=160"));
  CHECK(contains(refused([](ModelShape& s) { s.layer_norm_eps = -1.0f; }), "layer_norm_eps"));
  for (const float eps : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    CHECK(contains(refused([eps](ModelShape& s) { s.layer_norm_eps = eps; }), "layer_norm_eps"));
  }
  CHECK(contains(refused([](ModelShape& s) { s.kept = 1; }), "kept_linears=1"));
  CHECK(contains(refused([](ModelShape& s) { s.precision = Precision::bf16_qint8, s.kept = 16; }), "kept_linears=16"));
  CHECK(refused([](ModelShape& s) { s.precision = Precision::bf16_qint8, s.kept = 15; }).empty());
  for (const std::int64_t head_size : {32, 64, 96, 128}) {
    CHECK(refused([=](ModelShape& s) { s.hidden_size = 2 * head_size, s.num_heads = 2; }).empty());
  }
}

TEST(names_are_parsed_and_unknown_ones_refused_with_the_known) {
  for (int i = 0; i < 4; ++i) {
    CHECK(parse_precision(precision_name(static_cast<Precision>(i))) == static_cast<Precision>(i));
  }
  for (const Activation activation : {Activation::gelu_erf, Activation::gelu_tanh, Activation::relu}) {
    CHECK(parse_activation(activation_name(activation)) == activation);
  }
  CHECK(parse_activation("gelu_python") == Activation::gelu_erf);
  CHECK(parse_activation("gelu_pytorch_tanh") == Activation::gelu_tanh);
  CHECK(contains(refusal([] { parse_precision("fp16"); }), "'fp16' is unknown: choose fp32, fp32_qint8, bf16"));
  CHECK(contains(refusal([] { parse_activation("silu"); }), "'silu' is not supported: the op has gelu"));
}

}  // namespace
}  // namespace bert_op::testing
