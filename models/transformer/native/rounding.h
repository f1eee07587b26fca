// Rounding to 4 bits so that a layer's outputs change little: each weight's error is made up for by
// the weights after it, as far as their inputs go together.

enum {
    LANES = 16,        // rows that are rounded at once
    COLUMNS = 4,       // whose weights are made up for at once
    MOST_INPUTS = 256, // that make up for each other
    NUM_WIDTHS = 3,    // of a group's range, that are tried for its 16 steps
};

typedef float Lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

typedef struct {
    const float *weight;
    int64_t rows, inputs, block;
    const float *factors, *inverse;
    uint8_t *steps;
    float *scales;
} Correction;

static INLINE float nearest_bf16(float x) { return to_float(to_bf16(x)); }

// The nearest of 16 steps, from 0 on; steps_per is 1 / the step.
static INLINE float step_of(float x, float steps_per, float middle) {
    float at = rintf((x - middle) * steps_per + 8);
    at = at < 0 ? 0 : at;
    return at > 15 ? 15 : at;
}

// Steps and what the 8th means, fitted to what a group is rounded to, by the least squared error of
// which each input's share is 1 / U[j][j]^2.
static void fit_steps(float (*x)[LANES], const float *inverse, float *step, float *middle) {
    float per[LANES], q[LANES] = {0}, qq[LANES] = {0}, y[LANES] = {0}, yq[LANES] = {0}, shares = 0;
    for (int64_t n = 0; n < LANES; n++) per[n] = 1 / step[n];
    for (int64_t i = 0; i < GROUP; i++) {
        float share = inverse[i] * inverse[i];
        shares += share;
#pragma omp simd
        for (int64_t n = 0; n < LANES; n++) {
            float at = step_of(x[i][n], per[n], middle[n]) - 8;
            q[n] += share * at;
            qq[n] += share * at * at;
            y[n] += share * x[i][n];
            yq[n] += share * x[i][n] * at;
        }
    }
    for (int64_t n = 0; n < LANES; n++) {
        float spread = shares * qq[n] - q[n] * q[n];
        float fitted = (shares * yq[n] - q[n] * y[n]) / spread;
        if (spread > 1e-6f * shares * qq[n] && fitted > 1e-9f) {
            step[n] = fitted;
            middle[n] = (y[n] - fitted * q[n]) / shares;
        }
        step[n] = nearest_bf16(step[n]);
        middle[n] = nearest_bf16(middle[n]);
    }
}

// The step of a group and what its 8th means: its range is made narrower as long as that helps.
static void fit_group(float (*x)[LANES], const float *inverse, float *step, float *middle) {
    float low[LANES], high[LANES], least[LANES];
    for (int64_t n = 0; n < LANES; n++) {
        low[n] = high[n] = x[0][n];
        least[n] = INFINITY;
    }
    for (int64_t i = 1; i < GROUP; i++) {
#pragma omp simd
        for (int64_t n = 0; n < LANES; n++) {
            low[n] = x[i][n] < low[n] ? x[i][n] : low[n];
            high[n] = x[i][n] > high[n] ? x[i][n] : high[n];
        }
    }
    for (int64_t width = 0; width < NUM_WIDTHS; width++) {
        float s[LANES], m[LANES], per[LANES], error[LANES] = {0};
        for (int64_t n = 0; n < LANES; n++) {
            s[n] = (1 - 0.15f * width) * fmaxf(high[n] - low[n], 1e-8f) / 15;
            m[n] = (low[n] + high[n]) / 2 + s[n] / 2;
        }
        fit_steps(x, inverse, s, m);
        for (int64_t n = 0; n < LANES; n++) per[n] = 1 / s[n];
        for (int64_t i = 0; i < GROUP; i++) {
#pragma omp simd
            for (int64_t n = 0; n < LANES; n++) {
                float at = step_of(x[i][n], per[n], m[n]) - 8;
                float fault = (m[n] + at * s[n] - x[i][n]) * inverse[i];
                error[n] += fault * fault;
            }
        }
        for (int64_t n = 0; n < LANES; n++) {
            if (error[n] >= least[n]) continue;
            least[n] = error[n];
            step[n] = s[n];
            middle[n] = m[n];
        }
    }
}

// Takes from the weights of a few columns what the first `count` faults ask of them.
static INLINE void make_up(
    float (*x)[LANES], float (*faults)[LANES], const float *factors, int64_t size, int64_t count
) {
    Lanes sums[COLUMNS] = {0};
    for (int64_t i = 0; i < count; i++) {
        Lanes fault = *(const Lanes *)faults[i];
        for (int64_t k = 0; k < COLUMNS; k++) sums[k] += fault * factors[k * size + i];
    }
    for (int64_t k = 0; k < COLUMNS; k++) *(Lanes *)x[k] -= sums[k];
}

// The same for one column, in independent sums.
static INLINE void make_up_one(
    float *x, float (*faults)[LANES], const float *factors, int64_t count
) {
    Lanes sums[COLUMNS] = {0};
    int64_t i = 0;
    for (; i + COLUMNS <= count; i += COLUMNS) {
        for (int64_t k = 0; k < COLUMNS; k++)
            sums[k] += *(const Lanes *)faults[i + k] * factors[i + k];
    }
    for (; i < count; i++) sums[0] += *(const Lanes *)faults[i] * factors[i];
    *(Lanes *)x -= (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

static void correct_rows(const Correction *task, int64_t row, int64_t count) {
    float x[GROUP][LANES] = {0}, faults[MOST_INPUTS][LANES], step[LANES], middle[LANES], per[LANES];
    uint8_t q[GROUP][LANES];
    const float *factors = task->factors;
    for (int64_t first = 0, size; first < task->inputs; first += size) {
        int64_t left = task->inputs - first;
        size = left < task->block ? left : task->block;
        for (int64_t begin = 0; begin < size; begin += GROUP) {
            int64_t at = row * task->inputs + first + begin;
            const float *inverse = task->inverse + first + begin;
            for (int64_t n = 0; n < count; n++) {
                const float *from = task->weight + at + n * task->inputs;
                for (int64_t j = 0; j < GROUP; j++) x[j][n] = from[j];
            }
            for (int64_t j = 0; j < GROUP; j += COLUMNS)
                make_up(x + j, faults, factors + (begin + j) * size, size, begin);
            fit_group(x, inverse, step, middle);
            for (int64_t n = 0; n < LANES; n++) per[n] = 1 / step[n];
            for (int64_t j = 0; j < GROUP; j++) {
                make_up_one(x[j], faults + begin, factors + (begin + j) * size + begin, j);
#pragma omp simd
                for (int64_t n = 0; n < LANES; n++) {
                    float to = step_of(x[j][n], per[n], middle[n]);
                    faults[begin + j][n] = (x[j][n] - middle[n] - (to - 8) * step[n]) * inverse[j];
                    q[j][n] = (uint8_t)to;
                }
            }
            for (int64_t n = 0; n < count; n++, at += task->inputs) {
                for (int64_t j = 0; j < GROUP; j += 2)
                    task->steps[(at + j) / 2] = q[j][n] << 4 | q[j + 1][n];
                task->scales[at / GROUP * 2] = step[n];
                task->scales[at / GROUP * 2 + 1] = middle[n];
            }
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
// inputs in turn the transposed of an upper triangular U [size, size], where the transposed U times
// U is the inverse of how its inputs go together. inverse: [inputs], 1 / U[j][j].
void native_correct(
    const float *weight, int64_t rows, int64_t inputs, int64_t block, const float *factors,
    const float *inverse, uint8_t *steps, float *scales, int threads
) {
    Correction task = {weight, rows, inputs, block, factors, inverse, steps, scales};
    together(correct_task, &task, threads);
}
