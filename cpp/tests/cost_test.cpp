// The cost model: what has to hold of any sensible one, and that the short way of reckoning agrees with the exact one.
#include "encoder/cost.h"

#include <random>

#include "tests/check.h"
#include "tests/models.h"

namespace bert_op::testing {
namespace {

TEST(faster_tiers_and_fewer_bits_cost_less) {
  for (const Precision precision : {Precision::fp32, Precision::fp32_qint8, Precision::bf16, Precision::bf16_qint8}) {
    double before = 0.0;
    for (const Isa isa : {Isa::portable, Isa::avx2, Isa::avx2_vnni, Isa::avx512, Isa::avx512_vnni, Isa::amx}) {
      const Rates rates = rates_of(isa, precision);
      CHECK(rates.linear >= before && rates.attention > 0.0 && rates.row > 0.0);
      before = rates.linear;
    }
  }
  CHECK(rates_of(Isa::amx, Precision::bf16_qint8).linear > rates_of(Isa::amx, Precision::bf16).linear);
}

TEST(largest_share_is_that_of_the_slowest_member) {
  std::mt19937 random(1);
  for (int trial = 0; trial < 300; ++trial) {
    const ModelShape shape = bert_base(static_cast<Precision>(trial % 4));
    const Rates rates = rates_of(Isa::avx512_vnni, shape.precision);
    const std::vector<std::int64_t> lengths(1 + random() % 3, 1 + static_cast<std::int64_t>(random() % 300));
    const int members = 1 + static_cast<int>(random() % 64);
    const LayerSplit split = split_layer(shape, lengths, 16, members);
    const SliceCost exact = slice_cost(shape, rates, lengths, split, 16, members, true);
    const SliceCost quick = slice_cost(shape, rates, lengths, split, 16, members, false);
    CHECK(quick.barriers == exact.barriers);
    CHECK((exact.barriers == 0) == (members == 1));
    CHECK_CLOSE(quick.microseconds, exact.microseconds, 0.15 * exact.microseconds);
    CHECK(exact.busy <= exact.microseconds * members * 1.0001);
    if (members == 1) CHECK_CLOSE(exact.busy, exact.microseconds, 1e-6 * exact.busy);
  }
}

TEST(a_sequence_costs_more_than_in_proportion_to_its_length) {
  const ModelShape shape = bert_base(Precision::bf16);
  const Rates rates = rates_of(Isa::avx512, Precision::bf16);
  CHECK(sequence_cost(shape, rates, 512) > 4.0 * sequence_cost(shape, rates, 128));
}

}  // namespace
}  // namespace bert_op::testing
