// Products of many rows with AMX: a tile of 16 outputs' next 64 weights times one of 16 rows' inputs
// gives sums of 16 rows and 16 outputs. They are the same integers as in product.h, and what is made
// of them is added up in the same order, so a row gives the same as there, to the bit.
//
// Weights of 8 bits are tiles as they lie in a panel; those of 4 bits are unpacked once for all rows.

#include <sys/syscall.h>
#include <unistd.h>

enum {
    TILE_BYTES = TILE_INPUTS * PANEL, // bytes of weights
    SUMMED = 64,                // rows whose totals stay in the core's nearest cache
};

// The tiles' bytes a row, and their rows: of all 8 as many as there can be.
static const struct {
    uint8_t palette, unused[15];
    uint16_t bytes[16];
    uint8_t rows[16];
} tile_shapes = {
    .palette = 1,
    .bytes = {64, 64, 64, 64, 64, 64, 64, 64},
    .rows = {16, 16, 16, 16, 16, 16, 16, 16},
};

// Linux lets a process use tiles that has asked for them; in a sandbox it may refuse.
__attribute__((constructor)) static void ask_for_tiles(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    has_tiles = !syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA);
}

// A group's weights of 4 bits, as signed ones: those of even inputs, then of odd ones.
static INLINE void unpack(const uint8_t *weights, int8_t *tile) {
    for (int64_t column = 0; column < GROUP / 8; column++) {
        bytes even, odd;
        read_halves(weights + column * COLUMN, &even, &odd);
        _mm512_store_si512(tile + column * COLUMN, _mm512_sub_epi8(even, _mm512_set1_epi8(8)));
        _mm512_store_si512(
            tile + TILE_BYTES / 2 + column * COLUMN, _mm512_sub_epi8(odd, _mm512_set1_epi8(8))
        );
    }
}

// The tile of 8 bits that begins with a column; what is beyond the columns is 0.
static INLINE const void *whole_tile(
    const uint8_t *weights, int64_t column, int64_t columns, int8_t *tile
) {
    if (columns - column >= TILE_BYTES / COLUMN) return weights + column * COLUMN;
    memset(tile, 0, TILE_BYTES);
    if (columns > column) memcpy(tile, weights + column * COLUMN, (columns - column) * COLUMN);
    return tile;
}

// Some panels of outputs, for at most SUMMED rows from the first of a block on.
static INLINE void tile_products(
    const Linear *linear, int bits, int64_t panel, int panels, const Inputs *in, int64_t row,
    int64_t rows, float *y
) {
    floats totals[BESIDE][SUMMED];
    int8_t tiles[BESIDE][2][TILE_BYTES] __attribute__((aligned(64)));
    int32_t sums[BESIDE][TILE_ROWS][PANEL] __attribute__((aligned(64)));
    const int64_t columns = columns_of(linear), size = bits == 8 ? PART : GROUP;
    const uint8_t *weights[BESIDE];
    for (int n = 0; n < panels; n++) {
        weights[n] = linear->weight + (panel + n) * columns * COLUMN;
        for (int64_t r = 0; r < rows; r++) totals[n][r] = splat(0);
    }
    for (int64_t begin = 0; begin < linear->inputs; begin += size) {
        floats step[BESIDE], middle[BESIDE];
        const void *from[BESIDE][2];
        for (int n = 0; n < panels; n++)
            if (bits == 8) {
                from[n][0] = whole_tile(weights[n], begin / 4, columns, tiles[n][0]);
                from[n][1] = whole_tile(weights[n], begin / 4 + TILE_BYTES / COLUMN, columns, tiles[n][1]);
            } else {
                int64_t group = begin / GROUP, groups = linear->inputs / GROUP;
                const bf16 *pairs = linear->scale + ((panel + n) * groups + group) * 2 * PANEL;
                read_pairs(pairs, PANEL, step + n, middle + n);
                unpack(weights[n] + begin / 8 * COLUMN, tiles[n][0]);
                from[n][0] = tiles[n][0];
            }
        atomic_signal_fence(memory_order_seq_cst); // compilers do not see that tiles are read
        _tile_loadd(0, from[0][0], COLUMN);
        if (bits == 8) _tile_loadd(1, from[0][1], COLUMN);
        if (panels == 2) _tile_loadd(2, from[1][0], COLUMN);
        if (panels == 2 && bits == 8) _tile_loadd(3, from[1][1], COLUMN);
        for (int64_t first = row; first < row + rows; first += TILE_ROWS) {
            int64_t block = smaller(in->rows - first, TILE_ROWS);
            // A block of fewer rows is a tile whose other rows are what lies behind; nobody reads
            // their sums.
            const int8_t *inputs = in->bytes + first * in->stride + begin * block;
            _tile_loadd(4, inputs, TILE_INPUTS);
            _tile_zero(6);
            _tile_dpbssd(6, 4, 0);
            if (panels == 2) {
                _tile_zero(7);
                _tile_dpbssd(7, 4, 2);
            }
            if (bits == 8) {
                _tile_loadd(5, inputs + TILE_INPUTS * block, TILE_INPUTS);
                _tile_dpbssd(6, 5, 1);
                if (panels == 2) _tile_dpbssd(7, 5, 3);
            }
            _tile_stored(6, sums[0], PANEL * sizeof(int32_t));
            if (panels == 2) _tile_stored(7, sums[1], PANEL * sizeof(int32_t));
            const float *scales = in->scales + first * in->stride / PART + begin / PART * block;
            const float *counted = in->sums + first * in->stride / GROUP + begin / GROUP * block;
            for (int n = 0; n < panels; n++)
#pragma GCC unroll 4
                for (int64_t r = 0; r < block; r++) {
                    floats *total = totals[n] + (first - row) + r;
                    floats sum = _mm512_cvtepi32_ps(_mm512_load_si512(sums[n][r]));
                    floats scale = splat(scales[r]);
                    if (bits == 4) scale *= step[n];
                    *total = fused(sum, scale, *total);
                    if (bits == 4) *total = fused(middle[n], splat(counted[r]), *total);
                }
        }
    }
    for (int n = 0; n < panels; n++) {
        int64_t output = (panel + n) * PANEL, left = linear->outputs - output;
        floats scale = bits == 8 ? read_bf16(linear->scale + output, left) : splat(1);
        floats bias = linear->bias ? read_bf16(linear->bias + output, left) : splat(0);
        for (int64_t r = 0; r < rows; r++)
            write_floats(
                y + (row + r) * linear->outputs + output, fused(totals[n][r], scale, bias), left
            );
    }
}

// As `product`, of inputs for tiles.
static void tile_product(const Linear *linear, const Inputs *in, float *y, int thread, int threads) {
    int64_t all = (linear->outputs + PANEL - 1) / PANEL, end = all * (thread + 1) / threads;
    _tile_loadconfig(&tile_shapes);
    for (int64_t panel = all * thread / threads, size; panel < end; panel += size) {
        size = smaller(end - panel, BESIDE);
        for (int64_t row = 0; row < in->rows; row += SUMMED) {
            int64_t rows = smaller(in->rows - row, SUMMED);
// The compiler makes a version of its own for each of these.
#define PRODUCTS(BITS, PANELS) tile_products(linear, BITS, panel, PANELS, in, row, rows, y)
            if (linear->bits == 8 && size == BESIDE) PRODUCTS(8, BESIDE);
            else if (linear->bits == 8) PRODUCTS(8, 1);
            else if (size == BESIDE) PRODUCTS(4, BESIDE);
            else PRODUCTS(4, 1);
#undef PRODUCTS
        }
    }
    _tile_release(); // what is left in tiles would be kept whenever the thread is interrupted
}
