// What is computed in C: products with weights of 8 or 4 bits (product.h), what columns are read as
// (embedding.h), one decode step of a few conversations at once, memory-bound (step.h, attention.h), the
// draw of a token (drawing.h), a frame's codes, the rounding to few bits (rounding.h), and a codec's
// decoder (refinement.h, vocoder.h).
//
// The inputs of a product become integers of 8 bits, with a scale for every 128 of them: bytes are
// what processors multiply the most of in one instruction. All else is float32, but for a decoder's
// signals where bf16 is faster. What depends on the instruction set is in a header for each.

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "team.h"

enum {
    GROUP = 64,         // weights that share a scale in 4 bits
    PART = 128,         // inputs that share a scale
    PANEL = 16,         // outputs whose weights lie together
    COLUMN = 4 * PANEL, // bytes of them that are read at once
    FEW = 4,            // rows, and an attention's queries, that are computed at once, as a rule;
    MOST_QUERIES = 8,   // no more queries are
    MAX_HEAD = 256,     // numbers in a head
    SHARING = 64,       // rows from which two panels are computed at once, without tiles
    LINE = 32,          // of bf16 that are fetched from memory at once
};

#define INLINE inline __attribute__((always_inline))

typedef uint16_t bf16;

static INLINE float to_float(bf16 x) {
    uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, 4);
    return y;
}

#if defined(__AVX512VNNI__) && !defined(WITHOUT_AVX512)
#include "native_avx512.h"
#elif defined(__AVX2__) && defined(__FMA__)
#include "native_avx2.h"
#elif defined(__ARM_FEATURE_DOTPROD)
#include "native_neon.h"
#else
#error "this processor has neither AVX2 and FMA nor NEON's dot products"
#endif

typedef struct {
    // [panels, inputs / 4, PANEL, 4] of int8; or [panels, inputs / 8, PANEL, 4], two inputs a byte, the
    // first in the upper half.
    const uint8_t *weight;
    const bf16 *scale; // [outputs]; or [panels, inputs / GROUP, PANEL, 2]: a step, and what 8 means
    const bf16 *bias;  // [outputs] or NULL
    int64_t inputs, outputs, bits;
} Linear;

typedef struct {
    const bf16 *attention_norm, *feed_forward_norm; // [dim]
    Linear qkv, out, gate_up, down;
} Block;

typedef struct {
    const Block *blocks;
    int64_t num_blocks, dim, heads, kv_heads, head_dim, hidden;
    float eps;
} Stack;

// A stack whose last hidden state chooses the next code, which is what it reads next.
typedef struct {
    Stack stack;
    Linear output;
    const bf16 *norm, *embedding; // [dim] and [codes, dim]
} Head;

static bf16 to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

static void widen(const bf16 *x, int64_t size, float *y) {
    for (int64_t i = 0; i < size; i++) y[i] = to_float(x[i]);
}

// e^x to float32's precision, in a form that compilers make vector code of.
static inline float exponential(float x) {
    x = x < -87 ? -87 : x > 88 ? 88 : x;
    float n = rintf(x * 1.44269504f), r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float y = 1 + r * (1 + r * (0.5f + r * (0.166666655f + r * (0.0416657962f +
              r * (0.00833345205f + r * 0.00139887596f)))));
    int32_t bits = ((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, 4);
    return y * power;
}

static void *take(char **memory, int64_t bytes) {
    void *taken = *memory;
    *memory += (bytes + 63) / 64 * 64;
    return taken;
}

#include "inputs.h"
#ifdef HAS_AMX
#include "native_amx.h"
#endif
#include "product.h"

static void norm(const float *x, const bf16 *weight, int64_t dim, float eps, float *y) {
    float squares = 0;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < dim; i++) squares += x[i] * x[i];
    float factor = 1 / sqrtf(squares / dim + eps);
#pragma omp simd
    for (int64_t i = 0; i < dim; i++) y[i] = x[i] * factor * to_float(weight[i]);
}

typedef struct {
    const Linear *linear;
    const float *x;
    const bf16 *norm;
    float eps, *y, *normed;
    Inputs in;
} Product;

static void product_task(void *data, int thread, int threads) {
    Product *task = data;
    int64_t size = task->linear->inputs;
    for (int64_t r = thread; r < task->in.rows; r += threads) {
        const float *x = task->x + r * size;
        float *normed = task->normed + r * size;
        if (task->norm) norm(x, task->norm, size, task->eps, normed);
        quantise_row(task->norm ? normed : x, task->linear, &task->in, r);
    }
    meet();
    product(task->linear, &task->in, task->y, thread, threads);
}

// y [rows, outputs] of x [rows, inputs], float32, after a norm where its weight [inputs] isn't NULL.
//
// Scratch: 64-byte aligned, native_product_scratch(linear, rows) bytes.
void native_product(
    const Linear *linear, const float *x, const bf16 *norm, float eps, float *y, int64_t rows,
    char *scratch, int threads
) {
    float *normed = take(&scratch, norm ? rows * linear->inputs * sizeof(float) : 0);
    Product task = {linear, x, norm, eps, y, normed, take_inputs(&scratch, rows, linear->inputs)};
    together(product_task, &task, threads);
}

int64_t native_product_scratch(const Linear *linear, int64_t rows) {
    return rows * linear->inputs * sizeof(float) + inputs_bytes(rows, linear->inputs) + 64;
}

typedef struct {
    const uint32_t *from;
    int64_t outputs, numbers;
    uint32_t *to, *copies;
} Panels;

static void panels_task(void *data, int thread, int threads) {
    Panels *task = data;
    int64_t numbers = task->numbers;
    uint32_t *copy = task->copies + PANEL * numbers * thread; // of a panel's rows
    for (int64_t output = PANEL * thread; output < task->outputs; output += PANEL * threads) {
        uint32_t *to = task->to + output * numbers;
        int64_t count = smaller(task->outputs - output, PANEL);
        memcpy(copy, task->from + output * numbers, count * numbers * sizeof(*copy));
        memset(copy + count * numbers, 0, (PANEL - count) * numbers * sizeof(*copy));
        for (int64_t i = 0; i < numbers; i++, to += PANEL)
            for (int64_t n = 0; n < PANEL; n++) to[n] = copy[n * numbers + i];
    }
}

// Weights, or pairs of scales, as numbers of 4 bytes [outputs, numbers] -> [panels, numbers, PANEL],
// which may be the same memory. copies: [threads, PANEL, numbers], for its own use.
void native_panels(
    const uint32_t *from, int64_t outputs, int64_t numbers, uint32_t *to, uint32_t *copies,
    int threads
) {
    Panels task = {from, outputs, numbers, to, copies};
    together(panels_task, &task, threads);
}

#include "attention.h"
#include "embedding.h"
#include "step.h"
#include "rounding.h"
#include "drawing.h"

// The codes [rows, count] of a frame, drawn one after another; the first one follows hidden states
// [rows, dim].
//
// angles: [count, head_dim / 2, 2]. windows: [rows, count, width] and points: [rows, count]; else as
// for native_draw. Scratch: 64-byte aligned, native_codes_scratch(head, rows, count, threads) bytes.
void native_codes(
    const Head *head, const bf16 *hidden, const float *angles, const int64_t *windows,
    const float *settings, const double *points, int64_t rows, int64_t count, int64_t width,
    int64_t *codes, char *scratch, int threads
) {
    const Stack *stack = &head->stack;
    int64_t dim = stack->dim, size = head->output.outputs, num_blocks = stack->num_blocks;
    int64_t cache_size = 2 * stack->kv_heads * count * stack->head_dim;
    float *x = take(&scratch, rows * dim * sizeof(float));
    float *logits = take(&scratch, rows * size * sizeof(float));
    float *draws = take(&scratch, draw_numbers(size) * sizeof(float));
    bf16 ***caches = take(&scratch, rows * sizeof(bf16 **));
    bf16 **places = take(&scratch, rows * num_blocks * sizeof(bf16 *));
    int64_t *lengths = take(&scratch, rows * sizeof(int64_t));
    int64_t *rooms = take(&scratch, rows * sizeof(int64_t));
    for (int64_t r = 0; r < rows; r++) {
        caches[r] = places + r * num_blocks;
        rooms[r] = count;
    }
    for (int64_t n = 0; n < rows * num_blocks; n++)
        places[n] = take(&scratch, cache_size * sizeof(bf16));
    widen(hidden, rows * dim, x);
    for (int64_t k = 0; k < count; k++) {
        for (int64_t r = 0; r < rows; r++) lengths[r] = k;
        step(stack, x, angles, (bf16 *const *const *)caches, lengths, rooms, rows, scratch, threads);
        native_product(
            &head->output, x, head->norm, stack->eps, logits, rows, scratch, threads
        );
        for (int64_t r = 0; r < rows; r++) {
            int64_t at = r * count + k;
            codes[at] = draw_row(
                logits + r * size, size, windows + at * width, width, settings + 3 * r, points[at],
                draws
            );
            for (int64_t i = 0; i < dim; i++)
                x[r * dim + i] = to_float(head->embedding[codes[at] * dim + i]);
        }
    }
}

int64_t native_codes_scratch(const Head *head, int64_t rows, int64_t count, int threads) {
    const Stack *stack = &head->stack;
    int64_t cache = 2 * stack->kv_heads * count * stack->head_dim * sizeof(bf16) + 64 + sizeof(bf16 *);
    int64_t row = (stack->dim + head->output.outputs) * 4 + stack->num_blocks * cache +
                  sizeof(bf16 **) + 2 * sizeof(int64_t);
    return rows * row + draw_numbers(head->output.outputs) * 4 + 7 * 64 +
           native_scratch(stack, rows, count, threads);
}

#include "convolution.h"
#include "pairs.h"
#include "refinement.h"
#include "vocoder.h"

// The instruction set that it uses.
const char *native_isa(void) { return has_tiles ? "amx" : ISA; }
