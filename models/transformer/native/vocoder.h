// A HiFi-GAN vocoder, tile by tile, so that what passes between its layers stays in the cache.

enum {
    MAX_STAGES = 16,
    TILE = 1 << 17, // numbers of a stage's signal that are made before the next stage goes on
};

int native_max_stages(void) { return MAX_STAGES; }

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

typedef struct {
    Share share;
    const Vocoder *vocoder;
    const float *hidden;
    float *wave;
    int64_t positions, samples, first_tile;
    int64_t tiles[MAX_STAGES];            // inputs of a stage that it takes at once
    int64_t rates[MAX_STAGES];            // positions of a stage for each of `positions`
    Signal start, ups[MAX_STAGES + 1];    // of the first convolution, the stages and the last
    sample *shared, *before, *between;    // inputs within a stage
    float *x, *sum, *total;               // of a stage; of one of its stacks; of several
} Speech;

static int64_t rate_of(const Stage *stage) { return stage->up.outputs / stage->convs->inputs; }

// The inputs that a stage's stacks share: as many are known as the longest one needs.
static Signal shared_inputs(const Stage *stage, sample *data, int64_t room) {
    Signal shared = inputs_of(stage->convs, data, room);
    for (int64_t s = 1; s < stage->num_stacks; s++) {
        int64_t needed = reach(stage->convs + s * stage->num_pairs * 2);
        if (needed > shared.known) shared.known = needed;
    }
    return shared;
}

// A convolution of all new inputs, which are final.
static void convolve_all(
    const Share *share, const Convolution *conv, const Signal *in, int64_t count, const Output *to
) {
    if (conv->paired) convolve_pairs(share, conv, in, count, to);
    else convolve(share, conv, in, 0, count, to);
}

static void prepare_pairs(
    const Share *share, const Convolution *conv, const Signal *in, int64_t count
) {
    if (!conv->paired) return;
    mix_inputs(share, in, conv->dilation, count);
    meet();
}

// All stacks of a stage over a tile, whose mean is the next one's input.
static void run_stacks(
    const Speech *task, const Share *share, const Stage *stage, const Signal *shared, int64_t count,
    const Signal *next
) {
    int64_t room = shared->room, row_size = room * shared->channels, width = shared->channels;
    for (int64_t s = 0; s < stage->num_stacks; s++)
        for (int64_t p = 0; p < stage->num_pairs; p++) {
            const Convolution *conv = stage->convs + (s * stage->num_pairs + p) * 2;
            Signal before = p ? inputs_of(conv, task->before, room) : *shared;
            Signal between = inputs_of(conv + 1, task->between, room);
            Output first = {.width = width, .active = &between};
            recall(share, &between);
            // What all stacks begin with is mixed for the first one: they have its dilation.
            if (p || !s) prepare_pairs(share, conv, &before, count);
            convolve_all(share, conv, &before, count, &first);
            if (p || !s) keep(share, &before, count);
            meet();
            prepare_pairs(share, conv + 1, &between, count);
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
            if (second.active) recall(share, second.active);
            convolve_all(share, conv + 1, &between, count, &second);
            keep(share, &between, count);
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
        Share share = task->share;
        share.rate = task->rates[n];
        share.at = (at + begin) * rate;
        run_stacks(task, &share, stage, &shared, size * rate, &task->ups[n + 1]);
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
        task->rates[n] = (n ? task->rates[n - 1] : 1) * rate;
        int kinds = stage->convs->paired ? KINDS : 1;
        Signal common = shared_inputs(stage, NULL, tile);
        shared = at_least(shared, rows * size_of(&common) * kinds);
        for (int64_t c = 0; c < stage->num_stacks * stage->num_pairs * 2; c++) {
            Signal one = inputs_of(stage->convs + c, NULL, tile);
            inner = at_least(inner, rows * size_of(&one) * kinds);
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
// zeros: how many positions it had, in 4 bytes, then inputs.
// Scratch: 64-byte aligned, native_vocoder_scratch(vocoder, rows, positions) bytes.
void native_vocoder(
    const Vocoder *vocoder, const float *hidden, sample *const *states, float *wave, int64_t rows,
    int64_t positions, char *scratch, int threads
) {
    Speech task = {
        .share = {.rows = rows, .states = states}, .vocoder = vocoder, .hidden = hidden,
        .wave = wave, .positions = positions,
    };
    plan(&task, scratch);
    together(vocoder_task, &task, threads);
    for (int64_t row = 0; row < rows; row++) {
        uint32_t count;
        memcpy(&count, states[row], sizeof count);
        count += positions;
        memcpy(states[row], &count, sizeof count);
    }
}

int64_t native_vocoder_scratch(const Vocoder *vocoder, int64_t rows, int64_t positions) {
    Speech task = {.share = {.rows = rows}, .vocoder = vocoder, .positions = positions};
    return plan(&task, NULL);
}
