// Convolutions whose outputs are computed in pairs, a dilation apart: for every three taps of four
// products where each tap alone needs two, F(2, 3) of Winograd (Arithmetic Complexity of
// Computations, 1980). Two taps that remain need three products, and one needs two.
//
// Pairs are counted from a row's beginning, so that pieces give what the whole gives.

// Whether they are computed so: tiles do all products in less time.
int native_pairs(void) {
#ifdef HAS_AMX_BF16
    return !has_tiles;
#else
    return 1;
#endif
}

enum { PLAIN, APART, SUM, DIFFERENCE, KINDS }; // of terms: x, x - x'', x + x', x' - x
enum { PASSES = 4, NO_TERM = KINDS };

// Of what each pass's term is, if three taps and more, two or one remain; from the second pass on
// it stands a dilation later.
static const int term_kinds[3][PASSES] = {
    {APART, SUM, DIFFERENCE, APART},
    {DIFFERENCE, PLAIN, NO_TERM, DIFFERENCE},
    {PLAIN, NO_TERM, NO_TERM, PLAIN},
};

// The calling thread's share of what a signal's pairs are computed of: sums and differences of what
// is a dilation apart, and two; as far as there are `count` new inputs.
static void mix_inputs(
    const Share *share, const Signal *signal, int64_t dilation, int64_t count
) {
    int64_t step = dilation * signal->channels, numbers = (signal->known + count) * signal->channels;
    int64_t vectors = numbers / WIDTH, kind = share->rows * size_of(signal);
    int64_t begin = vectors * share->thread / share->threads * WIDTH;
    int64_t end = vectors * (share->thread + 1) / share->threads * WIDTH;
    for (int64_t row = 0; row < share->rows; row++) {
        sample *x = signal->data + row * size_of(signal);
        for (int64_t i = begin; i < at_most(end, numbers - step); i += WIDTH) {
            floats first = read_samples(x + i), second = read_samples(x + i + step);
            write_samples(x + SUM * kind + i, first + second);
            write_samples(x + DIFFERENCE * kind + i, second - first);
            if (i + 2 * step < numbers)
                write_samples(x + APART * kind + i, first - read_samples(x + i + 2 * step));
        }
    }
}

// One pass's products for `times` pairs: to [times, SIDE]. x: the inputs of the first tap at
// position 0; places: of each pair's first output, in numbers. Returns the next pass's weights.
static INLINE const sample *sums_of_terms(
    const Convolution *conv, int pass, const sample *x, int64_t kind, const sample *weight,
    const int64_t *places, int times, floats *to
) {
    floats sums[SIDE * TIMES] = {0};
    int64_t inputs = conv->inputs, at[TIMES];
#pragma GCC unroll 6
    for (int t = 0; t < times; t++) at[t] = places[t];
    for (int64_t tap = 0; tap < conv->taps; tap += 3) {
        int64_t left = conv->taps - tap;
        int which = term_kinds[left >= 3 ? 0 : 3 - left][pass];
        if (which == NO_TERM) continue;
        const sample *from = x + which * kind + (tap + (pass > 0)) * conv->dilation * inputs;
        weight = add_inputs(from, at, inputs, weight, SIDE, times, sums);
    }
#pragma GCC unroll 24
    for (int n = 0; n < times * SIDE; n++) to[n] = sums[n];
    return weight;
}

// Both outputs of `times` pairs: of each the first ones [SIDE], then the second ones.
static INLINE void pairs_of(
    const Convolution *conv, const sample *x, int64_t kind, const sample *weight, const float *bias,
    const int64_t *places, int times, floats (*to)[2][SIDE]
) {
    floats sums[PASSES][TIMES * SIDE];
    int64_t inside[TIMES]; // a first output before the piece is nobody's
    for (int t = 0; t < times; t++) inside[t] = at_least(0, places[t]);
    for (int pass = 0; pass < PASSES; pass++)
        weight = sums_of_terms(
            conv, pass, x, kind, weight, pass ? places : inside, times, sums[pass]
        );
    for (int t = 0; t < times; t++)
        for (int s = 0; s < SIDE; s++) {
            int n = t * SIDE + s;
            floats both = sums[1][n] + read_floats(bias + s * WIDTH, WIDTH);
            to[t][0][s] = sums[0][n] + both + sums[2][n];
            to[t][1][s] = both - sums[2][n] - sums[3][n];
        }
}

static void some_pairs(
    const Convolution *conv, const sample *x, int64_t kind, const sample *weight, const float *bias,
    const int64_t *places, int64_t count, floats (*to)[2][SIDE]
) {
    switch (count) {
        case 1: pairs_of(conv, x, kind, weight, bias, places, 1, to); break;
        case 2: pairs_of(conv, x, kind, weight, bias, places, 2, to); break;
        case 3: pairs_of(conv, x, kind, weight, bias, places, 3, to); break;
        case 4: pairs_of(conv, x, kind, weight, bias, places, 4, to); break;
        case 5: pairs_of(conv, x, kind, weight, bias, places, 5, to); break;
        default: pairs_of(conv, x, kind, weight, bias, places, TIMES, to);
    }
}

// As convolve, of all new inputs.
static void convolve_pairs(
    const Share *share, const Convolution *conv, const Signal *in, int64_t count, const Output *to
) {
    int64_t dilation = conv->dilation, inputs = conv->inputs, item = 0, all = 0;
    int64_t terms = conv->taps / 3 * 4 + (conv->taps % 3 ? conv->taps % 3 + 1 : 0);
    for (int turn = 0; turn < 2; turn++) {
        int64_t mine = all * share->thread / share->threads;
        int64_t end = all * (share->thread + 1) / share->threads;
        for (int64_t output = 0; output < conv->outputs; output += SIDE * WIDTH)
            for (int64_t row = 0; row < share->rows; row++) {
                int64_t phase = passed_by(share, row) % (2 * dilation), last = phase + count - 1;
                int64_t pair = at_least(0, phase - dilation); // those before it have no new output
                int64_t pairs = last / (2 * dilation) * dilation;
                pairs += at_most(last % (2 * dilation), dilation - 1) + 1;
                if (!turn) {
                    all += (pairs - pair + TIMES - 1) / TIMES;
                    continue;
                }
                int64_t start = row * (in->known + in->room) + in->known - reach(conv);
                for (; pair < pairs; pair += TIMES, item++) {
                    if (item < mine || item >= end) continue;
                    int64_t size = at_most(pairs - pair, TIMES), positions[TIMES], places[TIMES];
                    for (int64_t t = 0; t < size; t++) {
                        int64_t n = pair + t;
                        positions[t] = n / dilation * 2 * dilation + n % dilation - phase;
                        places[t] = positions[t] * inputs;
                    }
                    floats sums[TIMES][2][SIDE];
                    some_pairs(
                        conv, in->data + start * inputs, share->rows * size_of(in),
                        conv->weight + output * terms * inputs, conv->bias + output, places, size,
                        sums
                    );
                    for (int64_t t = 0; t < size; t++)
                        for (int half = 0; half < 2; half++) {
                            int64_t position = positions[t] + half * dilation;
                            if (position >= 0 && position < count)
                                finish(to, sums[t][half], row, position, 1, output, SIDE);
                        }
                }
            }
    }
}
