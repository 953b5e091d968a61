// Rates of the kernels on one thread, beside the peak of the same minute.
//   build/kernels_bench [--isa=NAME] [--seconds=0.2]
// Each case runs for a while on operands that are ready; the median of the rounds is printed. Weights are larger than L2 and
// are read round and round, as in a model. Times are only comparable within one run; steady them with `chrt -f 10`.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "encoder/arena.h"
#include "encoder/workspace.h"
#include "kernels/kernels.h"

namespace {

using namespace bert_op;
using Clock = std::chrono::steady_clock;

struct Options {
  Isa isa = active_isa();
  double seconds = 0.2;
};

// Median seconds of one call of `work`, over at least `seconds` and five rounds.
template <class Work>
double median_seconds(double seconds, Work&& work) {
  work();
  std::vector<double> rounds;
  const auto start = Clock::now();
  while (rounds.size() < 5 || std::chrono::duration<double>(Clock::now() - start).count() < seconds) {
    const auto begin = Clock::now();
    work();
    rounds.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
  }
  std::nth_element(rounds.begin(), rounds.begin() + static_cast<std::ptrdiff_t>(rounds.size() / 2), rounds.end());
  return rounds[rounds.size() / 2];
}

std::byte* zeroed(std::int64_t bytes) {
  std::byte* memory = allocate_huge(static_cast<std::size_t>(bytes));
  std::memset(memory, 0, static_cast<std::size_t>(bytes));
  return memory;
}

const char* type_name(ElementType type) {
  return type == ElementType::f32 ? "fp32" : type == ElementType::bf16 ? "bf16" : "int8";
}

double peak(const Kernels& tier, ElementType type) {
  constexpr std::int64_t kRounds = 2000000;
  double operations = 0.0;
  const double took = median_seconds(0.1, [&] { operations = static_cast<double>(tier.peak(type, kRounds)); });
  return operations / took;
}

void print_row(const std::string& what, double seconds, double operations, double peak_rate, double bytes) {
  std::printf("%-44s %9.1f us %8.3f T/s", what.c_str(), seconds * 1e6, operations / seconds * 1e-12);
  if (peak_rate > 0.0)
    std::printf(" %5.1f %% of peak", 100.0 * operations / seconds / peak_rate);
  else
    std::printf("                ");
  std::printf(" %8.2f GB/s\n", bytes / seconds * 1e-9);
}

void bench_gemm(const Options& options, const Kernels& tier, ElementType type, double peak_rate, std::int64_t rows,
                std::int64_t k, std::int64_t n, Activation activation, bool residual) {
  const std::int64_t tiles = k_tiles(type, k), chunks = chunk_count(type, tiles);
  const std::int64_t weight_bytes = n / kPanelColumns * tiles * kPanelTileBytes;
  const std::int64_t copies = std::max<std::int64_t>(1, (std::int64_t{64} << 20) / weight_bytes);
  std::byte* weights = zeroed(weight_bytes * copies);
  std::byte* a = zeroed(activation_bytes(rows, tiles));
  const ElementType out_type = type == ElementType::f32 ? ElementType::f32 : ElementType::bf16;
  std::byte* out = zeroed(activation_bytes(rows, k_tiles(ElementType::f32, n)));
  std::vector<float> bias(n), scale(n * chunks), column_sum(n * chunks),
      partial(round_up(rows, kRowBlock) * kPanelColumns);
  std::vector<RowScale> row_scale(rows * chunks);
  const bool splits = type == ElementType::f32 && tier.split_bytes != nullptr;
  std::vector<std::byte> split(splits ? tier.split_bytes(rows, tiles) : 0);
  std::vector<std::int64_t> positions(rows);
  for (std::int64_t i = 0; i < rows; ++i) positions[i] = i;
  GemmArgs args{.type = type,
                .rows = rows,
                .tiles = tiles,
                .a = a,
                .b = weights,
                .bias = bias.data(),
                .weight_scale = scale.data(),
                .column_sum = column_sum.data(),
                .row_scale = row_scale.data(),
                .columns = n,
                .panel_begin = 0,
                .panel_end = n / kPanelColumns,
                .partial = partial.data(),
                .split = splits ? split.data() : nullptr};
  args.activation = activation;
  args.out_type = out_type;
  args.out = store_tiles(out, out_type, k_tiles(out_type, n));
  if (residual) {
    args.add_to = reinterpret_cast<float*>(out);
    args.add_rows = positions.data();
    args.add_stride = n;
  }
  std::int64_t turn = 0;
  const double seconds = median_seconds(options.seconds, [&] {
    args.b = weights + turn++ % copies * weight_bytes;
    tier.gemm(args);
  });
  char what[96];
  std::snprintf(what, sizeof what, "gemm %s %4ld x %4ld x %4ld %s", type_name(type), static_cast<long>(rows),
                static_cast<long>(k), static_cast<long>(n),
                residual                         ? "+ bias + residual"
                : activation == Activation::none ? "+ bias"
                                                 : "+ bias + GELU");
  print_row(what, seconds, 2.0 * static_cast<double>(rows * k * n), peak_rate, static_cast<double>(weight_bytes));
  free_huge(weights);
  free_huge(a);
  free_huge(out);
}

void bench_attention(const Options& options, const Kernels& tier, ElementType type, double peak_rate,
                     std::int64_t seq_len, std::int64_t head_size) {
  const std::int64_t bytes = seq_len * head_size * element_bytes(type);
  std::byte* qkv = zeroed(3 * bytes);
  std::byte* scratch = zeroed(attention_scratch_bytes(type, seq_len, head_size));
  std::byte* out = zeroed(activation_bytes(seq_len, k_tiles(type, head_size)));
  const AttentionArgs args{.type = type,
                           .q = qkv,
                           .k = qkv + bytes,
                           .v = qkv + 2 * bytes,
                           .seq_len = seq_len,
                           .head_size = head_size,
                           .scale = 0.125f,
                           .mask = nullptr,
                           .mask_row_stride = 0,
                           .row_begin = 0,
                           .row_end = seq_len,
                           .scratch = scratch,
                           .out = store_tiles(out, type, k_tiles(type, head_size)),
                           .out_row = 0,
                           .out_panel = 0,
                           .out_type = type};
  const double seconds = median_seconds(options.seconds, [&] { tier.attention(args); });
  char what[96];
  std::snprintf(what, sizeof what, "attention %s, one head of %ld, %ld keys", type_name(type),
                static_cast<long>(head_size), static_cast<long>(seq_len));
  print_row(what, seconds, 4.0 * static_cast<double>(seq_len * seq_len * head_size), peak_rate,
            static_cast<double>(4 * bytes));
  free_huge(qkv);
  free_huge(scratch);
  free_huge(out);
}

void bench_rows(const Options& options, const Kernels& tier, ElementType type, std::int64_t rows,
                std::int64_t columns) {
  const std::int64_t tiles = k_tiles(type, columns);
  std::byte* x = zeroed(rows * columns * 4);
  std::byte* packed = zeroed(activation_bytes(rows, tiles));
  std::vector<float> gamma(columns, 1.0f), beta(columns);
  std::vector<RowScale> row_scale(rows * chunk_count(ElementType::u8, tiles));
  std::vector<std::int64_t> positions(rows);
  for (std::int64_t i = 0; i < rows; ++i) positions[i] = i;
  const LayerNormArgs args{.x = reinterpret_cast<float*>(x),
                           .rows = positions.data(),
                           .hidden_size = columns,
                           .gamma = gamma.data(),
                           .beta = beta.data(),
                           .eps = 1e-12f,
                           .row_begin = 0,
                           .row_end = rows,
                           .packed = {type, packed, tiles, row_scale.data(), nullptr}};
  const double seconds = median_seconds(options.seconds, [&] { tier.layer_norm(args); });
  char what[96];
  std::snprintf(what, sizeof what, "layer norm %ld x %ld, packed as %s", static_cast<long>(rows),
                static_cast<long>(columns), type_name(type));
  print_row(what, seconds, static_cast<double>(rows * columns), 0.0,
            static_cast<double>(rows * columns * (8 + element_bytes(type))));
  free_huge(x);
  free_huge(packed);
}

// bf16 rows quantized to u8, as before the attention output and the last linear layer.
void bench_quantize(const Options& options, const Kernels& tier, std::int64_t rows, std::int64_t columns) {
  const std::int64_t tiles = k_tiles(ElementType::u8, columns);
  std::byte* source = zeroed(rows * columns * 2);
  std::byte* packed = zeroed(activation_bytes(rows, tiles));
  std::vector<RowScale> row_scale(rows * chunk_count(ElementType::u8, tiles));
  const QuantizeArgs args{.source_type = ElementType::bf16,
                          .source = source,
                          .columns = columns,
                          .row_begin = 0,
                          .row_end = rows,
                          .packed = {ElementType::u8, packed, tiles, row_scale.data(), nullptr}};
  const double seconds = median_seconds(options.seconds, [&] { tier.quantize(args); });
  char what[96];
  std::snprintf(what, sizeof what, "quantize bf16 %ld x %ld", static_cast<long>(rows), static_cast<long>(columns));
  print_row(what, seconds, static_cast<double>(rows * columns), 0.0, static_cast<double>(rows * columns * 3));
  free_huge(source);
  free_huge(packed);
}

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument.rfind("--isa=", 0) == 0)
      options.isa = parse_isa(argument.substr(6));
    else if (argument.rfind("--seconds=", 0) == 0)
      options.seconds = std::stod(argument.substr(10));
    else
      throw std::invalid_argument("unknown argument '" + argument + "'; known are --isa=NAME and --seconds=S");
  }
  return options;
}

void run(const Options& options) {
  const Kernels& tier = kernels(options.isa);
  std::printf("tier %s (kernels %s), one thread; row operations count elements\n", isa_name(options.isa), tier.name);
  tier.enter();
  for (const ElementType type : {ElementType::f32, ElementType::bf16, ElementType::u8}) {
    const double peak_rate = peak(tier, type);
    std::printf("\n%s: peak on registers %.3f T/s\n", type_name(type), peak_rate * 1e-12);
    for (const std::int64_t rows : {16, 128, 256}) {
      bench_gemm(options, tier, type, peak_rate, rows, 768, 2304, Activation::none, false);
      bench_gemm(options, tier, type, peak_rate, rows, 768, 3072, Activation::gelu_erf, false);
      bench_gemm(options, tier, type, peak_rate, rows, 3072, 768, Activation::none, true);
    }
    if (type != ElementType::u8) {
      for (const std::int64_t seq_len : {32, 128, 384, 512, 2048})
        bench_attention(options, tier, type, peak_rate, seq_len, 64);
    }
    bench_rows(options, tier, type, 256, 768);
    if (type == ElementType::u8) {
      for (const std::int64_t columns : {768, 3072}) bench_quantize(options, tier, 256, columns);
    }
  }
  tier.leave();
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run(parse(argc, argv));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "kernels_bench: %s\n", error.what());
    return 2;
  }
  return 0;
}
