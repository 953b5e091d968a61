#include "bindings/info.h"

#include <cstdio>

#include "build_info.h"
#include "encoder/encoder.h"
#include "kernels/isa.h"

namespace bert_op {

std::string build_info_json(const std::string& extra) {
  std::string tiers;
  for (const Isa isa : available_isas()) tiers += std::string(tiers.empty() ? "" : ", ") + "\"" + isa_name(isa) + "\"";
  return std::string("{\"version\": \"") + BERT_OP_VERSION + "\", \"commit\": \"" + BERT_OP_COMMIT +
         "\", \"dirty\": " + (BERT_OP_DIRTY ? "true" : "false") + ", \"compiler\": \"" + BERT_OP_COMPILER +
         "\", \"isa\": \"" + isa_name(active_isa()) + "\", \"isa_detected\": \"" + isa_name(detected_isa()) +
         "\", \"isa_available\": [" + tiers + "], \"avx512_bf16\": " + (has_avx512_bf16() ? "true" : "false") +
         (extra.empty() ? "" : ", " + extra) + "}";
}

std::string packed_json(const ModelShape& shape, std::int64_t bytes) {
  const auto field = [](const char* name, const std::string& value) {
    return std::string("\"").append(name).append("\": ").append(value);
  };
  const auto text = [](const char* value) { return std::string("\"").append(value).append("\""); };
  std::string kept;
  for (int linear = 0; linear < kLinears; ++linear) {
    if ((shape.kept >> linear & 1) == 0) continue;
    kept += std::string(kept.empty() ? "" : ", ") + "\"" + linear_name(static_cast<LinearKind>(linear)) + "\"";
  }
  char eps[32];
  std::snprintf(eps, sizeof eps, "%.9g", static_cast<double>(shape.layer_norm_eps));
  return "{" + field("precision", text(precision_name(shape.precision))) + ", " +
         field("num_layers", std::to_string(shape.num_layers)) + ", " +
         field("hidden_size", std::to_string(shape.hidden_size)) + ", " +
         field("num_heads", std::to_string(shape.num_heads)) + ", " +
         field("intermediate_size", std::to_string(shape.intermediate_size)) + ", " +
         field("hidden_act", text(activation_name(shape.activation))) + ", " + field("layer_norm_eps", eps) + ", " +
         field("static_quantization", shape.static_quantization ? "true" : "false") + ", " +
         field("kept_linears", "[" + kept + "]") + ", " + field("bytes", std::to_string(bytes)) + "}";
}

std::string plan_json(const ModelShape& shape, Isa isa, const std::vector<std::int64_t>& lengths, int threads) {
  const Plan plan = make_plan(shape, isa, lengths, threads);
  const Replay played = replay(shape, rates_of(isa, shape.precision), lengths, plan);
  const auto grid = [](const Grid& parts) {
    return "\"" + std::to_string(parts.row_parts) + " x " + std::to_string(parts.column_parts) + "\"";
  };
  std::string teams;
  for (const Team& team : plan.teams) {
    std::string slices;
    for (const Slice& slice : team.slices) {
      slices += std::string(slices.empty() ? "" : ", ") + "{\"sequences\": " + std::to_string(slice.end - slice.begin) +
                ", \"rows\": " + std::to_string(slice.rows) + ", \"qkv\": " + grid(slice.split.qkv) +
                ", \"attention_output\": " + grid(slice.split.attention_output) +
                ", \"intermediate\": " + grid(slice.split.intermediate) + ", \"output\": " + grid(slice.split.output) +
                ", \"query_rows\": " + std::to_string(slice.split.query_rows) + "}";
    }
    teams += std::string(teams.empty() ? "" : ", ") + "{\"members\": " + std::to_string(team.members) +
             ", \"slices\": [" + slices + "]}";
  }
  // Of a tier that this machine has no kernels for it is not known.
  const std::string workspace =
      isa > detected_isa() ? "" : ", \"workspace_bytes\": " + std::to_string(workspace_bytes(shape, isa, plan));
  char figures[128];
  std::snprintf(figures, sizeof figures, "\"microseconds\": %.1f, \"efficiency\": %.4f, ", played.microseconds,
                played.efficiency);
  return "{\"threads\": " + std::to_string(plan.threads()) + ", \"threads_allowed\": " + std::to_string(threads) +
         ", " + figures + "\"barriers\": " + std::to_string(played.barriers) + workspace + ", \"teams\": [" + teams +
         "]}";
}

}  // namespace bert_op
