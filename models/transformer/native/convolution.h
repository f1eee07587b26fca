// Causal convolutions of signals in pieces: sums and residuals of float32, products of that or of
// bf16, whichever is faster.
//
// Signals lie as [positions, channels], whose numbers are multiples of WIDTH. A result is summed in
// one order, whatever is computed beside it: pieces give what the whole gives, and so do rows alone.

// A thread computes SIDE vectors of outputs at once, of the last ones half, or one; as a rule for
// TIMES positions.
enum { MOST_TIMES = SIDE * TIMES };

#ifndef HAS_BF16_SIGNALS

typedef float sample; // of a signal
typedef floats factors;

enum { ADDED = 1 };

static INLINE floats read_samples(const sample *x) {
    floats y;
    memcpy(&y, x, sizeof y);
    return y;
}

static INLINE void write_samples(sample *to, floats x) { memcpy(to, &x, sizeof x); }

static INLINE factors read_weights(const sample *x) { return read_samples(x); }

static INLINE factors splat_inputs(const sample *x) { return splat(*x); }

static INLINE floats add_products(floats sum, factors a, factors b) { return fused(a, b, sum); }

#endif

#ifndef HAS_ACTIVATIONS

// As `exponential`.
static INLINE floats exponentials(floats x) {
    const floats whole = splat(0x1.8p23f); // with which a number has no fraction
    x = maximum(minimum(x, splat(88)), splat(-87));
    floats shifted = fused(x, splat(1.44269504f), whole), n = shifted - whole;
    floats r = fused(n, splat(2.12194440e-4f), fused(n, splat(-0.693359375f), x));
    floats y = splat(0.00139887596f);
    y = fused(y, r, splat(0.00833345205f));
    y = fused(y, r, splat(0.0416657962f));
    y = fused(y, r, splat(0.166666655f));
    y = fused(y, r, splat(0.5f));
    y = fused(y, r, splat(1));
    y = fused(y, r, splat(1));
    return y * (floats)(((ints)shifted + 127) << 23);
}

// x / (1 + e^-x)
static INLINE floats silu(floats x) { return x / (splat(1) + exponentials(splat(0) - x)); }

// x times the normal distribution, in the form of Abramowitz and Stegun, 7.1.26.
static INLINE floats gelu(floats x) {
    floats size = magnitude(x), z = size * splat(0.707106781f);
    floats t = splat(1) / fused(z, splat(0.3275911f), splat(1));
    floats y = fused(t, splat(1.061405429f), splat(-1.453152027f));
    y = fused(y, t, splat(1.421413741f));
    y = fused(y, t, splat(-0.284496736f));
    y = fused(y, t, splat(0.254829592f));
    floats tail = y * t * exponentials(splat(0) - z * z) * splat(0.5f);
    return maximum(x, splat(0)) - size * tail;
}

#endif

// What those who lay out weights and signals go by.
int native_width(void) { return WIDTH; }
int native_side(void) { return SIDE; }
int native_added(void) { return ADDED; }
int native_sample_bytes(void) { return sizeof(sample); }

typedef struct {
    const sample *weight; // of each SIDE vectors of outputs [taps or terms, inputs / ADDED, outputs, ADDED]
    const float *bias;  // [outputs]
    int64_t inputs, outputs, taps, dilation;
    int64_t state;  // where the inputs are kept of which it needs more, in a row's state
    int64_t paired; // whether its outputs are computed in pairs, see pairs.h
} Convolution;

// The inputs of a convolution: of each row some that are known, then new ones.
typedef struct {
    sample *data; // [rows, known + room, channels]; if outputs are paired, as often as there are kinds
    int64_t known, room, channels, state;
} Signal;

// What a convolution's results [positions, width] become: they are added to others, kept, and
// activated as inputs of the next one.
typedef struct {
    const float *residual, *total; // or NULL
    float *kept;                   // or NULL
    int64_t row_size;              // of these three, from one row to the next
    int64_t width;                 // of these three: a multiple of WIDTH, or less than it
    const Signal *active;          // or NULL
    enum { SILU, GELU, NONE } activation;
    float scale; // of what is activated; 0 is 1
} Output;

// What a thread knows of a task: the rows, whose work all threads divide among them, and which one
// of the threads it is. A thread has a copy of its own.
typedef struct {
    int64_t rows;
    sample *const *states; // of each row what is kept between its pieces
    int thread, threads;   // its number, from 0; how many there are
    int64_t rate, at;      // see passed_by
} Share;

static int64_t at_most(int64_t x, int64_t limit) { return x < limit ? x : limit; }

static int64_t at_least(int64_t x, int64_t limit) { return x > limit ? x : limit; }

// How many positions a row's signal had before these: `rate` for each that its state has counted,
// and `at` in this piece.
static int64_t passed_by(const Share *share, int64_t row) {
    uint32_t count;
    memcpy(&count, share->states[row], sizeof count);
    return count * share->rate + share->at;
}

// Inputs before the newest one that a convolution needs.
static int64_t reach(const Convolution *conv) { return (conv->taps - 1) * conv->dilation; }

// Adds what `inputs` numbers at each of some places of x give: sums [times, side]. Returns the
// weights after theirs.
static INLINE const sample *add_inputs(
    const sample *x, const int64_t *places, int64_t inputs, const sample *weight, int side, int times,
    floats *sums
) {
    for (int64_t i = 0; i < inputs; i += ADDED, weight += ADDED * side * WIDTH) {
        factors w[SIDE];
#pragma GCC unroll 4
        for (int s = 0; s < side; s++) w[s] = read_weights(weight + ADDED * s * WIDTH);
#pragma GCC unroll 24
        for (int t = 0; t < times; t++) {
            factors all = splat_inputs(x + places[t] + i);
#pragma GCC unroll 4
            for (int s = 0; s < side; s++)
                sums[t * side + s] = add_products(sums[t * side + s], all, w[s]);
        }
    }
    return weight;
}

// `times` positions of `side` vectors of outputs: to [times, side].
static INLINE void taps_of(
    const Convolution *conv, int64_t inputs, const sample *x, const sample *weight, const float *bias,
    int side, int times, floats *to
) {
    floats sums[SIDE * TIMES];
    int64_t places[MOST_TIMES];
#pragma GCC unroll 24
    for (int t = 0; t < times; t++) places[t] = t * inputs;
#pragma GCC unroll 24
    for (int n = 0; n < times * side; n++) sums[n] = read_floats(bias + n % side * WIDTH, WIDTH);
    for (int64_t tap = 0; tap < conv->taps; tap++, x += conv->dilation * inputs)
        weight = add_inputs(x, places, inputs, weight, side, times, sums);
#pragma GCC unroll 24
    for (int n = 0; n < times * side; n++) to[n] = sums[n];
}

// Of each the compiler makes a version of its own: inputs, vectors of outputs, and for how many
// positions they are computed at once. Addresses that it knows cost nothing.
#define VERSIONS(VERSION)                                                                         \
    VERSION(16, 1, MOST_TIMES) VERSION(16, 2, MOST_TIMES / 2) VERSION(32, 2, MOST_TIMES / 2)      \
    VERSION(64, SIDE, TIMES)                                                                      \
    VERSION(128, SIDE, TIMES) VERSION(256, SIDE, TIMES) VERSION(512, SIDE, TIMES)                 \
    VERSION(1024, SIDE, TIMES)

static int64_t times_of(const Convolution *conv, int side) {
#define VERSION(inputs_, side_, times_)                                                           \
    if (conv->inputs == inputs_ && side == side_) return times_;
    VERSIONS(VERSION)
#undef VERSION
    return TIMES;
}

// taps_of for `count` positions or more, as many as are computed at once; others are nobody's.
static void some_taps(
    const Convolution *conv, const sample *x, const sample *weight, const float *bias, int side,
    int64_t count, floats *to
) {
#define RUN(inputs_, side_, times_)                                                               \
    do {                                                                                          \
        taps_of(conv, inputs_, x, weight, bias, side_, times_, to);                               \
        return;                                                                                   \
    } while (0)
#define VERSION(inputs_, side_, times_)                                                           \
    if (inputs == inputs_ && side == side_) RUN(inputs_, side_, times_);
    int64_t inputs = conv->inputs;
    if (side == SIDE && count < TIMES)
        switch (count) {
            case 1: RUN(inputs, SIDE, 1);
            case 2: RUN(inputs, SIDE, 2);
            case 3: RUN(inputs, SIDE, 3);
            case 4: RUN(inputs, SIDE, 4);
            default: RUN(inputs, SIDE, 5);
        }
    VERSIONS(VERSION)
    if (side == 1) RUN(inputs, 1, TIMES);
    if (side == 2) RUN(inputs, 2, TIMES);
    RUN(inputs, SIDE, TIMES);
#undef VERSION
#undef RUN
}

// The results at `count` positions, of `side` vectors of outputs, each of as many numbers.
static INLINE void finish_numbers(
    const Output *to, const floats *sums, int64_t row, int64_t position, int64_t count,
    int64_t output, int side, int64_t numbers
) {
    const Signal *active = to->active;
    int64_t place = position * to->width + output;
    sample *new = NULL;
    if (active) {
        int64_t begin = row * (active->known + active->room) + active->known;
        new = active->data + begin * active->channels;
    }
    for (int64_t t = 0; t < count; t++, place += to->width)
#pragma GCC unroll 4
        for (int s = 0; s < side; s++) {
            floats y = *sums++;
            int64_t i = place + s * WIDTH, at = row * to->row_size + i;
            if (to->residual) y += read_floats(to->residual + at, numbers);
            if (to->total) y += read_floats(to->total + at, numbers);
            if (to->kept) write_floats(to->kept + at, y, numbers);
            if (!new) continue;
            if (to->scale) y *= splat(to->scale);
            if (to->activation != NONE) y = to->activation == SILU ? silu(y) : gelu(y);
            write_samples(new + i, y);
        }
}

// Of the same the compiler makes a version for each number of vectors.
static void finish(
    const Output *to, const floats *sums, int64_t row, int64_t position, int64_t count,
    int64_t output, int side
) {
#define FINISH(side_, numbers)                                                                    \
    finish_numbers(to, sums, row, position, count, output, side_, numbers)
    if (to->width < WIDTH) FINISH(1, to->width);
    else if (side == 1) FINISH(1, WIDTH);
    else if (side == 2) FINISH(2, WIDTH);
    else FINISH(SIDE, WIDTH);
#undef FINISH
}

#ifdef HAS_AMX_BF16
#include "convolution_amx.h"
#endif

// The calling thread's share of a convolution, of inputs that begin at one of the new ones.
static void convolve(
    const Share *share, const Convolution *conv, const Signal *in, int64_t begin, int64_t count,
    const Output *to
) {
#ifdef HAS_AMX_BF16
    if (has_tiles) {
        convolve_tiles(share, conv, in, begin, count, to);
        return;
    }
#endif
    int64_t item = 0, all = 0, vectors = conv->outputs / WIDTH;
    for (int pass = 0; pass < 2; pass++) {
        int64_t mine = all * share->thread / share->threads;
        int64_t end = all * (share->thread + 1) / share->threads;
        for (int64_t v = 0; v < vectors;) {
            int side = SIDE;
            while (side > vectors - v) side /= 2;
            int64_t times = times_of(conv, side), output = v * WIDTH;
            v += side;
            if (!pass) {
                all += share->rows * ((count + times - 1) / times);
                continue;
            }
            const sample *weight = conv->weight + output * conv->taps * conv->inputs;
            for (int64_t row = 0; row < share->rows; row++) {
                int64_t start = row * (in->known + in->room) + in->known - reach(conv) + begin;
                const sample *x = in->data + start * in->channels;
                for (int64_t p = 0; p < count; p += times, item++) {
                    if (item < mine || item >= end) continue;
                    floats sums[MOST_TIMES];
                    int64_t size = at_most(count - p, times);
                    some_taps(conv, x + p * in->channels, weight, conv->bias + output, side, size, sums);
                    finish(to, sums, row, p, size, output, side);
                }
            }
        }
    }
}

static Signal inputs_of(const Convolution *conv, sample *data, int64_t room) {
    return (Signal){data, reach(conv), room, conv->inputs, conv->state};
}

static int64_t size_of(const Signal *signal) {
    return (signal->known + signal->room) * signal->channels;
}

// Puts what is known of each row's signal before what is new.
static void recall(const Share *share, const Signal *signal) {
    for (int64_t row = share->thread; row < share->rows; row += share->threads)
        memcpy(
            signal->data + row * size_of(signal), share->states[row] + signal->state,
            signal->known * signal->channels * sizeof(sample)
        );
}

// Keeps what will be needed once `count` new inputs have passed.
static void keep(const Share *share, const Signal *signal, int64_t count) {
    for (int64_t row = share->thread; row < share->rows; row += share->threads)
        memcpy(
            share->states[row] + signal->state,
            signal->data + row * size_of(signal) + count * signal->channels,
            signal->known * signal->channels * sizeof(sample)
        );
}

// Numbers [rows, all, channels] that are the signal's new inputs, of each row as many as `count`.
static void take_in(
    const Share *share, const float *from, int64_t all, int64_t count, const Signal *signal
) {
    int64_t channels = signal->channels;
    for (int64_t row = share->thread; row < share->rows; row += share->threads)
        for (int64_t i = 0; i < count * channels; i += WIDTH)
            write_samples(
                signal->data + row * size_of(signal) + signal->known * channels + i,
                read_floats(from + row * all * channels + i, WIDTH)
            );
}

static sample *take_signal(char **scratch, int64_t *size, int64_t numbers, int64_t channels) {
    int64_t bytes = (numbers + MOST_TIMES * channels) * sizeof(sample); // more are read than counts
    *size += bytes + 64;
    return *scratch ? take(scratch, bytes) : NULL;
}
