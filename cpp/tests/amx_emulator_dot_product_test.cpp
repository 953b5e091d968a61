// TDPBF16PS and the four TDPB*D against scalar references, for many shapes, and from two threads at once.
#include "amx_emulator_test.h"

#include <bit>
#include <cmath>
#include <thread>

#include "check.h"

namespace bert_op::testing {
namespace {

// dst[m][n] += dot of the dwords a[m][k] and b[k][n], taken as four 8-bit integers.
template <class A, class B>
void reference_int8(Rows& dst, const Rows& a, const Rows& b, int rows, int columns, int depth) {
  for (int m = 0; m < rows; ++m) {
    for (int n = 0; n < columns; ++n) {
      std::uint32_t sum;
      std::memcpy(&sum, &dst[m][4 * n], 4);
      for (int i = 0; i < 4 * depth; ++i) {
        sum += static_cast<std::uint32_t>(static_cast<A>(a[m][i]) * static_cast<B>(b[i / 4][4 * n + i % 4]));
      }
      std::memcpy(&dst[m][4 * n], &sum, 4);
    }
  }
}

float flushed(float value) { return std::fpclassify(value) == FP_SUBNORMAL ? std::copysign(0.0f, value) : value; }

float bf16(const std::uint8_t* bytes) {
  return flushed(std::bit_cast<float>(static_cast<std::uint32_t>(bytes[0] << 16 | bytes[1] << 24)));
}

// dst[m][n] += dot of the bf16 pairs; also sums the absolute products into `magnitude`.
void reference_bf16(Rows& dst, std::array<std::array<double, 16>, 16>& magnitude, const Rows& a, const Rows& b,
                    int rows, int columns, int depth) {
  for (int m = 0; m < rows; ++m) {
    for (int n = 0; n < columns; ++n) {
      float pair[2] = {};
      for (int i = 0; i < 2 * depth; ++i) {
        const float x = bf16(&a[m][2 * i]);
        const float y = bf16(&b[i / 2][4 * n + 2 * (i % 2)]);
        pair[i % 2] = flushed(std::fma(x, y, pair[i % 2]));
        magnitude[m][n] += std::abs(static_cast<double>(x) * y);
      }
      float sum;
      std::memcpy(&sum, &dst[m][4 * n], 4);
      magnitude[m][n] += std::abs(sum);
      sum = flushed(flushed(sum) + flushed(pair[0] + pair[1]));
      std::memcpy(&dst[m][4 * n], &sum, 4);
    }
  }
}

Rows random_rows(std::mt19937& random) {
  Rows rows;
  for (auto& row : rows) {
    for (std::uint8_t& byte : row) byte = static_cast<std::uint8_t>(random());
  }
  return rows;
}

struct Shape {
  int rows, columns, depth;
};

// tmm5 (dst) += tmm2 (a) * tmm7 (b), the tiles configured for `shape`. Stored over rows of 0xEE, so that
// bytes outside the shape show whether they were written.
enum class Kind { ssd, sud, usd, uud, bf16 };

Rows multiply(Kind kind, const Shape& shape, const Rows& dst, const Rows& a, const Rows& b) {
  load_config(TileConfig()
                  .set(5, shape.rows, 4 * shape.columns)
                  .set(2, shape.rows, 4 * shape.depth)
                  .set(7, shape.depth, 4 * shape.columns));
  Rows result;
  for (auto& row : result) row.fill(0xEE);
  memory_barrier();
  _tile_loadd(5, &dst, 64);
  _tile_loadd(2, &a, 64);
  _tile_loadd(7, &b, 64);
  switch (kind) {
    case Kind::ssd: _tile_dpbssd(5, 2, 7); break;
    case Kind::sud: _tile_dpbsud(5, 2, 7); break;
    case Kind::usd: _tile_dpbusd(5, 2, 7); break;
    case Kind::uud: _tile_dpbuud(5, 2, 7); break;
    case Kind::bf16: _tile_dpbf16ps(5, 2, 7); break;
  }
  _tile_stored(5, &result, 64);
  return result;
}

Rows outside_marked(Rows rows, const Shape& shape) {
  for (int m = 0; m < 16; ++m) {
    for (int i = 0; i < 64; ++i) {
      if (m >= shape.rows || i >= 4 * shape.columns) rows[m][i] = 0xEE;
    }
  }
  return rows;
}

std::vector<Shape> shapes(std::mt19937& random) {
  std::vector<Shape> all = {{16, 16, 16}, {1, 1, 1}, {16, 1, 16}, {1, 16, 1}, {3, 5, 7}, {15, 13, 11}};
  for (int i = 0; i < 40; ++i) {
    all.push_back({1 + static_cast<int>(random() % 16), 1 + static_cast<int>(random() % 16),
                   1 + static_cast<int>(random() % 16)});
  }
  return all;
}

void check_int8(unsigned seed) {
  std::mt19937 random(seed);
  for (const Shape& shape : shapes(random)) {
    const Rows dst = random_rows(random), a = random_rows(random), b = random_rows(random);
    const auto [rows, columns, depth] = shape;
    Rows expected[4] = {dst, dst, dst, dst};
    reference_int8<std::int8_t, std::int8_t>(expected[0], a, b, rows, columns, depth);
    reference_int8<std::int8_t, std::uint8_t>(expected[1], a, b, rows, columns, depth);
    reference_int8<std::uint8_t, std::int8_t>(expected[2], a, b, rows, columns, depth);
    reference_int8<std::uint8_t, std::uint8_t>(expected[3], a, b, rows, columns, depth);
    for (int kind = 0; kind < 4; ++kind) {
      CHECK(multiply(static_cast<Kind>(kind), shape, dst, a, b) == outside_marked(expected[kind], shape));
    }
  }
  _tile_release();
}

TEST(int8_products_equal_the_reference) { check_int8(4); }

TEST(int8_products_do_not_saturate) {
  for (std::uint8_t extreme : {0x80, 0xFF, 0x7F}) {
    Rows a, b, dst = {};
    for (auto& row : a) row.fill(0xFF);
    for (auto& row : b) row.fill(extreme);
    Rows expected = dst;
    reference_int8<std::uint8_t, std::int8_t>(expected, a, b, 16, 16, 16);
    CHECK(multiply(Kind::usd, {16, 16, 16}, dst, a, b) == expected);
  }
  _tile_release();
}

// Biased exponents of floating-point numbers: 127 is that of 1, 0 that of denormals.
struct Binades {
  unsigned first, count;
};

// Random bf16 (element_bytes 2) or fp32 (4) numbers.
Rows random_floats(int element_bytes, const Binades& binades, std::mt19937& random) {
  Rows rows = random_rows(random);
  for (auto& row : rows) {
    for (int i = element_bytes - 2; i < 64; i += element_bytes) {
      const unsigned exponent = binades.first + random() % binades.count;
      const unsigned high = (random() & 0x807F) | exponent << 7;
      row[i] = static_cast<std::uint8_t>(high);
      row[i + 1] = static_cast<std::uint8_t>(high >> 8);
    }
  }
  return rows;
}

// The emulator follows the SDM's order of operations bit for bit. Hardware gets an error bound: 34 roundings.
void check_bf16(const Binades& of_dst, const Binades& of_a, const Binades& of_b, unsigned seed) {
  std::mt19937 random(seed);
  for (const Shape& shape : shapes(random)) {
    const Rows dst = random_floats(4, of_dst, random);
    const Rows a = random_floats(2, of_a, random), b = random_floats(2, of_b, random);
    Rows expected = dst;
    std::array<std::array<double, 16>, 16> magnitude = {};
    reference_bf16(expected, magnitude, a, b, shape.rows, shape.columns, shape.depth);
    expected = outside_marked(expected, shape);
    const Rows result = multiply(Kind::bf16, shape, dst, a, b);
    if (!runs_on_amx_hardware()) CHECK(result == expected);
    for (int m = 0; m < shape.rows; ++m) {
      for (int n = 0; n < shape.columns; ++n) {
        float value, wanted;
        std::memcpy(&value, &result[m][4 * n], 4);
        std::memcpy(&wanted, &expected[m][4 * n], 4);
        CHECK_CLOSE(value, wanted, 34 * magnitude[m][n] * 0x1p-24 + 0x1p-120);
      }
    }
  }
  _tile_release();
}

TEST(bf16_products_equal_the_reference) { check_bf16({124, 6}, {124, 6}, {124, 6}, 5); }
TEST(bf16_products_equal_the_reference_over_many_binades) {
  check_bf16({97, 60}, {97, 60}, {97, 60}, 6);
  check_bf16({0, 255}, {0, 255}, {0, 255}, 7);
}
TEST(bf16_products_take_denormal_inputs_as_zero) {
  check_bf16({60, 8}, {0, 2}, {190, 8}, 8);
  check_bf16({60, 8}, {190, 8}, {0, 2}, 9);
  check_bf16({0, 2}, {60, 5}, {60, 5}, 10);
}
TEST(bf16_products_flush_denormal_sums) { check_bf16({1, 2}, {61, 5}, {61, 5}, 11); }

TEST(bf16_products_propagate_infinity_and_nan_within_the_shape) {
  const Shape shape = {2, 2, 1};
  const std::uint16_t infinity = 0x7F80, one = 0x3F80;
  Rows a = {}, b = {}, dst = {};
  std::memcpy(&a[0][0], &infinity, 2);  // row 0: infinity, row 1: 0
  std::memcpy(&b[0][0], &one, 2);       // column 0: 1, column 1: 0
  const Rows result = multiply(Kind::bf16, shape, dst, a, b);
  float values[2][2];
  for (int m = 0; m < 2; ++m) std::memcpy(values[m], &result[m], 8);
  CHECK(std::isinf(values[0][0]) && std::isnan(values[0][1]) && values[1][0] == 0 && values[1][1] == 0);
  CHECK(result == outside_marked(result, shape));
  _tile_release();
}

TEST(bf16_products_ignore_and_keep_mxcsr) {
  std::mt19937 random(12);
  const Rows dst = random_floats(4, {124, 6}, random), a = random_floats(2, {124, 6}, random),
             b = random_floats(2, {124, 6}, random);
  const Rows expected = multiply(Kind::bf16, {16, 16, 16}, dst, a, b);
  const unsigned before = _mm_getcsr();
  const unsigned toward_zero = 0x7F80;
  _mm_setcsr(toward_zero);
  const Rows result = multiply(Kind::bf16, {16, 16, 16}, dst, a, b);
  const unsigned after = _mm_getcsr();
  _mm_setcsr(before);
  CHECK(after == toward_zero);
  CHECK(result == expected);
  _tile_release();
}

TEST(threads_have_their_own_tiles) {
  std::vector<std::thread> threads;
  for (unsigned seed = 0; seed < 2; ++seed) {
    threads.emplace_back([seed] {
      for (unsigned i = 0; i < 4; ++i) check_int8(100 + 10 * seed + i);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace bert_op::testing
