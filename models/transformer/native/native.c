// Products with weights of 8 or 4 bits; one decode step through a stack of blocks of them, for a few
// conversations at once, memory-bound; the draw of a token; a frame's codes; the rounding to few
// bits; and a codec's decoder: what refines its latents, and a vocoder.
//
// The inputs of a product become integers of 8 bits, with a scale for every 128 of them: bytes are
// what processors multiply the most of in one instruction. All else is float32. What depends on the
// instruction set is in a header for each.

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "team.h"

enum {
    GROUP = 64,         // weights that share a scale in 4 bits
    PART = 128,         // inputs that share a scale
    PANEL = 16,         // outputs whose weights lie together
    COLUMN = 4 * PANEL, // bytes of them that are read at once
    FEW = 4,            // rows, and an attention's queries, that are computed at once
    MAX_HEAD = 256,     // numbers in a head
    SPAN = 1024,        // tokens whose chances are summed in float32
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

// Turns adjacent pairs by their angles [size / 2, 2]: a cosine and a sine.
static void rotate(float *x, const float *angles, int64_t size) {
    for (int64_t i = 0; i < size; i += 2) {
        float a = x[i], b = x[i + 1], cosine = angles[i], sine = angles[i + 1];
        x[i] = a * cosine - b * sine;
        x[i + 1] = a * sine + b * cosine;
    }
}

// Queries [queries, size] that share keys and values [positions, size] -> y [queries, size].
//
// Four queries at a time; scores: [positions + 3, 4].
static INLINE void attend(
    const float *q, const bf16 *keys, const bf16 *values, int64_t queries, int64_t positions,
    int64_t size, float *scores, float *y
) {
    int64_t parts = (size + WIDTH - 1) / WIDTH;
    float factor = 1 / sqrtf(size);
    for (int64_t first = 0; first < queries; first += FEW) {
        floats x[FEW][MAX_HEAD / WIDTH]; // the queries, then what becomes of them
#pragma GCC unroll 4
        for (int64_t n = 0; n < FEW; n++)
#pragma GCC unroll 4
            for (int64_t k = 0; k < parts; k++)
                x[n][k] = first + n < queries
                              ? read_floats(q + (first + n) * size + WIDTH * k, size - WIDTH * k)
                              : (floats){0};
        quad largest = (quad){0} - INFINITY;
        for (int64_t p = 0; p < positions; p++) {
            floats products[FEW] = {0};
#pragma GCC unroll 4
            for (int64_t k = 0; k < parts; k++) {
                floats key = read_bf16(keys + p * size + WIDTH * k, size - WIDTH * k);
#pragma GCC unroll 4
                for (int64_t n = 0; n < FEW; n++)
                    products[n] = fused(x[n][k], key, products[n]);
            }
            quad score = sums_of(products) * factor;
            largest = larger_quad(largest, score);
            write_quad(scores + FEW * p, score);
        }
        for (int64_t p = positions; p % FEW; p++)
            write_quad(scores + FEW * p, (quad){0} - INFINITY);
        float most[16], sums[16] = {0}, total[FEW] = {0};
        for (int64_t i = 0; i < 16; i += FEW) write_quad(most + i, largest);
        for (int64_t p = 0; p < positions; p += FEW)
#pragma omp simd
            for (int64_t i = 0; i < 16; i++) {
                scores[FEW * p + i] = exponential(scores[FEW * p + i] - most[i]);
                sums[i] += scores[FEW * p + i];
            }
        for (int64_t i = 0; i < 16; i++) total[i % FEW] += sums[i];

#pragma GCC unroll 4
        for (int64_t n = 0; n < FEW; n++)
#pragma GCC unroll 4
            for (int64_t k = 0; k < parts; k++) x[n][k] = (floats){0};
        for (int64_t p = 0; p < positions; p++)
#pragma GCC unroll 4
            for (int64_t k = 0; k < parts; k++) {
                floats value = read_bf16(values + p * size + WIDTH * k, size - WIDTH * k);
#pragma GCC unroll 4
                for (int64_t n = 0; n < FEW; n++) {
                    floats score = splat(scores[FEW * p + n]);
                    x[n][k] = fused(score, value, x[n][k]);
                }
            }
        for (int64_t n = 0; n < FEW && first + n < queries; n++)
            for (int64_t k = 0; k < parts; k++) {
                floats mean = x[n][k] / splat(total[n]);
                write_floats(y + (first + n) * size + WIDTH * k, mean, size - WIDTH * k);
            }
    }
}

typedef struct {
    const Linear *linear;
    const float *x;
    float *y;
    Inputs in;
} Product;

static void product_task(void *data, int thread, int threads) {
    Product *task = data;
    for (int64_t r = thread; r < task->in.rows; r += threads)
        quantise_row(task->x + r * task->linear->inputs, task->linear, &task->in, r);
    meet();
    product(task->linear, &task->in, task->y, thread, threads);
}

// y [rows, outputs] of x [rows, inputs], float32.
//
// Scratch: 64-byte aligned, native_product_scratch(linear, rows) bytes.
void native_product(
    const Linear *linear, const float *x, float *y, int64_t rows, char *scratch, int threads
) {
    Product task = {linear, x, y, take_inputs(&scratch, rows, linear->inputs)};
    together(product_task, &task, threads);
}

int64_t native_product_scratch(const Linear *linear, int64_t rows) {
    return inputs_bytes(rows, linear->inputs);
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

typedef struct {
    const Stack *stack;
    float *x;
    const float *angles;
    bf16 *const *caches;
    const int64_t *lengths, *rooms;
    int64_t rows, longest;
    float *normed, *heads, *change, *gates, *scores;
    Inputs in, wide;
} Step;

static void step_task(void *data, int thread, int threads) {
    Step *task = data;
    const Stack *stack = task->stack;
    const int64_t *lengths = task->lengths, *rooms = task->rooms;
    int64_t dim = stack->dim, size = stack->head_dim, kv_heads = stack->kv_heads;
    int64_t queries = stack->heads / kv_heads, hidden = stack->hidden;
    int64_t num_heads = stack->heads + 2 * kv_heads, rows = task->rows, longest = task->longest;
    float *x = task->x, *normed = task->normed, *heads = task->heads, *change = task->change;
    float *gates = task->gates, *scores = task->scores;
    const float *angles = task->angles;
    for (int64_t b = 0; b < stack->num_blocks; b++) {
        const Block *block = stack->blocks + b;
        for (int64_t r = thread; r < rows; r += threads) {
            norm(x + r * dim, block->attention_norm, dim, stack->eps, normed + r * dim);
            quantise_row(normed + r * dim, &block->qkv, &task->in, r);
        }
        meet();
        product(&block->qkv, &task->in, heads, thread, threads);
        meet();
        for (int64_t pair = thread; pair < rows * kv_heads; pair += threads) {
            int64_t r = pair / kv_heads, head = pair % kv_heads;
            float *k = heads + (r * num_heads + stack->heads + head) * size;
            float *v = k + kv_heads * size;
            rotate(k, angles + r * size, size);
            bf16 *keys = task->caches[r * stack->num_blocks + b] + head * rooms[r] * size;
            bf16 *values = keys + kv_heads * rooms[r] * size;
            for (int64_t i = 0; i < size; i++) {
                keys[lengths[r] * size + i] = to_bf16(k[i]);
                values[lengths[r] * size + i] = to_bf16(v[i]);
            }
        }
        if (rows > 1) meet(); // they may be positions of one conversation
        for (int64_t pair = thread; pair < rows * kv_heads; pair += threads) {
            int64_t r = pair / kv_heads, head = pair % kv_heads;
            float *q = heads + (r * num_heads + head * queries) * size;
            for (int64_t n = 0; n < queries; n++) rotate(q + n * size, angles + r * size, size);
            const bf16 *keys = task->caches[r * stack->num_blocks + b] + head * rooms[r] * size;
            const bf16 *values = keys + kv_heads * rooms[r] * size;
            float *own = scores + thread * FEW * (longest + FEW);
            float *y = normed + r * dim + head * queries * size;
            if (size == 64) attend(q, keys, values, queries, lengths[r] + 1, 64, own, y);
            else attend(q, keys, values, queries, lengths[r] + 1, size, own, y);
        }
        meet();
        for (int64_t r = thread; r < rows; r += threads)
            quantise_row(normed + r * dim, &block->out, &task->in, r);
        meet();
        product(&block->out, &task->in, change, thread, threads);
        meet();
        for (int64_t r = thread; r < rows; r += threads) {
            for (int64_t i = r * dim; i < (r + 1) * dim; i++) x[i] += change[i];
            norm(x + r * dim, block->feed_forward_norm, dim, stack->eps, normed + r * dim);
            quantise_row(normed + r * dim, &block->gate_up, &task->in, r);
        }
        meet();
        product(&block->gate_up, &task->in, gates, thread, threads);
        meet();
        for (int64_t r = thread; r < rows; r += threads) {
            float *gate = gates + r * 2 * hidden, *up = gate + hidden;
#pragma omp simd
            for (int64_t i = 0; i < hidden; i++) gate[i] *= up[i] / (1 + exponential(-gate[i]));
            quantise_row(gate, &block->down, &task->wide, r);
        }
        meet();
        product(&block->down, &task->wide, change, thread, threads);
        meet();
        for (int64_t r = thread; r < rows; r += threads)
            for (int64_t i = r * dim; i < (r + 1) * dim; i++) x[i] += change[i];
    }
}

// One position of each row through all blocks; x [rows, dim] float32 is replaced.
//
// Rows with the same caches are positions of one conversation, one after another. What a row gives
// does not depend on the others, but for those before it in the same caches.
//
// angles: [rows, head_dim / 2, 2]. caches: of each row and block, bf16 [2 * kv_heads, room,
// head_dim], keys first. lengths: of each row, positions that are before it; rooms: that its caches
// can hold. Scratch: 64-byte aligned, native_scratch(stack, rows, longest length, threads) bytes.
void native_step(
    const Stack *stack, float *x, const float *angles, bf16 *const *caches, const int64_t *lengths,
    const int64_t *rooms, int64_t rows, char *scratch, int threads
) {
    int64_t dim = stack->dim, num_heads = stack->heads + 2 * stack->kv_heads, longest = 0;
    for (int64_t r = 0; r < rows; r++) longest = lengths[r] > longest ? lengths[r] : longest;
    Step task = {stack, x, angles, caches, lengths, rooms, rows, longest};
    task.normed = take(&scratch, rows * dim * sizeof(float));
    task.heads = take(&scratch, rows * num_heads * stack->head_dim * sizeof(float));
    task.change = take(&scratch, rows * dim * sizeof(float));
    task.gates = take(&scratch, rows * 2 * stack->hidden * sizeof(float));
    task.scores = take(&scratch, threads * FEW * (longest + FEW) * sizeof(float));
    task.in = take_inputs(&scratch, rows, dim);
    task.wide = take_inputs(&scratch, rows, stack->hidden);
    together(step_task, &task, threads);
}

int64_t native_scratch(const Stack *stack, int64_t rows, int64_t longest, int threads) {
    int64_t floats = 2 * stack->dim + (stack->heads + 2 * stack->kv_heads) * stack->head_dim +
                     2 * stack->hidden;
    return rows * floats * 4 + threads * FEW * (longest + FEW) * 4 +
           inputs_bytes(rows, stack->dim) + inputs_bytes(rows, stack->hidden) + 5 * 64;
}

typedef struct {
    const float *weight;
    int64_t rows, inputs, bits;
    uint8_t *steps;
    float *scales;
} Rounding;

static void quantise_task(void *data, int thread, int threads) {
    Rounding *task = data;
    int64_t bits = task->bits, size = bits == 8 ? task->inputs : GROUP;
    int64_t groups = task->rows * (task->inputs / size);
    int64_t begin = groups * thread / threads, end = groups * (thread + 1) / threads;
    for (int64_t group = begin; group < end; group++) {
        const float *x = task->weight + group * size;
        uint8_t *to = task->steps + group * size * bits / 8;
        float low = x[0], high = x[0];
#pragma omp simd reduction(min : low) reduction(max : high)
        for (int64_t i = 0; i < size; i++) {
            low = x[i] < low ? x[i] : low;
            high = x[i] > high ? x[i] : high;
        }
        if (bits == 8) {
            float scale = fmaxf(fmaxf(-low, high), 1e-8f) / 127;
#pragma omp simd
            for (int64_t i = 0; i < size; i++) to[i] = (uint8_t)(int8_t)rintf(x[i] / scale);
            task->scales[group] = scale;
        } else {
            float step = fmaxf(high - low, 1e-8f) / 15;
            uint8_t q[GROUP];
#pragma omp simd
            for (int64_t i = 0; i < GROUP; i++)
                q[i] = (uint8_t)fminf(rintf((x[i] - low) / step), 15);
            for (int64_t i = 0; i < GROUP / 2; i++) to[i] = q[2 * i] << 4 | q[2 * i + 1];
            task->scales[2 * group] = step;
            task->scales[2 * group + 1] = low + 8 * step;
        }
    }
}

// Float weights [rows, inputs] as a Linear takes them, but with float scales.
void native_quantise(
    const float *weight, int64_t rows, int64_t inputs, int64_t bits, uint8_t *steps, float *scales,
    int threads
) {
    Rounding task = {weight, rows, inputs, bits, steps, scales};
    together(quantise_task, &task, threads);
}

#include "rounding.h"

// The sum of those chances that are at least as large as the least.
static double mass_of(const float *chances, int64_t size, float least) {
    double mass = 0;
    for (int64_t begin = 0; begin < size; begin += SPAN) { // float32 is exact enough within one
        floats sums[4] = {0}, limit = splat(least);
        for (int64_t i = begin; i < begin + SPAN && i < size; i += 4 * WIDTH)
#pragma GCC unroll 4
            for (int64_t k = 0; k < 4; k++) {
                int64_t at = i + WIDTH * k;
                floats part = read_floats(chances + at, size - at);
                sums[k] = add_if_at_least(sums[k], part, limit);
            }
        mass += sum_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
    }
    return mass;
}

// The least of the chances that together stay within a share of them all; at most the largest, 1.
static float least_kept(const float *chances, int64_t size, float share) {
    double allowed = share * mass_of(chances, size, 0);
    uint32_t low = 0, high = 0x3f800000; // floats from 0 to 1 in their order, as integers
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        float least;
        memcpy(&least, &middle, 4);
        if (mass_of(chances, size, least) <= allowed) high = middle;
        else low = middle + 1;
    }
    float least;
    memcpy(&least, &high, 4);
    return least;
}

// The token of a row of logits, which are changed: those of `seen` are made less likely, each once.
// Inverse-CDF sampling with a uniform draw, the point, among the likeliest ones that together stay
// within top-p, or the likeliest.
//
// settings: temperature, top-p and penalty. Scratch: chances [size].
static int64_t draw_row(
    float *logits, int64_t size, const int64_t *seen, int64_t width, const float *settings,
    double point, float *restrict chances
) {
    for (int64_t w = 0; w < width; w++) {
        int64_t before = 0;
        while (seen[before] != seen[w]) before++;
        if (before == w) logits[seen[w]] *= logits[seen[w]] < 0 ? settings[2] : 1 / settings[2];
    }
    float temperature = settings[0], largest = logits[0];
#pragma omp simd reduction(max : largest)
    for (int64_t i = 0; i < size; i++) largest = logits[i] > largest ? logits[i] : largest;
#pragma omp simd
    for (int64_t i = 0; i < size; i++) chances[i] = exponential(logits[i] - largest);
    float least = least_kept(chances, size, settings[1]);
#pragma omp simd
    for (int64_t i = 0; i < size; i++)
        chances[i] = exponential((logits[i] - largest) / temperature) * (chances[i] >= least);

    point *= mass_of(chances, size, 0);
    int64_t drawn = 0;
    for (double mass; drawn < size; drawn += SPAN, point -= mass) {
        mass = mass_of(chances + drawn, size - drawn < SPAN ? size - drawn : SPAN, 0);
        if (point < mass) break;
    }
    while (drawn < size && (point -= chances[drawn]) >= 0) drawn++;
    while (drawn && (drawn >= size || chances[drawn] == 0)) drawn--; // rounding has left a rest
    return drawn;
}

typedef struct {
    float *logits;
    const int64_t *window;
    const float *settings;
    const double *points;
    int64_t rows, size, width, *drawn;
    float *chances;
} Draw;

static void draw_task(void *data, int thread, int threads) {
    Draw *task = data;
    int64_t size = task->size, width = task->width;
    for (int64_t r = thread; r < task->rows; r += threads)
        task->drawn[r] = draw_row(
            task->logits + r * size, size, task->window + r * width, width,
            task->settings + 3 * r, task->points[r], task->chances + r * size
        );
}

// A token for each row of logits [rows, size], which are changed.
//
// window: [rows, width], tokens that the penalty makes less likely. settings: [rows, 3],
// temperature, top-p and penalty. points: [rows], from 0 to 1. Scratch: 4 * rows * size bytes.
void native_draw(
    float *logits, const int64_t *window, const float *settings, const double *points, int64_t rows,
    int64_t size, int64_t width, int64_t *drawn, char *scratch, int threads
) {
    Draw task = {logits, window, settings, points, rows, size, width, drawn, (float *)scratch};
    together(draw_task, &task, rows < threads ? rows : threads);
}

// The codes [rows, count] of a frame, drawn one after another. x [rows, dim], what the first one
// follows from, is replaced.
//
// angles: [count, head_dim / 2, 2]. windows: [rows, count, width] and points: [rows, count]; else as
// for native_draw. Scratch: 64-byte aligned, native_codes_scratch(head, rows, count, threads) bytes.
void native_codes(
    const Head *head, float *x, const float *angles, const int64_t *windows, const float *settings,
    const double *points, int64_t rows, int64_t count, int64_t width, int64_t *codes, char *scratch,
    int threads
) {
    const Stack *stack = &head->stack;
    int64_t dim = stack->dim, size = head->output.outputs, half = stack->head_dim;
    int64_t cache_size = 2 * stack->kv_heads * count * stack->head_dim;
    float *logits = take(&scratch, rows * size * sizeof(float));
    float *chances = take(&scratch, size * sizeof(float));
    float *turns = take(&scratch, rows * half * sizeof(float));
    float *normed = take(&scratch, rows * dim * sizeof(float));
    bf16 **caches = take(&scratch, rows * stack->num_blocks * sizeof(bf16 *));
    int64_t *lengths = take(&scratch, rows * sizeof(int64_t));
    int64_t *rooms = take(&scratch, rows * sizeof(int64_t));
    for (int64_t n = 0; n < rows * stack->num_blocks; n++)
        caches[n] = take(&scratch, cache_size * sizeof(bf16));
    for (int64_t k = 0; k < count; k++) {
        for (int64_t r = 0; r < rows; r++) {
            lengths[r] = k;
            rooms[r] = count;
            memcpy(turns + r * half, angles + k * half, half * sizeof(float));
        }
        native_step(stack, x, turns, caches, lengths, rooms, rows, scratch, threads);
        for (int64_t r = 0; r < rows; r++)
            norm(x + r * dim, head->norm, dim, stack->eps, normed + r * dim);
        native_product(&head->output, normed, logits, rows, scratch, threads);
        for (int64_t r = 0; r < rows; r++) {
            int64_t at = r * count + k;
            codes[at] = draw_row(
                logits + r * size, size, windows + at * width, width, settings + 3 * r, points[at],
                chances
            );
            for (int64_t i = 0; i < dim; i++)
                x[r * dim + i] = to_float(head->embedding[codes[at] * dim + i]);
        }
    }
}

int64_t native_codes_scratch(const Head *head, int64_t rows, int64_t count, int threads) {
    const Stack *stack = &head->stack;
    int64_t cache = 2 * stack->kv_heads * count * stack->head_dim * sizeof(bf16) + 64 + sizeof(bf16 *);
    int64_t row = head->output.outputs * 4 + (stack->head_dim + stack->dim) * 4 +
                  stack->num_blocks * cache + 2 * sizeof(int64_t);
    return rows * row + head->output.outputs * 4 + 7 * 64 +
           native_scratch(stack, rows, count, threads);
}

#ifdef HAS_VOCODER
#include "convolution.h"
#include "pairs.h"
#include "refinement.h"
#include "vocoder.h"
#endif

// The instruction set that it uses.
const char *native_isa(void) { return has_tiles ? "amx" : ISA; }
