// From a tier to its kernels. Compiled without any ISA flag.
#include <stdexcept>

#include "kernels/kernels.h"

namespace bert_op {

extern const Kernels kernels_portable;
#if defined(__x86_64__)
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx2_vnni;
extern const Kernels kernels_avx2_vnni_evex;
extern const Kernels kernels_avx512;
extern const Kernels kernels_avx512_vnni;
extern const Kernels kernels_avx512_bf16;
extern const Kernels kernels_amx;
#endif

const Kernels& kernels(Isa isa) {
  if (!is_available(isa)) throw std::invalid_argument(std::string("this CPU has no ") + isa_name(isa));
  switch (isa) {
#if defined(__x86_64__)
    case Isa::amx: return kernels_amx;
    case Isa::avx512_vnni: return has_avx512_bf16() ? kernels_avx512_bf16 : kernels_avx512_vnni;
    case Isa::avx512: return kernels_avx512;
    case Isa::avx2_vnni: return has_avx_vnni() ? kernels_avx2_vnni : kernels_avx2_vnni_evex;
    case Isa::avx2: return kernels_avx2;
#endif
    default: return kernels_portable;
  }
}

ElementType parse_element_type(const std::string& name) {
  if (name == "f32") return ElementType::f32;
  if (name == "bf16") return ElementType::bf16;
  if (name == "u8") return ElementType::u8;
  throw std::invalid_argument("element type '" + name + "' is unknown: choose f32, bf16 or u8");
}

PanelStore store_tiles(void* base, ElementType type, std::int64_t tiles) {
  const std::int64_t tiles_per_panel = kPanelColumns * element_bytes(type) / kTileRowBytes;
  return {.base = static_cast<std::byte*>(base),
          .group_panels = 1,
          .group_stride = tiles_per_panel * kTileBytes,
          .panel_stride = 0,
          .block_stride = tiles * kTileBytes,
          .row_stride = kTileRowBytes,
          .half_stride = kTileBytes};
}

PanelStore store_rows(void* base, ElementType type, std::int64_t columns) {
  const std::int64_t row_bytes = columns * element_bytes(type);
  return {.base = static_cast<std::byte*>(base),
          .group_panels = 1,
          .group_stride = kPanelColumns * element_bytes(type),
          .panel_stride = 0,
          .block_stride = kTileRows * row_bytes,
          .row_stride = row_bytes,
          .half_stride = 64};
}

PanelStore store_heads(void* base, ElementType type, std::int64_t head_size, std::int64_t rows) {
  const std::int64_t row_bytes = head_size * element_bytes(type);
  return {.base = static_cast<std::byte*>(base),
          .group_panels = head_size / kPanelColumns,
          .group_stride = rows * row_bytes,
          .panel_stride = kPanelColumns * element_bytes(type),
          .block_stride = kTileRows * row_bytes,
          .row_stride = row_bytes,
          .half_stride = 64};
}

std::int64_t attention_scratch_bytes(ElementType type, std::int64_t seq_len, std::int64_t head_size) {
  const std::int64_t padded = round_up(seq_len, 32);
  const std::int64_t packed =
      (2 * padded * head_size + kRowBlock * head_size + kRowBlock * padded) * element_bytes(type);
  return packed + (kRowBlock * score_stride(padded) + kRowBlock * kPanelColumns) * 4;
}

}  // namespace bert_op
