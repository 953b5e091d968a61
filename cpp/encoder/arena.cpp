#include "encoder/arena.h"

#include <cstddef>
#include <cstring>
#include <stdexcept>
#include <string>

namespace bert_op {
namespace {

constexpr char kMagic[8] = {'B', 'E', 'R', 'T', 'O', 'P', '0', '5'};  // the digits are the version of the layout
constexpr std::size_t kHeadBytes = 4096;
constexpr std::size_t kAlign = 4096;

struct Head {
  char magic[8];
  std::uint64_t checksum;  // of all bytes of the head that follow it
  std::uint64_t bytes;
  std::int64_t num_layers;
  std::int64_t hidden_size;
  std::int64_t num_heads;
  std::int64_t intermediate_size;
  float layer_norm_eps;
  std::uint8_t precision;
  std::uint8_t activation;
  std::uint8_t static_quantization;
  std::uint8_t kept;
};
static_assert(sizeof(Head) <= kHeadBytes);

// FNV-1a on words of 8 bytes. A word that changes alone always changes it, since each step is a bijection of the state.
std::uint64_t checksum_of(const std::byte* arena) {
  std::uint64_t sum = 0xcbf29ce484222325u;
  for (std::size_t at = offsetof(Head, bytes); at < kHeadBytes; at += 8) {
    std::uint64_t word;
    std::memcpy(&word, arena + at, 8);
    sum = (sum ^ word) * 0x100000001b3u;
  }
  return sum;
}

// Hands out consecutive pieces; with a null base it only counts.
class Cursor {
 public:
  explicit Cursor(std::byte* base) : base_(base) {}

  std::byte* take(std::int64_t bytes, std::size_t align = 64) {
    used_ = (used_ + align - 1) / align * align;
    std::byte* at = base_ == nullptr ? nullptr : base_ + used_;
    used_ += static_cast<std::size_t>(bytes);
    return at;
  }
  float* take_floats(std::int64_t count) { return reinterpret_cast<float*>(take(count * 4)); }
  std::size_t used() const { return used_; }

 private:
  std::byte* base_;
  std::size_t used_ = 0;
};

Linear take_linear(Cursor& cursor, const ModelShape& shape, LinearKind kind, std::int64_t in, std::int64_t out) {
  Linear linear{};
  linear.in_features = in;
  linear.out_features = out;
  linear.type = shape.type_of(kind);
  linear.tiles = k_tiles(linear.type, in);
  linear.weight = cursor.take(out / kPanelColumns * linear.tiles * kPanelTileBytes);
  linear.bias = cursor.take_floats(out);
  if (linear.type == ElementType::u8) {
    const std::int64_t chunks = chunk_count(linear.type, linear.tiles);
    linear.weight_scale = cursor.take_floats(out * chunks);
    linear.column_sum = cursor.take_floats(out * chunks);
    linear.static_range = cursor.take_floats(2);
    linear.rotated = shape.rotated();
    const bool of_norm = kind == LinearKind::qkv || kind == LinearKind::intermediate;
    if (linear.rotated && of_norm) linear.smoothing = cursor.take_floats(in);
  }
  return linear;
}

Layer take_layer(Cursor& cursor, const ModelShape& shape) {
  const std::int64_t hidden = shape.hidden_size, intermediate = shape.intermediate_size;
  Layer layer{};
  layer.qkv = take_linear(cursor, shape, LinearKind::qkv, hidden, 3 * hidden);
  layer.attention_output = take_linear(cursor, shape, LinearKind::attention_output, hidden, hidden);
  layer.attention_norm = {cursor.take_floats(hidden), cursor.take_floats(hidden)};
  layer.intermediate = take_linear(cursor, shape, LinearKind::intermediate, hidden, intermediate);
  layer.output = take_linear(cursor, shape, LinearKind::output, intermediate, hidden);
  layer.output_norm = {cursor.take_floats(hidden), cursor.take_floats(hidden)};
  cursor.take(0, kAlign);
  return layer;
}

std::size_t layer_bytes(const ModelShape& shape) {
  Cursor cursor(nullptr);
  take_layer(cursor, shape);
  return cursor.used();
}

}  // namespace

std::size_t arena_bytes(const ModelShape& shape) {
  return kHeadBytes + static_cast<std::size_t>(shape.num_layers) * layer_bytes(shape);
}

void write_head(std::byte* arena, const ModelShape& shape) {
  Head head{};
  std::memcpy(head.magic, kMagic, sizeof kMagic);
  head.bytes = arena_bytes(shape);
  head.num_layers = shape.num_layers;
  head.hidden_size = shape.hidden_size;
  head.num_heads = shape.num_heads;
  head.intermediate_size = shape.intermediate_size;
  head.layer_norm_eps = shape.layer_norm_eps;
  head.precision = static_cast<std::uint8_t>(shape.precision);
  head.activation = static_cast<std::uint8_t>(shape.activation);
  head.static_quantization = shape.static_quantization ? 1 : 0;
  head.kept = shape.kept;
  std::memset(arena, 0, kHeadBytes);
  std::memcpy(arena, &head, sizeof head);
  head.checksum = checksum_of(arena);
  std::memcpy(arena, &head, sizeof head);
}

ModelShape read_head(const std::byte* arena, std::size_t bytes, bool followed) {
  Head head{};
  if (bytes < kHeadBytes) throw std::invalid_argument("packed: too short to be a packed model");
  std::memcpy(&head, arena, sizeof head);
  if (std::memcmp(head.magic, kMagic, sizeof kMagic) != 0) {
    throw std::invalid_argument("packed: not the result of bert_op::prepack, or that of another version of it");
  }
  // The checksum finds damage; the checks behind it keep a head that was made up from leading out of the arena.
  if (head.checksum != checksum_of(arena) || head.precision > 3 ||
      head.activation > static_cast<std::uint8_t>(Activation::relu)) {
    throw std::invalid_argument("packed: its head is damaged");
  }
  const ModelShape shape{.precision = static_cast<Precision>(head.precision),
                         .activation = static_cast<Activation>(head.activation),
                         .num_layers = head.num_layers,
                         .hidden_size = head.hidden_size,
                         .num_heads = head.num_heads,
                         .intermediate_size = head.intermediate_size,
                         .layer_norm_eps = head.layer_norm_eps,
                         .static_quantization = head.static_quantization != 0,
                         .kept = head.kept};
  check_shape(shape);
  if (head.bytes != arena_bytes(shape) || (followed ? head.bytes > bytes : head.bytes != bytes)) {
    throw std::invalid_argument("packed: has " + std::to_string(bytes) + " bytes where its head asks for " +
                                std::to_string(arena_bytes(shape)));
  }
  return shape;
}

Layer layer_view(const ModelShape& shape, std::byte* arena, std::int64_t index) {
  Cursor cursor(arena + kHeadBytes + static_cast<std::size_t>(index) * layer_bytes(shape));
  return take_layer(cursor, shape);
}

}  // namespace bert_op
