#include "bindings/info.h"

#include "build_info.h"
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

}  // namespace bert_op
