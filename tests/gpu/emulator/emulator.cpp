// Runs the kernels of gemm.cu and weights.cu on a CPU: emulate(name, grid, threads, params). See emulator.h.
// g++ -std=c++20 -O2 -ffp-contract=off -DNVFP4_EMULATED -Itests/gpu/emulator -Ikernels -shared -fPIC -w emulator.cpp
#include "emulator.h"

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

namespace emulator {

constexpr int SHARED_BYTES = 232448, STACK_BYTES = 256 * 1024, MOST_THREADS = 1024;

struct Fiber : Thread {
  void* stack_pointer;
  bool done;
  int turn = 0;
};

static std::map<std::string, void (*)(const void*)>& kernels() { static std::map<std::string, void (*)(const void*)> all; return all; }
Kernel::Kernel(const char* name, void (*body)(const void*)) { kernels()[name] = body; }

alignas(1024) uint8_t shared_memory[SHARED_BYTES];
Thread* thread;
uint3 block, grid, block_size;

static std::vector<Fiber> fibers;
static std::vector<Lanes> warps;
static std::vector<uint8_t> stacks;
static void* main_stack_pointer;
static int current, alive, arrived, phase;
static void (*body)(const void*);
static const void* params;

extern "C" void emulator_switch(void** save, void* load);
asm(R"(
.text
.globl emulator_switch
.type emulator_switch, @function
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

static int following(int i) {
  const int n = int(fibers.size());
  for (int k = 1; k <= n; k++)
    if (!fibers[(i + k) % n].done) return (i + k) % n;
  return -1;
}
static void run(int next) {
  const int previous = current;
  if (next == previous) return;
  current = next;
  thread = &fibers[next];
  emulator_switch(&fibers[previous].stack_pointer, fibers[next].stack_pointer);
}
static void yield() { run(following(current)); }

static void start() {
  body(params);
  fibers[current].done = true;
  alive--;
  if (alive && arrived == alive) arrived = 0, phase++;
  const int next = following(current);
  void* nowhere;
  if (next < 0) emulator_switch(&nowhere, main_stack_pointer);
  current = next;
  thread = &fibers[next];
  emulator_switch(&nowhere, fibers[next].stack_pointer);
}

Lanes& warp() { return warps[current / 32]; }
int next_turn() { return fibers[current].turn ^= 1; }
void warp_barrier() {
  Lanes& w = warp();
  if (++w.arrived == 32) {
    w.arrived = 0;
    w.phase++;
    return;
  }
  for (const int p = w.phase; w.phase == p;) yield();
}
void block_barrier() {
  if (++arrived == alive) {
    arrived = 0;
    phase++;
    return;
  }
  for (const int p = phase; phase == p;) yield();
}

}  // namespace emulator

// Blocks run one after another: upwards, or downwards where `backwards`.
extern "C" int emulate(const char* name, uint32_t gx, uint32_t gy, uint32_t gz, uint32_t threads, const void* params, int backwards) {
  using namespace emulator;
  auto found = kernels().find(name);
  if (found == kernels().end() || threads > MOST_THREADS) return 1;
  body = found->second;
  emulator::params = params;
  stacks.resize(size_t(threads) * STACK_BYTES + 64);
  grid = {gx, gy, gz};
  block_size = {threads, 1, 1};
  const uint64_t blocks = uint64_t(gx) * gy * gz;
  for (uint64_t n = 0; n < blocks; n++) {
    const uint64_t b = backwards ? blocks - 1 - n : n;
    block = {uint32_t(b % gx), uint32_t(b / gx % gy), uint32_t(b / gx / gy)};
    std::memset(shared_memory, 0xFF, SHARED_BYTES);
    fibers.assign(threads, {});
    warps.assign(threads / 32, {});
    alive = int(threads);
    arrived = phase = 0;
    for (uint32_t i = 0; i < threads; i++) {
      fibers[i].index = {i, 0, 0};
      fibers[i].number = int(i);
      const uintptr_t top = (reinterpret_cast<uintptr_t>(stacks.data()) + size_t(i + 1) * STACK_BYTES) & ~uintptr_t(15);
      void** sp = reinterpret_cast<void**>(top) - 2;
      *sp = reinterpret_cast<void*>(&start);
      for (int r = 0; r < 6; r++) *--sp = nullptr;
      fibers[i].stack_pointer = sp;
    }
    current = 0;
    thread = &fibers[0];
    emulator_switch(&main_stack_pointer, fibers[0].stack_pointer);
  }
  return 0;
}

#include "../../../kernels/gemm.cu"
#include "../../../kernels/weights.cu"
