// Convolutions with AMX: a tile of 16 positions' next inputs times one of as many weights of 16 outputs.
// Signals and weights are tiles as they lie; from one tap to the next inputs only begin elsewhere.
//
// Tiles add products up in another order than vectors do, so all positions of a convolution are done by
// tiles: those that do not fill one, too, beside others that are nobody's.

enum {
    DEPTH = 32,  // inputs of a tile; half of them where channels are no multiple
    BLOCKS = 2,  // of TILE_ROWS positions, of any rows,
    OUTPUTS = 2, // and vectors of outputs that are computed at once
};

// Some blocks' sums for as many vectors of outputs: to [blocks, TILE_ROWS, outputs]. x: of each block
// the first tap's inputs.
static INLINE void sums_of_tiles(
    const Convolution *conv, const bf16 *const *x, int64_t depth, const bf16 *weight,
    const float *bias, int side, int blocks, int outputs, floats *to
) {
    int64_t inputs = conv->inputs, stride = inputs * sizeof(bf16), pair = side * sizeof(floats);
    _tile_loadd(4, bias, 0);
    if (outputs == 2) _tile_loadd(5, bias + WIDTH, 0);
    if (blocks == 2) _tile_loadd(6, bias, 0);
    if (blocks == 2 && outputs == 2) _tile_loadd(7, bias + WIDTH, 0);
    for (int64_t tap = 0; tap < conv->taps; tap++) {
        const bf16 *first = x[0] + tap * conv->dilation * inputs;
        const bf16 *last = x[blocks - 1] + tap * conv->dilation * inputs;
        for (int64_t i = 0; i < inputs; i += depth, weight += depth * side * WIDTH) {
            _tile_loadd(0, weight, pair);
            if (outputs == 2) _tile_loadd(1, weight + 2 * WIDTH, pair);
            _tile_loadd(2, first + i, stride);
            _tile_dpbf16ps(4, 2, 0);
            if (outputs == 2) _tile_dpbf16ps(5, 2, 1);
            if (blocks == 1) continue;
            _tile_loadd(3, last + i, stride);
            _tile_dpbf16ps(6, 3, 0);
            if (outputs == 2) _tile_dpbf16ps(7, 3, 1);
        }
    }
    int64_t size = outputs * sizeof(floats);
    _tile_stored(4, to, size);
    if (outputs == 2) _tile_stored(5, to + 1, size);
    if (blocks == 2) _tile_stored(6, to + TILE_ROWS * outputs, size);
    if (blocks == 2 && outputs == 2) _tile_stored(7, to + TILE_ROWS * outputs + 1, size);
}

// As convolve.
static void convolve_tiles(
    const Share *share, const Convolution *conv, const Signal *in, int64_t begin, int64_t count,
    const Output *to
) {
    int64_t of_row = (count + TILE_ROWS - 1) / TILE_ROWS, of_all = share->rows * of_row; // blocks
    int64_t vectors = conv->outputs / WIDTH, beside = (vectors + OUTPUTS - 1) / OUTPUTS;
    // A thread's items are positions first: the next convolution needs most of them in its own cache.
    int64_t all = (of_all + BLOCKS - 1) / BLOCKS * beside;
    int64_t mine = all * share->thread / share->threads;
    int64_t end = all * (share->thread + 1) / share->threads;
    int64_t depth = conv->inputs % DEPTH ? DEPTH / 2 : DEPTH;
    TileShapes shapes = tile_shapes;
    shapes.rows[0] = shapes.rows[1] = depth / 2;
    shapes.bytes[2] = shapes.bytes[3] = depth * sizeof(bf16);
    atomic_signal_fence(memory_order_seq_cst); // as in tile_products
    _tile_loadconfig(&shapes);
    for (int64_t v = 0, side; v < vectors; v += side) {
        for (side = SIDE; side > vectors - v;) side /= 2;
        for (int64_t s = 0; s < side; s += OUTPUTS)
            for (int64_t block = 0; block < of_all; block += BLOCKS) {
                int64_t item = block / BLOCKS * beside + (v + s) / OUTPUTS;
                if (item < mine || item >= end) continue;
                int64_t output = (v + s) * WIDTH, rows[BLOCKS], positions[BLOCKS];
                int outputs = at_most(side, OUTPUTS), blocks = at_most(of_all - block, BLOCKS);
                const bf16 *weight = conv->weight + v * WIDTH * conv->taps * conv->inputs, *x[BLOCKS];
                for (int n = 0; n < blocks; n++) {
                    rows[n] = (block + n) / of_row;
                    positions[n] = (block + n) % of_row * TILE_ROWS;
                    int64_t start = rows[n] * (in->known + in->room) + in->known - reach(conv);
                    x[n] = in->data + (start + begin + positions[n]) * in->channels;
                }
                floats sums[BLOCKS * TILE_ROWS * OUTPUTS];
// The compiler makes a version of its own for each of these.
#define SUMS(blocks_, outputs_)                                                                   \
    sums_of_tiles(                                                                                \
        conv, x, depth, weight + 2 * s * WIDTH, conv->bias + output, side, blocks_, outputs_, sums \
    )
                if (blocks == 2 && outputs == 2) SUMS(2, 2);
                else if (blocks == 2) SUMS(2, 1);
                else if (outputs == 2) SUMS(1, 2);
                else SUMS(1, 1);
#undef SUMS
                for (int n = 0; n < blocks; n++)
                    finish(
                        to, sums + n * TILE_ROWS * outputs, rows[n], positions[n],
                        at_most(count - positions[n], TILE_ROWS), output, outputs
                    );
            }
    }
    _tile_release(); // as in tile_product
}
