// The warpgroup product of sm_90a with its weight operand in registers: D[64 × TOKENS] += A[64 × 16] · B[TOKENS × 16]^T.
//
// A is 64 weight rows, four registers a thread: register q of warp w, lane l holds row 16w + l/4 + 8(q&1) and
// k = 2(l%4) + {0, 1} + 8(q>>1). B lies in shared memory, k contiguous, 64 k a row of 128 bytes whose 16-byte chunks are
// exchanged by row & 7 (the 128-byte swizzle of tensor copies). Element 4j + 2h + c of D is row 16w + l/4 + 8h, token
// 8j + 2(l%4) + c. The four warps of a warpgroup call every function together.
#pragma once
#include "ptx.cuh"

namespace nvfp4::ptx {

// Orders register writes before the next products of this warpgroup.
NVFP4_INLINE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
NVFP4_INLINE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int LEFT> NVFP4_INLINE void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory"); }

// Keeps the compiler from moving accesses of an accumulator over a fence or wait.
template <int COUNT> NVFP4_INLINE void wgmma_pin(float (&d)[COUNT]) {
#pragma unroll
  for (int i = 0; i < COUNT; i++) asm volatile("" : "+f"(d[i])::"memory");
}

// Descriptor of a B tile: 128-byte swizzle, groups of eight rows 1024 bytes apart, address in units of 16 bytes. Its low
// word moves through shared memory: a step of 16 k inside a row is + 2.
constexpr uint64_t WGMMA_DESCRIPTOR_HIGH = 0x40000040ull << 32;
NVFP4_INLINE uint32_t wgmma_descriptor_low(uint32_t shared) { return 0x10000u | shared >> 4; }

#define NVFP4_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define NVFP4_D8(i) NVFP4_D4(i), NVFP4_D4(i + 4)
#define NVFP4_D16(i) NVFP4_D8(i), NVFP4_D8(i + 8)
#define NVFP4_D32(i) NVFP4_D16(i), NVFP4_D16(i + 16)
#define NVFP4_D36(i) NVFP4_D32(i), NVFP4_D4(i + 32)
#define NVFP4_D64(i) NVFP4_D32(i), NVFP4_D32(i + 32)
#define NVFP4_D68(i) NVFP4_D64(i), NVFP4_D4(i + 64)
#define NVFP4_D100(i) NVFP4_D64(i), NVFP4_D36(i + 64)
#define NVFP4_D128(i) NVFP4_D64(i), NVFP4_D64(i + 64)
#define NVFP4_R16 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define NVFP4_R32 NVFP4_R16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define NVFP4_R36 NVFP4_R32 ",%32,%33,%34,%35"
#define NVFP4_R64 NVFP4_R36 ",%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define NVFP4_R68 NVFP4_R64 ",%64,%65,%66,%67"
#define NVFP4_R100 NVFP4_R68 ",%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,%96,%97,%98,%99"
#define NVFP4_R128 NVFP4_R100 ",%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
// `add` 0: D is overwritten. The immediates say: neither operand negated, B not transposed.
#define NVFP4_WGMMA_TYPE(TYPE, TOKENS, D, R, A0, A1, A2, A3, DESCRIPTOR, ADD)                                          \
  asm volatile("{ .reg .pred add; setp.ne.b32 add, %" ADD ", 0;\n"                                                     \
               "wgmma.mma_async.sync.aligned.m64n" #TOKENS "k16.f32." TYPE "." TYPE " {" R "}, {%" A0 ",%" A1 ",%" A2   \
               ",%" A3 "}, %" DESCRIPTOR ", add, 1, 1, 0; }"                                                           \
               : D(0)                                                                                                    \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(WGMMA_DESCRIPTOR_HIGH | b), "r"(add))
#define NVFP4_WGMMA(TOKENS, D, R, A0, A1, A2, A3, DESCRIPTOR, ADD)                                                      \
  template <bool F16> NVFP4_INLINE void wgmma(float (&d)[TOKENS / 2], const uint32_t (&a)[4], uint32_t b, uint32_t add) { \
    if constexpr (F16)                                                                                                  \
      NVFP4_WGMMA_TYPE("f16", TOKENS, D, R, A0, A1, A2, A3, DESCRIPTOR, ADD);                                           \
    else                                                                                                                \
      NVFP4_WGMMA_TYPE("bf16", TOKENS, D, R, A0, A1, A2, A3, DESCRIPTOR, ADD);                                          \
  }

NVFP4_WGMMA(32, NVFP4_D16, NVFP4_R16, "16", "17", "18", "19", "20", "21")
NVFP4_WGMMA(64, NVFP4_D32, NVFP4_R32, "32", "33", "34", "35", "36", "37")
NVFP4_WGMMA(72, NVFP4_D36, NVFP4_R36, "36", "37", "38", "39", "40", "41")
NVFP4_WGMMA(128, NVFP4_D64, NVFP4_R64, "64", "65", "66", "67", "68", "69")
NVFP4_WGMMA(136, NVFP4_D68, NVFP4_R68, "68", "69", "70", "71", "72", "73")
NVFP4_WGMMA(200, NVFP4_D100, NVFP4_R100, "100", "101", "102", "103", "104", "105")
NVFP4_WGMMA(256, NVFP4_D128, NVFP4_R128, "128", "129", "130", "131", "132", "133")

#undef NVFP4_WGMMA

}  // namespace nvfp4::ptx
