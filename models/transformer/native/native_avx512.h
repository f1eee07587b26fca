// What native.c needs of AVX-512 VNNI; native_avx2.h and native_neon.h offer the same.

#include <immintrin.h>

#define ISA "avx512"

#if defined(__AMX_INT8__) && defined(__linux__) && !defined(WITHOUT_AMX)
#define HAS_AMX 1
#endif

enum {
    WIDTH = 16,              // numbers in a vector
    VECTORS = PANEL / WIDTH, // of a panel
    OFFSET = 128,            // is added to weights of 8 bits
    ROWS = 8,                // that are computed at once where there are so many
    BESIDE = 2,              // panels at once, from SHARING rows on, or with tiles
#if defined(__AMX_INT8__) || defined(__AVX512FP16__) // Intel's, whose tiles a machine may hide
    AHEAD = 16384, // bytes from what is read to what is fetched from memory,
    NEARNESS = 2,  // to a core's second cache: its first one waits for few bytes at once
#else
    AHEAD = 4096,
    NEARNESS = 3,
#endif
};

typedef __m512 floats;
typedef __m128 quad;
typedef int32_t ints __attribute__((vector_size(64)));
typedef __m512i bytes;

// The first of `left` lanes of 16.
static INLINE __mmask16 lanes(int64_t left) {
    return left >= 16 ? 0xffff : left > 0 ? (1 << left) - 1 : 0;
}

static INLINE floats splat(float x) { return _mm512_set1_ps(x); }

static INLINE floats magnitude(floats x) { return _mm512_abs_ps(x); }

// The larger of two magnitudes. Their bits have the same order, in which NaN is the largest.
static INLINE floats larger(floats a, floats b) {
    return _mm512_castsi512_ps(_mm512_max_epu32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
}

static INLINE floats minimum(floats a, floats b) { return _mm512_min_ps(a, b); }

static INLINE floats maximum(floats a, floats b) { return _mm512_max_ps(a, b); }

static INLINE quad larger_quad(quad a, quad b) { return _mm_max_ps(a, b); }

// a * b + c
static INLINE floats fused(floats a, floats b, floats c) { return _mm512_fmadd_ps(a, b, c); }

// The sum and the part, as far as it is no less than the limit.
static INLINE floats add_if_at_least(floats sum, floats part, floats limit) {
    __mmask16 kept = _mm512_cmp_ps_mask(part, limit, _CMP_GE_OQ);
    return _mm512_mask_add_ps(sum, kept, sum, part);
}

#define HAS_WRITE_BETWEEN 1

// Writes those lanes that are at least `low` but below `limit`, one after another; up to `to` + WIDTH
// is written. Returns how many they are.
static INLINE int64_t write_between(float *to, floats x, floats low, floats limit) {
    __mmask16 kept = _mm512_cmp_ps_mask(x, low, _CMP_GE_OQ) & _mm512_cmp_ps_mask(x, limit, _CMP_LT_OQ);
    _mm512_storeu_ps(to, _mm512_maskz_compress_ps(kept, x));
    return __builtin_popcount(kept);
}

// A vector of numbers, as far as they are among the first `left`; else 0.
static INLINE floats read_floats(const float *x, int64_t left) {
    return _mm512_maskz_loadu_ps(lanes(left), x);
}

static INLINE floats read_bf16(const bf16 *x, int64_t left) {
    __m512i bits = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes(left), x));
    return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}

static INLINE void write_floats(float *to, floats x, int64_t left) {
    _mm512_mask_storeu_ps(to, lanes(left), x);
}

static INLINE void write_quad(float *to, quad x) { _mm_storeu_ps(to, x); }

// Pairs of bf16, the first of each apart from the second.
static INLINE void read_pairs(const bf16 *x, int64_t left, floats *first, floats *second) {
    __m512i pairs = _mm512_maskz_loadu_epi32(lanes(left), x);
    *first = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
    *second = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(0xffff0000)));
}

static INLINE ints rounded(floats x) { return (ints)_mm512_cvtps_epi32(x); }

static INLINE void write_bytes(int8_t *to, ints x) {
    _mm_store_si128((__m128i *)to, _mm512_cvtepi32_epi8((__m512i)x));
}

static INLINE float largest_lane(floats x) {
    uint32_t bits = _mm512_reduce_max_epu32(_mm512_castps_si512(x));
    float largest;
    memcpy(&largest, &bits, 4);
    return largest;
}

static INLINE float sum_lanes(floats x) { return _mm512_reduce_add_ps(x); }

static INLINE int32_t sum_ints(ints x) { return _mm512_reduce_add_epi32((__m512i)x); }

// The sums of four vectors.
static INLINE quad sums_of(const floats x[4]) {
    __m512 a = _mm512_add_ps(_mm512_unpacklo_ps(x[0], x[1]), _mm512_unpackhi_ps(x[0], x[1]));
    __m512 b = _mm512_add_ps(_mm512_unpacklo_ps(x[2], x[3]), _mm512_unpackhi_ps(x[2], x[3]));
    __m512d c = _mm512_castps_pd(a), d = _mm512_castps_pd(b);
    __m512 quarters = _mm512_add_ps(
        _mm512_castpd_ps(_mm512_unpacklo_pd(c, d)), _mm512_castpd_ps(_mm512_unpackhi_pd(c, d))
    );
    __m256 halves = _mm256_add_ps(
        _mm512_castps512_ps256(quarters), _mm512_extractf32x8_ps(quarters, 1)
    );
    return _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1));
}

// A group's bytes, the even ones first.
static INLINE void split_pairs(const int8_t *bytes, int8_t *to) {
    __m512i both = _mm512_load_si512(bytes);
    _mm256_store_si256((__m256i *)to, _mm512_cvtepi16_epi8(both));
    _mm256_store_si256((__m256i *)(to + 32), _mm512_cvtepi16_epi8(_mm512_srli_epi16(both, 8)));
}

static INLINE ints splat_int(int32_t x) { return (ints)_mm512_set1_epi32(x); }

static INLINE floats to_floats(ints x) { return _mm512_cvtepi32_ps((__m512i)x); }

// 4 bytes in all lanes.
static INLINE bytes splat_bytes(const int8_t *x) {
    int32_t four;
    memcpy(&four, x, 4);
    return _mm512_set1_epi32(four);
}

// Weights of 8 bits, whose OFFSET is added: -128..127 becomes 0..255.
static INLINE bytes read_signed(const uint8_t *x) {
    return _mm512_xor_si512(_mm512_loadu_si512(x), _mm512_set1_epi8((char)128));
}

// Adds in each lane the products of its 4 weights with as many inputs.
static INLINE ints add_signed(ints sum, bytes weights, bytes inputs) {
    return (ints)_mm512_dpbusd_epi32((__m512i)sum, weights, inputs);
}

#define HAS_ADD_SIGNED_AT 1

// The same with inputs from memory, in one instruction, of which gcc makes two.
static INLINE ints add_signed_at(ints sum, bytes weights, const int8_t *inputs) {
    typedef int8_t Four[4];
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(weights), "m"(*(const Four *)inputs));
    return sum;
}

// Weights of 4 bits, the upper halves of bytes apart from the lower ones.
static INLINE void read_halves(const uint8_t *x, bytes *upper, bytes *lower) {
    const __m512i half = _mm512_set1_epi8(15);
    __m512i both = _mm512_loadu_si512(x);
    *upper = _mm512_and_si512(_mm512_srli_epi16(both, 4), half);
    *lower = _mm512_and_si512(both, half);
}

enum { SIDE = 4, TIMES = 6 }; // see convolution.h

#if defined(HAS_AMX) && defined(__AMX_BF16__) && defined(__AVX512BF16__)
#define HAS_AMX_BF16 1
#endif

// A codec's decoder computes in bf16 where that is faster: with tiles, and on AMD's processors. Intel's
// do four float32 products in the time of one of bf16 pairs.
#if defined(HAS_AMX_BF16) || (defined(__AVX512BF16__) && !defined(__AVX512FP16__))

#define HAS_BF16_SIGNALS 1

typedef bf16 sample;      // of a signal
typedef __m512bh factors; // pairs of bf16, whose products are added up

enum { ADDED = 2 }; // inputs whose products are added up at once

static INLINE factors read_weights(const sample *x) { return (factors)_mm512_loadu_si512(x); }

// The next inputs, in all lanes.
static INLINE factors splat_inputs(const sample *x) {
    int32_t bits;
    memcpy(&bits, x, 4);
    return (factors)_mm512_set1_epi32(bits);
}

static INLINE floats add_products(floats sum, factors a, factors b) {
    return _mm512_dpbf16_ps(sum, a, b);
}

static INLINE floats read_samples(const sample *x) { return read_bf16(x, WIDTH); }

static INLINE void write_samples(sample *to, floats x) {
    _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(x));
}

#endif

static INLINE floats power_of_two(floats x) {
    floats r = _mm512_reduce_ps(x, 9); // what is above the whole number below
    floats y = splat(0.01342655f);
    y = fused(y, r, splat(0.05224090f));
    y = fused(y, r, splat(0.24128269f));
    y = fused(y, r, splat(0.69304401f));
    y = fused(y, r, splat(1));
    return _mm512_scalef_ps(y, x);
}

#define HAS_ACTIVATIONS 1

// The next two are right to four digits, which is more than bf16 has and anybody hears.

// x / (1 + e^-x)
static INLINE floats silu(floats x) {
    return x * _mm512_rcp14_ps(splat(1) + power_of_two(x * splat(-1.44269504f)));
}

// x times the normal distribution, in the form of Abramowitz and Stegun, 7.1.26.
static INLINE floats gelu(floats x) {
    floats z = magnitude(x) * splat(0.707106781f);
    floats t = splat(1) / fused(z, splat(0.3275911f), splat(1));
    floats y = fused(t, splat(1.061405429f), splat(-1.453152027f));
    y = fused(y, t, splat(1.421413741f));
    y = fused(y, t, splat(-0.284496736f));
    y = fused(y, t, splat(0.254829592f));
    floats tail = y * t * power_of_two(z * z * splat(-1.44269504f)) * splat(0.5f);
    __mmask16 positive = _mm512_cmp_ps_mask(x, splat(0), _CMP_GE_OQ);
    return x * _mm512_mask_sub_ps(tail, positive, splat(1), tail);
}
