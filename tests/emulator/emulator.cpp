// Fibers and collectives behind emulator.h. x86-64, System V.
#include "emulator.h"

#include <stdio.h>
#include <stdlib.h>

#include <memory>
#include <vector>

Index threadIdx, blockIdx, blockDim, gridDim;

// Saves the callee-saved registers, changes stacks, and goes on where the other stack left off.
asm(R"(
.text
.type switch_stack,@function
switch_stack:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
)");
extern "C" void switch_stack(void** save, void* to);

namespace emulator {

constexpr size_t SHARED = 232448;
alignas(1024) uint8_t shared_memory[SHARED];

namespace {

constexpr size_t STACK = 128 << 10;

struct Fiber {
  std::unique_ptr<char[]> stack{new char[STACK]};
  void* sp;
  uint32_t barriers, exchanges;
  bool done;
  Copies copies;
};
struct Warp {
  uint64_t slots[2][32];
  uint64_t arrived;
};

std::vector<Fiber> fibers;
std::vector<Warp> warps;
uint64_t arrived;
uint32_t current;
void* scheduler;
const std::function<void()>* work;

void yield() {
  Fiber& f = fibers[current];
  switch_stack(&f.sp, scheduler);
}

void enter() {
  (*work)();
  fibers[current].done = true;
  yield();
  abort();
}

}  // namespace

Copies& copies() { return fibers[current].copies; }

void barrier() {
  Fiber& f = fibers[current];
  const uint64_t target = uint64_t(blockDim.x) * ++f.barriers;
  arrived++;
  while (arrived < target) yield();
}

const uint64_t* exchange(uint64_t value) {
  Fiber& f = fibers[current];
  Warp& w = warps[current / 32];
  uint64_t* slots = w.slots[f.exchanges & 1];
  slots[current % 32] = value;
  const uint64_t target = 32ull * ++f.exchanges;
  w.arrived++;
  while (w.arrived < target) yield();
  return slots;
}

void launch(Index grid, uint32_t block, const std::function<void()>& body) {
  if (block % 32) abort();
  while (fibers.size() < block) fibers.emplace_back();
  warps.resize(block / 32);
  blockDim = {block, 1, 1};
  gridDim = grid;
  work = &body;
  for (uint32_t z = 0; z < grid.z; z++)
    for (uint32_t y = 0; y < grid.y; y++)
      for (uint32_t x = 0; x < grid.x; x++) {
      blockIdx = {x, y, z};
      arrived = 0;
      memset(shared_memory, 0xFF, SHARED);
      for (Warp& w : warps) w.arrived = 0;
      for (uint32_t t = 0; t < block; t++) {
        Fiber& f = fibers[t];
        f.barriers = f.exchanges = 0;
        f.done = false;
        f.copies.waiting.clear();
        f.copies.committed = 0;
        void** top = reinterpret_cast<void**>((reinterpret_cast<uintptr_t>(f.stack.get()) + STACK) & ~uintptr_t(15));
        *--top = nullptr;
        *--top = reinterpret_cast<void*>(&enter);
        for (int i = 0; i < 6; i++) *--top = nullptr;
        f.sp = top;
      }
      uint32_t left = block, idle = 0;
      while (left) {
        const uint32_t before = left;
        const uint64_t moved = arrived;
        uint64_t warp_moved = 0;
        for (Warp& w : warps) warp_moved += w.arrived;
        for (uint32_t t = 0; t < block; t++) {
          if (fibers[t].done) continue;
          current = t;
          threadIdx.x = t;
          switch_stack(&scheduler, fibers[t].sp);
          if (fibers[t].done) left--;
        }
        uint64_t warp_now = 0;
        for (Warp& w : warps) warp_now += w.arrived;
        idle = left == before && moved == arrived && warp_moved == warp_now ? idle + 1 : 0;
        if (idle > 2) {
          fprintf(stderr, "emulator: CTA (%u, %u, %u) is stuck: a barrier or shuffle that not every thread reaches\n", x, y, z);
          abort();
        }
      }
    }
}

}  // namespace emulator
