// The kernels of kernels.py, each as one pass over its rows. Compiled on the machine it runs on by native.py, which
// also says what the arguments are. Plain C interface: no headers of torch or Python, so it compiles in two seconds.
//
// Rows are independent of each other and dealt out to OpenMP's threads, the same threads that torch uses.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

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

// Writes a row in 8 bits: q = round(x / scale) + 128 with scale = max|x| / 127.
inline void quantise_row(const float* x, int64_t n, uint8_t* q, float* scale) {
    float peak = 1e-20f;
    for (int64_t i = 0; i < n; ++i) peak = std::max(peak, std::fabs(x[i]));
    *scale = peak * (1.0f / 127.0f);
    const float inverse = 127.0f / peak;
    for (int64_t i = 0; i < n; ++i) q[i] = static_cast<uint8_t>(static_cast<int32_t>(std::nearbyint(x[i] * inverse)) + 128);
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

}  // namespace

extern "C" {

// One projection of a stack: its columns, and where its low-rank part comes from (ranks may be 0).
struct Span {
    int64_t first_column, columns, first_rank, ranks;
    const float* up;  // (ranks, columns)
};

// y (T, n) := y · scales + residual + low · up, span by span. scales (T) and residual (T, n) may be null.
void finish(float* y, const float* scales, const float* residual, const float* low, int64_t low_stride, int64_t rows,
            int64_t n, const Span* spans, int64_t span_count) {
    constexpr int kRows = 4;
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

void quantise(const float* x, int64_t rows, int64_t n, uint8_t* q, float* scales) {
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < rows; ++t) quantise_row(x + t * n, n, q + t * n, scales + t);
}

// normed = h / rms(h) · w; inverse = 1 / rms(h). q and scales may be null.
void rms_norm(const float* hidden, const float* weight, float epsilon, int64_t rows, int64_t n, float* normed,
              float* inverse, uint8_t* q, float* scales) {
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < rows; ++t) {
        const float* h = hidden + t * n;
        float* y = normed + t * n;
        float squares = 0.0f;
        for (int64_t i = 0; i < n; ++i) squares += h[i] * h[i];
        const float r = 1.0f / std::sqrt(squares / static_cast<float>(n) + epsilon);
        inverse[t] = r;
        for (int64_t i = 0; i < n; ++i) y[i] = h[i] * r * weight[i];
        if (q) quantise_row(y, n, q + t * n, scales + t);
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
        if (q) quantise_row(out, n, q + t * n, scales + t);
    }
}

// out (T, n) = silu(gate)∘up from (T, 2n).
void gated(const float* gate_up, int64_t rows, int64_t n, float* out, uint8_t* q, float* scales) {
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < rows; ++t) {
        const float* gate = gate_up + t * 2 * n;
        const float* up = gate + n;
        float* y = out + t * n;
        for (int64_t i = 0; i < n; ++i) y[i] = gate[i] * sigmoid(gate[i]) * up[i];
        if (q) quantise_row(y, n, q + t * n, scales + t);
    }
}

// d_gate = d∘up∘silu′(gate) beside d_up = d∘silu(gate), (T, 2n).
void gated_backward(const float* d_out, const float* gate_up, int64_t rows, int64_t n, float* d_gate_up, uint8_t* q,
                    float* scales) {
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < rows; ++t) {
        const float* d = d_out + t * n;
        const float* gate = gate_up + t * 2 * n;
        const float* up = gate + n;
        float* d_gate = d_gate_up + t * 2 * n;
        float* d_up = d_gate + n;
        for (int64_t i = 0; i < n; ++i) {
            const float open = sigmoid(gate[i]);
            d_up[i] = d[i] * gate[i] * open;
            d_gate[i] = d[i] * up[i] * open * (1.0f + gate[i] * (1.0f - open));
        }
        if (q) quantise_row(d_gate, 2 * n, q + t * 2 * n, scales + t);
    }
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
