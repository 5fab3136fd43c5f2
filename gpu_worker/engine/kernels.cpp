// The small operations of a decoding step, each in one pass. Called from kernels.py with the addresses of tensors.
// What is not finite spreads and is noticed in the logits: no flag here lets the compiler assume it away.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace {

// Threads are worth waking for about this many multiplications.
constexpr int64_t worth_threads = 200000;

inline float dot(const float* a, const float* b, int64_t n) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
    return sum;
}

inline void add_scaled(float* y, float factor, const float* x, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[i] += factor * x[i];
}

}  // namespace

extern "C" {

// Rotate queries and keys of every token in place, and put its keys and values into their cache slot.
// Shapes: qkv (tokens, stride), rotation (tokens, head_dim / 2) of cosine and sine, cache (slots, 2 * kv_heads * head_dim).
void rotate_and_store(float* qkv, int64_t tokens, int64_t stride, int64_t heads, int64_t kv_heads, int64_t head_dim,
                      const float* rotation, const int64_t* slots, float* cache) {
    const int64_t rotated = (heads + kv_heads) * head_dim, key = heads * head_dim, width = 2 * kv_heads * head_dim;
    for (int64_t t = 0; t < tokens; ++t) {
        float* row = qkv + t * stride;
        const float* turn = rotation + t * head_dim;
        for (int64_t head = 0; head < rotated; head += head_dim) {
#pragma omp simd
            for (int64_t i = 0; i < head_dim / 2; ++i) {
                const float re = row[head + 2 * i], im = row[head + 2 * i + 1];
                const float c = turn[2 * i], s = turn[2 * i + 1];
                row[head + 2 * i] = re * c - im * s;
                row[head + 2 * i + 1] = re * s + im * c;
            }
        }
        std::copy(row + key, row + key + width, cache + slots[t] * width);
    }
}

// Attention of single tokens over their own sequence, read where it lies in the blocked cache.
// Shapes: queries (tokens, stride); tables: block numbers, those of token t from first[t]; lengths[t] positions are seen;
// out (tokens, heads * head_dim). The heads of one key/value head are computed together, so keys are read once.
void attend(const float* queries, int64_t tokens, int64_t stride, int64_t heads, int64_t kv_heads, int64_t head_dim,
            const int64_t* tables, const int64_t* first, const int64_t* lengths, int64_t block_size,
            const float* cache, float* out) {
    const int64_t groups = heads / kv_heads, width = 2 * kv_heads * head_dim;
    const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
    int64_t work = 0;
    for (int64_t t = 0; t < tokens; ++t) work += 2 * lengths[t] * heads * head_dim;
#pragma omp parallel for collapse(2) schedule(dynamic, 4) if (work > worth_threads)
    for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t kv = 0; kv < kv_heads; ++kv) {
            const int64_t seen = lengths[t];
            const int64_t* table = tables + first[t];
            static thread_local std::vector<float> scores;
            scores.resize(groups * seen);
            const float* q = queries + t * stride + kv * groups * head_dim;
            for (int64_t p = 0; p < seen; ++p) {
                const float* k = cache + (table[p / block_size] * block_size + p % block_size) * width + kv * head_dim;
                for (int64_t g = 0; g < groups; ++g) scores[g * seen + p] = scale * dot(q + g * head_dim, k, head_dim);
            }
            float* result = out + (t * heads + kv * groups) * head_dim;
            for (int64_t g = 0; g < groups; ++g) {
                float* row = scores.data() + g * seen;
                float most = -std::numeric_limits<float>::infinity(), sum = 0;
                for (int64_t p = 0; p < seen; ++p) most = row[p] > most ? row[p] : most;
                for (int64_t p = 0; p < seen; ++p) {
                    row[p] = std::exp(row[p] - most);
                    sum += row[p];
                }
                for (int64_t p = 0; p < seen; ++p) row[p] /= sum;
                std::fill(result + g * head_dim, result + (g + 1) * head_dim, 0.0f);
            }
            for (int64_t p = 0; p < seen; ++p) {
                const float* v = cache + (table[p / block_size] * block_size + p % block_size) * width +
                                 (kv_heads + kv) * head_dim;
                for (int64_t g = 0; g < groups; ++g) add_scaled(result + g * head_dim, scores[g * seen + p], v, head_dim);
            }
        }
    }
}

// Add to each token's output the low-rank update of its own adapter.
// Shapes: x (tokens, in), y (tokens, out), a (rows, in), b (rows, out); the rows of token t begin at first[t] and are
// `modules` times ranks[t], those of module m changing the columns from ends[m - 1] to ends[m]. ranks[t] may be 0.
void low_rank(const float* x, int64_t tokens, int64_t in, const float* a, const float* b, int64_t out,
              const int64_t* first, const int64_t* ranks, const int64_t* ends, int64_t modules, float* y) {
    int64_t work = 0;
    for (int64_t t = 0; t < tokens; ++t) work += ranks[t] * (modules * in + out);
#pragma omp parallel for schedule(dynamic, 1) if (work > worth_threads && tokens > 1)
    for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t m = 0; m < modules; ++m) {
            const int64_t begin = m ? ends[m - 1] : 0;
            for (int64_t r = 0; r < ranks[t]; ++r) {
                const int64_t row = first[t] + m * ranks[t] + r;
                const float product = dot(x + t * in, a + row * in, in);
                add_scaled(y + t * out + begin, product, b + row * out + begin, ends[m] - begin);
            }
        }
    }
}

// Shapes: x, out (rows, n), weight (n,).
void rms_norm(const float* x, const float* weight, float epsilon, int64_t rows, int64_t n, float* out) {
    for (int64_t row = 0; row < rows; ++row) {
        const float* from = x + row * n;
        const float factor = 1.0f / std::sqrt(dot(from, from, n) / static_cast<float>(n) + epsilon);
        float* to = out + row * n;
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) to[i] = from[i] * factor * weight[i];
    }
}

// silu(gate) * up. Shapes: gate_up (rows, 2 n), out (rows, n).
void gated(const float* gate_up, int64_t rows, int64_t n, float* out) {
#pragma omp parallel for schedule(static) if (rows * n * 8 > worth_threads)
    for (int64_t row = 0; row < rows; ++row) {
        const float* gate = gate_up + row * 2 * n;
        float* to = out + row * n;
        for (int64_t i = 0; i < n; ++i) to[i] = gate[i] / (1.0f + std::exp(-gate[i])) * gate[n + i];
    }
}

}  // extern "C"
