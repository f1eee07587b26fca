// What native.c needs of NEON with dot products; see native_avx512.h.

#include <arm_neon.h>

#define ISA "neon"

enum {
    WIDTH = 4,
    VECTORS = PANEL / WIDTH,
    OFFSET = 0,
    ROWS = 4,
    BESIDE = 1,
    AHEAD = 4096,
    NEARNESS = 3,
};

typedef float32x4_t floats;
typedef float32x4_t quad;
typedef int32x4_t ints;
typedef int8x16_t bytes;

static INLINE floats splat(float x) { return vdupq_n_f32(x); }

static INLINE floats magnitude(floats x) { return vabsq_f32(x); }

static INLINE floats larger(floats a, floats b) { return vmaxq_f32(a, b); }

static INLINE floats minimum(floats a, floats b) { return vminq_f32(a, b); }

static INLINE floats maximum(floats a, floats b) { return vmaxq_f32(a, b); }

static INLINE quad larger_quad(quad a, quad b) { return vmaxq_f32(a, b); }

static INLINE floats fused(floats a, floats b, floats c) { return vfmaq_f32(c, a, b); }

static INLINE floats add_if_at_least(floats sum, floats part, floats limit) {
    uint32x4_t kept = vandq_u32(vreinterpretq_u32_f32(part), vcgeq_f32(part, limit));
    return vaddq_f32(sum, vreinterpretq_f32_u32(kept));
}

static INLINE floats read_floats(const float *x, int64_t left) {
    float some[WIDTH] = {0};
    if (left < WIDTH) x = memcpy(some, x, left > 0 ? left * sizeof(float) : 0);
    return vld1q_f32(x);
}

static INLINE floats read_bf16(const bf16 *x, int64_t left) {
    bf16 some[WIDTH] = {0};
    if (left < WIDTH) x = memcpy(some, x, left * sizeof(bf16));
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(x), 16));
}

static INLINE void write_floats(float *to, floats x, int64_t left) {
    float some[WIDTH];
    vst1q_f32(left < WIDTH ? some : to, x);
    if (left < WIDTH) memcpy(to, some, left * sizeof(float));
}

static INLINE void write_quad(float *to, quad x) { vst1q_f32(to, x); }

static INLINE void read_pairs(const bf16 *x, int64_t left, floats *first, floats *second) {
    uint32x4_t pairs = vreinterpretq_u32_f32(read_floats((const float *)x, left));
    *first = vreinterpretq_f32_u32(vshlq_n_u32(pairs, 16));
    *second = vreinterpretq_f32_u32(vandq_u32(pairs, vdupq_n_u32(0xffff0000)));
}

static INLINE ints rounded(floats x) { return vcvtnq_s32_f32(x); }

static INLINE void write_bytes(int8_t *to, ints x) {
    for (int i = 0; i < WIDTH; i++) to[i] = x[i];
}

static INLINE float largest_lane(floats x) { return vmaxvq_f32(x); }

static INLINE float sum_lanes(floats x) { return vaddvq_f32(x); }

static INLINE int32_t sum_ints(ints x) { return vaddvq_s32(x); }

static INLINE quad sums_of(const floats x[4]) {
    return vpaddq_f32(vpaddq_f32(x[0], x[1]), vpaddq_f32(x[2], x[3]));
}

static INLINE void split_pairs(const int8_t *bytes, int8_t *to) {
    for (int i = 0; i < GROUP / 2; i += 16) {
        int8x16x2_t both = vld2q_s8(bytes + 2 * i);
        vst1q_s8(to + i, both.val[0]);
        vst1q_s8(to + GROUP / 2 + i, both.val[1]);
    }
}

static INLINE ints splat_int(int32_t x) { return vdupq_n_s32(x); }

static INLINE floats to_floats(ints x) { return vcvtq_f32_s32(x); }

static INLINE bytes splat_bytes(const int8_t *x) {
    int32_t four;
    memcpy(&four, x, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
}

static INLINE bytes read_signed(const uint8_t *x) { return vreinterpretq_s8_u8(vld1q_u8(x)); }

static INLINE ints add_signed(ints sum, bytes weights, bytes inputs) {
    return vdotq_s32(sum, weights, inputs);
}

static INLINE void read_halves(const uint8_t *x, bytes *upper, bytes *lower) {
    uint8x16_t both = vld1q_u8(x);
    *upper = vreinterpretq_s8_u8(vshrq_n_u8(both, 4));
    *lower = vreinterpretq_s8_u8(vandq_u8(both, vdupq_n_u8(15)));
}

enum { SIDE = 4, TIMES = 6 }; // see convolution.h
