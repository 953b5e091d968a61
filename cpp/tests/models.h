// Small random models, packed and as the reference takes them, and calls on them.
#pragma once

#include <cstddef>
#include <vector>

#include "encoder/encoder.h"
#include "encoder/reference.h"
#include "tests/operands.h"

namespace bert_op::testing {

ModelShape bert_base(Precision precision);
ModelShape small_shape(Precision precision, Activation activation = Activation::gelu_erf);

class TestModel {
 public:
  // static_ranges: none, or 8 numbers for each layer.
  TestModel(const ModelShape& shape, Random& random, const std::vector<float>& static_ranges = {});

  const std::byte* arena() const { return arena_.data(); }
  std::size_t arena_bytes() const { return arena_.size(); }

  ModelShape shape;
  std::vector<reference::EncoderLayer> layers;

 private:
  std::vector<std::byte> arena_;
};

// A batch of random hidden states and the mask that belongs to it.
struct Batch {
  std::int64_t batch, seq_len;
  std::vector<float> hidden_states;  // [batch][seq_len][hidden_size]
  std::vector<float> mask_values;
  Mask mask;

  Batch(const ModelShape& shape, std::int64_t batch_size, std::int64_t length, Random& random);
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;

  // Attends positions [0, lengths[b]) of sequence b.
  void mask_padding(const std::vector<std::int64_t>& lengths);
};

struct How {
  Isa isa = Isa::portable;
  int threads = 1;
  bool skip_padding = false;
};

// [batch][seq_len][hidden_size]. Checks that nothing around the result is written.
std::vector<float> run(const TestModel& model, const Batch& batch, const How& how);

bool same_bits(const std::vector<float>& one, const std::vector<float>& other);

// Rows [begin, end) of a result with rows of hidden_size values.
std::vector<float> rows_of(const std::vector<float>& result, const ModelShape& shape, std::int64_t begin,
                           std::int64_t end);

}  // namespace bert_op::testing
