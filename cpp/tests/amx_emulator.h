// Runs AMX machine code on x86-64 CPUs that lack AMX, so that tests execute the very instructions of the
// kernels.
//
// A SIGILL handler decodes the faulting instruction, applies it to a thread-local tile state and advances
// RIP. It follows the Intel SDM: LDTILECFG, STTILECFG, TILERELEASE, TILEZERO, TILELOADD, TILELOADDT1,
// TILESTORED, TDPBF16PS, TDPBSSD, TDPBSUD, TDPBUSD and TDPBUUD, with palette 1 (8 tiles of at most 16 rows of
// 64 bytes).
//
// Differences from hardware: CPUID does not report AMX, a configuration that raises #GP (SIGSEGV) on hardware
// ends in SIGILL here, a memory fault inside a tile load or store does not record its row in start_row, and
// the address-size prefix (67h) is refused.
#pragma once

#include <cstdint>

namespace bert_op::testing {

// Installs the SIGILL handler for the whole process; later calls change nothing. Handlers that were installed
// before still receive every SIGILL that no AMX instruction caused, and those of AMX instructions that the
// SDM answers with an exception, after one line on stderr that says which rule was broken. Where AMX exists
// and the process has its permission nothing ever traps, and the hardware is what is tested. Returns false,
// with a line on stderr, where the emulator cannot run: without AVX2 and FMA.
bool install_amx_emulator();

// Number of instructions emulated so far by all threads of the process; stays 0 where the hardware executes
// them.
std::uint64_t emulated_instruction_count();

}  // namespace bert_op::testing
