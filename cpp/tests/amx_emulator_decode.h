// Decoder of the AMX instructions: machine code and general registers in, operation and operands out.
// Private to amx_emulator.cpp.
#pragma once

#include <asm/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>

namespace bert_op::testing {

enum class Operation {
  ldtilecfg,
  sttilecfg,
  tilerelease,
  tilezero,
  tileloadd,
  tileloaddt1,
  tilestored,
  tdpbf16ps,
  tdpbssd,
  tdpbsud,
  tdpbusd,
  tdpbuud,
};

enum class Form { memory, sib_memory, one_tile, three_tiles, no_operand };

enum Prefix : std::uint8_t { kNone = 0, k66 = 1, kF3 = 2, kF2 = 3 };  // values of VEX.pp

struct Encoding {
  std::uint8_t opcode;  // in map 0F38
  Prefix prefix;
  Form form;
  Operation operation;
  const char* name;
};

constexpr Encoding kEncodings[] = {
    {0x49, kNone, Form::memory, Operation::ldtilecfg, "ldtilecfg"},
    {0x49, k66, Form::memory, Operation::sttilecfg, "sttilecfg"},
    {0x49, kNone, Form::no_operand, Operation::tilerelease, "tilerelease"},
    {0x49, kF2, Form::one_tile, Operation::tilezero, "tilezero"},
    {0x4B, kF2, Form::sib_memory, Operation::tileloadd, "tileloadd"},
    {0x4B, k66, Form::sib_memory, Operation::tileloaddt1, "tileloaddt1"},
    {0x4B, kF3, Form::sib_memory, Operation::tilestored, "tilestored"},
    {0x5C, kF3, Form::three_tiles, Operation::tdpbf16ps, "tdpbf16ps"},
    {0x5E, kF2, Form::three_tiles, Operation::tdpbssd, "tdpbssd"},
    {0x5E, kF3, Form::three_tiles, Operation::tdpbsud, "tdpbsud"},
    {0x5E, k66, Form::three_tiles, Operation::tdpbusd, "tdpbusd"},
    {0x5E, kNone, Form::three_tiles, Operation::tdpbuud, "tdpbuud"},
};

struct Instruction {
  const Encoding* encoding;
  int reg;                  // ModRM.reg: destination tile, or the tile that is stored
  int rm;                   // ModRM.rm: first source tile
  int vvvv;                 // second source tile
  std::uint8_t* address;    // memory operand; for the SIB forms that of row 0
  std::int64_t row_stride;  // bytes between rows, SIB forms only
  const std::uint8_t* end;  // of the instruction
  const char* fault;        // why the encoding raises #UD, or nullptr
};

inline std::int64_t general_register(const ucontext_t& context, int number) {
  constexpr int kGreg[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                             REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
  return context.uc_mcontext.gregs[kGreg[number]];
}

inline std::int64_t segment_base(std::uint8_t prefix) {
  unsigned long base = 0;
  if (prefix == 0x64) syscall(SYS_arch_prctl, ARCH_GET_FS, &base);
  if (prefix == 0x65) syscall(SYS_arch_prctl, ARCH_GET_GS, &base);
  return static_cast<std::int64_t>(base);
}

inline const Encoding* find_encoding(std::uint8_t opcode, std::uint8_t prefix, bool register_form) {
  for (const Encoding& encoding : kEncodings) {
    const bool takes_memory = encoding.form == Form::memory || encoding.form == Form::sib_memory;
    if (encoding.opcode == opcode && encoding.prefix == prefix && takes_memory != register_form) {
      return &encoding;
    }
  }
  return nullptr;
}

// The #UD conditions that the bytes alone decide; nullptr if there are none.
inline const char* encoding_fault(const Instruction& instruction, bool short_address, bool has_sib) {
  const Form form = instruction.encoding->form;
  const bool reg_is_tile = form != Form::memory && form != Form::no_operand;
  if (reg_is_tile && instruction.reg >= 8) return "#UD: tile number above 7";
  if (form == Form::three_tiles) {
    return instruction.rm >= 8 || instruction.vvvv >= 8 ? "#UD: tile number above 7" : nullptr;
  }
  if (instruction.vvvv != 0) return "#UD: VEX.vvvv is not 1111b";
  if (form == Form::sib_memory && !has_sib) return "#UD: memory operand without SIB byte";
  if (short_address) return "the emulator does not know the address-size prefix";
  return nullptr;
}

// Fills in address, row_stride and end from ModRM, SIB and displacement; `cursor` is behind the ModRM byte.
inline void decode_memory(const std::uint8_t* cursor, int mod, int rm, int index_high, int base_high,
                          const ucontext_t& context, std::uint8_t segment, Instruction& instruction) {
  const bool has_sib = rm == 4;
  int base_low = rm;
  std::uint64_t scaled_index = 0;
  if (has_sib) {
    const std::uint8_t sib = *cursor++;
    base_low = sib & 7;
    const int index = ((sib >> 3) & 7) | index_high;
    if (index != 4) scaled_index = static_cast<std::uint64_t>(general_register(context, index)) << (sib >> 6);
  }
  const bool has_base = mod != 0 || base_low != 5;
  std::int64_t displacement = 0;
  if (mod == 1) {
    displacement = static_cast<std::int8_t>(*cursor++);
  } else if (mod == 2 || !has_base) {
    std::int32_t dword;
    std::memcpy(&dword, cursor, sizeof dword);
    displacement = dword;
    cursor += sizeof dword;
  }
  std::int64_t address = segment_base(segment) + displacement;
  if (has_base) {
    address += general_register(context, base_low | base_high);
  } else if (!has_sib) {
    address += reinterpret_cast<std::int64_t>(cursor);  // RIP-relative; no immediate follows
  }
  if (instruction.encoding->form == Form::sib_memory) {
    instruction.row_stride = static_cast<std::int64_t>(scaled_index);
  } else {
    address += static_cast<std::int64_t>(scaled_index);
  }
  instruction.address = reinterpret_cast<std::uint8_t*>(address);
  instruction.end = cursor;
}

// Decodes the instruction at `code`; false if it is not one of kEncodings. Reads no byte behind the
// instruction, where an unmapped page may begin.
inline bool decode(const std::uint8_t* code, const ucontext_t& context, Instruction& instruction) {
  std::uint8_t segment = 0;
  bool short_address = false;
  for (;; ++code) {
    const std::uint8_t prefix = *code;
    if (prefix == 0x64 || prefix == 0x65) {
      segment = prefix;
    } else if (prefix == 0x67) {
      short_address = true;
    } else if (prefix != 0x26 && prefix != 0x2E && prefix != 0x36 && prefix != 0x3E) {  // without effect
      break;
    }
  }
  if (code[0] != 0xC4 || (code[1] & 0x1F) != 2) return false;  // 3-byte VEX, map 0F38
  if ((code[2] & 0x84) != 0) return false;                     // VEX.W1 or VEX.L1
  // R, X, B and vvvv are stored inverted.
  const int reg_high = (code[1] & 0x80) != 0 ? 0 : 8;
  const int index_high = (code[1] & 0x40) != 0 ? 0 : 8;
  const int base_high = (code[1] & 0x20) != 0 ? 0 : 8;
  const int vvvv = ((code[2] >> 3) & 15) ^ 15;
  const int mod = code[4] >> 6;
  const int reg = (code[4] >> 3) & 7;
  const int rm = code[4] & 7;
  const Encoding* encoding = find_encoding(code[3], code[2] & 3, mod == 3);
  if (encoding == nullptr) return false;
  // A fixed ModRM field with another value is another instruction of the opcode group.
  const Form form = encoding->form;
  if ((form == Form::memory || form == Form::no_operand) && reg != 0) return false;
  if ((form == Form::one_tile || form == Form::no_operand) && rm != 0) return false;

  instruction = {encoding, reg | reg_high, rm | base_high, vvvv, nullptr, 0, code + 5, nullptr};
  instruction.fault = encoding_fault(instruction, short_address, rm == 4);
  if (mod != 3 && instruction.fault == nullptr) {
    decode_memory(code + 5, mod, rm, index_high, base_high, context, segment, instruction);
  }
  return true;
}

}  // namespace bert_op::testing
