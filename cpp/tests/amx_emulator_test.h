// What the tests of the AMX emulator share.
#pragma once

#include <immintrin.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

namespace bert_op::testing {

// True if the CPU executes AMX with tiles, int8 and bf16, and the kernel grants this process the tile state.
bool runs_on_amx_hardware();

struct alignas(64) TileConfig {
  std::uint8_t palette_id = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved_2[14] = {};
  std::uint16_t colsb[8] = {};
  std::uint8_t reserved_32[16] = {};
  std::uint8_t rows[8] = {};
  std::uint8_t reserved_56[8] = {};

  TileConfig& set(int tile, int tile_rows, int tile_colsb) {
    rows[tile] = static_cast<std::uint8_t>(tile_rows);
    colsb[tile] = static_cast<std::uint16_t>(tile_colsb);
    return *this;
  }
};

// Not _tile_loadconfig: GCC 12 does not see that it reads the struct and drops the stores to it.
inline void load_config(const TileConfig& config) { asm volatile("ldtilecfg %0" ::"m"(config) : "memory"); }

inline TileConfig stored_config() {
  TileConfig config;
  std::memset(static_cast<void*>(&config), 0xAA, sizeof config);
  asm volatile("sttilecfg %0" : "=m"(config));
  return config;
}

// GCC's _tile_loadd does not say that it reads memory: stores must not be moved behind it.
inline void memory_barrier() { asm volatile("" ::: "memory"); }

using Bytes = std::vector<std::uint8_t>;
using Rows = std::array<std::array<std::uint8_t, 64>, 16>;

inline Bytes random_bytes(std::size_t count, std::mt19937& random) {
  Bytes bytes(count);
  for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(random());
  return bytes;
}

}  // namespace bert_op::testing
