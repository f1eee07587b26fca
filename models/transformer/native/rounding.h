// Rounding to 8 bits, and to 4: to the nearest steps; or so that a layer's outputs change little, where
// each weight's error is made up for by the weights that are rounded after it, as far as their inputs
// go together.

enum {
    TILES = 2,             // vectors of rows, whose sums do not wait for each other
    LANES = TILES * WIDTH, // rows that are rounded at once
    COLUMNS = 4,           // whose weights are made up for at once
    MOST_INPUTS = 256,     // that make up for each other
    NUM_WIDTHS = 3,        // of a group's range, that are tried for its 16 steps
};

typedef float Rows[LANES];

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

typedef struct {
    const float *weight;
    int64_t rows, inputs, block;
    const float *factors;
    uint8_t *steps;
    float *scales;
} Correction;

static INLINE float nearest_bf16(float x) { return to_float(to_bf16(x)); }

static INLINE floats nearest_step(floats x, floats lowest, floats steps_per) {
    const floats whole = splat(12582912); // floats of this size have no fractions
    floats at = minimum(maximum((x - lowest) * steps_per, splat(0)), splat(15));
    return (at + whole) - whole;
}

// The step of a group's WIDTH rows, and what the 8th means. Its range is made narrower as long as
// that helps; both are fitted to what the group is then rounded to, by the least squared error of
// which each input has a share.
static INLINE void fit_group(Rows *x, const float *share, float *step, float *middle) {
    floats low = read_floats(x[0], WIDTH), high = low, sums[5] = {0};
    float shares = 0, y[WIDTH], yy[WIDTH], q[WIDTH], qq[WIDTH], yq[WIDTH], least[WIDTH];
    float centre[WIDTH], tried[WIDTH];
    for (int64_t i = 1; i < GROUP; i++) {
        low = minimum(low, read_floats(x[i], WIDTH));
        high = maximum(high, read_floats(x[i], WIDTH));
    }
    floats range = maximum(high - low, splat(1e-8f)), half = splat(0.5f) * (low + high);
    for (int64_t i = 0; i < GROUP; i++) {
        floats from = read_floats(x[i], WIDTH) - half, part = from * splat(share[i]);
        sums[0] += part;
        sums[1] = fused(part, from, sums[1]);
        shares += share[i];
    }
    write_floats(y, sums[0], WIDTH);
    write_floats(yy, sums[1], WIDTH);
    write_floats(centre, half, WIDTH);
    for (int64_t n = 0; n < WIDTH; n++) least[n] = INFINITY;
    for (int64_t width = 0; width < NUM_WIDTHS; width++) {
        floats size = range * splat((1 - 0.15f * width) / 15), per = splat(1) / size;
        floats lowest = half - size * splat(7.5f);
        sums[2] = sums[3] = sums[4] = splat(0);
        for (int64_t i = 0; i < GROUP; i++) {
            floats from = read_floats(x[i], WIDTH);
            floats at = nearest_step(from, lowest, per) - splat(7.5f);
            floats part = at * splat(share[i]);
            sums[2] += part;
            sums[3] = fused(part, at, sums[3]);
            sums[4] = fused(part, from - half, sums[4]);
        }
        write_floats(q, sums[2], WIDTH);
        write_floats(qq, sums[3], WIDTH);
        write_floats(yq, sums[4], WIDTH);
        write_floats(tried, size, WIDTH);
        for (int64_t n = 0; n < WIDTH; n++) {
            float spread = shares * qq[n] - q[n] * q[n];
            float s = (shares * yq[n] - q[n] * y[n]) / spread;
            int is_fitted = spread > 1e-6f * shares * qq[n] && s > 1e-9f;
            s = is_fitted ? s : tried[n];
            float m = is_fitted ? (y[n] - s * q[n]) / shares : 0;
            float error = yy[n] - 2 * (s * yq[n] + m * y[n]) +
                          s * s * qq[n] + 2 * s * m * q[n] + m * m * shares;
            if (error >= least[n]) continue;
            least[n] = error;
            step[n] = nearest_bf16(s);
            middle[n] = nearest_bf16(centre[n] + m + s / 2);
        }
    }
}

// Adds to the weights of COLUMNS columns what the errors of `count` others ask of them. factors: of
// the columns, and of the first of the others; inverse: of the columns' own.
static INLINE void make_up(
    Rows *x, Rows *errors, const float *factors, const float *inverse, int64_t size,
    int64_t count
) {
    floats sums[COLUMNS][TILES];
#pragma GCC unroll 4
    for (int64_t k = 0; k < COLUMNS; k++)
#pragma GCC unroll 2
        for (int64_t t = 0; t < TILES; t++) sums[k][t] = splat(0);
    for (int64_t i = 0; i < count; i++)
#pragma GCC unroll 4
        for (int64_t k = 0; k < COLUMNS; k++)
#pragma GCC unroll 2
            for (int64_t t = 0; t < TILES; t++)
                sums[k][t] = fused(
                    read_floats(errors[i] + t * WIDTH, WIDTH), splat(factors[k * size + i]),
                    sums[k][t]
                );
#pragma GCC unroll 4
    for (int64_t k = 0; k < COLUMNS; k++)
#pragma GCC unroll 2
        for (int64_t t = 0; t < TILES; t++) {
            float *to = x[k] + t * WIDTH;
            floats made_up = fused(sums[k][t], splat(inverse[k]), read_floats(to, WIDTH));
            write_floats(to, made_up, WIDTH);
        }
}

typedef struct {
    Rows weight[GROUP], x[GROUP]; // as they were; what they are rounded for
    Rows step, middle;
    Rows lowest, steps_per; // of the first step; by how much there is one
    int8_t steps[GROUP][LANES];
} Group;

// Rounds COLUMNS columns of a group, the last first. errors, factors: of the first of them.
static INLINE void round_columns(
    Group *group, int64_t first, Rows *errors, const float *factors, const float *inverse,
    int64_t size
) {
#pragma GCC unroll 4
    for (int64_t k = COLUMNS - 1; k >= 0; k--)
#pragma GCC unroll 2
        for (int64_t t = 0; t < TILES; t++) {
            int64_t at = t * WIDTH;
            floats sum = splat(0), step = read_floats(group->step + at, WIDTH);
            floats lowest = read_floats(group->lowest + at, WIDTH);
#pragma GCC unroll 4
            for (int64_t i = k + 1; i < COLUMNS; i++)
                sum = fused(
                    read_floats(errors[i] + at, WIDTH), splat(factors[k * size + i]), sum
                );
            floats x = fused(
                sum, splat(inverse[k]), read_floats(group->x[first + k] + at, WIDTH)
            );
            floats to = nearest_step(x, lowest, read_floats(group->steps_per + at, WIDTH));
            floats error = read_floats(group->weight[first + k] + at, WIDTH) - lowest - to * step;
            write_floats(errors[k] + at, error, WIDTH);
            write_bytes(group->steps[first + k] + at, rounded(to));
        }
}

// A group's weights of `count` rows, [count, inputs] -> [GROUP, LANES]. Those that are read next,
// which stand before them, are fetched meanwhile.
static INLINE void read_group(const float *weight, int64_t inputs, int64_t count, Rows *to) {
    for (int64_t n = 0; n < count; n++, weight += inputs)
        for (int64_t first = 0; first < GROUP; first += 16) {
            __builtin_prefetch(weight + first - GROUP);
#pragma GCC unroll 16
            for (int64_t j = first; j < first + 16; j++) to[j][n] = weight[j];
        }
}

static INLINE void write_group(
    const Group *group, int64_t count, int64_t inputs, uint8_t *to, float *scales
) {
    uint8_t pairs[GROUP / 2][LANES];
    for (int64_t j = 0; j < GROUP / 2; j++)
        for (int64_t n = 0; n < LANES; n++)
            pairs[j][n] = group->steps[2 * j][n] << 4 | group->steps[2 * j + 1][n];
    for (int64_t n = 0; n < count; n++, to += inputs / 2, scales += 2 * (inputs / GROUP)) {
        uint8_t row[GROUP / 2];
        for (int64_t j = 0; j < GROUP / 2; j++) row[j] = pairs[j][n];
        memcpy(to, row, sizeof(row));
        scales[0] = group->step[n];
        scales[1] = group->middle[n];
    }
}

static void correct_rows(const Correction *task, int64_t row, int64_t count) {
    Group group __attribute__((aligned(64)));
    Rows errors[MOST_INPUTS] __attribute__((aligned(64)));
    const float *factors = task->factors;
    memset(&group, 0, sizeof(group));
    for (int64_t start = 0, size; start < task->inputs; start += size) {
        int64_t left = task->inputs - start;
        size = left < task->block ? left : task->block;
        float inverse[MOST_INPUTS], share[MOST_INPUTS];
        for (int64_t i = 0; i < size; i++) {
            float own = factors[i * size + i];
            inverse[i] = 1 / own;
            share[i] = own * own;
        }
        for (int64_t begin = size - GROUP; begin >= 0; begin -= GROUP) {
            int64_t end = begin + GROUP, at = row * task->inputs + start + begin;
            read_group(task->weight + at, task->inputs, count, group.weight);
            memcpy(group.x, group.weight, sizeof(group.x));
            for (int64_t j = 0; j < GROUP; j += COLUMNS)
                make_up(
                    group.x + j, errors + end, factors + (begin + j) * size + end,
                    inverse + begin + j, size, size - end
                );
            for (int64_t t = 0; t < LANES; t += WIDTH) // the rows from t on
                fit_group(
                    (Rows *)(group.x[0] + t), share + begin, group.step + t, group.middle + t
                );
            for (int64_t t = 0; t < LANES; t += WIDTH) {
                floats step = read_floats(group.step + t, WIDTH);
                floats middle = read_floats(group.middle + t, WIDTH);
                write_floats(group.lowest + t, fused(step, splat(-8), middle), WIDTH);
                write_floats(group.steps_per + t, splat(1) / step, WIDTH);
            }
            for (int64_t j = GROUP - COLUMNS; j >= 0; j -= COLUMNS) {
                int64_t first = begin + j, next = first + COLUMNS;
                make_up(
                    group.x + j, errors + next, factors + first * size + next, inverse + first,
                    size, end - next
                );
                round_columns(
                    &group, j, errors + first, factors + first * size + first, inverse + first, size
                );
            }
            write_group(
                &group, count, task->inputs, task->steps + at / 2, task->scales + at / GROUP * 2
            );
        }
        factors += size * size;
    }
}

static void correct_task(void *data, int thread, int threads) {
    Correction *task = data;
    for (int64_t row = LANES * thread; row < task->rows; row += LANES * threads) {
        int64_t left = task->rows - row;
        correct_rows(task, row, left < LANES ? left : LANES);
    }
}

// As native_quantise to 4 bits, but weights make up for each other's errors.
//
// block: inputs that do so, at most MOST_INPUTS, in multiples of GROUP. factors: of each block of
// inputs in turn an upper triangular U [size, size], where the transposed U times U is how its
// inputs go together.
void native_correct(
    const float *weight, int64_t rows, int64_t inputs, int64_t block, const float *factors,
    uint8_t *steps, float *scales, int threads
) {
    Correction task = {weight, rows, inputs, block, factors, steps, scales};
    together(correct_task, &task, threads);
}
