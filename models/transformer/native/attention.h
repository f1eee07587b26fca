// Attention of a few queries to keys and values in bfloat16.

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
