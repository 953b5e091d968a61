// Row operations: LayerNorm, conversion and quantization into tile-packed activations, one pass over a row in L1.

namespace {

BERT_OP_INLINE std::byte* tile_row(const PackedRows& packed, std::int64_t row) {
  return packed.tiles + row / kTileRows * packed.tile_count * kTileBytes + row % kTileRows * kTileRowBytes;
}

BERT_OP_INLINE RowScale scale_of_range(float low, float high) {
  const float scale = (high - low) * (1.0f / 255.0f);
  return {scale, low};
}

// Reads a row of fp32 or bf16 as fp32.
template <class Source>
BERT_OP_INLINE Vec load_as_float(const std::byte* row, std::int64_t column) {
  if constexpr (Source::type == ElementType::bf16) return load_bf16((const std::uint16_t*)row + column);
  return load(row + column * 4);
}

// u8 = round((x - offset) / scale), a scale and an offset for each chunk. A row with NaN or infinity in it gets a NaN scale,
// so that the result shows it.
template <class Source>
BERT_OP_INLINE void quantize_row(const std::byte* source, std::int64_t columns, std::int64_t row,
                                 const PackedRows& packed) {
  const std::int64_t chunk_columns = chunk_tiles(ElementType::u8, packed.tile_count) * kTileRowBytes;
  const std::int64_t chunks = chunk_count(ElementType::u8, packed.tile_count);
  std::byte* to = tile_row(packed, row);
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
    const std::int64_t begin = chunk * chunk_columns;
    const std::int64_t end = begin + chunk_columns < columns ? begin + chunk_columns : columns;
    Vec low = set(__builtin_inff()), high = set(-__builtin_inff()), poison = set(0.0f);
    for (std::int64_t i = begin; i < end; i += kLanes) {
      const Vec x = load_as_float<Source>(source, i);
      low = vmin(x, low);
      high = vmax(x, high);
      poison += x * 0.0f;
    }
    RowScale row_scale = packed.static_range != nullptr ? scale_of_range(packed.static_range[0], packed.static_range[1])
                                                        : scale_of_range(reduce_min(low), reduce_max(high));
    const float inverse = row_scale.scale > 0.0f ? 1.0f / row_scale.scale : 0.0f;
    for (std::int64_t i = begin; i < end; i += kLanes) {
      const Vec x = load_as_float<Source>(source, i);
      const Vec level = vmin(set(255.0f), vmax(set(0.0f), (x - row_scale.offset) * inverse));
      store_u8((std::uint8_t*)to + i / kTileRowBytes * kTileBytes + i % kTileRowBytes, round_to_int(level));
    }
    row_scale.scale += reduce_add(poison);
    packed.row_scale[row * chunks + chunk] = row_scale;
  }
  for (std::int64_t i = columns; i < packed.tile_count * kTileRowBytes; i += kLanes) {
    store_u8((std::uint8_t*)to + i / kTileRowBytes * kTileBytes + i % kTileRowBytes, set_int(0));
  }
}

BERT_OP_INLINE void pack_row(const float* x, std::int64_t columns, std::int64_t row, const PackedRows& packed) {
  if (packed.type == ElementType::u8) return quantize_row<F32>((const std::byte*)x, columns, row, packed);
  std::byte* to = tile_row(packed, row);
  if (packed.type == ElementType::bf16) {
    for (std::int64_t i = 0; i < columns; i += kLanes)
      store(to + i / 32 * kTileBytes + i % 32 * 2, to_bf16(load(x + i)));
  } else {
    for (std::int64_t i = 0; i < columns; i += kLanes) store(to + i / 16 * kTileBytes + i % 16 * 4, load(x + i));
  }
}

void layer_norm(const LayerNormArgs& args) {
  const std::int64_t n = args.hidden_size;
  for (std::int64_t row = args.row_begin; row < args.row_end; ++row) {
    float* x = args.x + args.rows[row] * n;
    if (args.gamma != nullptr) {
      Vec sum = set(0.0f), sum2 = set(0.0f);
      for (std::int64_t i = 0; i < n; i += 2 * kLanes) {  // n is a multiple of 32
        sum += load(x + i);
        sum2 += load(x + i + kLanes);
      }
      const float mean = reduce_add(sum + sum2) / (float)n;
      Vec squares = set(0.0f), squares2 = set(0.0f);
      for (std::int64_t i = 0; i < n; i += 2 * kLanes) {
        const Vec d = load(x + i) - mean, d2 = load(x + i + kLanes) - mean;
        squares += d * d;
        squares2 += d2 * d2;
      }
      const float variance = reduce_add(squares + squares2) / (float)n;
      const float inverse = 1.0f / __builtin_sqrtf(variance + args.eps);
      for (std::int64_t i = 0; i < n; i += kLanes) {
        store(x + i, (load(x + i) - mean) * inverse * load(args.gamma + i) + load(args.beta + i));
      }
    }
    if (args.packed.tiles != nullptr) pack_row(x, n, row, args.packed);
  }
}

void quantize(const QuantizeArgs& args) {
  const std::int64_t row_bytes = args.columns * element_bytes(args.source_type);
  for (std::int64_t row = args.row_begin; row < args.row_end; ++row) {
    const std::byte* source = args.source + row * row_bytes;
    if (args.source_type == ElementType::bf16) {
      quantize_row<Bf16>(source, args.columns, row, args.packed);
    } else {
      quantize_row<F32>(source, args.columns, row, args.packed);
    }
  }
}

}  // namespace
