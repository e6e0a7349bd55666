// Who multiplies what, in kernels whose grid is one wave of blocks whatever the work is (sm_90a).
//
// The work is a list of tiles (group, feature tile, token tile), each with the same number of k steps. Blocks take whole
// tiles, or stretches of the list cut anywhere inside the k of a tile (stream-K), or first the one, then the other:
// Schedule. The list is found from ends or counts in device memory by every warp for itself, so no block waits for
// another one's search: lane l keeps the sums before groups l · each …, which a walk over them turns into a tile.
//
//   GroupTable groups(p, TOKENS, FEATURES);
//   groups.count();                                        // whole warp, each member below too
//   Work work(groups.tiles(), steps, schedule, idle);
//   for (Segment s; work.next(s);) { const Tile t = groups.find<SHARE>(s.tile); … k steps s.begin … s.end … }
//
// That takes registers that not every role has: plan_jobs() is one warp that does it for the others, through Jobs.
//
// A tile whose k is cut belongs to the block that has its end. The others leave their sums in the workspace (Partials):
// a block walks its stretch back to front, so what others need comes first and an owner only ever waits for blocks of
// lower index, which started no later: any grid size and any number of resident blocks makes progress. Sums are added in
// order of k whoever came first: the same bits every time.
//
// A block leaves at most one partial sum a launch. It is announced by the launch's token in a flag, which the owner
// clears: whatever the workspace held before, the token is in no other launch of the process, so nothing has to be
// zeroed ahead.
#pragma once
#include "sm90_ring.cuh"
#include "tiles.cuh"

namespace nvfp4 {

// ---- tiles

class GroupTable {
 public:
  // Tiles of `tokens` rows × `features` stored weight rows.
  NVFP4_INLINE GroupTable(const GemmParams& p, int tokens, int features)
      : p(p), tokens(tokens), a_height(tile_rows(p.a_layout)), out_height(tile_rows(p.out_layout)),
        across(blocks_of(p.weight_rows, features)), each(rounded(blocks_of(p.groups, 32), BATCH)) {}
  // Reads p.index: after wait_for_launches(), or where the caller promised that it was there before the launch in front.
  NVFP4_INLINE void count() {
    if (same()) {
      before = {0, 0, 0};
      token_tiles = 0;
      all = ptx::warp_max(p.groups * blocks_of(static_cast<uint32_t>(p.rows), tokens) * across);
      return;
    }
#pragma unroll
    for (uint32_t i = 0; i < BATCH; i++) kept[i] = entry(lane() * each + i);
    uint32_t most = 0;
    if (p.grouping == GROUPS_ENDS) {
      end_before = 0;
      walk([&](const Member& m) { most = m.end; });
      most = warp_scan<true>(most);
      end_before = __shfl_up_sync(~0u, most, 1);
      if (lane() == 0) end_before = 0;
    }
    before = {0, 0, 0};
    Counts sum = {0, 0, 0};
    walk([&](const Member& m) { sum = m.at + m.size; });
    const Counts mine = sum;
    sum = {warp_scan<false>(sum.tiles), warp_scan<false>(sum.a_scale_rows), warp_scan<false>(sum.out_scale_rows)};
    before = {sum.tiles - mine.tiles, sum.a_scale_rows - mine.a_scale_rows, sum.out_scale_rows - mine.out_scale_rows};
    token_tiles = mine.tiles;
    all = ptx::warp_max(sum.tiles) * across;  // REDUX: loops over tiles stay on the uniform datapath
  }

  NVFP4_INLINE uint32_t tiles() const { return all; }

  // `SHARE` token tiles of a group follow one another with the same weights before the next features come. EVEN: the rows
  // of a group are shared out over its tiles, 8 at a time.
  template <uint32_t SHARE, bool EVEN = false> NVFP4_INLINE Tile find(uint32_t index) const {
    const uint32_t target = index / across;
    const uint32_t every = static_cast<uint32_t>(p.rows);
    uint32_t group = 0, rows = every, first_row = 0, tiles_before = 0, a_scale_row = 0, out_scale_row = 0;
    if (same()) {
      const uint32_t down = blocks_of(every, tokens);
      if (target >= down) group = target / down, tiles_before = group * down;  // no division for one group
    } else {
      const uint32_t owner = __ffs(__ballot_sync(~0u, target - before.tiles < token_tiles)) - 1;
      walk([&](const Member& m) {
        if (target - m.at.tiles < m.size.tiles) {
          group = m.group, rows = m.rows, first_row = m.end - m.rows;
          tiles_before = m.at.tiles, a_scale_row = m.at.a_scale_rows, out_scale_row = m.at.out_scale_rows;
        }
      });
      group = __shfl_sync(~0u, group, owner), rows = __shfl_sync(~0u, rows, owner), first_row = __shfl_sync(~0u, first_row, owner);
      tiles_before = __shfl_sync(~0u, tiles_before, owner);
      a_scale_row = __shfl_sync(~0u, a_scale_row, owner), out_scale_row = __shfl_sync(~0u, out_scale_row, owner);
    }
    const bool ends = p.grouping == GROUPS_ENDS;
    Tile t;
    t.index = index;
    t.split = 0;
    t.group = group;
    t.rows = static_cast<int>(rows);
    t.first_row = ends ? first_row : static_cast<int64_t>(t.group) * p.rows;
    t.a_scale_row = ends ? a_scale_row : static_cast<int64_t>(t.group) * up_to(every, a_height);
    t.out_scale_row = ends ? out_scale_row : static_cast<int64_t>(t.group) * up_to(every, out_height);
    place<SHARE, EVEN>(t, index - tiles_before * across);
    return t;
  }

  // Reports the first entry that had to be clamped; one warp of a launch calls this.
  NVFP4_INLINE void report() const {
    if (p.grouping != GROUPS_ENDS && p.grouping != GROUPS_MASKED) return;
    uint32_t first = ~0u;
    walk([&](const Member& m) {
      if (m.clamped) first = min(first, m.group);
    });
    first = __reduce_min_sync(~0u, first);
    if (lane() == 0 && first != ~0u) report_bad_group(p.fault, first);
  }

 private:
  static constexpr uint32_t BATCH = 4;  // index entries that a lane loads together

  struct Member {
    uint32_t group, rows, end;
    Counts at, size;  // before it, its own
    bool clamped;
  };

  const GemmParams& p;
  uint32_t tokens, a_height, out_height, across, each;
  uint32_t end_before = 0;         // ends: rows before the lane's groups
  Counts before = {0, 0, 0};
  uint32_t token_tiles, all;
  int32_t kept[BATCH];  // of the index, the lane's first

  NVFP4_INLINE int32_t entry(uint32_t group) const { return p.index && group < p.groups ? p.index[group] : 0; }
  // Groups have one length that the launch knows: nothing has to be looked up.
  NVFP4_INLINE bool same() const { return p.grouping == GROUPS_NONE || p.grouping == GROUPS_STRIDED; }
  static NVFP4_INLINE uint32_t lane() { return threadIdx.x & 31; }
  static NVFP4_INLINE uint32_t up_to(uint32_t x, uint32_t height) { return (x + height - 1) & ~(height - 1); }

  // Visits the lane's groups in order.
  template <class Visit> NVFP4_INLINE void walk(Visit visit) const {
    const uint32_t every = static_cast<uint32_t>(p.rows);
    Member m;
    m.at = before;
    m.end = end_before;
#pragma unroll 1
    for (uint32_t base = 0; base < each; base += BATCH) {
      int32_t raw[BATCH];
#pragma unroll
      for (uint32_t i = 0; i < BATCH; i++) {
        m.group = lane() * each + base + i;
        raw[i] = base == 0 ? kept[i] : entry(m.group);
      }
#pragma unroll
      for (uint32_t i = 0; i < BATCH; i++) {
        m.group = lane() * each + base + i;
        if (m.group >= p.groups) break;
        const uint32_t used = min(static_cast<uint32_t>(max(raw[i], 0)), every);
        if (p.grouping == GROUPS_ENDS) {
          const uint32_t end = max(m.end, used);
          m.rows = end - m.end;
          m.end = end;
          m.clamped = end != static_cast<uint32_t>(raw[i]);
        } else {
          m.rows = p.grouping == GROUPS_MASKED ? used : every;
          m.clamped = p.grouping == GROUPS_MASKED && used != static_cast<uint32_t>(raw[i]);
        }
        m.size = {blocks_of(m.rows, tokens), up_to(m.rows, a_height), up_to(m.rows, out_height)};
        visit(m);
        m.at = m.at + m.size;
      }
    }
  }

  // Splits the number inside a group into (features, row0).
  template <uint32_t SHARE, bool EVEN> NVFP4_INLINE void place(Tile& t, uint32_t local) const {
    t.features = local;
    t.row0 = 0;
    t.count = min(t.rows, static_cast<int>(tokens));
    if (local < across && (SHARE == 1 || t.rows <= static_cast<int>(tokens))) return;  // no division for the usual case
    const uint32_t down = blocks_of(t.rows, tokens);
    const uint32_t first = local / (SHARE * across) * SHARE;
    const uint32_t height = min(SHARE, down - first);
    local -= first * across;
    t.features = local / height;
    const uint32_t each = EVEN ? rounded(blocks_of(t.rows, down), 8) : tokens;
    t.row0 = static_cast<int>((first + local % height) * each);
    t.count = min(t.rows - t.row0, static_cast<int>(each));
  }
};

// ---- work

enum Schedule : uint32_t {
  WHOLE_TILES = 0,      // no tile is cut
  SPLIT_REMAINDER = 1,  // the tiles that would make an incomplete wave are cut over all blocks
  SPLIT_TWO_WAVES = 2,  // those and a whole wave before them
  SPLIT_ALL = 3,
};

struct Segment {
  uint32_t tile, begin, end;  // k steps begin … end of the tile
};

// A block's share of tiles · steps < 2^32 k steps.
class Work {
 public:
  // `least`: k steps that a block is worth having for, when tiles are cut; `idle`: 16ths of the blocks that may go without
  // for the others to have a whole tile each.
  NVFP4_INLINE Work(uint32_t tiles, uint32_t steps, uint32_t schedule, uint32_t idle, uint32_t least = 4) : tiles(tiles), steps(steps) {
    const uint32_t remainder = tiles % gridDim.x, wave = tiles >= gridDim.x && remainder ? gridDim.x : 0;
    const uint32_t cut = schedule == SPLIT_ALL         ? tiles
                         : schedule == SPLIT_TWO_WAVES ? remainder + wave
                         : schedule == SPLIT_REMAINDER ? remainder
                                                       : 0;
    const uint32_t total = cut * steps;
    blocks = min(gridDim.x, max(1u, total / least));
    // Few tiles: shares of one length cross no tile's end and leave each tile's owner the fewest sums, if few blocks go without.
    if (cut > 0 && cut < blocks) {
      const uint32_t alike = blocks / cut * cut;
      if (alike * 16 >= blocks * (16 - (alike == cut ? idle : 1))) blocks = alike;
    }
    each = total / blocks;
    longer = total % blocks;
    from = blockIdx.x < blocks ? start(blockIdx.x) : total;
    to = blockIdx.x < blocks ? start(blockIdx.x + 1) : total;
    whole = cut + blockIdx.x;
  }

  // The next segment, back to front; false where there is none.
  NVFP4_INLINE bool next(Segment& s) {
    if (from < to) {
      s.tile = (to - 1) / steps;
      const uint32_t first = s.tile * steps;
      s.begin = max(from, first) - first;
      s.end = to - first;
      to = first + s.begin;
      return true;
    }
    if (whole >= tiles) return false;
    s = {whole, 0, steps};
    whole += gridDim.x;
    return true;
  }

  NVFP4_INLINE bool owns(const Segment& s) const { return s.end == steps; }
  NVFP4_INLINE bool is_whole(const Segment& s) const { return s.end - s.begin == steps; }
  // The block that has the first k step of a cut tile; all up to the owner have a part of it.
  NVFP4_INLINE uint32_t first_block(uint32_t tile) const {
    const uint32_t step = tile * steps, edge = longer * (each + 1);
    return step < edge ? step / (each + 1) : longer + (step - edge) / each;
  }

 private:
  uint32_t tiles, steps, blocks, each, longer;  // the first `longer` blocks have each + 1 steps
  uint32_t from, to, whole;

  NVFP4_INLINE uint32_t start(uint32_t block) const { return block * each + min(block, longer); }
};

// ---- jobs: segments on their way from the warp that plans to those that work

struct Job {
  Tile tile;
  uint32_t begin, end;   // k steps; begin == end: there is no more work
  uint32_t first_block;  // of those that share the tile's k
  uint32_t turn;         // tiles before this one of which the block has the end
  float g_b;             // decode scale of the weights
  bool owns, whole;      // this block has the tile's end, all of its k
};
// A job is begun when all but g_b is there, for who loads what it needs, and full when that is, too.
class Jobs : public Ring<4, 128> {
 public:
  static constexpr int BARRIER_BYTES = Ring::BARRIER_BYTES + 8 * STAGES;

  NVFP4_INLINE Jobs(uint32_t shared, uint32_t barriers) : Ring(shared, barriers), begun(barriers + Ring::BARRIER_BYTES) {}
  NVFP4_INLINE void init(uint32_t producers, uint32_t consumers) const {
    for (int i = 0; i < STAGES; i++) ptx::barrier_init(begun + 8 * i, producers);
    Ring::init(producers, consumers);
  }
  NVFP4_INLINE void begin(const Cursor& c) const { ptx::barrier_arrive(begun + 8 * c.stage); }
  NVFP4_INLINE void wait_begun(const Cursor& c) const { ptx::barrier_wait(begun + 8 * c.stage, c.round); }

 private:
  uint32_t begun;
};
static_assert(sizeof(Job) <= Jobs::STAGE_BYTES, "a slot holds a job");

// By one warp: everything the block will do, in order; with SCALES, each of which is a trip to memory, g_b too, and the
// turns of boxes. `groups` are counted.
template <uint32_t SHARE, bool SCALES, bool EVEN, uint32_t IDLE>
NVFP4_INLINE void plan_jobs(const Sm90Params& p, const GroupTable& groups, int step_cols, const Jobs& jobs, Job* slots) {
  Work work(groups.tiles(), blocks_of(p.gemm.cols, step_cols), p.schedule, IDLE);
  Jobs::Cursor c;
  const auto hand_over = [&](const Job& job) {
    jobs.wait_free(c);
    if ((threadIdx.x & 31) == 0) {
      slots[c.stage] = job;
      if (SCALES) {
        jobs.begin(c);
        if (job.begin != job.end) slots[c.stage].g_b = reinterpret_cast<const float*>(p.gemm.weights)[job.tile.group];
      }
      jobs.arrive(c);
    }
    c.advance();
  };
  Job job;
  job.turn = 0;
  for (Segment s; work.next(s);) {
    job.tile = groups.find<SHARE, EVEN>(s.tile);
    job.begin = s.begin, job.end = s.end;
    job.owns = work.owns(s), job.whole = work.is_whole(s);
    job.first_block = job.owns && !job.whole ? work.first_block(s.tile) : blockIdx.x;
    hand_over(job);
    if (SCALES) job.turn += job.owns;
  }
  job.begin = job.end = 0;
  hand_over(job);
  if (blockIdx.x == 0) groups.report();
}

template <uint32_t SHARE, bool SCALES = false, bool EVEN = false>
NVFP4_INLINE void plan_jobs(const Sm90Params& p, int tokens, int features, int step_cols, const Jobs& jobs, Job* slots) {
  GroupTable groups(p.gemm, tokens, features);
  groups.count();
  plan_jobs<SHARE, SCALES, EVEN, 1>(p, groups, step_cols, jobs, slots);
}

// One warp's way through the jobs: for (JobReader r(jobs, slots); r.more(); r.done()) … *r …; EARLY: without g_b.
template <bool EARLY> class JobReaderOf {
 public:
  NVFP4_INLINE JobReaderOf(const Jobs& jobs, const Job* slots) : jobs(jobs), slots(slots) {}
  NVFP4_INLINE bool more() {
    if (EARLY)
      jobs.wait_begun(cursor());
    else
      jobs.wait_full(cursor());
    return slots[cursor().stage].begin != slots[cursor().stage].end;
  }
  // Whether nothing follows.
  NVFP4_INLINE bool is_last() const {
    const uint32_t next = number + 1;
    jobs.wait_full({next % Jobs::STAGES, next / Jobs::STAGES & 1});
    return slots[next % Jobs::STAGES].begin == slots[next % Jobs::STAGES].end;
  }
  // The address is found anew each time: not worth a register while the warp multiplies.
  NVFP4_INLINE const Job& operator*() const { return slots[ptx::opaque(number) % Jobs::STAGES]; }
  NVFP4_INLINE void done() {
    jobs.release(cursor());
    number++;
  }

 private:
  Jobs jobs;
  const Job* slots;
  uint32_t number = 0;  // of the job: one register instead of a cursor's two

  NVFP4_INLINE Jobs::Cursor cursor() const { return {number % Jobs::STAGES, number / Jobs::STAGES & 1}; }
};
using JobReader = JobReaderOf<false>;

// ---- sums of cut tiles

// A warp's sums are FOURS · 4 floats a thread; WARPS of a block take part, numbered by `warp`, each for itself. In the
// workspace lie flags [block][warp], then sums [block][warp][FOURS][lane] of 16 bytes; plan::gemm_cuda knows the sizes.
template <int WARPS, int FOURS> class Partials {
 public:
  static constexpr int BLOCK_BYTES = WARPS * FOURS * 512, BLOCK_FLAG_BYTES = WARPS * 8;

  NVFP4_INLINE Partials(float* sums, uint64_t* flags, uint64_t token, int warp)
      : sums(reinterpret_cast<float4*>(sums) + warp * FOURS * 32 + (threadIdx.x & 31)), flags(flags + warp), token(token) {}

  // Stores the block's sums for the owner of their tile.
  NVFP4_INLINE void leave(const float (&acc)[FOURS][4]) {
    float4* to = at(blockIdx.x);
#pragma unroll
    for (int i = 0; i < FOURS; i++) __stcg(to + i * 32, make_float4(acc[i][0], acc[i][1], acc[i][2], acc[i][3]));
    __syncwarp();
    if ((threadIdx.x & 31) == 0) {
      __threadfence();
      ptx::store_release(flags + blockIdx.x * WARPS, token);
    }
  }

  // Adds the sums of blocks first … this one - 1 in their order, waiting for them, and clears their flags.
  NVFP4_INLINE void collect(uint32_t first, float (&acc)[FOURS][4]) {
    // Sums on their way at once: of several blocks, or of a part of one.
    constexpr int MOST = FOURS < 32 ? 8 : 16, PART = FOURS < MOST ? FOURS : MOST, TOGETHER = MOST / PART;
    wait(first);
#pragma unroll 1
    for (uint32_t block = first; block < blockIdx.x; block += TOGETHER) {
#pragma unroll
      for (int part = 0; part < FOURS; part += PART) {
        float4 v[TOGETHER][PART];
#pragma unroll
        for (int b = 0; b < TOGETHER; b++)
#pragma unroll
          for (int i = 0; i < PART; i++)
            v[b][i] = block + b < blockIdx.x ? __ldcg(at(block + b) + (part + i) * 32) : make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll
        for (int b = 0; b < TOGETHER; b++)
#pragma unroll
          for (int i = 0; i < PART; i++) {
            float* to = acc[part + i];
            to[0] = __fadd_rn(to[0], v[b][i].x), to[1] = __fadd_rn(to[1], v[b][i].y);
            to[2] = __fadd_rn(to[2], v[b][i].z), to[3] = __fadd_rn(to[3], v[b][i].w);
          }
        ptx::keep_order();
      }
    }
  }

 private:
  float4* sums;
  uint64_t* flags;
  uint64_t token;

  NVFP4_INLINE float4* at(uint32_t block) const { return sums + static_cast<size_t>(block) * (WARPS * FOURS * 32); }

  NVFP4_INLINE void wait(uint32_t first) {
    for (uint32_t block = first + (threadIdx.x & 31); block < blockIdx.x; block += 32) {
      uint64_t* flag = flags + block * WARPS;
      while (ptx::load_acquire(flag) != token) {
      }
      *flag = 0;
    }
    __syncwarp();
  }
};

// The same for fewer sums, in one trip through L2 instead of three: every pair of floats travels in 16 bytes with the token,
// so that they need no flags and no fence. In the workspace: [block][warp][PAIRS][lane] of 16 bytes.
template <int WARPS, int FOURS> class TaggedPartials {
 public:
  static constexpr int PAIRS = 2 * FOURS, BLOCK_BYTES = WARPS * PAIRS * 512;

  NVFP4_INLINE TaggedPartials(float* sums, uint64_t*, uint64_t token, int warp)
      : slots(reinterpret_cast<uint4*>(sums) + warp * PAIRS * 32 + (threadIdx.x & 31)), token(token) {}

  NVFP4_INLINE void leave(const float (&acc)[FOURS][4]) {
#pragma unroll
    for (int i = 0; i < PAIRS; i++) ptx::store_whole(at(blockIdx.x, i), pair(seen(acc[i / 2][i % 2 * 2]), seen(acc[i / 2][i % 2 * 2 + 1])), token);
  }

  // Adds the sums of blocks first … this one - 1 in their order, waiting for them, and takes the token out of them.
  NVFP4_INLINE void collect(uint32_t first, float (&acc)[FOURS][4]) {
    // Sums on their way at once: of several blocks, or of a part of one.
    constexpr int TOGETHER = FOURS >= 4 ? 1 : 4 / FOURS, PART = PAIRS < 16 ? PAIRS : 16;
#pragma unroll 1
    for (uint32_t block = first; block < blockIdx.x; block += TOGETHER) {
#pragma unroll
      for (int part = 0; part < PAIRS; part += PART) {
        uint64_t v[TOGETHER][PART];
        bool here;
        do {
          here = true;
#pragma unroll
          for (int b = 0; b < TOGETHER; b++)
#pragma unroll
            for (int i = 0; i < PART; i++) {
              uint64_t tag = token;
              v[b][i] = 0;
              if (block + b < blockIdx.x) ptx::load_whole(at(block + b, part + i), v[b][i], tag);
              here &= tag == token;
            }
        } while (!__all_sync(~0u, here));
#pragma unroll
        for (int b = 0; b < TOGETHER; b++)
#pragma unroll
          for (int i = 0; i < PART; i++) {
            float* to = &acc[(part + i) / 2][(part + i) % 2 * 2];
            to[0] = __fadd_rn(to[0], __uint_as_float(static_cast<uint32_t>(v[b][i])));
            to[1] = __fadd_rn(to[1], __uint_as_float(static_cast<uint32_t>(v[b][i] >> 32)));
            if (block + b < blockIdx.x) ptx::store_whole(at(block + b, part + i), 0, 0);
          }
      }
    }
  }

 private:
  uint4* slots;
  uint64_t token;

  NVFP4_INLINE uint4* at(uint32_t block, int i) const { return slots + static_cast<size_t>(block) * (WARPS * PAIRS * 32) + i * 32; }
  // A copy: the compiler takes a store of an accumulator itself for a reason to wait for every single product.
  static NVFP4_INLINE float seen(float x) {
    asm volatile("" : "+f"(x));
    return x;
  }
  static NVFP4_INLINE uint64_t pair(float a, float b) { return __float_as_uint(a) | static_cast<uint64_t>(__float_as_uint(b)) << 32; }
};

}  // namespace nvfp4
