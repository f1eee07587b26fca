// Attention of a few queries to keys and values in bfloat16.

// Turns adjacent pairs by their angles [size / 2, 2]: a cosine and a sine.
static void rotate(float *x, const float *angles, int64_t size) {
    for (int64_t i = 0; i < size; i += 2) {
        float a = x[i], b = x[i + 1], cosine = angles[i], sine = angles[i + 1];
        x[i] = a * cosine - b * sine;
        x[i + 1] = a * sine + b * cosine;
    }
}

// Numbers that an attention's scores take, of positions that are before its own.
static int64_t scores_of(int64_t longest) { return MOST_QUERIES * (longest + 16); }

enum { FETCHED = 64 }; // positions from what is read to what is fetched from memory

// Begins to fetch a position's keys or values.
static INLINE void fetch(const bf16 *x, int64_t size) {
    for (int64_t i = 0; i < size; i += LINE) __builtin_prefetch(x + i, 0, NEARNESS);
}

// Queries [count, size] that share keys and values [positions, size] -> y [count, size]; as many are
// computed as `queries`. Pairs of numbers are read as they lie, the first ones apart from the second.
//
// scores: [scores_of(positions - 1)].
static INLINE void attend_few(
    const float *q, const bf16 *keys, const bf16 *values, int queries, int count, int64_t positions,
    int64_t size, float *scores, float *y
) {
    int slots = queries == 1 ? 1 : queries <= FEW ? FEW : MOST_QUERIES; // scores of a position
    int beside = queries == 1 ? FEW : 1;                                // positions at once
    int64_t parts = (size / 2 + WIDTH - 1) / WIDTH;
    // The queries' halves; then those of what becomes of them.
    float apart[MOST_QUERIES][2][MAX_HEAD / 2], factor = 1 / sqrtf(size);
    for (int64_t p = 0; p < smaller(FETCHED, positions); p++) fetch(keys + p * size, size);
    for (int n = 0; n < queries; n++)
        for (int64_t i = 0; i < size / 2; i++)
            for (int half = 0; half < 2; half++)
                apart[n][half][i] = n < count ? q[n * size + 2 * i + half] : 0;

    quad largest[MOST_QUERIES / FEW];
    for (int n = 0; n < MOST_QUERIES / FEW; n++) largest[n] = (quad){0} - INFINITY;
    for (int64_t p = 0; p < positions; p += beside) {
        floats products[MOST_QUERIES] = {0};
#pragma GCC unroll 4
        for (int64_t next = p + FETCHED; next < p + FETCHED + beside; next++)
            if (next < positions) fetch(keys + next * size, size);
            else {
                int64_t place = smaller(next - FETCHED, next - positions); // the first: where few are
                fetch(values + smaller(place, positions - 1) * size, size);
            }
#pragma GCC unroll 4
        for (int j = 0; j < beside; j++)
#pragma GCC unroll 4
            for (int64_t k = 0; k < parts; k++) {
                int64_t place = smaller(p + j, positions - 1) * size + 2 * WIDTH * k;
                int64_t left = size / 2 - WIDTH * k;
                floats first, second;
                read_pairs(keys + place, left, &first, &second);
#pragma GCC unroll 8
                for (int n = 0; n < queries; n++) {
                    floats *sum = products + j + n;
                    *sum = fused(read_floats(apart[n][0] + WIDTH * k, left), first, *sum);
                    *sum = fused(read_floats(apart[n][1] + WIDTH * k, left), second, *sum);
                }
            }
#pragma GCC unroll 2
        for (int n = 0; n < slots * beside; n += FEW) {
            quad score = sums_of(products + n) * factor;
            largest[n / FEW] = larger_quad(largest[n / FEW], score);
            write_quad(scores + slots * p + n, score);
        }
    }
    int64_t all = slots * positions; // rounded up below
    for (; all % 16; all++) scores[all] = -INFINITY;
    float of_slot[MOST_QUERIES], most[16], sums[16] = {0}, total[MOST_QUERIES] = {0};
    for (int n = 0; n < MOST_QUERIES; n += FEW) write_quad(of_slot + n, largest[n / FEW]);
    for (int n = 1; n < FEW && slots == 1; n++) of_slot[0] = fmaxf(of_slot[0], of_slot[n]);
    for (int i = 0; i < 16; i++) most[i] = of_slot[i % slots];
    for (int64_t n = 0; n < all; n += 16)
#pragma omp simd
        for (int64_t i = 0; i < 16; i++) {
            scores[n + i] = exponential(scores[n + i] - most[i]);
            sums[i] += scores[n + i];
        }
    for (int i = 0; i < 16; i++) total[i % slots] += sums[i];

    for (int64_t k = 0; k < parts; k++) {
        int64_t left = size / 2 - WIDTH * k;
        floats means[MOST_QUERIES][2] = {0};
        for (int64_t p = 0; p < positions; p++) {
            floats first, second;
            if (!k) fetch(values + smaller(p + FETCHED, positions - 1) * size, size);
            read_pairs(values + p * size + 2 * WIDTH * k, left, &first, &second);
#pragma GCC unroll 8
            for (int n = 0; n < queries; n++) {
                floats score = splat(scores[slots * p + n]);
                means[n][0] = fused(score, first, means[n][0]);
                means[n][1] = fused(score, second, means[n][1]);
            }
        }
#pragma GCC unroll 8
        for (int n = 0; n < queries; n++)
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++)
                write_floats(apart[n][half] + WIDTH * k, means[n][half] / splat(total[n]), left);
    }
    for (int n = 0; n < count; n++)
        for (int64_t i = 0; i < size / 2; i++)
            for (int half = 0; half < 2; half++) y[n * size + 2 * i + half] = apart[n][half][i];
}

// The same of any number of queries. The compiler makes a version of its own for each of these.
static INLINE void attend_all(
    const float *q, const bf16 *keys, const bf16 *values, int64_t queries, int64_t positions,
    int64_t size, float *scores, float *y
) {
#define ATTEND(queries_, count)                                                                   \
    attend_few(q, keys, values, queries_, count, positions, size, scores, y)
    if (queries == 1) ATTEND(1, 1);
    else if (queries == 7) ATTEND(7, 7);
    else
        for (; queries > 0; queries -= FEW, q += FEW * size, y += FEW * size)
            ATTEND(FEW, smaller(queries, FEW));
#undef ATTEND
}

static void attend(
    const float *q, const bf16 *keys, const bf16 *values, int64_t queries, int64_t positions,
    int64_t size, float *scores, float *y
) {
    if (size == 64) attend_all(q, keys, values, queries, positions, 64, scores, y);
    else attend_all(q, keys, values, queries, positions, size, scores, y);
}
