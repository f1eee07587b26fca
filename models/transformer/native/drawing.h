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

#ifndef HAS_WRITE_BETWEEN
// Writes those lanes that are at least `low` but below `limit`, one after another; up to `to` + WIDTH
// is written. Returns how many they are.
static INLINE int64_t write_between(float *to, floats x, floats low, floats limit) {
    int64_t count = 0;
    for (int i = 0; i < WIDTH; i++) {
        to[count] = x[i];
        count += x[i] >= low[i] && x[i] < limit[i];
    }
    return count;
}
#endif

// Puts those chances together that are at least `low` but below `limit`, and maybe some zeros behind
// them; returns how many there are. `to` [size + WIDTH] may be the chances themselves.
static int64_t chances_between(
    const float *chances, int64_t size, float low, float limit, float *to
) {
    int64_t count = 0;
    for (int64_t i = 0; i < size; i += WIDTH) {
        floats some = read_floats(chances + i, size - i);
        count += write_between(to + count, some, splat(low), splat(limit));
    }
    return smaller(count, size);
}

static float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

// The least of the chances that together stay within a share of them all; at most the largest, 1.
// Only those are looked at again of which it isn't known yet whether they stay.
//
// open: for its own use, [size + WIDTH].
static float least_kept(const float *chances, int64_t size, float share, float *open) {
    if (share >= 1) return 0;
    double all = mass_of(chances, size, 0), allowed = share * all, kept = 0;
    float least = all / size * (1 - share) / 2; // all below are less than what is left out
    uint32_t low, high = 0x3f800000;            // floats from 0 to 1 in their order, as integers
    memcpy(&low, &least, 4);
    int64_t count = chances_between(chances, size, least, INFINITY, open);
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        float limit = float_of(middle);
        double mass = kept + mass_of(open, count, limit);
        if (mass <= allowed) {
            high = middle;
            kept = mass;
            count = chances_between(open, count, 0, limit, open);
        } else {
            low = middle + 1;
            count = chances_between(open, count, limit, INFINITY, open);
        }
    }
    return float_of(high);
}

static int are_finite(const float *x, int64_t size) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < size; i++) sum += x[i];
    return isfinite(sum);
}

static int64_t draw_numbers(int64_t size) { return 2 * size + WIDTH; }

// The token of a row of logits, of which those of `seen` are meanwhile made less likely, each once.
// Inverse-CDF sampling with a uniform draw, the point, among the likeliest ones that together stay
// within top-p, or the likeliest.
//
// settings: temperature, top-p and penalty. Scratch: [draw_numbers(size)].
static int64_t draw_row(
    float *logits, int64_t size, const int64_t *seen, int64_t width, const float *settings,
    double point, float *restrict scratch
) {
    float kept[width], *restrict chances = scratch;
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
    float least = least_kept(chances, size, settings[1], chances + size);
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

static int64_t likeliest(const float *logits, int64_t size) {
    float largest = logits[0];
#pragma omp simd reduction(max : largest)
    for (int64_t i = 0; i < size; i++) largest = logits[i] > largest ? logits[i] : largest;
    int64_t first = 0;
    while (logits[first] != largest) first++;
    return first;
}

typedef struct {
    float *logits;
    const int64_t *window;
    const float *settings;
    const double *points;
    int64_t rows, size, width, *drawn;
    float *scratch;
    const float *const *leanings; // NULL, or what is added to each row's logits first, or NULL
    const char *settled;          // NULL, or whether each row's likeliest is taken
} Draw;

static void draw_task(void *data, int thread, int threads) {
    Draw *task = data;
    int64_t size = task->size, width = task->width;
    for (int64_t r = thread; r < task->rows; r += threads) {
        float *logits = task->logits + r * size;
        const float *leaning = task->leanings ? task->leanings[r] : NULL;
        if (leaning)
            for (int64_t i = 0; i < size; i++) logits[i] += leaning[i];
        task->drawn[r] = NO_TOKEN;
        if (!are_finite(logits, size)) continue;
        if (task->settled && task->settled[r]) task->drawn[r] = likeliest(logits, size);
        else
            task->drawn[r] = draw_row(
                logits, size, task->window + r * width, width, task->settings + 3 * r,
                task->points[r], task->scratch + thread * draw_numbers(size)
            );
    }
}

// A token for each row of logits [rows, size], or NO_TOKEN where they are not finite.
//
// window: [rows, width], tokens that the penalty makes less likely. settings: [rows, 3],
// temperature, top-p and penalty. points: [rows], from 0 to 1. Scratch: native_draw_scratch(size,
// threads) bytes.
void native_draw(
    float *logits, const int64_t *window, const float *settings, const double *points, int64_t rows,
    int64_t size, int64_t width, int64_t *drawn, char *scratch, int threads
) {
    Draw task = {logits, window, settings, points, rows, size, width, drawn, (float *)scratch};
    together(draw_task, &task, rows < threads ? rows : threads);
}

int64_t native_draw_scratch(int64_t size, int threads) { return threads * draw_numbers(size) * 4; }

typedef struct {
    Product product;
    Draw draw;
} Text;

static void text_task(void *data, int thread, int threads) {
    Text *task = data;
    product_task(&task->product, thread, threads);
    meet();
    draw_task(&task->draw, thread, threads);
}

// The text token of each row that follows hidden states [rows, dim], or NO_TOKEN where a logit is
// not finite: a norm, the head's product, and a draw.
//
// leanings: for each row NULL, or [vocab] that is added to its logits. settled: for each row whether
// its likeliest token is taken. Else as for native_draw. Scratch: 64-byte aligned,
// native_text_scratch(head, rows, threads) bytes.
void native_text(
    const Linear *head, const bf16 *hidden, const bf16 *norm, float eps, const float *const *leanings,
    const char *settled, const int64_t *window, const float *settings, const double *points,
    int64_t rows, int64_t width, int64_t *drawn, char *scratch, int threads
) {
    int64_t size = head->outputs;
    float *logits = take(&scratch, rows * size * sizeof(float));
    float *x = take(&scratch, rows * head->inputs * sizeof(float));
    float *normed = take(&scratch, rows * head->inputs * sizeof(float));
    float *chances = take(&scratch, native_draw_scratch(size, threads));
    Text task = {
        {head, x, norm, eps, logits, normed, take_inputs(&scratch, rows, head->inputs)},
        {logits, window, settings, points, rows, size, width, drawn, chances, leanings, settled},
    };
    widen(hidden, rows * head->inputs, x);
    together(text_task, &task, threads);
}

int64_t native_text_scratch(const Linear *head, int64_t rows, int threads) {
    return rows * (head->inputs + head->outputs) * 4 + native_draw_scratch(head->outputs, threads) +
           native_product_scratch(head, rows) + 3 * 64;
}
