// The small operations of a step, each in one pass. Called from kernels.py with the addresses of tensors.
// What is not finite spreads and is noticed in the logits: no flag here lets the compiler assume it away.
// What is computed for a token depends on that token alone, not on how many others are computed beside it.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

namespace {

// Threads are worth waking for about this many multiplications.
constexpr int64_t worth_threads = 200000;

// Sixteen floats; the compiler makes one register of them or several narrower ones, as the processor has them.
constexpr int64_t lanes = 16;
typedef float Lanes __attribute__((vector_size(64)));
typedef int32_t WholeLanes __attribute__((vector_size(64)));

inline Lanes load(const float* from) {
    Lanes value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

inline void store(float* to, Lanes value) { std::memcpy(to, &value, sizeof value); }

inline Lanes all(float value) { return value - Lanes{}; }

inline float sum_of(Lanes value) {
    const Lanes by8 = value + __builtin_shuffle(value, WholeLanes{8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7});
    const Lanes by4 = by8 + __builtin_shuffle(by8, WholeLanes{4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3});
    return (by4[0] + by4[2]) + (by4[1] + by4[3]);
}

// e^x within 2 units in the last place; below -87 as at -87, above 88 as at 88. The library's own is called one by one.
// Source: the reduction and polynomial of Cephes' expf.
inline Lanes exponential(Lanes x) {
    x = x > 88.0f ? all(88.0f) : x;
    x = x < -87.0f ? all(-87.0f) : x;
    const WholeLanes power = __builtin_convertvector(x * 1.44269504f + (x < 0.0f ? all(-0.5f) : all(0.5f)), WholeLanes);
    const Lanes whole = __builtin_convertvector(power, Lanes);
    const Lanes rest = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    Lanes sum = rest * 1.9875691500e-4f + 1.3981999507e-3f;
    sum = sum * rest + 8.3334519073e-3f;
    sum = sum * rest + 4.1665795894e-2f;
    sum = sum * rest + 1.6666665459e-1f;
    sum = sum * rest + 5.0000001201e-1f;
    sum = sum * rest * rest + rest + 1.0f;
    const WholeLanes exponent = (power + 127) << 23;
    Lanes scale;
    std::memcpy(&scale, &exponent, sizeof scale);
    return sum * scale;
}

// gelu(x) with tanh is x / (1 + e^-a), as silu is with a = x. Source: Hendrycks and Gimpel 2016, arXiv:1606.08415.
template <typename Number>
inline Number gelu_argument(Number x) {
    return x * (1.59576912f + 0.0713548163f * x * x);
}

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

// Where the keys of a position begin; its values come behind all keys.
struct CachedRows {
    const float* cache;
    const int64_t* table;
    int64_t block_size, width;
    const float* operator()(int64_t p) const {
        return cache + (table[p / block_size] * block_size + p % block_size) * width;
    }
};

// Scores of one query against the keys at `column` of `seen` positions from `begin` on.
template <int parts>
void score(const float* q, const CachedRows& rows, int64_t column, int64_t head_dim, int64_t begin, int64_t seen,
           float scale, float* scores) {
    if constexpr (parts == 0) {
        for (int64_t p = 0; p < seen; ++p) scores[p] = scale * dot(q, rows(begin + p) + column, head_dim);
    } else {
        Lanes query[parts];
        for (int i = 0; i < parts; ++i) query[i] = load(q + i * lanes);
        for (int64_t p = 0; p < seen; ++p) {
            const float* key = rows(begin + p) + column;
            Lanes sum = query[0] * load(key);
            for (int i = 1; i < parts; ++i) sum += query[i] * load(key + i * lanes);
            scores[p] = scale * sum_of(sum);
        }
    }
}

// Sum of the values at `column` of `seen` positions from `begin` on, each times its score, divided by `total`.
template <int parts>
void mix(const float* scores, float total, const CachedRows& rows, int64_t column, int64_t head_dim, int64_t begin,
         int64_t seen, float* out) {
    if constexpr (parts == 0) {
        std::fill(out, out + head_dim, 0.0f);
        for (int64_t p = 0; p < seen; ++p) add_scaled(out, scores[p] / total, rows(begin + p) + column, head_dim);
    } else {
        Lanes sum[parts] = {};
        for (int64_t p = 0; p < seen; ++p) {
            const float* value = rows(begin + p) + column;
            for (int i = 0; i < parts; ++i) sum[i] += scores[p] * load(value + i * lanes);
        }
        for (int i = 0; i < parts; ++i) store(out + i * lanes, sum[i] / total);
    }
}

// Let no score grow beyond `cap`: cap * tanh(score / cap). There is room for whole Lanes.
void limit(float* scores, int64_t seen, float cap) {
    for (int64_t p = seen; p % lanes; ++p) scores[p] = 0;
    for (int64_t p = 0; p < seen; p += lanes) {
        const Lanes twice = exponential(load(scores + p) * (2.0f / cap));
        store(scores + p, cap * ((twice - 1.0f) / (twice + 1.0f)));
    }
}

// Turn scores into weights whose sum is returned. There is room for whole Lanes.
float weigh(float* scores, int64_t seen) {
    float most = -std::numeric_limits<float>::infinity(), total = 0;
    for (int64_t p = 0; p < seen; ++p) most = scores[p] > most ? scores[p] : most;
    for (int64_t p = seen; p % lanes; ++p) scores[p] = most;
    for (int64_t p = 0; p < seen; p += lanes) store(scores + p, exponential(load(scores + p) - most));
#pragma omp simd reduction(+ : total)
    for (int64_t p = 0; p < seen; ++p) total += scores[p];
    return total;
}

// How many of a sequence's positions its last one sees; no window means all.
inline int64_t near(int64_t length, int64_t window) { return window ? std::min(length, window) : length; }

template <int parts>
void attend_all(const float* queries, int64_t tokens, int64_t stride, int64_t heads, int64_t kv_heads,
                int64_t head_dim, const int64_t* tables, const int64_t* first, const int64_t* lengths,
                int64_t block_size, int64_t window, float cap, const float* cache, float* out) {
    const int64_t groups = heads / kv_heads;
    const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
    int64_t work = 0;
    for (int64_t t = 0; t < tokens; ++t) work += 2 * near(lengths[t], window) * heads * head_dim;
#pragma omp parallel for collapse(2) schedule(dynamic, 4) if (work > worth_threads)
    for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t kv = 0; kv < kv_heads; ++kv) {
            static thread_local std::vector<float> scores;
            const int64_t seen = near(lengths[t], window), begin = lengths[t] - seen;
            scores.resize((seen + lanes - 1) / lanes * lanes);
            const CachedRows rows{cache, tables + first[t], block_size, 2 * kv_heads * head_dim};
            for (int64_t head = kv * groups; head < (kv + 1) * groups; ++head) {
                const float* q = queries + t * stride + head * head_dim;
                score<parts>(q, rows, kv * head_dim, head_dim, begin, seen, scale, scores.data());
                if (cap > 0) limit(scores.data(), seen, cap);
                const float total = weigh(scores.data(), seen);
                mix<parts>(scores.data(), total, rows, (kv_heads + kv) * head_dim, head_dim, begin,
                           seen, out + (t * heads + head) * head_dim);
            }
        }
    }
}

// products[t][r] = x[t] . a[r] for up to `T` tokens and `R` rows side by side, so that each number is read once for all.
template <int T, int R>
inline void dots(const float* x, const float* a, int64_t in, float* products, int64_t rank) {
    Lanes sums[T][R] = {};
    int64_t i = 0;
    for (; i + lanes <= in; i += lanes) {
        Lanes columns[R];
        for (int r = 0; r < R; ++r) columns[r] = load(a + r * in + i);
        for (int t = 0; t < T; ++t) {
            const Lanes own = load(x + t * in + i);
            for (int r = 0; r < R; ++r) sums[t][r] += own * columns[r];
        }
    }
    for (int t = 0; t < T; ++t) {
        for (int r = 0; r < R; ++r) {
            float sum = sum_of(sums[t][r]);
            for (int64_t rest = i; rest < in; ++rest) sum += x[t * in + rest] * a[r * in + rest];
            products[t * rank + r] = sum;
        }
    }
}

// y[t] += sum over r of products[t][r] * b[r], for `T` tokens side by side.
template <int T>
inline void expand(const float* products, int64_t rank, const float* b, int64_t width, float* y, int64_t stride) {
    int64_t i = 0;
    for (; i + lanes <= width; i += lanes) {
        Lanes sums[T];
        for (int t = 0; t < T; ++t) sums[t] = load(y + t * stride + i);
        for (int64_t r = 0; r < rank; ++r) {
            const Lanes row = load(b + r * width + i);
            for (int t = 0; t < T; ++t) sums[t] += products[t * rank + r] * row;
        }
        for (int t = 0; t < T; ++t) store(y + t * stride + i, sums[t]);
    }
    for (; i < width; ++i) {
        for (int t = 0; t < T; ++t) {
            for (int64_t r = 0; r < rank; ++r) y[t * stride + i] += products[t * rank + r] * b[r * width + i];
        }
    }
}

template <int T>
void update(const float* x, int64_t in, const float* a, const float* b, int64_t rank, int64_t width, float* y,
            int64_t stride, float* products) {
    int64_t r = 0;
    for (; r + 4 <= rank; r += 4) dots<T, 4>(x, a + r * in, in, products + r, rank);
    for (; r < rank; ++r) dots<T, 1>(x, a + r * in, in, products + r, rank);
    expand<T>(products, rank, b, width, y, stride);
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

// Attention of tokens over their own sequence, read where it lies in the blocked cache.
// Shapes: queries (tokens, stride); tables: block numbers, those of token t from first[t]; lengths[t] positions are seen,
// or the last `window` of them, unless it is 0; scores stay below `cap`, unless that is 0; out (tokens, heads * head_dim).
void attend(const float* queries, int64_t tokens, int64_t stride, int64_t heads, int64_t kv_heads, int64_t head_dim,
            const int64_t* tables, const int64_t* first, const int64_t* lengths, int64_t block_size, int64_t window,
            float cap, const float* cache, float* out) {
    const auto chosen = head_dim == 4 * lanes ? attend_all<4> : head_dim == 8 * lanes ? attend_all<8>
        : head_dim == 16 * lanes ? attend_all<16> : attend_all<0>;
    chosen(queries, tokens, stride, heads, kv_heads, head_dim, tables, first, lengths, block_size, window, cap, cache, out);
}

// Add to each token's output the low-rank update of its own adapter.
// Shapes: x (tokens, in), y (tokens, out); tiles (count, 4): first token, how many of the same adapter, its first row in
// the banks, its rank. Module m changes the columns from ends[m - 1] to ends[m]; its banks are at the addresses
// banks[m], of (rows, in), and banks[modules + m], of (rows, width).
void low_rank(const float* x, int64_t in, const int64_t* tiles, int64_t count, const int64_t* banks,
              const int64_t* ends, int64_t modules, float* y, int64_t out) {
    int64_t work = 0;
    for (int64_t tile = 0; tile < count; ++tile) work += tiles[4 * tile + 1] * tiles[4 * tile + 3] * (modules * in + out);
#pragma omp parallel for schedule(dynamic, 1) if (work > worth_threads)
    for (int64_t task = 0; task < count * modules; ++task) {
        const int64_t *tile = tiles + 4 * (task / modules), m = task % modules, rank = tile[3];
        const int64_t begin = m ? ends[m - 1] : 0, width = ends[m] - begin;
        const float* a = reinterpret_cast<const float*>(banks[m]) + tile[2] * in;
        const float* b = reinterpret_cast<const float*>(banks[modules + m]) + tile[2] * width;
        static thread_local std::vector<float> products;
        products.resize(4 * rank);
        int64_t t = tile[0];
        const int64_t end = t + tile[1];
        for (; t + 4 <= end; t += 4) {
            update<4>(x + t * in, in, a, b, rank, width, y + t * out + begin, out, products.data());
        }
        for (; t < end; ++t) {
            update<1>(x + t * in, in, a, b, rank, width, y + t * out + begin, out, products.data());
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

// Round each row to whole numbers around 128, in steps of scales[row] that its largest number is 127 of. Where a number
// is not finite, neither is the scale. Shapes: x, out (rows, n), scales (rows,).
void quantise(const float* x, int64_t rows, int64_t n, float least_peak, float* scales, uint8_t* out) {
#pragma omp parallel for schedule(static) if (rows * n > worth_threads)
    for (int64_t row = 0; row < rows; ++row) {
        const float* from = x + row * n;
        uint8_t* to = out + row * n;
        float peak = least_peak, bad = 0;
#pragma omp simd reduction(max : peak) reduction(+ : bad)
        for (int64_t i = 0; i < n; ++i) {
            const float size = std::fabs(from[i]);
            peak = size > peak ? size : peak;
            bad += from[i] * 0.0f;
        }
        const float step = peak / 127.0f, factor = 127.0f / peak;
        scales[row] = step + bad;
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) {
            const float value = from[i] * factor;
            to[i] = static_cast<uint8_t>(static_cast<int32_t>(value + (value < 0 ? -0.5f : 0.5f)) + 128);
        }
    }
}

// opened(gate) * up, where silu or, with `gelu`, gelu (tanh) opens. Shapes: gate_up (rows, 2 n), out (rows, n).
void gated(const float* gate_up, int64_t rows, int64_t n, bool gelu, float* out) {
#pragma omp parallel for schedule(static) if (rows * n * 4 > worth_threads)
    for (int64_t row = 0; row < rows; ++row) {
        const float *gate = gate_up + row * 2 * n, *up = gate + n;
        float* to = out + row * n;
        int64_t i = 0;
        for (; i + lanes <= n; i += lanes) {
            const Lanes own = load(gate + i);
            store(to + i, own / (1.0f + exponential(-(gelu ? gelu_argument(own) : own))) * load(up + i));
        }
        for (; i < n; ++i) to[i] = gate[i] / (1.0f + std::exp(-(gelu ? gelu_argument(gate[i]) : gate[i]))) * up[i];
    }
}

}  // extern "C"
