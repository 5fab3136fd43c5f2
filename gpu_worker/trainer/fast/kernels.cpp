// The kernels of kernels.py, each as one pass over its rows. Compiled on the machine it runs on by native.py, which
// also says what the arguments are. Plain C interface: no headers of torch or Python, so it compiles in two seconds.
//
// Rows are independent of each other and dealt out to OpenMP's threads, the same threads that torch uses.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include <omp.h>

namespace {

constexpr int kLanes = 16;
typedef float Vector __attribute__((vector_size(kLanes * sizeof(float)), aligned(sizeof(float))));

// exp(x), relative error 2e-7: 2^n times a polynomial of the rest (Cephes' expf). Written out so that it vectorises.
inline float exponential(float x) {
    x = std::min(std::max(x, -87.0f), 88.0f);
    const float n = std::floor(x * 1.44269504088896341f + 0.5f);
    const float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
    return p * __builtin_bit_cast(float, bits);
}

inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

// A gate opens by x·sigmoid(z): z = x is SiLU, z = 2·√(2/π)·(x + 0.044715·x³) is GELU's approximation by tanh.
constexpr float kGelu = 1.5957691216f, kGeluCube = 0.0713548163f;
template <bool Gelu>
inline float open_at(float x) {
    return Gelu ? x * (kGelu + kGeluCube * x * x) : x;
}
template <bool Gelu>
inline float open_slope(float x) {
    return Gelu ? kGelu + 3.0f * kGeluCube * x * x : 1.0f;
}

inline uint8_t rounded(float x) { return static_cast<uint8_t>(static_cast<int32_t>(std::nearbyint(x)) + 128); }

// Writes a row in 8 bits: q = round(x·s / scale) + 128 with scale = max|x·s| / 127; s may be null, which is 1.
inline void quantise_row(const float* x, int64_t n, const float* s, uint8_t* q, float* scale) {
    float peak = 1e-20f;
    if (s) {
        for (int64_t i = 0; i < n; ++i) peak = std::max(peak, std::fabs(x[i] * s[i]));
    } else {
        for (int64_t i = 0; i < n; ++i) peak = std::max(peak, std::fabs(x[i]));
    }
    *scale = peak * (1.0f / 127.0f);
    const float inverse = 127.0f / peak;
    if (s) {
        for (int64_t i = 0; i < n; ++i) q[i] = rounded(x[i] * s[i] * inverse);
    } else {
        for (int64_t i = 0; i < n; ++i) q[i] = rounded(x[i] * inverse);
    }
}

// R rows of y from `first` on, columns [column, column + Width): y·scale + residual + low·up.
template <int R, int Width>
inline void finish_tile(float* y, const float* scales, const float* residual, int64_t stride, const float* low,
                        int64_t low_stride, const float* up, int64_t up_stride, int64_t ranks) {
    constexpr int V = Width / kLanes;
    Vector sum[R][V];
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) {
            sum[i][v] = *reinterpret_cast<const Vector*>(y + i * stride + v * kLanes);
            if (scales) sum[i][v] *= scales[i];
            if (residual) sum[i][v] += *reinterpret_cast<const Vector*>(residual + i * stride + v * kLanes);
        }
    for (int64_t r = 0; r < ranks; ++r) {
        Vector u[V];
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) u[v] = *reinterpret_cast<const Vector*>(up + r * up_stride + v * kLanes);
#pragma GCC unroll 8
        for (int i = 0; i < R; ++i)
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) sum[i][v] += low[i * low_stride + r] * u[v];
    }
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) *reinterpret_cast<Vector*>(y + i * stride + v * kLanes) = sum[i][v];
}

template <int R>
inline void finish_rows(float* y, const float* scales, const float* residual, int64_t stride, const float* low,
                        int64_t low_stride, const float* up, int64_t columns, int64_t ranks) {
    constexpr int kWidth = 64;
    int64_t c = 0;
    for (; c + kWidth <= columns; c += kWidth)
        finish_tile<R, kWidth>(y + c, scales, residual ? residual + c : nullptr, stride, low, low_stride, up + c, columns, ranks);
    for (; c + kLanes <= columns; c += kLanes)
        finish_tile<R, kLanes>(y + c, scales, residual ? residual + c : nullptr, stride, low, low_stride, up + c, columns, ranks);
    for (; c < columns; ++c)
        for (int i = 0; i < R; ++i) {
            float sum = y[i * stride + c] * (scales ? scales[i] : 1.0f);
            if (residual) sum += residual[i * stride + c];
            for (int64_t r = 0; r < ranks; ++r) sum += low[i * low_stride + r] * up[r * columns + c];
            y[i * stride + c] = sum;
        }
}

// --- attention over short rows ---
//
// Three small products, register by register. m is the head size, a multiple of kLanes.

// c[i][0, Width) = factor · Σ_d x[i][d] · yt[d][0, Width), R rows i.
template <int R, int Width>
inline void dot_tile(const float* x, int64_t x_stride, const float* yt, int64_t yt_stride, int64_t m, float factor,
                     float* c, int64_t c_stride) {
    constexpr int V = Width / kLanes;
    Vector sum[R][V];
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sum[i][v] = Vector{};
    for (int64_t d = 0; d < m; ++d) {
        Vector y[V];
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) y[v] = *reinterpret_cast<const Vector*>(yt + d * yt_stride + v * kLanes);
#pragma GCC unroll 8
        for (int i = 0; i < R; ++i)
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) sum[i][v] += x[i * x_stride + d] * y[v];
    }
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) *reinterpret_cast<Vector*>(c + i * c_stride + v * kLanes) = factor * sum[i][v];
}

// c[i][0, keys) for R rows i; keys is a multiple of kLanes.
template <int R>
inline void dot_rows(const float* x, int64_t x_stride, const float* yt, int64_t yt_stride, int64_t m, float factor,
                     float* c, int64_t c_stride, int64_t keys) {
    int64_t k = 0;
    for (; k + 3 * kLanes <= keys; k += 3 * kLanes)
        dot_tile<R, 3 * kLanes>(x, x_stride, yt + k, yt_stride, m, factor, c + k, c_stride);
    for (; k < keys; k += kLanes) dot_tile<R, kLanes>(x, x_stride, yt + k, yt_stride, m, factor, c + k, c_stride);
}

// c[i][0, Width) += Σ_k a[i·a_row + k·a_column] · y[k][0, Width), R rows i.
template <int R, int Width>
inline void add_tile(const float* a, int64_t a_row, int64_t a_column, int64_t count, const float* y, int64_t y_stride,
                     float* c, int64_t c_stride) {
    constexpr int V = Width / kLanes;
    Vector sum[R][V];
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sum[i][v] = *reinterpret_cast<const Vector*>(c + i * c_stride + v * kLanes);
    for (int64_t k = 0; k < count; ++k) {
        Vector row[V];
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) row[v] = *reinterpret_cast<const Vector*>(y + k * y_stride + v * kLanes);
#pragma GCC unroll 8
        for (int i = 0; i < R; ++i)
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) sum[i][v] += a[i * a_row + k * a_column] * row[v];
    }
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) *reinterpret_cast<Vector*>(c + i * c_stride + v * kLanes) = sum[i][v];
}

template <int R>
inline void add_rows(const float* a, int64_t a_row, int64_t a_column, int64_t count, const float* y, int64_t y_stride,
                     float* c, int64_t c_stride, int64_t m) {
    int64_t d = 0;
    for (; d + 4 * kLanes <= m; d += 4 * kLanes)
        add_tile<R, 4 * kLanes>(a, a_row, a_column, count, y + d, y_stride, c + d, c_stride);
    for (; d < m; d += kLanes) add_tile<R, kLanes>(a, a_row, a_column, count, y + d, y_stride, c + d, c_stride);
}

// --- gradients of adapters ---

// Tokens that are taken together: their gradients of the widest stack stay in the second-level cache.
constexpr int64_t kTokensTogether = 48;

inline float sum_of(const Vector& v) {
    float sum = 0.0f;
    for (int i = 0; i < kLanes; ++i) sum += v[i];
    return sum;
}

// c[i][j] = factor · x[i] · y[j] over n numbers, R rows i, S rows j.
template <int R, int S>
inline void product_tile(const float* x, int64_t x_stride, const float* y, int64_t n, float factor, float* c,
                         int64_t c_stride) {
    Vector sum[R][S];
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < S; ++j) sum[i][j] = Vector{};
    int64_t k = 0;
    for (; k + kLanes <= n; k += kLanes) {
        Vector right[S];
#pragma GCC unroll 8
        for (int j = 0; j < S; ++j) right[j] = *reinterpret_cast<const Vector*>(y + j * n + k);
#pragma GCC unroll 8
        for (int i = 0; i < R; ++i) {
            const Vector left = *reinterpret_cast<const Vector*>(x + i * x_stride + k);
#pragma GCC unroll 8
            for (int j = 0; j < S; ++j) sum[i][j] += left * right[j];
        }
    }
    for (int i = 0; i < R; ++i)
        for (int j = 0; j < S; ++j) {
            float whole = sum_of(sum[i][j]);
            for (int64_t rest = k; rest < n; ++rest) whole += x[i * x_stride + rest] * y[j * n + rest];
            c[i * c_stride + j] = factor * whole;
        }
}

template <int R>
inline void product_rows(const float* x, int64_t x_stride, const float* y, int64_t n, int64_t rows, float factor,
                         float* c, int64_t c_stride) {
    int64_t j = 0;
    for (; j + 4 <= rows; j += 4) product_tile<R, 4>(x, x_stride, y + j * n, n, factor, c + j, c_stride);
    for (; j < rows; ++j) product_tile<R, 1>(x, x_stride, y + j * n, n, factor, c + j, c_stride);
}

// c (count, ranks) = factor · x yᵀ from x (count, n) and y (ranks, n), whose rows lie one behind the other.
inline void product_with_rows(const float* x, int64_t x_stride, const float* y, int64_t n, int64_t ranks,
                              int64_t count, float factor, float* c, int64_t c_stride) {
    int64_t i = 0;
    for (; i + 6 <= count; i += 6) product_rows<6>(x + i * x_stride, x_stride, y, n, ranks, factor, c + i * c_stride, c_stride);
    for (; i < count; ++i) product_rows<1>(x + i * x_stride, x_stride, y, n, ranks, factor, c + i * c_stride, c_stride);
}

template <int R>
inline void outer_rows(const float* a, int64_t a_stride, const float* y, int64_t y_stride, int64_t count, float* c,
                       int64_t n) {
    int64_t k = 0;
    for (; k + 3 * kLanes <= n; k += 3 * kLanes) add_tile<R, 3 * kLanes>(a, 1, a_stride, count, y + k, y_stride, c + k, n);
    for (; k + kLanes <= n; k += kLanes) add_tile<R, kLanes>(a, 1, a_stride, count, y + k, y_stride, c + k, n);
    for (; k < n; ++k)
        for (int i = 0; i < R; ++i)
            for (int64_t t = 0; t < count; ++t) c[i * n + k] += a[t * a_stride + i] * y[t * y_stride + k];
}

// c (ranks, n) += aᵀ y from a (count, ranks) and y (count, n).
inline void add_outer(const float* a, int64_t a_stride, const float* y, int64_t y_stride, int64_t count, float* c,
                      int64_t n, int64_t ranks) {
    int64_t r = 0;
    for (; r + 8 <= ranks; r += 8) outer_rows<8>(a + r, a_stride, y, y_stride, count, c + r * n, n);
    for (; r < ranks; ++r) outer_rows<1>(a + r, a_stride, y, y_stride, count, c + r * n, n);
}

// Queries or keys are taken so many at a time.
constexpr int kTogether = 4;

inline int64_t padded(int64_t keys) { return (keys + kLanes - 1) / kLanes * kLanes; }

}  // namespace

extern "C" {

// One row's own tokens, [first, first + count), which look at the first `prefix` packed tokens and at themselves.
// Its attention weights begin at `weights`: for each head (count, padded(prefix + count)), 0 where nobody looks.
struct AttentionRow {
    int64_t first, count, prefix, weights;
};

}

namespace {

// Rows of one head among packed tokens: the prefix's, then the row's own.
struct Keys {
    const float* shared;
    const float* own;
    int64_t prefix;
};

inline Keys keys_of(const float* head, int64_t stride, const AttentionRow& row) {
    return {head, head + row.first * stride, row.prefix};
}

// yt (m, padded keys) from keys' rows; what pads stays 0.
inline void transpose_keys(const Keys& keys, int64_t stride, int64_t count, int64_t m, float* yt, int64_t yt_stride) {
    std::memset(yt, 0, sizeof(float) * m * yt_stride);
    for (int64_t k = 0; k < keys.prefix + count; ++k) {
        const float* key = k < keys.prefix ? keys.shared + k * stride : keys.own + (k - keys.prefix) * stride;
        for (int64_t d = 0; d < m; ++d) yt[d * yt_stride + k] = key[d];
    }
}

// c[i] += Σ_k a[i][k] · key k, for queries i: each sees the prefix, earlier queries and itself.
inline void add_keys(const float* a, int64_t a_stride, const Keys& keys, int64_t stride, int64_t count, float* c,
                     int64_t c_stride, int64_t m) {
    int64_t i = 0;
    for (; i + kTogether <= count; i += kTogether) {
        const float* at = a + i * a_stride;
        add_rows<kTogether>(at, a_stride, 1, keys.prefix, keys.shared, stride, c + i * c_stride, c_stride, m);
        add_rows<kTogether>(at + keys.prefix, a_stride, 1, i + kTogether, keys.own, stride, c + i * c_stride, c_stride, m);
    }
    for (; i < count; ++i) {
        const float* at = a + i * a_stride;
        add_rows<1>(at, a_stride, 1, keys.prefix, keys.shared, stride, c + i * c_stride, c_stride, m);
        add_rows<1>(at + keys.prefix, a_stride, 1, i + 1, keys.own, stride, c + i * c_stride, c_stride, m);
    }
}

// key gradients: shared[k] and own[k] += Σ_i a[i][k] · y[i].
inline void add_queries(const float* a, int64_t a_stride, const float* y, int64_t y_stride, int64_t count,
                        int64_t prefix, float* shared, float* own, int64_t own_stride, int64_t m) {
    int64_t k = 0;
    for (; k + kTogether <= prefix; k += kTogether)
        add_rows<kTogether>(a + k, 1, a_stride, count, y, y_stride, shared + k * m, m, m);
    for (; k < prefix; ++k) add_rows<1>(a + k, 1, a_stride, count, y, y_stride, shared + k * m, m, m);
    for (k = 0; k + kTogether <= count; k += kTogether)  // earlier queries do not look at key k
        add_rows<kTogether>(a + prefix + k + k * a_stride, 1, a_stride, count - k, y + k * y_stride, y_stride,
                            own + k * own_stride, own_stride, m);
    for (; k < count; ++k)
        add_rows<1>(a + prefix + k + k * a_stride, 1, a_stride, count - k, y + k * y_stride, y_stride,
                    own + k * own_stride, own_stride, m);
}

// c[i][k] = factor · x[i] · key k for all that queries i may see, and some beyond, up to the end of a vector.
inline void dot_keys(const float* x, int64_t x_stride, const float* yt, int64_t yt_stride, int64_t count,
                     int64_t prefix, int64_t m, float factor, float* c) {
    int64_t i = 0;
    for (; i + kTogether <= count; i += kTogether)
        dot_rows<kTogether>(x + i * x_stride, x_stride, yt, yt_stride, m, factor, c + i * yt_stride, yt_stride,
                            padded(prefix + i + kTogether));
    for (; i < count; ++i)
        dot_rows<1>(x + i * x_stride, x_stride, yt, yt_stride, m, factor, c + i * yt_stride, yt_stride,
                    padded(prefix + i + 1));
}

template <bool Gelu>
void gated_rows(const float* gate_up, int64_t rows, int64_t n, float* out, const float* smoothing, uint8_t* q,
                float* scales) {
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < rows; ++t) {
        const float* gate = gate_up + t * 2 * n;
        const float* up = gate + n;
        float* y = out + t * n;
        for (int64_t i = 0; i < n; ++i) y[i] = gate[i] * sigmoid(open_at<Gelu>(gate[i])) * up[i];
        if (q) quantise_row(y, n, smoothing, q + t * n, scales + t);
    }
}

template <bool Gelu>
void gated_rows_backward(const float* d_out, const float* gate_up, int64_t rows, int64_t n, float* d_gate_up, float* out,
                         uint8_t* q, float* scales) {
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < rows; ++t) {
        const float* d = d_out + t * n;
        const float* gate = gate_up + t * 2 * n;
        const float* up = gate + n;
        float* d_gate = d_gate_up + t * 2 * n;
        float* d_up = d_gate + n;
        float* y = out + t * n;
#pragma GCC ivdep
        for (int64_t i = 0; i < n; ++i) {
            const float open = sigmoid(open_at<Gelu>(gate[i])), opened = gate[i] * open;
            y[i] = opened * up[i];
            d_up[i] = d[i] * opened;
            d_gate[i] = d[i] * up[i] * (open + opened * (1.0f - open) * open_slope<Gelu>(gate[i]));
        }
        if (q) quantise_row(d_gate, 2 * n, nullptr, q + t * 2 * n, scales + t);
    }
}

}  // namespace

extern "C" {

// out (T, H·m) = softmax(Q Kᵀ / √m + causal) V within each row, from stacked (T, (H + 2K)·m) rotated queries and keys, and
// values. `room`: for each of at most `threads` threads m · longest numbers, longest being the padded keys of the longest
// row.
void attention(const float* stacked, int64_t heads, int64_t groups, int64_t m, const AttentionRow* rows,
               int64_t row_count, float factor, float* out, float* weights, float* room, int64_t room_each,
               int64_t threads) {
    const int64_t stride = (heads + 2 * groups) * m, out_stride = heads * m, together = heads / groups;
#pragma omp parallel for schedule(dynamic) num_threads(int(threads))
    for (int64_t item = 0; item < row_count * groups; ++item) {
        const AttentionRow& row = rows[item / groups];
        const int64_t group = item % groups, keys = row.prefix + row.count, width = padded(keys);
        float* kt = room + omp_get_thread_num() * room_each;
        transpose_keys(keys_of(stacked + (heads + group) * m, stride, row), stride, row.count, m, kt, width);
        for (int64_t head = group * together; head < (group + 1) * together; ++head) {
            float* w = weights + row.weights + head * row.count * width;
            dot_keys(stacked + row.first * stride + head * m, stride, kt, width, row.count, row.prefix, m, factor, w);
            for (int64_t i = 0; i < row.count; ++i) {
                float* scores = w + i * width;
                const int64_t seen = row.prefix + i + 1;
                float highest = scores[0], sum = 0.0f;
                for (int64_t k = 1; k < seen; ++k) highest = std::max(highest, scores[k]);
                for (int64_t k = 0; k < seen; ++k) sum += scores[k] = exponential(scores[k] - highest);
                const float inverse = 1.0f / sum;
                for (int64_t k = 0; k < seen; ++k) scores[k] *= inverse;
                std::memset(scores + seen, 0, sizeof(float) * (width - seen));
            }
            float* mixed = out + row.first * out_stride + head * m;
            for (int64_t i = 0; i < row.count; ++i) std::memset(mixed + i * out_stride, 0, sizeof(float) * m);
            add_keys(w, width, keys_of(stacked + (heads + groups + group) * m, stride, row), stride, row.count, mixed,
                     out_stride, m);
        }
    }
}

// Writes d_stacked (T, (H + 2K)·m) by rotated queries and keys, and values. `room`: for each of at most `threads` threads
// (m + most) · longest numbers, most being the tokens of the longest row; `shared`: for each row and group 2 · prefix · m.
void attention_backward(const float* d_out, const float* stacked, const float* weights, int64_t heads, int64_t groups,
                        int64_t m, const AttentionRow* rows, int64_t row_count, float factor, float* d_stacked,
                        float* room, int64_t room_each, int64_t threads, float* shared, int64_t prefix) {
    const int64_t stride = (heads + 2 * groups) * m, out_stride = heads * m, together = heads / groups;
#pragma omp parallel for schedule(dynamic) num_threads(int(threads))
    for (int64_t item = 0; item < row_count * groups; ++item) {
        const AttentionRow& row = rows[item / groups];
        const int64_t group = item % groups, width = padded(row.prefix + row.count);
        const int64_t key_head = (heads + group) * m, value_head = (heads + groups + group) * m;
        float* vt = room + omp_get_thread_num() * room_each;
        float* d_scores = vt + m * width;
        float* d_shared_keys = shared + item * 2 * prefix * m;
        float* d_shared_values = d_shared_keys + prefix * m;
        std::memset(d_shared_keys, 0, sizeof(float) * 2 * prefix * m);
        for (int64_t i = 0; i < row.count; ++i) {
            std::memset(d_stacked + (row.first + i) * stride + key_head, 0, sizeof(float) * m);
            std::memset(d_stacked + (row.first + i) * stride + value_head, 0, sizeof(float) * m);
        }
        transpose_keys(keys_of(stacked + value_head, stride, row), stride, row.count, m, vt, width);
        for (int64_t head = group * together; head < (group + 1) * together; ++head) {
            const float* w = weights + row.weights + head * row.count * width;
            const float* d = d_out + row.first * out_stride + head * m;
            add_queries(w, width, d, out_stride, row.count, row.prefix, d_shared_values,
                        d_stacked + row.first * stride + value_head, stride, m);
            dot_keys(d, out_stride, vt, width, row.count, row.prefix, m, 1.0f, d_scores);
            for (int64_t i = 0; i < row.count; ++i) {
                float* ds = d_scores + i * width;
                const float* wi = w + i * width;
                const int64_t seen = row.prefix + i + 1;
                float dot = 0.0f;
                for (int64_t k = 0; k < seen; ++k) dot += ds[k] * wi[k];
                for (int64_t k = 0; k < seen; ++k) ds[k] = factor * wi[k] * (ds[k] - dot);
                std::memset(ds + seen, 0, sizeof(float) * (width - seen));
            }
            float* d_query = d_stacked + row.first * stride + head * m;
            for (int64_t i = 0; i < row.count; ++i) std::memset(d_query + i * stride, 0, sizeof(float) * m);
            add_keys(d_scores, width, keys_of(stacked + key_head, stride, row), stride, row.count, d_query, stride, m);
            add_queries(d_scores, width, stacked + row.first * stride + head * m, stride, row.count, row.prefix,
                        d_shared_keys, d_stacked + row.first * stride + key_head, stride, m);
        }
    }
    // what the rows send to the prefix that they share; the prefix is the first row, if there is one
#pragma omp parallel for schedule(static)
    for (int64_t item = 0; item < 2 * prefix * groups; ++item) {
        const int64_t token = item / (2 * groups), group = item / 2 % groups, values = item % 2;
        float* d = d_stacked + token * stride + (heads + values * groups + group) * m;
        for (int64_t row = 1; row < row_count; ++row) {
            const float* part = shared + (row * groups + group) * 2 * prefix * m + values * prefix * m + token * m;
            for (int64_t i = 0; i < m; ++i) d[i] += part[i];
        }
    }
}

// One projection of a stack: its columns, and where its low-rank part comes from (ranks may be 0).
struct Span {
    int64_t first_column, columns, first_rank, ranks;
    const float* up;  // (ranks, columns)
};

// The same while it is trained: d_up (ranks, columns) is added to.
struct TrainedSpan {
    int64_t first_column, columns, first_rank, ranks;
    const float* up;
    float* d_up;
};

// y (T, n) := y · scales + residual + low · up, span by span. scales (T) and residual (T, n) may be null.
void finish(float* y, const float* scales, const float* residual, const float* low, int64_t low_stride, int64_t rows,
            int64_t n, const Span* spans, int64_t span_count) {
    constexpr int kRows = 6;
#pragma omp parallel for schedule(static)
    for (int64_t block = 0; block < (rows + kRows - 1) / kRows; ++block) {
        const int64_t t = block * kRows;
        for (int64_t s = 0; s < span_count; ++s) {
            const Span& span = spans[s];
            const int64_t at = t * n + span.first_column;
            const float* low_at = span.ranks ? low + t * low_stride + span.first_rank : nullptr;
            const float* residual_at = residual ? residual + at : nullptr;
            if (t + kRows <= rows) {
                finish_rows<kRows>(y + at, scales ? scales + t : nullptr, residual_at, n, low_at, low_stride, span.up,
                                   span.columns, span.ranks);
                continue;
            }
            for (int64_t i = 0; i < rows - t; ++i)
                finish_rows<1>(y + at + i * n, scales ? scales + t + i : nullptr, residual ? residual_at + i * n : nullptr,
                               n, low_at ? low_at + i * low_stride : nullptr, low_stride, span.up, span.columns, span.ranks);
        }
    }
}

// d_low (T, Σr) = factor · d_y · upᵀ and d_up += lowᵀ · d_y, span by span; every span has ranks. Tokens are taken some at a
// time, so that d_y comes from memory once. `room`: for each of at most `threads` threads but the first `room_each`
// zeros, d_up of all spans.
void low_rank_backward(const float* d_y, const float* low, int64_t rows, int64_t n, int64_t low_stride, float factor,
                       const TrainedSpan* spans, int64_t span_count, float* d_low, float* room, int64_t room_each,
                       int64_t threads) {
    int64_t used = 1;
#pragma omp parallel num_threads(int(threads))
    {
        const int64_t team = omp_get_num_threads(), thread = omp_get_thread_num();
#pragma omp single
        used = team;
        const int64_t end = rows * (thread + 1) / team;
        for (int64_t t = rows * thread / team; t < end; t += kTokensTogether) {
            const int64_t count = std::min(kTokensTogether, end - t);
            float* own = room + (thread - 1) * room_each;
            for (int64_t s = 0; s < span_count; ++s) {
                const TrainedSpan& span = spans[s];
                const float* d = d_y + t * n + span.first_column;
                const int64_t at = t * low_stride + span.first_rank;
                product_with_rows(d, n, span.up, span.columns, span.ranks, count, factor, d_low + at, low_stride);
                float* d_up = thread == 0 ? span.d_up : own;
                add_outer(low + at, low_stride, d, n, count, d_up, span.columns, span.ranks);
                own += span.columns * span.ranks;
            }
        }
    }
    const float* own = room;
    for (int64_t s = 0; s < span_count; ++s) {
        const int64_t size = spans[s].columns * spans[s].ranks;
        for (int64_t thread = 1; thread < used; ++thread) {
            const float* part = own + (thread - 1) * room_each;
            for (int64_t i = 0; i < size; ++i) spans[s].d_up[i] += part[i];
        }
        own += size;
    }
}

// losses (L) = −log softmax(logits)[label]; with `gradient`, logits (L, V) become softmax − onehot(label).
void cross_entropy(float* logits, const int64_t* labels, int64_t rows, int64_t n, int64_t gradient, float* losses) {
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < rows; ++t) {
        float* x = logits + t * n;
        const float of_label = x[labels[t]];
        float highest = x[0], sum = 0.0f;
        for (int64_t i = 1; i < n; ++i) highest = std::max(highest, x[i]);
        if (gradient) {
            for (int64_t i = 0; i < n; ++i) sum += x[i] = exponential(x[i] - highest);
            const float inverse = 1.0f / sum;
            for (int64_t i = 0; i < n; ++i) x[i] *= inverse;
            x[labels[t]] -= 1.0f;
        } else {
            for (int64_t i = 0; i < n; ++i) sum += exponential(x[i] - highest);
        }
        losses[t] = std::log(sum) + (highest - of_label);
    }
}

void quantise(const float* x, int64_t rows, int64_t n, const float* smoothing, uint8_t* q, float* scales) {
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < rows; ++t) quantise_row(x + t * n, n, smoothing, q + t * n, scales + t);
}

// normed = h / rms(h) · w; inverse = 1 / rms(h). smoothing, q and scales may be null.
void rms_norm(const float* hidden, const float* weight, float epsilon, int64_t rows, int64_t n, float* normed,
              float* inverse, const float* smoothing, uint8_t* q, float* scales) {
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < rows; ++t) {
        const float* h = hidden + t * n;
        float* y = normed + t * n;
        float squares = 0.0f;
        for (int64_t i = 0; i < n; ++i) squares += h[i] * h[i];
        const float r = 1.0f / std::sqrt(squares / static_cast<float>(n) + epsilon);
        inverse[t] = r;
        for (int64_t i = 0; i < n; ++i) y[i] = h[i] * r * weight[i];
        if (q) quantise_row(y, n, smoothing, q + t * n, scales + t);
    }
}

// d_h = r · w∘d_x − h · r² · mean(d_x∘x) + residual; residual, q and scales may be null.
void rms_norm_backward(const float* d_normed, const float* hidden, const float* inverse, const float* normed,
                       const float* weight, const float* residual, int64_t rows, int64_t n, float* d_hidden, uint8_t* q,
                       float* scales) {
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < rows; ++t) {
        const float* d = d_normed + t * n;
        const float* h = hidden + t * n;
        const float* x = normed + t * n;
        float* out = d_hidden + t * n;
        float dot = 0.0f;
        for (int64_t i = 0; i < n; ++i) dot += d[i] * x[i];
        const float r = inverse[t], pull = dot / static_cast<float>(n) * r * r;
        if (residual) {
            const float* rest = residual + t * n;
            for (int64_t i = 0; i < n; ++i) out[i] = d[i] * weight[i] * r - h[i] * pull + rest[i];
        } else {
            for (int64_t i = 0; i < n; ++i) out[i] = d[i] * weight[i] * r - h[i] * pull;
        }
        if (q) quantise_row(out, n, nullptr, q + t * n, scales + t);
    }
}

// out (T, n) = opened(gate)∘up from (T, 2n).
void gated(const float* gate_up, int64_t rows, int64_t n, int64_t gelu, float* out, const float* smoothing, uint8_t* q,
           float* scales) {
    (gelu ? gated_rows<true> : gated_rows<false>)(gate_up, rows, n, out, smoothing, q, scales);
}

// d_gate = d∘up∘opened′(gate) beside d_up = d∘opened(gate), (T, 2n), and once more out (T, n) = opened(gate)∘up.
void gated_backward(const float* d_out, const float* gate_up, int64_t rows, int64_t n, int64_t gelu, float* d_gate_up,
                    float* out, uint8_t* q, float* scales) {
    (gelu ? gated_rows_backward<true> : gated_rows_backward<false>)(d_out, gate_up, rows, n, d_gate_up, out, q, scales);
}

// Rotates the first `rotating` of the heads in `heads` (T rows of `stride` numbers) by (cosine, sine), (T, half) each,
// sine times `sign`; out has rows of `out_stride`. In place if out is heads.
void rotate(const float* heads, int64_t stride, const float* cosine, const float* sine, float sign, int64_t rows,
            int64_t rotating, int64_t half, float* out, int64_t out_stride) {
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < rows; ++t) {
        const float* c = cosine + t * half;
        const float* s = sine + t * half;
        for (int64_t head = 0; head < rotating; ++head) {
            const float* a = heads + t * stride + head * 2 * half;
            float* y = out + t * out_stride + head * 2 * half;
#pragma GCC ivdep
            for (int64_t i = 0; i < half; ++i) {
                const float first = a[i], second = a[half + i], turn = sign * s[i];
                y[i] = first * c[i] - second * turn;
                y[half + i] = second * c[i] + first * turn;
            }
        }
    }
}

// d_scores = factor · W∘(d_W − rowsum(W∘d_W)), written over d_W.
void softmax_backward(float* d_weights, const float* weights, float factor, int64_t rows, int64_t n) {
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < rows; ++t) {
        float* d = d_weights + t * n;
        const float* w = weights + t * n;
        float dot = 0.0f;
        for (int64_t i = 0; i < n; ++i) dot += d[i] * w[i];
        for (int64_t i = 0; i < n; ++i) d[i] = factor * w[i] * (d[i] - dot);
    }
}

}  // extern "C"
