// The inputs of a product: rows of numbers that are rounded to 8 bits.

enum {
    TILE_ROWS = 16, // of a tile
    MANY = 12,      // rows for which tiles are faster
};

static int has_tiles; // whether this process may use them

// Rows of a product's inputs, each filled up with zeros to `stride`. A block of rows, or of those that
// are left, lies together: ROWS, or TILE_ROWS for tiles. For weights of 4 bits the even inputs of a
// group come first. Without tiles rows have no line of a cache in common: other threads make them.
typedef struct {
    int64_t rows, stride;
    int is_tiled;
    int8_t *bytes;         // [blocks, stride / GROUP, rows of the block, GROUP]
    int64_t parts, groups; // of a row, filled up to whole lines
    float *scales;         // [rows, parts]; for tiles [blocks, parts, rows of the block]
    float *sums;           // of each group the sum of its bytes times the scale; they lie as the scales do
    int32_t *offsets;      // the sum times -8: 4 bits are stored 8 too high, and 8 bits by more of them
} Inputs;

static int64_t padded(int64_t size) { return (size + PART - 1) / PART * PART; }

// Numbers of 4 bytes, with those that fill up a line.
static int64_t whole_lines(int64_t numbers) { return (numbers + 15) / 16 * 16; }

// Of each output's weights in a panel, those that are read at once.
static int64_t columns_of(const Linear *linear) { return (linear->inputs * linear->bits + 31) / 32; }

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

static Inputs take_inputs(char **memory, int64_t rows, int64_t size) {
    Inputs in = {.rows = rows, .stride = padded(size), .is_tiled = has_tiles && rows >= MANY};
    in.parts = whole_lines(in.stride / PART);
    in.groups = whole_lines(in.stride / GROUP);
    in.bytes = take(memory, rows * in.stride);
    in.scales = take(memory, rows * in.parts * sizeof(float));
    in.offsets = take(memory, rows * in.groups * sizeof(int32_t));
    in.sums = take(memory, rows * in.groups * sizeof(float));
    return in;
}

// At least what the function above takes.
static int64_t inputs_bytes(int64_t rows, int64_t size) {
    int64_t groups = whole_lines(padded(size) / GROUP); // no fewer than for the parts
    return rows * (padded(size) + 3 * groups * (int64_t)sizeof(float)) + 64;
}

// Rows that lie together, of which this is one; the first of them.
static int64_t block_of(const Inputs *in, int64_t row, int64_t *first) {
    int64_t size = in->is_tiled ? TILE_ROWS : ROWS;
    *first = row / size * size;
    return smaller(in->rows - *first, size);
}

// Where a row's scale of a part is, or what there is of a group: one of so many in a row.
static int64_t place_of(const Inputs *in, int64_t row, int64_t number, int64_t all) {
    int64_t first, block = block_of(in, row, &first);
    return in->is_tiled ? first * all + number * block + row - first : row * all + number;
}

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
    int64_t first, block = block_of(in, row, &first);
    int64_t left = smaller(linear->inputs - part * PART, PART);
    int8_t *to = in->bytes + first * in->stride + part * PART * block + (row - first) * GROUP;
    float scale = largest_of(x, left) / INT8_MAX;
    floats factor = splat(1 / scale);
    in->scales[place_of(in, row, part, in->parts)] = scale;
    for (int64_t group = 0; group < PART / GROUP; group++, to += GROUP * block) {
        int8_t both[GROUP] __attribute__((aligned(64))), *ordered = linear->bits == 4 ? both : to;
        ints sum = {0};
        for (int64_t i = 0; i < GROUP; i += WIDTH) {
            int64_t at = group * GROUP + i;
            ints q = rounded(read_floats(x + at, left - at) * factor);
            write_bytes(ordered + i, q);
            sum += q;
        }
        if (linear->bits == 4) split_pairs(both, to);
        int64_t place = place_of(in, row, part * PART / GROUP + group, in->groups);
        int32_t count = sum_ints(sum);
        in->offsets[place] = -8 * count;
        in->sums[place] = count * scale;
    }
}

static void quantise_row(const float *x, const Linear *linear, Inputs *in, int64_t row) {
    for (int64_t part = 0; part < in->stride / PART; part++)
        quantise_part(x + part * PART, linear, in, row, part);
}
