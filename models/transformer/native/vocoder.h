// A HiFi-GAN vocoder: products of bf16, sums and residuals of float32, signals in pieces.
//
// Signals lie as [positions, channels], whose numbers are multiples of WIDTH. A result is summed in
// one order, whatever is computed beside it: pieces give what the whole gives, and so do rows alone.

enum {
    SIDE = 4,       // vectors of outputs that are computed at once; of the last ones fewer
    TIMES = 6,      // positions for which they are
    MOST_TIMES = 24,
    MAX_STAGES = 16,
    TILE = 1 << 17, // numbers of a stage's signal that are made before the next stage goes on
};

typedef struct {
    const bf16 *weight; // of each SIDE vectors of outputs [taps, inputs / 2, outputs, 2]
    const float *bias;  // [outputs]
    int64_t inputs, outputs, taps, dilation;
    int64_t state; // where the inputs are kept of which it needs more, in a row's state
} Convolution;

typedef struct {
    Convolution up;           // what one input becomes are its outputs, position by position
    const Convolution *convs; // [num_stacks, num_pairs, 2]
    int64_t num_stacks, num_pairs;
} Stage;

typedef struct {
    Convolution first, last;
    const Stage *stages;
    int64_t num_stages;
} Vocoder;

// The inputs of a convolution: of each row some that are known, then new ones.
typedef struct {
    bf16 *data; // [rows, known + room, channels]
    int64_t known, room, channels, state;
} Signal;

// What a convolution's results [positions, width] become: they are added to others, kept, and
// activated as inputs of the next one.
typedef struct {
    const float *residual, *total; // or NULL
    float *kept;                   // or NULL
    int64_t row_size, width;       // of these three; row_size from one row to the next
    const Signal *active;          // or NULL
    enum { SILU, GELU, NONE } activation;
    float scale; // of what is activated; 0 is 1
} Output;

// Of whose signals a thread does which part.
typedef struct {
    int64_t rows;
    bf16 *const *states; // of each row what is kept between its pieces
    int thread, threads;
} Share;

typedef struct {
    Share share;
    const Vocoder *vocoder;
    const float *hidden;
    float *wave;
    int64_t positions, samples, first_tile;
    int64_t tiles[MAX_STAGES];            // inputs of a stage that it takes at once
    Signal start, ups[MAX_STAGES + 1];    // of the first convolution, the stages and the last
    bf16 *shared, *before, *between;      // inputs within a stage
    float *x, *sum, *total;               // of a stage; of one of its stacks; of several
} Speech;

static int64_t at_most(int64_t x, int64_t limit) { return x < limit ? x : limit; }

static int64_t at_least(int64_t x, int64_t limit) { return x > limit ? x : limit; }

// Inputs before the newest one that a convolution needs.
static int64_t reach(const Convolution *conv) { return (conv->taps - 1) * conv->dilation; }

static int64_t rate_of(const Stage *stage) { return stage->up.outputs / stage->convs->inputs; }

// `times` positions of `side` vectors of outputs: to [times, side].
static INLINE void taps_of(
    const Convolution *conv, int64_t inputs, const bf16 *x, const bf16 *weight, const float *bias,
    int side, int times, floats *to
) {
    floats sums[SIDE * TIMES];
#pragma GCC unroll 24
    for (int n = 0; n < times * side; n++) sums[n] = read_floats(bias + n % side * WIDTH, WIDTH);
    for (int64_t tap = 0; tap < conv->taps; tap++, x += conv->dilation * inputs)
        for (int64_t i = 0; i < inputs; i += 2, weight += 2 * side * WIDTH) {
            pairs w[SIDE];
#pragma GCC unroll 4
            for (int s = 0; s < side; s++) w[s] = read_weights(weight + 2 * s * WIDTH);
#pragma GCC unroll 24
            for (int t = 0; t < times; t++) {
                pairs both = splat_pair(x + t * inputs + i);
#pragma GCC unroll 4
                for (int s = 0; s < side; s++)
                    sums[t * side + s] = add_products(sums[t * side + s], both, w[s]);
            }
        }
#pragma GCC unroll 24
    for (int n = 0; n < times * side; n++) to[n] = sums[n];
}

// Positions that are computed at once.
static int64_t times_of(const Convolution *conv, int side) {
    if (side == 1 && conv->inputs == 16) return MOST_TIMES;
    if (side == 2 && conv->inputs == 32) return MOST_TIMES / 2;
    return TIMES;
}

// The same for at most `count` positions, the others being nobody's.
static void some_taps(
    const Convolution *conv, const bf16 *x, const bf16 *weight, const float *bias, int side,
    int64_t count, floats *to
) {
// The compiler makes a version of its own for each of these: addresses that it knows cost nothing.
#define RUN(INPUTS, SIDE, TIMES) taps_of(conv, INPUTS, x, weight, bias, SIDE, TIMES, to)
#define CASE(VALUE, INPUTS, SIDE, TIMES)                                                          \
    case VALUE: RUN(INPUTS, SIDE, TIMES); break;
    int64_t inputs = conv->inputs;
    if (side == 1 && inputs == 16) RUN(16, 1, 24);
    else if (side == 2 && inputs == 32) RUN(32, 2, 12);
    else if (side == 1) RUN(inputs, 1, 6);
    else if (side == 2) RUN(inputs, 2, 6);
    else if (count < TIMES)
        switch (count) {
            CASE(1, inputs, 4, 1) CASE(2, inputs, 4, 2) CASE(3, inputs, 4, 3)
            CASE(4, inputs, 4, 4) default: RUN(inputs, 4, 5);
        }
    else
        switch (inputs) {
            CASE(64, 64, 4, 6) CASE(128, 128, 4, 6) CASE(256, 256, 4, 6)
            CASE(512, 512, 4, 6) CASE(1024, 1024, 4, 6) default: RUN(inputs, 4, 6);
        }
#undef CASE
#undef RUN
}

static void finish(
    const Output *to, const floats *sums, int64_t row, int64_t position, int64_t count,
    int64_t output, int side
) {
    const Signal *active = to->active;
    for (int64_t t = 0; t < count; t++)
        for (int s = 0; s < side; s++) {
            floats y = sums[t * side + s];
            int64_t place = (position + t) * to->width + output + s * WIDTH;
            int64_t at = row * to->row_size + place, left = to->width - output - s * WIDTH;
            if (to->residual) y += read_floats(to->residual + at, left);
            if (to->total) y += read_floats(to->total + at, left);
            if (to->kept) write_floats(to->kept + at, y, left);
            if (active) {
                int64_t begin = (row * (active->known + active->room) + active->known);
                if (to->scale) y *= splat(to->scale);
                if (to->activation != NONE) y = to->activation == SILU ? silu(y) : gelu(y);
                write_rounded(active->data + begin * active->channels + place, y);
            }
        }
}

// The calling thread's share of a convolution, of inputs that begin at one of the new ones.
static void convolve(
    const Share *share, const Convolution *conv, const Signal *in, int64_t begin, int64_t count,
    const Output *to
) {
    int64_t item = 0, all = 0, vectors = conv->outputs / WIDTH;
    for (int pass = 0; pass < 2; pass++) {
        int64_t mine = all * share->thread / share->threads;
        int64_t end = all * (share->thread + 1) / share->threads;
        for (int64_t v = 0; v < vectors;) {
            int side = vectors - v >= 4 ? 4 : vectors - v >= 2 ? 2 : 1;
            int64_t times = times_of(conv, side), output = v * WIDTH;
            v += side;
            if (!pass) {
                all += share->rows * ((count + times - 1) / times);
                continue;
            }
            const bf16 *weight = conv->weight + output * conv->taps * conv->inputs;
            for (int64_t row = 0; row < share->rows; row++) {
                int64_t start = row * (in->known + in->room) + in->known - reach(conv) + begin;
                const bf16 *x = in->data + start * in->channels;
                for (int64_t p = 0; p < count; p += times, item++) {
                    if (item < mine || item >= end) continue;
                    floats sums[MOST_TIMES];
                    int64_t size = at_most(count - p, times);
                    some_taps(conv, x + p * in->channels, weight, conv->bias + output, side, size, sums);
                    finish(to, sums, row, p, size, output, side);
                }
            }
        }
    }
}

static Signal inputs_of(const Convolution *conv, bf16 *data, int64_t room) {
    return (Signal){data, reach(conv), room, conv->inputs, conv->state};
}

static int64_t size_of(const Signal *signal) {
    return (signal->known + signal->room) * signal->channels;
}

// Puts what is known of each row's signal before what is new.
static void recall(const Share *share, const Signal *signal) {
    for (int64_t row = share->thread; row < share->rows; row += share->threads)
        memcpy(
            signal->data + row * size_of(signal), share->states[row] + signal->state,
            signal->known * signal->channels * sizeof(bf16)
        );
}

// Keeps what will be needed once `count` new inputs have passed.
static void keep(const Share *share, const Signal *signal, int64_t count) {
    for (int64_t row = share->thread; row < share->rows; row += share->threads)
        memcpy(
            share->states[row] + signal->state,
            signal->data + row * size_of(signal) + count * signal->channels,
            signal->known * signal->channels * sizeof(bf16)
        );
}

// Numbers [rows, all, channels] that are the signal's new inputs, of each row as many as `count`.
static void take_in(
    const Share *share, const float *from, int64_t all, int64_t count, const Signal *signal
) {
    int64_t channels = signal->channels;
    for (int64_t row = share->thread; row < share->rows; row += share->threads)
        for (int64_t i = 0; i < count * channels; i += WIDTH)
            write_rounded(
                signal->data + row * size_of(signal) + signal->known * channels + i,
                read_floats(from + row * all * channels + i, WIDTH)
            );
}

// The inputs that a stage's stacks share: as many are known as the longest one needs.
static Signal shared_inputs(const Stage *stage, bf16 *data, int64_t room) {
    Signal shared = inputs_of(stage->convs, data, room);
    for (int64_t s = 1; s < stage->num_stacks; s++) {
        int64_t needed = reach(stage->convs + s * stage->num_pairs * 2);
        if (needed > shared.known) shared.known = needed;
    }
    return shared;
}

// All stacks of a stage over a tile, whose mean is the next one's input.
static void run_stacks(
    const Speech *task, const Stage *stage, const Signal *shared, int64_t count, const Signal *next
) {
    int64_t room = shared->room, row_size = room * shared->channels, width = shared->channels;
    for (int64_t s = 0; s < stage->num_stacks; s++)
        for (int64_t p = 0; p < stage->num_pairs; p++) {
            const Convolution *conv = stage->convs + (s * stage->num_pairs + p) * 2;
            Signal before = p ? inputs_of(conv, task->before, room) : *shared;
            Signal between = inputs_of(conv + 1, task->between, room);
            Output first = {.width = width, .active = &between};
            recall(&task->share, &between);
            convolve(&task->share, conv, &before, 0, count, &first);
            if (p || !s) keep(&task->share, &before, count);
            meet();
            Output second = {.residual = p ? task->sum : task->x, .row_size = row_size, .width = width};
            Signal after;
            if (p + 1 < stage->num_pairs) {
                after = inputs_of(conv + 2, task->before, room);
                second.kept = task->sum;
                second.active = &after;
            } else {
                second.total = s ? task->total : NULL;
                if (s + 1 < stage->num_stacks) second.kept = task->total;
                else second.active = next;
                second.scale = 1.0f / stage->num_stacks;
            }
            if (second.active) recall(&task->share, second.active);
            convolve(&task->share, conv + 1, &between, 0, count, &second);
            keep(&task->share, &between, count);
            meet();
        }
}

// A stage and those after it. at: of its new inputs among all that it has in this call.
static void run_stage(const Speech *task, int64_t n, int64_t count, int64_t at) {
    const Vocoder *vocoder = task->vocoder;
    const Signal *in = &task->ups[n];
    if (n == vocoder->num_stages) {
        Output wave = {.kept = task->wave + at, .row_size = task->samples, .width = 1};
        convolve(&task->share, &vocoder->last, in, 0, count, &wave);
        keep(&task->share, in, count);
        meet();
        return;
    }
    const Stage *stage = &vocoder->stages[n];
    int64_t rate = rate_of(stage), tile = task->tiles[n];
    Signal shared = shared_inputs(stage, task->shared, tile * rate);
    Output raised = {
        .kept = task->x, .row_size = tile * stage->up.outputs, .width = stage->up.outputs,
        .active = &shared,
    };
    for (int64_t begin = 0; begin < count; begin += tile) {
        int64_t size = at_most(count - begin, tile);
        recall(&task->share, &shared);
        convolve(&task->share, &stage->up, in, begin, size, &raised);
        if (!begin) keep(&task->share, in, count);
        meet();
        run_stacks(task, stage, &shared, size * rate, &task->ups[n + 1]);
        run_stage(task, n + 1, size * rate, (at + begin) * rate);
    }
}

static void vocoder_task(void *data, int thread, int threads) {
    Speech own = *(Speech *)data, *task = &own;
    const Convolution *first = &task->vocoder->first;
    task->share.thread = thread;
    task->share.threads = threads;
    int64_t inputs = first->inputs;
    Output made = {.width = first->outputs, .active = &task->ups[0]};
    for (int64_t begin = 0; begin < task->positions; begin += task->first_tile) {
        int64_t size = at_most(task->positions - begin, task->first_tile);
        recall(&task->share, &task->start);
        take_in(&task->share, task->hidden + begin * inputs, task->positions, size, &task->start);
        meet();
        recall(&task->share, made.active);
        convolve(&task->share, first, &task->start, 0, size, &made);
        keep(&task->share, &task->start, size);
        meet();
        run_stage(task, 0, size, begin);
    }
}

static bf16 *take_signal(char **scratch, int64_t *size, int64_t numbers, int64_t channels) {
    int64_t bytes = (numbers + MOST_TIMES * channels) * sizeof(bf16); // more are read than counts
    *size += bytes + 64;
    return *scratch ? take(scratch, bytes) : NULL;
}

// Divides the scratch memory, and tells how much of it is needed; NULL only tells.
static int64_t plan(Speech *task, char *scratch) {
    const Vocoder *vocoder = task->vocoder;
    int64_t rows = task->share.rows, size = 0, shared = 0, inner = 0, results = 0, widest = 0;
    int64_t tile = at_least(1, at_most(task->positions, TILE / (rows * vocoder->first.inputs)));
    task->first_tile = tile;
    task->samples = task->positions;
    task->start = inputs_of(&vocoder->first, NULL, tile);
    int64_t numbers = rows * size_of(&task->start);
    task->start.data = take_signal(&scratch, &size, numbers, vocoder->first.inputs);
    for (int64_t n = 0; n <= vocoder->num_stages; n++) {
        const Stage *stage = &vocoder->stages[n];
        const Convolution *conv = n < vocoder->num_stages ? &stage->up : &vocoder->last;
        task->ups[n] = inputs_of(conv, NULL, tile);
        numbers = rows * size_of(&task->ups[n]);
        task->ups[n].data = take_signal(&scratch, &size, numbers, conv->inputs);
        if (n == vocoder->num_stages) break;
        int64_t rate = rate_of(stage), channels = stage->convs->inputs;
        tile = at_least(1, at_most(tile, TILE / (rows * channels * rate)));
        task->tiles[n] = tile;
        tile *= rate;
        task->samples *= rate;
        Signal common = shared_inputs(stage, NULL, tile);
        shared = at_least(shared, rows * size_of(&common));
        for (int64_t c = 0; c < stage->num_stacks * stage->num_pairs * 2; c++) {
            Signal one = inputs_of(stage->convs + c, NULL, tile);
            inner = at_least(inner, rows * size_of(&one));
        }
        results = at_least(results, rows * tile * channels);
        widest = at_least(widest, channels);
    }
    task->shared = take_signal(&scratch, &size, shared, widest);
    task->before = take_signal(&scratch, &size, inner, widest);
    task->between = take_signal(&scratch, &size, inner, widest);
    if (scratch) {
        task->x = take(&scratch, results * sizeof(float));
        task->sum = take(&scratch, results * sizeof(float));
        task->total = take(&scratch, results * sizeof(float));
    }
    return size + 3 * (results * (int64_t)sizeof(float) + 64);
}

// The next piece of some signals, before the final tanh: wave [rows, positions * rate].
//
// hidden: [rows, positions, inputs]. states: of each row what is kept between its pieces, at first
// zeros. Scratch: 64-byte aligned, native_vocoder_scratch(vocoder, rows, positions) bytes.
void native_vocoder(
    const Vocoder *vocoder, const float *hidden, bf16 *const *states, float *wave, int64_t rows,
    int64_t positions, char *scratch, int threads
) {
    Speech task = {
        .share = {.rows = rows, .states = states}, .vocoder = vocoder, .hidden = hidden,
        .wave = wave, .positions = positions,
    };
    plan(&task, scratch);
    together(vocoder_task, &task, threads);
}

int64_t native_vocoder_scratch(const Vocoder *vocoder, int64_t rows, int64_t positions) {
    Speech task = {.share = {.rows = rows}, .vocoder = vocoder, .positions = positions};
    return plan(&task, NULL);
}
