// Names of tiers, and BERT_OP_MAX_ISA in processes of their own: it is read once in each.
#include "kernels/isa.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <stdexcept>

#include "kernels/kernels.h"
#include "tests/check.h"

namespace bert_op::testing {
namespace {

constexpr Isa kAll[] = {Isa::portable, Isa::avx2, Isa::avx2_vnni, Isa::avx512, Isa::avx512_vnni, Isa::amx};

// What a child with this BERT_OP_MAX_ISA (null: unset) finds: the tier's name and that of its kernels, or the error's text.
std::string active_with(const char* requested) {
  int ends[2];
  if (pipe(ends) != 0) throw std::runtime_error("pipe failed");
  const pid_t child = fork();
  if (child == 0) {
    std::string text;
    if (requested == nullptr)
      unsetenv("BERT_OP_MAX_ISA");
    else
      setenv("BERT_OP_MAX_ISA", requested, 1);
    try {
      text = isa_name(active_isa());
      setenv("BERT_OP_MAX_ISA", "portable", 1);  // too late to count
      text.append(" ").append(kernels(active_isa()).name);
    } catch (const std::runtime_error& error) {
      text = std::string("error: ") + error.what();
    }
    _exit(write(ends[1], text.data(), text.size()) == static_cast<ssize_t>(text.size()) ? 0 : 1);
  }
  close(ends[1]);
  std::string text;
  char buffer[256];
  for (ssize_t count; (count = read(ends[0], buffer, sizeof buffer)) > 0;)
    text.append(buffer, static_cast<std::size_t>(count));
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  return text;
}

std::string kernel_name(Isa isa) { return kernels(isa).name; }
std::string tier_and_kernels(Isa isa) { return std::string(isa_name(isa)).append(" ").append(kernel_name(isa)); }

TEST(names_round_trip) {
  for (const Isa isa : kAll) CHECK(parse_isa(isa_name(isa)) == isa);
}

TEST(unknown_names_are_refused_with_the_known_ones) {
  for (const char* name : {"", "avx", "AMX", "avx512_bf16", "amx "}) {
    std::string message;
    try {
      parse_isa(name);
    } catch (const std::invalid_argument& error) {
      message = error.what();
    }
    CHECK(message == std::string("'") + name +
                         "' is no instruction-set tier; known are portable, avx2, avx2_vnni, avx512, avx512_vnni, amx");
  }
}

TEST(available_tiers_are_those_up_to_the_detected_one_that_the_cpu_has) {
  const std::vector<Isa> isas = available_isas();
  CHECK(!isas.empty() && isas.front() == Isa::portable && isas.back() == detected_isa());
  CHECK(std::is_sorted(isas.begin(), isas.end()));
  for (const Isa isa : kAll) {
    const bool listed = std::find(isas.begin(), isas.end(), isa) != isas.end();
    CHECK(listed == is_available(isa));
    CHECK(listed == (isa <= detected_isa()) || isa == Isa::avx2_vnni);
  }
  CHECK(!has_avx_vnni() || is_available(Isa::avx2_vnni));
  CHECK(is_available(Isa::avx2_vnni) || detected_isa() < Isa::avx512_vnni);
  CHECK(!has_avx512_bf16() || detected_isa() >= Isa::avx512);
}

TEST(every_available_tier_has_kernels_of_its_name) {
  for (const Isa isa : available_isas()) {
    const bool faster = isa == Isa::avx512_vnni && has_avx512_bf16();
    CHECK(kernel_name(isa) == (faster ? "avx512_bf16" : isa_name(isa)));
  }
}

TEST(tiers_that_the_cpu_lacks_are_refused) {
  for (const Isa isa : kAll) {
    if (is_available(isa)) continue;
    bool refused = false;
    try {
      kernels(isa);
    } catch (const std::invalid_argument&) {
      refused = true;
    }
    CHECK(refused);
    const std::string text = active_with(isa_name(isa));
    CHECK(text == std::string("error: BERT_OP_MAX_ISA=") + isa_name(isa) + ": this CPU " +
                      (isa > detected_isa() ? "goes up to " : "has no bytes' products on 256 bits, but ") +
                      isa_name(detected_isa()));
  }
}

TEST(max_isa_caps_the_tier) {
  for (const Isa isa : available_isas()) CHECK(active_with(isa_name(isa)) == tier_and_kernels(isa));
}

TEST(max_isa_unset_or_empty_means_the_best) {
  const std::string best = tier_and_kernels(detected_isa());
  CHECK(active_with(nullptr) == best);
  CHECK(active_with("") == best);
}

TEST(max_isa_that_names_no_tier_is_an_error) {
  CHECK(active_with("sse9") ==
        "error: BERT_OP_MAX_ISA: 'sse9' is no instruction-set tier; known are portable, avx2, "
        "avx2_vnni, avx512, avx512_vnni, amx");
}

// The rate is the caller's to measure; here only that it runs and counts.
TEST(peak_counts_operations) {
  for (const Isa isa : available_isas()) {
    for (const ElementType type : {ElementType::f32, ElementType::bf16, ElementType::u8}) {
      const std::int64_t one = kernels(isa).peak(type, 1);
      CHECK(one > 0 && kernels(isa).peak(type, 10) == 10 * one);
    }
  }
}

}  // namespace
}  // namespace bert_op::testing
