// Products with weights of 8 or 4 bits. A lane of a vector is an output: of each it takes the next
// 4 inputs at once, which all lanes are given alike.

// Some panels of outputs, of some rows of a block, and how far they are.
typedef struct {
    const uint8_t *weights[BESIDE]; // of the panels
    const bf16 *steps[BESIDE];
    const int8_t *bytes; // of the rows
    const float *scales, *sums;
    const int32_t *offsets;
    int64_t block;         // its rows
    int64_t parts, groups; // from a row's scales to the next one's; from its sums and offsets
    floats totals[BESIDE * VECTORS * ROWS]; // [vectors of outputs, rows]
} Progress;

#ifndef HAS_ADD_SIGNED_AT
static INLINE ints add_signed_at(ints sum, bytes weights, const int8_t *inputs) {
    return add_signed(sum, weights, splat_bytes(inputs));
}
#endif

#ifndef HAS_ADD_HALVES
// The same for both halves of weights of 4 bits, whose inputs lie half a group apart.
static INLINE ints add_halves(ints sum, bytes upper, bytes lower, const int8_t *inputs) {
    return add_signed_at(add_signed_at(sum, upper, inputs), lower, inputs + GROUP / 2);
}
#endif

// Adds a column's products of one row, to the sums of all vectors of outputs, which lie `apart`.
static INLINE void add_column(
    ints *sums, int apart, const bytes *weights, int vectors, const int8_t *inputs
) {
    if (vectors == 1) {
        *sums = add_signed_at(*sums, *weights, inputs);
        return;
    }
    bytes all = splat_bytes(inputs);
#pragma GCC unroll 8
    for (int v = 0; v < vectors; v++)
        sums[v * apart] = add_signed(sums[v * apart], weights[v], all);
}

// Weights of 8 bits: some columns whose inputs share a scale.
static INLINE void add_part(Progress *at, int panels, int rows, int64_t columns) {
    ints sums[BESIDE * VECTORS * ROWS];
    int vectors = panels * VECTORS;
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        const int32_t *offsets = at->offsets + r * at->groups;
        int32_t offset = OFFSET / 8 * (offsets[0] + offsets[1]);
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) sums[v * rows + r] = splat_int(offset);
    }
    for (int64_t group = 0; group < PART / GROUP; group++) {
        int64_t first = group * GROUP / 4, size = smaller(columns - first, GROUP / 4);
        const int8_t *of_group = at->bytes + group * GROUP * at->block;
        for (int64_t column = 0; column < size; column++) {
            bytes weights[BESIDE * VECTORS];
#pragma GCC unroll 8
            for (int v = 0; v < vectors; v++) {
                const uint8_t *from = at->weights[v / VECTORS] + (first + column) * COLUMN;
                if (v % VECTORS == 0) __builtin_prefetch(from + AHEAD, 0, NEARNESS);
                weights[v] = read_signed(from + v % VECTORS * WIDTH * 4);
            }
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++)
                add_column(sums + r, rows, weights, vectors, of_group + r * GROUP + column * 4);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) {
            floats *total = at->totals + v * rows + r;
            *total = fused(to_floats(sums[v * rows + r]), splat(at->scales[r * at->parts]), *total);
        }
}

// Weights of 4 bits: a group. Its odd inputs come after its even ones.
static INLINE void add_group(Progress *at, int panels, int rows) {
    ints sums[BESIDE * VECTORS * ROWS];
    int vectors = panels * VECTORS;
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++)
            sums[v * rows + r] = splat_int(at->offsets[r * at->groups]);
    for (int64_t column = 0; column < GROUP / 8; column++) {
        bytes even[BESIDE * VECTORS], odd[BESIDE * VECTORS];
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) {
            const uint8_t *from = at->weights[v / VECTORS] + column * COLUMN;
            if (v % VECTORS == 0) __builtin_prefetch(from + AHEAD, 0, NEARNESS);
            read_halves(from + v % VECTORS * WIDTH * 4, even + v, odd + v);
        }
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            const int8_t *from = at->bytes + r * GROUP + column * 4;
#pragma GCC unroll 8
            for (int v = 0; v < vectors; v++) {
                ints *sum = sums + v * rows + r;
                *sum = add_halves(*sum, even[v], odd[v], from);
            }
        }
    }
#pragma GCC unroll 8
    for (int v = 0; v < vectors; v++) {
        floats step, middle;
        const bf16 *pairs = at->steps[v / VECTORS] + v % VECTORS * WIDTH * 2;
        read_pairs(pairs, WIDTH, &step, &middle);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            floats *total = at->totals + v * rows + r;
            floats scale = splat(at->scales[r * at->parts]);
            *total = fused(to_floats(sums[v * rows + r]), step * scale, *total);
            *total = fused(middle, splat(at->sums[r * at->groups]), *total);
        }
    }
}

// Some panels of outputs, for some rows of one block.
static INLINE void products(
    const Linear *linear, int bits, int64_t panel, int panels, const Inputs *in, int64_t row, int rows,
    float *y
) {
    int64_t first = row / ROWS * ROWS, lane = row - first, columns = columns_of(linear);
    Progress at = {
        .bytes = in->bytes + first * in->stride + lane * GROUP,
        .scales = in->scales + row * in->parts,
        .sums = in->sums + row * in->groups,
        .offsets = in->offsets + row * in->groups,
        .block = smaller(in->rows - first, ROWS),
        .parts = in->parts,
        .groups = in->groups,
    };
#pragma GCC unroll 8
    for (int n = 0; n < panels; n++) {
        at.weights[n] = linear->weight + (panel + n) * columns * COLUMN;
        at.steps[n] = linear->scale + (panel + n) * (linear->inputs / GROUP) * 2 * PANEL;
    }
#pragma GCC unroll 16
    for (int n = 0; n < panels * VECTORS * rows; n++) at.totals[n] = splat(0);
    int64_t size = bits == 8 ? PART / 4 : GROUP / 8;
    for (int64_t column = 0; column < columns; column += size) {
        if (bits == 8) add_part(&at, panels, rows, smaller(columns - column, size));
        else add_group(&at, panels, rows);
        int is_end = bits == 8 || column / size % 2; // of inputs that share a scale
        at.bytes += (bits == 8 ? PART : GROUP) * at.block;
        at.scales += is_end;
        at.offsets += bits == 8 ? PART / GROUP : 1;
        at.sums += bits == 8 ? PART / GROUP : 1;
#pragma GCC unroll 8
        for (int n = 0; n < panels; n++) {
            at.weights[n] += size * COLUMN;
            at.steps[n] += 2 * PANEL;
        }
    }
#pragma GCC unroll 8
    for (int v = 0; v < panels * VECTORS; v++) {
        int64_t output = panel * PANEL + v * WIDTH, left = linear->outputs - output;
        if (left <= 0) break;
        floats scale = bits == 8 ? read_bf16(linear->scale + output, left) : splat(1);
        floats bias = linear->bias ? read_bf16(linear->bias + output, left) : splat(0);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            float *to = y + (row + r) * linear->outputs + output;
            write_floats(to, fused(at.totals[v * rows + r], scale, bias), left);
        }
    }
}

// Some panels of y [rows, outputs]. With few rows, one panel at a time: memory is fastest read end to
// end. With many, panels stay in the cache, and two of 8 bits share each read of the rows.
static void product_of(const Linear *linear, const Inputs *in, float *y, int64_t first, int64_t end) {
    _Static_assert(BESIDE <= 2, "so that what is left of a pair is one panel");
// The compiler makes a version of its own for each of these.
#define PRODUCTS(PANELS, COUNT)                                                                   \
    if (linear->bits == 8) products(linear, 8, panel, PANELS, in, row, COUNT, y);                 \
    else products(linear, 4, panel, PANELS, in, row, COUNT, y)
    for (int64_t size; first < end; first += size) {
        size = in->rows >= SHARING ? smaller(end - first, BESIDE) : 1;
        for (int64_t row = 0, rows; row < in->rows; row += rows) {
            int64_t left = smaller(in->rows, (row / ROWS + 1) * ROWS) - row, panel = first;
            rows = left == ROWS ? ROWS : smaller(left, FEW);
            if (size == BESIDE)
                switch (rows) {
                case 1: PRODUCTS(BESIDE, 1); break;
                case 2: PRODUCTS(BESIDE, 2); break;
                case 3: PRODUCTS(BESIDE, 3); break;
                case FEW: PRODUCTS(BESIDE, FEW); break;
                default: PRODUCTS(BESIDE, ROWS);
                }
            else
                switch (rows) {
                case 1: PRODUCTS(1, 1); break;
                case 2: PRODUCTS(1, 2); break;
                case 3: PRODUCTS(1, 3); break;
                case FEW: PRODUCTS(1, FEW); break;
                default: PRODUCTS(1, ROWS);
                }
        }
    }
#undef PRODUCTS
}

// The calling thread's share of y [rows, outputs].
static void product(const Linear *linear, const Inputs *in, float *y, int thread, int threads) {
#ifdef HAS_AMX
    if (in->is_tiled) {
        tile_product(linear, in, y, thread, threads);
        return;
    }
#endif
    int64_t all = (linear->outputs + PANEL - 1) / PANEL;
    product_of(linear, in, y, all * thread / threads, all * (thread + 1) / threads);
}
