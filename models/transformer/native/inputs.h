// The inputs of a product: rows of numbers that are rounded to 8 bits.

enum {
    TILE_ROWS = 16,   // of a tile
    TILE_INPUTS = 64, // that each of them has
    MANY = 12,        // rows for which tiles are faster
};

static int has_tiles; // whether this process may use them

// Rows of a product's inputs, each filled up with zeros to `stride`. A block of rows, or of those that
// are left, lies together: ROWS, or TILE_ROWS for tiles, whose units are of TILE_INPUTS and not of 4.
// For weights of 4 bits the even inputs of a group come first.
typedef struct {
    int64_t rows, stride;
    int is_tiled;
    int8_t *bytes;   // [blocks, stride / unit, rows of the block, unit]
    float *scales;   // [blocks, stride / PART, rows of the block]
    int32_t *counts; // [blocks, stride / GROUP, rows of the block], the sums of a group's bytes
    float *sums;     // the same, times the scale
} Inputs;

static int64_t padded(int64_t size) { return (size + PART - 1) / PART * PART; }

// Of each output's weights in a panel, those that are read at once.
static int64_t columns_of(const Linear *linear) { return (linear->inputs * linear->bits + 31) / 32; }

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

static Inputs take_inputs(char **memory, int64_t rows, int64_t size) {
    Inputs in = {.rows = rows, .stride = padded(size), .is_tiled = has_tiles && rows >= MANY};
    in.bytes = take(memory, rows * in.stride);
    in.scales = take(memory, rows * in.stride / PART * sizeof(float));
    in.counts = take(memory, rows * in.stride / GROUP * sizeof(int32_t));
    in.sums = take(memory, rows * in.stride / GROUP * sizeof(float));
    return in;
}

// At least what the function above takes.
static int64_t inputs_bytes(int64_t rows, int64_t size) { return 2 * rows * padded(size) + 4 * 64; }

static float largest_of(const float *x, int64_t size) {
    floats largest = splat(1e-12f);
    for (int64_t i = 0; i < size; i += WIDTH)
        largest = larger(largest, magnitude(read_floats(x + i, size - i)));
    return largest_lane(largest);
}

// Rounds one part of a row, which begins at x: of a row's inputs those from part * PART on.
static void quantise_part(
    const float *x, const Linear *linear, Inputs *in, int64_t row, int64_t part
) {
    int64_t size = in->is_tiled ? TILE_ROWS : ROWS, unit = in->is_tiled ? TILE_INPUTS : 4;
    int64_t first = row / size * size, block = smaller(in->rows - first, size), lane = row - first;
    int64_t part_at = part * block + lane, group_at = part * PART / GROUP * block + lane;
    int8_t *to = in->bytes + first * in->stride + part * PART * block + lane * unit;
    float *scale = in->scales + first * in->stride / PART + part_at;
    float *sums = in->sums + first * in->stride / GROUP + group_at;
    int32_t *counts = in->counts + first * in->stride / GROUP + group_at;
    int64_t left = smaller(linear->inputs - part * PART, PART);
    *scale = largest_of(x, left) / INT8_MAX;
    int8_t bytes[PART] __attribute__((aligned(64))), halves[PART] __attribute__((aligned(64)));
    for (int64_t group = 0; group < PART; group += GROUP, sums += block, counts += block) {
        ints sum = {0};
        for (int64_t i = group; i < group + GROUP; i += WIDTH) {
            ints q = rounded(read_floats(x + i, left - i) * splat(1 / *scale));
            write_bytes(bytes + i, q);
            sum += q;
        }
        *counts = sum_ints(sum);
        *sums = *counts * *scale;
        if (linear->bits == 4) split_pairs(bytes + group, halves + group);
    }
    const int8_t *from = linear->bits == 4 ? halves : bytes;
    if (in->is_tiled)
        for (int64_t i = 0; i < PART; i += TILE_INPUTS) memcpy(to + i * block, from + i, TILE_INPUTS);
    else
        for (int64_t i = 0; i < PART; i += 4) memcpy(to + i * block, from + i, 4);
}

static void quantise_row(const float *x, const Linear *linear, Inputs *in, int64_t row) {
    for (int64_t part = 0; part < in->stride / PART; part++)
        quantise_part(x + part * PART, linear, in, row, part);
}
