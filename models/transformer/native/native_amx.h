// Products of many rows with AMX: a tile of 16 outputs' next 64 weights times one of 16 rows' inputs
// gives sums of 16 rows and 16 outputs. They are the same integers as in product.h, and what is made
// of them is added up in the same order, so a row gives the same as there, to the bit.
//
// Weights of 8 bits are tiles as they lie in a panel; those of 4 bits are unpacked once for all rows.

#include <sys/syscall.h>
#include <unistd.h>

enum {
    TILE_BYTES = GROUP * PANEL, // of weights
    AT_ONCE = 2 * TILE_ROWS,    // rows, so that products do not wait for each other's sums
    SUMMED = 128,               // rows whose totals stay in the core's nearest cache
};

// The tiles' bytes a row, and their rows.
typedef struct {
    uint8_t palette, unused[15];
    uint16_t bytes[16];
    uint8_t rows[16];
} TileShapes;

// Of all 8 tiles as many as there can be.
static const TileShapes tile_shapes = {
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

// Some panels of outputs, for some rows, and a piece of the inputs: a part, or for weights of 4 bits a
// group.
typedef struct {
    const Inputs *in;
    int64_t row, piece;
    const void *weights[BESIDE][PART / GROUP]; // of each panel the piece's tiles
    const bf16 *steps[BESIDE];                 // of a group
    floats totals[BESIDE][SUMMED];
    int32_t sums[BESIDE][AT_ONCE][PANEL] __attribute__((aligned(64)));
} Tiled;

// Inputs of a piece.
static int64_t piece_of(int bits) { return bits == 8 ? PART : GROUP; }

// The piece's products for rows that begin with a block: they remain in tiles 4 to 7. A block of fewer
// rows is a tile whose other rows are what lies behind, and whose sums nobody reads.
static INLINE void multiply(const Tiled *at, int bits, int panels, int64_t row) {
    int64_t left = at->in->rows - row, block = smaller(left, TILE_ROWS);
    int64_t other = smaller(left - TILE_ROWS, TILE_ROWS), size = piece_of(bits);
    const int8_t *first = at->in->bytes + row * at->in->stride + at->piece * size * block;
    const int8_t *second =
        at->in->bytes + (row + TILE_ROWS) * at->in->stride + at->piece * size * other;
    _tile_zero(4);
    _tile_zero(5);
    _tile_zero(6);
    _tile_zero(7);
#pragma GCC unroll 2
    for (int64_t n = 0; n < size / GROUP; n++) {
        _tile_loadd(0, at->weights[0][n], COLUMN);
        if (panels == 2) _tile_loadd(1, at->weights[1][n], COLUMN);
        _tile_loadd(2, first + n * GROUP * block, GROUP);
        _tile_dpbssd(4, 2, 0);
        if (panels == 2) _tile_dpbssd(5, 2, 1);
        if (other <= 0) continue;
        _tile_loadd(3, second + n * GROUP * other, GROUP);
        _tile_dpbssd(6, 3, 0);
        if (panels == 2) _tile_dpbssd(7, 3, 1);
    }
}

static INLINE void keep_sums(Tiled *at, int panels) {
    _tile_stored(4, at->sums[0], COLUMN);
    _tile_stored(6, at->sums[0] + TILE_ROWS, COLUMN);
    if (panels == 1) return;
    _tile_stored(5, at->sums[1], COLUMN);
    _tile_stored(7, at->sums[1] + TILE_ROWS, COLUMN);
}

// Adds a tile's sums to totals: for weights of 8 bits of a part, for those of 4 bits of a group. Apart
// from what is around them, as compilers else keep an address for each row.
static __attribute__((noinline)) void add_part_of_tile(
    const int32_t *sums, const float *scales, int64_t rows, floats *totals
) {
    for (int64_t r = 0; r < rows; r++) {
        floats sum = _mm512_cvtepi32_ps(_mm512_load_si512(sums + r * PANEL));
        totals[r] = fused(sum, splat(scales[r]), totals[r]);
    }
}

static __attribute__((noinline)) void add_group_of_tile(
    const int32_t *sums, const float *scales, const float *counted, const bf16 *pairs, int64_t rows,
    floats *totals
) {
    floats step, middle;
    read_pairs(pairs, PANEL, &step, &middle);
    for (int64_t r = 0; r < rows; r++) {
        floats sum = _mm512_cvtepi32_ps(_mm512_load_si512(sums + r * PANEL));
        floats total = fused(sum, step * splat(scales[r]), totals[r]);
        totals[r] = fused(middle, splat(counted[r]), total);
    }
}

// Adds the sums of a block's products to its totals.
static INLINE void add_sums(Tiled *at, int bits, int panels, int64_t row, int64_t lane) {
    const Inputs *in = at->in;
    int64_t block = smaller(in->rows - row, TILE_ROWS), part = at->piece * piece_of(bits) / PART;
    const float *scales = in->scales + place_of(in, row, part, in->parts);
    const float *counted = in->sums + place_of(in, row, at->piece, in->groups);
    for (int n = 0; n < panels; n++) {
        floats *totals = at->totals[n] + (row - at->row);
        if (bits == 8) add_part_of_tile(at->sums[n][lane], scales, block, totals);
        else add_group_of_tile(at->sums[n][lane], scales, counted, at->steps[n], block, totals);
    }
}

static INLINE void tile_products(
    const Linear *linear, int bits, int64_t panel, int panels, const Inputs *in, int64_t row,
    int64_t rows, float *y
) {
    int8_t tiles[BESIDE][PART / GROUP][TILE_BYTES] __attribute__((aligned(64)));
    int64_t columns = columns_of(linear), size = piece_of(bits);
    Tiled at;
    at.in = in, at.row = row, at.piece = 0; // the rest, 20 KB, is written before it is read
    for (int n = 0; n < panels; n++)
        for (int64_t r = 0; r < rows; r++) at.totals[n][r] = splat(0);
    for (; at.piece * size < linear->inputs; at.piece++) {
        for (int n = 0; n < panels; n++) {
            const uint8_t *weights = linear->weight + (panel + n) * columns * COLUMN;
            if (bits == 8) {
                int64_t column = at.piece * PART / 4, half = GROUP / 4;
                at.weights[n][0] = whole_tile(weights, column, columns, tiles[n][0]);
                at.weights[n][1] = whole_tile(weights, column + half, columns, tiles[n][1]);
            } else {
                int64_t group = (panel + n) * (linear->inputs / GROUP) + at.piece;
                at.steps[n] = linear->scale + group * 2 * PANEL;
                unpack(weights + at.piece * GROUP / 8 * COLUMN, tiles[n][0]);
                at.weights[n][0] = tiles[n][0];
            }
        }
        atomic_signal_fence(memory_order_seq_cst); // compilers do not see that tiles are read
        // While products are computed, the sums of those before are added up.
        for (int64_t first = row; first < row + rows; first += AT_ONCE) {
            multiply(&at, bits, panels, first);
            if (first > row) add_sums(&at, bits, panels, first - AT_ONCE, 0);
            if (first > row) add_sums(&at, bits, panels, first - TILE_ROWS, TILE_ROWS);
            keep_sums(&at, panels);
        }
        int64_t last = row + (rows - 1) / AT_ONCE * AT_ONCE;
        add_sums(&at, bits, panels, last, 0);
        if (last + TILE_ROWS < row + rows) add_sums(&at, bits, panels, last + TILE_ROWS, TILE_ROWS);
    }
    for (int n = 0; n < panels; n++) {
        int64_t output = (panel + n) * PANEL, left = linear->outputs - output;
        floats scale = bits == 8 ? read_bf16(linear->scale + output, left) : splat(1);
        floats bias = linear->bias ? read_bf16(linear->bias + output, left) : splat(0);
        for (int64_t r = 0; r < rows; r++)
            write_floats(
                y + (row + r) * linear->outputs + output, fused(at.totals[n][r], scale, bias), left
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
