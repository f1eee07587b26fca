// What the slow stack reads of columns of a token and codes.

typedef struct {
    Linear head;        // of 8 bits, whose rows embed tokens too; without weights:
    const bf16 *tokens; // [vocab, dim]
    const bf16 *codes;  // [num_books * book_size, dim]
    int64_t vocab, num_books, book_size, dim;
    int64_t spoken; // the token whose codes are read
} Embedding;

static INLINE float rounded_to_bf16(float x) { return to_float(to_bf16(x)); }

// Writes a token's row, and on top of it the sum of its codes' rows.
static void embed_token(const Embedding *embedding, int64_t token, const float *sum, bf16 *to) {
    const Linear *head = &embedding->head;
    int64_t dim = embedding->dim;
    if (!head->weight) {
        const bf16 *row = embedding->tokens + token * dim;
        for (int64_t i = 0; i < dim; i++) to[i] = to_bf16(to_float(row[i]) + rounded_to_bf16(sum[i]));
        return;
    }
    const uint8_t *panel = head->weight + token / PANEL * columns_of(head) * COLUMN;
    const int8_t *row = (const int8_t *)panel + token % PANEL * 4;
    float scale = to_float(head->scale[token]);
    for (int64_t i = 0; i < dim; i++) {
        float x = rounded_to_bf16(row[i / 4 * COLUMN + i % 4] * scale);
        to[i] = to_bf16(x + rounded_to_bf16(sum[i]));
    }
}

// x [batch, length, dim] of a grid [batch, 1 + num_books, length], tokens first, rounded as PyTorch
// does in bfloat16. Returns 0 where it holds what is no token or code.
//
// Scratch: 64-byte aligned, dim float32.
int native_embed(
    const Embedding *embedding, const int64_t *grid, int64_t batch, int64_t length, bf16 *x,
    float *scratch
) {
    int64_t dim = embedding->dim, size = embedding->book_size;
    for (int64_t n = 0; n < batch * length; n++) {
        const int64_t *column = grid + n / length * (1 + embedding->num_books) * length + n % length;
        int64_t token = column[0];
        if (token < 0 || token >= embedding->vocab) return 0;
        memset(scratch, 0, dim * sizeof(float));
        for (int64_t book = 0; book < embedding->num_books; book++) {
            int64_t code = column[(1 + book) * length];
            if (code < 0 || code >= size) return 0;
            const bf16 *row = embedding->codes + (book * size + code) * dim;
            if (token == embedding->spoken)
                for (int64_t i = 0; i < dim; i++) scratch[i] += to_float(row[i]);
        }
        embed_token(embedding, token, scratch, x + n * dim);
    }
    return 1;
}
