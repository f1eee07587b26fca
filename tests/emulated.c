// native.c in a process of its own: calls come on the standard input, results go to the output.
// tests/emulated.py is the other end.

#include <stdio.h>
#include <stdlib.h>

#include "native.c"

static void *room(int64_t bytes) { return aligned_alloc(64, (bytes + 127) / 64 * 64); }

static void get(void *to, int64_t bytes) {
    if (fread(to, 1, bytes, stdin) != (size_t)bytes) exit(0);
}

static int64_t number(void) {
    int64_t x;
    get(&x, 8);
    return x;
}

// Its number of bytes comes first; none is NULL.
static void *memory(void) {
    int64_t bytes = number();
    void *x = bytes ? room(bytes) : NULL;
    get(x, bytes);
    return x;
}

static void put(const void *x, int64_t bytes) { fwrite(x, 1, bytes, stdout); }

static Linear get_linear(void) {
    Linear linear;
    linear.weight = memory();
    linear.scale = memory();
    linear.bias = memory();
    linear.inputs = number();
    linear.outputs = number();
    linear.bits = number();
    return linear;
}

static Stack get_stack(void) {
    Stack stack;
    stack.num_blocks = number();
    Block *blocks = room(stack.num_blocks * sizeof(Block));
    for (int64_t b = 0; b < stack.num_blocks; b++) {
        blocks[b].attention_norm = memory();
        blocks[b].feed_forward_norm = memory();
        blocks[b].qkv = get_linear();
        blocks[b].out = get_linear();
        blocks[b].gate_up = get_linear();
        blocks[b].down = get_linear();
    }
    stack.blocks = blocks;
    stack.dim = number();
    stack.heads = number();
    stack.kv_heads = number();
    stack.head_dim = number();
    stack.hidden = number();
    get(&stack.eps, 4);
    return stack;
}

static void call_product(int threads) {
    Linear linear = get_linear();
    float *x = memory(), eps;
    bf16 *norm = memory();
    get(&eps, 4);
    int64_t rows = number(), bytes = rows * linear.outputs * 4;
    float *y = room(bytes);
    char *scratch = room(native_product_scratch(&linear, rows));
    native_product(&linear, x, norm, eps, y, rows, scratch, threads);
    put(y, bytes);
}

static void call_embed(int threads) {
    Embedding embedding;
    embedding.head = get_linear();
    embedding.tokens = memory();
    embedding.codes = memory();
    embedding.vocab = number();
    embedding.num_books = number();
    embedding.book_size = number();
    embedding.dim = number();
    embedding.spoken = number();
    int64_t *grid = memory(), batch = number(), length = number();
    int64_t bytes = batch * length * embedding.dim * 2;
    bf16 *x = room(bytes);
    int64_t known = native_embed(&embedding, grid, batch, length, x, room(embedding.dim * 4));
    put(&known, 8);
    put(x, bytes);
}

static void call_panels(int threads) {
    uint32_t *rows = memory();
    int64_t outputs = number(), numbers = number();
    int64_t bytes = (outputs + PANEL - 1) / PANEL * PANEL * numbers * 4;
    uint32_t *panels = room(bytes);
    uint32_t *copies = room(threads * PANEL * numbers * sizeof(*copies));
    native_panels(rows, outputs, numbers, panels, copies, threads);
    put(panels, bytes);
}

static void call_quantise(int threads) {
    float *weight = memory();
    int64_t rows = number(), inputs = number(), bits = number();
    int64_t bytes = rows * inputs * bits / 8, scales = rows * (bits == 8 ? 4 : inputs / GROUP * 8);
    uint8_t *steps = room(bytes);
    float *scale = room(scales);
    native_quantise(weight, rows, inputs, bits, steps, scale, threads);
    put(steps, bytes);
    put(scale, scales);
}

static void call_correct(int threads) {
    float *weight = memory(), *factors = memory();
    int64_t rows = number(), inputs = number(), block = number();
    int64_t bytes = rows * inputs / 2, scales = rows * inputs / GROUP * 8;
    uint8_t *steps = room(bytes);
    float *scale = room(scales);
    native_correct(weight, rows, inputs, block, factors, steps, scale, threads);
    put(steps, bytes);
    put(scale, scales);
}

static void call_draw(int threads) {
    float *logits = memory();
    int64_t *window = memory();
    float *settings = memory();
    double *points = memory();
    int64_t rows = number(), size = number(), width = number(), *drawn = room(rows * 8);
    char *scratch = room(native_draw_scratch(size, threads));
    native_draw(logits, window, settings, points, rows, size, width, drawn, scratch, threads);
    put(drawn, rows * 8);
}

static void call_text(int threads) {
    Linear head = get_linear();
    bf16 *hidden = memory(), *norm = memory();
    float eps;
    get(&eps, 4);
    int64_t rows = number(), width = number(), *drawn = room(rows * 8);
    const float **leanings = room(rows * sizeof(float *));
    for (int64_t r = 0; r < rows; r++) leanings[r] = memory();
    char *settled = memory();
    int64_t *window = memory();
    float *settings = memory();
    double *points = memory();
    char *scratch = room(native_text_scratch(&head, rows, threads));
    native_text(
        &head, hidden, norm, eps, leanings, settled, window, settings, points, rows, width, drawn,
        scratch, threads
    );
    put(drawn, rows * 8);
}

static void call_step(int threads) {
    Stack stack = get_stack();
    bf16 *x = memory();
    float *angles = memory();
    int64_t *lengths = memory(), *rooms = memory(), rows = number(), longest = 0;
    bf16 **places = room(rows * stack.num_blocks * sizeof(bf16 *));
    bf16 ***caches = room(rows * sizeof(bf16 **));
    for (int64_t n = 0; n < rows * stack.num_blocks; n++) {
        places[n] = memory();
        if (!places[n]) places[n] = places[n - stack.num_blocks]; // the row before has the same
    }
    for (int64_t r = 0; r < rows; r++) caches[r] = places + r * stack.num_blocks;
    for (int64_t r = 0; r < rows; r++) longest = lengths[r] > longest ? lengths[r] : longest;
    char *scratch = room(native_scratch(&stack, rows, longest, threads));
    native_step(
        &stack, x, angles, (bf16 *const *const *)caches, lengths, rooms, rows, scratch, threads
    );
    put(x, rows * stack.dim * 2);
    for (int64_t n = 0; n < rows * stack.num_blocks; n++)
        put(places[n], 2 * stack.kv_heads * rooms[n / stack.num_blocks] * stack.head_dim * 2);
}

static void call_codes(int threads) {
    Head head = {.stack = get_stack()};
    head.output = get_linear();
    head.norm = memory();
    head.embedding = memory();
    bf16 *hidden = memory();
    float *angles = memory();
    int64_t *windows = memory();
    float *settings = memory();
    double *points = memory();
    int64_t rows = number(), count = number(), width = number(), *codes = room(rows * count * 8);
    char *scratch = room(native_codes_scratch(&head, rows, count, threads));
    native_codes(
        &head, hidden, angles, windows, settings, points, rows, count, width, codes, scratch, threads
    );
    put(codes, rows * count * 8);
}

static Convolution get_convolution(void) {
    Convolution conv;
    conv.weight = memory();
    conv.bias = memory();
    conv.inputs = number();
    conv.outputs = number();
    conv.taps = number();
    conv.dilation = number();
    conv.state = number();
    conv.paired = number();
    return conv;
}

// Of each row what is kept between its pieces, of as many bytes.
static sample **get_states(int64_t rows, int64_t bytes) {
    sample **states = room(rows * sizeof(sample *));
    for (int64_t r = 0; r < rows; r++) get(states[r] = room(bytes), bytes);
    return states;
}

static void call_vocoder(int threads) {
    Vocoder vocoder;
    vocoder.first = get_convolution();
    vocoder.last = get_convolution();
    vocoder.num_stages = number();
    Stage *stages = room(vocoder.num_stages * sizeof(Stage));
    int64_t rate = 1;
    for (int64_t n = 0; n < vocoder.num_stages; n++) {
        Stage *stage = stages + n;
        stage->up = get_convolution();
        stage->num_stacks = number();
        stage->num_pairs = number();
        int64_t count = stage->num_stacks * stage->num_pairs * 2;
        Convolution *convs = room(count * sizeof(Convolution));
        for (int64_t c = 0; c < count; c++) convs[c] = get_convolution();
        stage->convs = convs;
        rate *= rate_of(stage);
    }
    vocoder.stages = stages;
    float *hidden = memory();
    int64_t rows = number(), positions = number(), bytes = number(), size = positions * rate * 4;
    sample **states = get_states(rows, bytes);
    float *wave = room(rows * size);
    char *scratch = room(native_vocoder_scratch(&vocoder, rows, positions));
    native_vocoder(&vocoder, hidden, states, wave, rows, positions, scratch, threads);
    put(wave, rows * size);
    for (int64_t r = 0; r < rows; r++) put(states[r], bytes);
}

static void call_refinement(int threads) {
    int64_t num_blocks = number(), rate = 1;
    Refinement *blocks = room(num_blocks * sizeof(Refinement));
    for (int64_t n = 0; n < num_blocks; n++) {
        Refinement *block = blocks + n;
        block->up = get_convolution();
        block->wide = get_convolution();
        block->narrow = get_convolution();
        block->depthwise = memory();
        block->bias = memory();
        block->norm_weight = memory();
        block->norm_bias = memory();
        block->taps = number();
        block->state = number();
        get(&block->eps, 4);
        rate *= block->up.outputs / block->up.inputs;
    }
    float *frame = memory();
    int64_t rows = number(), frames = number(), bytes = number();
    int64_t size = frames * rate * blocks->up.inputs * 4;
    sample **states = get_states(rows, bytes);
    float *latent = room(rows * size);
    char *scratch = room(native_refinement_scratch(blocks, num_blocks, rows, frames));
    native_refinement(blocks, frame, states, latent, num_blocks, rows, frames, scratch, threads);
    put(latent, rows * size);
    for (int64_t r = 0; r < rows; r++) put(states[r], bytes);
}

// Memory is given back by the process' end.
int main(void) {
    void (*calls[])(int) = {call_product, call_quantise, call_draw,   call_step,
                            call_codes,   call_correct,  call_panels, call_vocoder,
                            call_refinement, call_embed, call_text};
    for (;;) {
        void (*call)(int) = calls[number()];
        call(number());
        fflush(stdout);
    }
}
