/* What every test program shares: named cases, guarded memory, refusal tables, random numbers.
 *
 * A case prints `ok NAME`, `FAILED NAME` or `skipped NAME: REASON`; a program ends with `N passed, N failed` and fails with
 * the second. NVFP4_TEST_DEVICE=cuda runs it on a GPU (device.h).
 * Memory comes from `mem_in` and `mem_out`: 64-byte aligned, guard bytes on both sides. A refusal must leave all of it,
 * guards included, exactly as it was; every other call must leave the guards. */
#ifndef HARNESS_H
#define HARNESS_H

#include "device.h"

#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define UNUSED __attribute__((unused))
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* ---- cases ---- */

static int cases_passed, cases_failed, case_reports;
static char case_name[200];
static const char *case_skipped;

UNUSED static int case_begin(const char *format, ...) {
    va_list list;
    va_start(list, format);
    vsnprintf(case_name, sizeof case_name, format, list);
    va_end(list);
    case_reports = 0;
    case_skipped = NULL;
    return 1;
}

UNUSED static int case_end(void) {
    if (case_skipped && !case_reports) {
        printf("skipped %s: %s\n", case_name, case_skipped);
        return 0;
    }
    printf("%s %s\n", case_reports ? "FAILED" : "ok", case_name);
    fflush(stdout);
    *(case_reports ? &cases_failed : &cases_passed) += 1;
    return 0;
}

/* CASE("rows = %d", rows) { CHECK(...); } */
#define CASE(...) for (int case_open = case_begin(__VA_ARGS__); case_open; case_open = case_end())

/* Leaves the rest of a case out, on a GPU alone: `if (cpu_alone("why")) continue;` */
UNUSED static bool cpu_alone(const char *reason) {
    if (!on_gpu()) return false;
    case_skipped = reason;
    return true;
}

/* A program that is about the CPU alone. */
UNUSED static void program_of_the_cpu(const char *reason) {
    if (!on_gpu()) return;
    printf("skipped: %s\n", reason);
    exit(0);
}

UNUSED static bool check(bool good, const char *file, int line, const char *format, ...) {
    if (!good && case_reports++ < 8) { /* the first few say enough */
        va_list list;
        va_start(list, format);
        printf("  %s:%d: ", file, line);
        vprintf(format, list);
        printf("\n");
        va_end(list);
    }
    return good;
}

#define CHECK(condition) check((condition), __FILE__, __LINE__, "%s", #condition)
#define CHECK_THAT(condition, ...) check((condition), __FILE__, __LINE__, __VA_ARGS__)

UNUSED static bool check_status(nvfp4_status got, nvfp4_status want, const char *text, const char *file, int line,
                                const char *call) {
    const char *name = nvfp4_status_name(got), *message = nvfp4_last_message();
    if (!check(got == want, file, line, "%s is %s, expected %s (message: %s)", call, name ? name : "?",
               nvfp4_status_name(want), message))
        return false;
    return text == NULL || check(strstr(message, text) != NULL, file, line, "%s says \"%s\", expected \"%s\" in it",
                                 call, message, text);
}

#define OK(call) check_status((call), NVFP4_STATUS_SUCCESS, NULL, __FILE__, __LINE__, #call)
#define REFUSED(call, status, text) check_status((call), (status), (text), __FILE__, __LINE__, #call)
#define BAD_ARGUMENT(call, text) REFUSED(call, NVFP4_STATUS_INVALID_ARGUMENT, text)
#define BAD_HANDLE(call, text) REFUSED(call, NVFP4_STATUS_INVALID_HANDLE, text)

/* For what the tests themselves cannot go on without. */
#define MUST(condition)                                                        \
    do {                                                                       \
        if (!(condition)) {                                                    \
            printf("FAILED %s:%d: %s (message: %s)\n", __FILE__, __LINE__, #condition, nvfp4_last_message()); \
            exit(2);                                                           \
        }                                                                      \
    } while (0)

UNUSED static int finish(void) {
    printf("%d passed, %d failed\n", cases_passed, cases_failed);
    return cases_failed != 0;
}

/* ---- guarded memory ---- */

enum { GUARD = 64, MEM_MOST = 256 };
typedef struct {
    unsigned char *raw, *data, *copy;
    size_t bytes, whole;
    bool output;
} guarded;
static guarded mem[MEM_MOST];
static size_t mem_count;

UNUSED static void mem_fill(guarded *m, unsigned char poison) {
    if (m->output) {
        memset(m->raw, poison, m->whole);
    } else {
        memset(m->raw, poison, GUARD);
        memset(m->data + m->bytes, poison, m->whole - GUARD - m->bytes);
    }
}

UNUSED static void *mem_take(size_t bytes, bool output) {
    size_t whole = GUARD + (bytes + 63) / 64 * 64 + GUARD;
    MUST(mem_count < MEM_MOST);
    guarded *m = &mem[mem_count++];
    *m = (guarded){.raw = on_device() ? arena_take(whole) : aligned_alloc(64, whole), .copy = malloc(whole), .bytes = bytes, .whole = whole, .output = output};
    MUST(m->raw && m->copy);
    m->data = m->raw + GUARD;
    memset(m->raw, 0, whole);
    mem_fill(m, 0xA5);
    return m->data;
}

/* Read by calls; starts as zeros. */
UNUSED static void *mem_in(size_t bytes) { return mem_take(bytes, false); }
/* Written by calls; starts as poison. */
UNUSED static void *mem_out(size_t bytes) { return mem_take(bytes, true); }

UNUSED static void mem_poison(unsigned char poison) {
    for (size_t i = 0; i < mem_count; i++) mem_fill(&mem[i], poison);
}

UNUSED static void mem_snapshot(void) {
    for (size_t i = 0; i < mem_count; i++) memcpy(mem[i].copy, mem[i].raw, mem[i].whole);
}

UNUSED static bool mem_unchanged(void) {
    for (size_t i = 0; i < mem_count; i++)
        if (memcmp(mem[i].copy, mem[i].raw, mem[i].whole) != 0) return false;
    return true;
}

/* Guards hold what `mem_take` or `mem_poison` put there last; both ends of one block hold the same byte. */
UNUSED static bool mem_guards_ok(void) {
    for (size_t i = 0; i < mem_count; i++) {
        guarded *m = &mem[i];
        for (size_t b = 0; b < m->whole; b++) {
            bool payload = b >= GUARD && b < GUARD + m->bytes;
            if (!payload && m->raw[b] != 0xA5 && m->raw[b] != 0x5A) return false;
            if (!payload && m->raw[b] != m->raw[0]) return false;
        }
    }
    return true;
}

UNUSED static bool all_bytes(const void *p, size_t bytes, unsigned char value) {
    const unsigned char *c = p;
    for (size_t i = 0; i < bytes; i++)
        if (c[i] != value) return false;
    return true;
}

UNUSED static void mem_free(void) {
    for (size_t i = 0; i < mem_count; i++) {
        if (!on_device()) free(mem[i].raw);
        free(mem[i].copy);
    }
    mem_count = device.used = 0;
}

/* ---- random numbers: xorshift, the same on every run ---- */

static uint64_t random_state = 0x9E3779B97F4A7C15u;

UNUSED static uint64_t random_bits(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}
UNUSED static double random_unit(void) { return (double)(random_bits() >> 11) / 9007199254740992.0; }
/* Near enough to a Gaussian. */
UNUSED static float random_normal(void) {
    double sum = -6.0;
    for (int i = 0; i < 12; i++) sum += random_unit();
    return (float)sum;
}

/* ---- refusal tables ---- */

/* A row replaces a few fields of valid arguments by `bits` and names the status and a part of the message. */
typedef struct {
    size_t offset, size;
    uint64_t bits;
} patch;
typedef struct {
    const char *name;
    patch patches[5];
    nvfp4_status status;
    const char *message;
} refusal;
#define AT(type, field, value) {offsetof(type, field), sizeof(((type *)0)->field), (uint64_t)(value)}

UNUSED static uint64_t float_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

typedef nvfp4_status (*operation)(nvfp4_context *, const void *, nvfp4_stream *);
/* An operation with its arguments' type erased, for the tables. */
#define OPERATION(verb, args_type)                                                                        \
    UNUSED static nvfp4_status call_##verb(nvfp4_context *context, const void *args, nvfp4_stream *stream) { \
        return nvfp4_##verb(context, (const args_type *)args, stream);                                    \
    }
/* A workspace query, called as if it were the operation. */
#define QUERY(verb, args_type)                                                                            \
    UNUSED static nvfp4_status call_##verb(nvfp4_context *context, const void *args, nvfp4_stream *stream) { \
        size_t bytes = 77;                                                                                \
        nvfp4_status status = nvfp4_##verb(context, (const args_type *)args, &bytes);                     \
        (void)stream;                                                                                     \
        CHECK((status == NVFP4_STATUS_SUCCESS) == (bytes != 77));                                         \
        return status;                                                                                    \
    }

/* A context on the CPU, of so many threads, or on the GPU of NVFP4_TEST_DEVICE=cuda.
 * NVFP4_TEST_ISA=1, 2, 3 runs a program on one instruction set, or skips it where the processor lacks that. */
UNUSED static void open_context(nvfp4_context **context, nvfp4_stream **stream, uint32_t threads) {
    const char *isa = getenv("NVFP4_TEST_ISA");
    nvfp4_context_options options = {.struct_size = sizeof options, .backend = NVFP4_BACKEND_CPU, .threads = threads,
                                     .isa = isa ? (nvfp4_isa)atoi(isa) : NVFP4_ISA_BEST};
    if (on_gpu()) options = (nvfp4_context_options){.struct_size = sizeof options, .backend = NVFP4_BACKEND_CUDA};
    nvfp4_status status = nvfp4_context_create(&options, context);
    if (isa && status == NVFP4_STATUS_UNSUPPORTED) {
        printf("skipped: %s\n", nvfp4_last_message());
        exit(0);
    }
    MUST(status == NVFP4_STATUS_SUCCESS);
    MUST(nvfp4_prepare(*context, NULL) == NVFP4_STATUS_SUCCESS);
    MUST(nvfp4_stream_create(*context, stream) == NVFP4_STATUS_SUCCESS);
}

UNUSED static void close_context(nvfp4_context *context, nvfp4_stream *stream) {
    MUST(nvfp4_stream_destroy(stream) == NVFP4_STATUS_SUCCESS);
    MUST(nvfp4_context_destroy(context) == NVFP4_STATUS_SUCCESS);
    mem_free();
}

/* False around calls that cannot be captured at all. */
static bool refuse_in_capture = true;
/* True around queries, which take NULL for memory that is not there yet: such rows are left out. */
UNUSED static bool null_is_legal;

/* Every row, over both poisons and once while the stream is captured; then the arguments as they are must pass. */
UNUSED static void refuse_all(const char *verb, operation call, nvfp4_context *context, nvfp4_stream *stream,
                              const void *base, size_t size, const refusal *rows, size_t count) {
    static unsigned char args[4096];
    for (size_t r = 0; r < count; r++) {
        if (null_is_legal && strstr(rows[r].message, " is NULL")) continue;
        CASE("%s: %s", verb, rows[r].name) {
            memset(args, 0, sizeof args);
            memcpy(args, base, size);
            for (size_t p = 0; p < COUNT(rows[r].patches); p++)
                memcpy(args + rows[r].patches[p].offset, &rows[r].patches[p].bits, rows[r].patches[p].size);
            for (int round = 0; round < (refuse_in_capture ? 3 : 2); round++) {
                nvfp4_graph *graph = NULL;
                size_t nodes = 99;
                mem_poison(round == 1 ? 0x5A : 0xA5);
                mem_snapshot();
                if (round == 2) MUST(nvfp4_graph_begin_capture(stream, NVFP4_CAPTURE_MODE_GLOBAL) == NVFP4_STATUS_SUCCESS);
                REFUSED(call(context, args, stream), rows[r].status, rows[r].message);
                CHECK(mem_unchanged());
                if (round < 2) continue;
                MUST(nvfp4_graph_end_capture(stream, &graph) == NVFP4_STATUS_SUCCESS);
                OK(nvfp4_graph_node_count(graph, &nodes));
                CHECK(nodes == 0); /* what is refused is not recorded */
                OK(nvfp4_graph_destroy(graph));
            }
        }
    }
    CASE("%s: valid arguments pass", verb) {
        OK(call(context, base, stream));
        CHECK(mem_guards_ok());
    }
}

/* What all operations share: handles, NULL, struct_size. `base` must be valid arguments with `struct_size` first. */
UNUSED static void refuse_common(const char *verb, operation call, nvfp4_context *context, nvfp4_stream *stream,
                                 const void *base, size_t size, bool takes_stream) {
    static uint64_t wide[1024];
    nvfp4_context *other;
    nvfp4_stream *foreign;
    size_t *struct_size = (size_t *)(void *)wide;
    open_context(&other, &foreign, 1);
    CASE("%s: common refusals", verb) {
        mem_poison(0x5A);
        mem_snapshot();
        memset(wide, 0, sizeof wide);
        memcpy(wide, base, size);
        BAD_HANDLE(call(NULL, wide, stream), "context");
        BAD_ARGUMENT(call(context, NULL, stream), "args is NULL");
        if (takes_stream) {
            BAD_HANDLE(call(context, wide, NULL), "stream");
            BAD_HANDLE(call(context, wide, foreign), "stream");
            BAD_HANDLE(call(context, wide, (nvfp4_stream *)(void *)context), "stream");
        }
        BAD_HANDLE(call((nvfp4_context *)(void *)stream, wide, stream), "context");
        static const size_t sizes[] = {0, 1, 7, 8, SIZE_MAX, SIZE_MAX / 2 + 1};
        for (size_t i = 0; i < COUNT(sizes); i++) {
            *struct_size = sizes[i];
            BAD_ARGUMENT(call(context, wide, stream), "struct_size");
        }
        *struct_size = size + 64;
        ((unsigned char *)wide)[size + 63] = 1; /* the last byte of an unknown field */
        BAD_ARGUMENT(call(context, wide, stream), "struct_size");
        ((unsigned char *)wide)[size + 63] = 0;
        ((unsigned char *)wide)[size] = 1; /* the first */
        BAD_ARGUMENT(call(context, wide, stream), "struct_size");
        CHECK(mem_unchanged());
        ((unsigned char *)wide)[size] = 0;
        OK(call(context, wide, stream)); /* a newer caller that asks for nothing new */
        CHECK(mem_guards_ok());
    }
    MUST(nvfp4_stream_destroy(foreign) == NVFP4_STATUS_SUCCESS);
    MUST(nvfp4_context_destroy(other) == NVFP4_STATUS_SUCCESS);
}

#endif
