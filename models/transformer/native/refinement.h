// Frames of a few numbers become latents at a higher rate: each time a transposed convolution and a
// ConvNeXt block, in pieces.

enum { FRAMES = 32 }; // of all rows, that are computed at once

typedef struct {
    Convolution up, wide, narrow; // the last with the block's scale
    const float *depthwise;       // [taps, channels]
    const float *bias, *norm_weight, *norm_bias; // [channels]; bias: of the depthwise convolution
    int64_t taps, state;
    float eps;
} Refinement;

typedef struct {
    Share share;
    const Refinement *blocks;
    int64_t num_blocks, frames, tile, rate; // rate: of all blocks
    const float *frame;
    float *latent;
    Signal in, deep, normed, wide;
    float *x, *mixed;
    int64_t row_size; // of these two
} Refining;

// Depthwise convolution and layer norm over the channels.
static void mix(const Refining *task, const Refinement *block, int64_t count) {
    int64_t channels = block->up.inputs;
    int64_t all = task->share.rows * count;
    int64_t first = all * task->share.thread / task->share.threads;
    int64_t end = all * (task->share.thread + 1) / task->share.threads;
    for (int64_t n = first; n < end; n++) {
        int64_t row = n / count, p = n % count;
        const sample *from = task->deep.data + row * size_of(&task->deep) + p * channels;
        float *y = task->mixed + row * task->row_size + p * channels;
        floats sum = {0}, squares = {0};
        for (int64_t i = 0; i < channels; i += WIDTH) {
            floats mixed = read_floats(block->bias + i, WIDTH);
            for (int64_t tap = 0; tap < block->taps; tap++) {
                floats weight = read_floats(block->depthwise + tap * channels + i, WIDTH);
                mixed = fused(read_samples(from + tap * channels + i), weight, mixed);
            }
            write_floats(y + i, mixed, WIDTH);
            sum += mixed;
        }
        floats mean = splat(sum_lanes(sum) / channels);
        for (int64_t i = 0; i < channels; i += WIDTH) {
            floats rest = read_floats(y + i, WIDTH) - mean;
            squares = fused(rest, rest, squares);
        }
        floats factor = splat(1 / sqrtf(sum_lanes(squares) / channels + block->eps));
        sample *to = task->normed.data + row * size_of(&task->normed) + p * channels;
        for (int64_t i = 0; i < channels; i += WIDTH) {
            floats rest = (read_floats(y + i, WIDTH) - mean) * factor;
            floats weight = read_floats(block->norm_weight + i, WIDTH);
            write_samples(to + i, fused(rest, weight, read_floats(block->norm_bias + i, WIDTH)));
        }
    }
}

// A block over some frames; the last one's latents remain in x.
static int64_t run_block(Refining *task, int64_t number, int64_t count) {
    const Refinement *block = &task->blocks[number];
    const Share *share = &task->share;
    task->deep.known = block->taps - 1;
    task->deep.state = block->state;
    Output raised = {
        .kept = task->x, .row_size = task->row_size, .width = block->up.outputs,
        .active = &task->deep, .activation = NONE,
    };
    recall(share, &task->deep);
    convolve(share, &block->up, &task->in, 0, count, &raised);
    keep(share, &task->in, count);
    meet();
    count *= block->up.outputs / block->up.inputs;
    mix(task, block, count);
    keep(share, &task->deep, count);
    meet();
    Output wide = {.width = block->wide.outputs, .active = &task->wide, .activation = GELU};
    convolve(share, &block->wide, &task->normed, 0, count, &wide);
    meet();
    Output narrow = {
        .residual = task->x, .row_size = task->row_size, .width = block->narrow.outputs,
        .kept = task->x, .activation = NONE,
    };
    if (number + 1 < task->num_blocks) {
        const Convolution *next = &task->blocks[number + 1].up;
        task->in.known = reach(next);
        task->in.state = next->state;
        narrow.active = &task->in;
        recall(share, &task->in);
    }
    convolve(share, &block->narrow, &task->wide, 0, count, &narrow);
    meet();
    return count;
}

static void refinement_task(void *data, int thread, int threads) {
    Refining own = *(Refining *)data, *task = &own;
    const Convolution *first = &task->blocks->up;
    task->share.thread = thread;
    task->share.threads = threads;
    for (int64_t begin = 0; begin < task->frames; begin += task->tile) {
        int64_t count = at_most(task->frames - begin, task->tile), channels = first->inputs;
        task->in.known = reach(first);
        task->in.state = first->state;
        recall(&task->share, &task->in);
        take_in(&task->share, task->frame + begin * channels, task->frames, count, &task->in);
        meet();
        for (int64_t n = 0; n < task->num_blocks; n++) count = run_block(task, n, count);
        for (int64_t row = thread; row < task->share.rows; row += threads)
            memcpy(
                task->latent + (row * task->frames + begin) * task->rate * channels,
                task->x + row * task->row_size, count * channels * sizeof(float)
            );
        meet();
    }
}

// Divides the scratch memory, and tells how much of it is needed; NULL only tells.
static int64_t plan_refinement(Refining *task, char *scratch) {
    int64_t rows = task->share.rows, channels = task->blocks->up.inputs, size = 0, wide = 0;
    int64_t known = 0;
    task->rate = 1;
    for (int64_t n = 0; n < task->num_blocks; n++) {
        const Refinement *block = &task->blocks[n];
        task->rate *= block->up.outputs / channels;
        wide = at_least(wide, block->wide.outputs);
        known = at_least(known, at_least(block->taps - 1, reach(&block->up)));
    }
    task->tile = at_least(1, at_most(task->frames, FRAMES / rows));
    int64_t room = task->tile * task->rate, one = rows * (known + room) * channels;
    task->row_size = room * channels;
    task->in = task->deep = task->normed = (Signal){NULL, 0, room, channels, 0};
    task->wide = (Signal){NULL, 0, room, wide, 0};
    task->in.data = take_signal(&scratch, &size, one, channels);
    task->deep.data = take_signal(&scratch, &size, one, channels);
    task->normed.data = take_signal(&scratch, &size, one, channels);
    task->wide.data = take_signal(&scratch, &size, rows * room * wide, wide);
    int64_t bytes = rows * task->row_size * sizeof(float);
    if (scratch) {
        task->x = take(&scratch, bytes);
        task->mixed = take(&scratch, bytes);
    }
    return size + 2 * (bytes + 64);
}

// The next latents [rows, frames * rate, channels] of frames [rows, frames, channels].
//
// states: of each row what is kept between its pieces, at first zeros. Scratch: 64-byte aligned,
// native_refinement_scratch(blocks, num_blocks, rows, frames) bytes.
void native_refinement(
    const Refinement *blocks, const float *frame, sample *const *states, float *latent,
    int64_t num_blocks, int64_t rows, int64_t frames, char *scratch, int threads
) {
    Refining task = {
        .share = {.rows = rows, .states = states}, .blocks = blocks, .num_blocks = num_blocks,
        .frames = frames, .frame = frame, .latent = latent,
    };
    plan_refinement(&task, scratch);
    together(refinement_task, &task, threads);
}

int64_t native_refinement_scratch(
    const Refinement *blocks, int64_t num_blocks, int64_t rows, int64_t frames
) {
    Refining task = {
        .share = {.rows = rows}, .blocks = blocks, .num_blocks = num_blocks, .frames = frames,
    };
    return plan_refinement(&task, NULL);
}
