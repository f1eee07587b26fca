// What native.c needs of AVX2, FMA and, where the processor has it, AVX-VNNI; see native_avx512.h.

#include <immintrin.h>

#define ISA "avx2"

typedef __m256 floats;
typedef __m128 quad;
typedef int32_t ints __attribute__((vector_size(32)));
typedef __m256i bytes;

#if defined(__AVXVNNI__)
#define DPBUSD _mm256_dpbusd_avx_epi32
#elif defined(__AVX512VNNI__) && defined(__AVX512VL__)
#define DPBUSD _mm256_dpbusd_epi32
#endif

enum {
    WIDTH = 8,
    VECTORS = PANEL / WIDTH,
#ifdef DPBUSD
    OFFSET = 128,
#else
    OFFSET = 0,
#endif
    ROWS = 4,
    BESIDE = 1,
    AHEAD = 4096,
    NEARNESS = 3,
};

static INLINE floats splat(float x) { return _mm256_set1_ps(x); }

static INLINE floats magnitude(floats x) { return _mm256_andnot_ps(splat(-0.0f), x); }

static INLINE floats larger(floats a, floats b) {
    return _mm256_castsi256_ps(_mm256_max_epu32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
}

static INLINE floats minimum(floats a, floats b) { return _mm256_min_ps(a, b); }

static INLINE floats maximum(floats a, floats b) { return _mm256_max_ps(a, b); }

static INLINE quad larger_quad(quad a, quad b) { return _mm_max_ps(a, b); }

static INLINE floats fused(floats a, floats b, floats c) { return _mm256_fmadd_ps(a, b, c); }

static INLINE floats add_if_at_least(floats sum, floats part, floats limit) {
    return sum + _mm256_and_ps(part, _mm256_cmp_ps(part, limit, _CMP_GE_OQ));
}

// The first of `left` lanes of 8.
static INLINE __m256i lanes(int64_t left) {
    __m256i number = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(left < WIDTH ? left : WIDTH), number);
}

static INLINE floats read_floats(const float *x, int64_t left) {
    return left >= WIDTH ? _mm256_loadu_ps(x) : _mm256_maskload_ps(x, lanes(left));
}

static INLINE floats read_bf16(const bf16 *x, int64_t left) {
    bf16 some[WIDTH] = {0};
    if (left < WIDTH) x = memcpy(some, x, left * sizeof(bf16));
    __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)x));
    return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16));
}

static INLINE void write_floats(float *to, floats x, int64_t left) {
    if (left >= WIDTH) _mm256_storeu_ps(to, x);
    else _mm256_maskstore_ps(to, lanes(left), x);
}

static INLINE void write_quad(float *to, quad x) { _mm_storeu_ps(to, x); }

static INLINE void read_pairs(const bf16 *x, int64_t left, floats *first, floats *second) {
    __m256i pairs = _mm256_castps_si256(read_floats((const float *)x, left));
    *first = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
    *second = _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(0xffff0000)));
}

static INLINE ints rounded(floats x) { return (ints)_mm256_cvtps_epi32(x); }

static INLINE void write_bytes(int8_t *to, ints x) {
    __m128i low = _mm256_castsi256_si128((__m256i)x), high = _mm256_extracti128_si256((__m256i)x, 1);
    __m128i words = _mm_packs_epi32(low, high);
    _mm_storel_epi64((__m128i *)to, _mm_packs_epi16(words, words));
}

static INLINE float largest_lane(floats x) {
    __m256i bits = _mm256_castps_si256(x);
    __m128i four = _mm_max_epu32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
    __m128i two = _mm_max_epu32(four, _mm_shuffle_epi32(four, _MM_SHUFFLE(1, 0, 3, 2)));
    __m128i one = _mm_max_epu32(two, _mm_shuffle_epi32(two, _MM_SHUFFLE(2, 3, 0, 1)));
    return _mm_cvtss_f32(_mm_castsi128_ps(one));
}

static INLINE float sum_lanes(floats x) {
    __m128 four = _mm256_castps256_ps128(x) + _mm256_extractf128_ps(x, 1);
    __m128 two = four + _mm_movehl_ps(four, four);
    return _mm_cvtss_f32(two + _mm_movehdup_ps(two));
}

static INLINE int32_t sum_ints(ints x) {
    int32_t sum = 0;
    for (int i = 0; i < WIDTH; i++) sum += x[i];
    return sum;
}

static INLINE quad sums_of(const floats x[4]) {
    __m256 halves = _mm256_hadd_ps(_mm256_hadd_ps(x[0], x[1]), _mm256_hadd_ps(x[2], x[3]));
    return _mm256_castps256_ps128(halves) + _mm256_extractf128_ps(halves, 1);
}

static INLINE void split_pairs(const int8_t *bytes, int8_t *to) {
    const __m256i low = _mm256_set1_epi16(255);
    __m256i a = _mm256_load_si256((const __m256i *)bytes);
    __m256i b = _mm256_load_si256((const __m256i *)(bytes + 32));
    __m256i even = _mm256_packus_epi16(_mm256_and_si256(a, low), _mm256_and_si256(b, low));
    __m256i odd = _mm256_packus_epi16(_mm256_srli_epi16(a, 8), _mm256_srli_epi16(b, 8));
    // Packing has put quarters of a and b in turn.
    _mm256_store_si256((__m256i *)to, _mm256_permute4x64_epi64(even, 0xd8));
    _mm256_store_si256((__m256i *)(to + 32), _mm256_permute4x64_epi64(odd, 0xd8));
}

static INLINE ints splat_int(int32_t x) { return (ints)_mm256_set1_epi32(x); }

static INLINE floats to_floats(ints x) { return _mm256_cvtepi32_ps((__m256i)x); }

static INLINE bytes splat_bytes(const int8_t *x) {
    int32_t four;
    memcpy(&four, x, 4);
    return _mm256_set1_epi32(four);
}

static INLINE void read_halves(const uint8_t *x, bytes *upper, bytes *lower) {
    const __m256i half = _mm256_set1_epi8(15);
    __m256i both = _mm256_loadu_si256((const __m256i *)x);
    *upper = _mm256_and_si256(_mm256_srli_epi16(both, 4), half);
    *lower = _mm256_and_si256(both, half);
}

#ifdef DPBUSD

static INLINE bytes read_signed(const uint8_t *x) {
    __m256i weights = _mm256_loadu_si256((const __m256i *)x);
    return _mm256_xor_si256(weights, _mm256_set1_epi8((char)128));
}

static INLINE ints add_signed(ints sum, bytes weights, bytes inputs) {
    return (ints)DPBUSD((__m256i)sum, weights, inputs);
}

#else

static INLINE bytes read_signed(const uint8_t *x) {
    return _mm256_loadu_si256((const __m256i *)x);
}

static INLINE ints add_pairs(ints sum, __m256i pairs) {
    return sum + (ints)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

// The sum of two products of 128 and 127 at most fits 16 bits.
static INLINE ints add_signed(ints sum, bytes weights, bytes inputs) {
    __m256i signed_inputs = _mm256_sign_epi8(inputs, weights);
    return add_pairs(sum, _mm256_maddubs_epi16(_mm256_abs_epi8(weights), signed_inputs));
}

#define HAS_ADD_HALVES 1

// The sum of four products of 15 and 127 at most fits 16 bits.
static INLINE ints add_halves(ints sum, bytes upper, bytes lower, const int8_t *inputs) {
    __m256i even = _mm256_maddubs_epi16(upper, splat_bytes(inputs));
    __m256i odd = _mm256_maddubs_epi16(lower, splat_bytes(inputs + GROUP / 2));
    return add_pairs(sum, _mm256_add_epi16(even, odd));
}

#endif

enum { SIDE = 2, TIMES = 6 }; // see convolution.h
