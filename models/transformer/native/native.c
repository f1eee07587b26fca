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
    GROUP = 64,        // weights that share a scale in 4 bits
    PART = 128,        // inputs that share a scale
    BLOCK = 4,         // rows, and outputs, that are computed at once
    MAX_HEAD = 256,    // numbers in a head
    AHEAD = 4096,      // bytes from what is read to what is fetched from memory
    SPAN = 1024,       // tokens whose chances are summed in float32
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
    const uint8_t *weight; // int8 [outputs, inputs]; or two inputs a byte, the first in the upper half
    const bf16 *scale; // [outputs]; or [outputs, inputs / GROUP, 2]: a step, and what the 8th means
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

// Rows of a product's inputs, each filled up with zeros to `stride`. A block of rows lies together,
// part by part: [rows of the block, PART].
typedef struct {
    int64_t rows, stride;
    int8_t *bytes; // [blocks, stride / PART, rows of the block, PART]
    float *scales; // [blocks, stride / PART, rows of the block]; powers of two for 4 bits
    float *sums;   // [rows, stride / GROUP], of the inputs of a group
    float *sum;    // [rows], of all
} Inputs;

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

static int64_t padded(int64_t size) { return (size + PART - 1) / PART * PART; }

static float largest_of(const float *x, int64_t size) {
    floats largest = splat(1e-12f);
    for (int64_t i = 0; i < size; i += WIDTH)
        largest = larger(largest, magnitude(read_floats(x + i, size - i)));
    return largest_lane(largest);
}

// NaN remains what it is.
static float power_of_two_above(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    bits = (bits + 0x7fffff) & 0x7f800000;
    if (x == x) memcpy(&x, &bits, 4);
    return x;
}

// Weights of 4 bits come in pairs: for them the even ones of a part are put first.
static void quantise_row(const float *x, const Linear *linear, Inputs *in, int64_t row) {
    int64_t size = linear->inputs;
    int64_t first = row / BLOCK * BLOCK;
    int64_t block = in->rows - first < BLOCK ? in->rows - first : BLOCK; // its rows
    int8_t *to = in->bytes + first * in->stride + (row - first) * PART;
    float *scales = in->scales + first * in->stride / PART + row - first;
    float *sums = in->sums + row * (in->stride / GROUP);
    in->sum[row] = 0;
    for (int64_t begin = 0; begin < in->stride; begin += PART, to += block * PART, scales += block) {
        int64_t left = size - begin < PART ? size - begin : PART;
        float scale = largest_of(x + begin, left) / INT8_MAX;
        if (linear->bits == 4) scale = power_of_two_above(scale);
        *scales = scale;
        int8_t bytes[PART] __attribute__((aligned(64)));
        for (int64_t group = 0; group < PART; group += GROUP) {
            ints sum = {0};
            for (int64_t i = group; i < group + GROUP; i += WIDTH) {
                ints q = rounded(read_floats(x + begin + i, left - i) * splat(1 / scale));
                write_bytes(bytes + i, q);
                sum += q;
            }
            sums[(begin + group) / GROUP] = sum_ints(sum) * scale;
            in->sum[row] += sums[(begin + group) / GROUP];
        }
        if (linear->bits == 4) split_pairs(bytes, to);
        else memcpy(to, bytes, PART);
    }
}

// Some outputs of a block of rows, each as a vector whose sum it is: to [count, rows].
static INLINE void dot(
    const Linear *linear, int bits, const int64_t *outputs, int count, const Inputs *in,
    int64_t first, int rows, floats *to
) {
    floats totals[BLOCK * BLOCK];
    int64_t size = linear->inputs, groups = size / GROUP, parts = size / PART, part = 0;
    const uint8_t *weights[BLOCK];
    const bf16 *scale[BLOCK];
    const int8_t *bytes = in->bytes + first * in->stride;
    const float *scales = in->scales + first * in->stride / PART;
#pragma GCC unroll 4
    for (int n = 0; n < count; n++) {
        weights[n] = linear->weight + outputs[n] * size * bits / 8;
        scale[n] = linear->scale + outputs[n] * groups * 2;
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++)
            totals[n * rows + r] = first_lane(bits == 8 ? -OFFSET * in->sum[first + r] : 0);
        if (bits == 4) // what lies beside the weights has to be fetched ahead as well
            for (int64_t group = 0; group < groups; group += 16)
                __builtin_prefetch((const char *)(scale[n] + 2 * group) + AHEAD / 8);
    }
    for (; part < parts; part++, bytes += rows * PART, scales += rows)
#pragma GCC unroll 4
        for (int n = 0; n < count; n++) {
            const uint8_t *weight = weights[n] + part * PART * bits / 8;
            floats *total = totals + n * rows;
            if (bits == 8) part_int8(weight, PART, bytes, scales, rows, total);
            else part_int4(weight, scale[n] + part * 4, 2, bytes, scales, rows, total);
        }
    if (part * PART < size)
#pragma GCC unroll 4
        for (int n = 0; n < count; n++) {
            const uint8_t *weight = weights[n] + part * PART * bits / 8;
            floats *total = totals + n * rows;
            if (bits == 8) part_int8(weight, size - part * PART, bytes, scales, rows, total);
            else part_int4(weight, scale[n] + part * 4, 1, bytes, scales, rows, total);
        }
    if (bits == 4)
#pragma GCC unroll 4
        for (int n = 0; n < count; n++)
            for (int64_t group = 0; group < groups; group += WIDTH) {
                floats step, middle;
                read_pairs(scale[n] + group * 2, groups - group, &step, &middle);
                floats least = fused(step, splat(-8), middle);
#pragma GCC unroll 4
                for (int r = 0; r < rows; r++) {
                    const float *sums = in->sums + (first + r) * (in->stride / GROUP) + group;
                    floats *total = totals + n * rows + r;
                    *total = fused(least, read_floats(sums, groups - group), *total);
                }
            }
#pragma GCC unroll 16
    for (int n = 0; n < count * rows; n++) to[n] = totals[n];
}

// Some outputs, BLOCK or less, of a block of rows.
static INLINE void products(
    const Linear *linear, int bits, int64_t output, int64_t count, const Inputs *in, int64_t first,
    int rows, float *y
) {
    floats totals[BLOCK * BLOCK]; // [BLOCK, rows]; where outputs are missing, the last one's
    float sums[BLOCK * BLOCK];
    int64_t outputs[BLOCK];
    for (int64_t n = 0; n < BLOCK; n++) outputs[n] = output + (n < count ? n : count - 1);
    if (in->rows > BLOCK || (bits == 4 && rows > 2)) // compute-bound
        for (int n = 0; n < BLOCK; n += BESIDE)
            dot(linear, bits, outputs + n, BESIDE, in, first, rows, totals + n * rows);
    else // memory-bound: it is fastest at one stream of weights
        for (int n = 0; n < BLOCK; n++)
            dot(linear, bits, outputs + n, 1, in, first, rows, totals + n * rows);
    for (int r = 0; r < rows; r++) write_quad(sums + r * BLOCK, sums_of(totals + r * BLOCK));
    for (int64_t n = 0; n < count; n++) {
        float scale = bits == 8 ? to_float(linear->scale[output + n]) : 1;
        float bias = linear->bias ? to_float(linear->bias[output + n]) : 0;
        for (int r = 0; r < rows; r++)
            y[(first + r) * linear->outputs + output + n] = sums[n * rows + r] * scale + bias;
    }
}

// The calling thread's share of y [rows, outputs]. The weights are read from end to end, which is
// what memory is fastest at.
static void product(const Linear *linear, const Inputs *in, float *y, int thread, int threads) {
// The compiler makes a version of its own for each of these.
#define CASE(ROWS)                                                                                \
    case ROWS:                                                                                    \
        if (linear->bits == 8) products(linear, 8, output, count, in, first, ROWS, y);            \
        else products(linear, 4, output, count, in, first, ROWS, y);                              \
        break;
    int64_t begin = linear->outputs * thread / threads;
    int64_t end = linear->outputs * (thread + 1) / threads;
    for (int64_t output = begin; output < end; output += BLOCK) {
        int64_t count = end - output < BLOCK ? end - output : BLOCK;
        for (int64_t first = 0; first < in->rows; first += BLOCK)
            switch (in->rows - first) { CASE(1) CASE(2) CASE(3) default: CASE(4) }
    }
#undef CASE
}

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
    for (int64_t first = 0; first < queries; first += BLOCK) {
        floats x[BLOCK][MAX_HEAD / WIDTH]; // the queries, then what becomes of them
#pragma GCC unroll 4
        for (int64_t n = 0; n < BLOCK; n++)
#pragma GCC unroll 4
            for (int64_t k = 0; k < parts; k++)
                x[n][k] = first + n < queries
                              ? read_floats(q + (first + n) * size + WIDTH * k, size - WIDTH * k)
                              : (floats){0};
        quad largest = (quad){0} - INFINITY;
        for (int64_t p = 0; p < positions; p++) {
            floats products[BLOCK] = {0};
#pragma GCC unroll 4
            for (int64_t k = 0; k < parts; k++) {
                floats key = read_bf16(keys + p * size + WIDTH * k, size - WIDTH * k);
#pragma GCC unroll 4
                for (int64_t n = 0; n < BLOCK; n++)
                    products[n] = fused(x[n][k], key, products[n]);
            }
            quad score = sums_of(products) * factor;
            largest = larger_quad(largest, score);
            write_quad(scores + BLOCK * p, score);
        }
        for (int64_t p = positions; p % BLOCK; p++)
            write_quad(scores + BLOCK * p, (quad){0} - INFINITY);
        float most[16], sums[16] = {0}, total[BLOCK] = {0};
        for (int64_t i = 0; i < 16; i += BLOCK) write_quad(most + i, largest);
        for (int64_t p = 0; p < positions; p += BLOCK)
#pragma omp simd
            for (int64_t i = 0; i < 16; i++) {
                scores[BLOCK * p + i] = exponential(scores[BLOCK * p + i] - most[i]);
                sums[i] += scores[BLOCK * p + i];
            }
        for (int64_t i = 0; i < 16; i++) total[i % BLOCK] += sums[i];

#pragma GCC unroll 4
        for (int64_t n = 0; n < BLOCK; n++)
#pragma GCC unroll 4
            for (int64_t k = 0; k < parts; k++) x[n][k] = (floats){0};
        for (int64_t p = 0; p < positions; p++)
#pragma GCC unroll 4
            for (int64_t k = 0; k < parts; k++) {
                floats value = read_bf16(values + p * size + WIDTH * k, size - WIDTH * k);
#pragma GCC unroll 4
                for (int64_t n = 0; n < BLOCK; n++) {
                    floats score = splat(scores[BLOCK * p + n]);
                    x[n][k] = fused(score, value, x[n][k]);
                }
            }
        for (int64_t n = 0; n < BLOCK && first + n < queries; n++)
            for (int64_t k = 0; k < parts; k++) {
                floats mean = x[n][k] / splat(total[n]);
                write_floats(y + (first + n) * size + WIDTH * k, mean, size - WIDTH * k);
            }
    }
}

static void *take(char **memory, int64_t bytes) {
    void *taken = *memory;
    *memory += (bytes + 63) / 64 * 64;
    return taken;
}

static Inputs take_inputs(char **memory, int64_t rows, int64_t size) {
    Inputs in = {.rows = rows, .stride = padded(size)};
    in.bytes = take(memory, rows * in.stride);
    in.scales = take(memory, rows * in.stride / PART * sizeof(float));
    in.sums = take(memory, rows * in.stride / GROUP * sizeof(float));
    in.sum = take(memory, rows * sizeof(float));
    return in;
}

// At least what the function above takes.
static int64_t inputs_bytes(int64_t rows, int64_t size) {
    return rows * (2 * padded(size) + sizeof(float)) + 4 * 64;
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
            float *own = scores + thread * BLOCK * (longest + BLOCK);
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
    task.scores = take(&scratch, threads * BLOCK * (longest + BLOCK) * sizeof(float));
    task.in = take_inputs(&scratch, rows, dim);
    task.wide = take_inputs(&scratch, rows, stack->hidden);
    together(step_task, &task, threads);
}

int64_t native_scratch(const Stack *stack, int64_t rows, int64_t longest, int threads) {
    int64_t floats = 2 * stack->dim + (stack->heads + 2 * stack->kv_heads) * stack->head_dim +
                     2 * stack->hidden;
    return rows * floats * 4 + threads * BLOCK * (longest + BLOCK) * 4 +
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

// The instruction set that it is compiled for.
const char *native_isa(void) { return ISA; }
