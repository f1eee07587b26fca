// One decode step: the positions of some rows through a stack of blocks.

typedef struct {
    const Stack *stack;
    float *x;
    const float *angles;
    bf16 *const *const *caches;
    const int64_t *lengths, *rooms;
    int64_t rows, longest;
    float *normed, *heads, *change, *gates, *scores;
    Inputs in, wide;
} Step;

// Inputs of the block's last product. A thread rounds the parts whose gates it made, which its cache
// holds; where parts can't be shared evenly, or are made in tiles, any thread does.
static void make_hidden(Step *task, const Block *block, int thread, int threads) {
    int64_t hidden = task->stack->hidden, parts = task->wide.stride / PART;
    int64_t first = parts * thread / threads, end = parts * (thread + 1) / threads;
    if (hidden % PART || parts % threads || task->in.is_tiled) {
        product(&block->gate_up, &task->in, task->gates, thread, threads);
        meet();
    } else
        for (int64_t is_up = 0; is_up < 2; is_up++) {
            int64_t panels = PART / PANEL, before = is_up * parts * panels;
            product_of(
                &block->gate_up, &task->in, task->gates, before + first * panels, before + end * panels
            );
        }
    for (int64_t r = 0; r < task->rows; r++)
        for (int64_t part = first; part < end; part++) {
            float *gate = task->gates + r * 2 * hidden + part * PART, *up = gate + hidden;
            int64_t size = smaller(hidden - part * PART, PART);
#pragma omp simd
            for (int64_t i = 0; i < size; i++) gate[i] *= up[i] / (1 + exponential(-gate[i]));
            quantise_part(gate, &block->down, &task->wide, r, part);
        }
}

static void step_task(void *data, int thread, int threads) {
    Step *task = data;
    const Stack *stack = task->stack;
    const int64_t *lengths = task->lengths, *rooms = task->rooms;
    int64_t dim = stack->dim, size = stack->head_dim, kv_heads = stack->kv_heads;
    int64_t queries = stack->heads / kv_heads;
    int64_t num_heads = stack->heads + 2 * kv_heads, rows = task->rows, longest = task->longest;
    float *x = task->x, *normed = task->normed, *heads = task->heads, *change = task->change;
    float *scores = task->scores;
    const float *angles = task->angles;
    for (int64_t b = 0; b < stack->num_blocks; b++) {
        const Block *block = stack->blocks + b;
        for (int64_t r = thread; r < rows; r += threads) {
            norm(x + r * dim, block->attention_norm, dim, stack->eps, normed + r * dim);
            quantise_row(normed + r * dim, &block->qkv, &task->in, r);
        }
        meet();
        product(&block->qkv, &task->in, heads, thread, threads);
        meet();
        for (int64_t pair = thread; pair < rows * kv_heads; pair += threads) {
            int64_t r = pair / kv_heads, head = pair % kv_heads;
            float *k = heads + (r * num_heads + stack->heads + head) * size;
            float *v = k + kv_heads * size;
            rotate(k, angles + lengths[r] * size, size);
            bf16 *keys = task->caches[r][b] + head * rooms[r] * size;
            bf16 *values = keys + kv_heads * rooms[r] * size;
            for (int64_t i = 0; i < size; i++) {
                keys[lengths[r] * size + i] = to_bf16(k[i]);
                values[lengths[r] * size + i] = to_bf16(v[i]);
            }
        }
        if (rows > 1) meet(); // they may be positions of one conversation
        for (int64_t pair = thread; pair < rows * kv_heads; pair += threads) {
            int64_t r = pair / kv_heads, head = pair % kv_heads;
            float *q = heads + (r * num_heads + head * queries) * size;
            for (int64_t n = 0; n < queries; n++)
                rotate(q + n * size, angles + lengths[r] * size, size);
            const bf16 *keys = task->caches[r][b] + head * rooms[r] * size;
            const bf16 *values = keys + kv_heads * rooms[r] * size;
            float *own = scores + thread * scores_of(longest);
            float *y = normed + r * dim + head * queries * size;
            attend(q, keys, values, queries, lengths[r] + 1, size, own, y);
        }
        meet();
        for (int64_t r = thread; r < rows; r += threads)
            quantise_row(normed + r * dim, &block->out, &task->in, r);
        meet();
        product(&block->out, &task->in, change, thread, threads);
        meet();
        for (int64_t r = thread; r < rows; r += threads) {
            for (int64_t i = r * dim; i < (r + 1) * dim; i++) x[i] += change[i];
            norm(x + r * dim, block->feed_forward_norm, dim, stack->eps, normed + r * dim);
            quantise_row(normed + r * dim, &block->gate_up, &task->in, r);
        }
        meet();
        make_hidden(task, block, thread, threads);
        meet();
        product(&block->down, &task->wide, change, thread, threads);
        meet();
        for (int64_t r = thread; r < rows; r += threads)
            for (int64_t i = r * dim; i < (r + 1) * dim; i++) x[i] += change[i];
    }
}

// As `native_step`, with x in float32.
static void step(
    const Stack *stack, float *x, const float *angles, bf16 *const *const *caches,
    const int64_t *lengths, const int64_t *rooms, int64_t rows, char *scratch, int threads
) {
    int64_t dim = stack->dim, num_heads = stack->heads + 2 * stack->kv_heads, longest = 0;
    for (int64_t r = 0; r < rows; r++) longest = lengths[r] > longest ? lengths[r] : longest;
    Step task = {stack, x, angles, caches, lengths, rooms, rows, longest};
    task.normed = take(&scratch, rows * dim * sizeof(float));
    task.heads = take(&scratch, rows * num_heads * stack->head_dim * sizeof(float));
    task.change = take(&scratch, rows * dim * sizeof(float));
    task.gates = take(&scratch, rows * 2 * stack->hidden * sizeof(float));
    task.scores = take(&scratch, threads * scores_of(longest) * sizeof(float));
    task.in = take_inputs(&scratch, rows, dim);
    task.wide = take_inputs(&scratch, rows, stack->hidden);
    together(step_task, &task, threads);
}

// One position of each row through all blocks; x [rows, dim] is replaced.
//
// Rows with the same caches are positions of one conversation, one after another. What a row gives
// does not depend on the others, but for those before it in the same caches.
//
// angles: of all positions, [positions, head_dim / 2, 2]. caches: of each row those of the blocks,
// bf16 [2 * kv_heads, room, head_dim], keys first. lengths: of each row, positions that are before
// it; rooms: that its caches can hold. Scratch: 64-byte aligned, native_scratch(stack, rows, longest
// length, threads) bytes.
void native_step(
    const Stack *stack, bf16 *x, const float *angles, bf16 *const *const *caches,
    const int64_t *lengths, const int64_t *rooms, int64_t rows, char *scratch, int threads
) {
    int64_t size = rows * stack->dim;
    float *wide = take(&scratch, size * sizeof(float));
    widen(x, size, wide);
    step(stack, wide, angles, caches, lengths, rooms, rows, scratch, threads);
    for (int64_t i = 0; i < size; i++) x[i] = to_bf16(wide[i]);
}

int64_t native_scratch(const Stack *stack, int64_t rows, int64_t longest, int threads) {
    int64_t floats = 3 * stack->dim + (stack->heads + 2 * stack->kv_heads) * stack->head_dim +
                     2 * stack->hidden;
    return rows * floats * 4 + threads * scores_of(longest) * 4 +
           inputs_bytes(rows, stack->dim) + inputs_bytes(rows, stack->hidden) + 6 * 64;
}
