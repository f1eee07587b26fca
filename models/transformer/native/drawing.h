// The draw of tokens from their logits.

enum {
    SPAN = 1024, // tokens whose chances are summed in float32
    NO_TOKEN = -1,
};

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

static int are_finite(const float *x, int64_t size) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < size; i++) sum += x[i];
    return isfinite(sum);
}

// The token of a row of logits, of which those of `seen` are meanwhile made less likely, each once.
// Inverse-CDF sampling with a uniform draw, the point, among the likeliest ones that together stay
// within top-p, or the likeliest.
//
// settings: temperature, top-p and penalty. Scratch: chances [size].
static int64_t draw_row(
    float *logits, int64_t size, const int64_t *seen, int64_t width, const float *settings,
    double point, float *restrict chances
) {
    float kept[width];
    for (int64_t w = 0; w < width; w++) {
        int64_t before = 0;
        kept[w] = logits[seen[w]];
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
    for (int64_t w = width; w--;) logits[seen[w]] = kept[w];

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
    for (int64_t r = thread; r < task->rows; r += threads) {
        float *logits = task->logits + r * size;
        task->drawn[r] = NO_TOKEN;
        if (are_finite(logits, size))
            task->drawn[r] = draw_row(
                logits, size, task->window + r * width, width, task->settings + 3 * r,
                task->points[r], task->chances + thread * size
            );
    }
}

// A token for each row of logits [rows, size], or NO_TOKEN where they are not finite.
//
// window: [rows, width], tokens that the penalty makes less likely. settings: [rows, 3],
// temperature, top-p and penalty. points: [rows], from 0 to 1. Scratch: 4 * size bytes for each thread.
void native_draw(
    float *logits, const int64_t *window, const float *settings, const double *points, int64_t rows,
    int64_t size, int64_t width, int64_t *drawn, char *scratch, int threads
) {
    Draw task = {logits, window, settings, points, rows, size, width, drawn, (float *)scratch};
    together(draw_task, &task, rows < threads ? rows : threads);
}
