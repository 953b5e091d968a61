// The phases of a layer and who runs them. The residual stream stays in the caller's result, in fp32, each row at its final
// position; everything else lives in a workspace of the slice's size.
#include "encoder/encoder.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <utility>
#include <vector>

#include "encoder/arena.h"
#include "encoder/plan.h"
#include "encoder/threads.h"
#include "encoder/tuning.h"
#include "encoder/workspace.h"

namespace bert_op {
namespace {

// Activations that feed a linear layer. u8 ones come from rows of floats that are quantized in a step of their own.
struct Operand {
  std::byte* tiles = nullptr;
  RowScale* row_scale = nullptr;
  std::byte* float_rows = nullptr;
};

std::int64_t most_tiles(std::initializer_list<ElementType> types, std::int64_t columns) {
  std::int64_t most = 0;
  for (const ElementType type : types) most = std::max(most, k_tiles(type, columns));
  return most;
}

// What the last LayerNorm left is read by two linear layers, one after the other.
std::int64_t hidden_tiles(const ModelShape& shape) {
  return most_tiles({shape.type_of(LinearKind::qkv), shape.type_of(LinearKind::intermediate)}, shape.hidden_size);
}

struct TeamBuffers {
  Operand hidden;              // all rows of the team: what the last LayerNorm left for the next linear layer
  std::byte* heads = nullptr;  // queries, keys, values of a slice: [3 * heads][rows][head size]
  Operand context;             // attention's result of a slice
  Operand intermediate;        // GELU's result of a slice; shares memory with heads and context
  struct Member {
    std::byte* attention = nullptr;
    float* partial = nullptr;
    std::byte* split = nullptr;
  };
  std::vector<Member> members;
};

// `types`: of the linear layers that read it.
Operand take_operand(Pieces& pieces, const ModelShape& shape, std::initializer_list<ElementType> types,
                     std::int64_t rows, std::int64_t columns, bool from_floats) {
  Operand operand;
  operand.tiles = pieces.take(activation_bytes(rows, most_tiles(types, columns)));
  if (std::find(types.begin(), types.end(), ElementType::u8) != types.end()) {
    const ElementType type = ElementType::u8;
    const std::int64_t tiles = k_tiles(type, columns);
    const std::int64_t chunks = chunk_count(type, tiles);
    operand.row_scale = reinterpret_cast<RowScale*>(pieces.take(rows * chunks * 8));
    // Whole chunks, since each of a team may have one of its own.
    const std::int64_t chunk_columns = chunks * chunk_tiles(type, tiles) * kTileRowBytes;
    if (from_floats)
      operand.float_rows = pieces.take(rows * chunk_columns * element_bytes(float_type(shape.precision)));
  }
  return operand;
}

// A row of an fp32 operand, as its gemm reads it: split into three bf16 parts it is half as long again.
std::int64_t gemm_row_bytes(const Kernels& kernels, ElementType type, std::int64_t tiles) {
  const bool split = type == ElementType::f32 && kernels.split_bytes != nullptr;
  return tiles * kTileRowBytes * (split ? 3 : 2) / 2;
}

std::int64_t split_bytes(const Kernels& kernels, const ModelShape& shape, std::int64_t rows) {
  if (kernels.split_bytes == nullptr) return 0;
  std::int64_t bytes = 0;
  for (int linear = 0; linear < kLinears; ++linear) {
    const auto kind = static_cast<LinearKind>(linear);
    const ElementType type = shape.type_of(kind);
    if (type != ElementType::f32) continue;
    const std::int64_t tiles = k_tiles(type, kind == LinearKind::output ? shape.intermediate_size : shape.hidden_size);
    const std::int64_t most = tuning::max_pass_rows(rows, gemm_row_bytes(kernels, type, tiles));
    bytes = std::max(bytes, kernels.split_bytes(most, tiles));
  }
  return bytes;
}

TeamBuffers take_buffers(Pieces& pieces, const Kernels& kernels, const ModelShape& shape, const Team& team) {
  const ElementType floats = float_type(shape.precision);
  TeamBuffers buffers;
  buffers.hidden =
      take_operand(pieces, shape, {shape.type_of(LinearKind::qkv), shape.type_of(LinearKind::intermediate)},
                   team.padded_rows, shape.hidden_size, false);
  const std::size_t shared = pieces.used();
  buffers.heads = pieces.take(3 * team.max_slice_rows * shape.hidden_size * element_bytes(floats));
  buffers.context = take_operand(pieces, shape, {shape.type_of(LinearKind::attention_output)}, team.max_slice_rows,
                                 shape.hidden_size, true);
  const std::size_t attention_end = pieces.used();
  pieces.rewind(shared);
  buffers.intermediate = take_operand(pieces, shape, {shape.type_of(LinearKind::output)}, team.max_slice_rows,
                                      shape.intermediate_size, true);
  pieces.rewind(std::max(pieces.used(), attention_end));
  for (int member = 0; member < team.members; ++member) {
    TeamBuffers::Member own;
    own.attention = pieces.take(attention_scratch_bytes(floats, team.max_sequence, shape.head_size()));
    own.partial = reinterpret_cast<float*>(pieces.take(team.max_slice_rows * kPanelColumns * 4));
    own.split = pieces.take(split_bytes(kernels, shape, team.max_slice_rows));
    buffers.members.push_back(own);
  }
  return buffers;
}

// Adds up the time between marks; does nothing without a profile.
class Stopwatch {
 public:
  explicit Stopwatch(Profile* profile) : profile_(profile) {
    if (profile_ != nullptr) last_ = Clock::now();
  }
  void mark(Phase phase) {
    if (profile_ == nullptr) return;
    const Clock::time_point now = Clock::now();
    profile_->seconds[static_cast<std::size_t>(phase)] += std::chrono::duration<double>(now - last_).count();
    last_ = now;
  }

 private:
  using Clock = std::chrono::steady_clock;
  Profile* profile_;
  Clock::time_point last_;
};

// One thread's way through the encoder.
class Member {
 public:
  Member(const EncoderCall& call, const Sequences& sequences, const Plan& plan, const Team& team,
         const TeamBuffers& buffers, Barrier& barrier, int member, Profile* profile)
      : call_(call), shape_(call.shape), sequences_(sequences), team_(team), buffers_(buffers), barrier_(barrier),
        row_block_(plan.row_block), member_(member), members_(team.members), kernels_(kernels(call.isa)),
        floats_(float_type(shape_.precision)), stopwatch_(profile) {}

  void run() {
    kernels_.enter();
    std::byte* arena = const_cast<std::byte*>(call_.arena);  // Layer's views serve packing too; here they are only read
    for (const Slice& slice : team_.slices) gather(slice, layer_view(shape_, arena, 0));
    finish(Phase::gather);
    for (std::int64_t index = 0; index < shape_.num_layers; ++index) {
      const Layer layer = layer_view(shape_, arena, index);
      const bool last = index + 1 == shape_.num_layers;
      const Layer next = layer_view(shape_, arena, last ? index : index + 1);
      for (const Slice& slice : team_.slices) run_layer(slice, layer, last ? nullptr : &next.qkv);
    }
    kernels_.leave();
  }

 private:
  void run_layer(const Slice& slice, const Layer& layer, const Linear* next) {
    const Operand hidden = hidden_of(slice);
    project(layer.qkv, hidden, own_panels(slice, layer.qkv, slice.split.qkv), Activation::none,
            store_heads(buffers_.heads, floats_, shape_.head_size(), team_.max_slice_rows));
    finish(Phase::qkv);
    attend(slice, layer.attention_output);
    finish(Phase::attention);
    quantize_rows(slice, layer.attention_output, buffers_.context);
    if (layer.attention_output.type == ElementType::u8) barrier_.wait();
    add_projection(slice, layer.attention_output, slice.split.attention_output, buffers_.context);
    finish(Phase::attention_output);
    normalize(slice, layer.attention_norm, &layer.intermediate);
    finish(Phase::attention_norm);
    expand(slice, layer, hidden);
    finish(Phase::intermediate);
    add_projection(slice, layer.output, slice.split.output, buffers_.intermediate);
    finish(Phase::output);
    normalize(slice, layer.output_norm, next);
    finish(Phase::output_norm);
  }

  // A phase ends when the whole team has done its part.
  void finish(Phase phase) {
    barrier_.wait();
    stopwatch_.mark(phase);
  }

  // Input rows to their places in the result, and packed for the first layer.
  void gather(const Slice& slice, const Layer& first) {
    const Range rows = own_rows_of(slice);
    for (std::int64_t row = rows.begin; row < rows.end; ++row) {
      const std::int64_t position = positions(slice)[row];
      std::memcpy(call_.result + position * shape_.hidden_size, call_.hidden_states + position * shape_.hidden_size,
                  static_cast<std::size_t>(shape_.hidden_size) * 4);
    }
    normalize(slice, {nullptr, nullptr}, &first.qkv);
  }

  Part own_panels(const Slice& slice, const Linear& linear, const Grid& grid) const {
    return part_of(grid, slice.rows, linear.out_features / kPanelColumns, row_block_, member_);
  }
  Range own_rows_of(const Slice& slice) const { return own_rows(slice.rows, members_, member_); }

  // part: rows, which begin with a tile, and panels.
  GemmArgs gemm_args(const Linear& linear, const Operand& input, const Part& part) const {
    const std::int64_t rows = part.rows.size(), first = part.rows.begin;
    const TeamBuffers::Member& own = buffers_.members[static_cast<std::size_t>(member_)];
    return {.type = linear.type,
            .rows = rows,
            .tiles = linear.tiles,
            .a = input.tiles + first / kTileRows * linear.tiles * kTileBytes,
            .b = linear.weight,
            .bias = linear.bias,
            .weight_scale = linear.weight_scale,
            .column_sum = linear.column_sum,
            .row_scale =
                input.row_scale == nullptr ? nullptr : input.row_scale + first * chunk_count(linear.type, linear.tiles),
            .columns = linear.out_features,
            .panel_begin = part.columns.begin,
            .panel_end = part.columns.end,
            .pass_rows = tuning::pass_rows(rows, gemm_row_bytes(kernels_, linear.type, linear.tiles)),
            .partial = own.partial,
            .split = own.split};
  }

  // out: where row 0 of the slice goes.
  void project(const Linear& linear, const Operand& input, const Part& part, Activation activation, PanelStore out) {
    if (part.empty()) return;
    GemmArgs args = gemm_args(linear, input, part);
    args.activation = activation;
    args.out_type = floats_;
    args.out = out;
    args.out.base += part.rows.begin / kTileRows * out.block_stride;
    kernels_.gemm(args);
  }

  // The residual connection: the projection is added to the rows of the result.
  void add_projection(const Slice& slice, const Linear& linear, const Grid& grid, const Operand& input) {
    const Part part = own_panels(slice, linear, grid);
    if (part.empty()) return;
    GemmArgs args = gemm_args(linear, input, part);
    args.add_to = call_.result;
    args.add_rows = positions(slice) + part.rows.begin;
    args.add_stride = shape_.hidden_size;
    kernels_.gemm(args);
  }

  // Blocks of heads go round the team, so that every sequence is shared evenly.
  void attend(const Slice& slice, const Linear& next) {
    const std::int64_t head_size = shape_.head_size();
    const std::int64_t row_bytes = head_size * element_bytes(floats_);
    const std::int64_t matrix = team_.max_slice_rows * row_bytes;
    std::int64_t turn = 0;
    for (std::int64_t item = slice.begin; item < slice.end; ++item) {
      const Sequence& sequence = sequences_.items[static_cast<std::size_t>(item)];
      const std::int64_t row = sequence.first - slice.first;
      for (std::int64_t head = 0; head < shape_.num_heads; ++head) {
        const std::byte* query = buffers_.heads + head * matrix + row * row_bytes;
        const float* mask =
            sequence.mask < 0 ? nullptr : sequences_.masks.data() + sequence.mask + head * sequence.mask_head_stride;
        for (std::int64_t begin = 0; begin < sequence.length; begin += slice.split.query_rows) {
          if (turn++ % members_ != member_) continue;
          kernels_.attention({.type = floats_,
                              .q = query,
                              .k = query + shape_.num_heads * matrix,
                              .v = query + 2 * shape_.num_heads * matrix,
                              .seq_len = sequence.length,
                              .head_size = head_size,
                              .scale = 1.0f / std::sqrt(static_cast<float>(head_size)),
                              .mask = mask,
                              .mask_row_stride = sequence.mask_row_stride,
                              .row_begin = begin,
                              .row_end = std::min(begin + slice.split.query_rows, sequence.length),
                              .scratch = buffers_.members[static_cast<std::size_t>(member_)].attention,
                              .out = store_of(buffers_.context, next),
                              .out_row = row,
                              .out_panel = head * head_size / kPanelColumns,
                              .out_type = floats_});
        }
      }
    }
  }

  // The layer's wide middle. By chunks each member quantizes what it has computed for the next linear layer, which is then
  // still in L2; otherwise rows, once all are there.
  void expand(const Slice& slice, const Layer& layer, const Operand& hidden) {
    const Operand& wide = buffers_.intermediate;
    if (!slice.split.by_chunks) {
      project(layer.intermediate, hidden, own_panels(slice, layer.intermediate, slice.split.intermediate),
              shape_.activation, store_of(wide, layer.output));
      if (layer.output.type == ElementType::u8) barrier_.wait();
      quantize_rows(slice, layer.output, wide);
      return;
    }
    const std::int64_t chunks = chunk_count(layer.output.type, layer.output.tiles);
    const std::int64_t chunk_columns = chunk_tiles(layer.output.type, layer.output.tiles) * kTileRowBytes;
    const std::int64_t bytes = element_bytes(floats_);
    const Grid& grid = slice.split.intermediate;
    const Part own = part_of(grid, slice.rows, chunks, row_block_, member_);
    // Members of one column part have one buffer, each its own rows of it.
    std::byte* rows = wide.float_rows + member_ % grid.column_parts * team_.max_slice_rows * chunk_columns * bytes;
    for (std::int64_t chunk = own.columns.begin; chunk < own.columns.end; ++chunk) {
      const std::int64_t first = chunk * chunk_columns;
      const std::int64_t columns = std::min(chunk_columns, shape_.intermediate_size - first);
      project(layer.intermediate, hidden, {own.rows, {first / kPanelColumns, (first + columns) / kPanelColumns}},
              shape_.activation, store_rows(rows - first * bytes, floats_, columns));
      quantize(layer.output, wide, rows, own.rows, {first, first + columns});
    }
  }

  // Only int8 has something to do here.
  void quantize_rows(const Slice& slice, const Linear& linear, const Operand& operand) {
    if (linear.type != ElementType::u8) return;
    quantize(linear, operand, operand.float_rows, own_rows_of(slice), {0, linear.in_features});
  }

  void quantize(const Linear& next, const Operand& operand, const std::byte* source, Range rows, Range columns) {
    kernels_.quantize({.source_type = floats_,
                       .source = source,
                       .columns = columns.end - columns.begin,
                       .row_begin = rows.begin,
                       .row_end = rows.end,
                       .packed = packed_rows(operand, next),
                       .column_begin = columns.begin});
  }

  void normalize(const Slice& slice, const LayerNormWeights& norm, const Linear* next) {
    const Range rows = own_rows_of(slice);
    kernels_.layer_norm({.x = call_.result,
                         .rows = positions(slice),
                         .hidden_size = shape_.hidden_size,
                         .gamma = norm.gamma,
                         .beta = norm.beta,
                         .eps = shape_.layer_norm_eps,
                         .row_begin = rows.begin,
                         .row_end = rows.end,
                         .packed = next == nullptr ? PackedRows{} : packed_rows(hidden_of(slice), *next)});
  }

  PackedRows packed_rows(const Operand& operand, const Linear& linear) const {
    return {.type = linear.type,
            .tiles = operand.tiles,
            .tile_count = linear.tiles,
            .row_scale = operand.row_scale,
            .static_range = shape_.static_quantization ? linear.static_range : nullptr,
            .rotated = linear.rotated,
            .smoothing = linear.smoothing};
  }

  // Where a linear layer or attention writes what the next linear layer reads.
  PanelStore store_of(const Operand& operand, const Linear& next) const {
    return next.type == ElementType::u8 ? store_rows(operand.float_rows, floats_, next.in_features)
                                        : store_tiles(operand.tiles, floats_, next.tiles);
  }

  Operand hidden_of(const Slice& slice) const {
    Operand operand = buffers_.hidden;
    operand.tiles += slice.padded_row / kTileRows * hidden_tiles(shape_) * kTileBytes;
    if (operand.row_scale != nullptr) {
      const std::int64_t tiles = k_tiles(ElementType::u8, shape_.hidden_size);
      operand.row_scale += slice.padded_row * chunk_count(ElementType::u8, tiles);
    }
    return operand;
  }

  const std::int64_t* positions(const Slice& slice) const { return sequences_.positions.data() + slice.first; }

  const EncoderCall& call_;
  const ModelShape& shape_;
  const Sequences& sequences_;
  const Team& team_;
  const TeamBuffers& buffers_;
  Barrier& barrier_;
  const std::int64_t row_block_;
  const int member_;
  const int members_;
  const Kernels& kernels_;
  const ElementType floats_;
  Stopwatch stopwatch_;
};

// Rows that are not computed become zero.
void zero_skipped(const EncoderCall& call, const Sequences& sequences) {
  std::size_t next = 0;
  for (std::int64_t position = 0; position < call.batch * call.seq_len; ++position) {
    if (next < sequences.positions.size() && sequences.positions[next] == position) {
      ++next;
      continue;
    }
    std::memset(call.result + position * call.shape.hidden_size, 0,
                static_cast<std::size_t>(call.shape.hidden_size) * 4);
  }
}

std::size_t take_all(Pieces pieces, const ModelShape& shape, Isa isa, const Plan& plan,
                     std::vector<TeamBuffers>& buffers) {
  for (const Team& team : plan.teams) buffers.push_back(take_buffers(pieces, kernels(isa), shape, team));
  return pieces.used();
}

void run_on(const EncoderCall& call, Sequences found, int threads) {
  std::vector<std::int64_t> lengths;
  for (const Sequence& sequence : found.items) lengths.push_back(sequence.length);
  const Plan plan = make_plan(call.shape, call.isa, lengths, threads);
  const Sequences sequences = arranged(std::move(found), plan.order);
  const std::size_t bytes = workspace_bytes(call.shape, call.isa, plan);
  std::vector<TeamBuffers> buffers;
  take_all(Pieces(Workspace::of_this_thread(bytes)), call.shape, call.isa, plan, buffers);
  struct Place {
    std::size_t team;
    int member;
  };
  std::vector<Place> places;
  std::vector<std::unique_ptr<Barrier>> barriers;
  for (std::size_t team = 0; team < plan.teams.size(); ++team) {
    barriers.push_back(std::make_unique<Barrier>(plan.teams[team].members));
    for (int member = 0; member < plan.teams[team].members; ++member) places.push_back({team, member});
  }

  int came = 0;
  const auto needed = static_cast<int>(places.size());
  run_parallel(needed, [&](int thread, int count) {
    if (thread == 0) came = count;
    if (count != needed) return;
    const Place place = places[static_cast<std::size_t>(thread)];
    Member(call, sequences, plan, plan.teams[place.team], buffers[place.team], *barriers[place.team], place.member,
           thread == 0 ? call.profile : nullptr)
        .run();
  });
  if (came != needed) run_on(call, sequences, came);  // the runtime gave fewer threads than the plan was made for
  Workspace::trim_this_thread();
}

void count_operations(const EncoderCall& call, const Sequences& sequences, Profile& profile) {
  const auto rows = static_cast<double>(sequences.positions.size());
  const auto layers = static_cast<double>(call.shape.num_layers), hidden = static_cast<double>(call.shape.hidden_size);
  const auto intermediate = static_cast<double>(call.shape.intermediate_size);
  double pairs = 0.0;
  for (const Sequence& sequence : sequences.items) {
    pairs += static_cast<double>(sequence.length) * static_cast<double>(sequence.length);
  }
  const auto of = [&](Phase phase) -> double& { return profile.operations[static_cast<std::size_t>(phase)]; };
  of(Phase::qkv) = 6.0 * layers * rows * hidden * hidden;
  of(Phase::attention) = 4.0 * layers * pairs * hidden;
  of(Phase::attention_output) = 2.0 * layers * rows * hidden * hidden;
  of(Phase::intermediate) = of(Phase::output) = 2.0 * layers * rows * hidden * intermediate;
}

}  // namespace

const char* phase_name(Phase phase) {
  constexpr std::array<const char*, kPhases> kNames = {
      "gather", "qkv", "attention", "attention_output", "attention_norm", "intermediate", "output", "output_norm"};
  return kNames[static_cast<std::size_t>(phase)];
}

std::size_t workspace_bytes(const ModelShape& shape, Isa isa, const Plan& plan) {
  std::vector<TeamBuffers> buffers;
  return take_all(Pieces(nullptr), shape, isa, plan, buffers);
}

void run_encoder(const EncoderCall& call) {
  Sequences sequences = find_sequences(call.batch, call.seq_len, call.shape.num_heads, call.mask, call.skip_padding);
  if (call.profile != nullptr) count_operations(call, sequences, *call.profile);
  zero_skipped(call, sequences);
  if (!sequences.items.empty()) run_on(call, std::move(sequences), std::max(1, call.threads));
}

}  // namespace bert_op
