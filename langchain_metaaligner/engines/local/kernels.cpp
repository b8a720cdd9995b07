// What a LLaMA computes for a few tokens, on a processor with AVX-512.
//
// Every number that belongs to a token is computed in the same order however many tokens there are,
// so a token gets the same bits in whatever pass it is processed. Sums are float32; what torch
// rounds to bfloat16 between two operators is rounded here as well.

#include <immintrin.h>
#include <stdint.h>

extern "C" int omp_get_thread_num();

namespace {

constexpr int LANES = 16;  // float32 numbers in a register
constexpr int BLOCK = 64;  // outputs whose weights stand together
constexpr int AHEAD = 8;   // how many steps ahead weights are fetched
constexpr int FEW = 8;     // tokens whose norms take less time than other threads to wake

using Vector = __m512;

#ifdef __AVX512BF16__

struct bfloat16 {
    uint16_t bits;
};

inline __m512bh pairs(const void *from) { return (__m512bh)_mm512_loadu_si512(from); }

inline Vector load(const bfloat16 *from) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

inline void store(bfloat16 *to, Vector numbers) {
    _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(numbers));
}

inline Vector rounded(const bfloat16 *, Vector numbers) {
    __m512i wide = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(numbers));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

// Two neighbouring inputs take part in each step.
inline int step(const bfloat16 *) { return 2; }

inline Vector multiply_add(Vector sum, const bfloat16 *weights, const bfloat16 *input) {
    int two;
    __builtin_memcpy(&two, input, sizeof two);
    return _mm512_dpbf16_ps(sum, pairs(weights), (__m512bh)_mm512_set1_epi32(two));
}

#endif

inline Vector load(const float *from) { return _mm512_loadu_ps(from); }
inline void store(float *to, Vector numbers) { _mm512_storeu_ps(to, numbers); }
inline Vector rounded(const float *, Vector numbers) { return numbers; }
inline int step(const float *) { return 1; }

inline Vector multiply_add(Vector sum, const float *weights, const float *input) {
    return _mm512_fmadd_ps(_mm512_loadu_ps(weights), _mm512_set1_ps(*input), sum);
}

// e to the power of numbers that are at most 0: range reduction and a polynomial (Cephes' expf).
inline Vector exponential(Vector numbers) {
    const Vector lowest = _mm512_set1_ps(-87.0f);
    __mmask16 tiny = _mm512_cmp_ps_mask(numbers, lowest, _CMP_LT_OQ);
    Vector power = _mm512_roundscale_ps(
        _mm512_mul_ps(numbers, _mm512_set1_ps(1.44269504088896341f)), _MM_FROUND_TO_NEAREST_INT);
    Vector rest = _mm512_fnmadd_ps(power, _mm512_set1_ps(0.693359375f), numbers);
    rest = _mm512_fnmadd_ps(power, _mm512_set1_ps(-2.12194440e-4f), rest);
    Vector sum = _mm512_set1_ps(1.9875691500e-4f);
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(1.3981999507e-3f));
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(8.3334519073e-3f));
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(4.1665795894e-2f));
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(1.6666665459e-1f));
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(5.0000001201e-1f));
    sum = _mm512_fmadd_ps(sum, _mm512_mul_ps(rest, rest), _mm512_add_ps(rest, _mm512_set1_ps(1)));
    return _mm512_mask_scalef_ps(_mm512_setzero_ps(), _knot_mask16(tiny), sum, power);
}

// ---------------------------------------------------------------------------- products

// A block of outputs for R tokens; `used` of its 64 outputs exist, the others only fill it up.
template <class T, int R>
void product_tile(const T *rows, int64_t inputs, const T *weights, const T *bias, T *out,
                  int64_t outputs, int64_t used) {
    constexpr int V = BLOCK / LANES;
    const int one = step(rows);
    Vector sums[R][V];
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) sums[r][v] = bias ? load(bias + v * LANES) : _mm512_setzero_ps();
    for (int64_t k = 0; k < inputs; k += one) {
        const T *block = weights + k * BLOCK;
        for (int v = 0; v < V; v++)
            _mm_prefetch((const char *)(block + (AHEAD * V + v) * LANES * one), _MM_HINT_T0);
        for (int r = 0; r < R; r++)
            for (int v = 0; v < V; v++)
                sums[r][v] =
                    multiply_add(sums[r][v], block + v * LANES * one, rows + r * inputs + k);
    }
    for (int r = 0; r < R; r++) {
        T *to = out + r * outputs;
        if (used == BLOCK) {
            for (int v = 0; v < V; v++) store(to + v * LANES, sums[r][v]);
        } else {
            T all[BLOCK];
            for (int v = 0; v < V; v++) store(all + v * LANES, sums[r][v]);
            for (int64_t n = 0; n < used; n++) to[n] = all[n];
        }
    }
}

template <class T>
void product(const T *rows, const T *weights, const T *bias, T *out, int64_t count, int64_t inputs,
             int64_t outputs, int threads) {
    // More tokens than this need more registers than there are.
    constexpr int MOST = 6;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t n = 0; n < outputs; n += BLOCK) {
        const T *block = weights + n * inputs, *own = bias ? bias + n : nullptr;
        const int64_t used = outputs - n < BLOCK ? outputs - n : BLOCK;
        for (int64_t r = 0; r < count;) {
            const T *from = rows + r * inputs;
            T *to = out + r * outputs + n;
            // Equal parts: 8 tokens are 4 and 4, not 6 and 2.
            const int64_t parts = (count - r + MOST - 1) / MOST;
            const int64_t now = (count - r + parts - 1) / parts;
#define TILE(R) \
    case R: \
        product_tile<T, R>(from, inputs, block, own, to, outputs, used); \
        break;
            switch (now) { TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6) }
#undef TILE
            r += now;
        }
    }
}

// ---------------------------------------------------------------------------- norms and gates

template <class T>
void norm(T *hidden, const T *more, const T *weights, float epsilon, T *out, int64_t count,
          int64_t width, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (count > FEW)
    for (int64_t r = 0; r < count; r++) {
        T *row = hidden + r * width;
        Vector sum = _mm512_setzero_ps();
        for (int64_t k = 0; k < width; k += LANES) {
            Vector numbers = load(row + k);
            if (more) {
                numbers = rounded(row, _mm512_add_ps(numbers, load(more + r * width + k)));
                store(row + k, numbers);
            }
            sum = _mm512_fmadd_ps(numbers, numbers, sum);
        }
        const float mean = _mm512_reduce_add_ps(sum) / (float)width + epsilon;
        const Vector scale = _mm512_set1_ps(1.0f / __builtin_sqrtf(mean));
        for (int64_t k = 0; k < width; k += LANES) {
            Vector scaled = rounded(row, _mm512_mul_ps(load(row + k), scale));
            store(out + r * width + k, _mm512_mul_ps(load(weights + k), scaled));
        }
    }
}

template <class T>
void gate(const T *gates, T *out, int64_t count, int64_t width, int threads) {
    const Vector none = _mm512_setzero_ps(), one = _mm512_set1_ps(1);
#pragma omp parallel for schedule(static) num_threads(threads) if (count > FEW)
    for (int64_t r = 0; r < count; r++) {
        const T *first = gates + 2 * r * width, *second = first + width;
        for (int64_t k = 0; k < width; k += LANES) {
            Vector numbers = load(first + k);
            // The exponential is of minus the size, so that it can't overflow.
            Vector power = exponential(_mm512_sub_ps(none, _mm512_abs_ps(numbers)));
            __mmask16 below = _mm512_cmp_ps_mask(numbers, none, _CMP_LT_OQ);
            Vector share = _mm512_mask_blend_ps(below, one, power);
            Vector open = _mm512_div_ps(_mm512_mul_ps(numbers, share), _mm512_add_ps(one, power));
            store(out + r * width + k,
                  _mm512_mul_ps(rounded(gates, open), load(second + k)));
        }
    }
}

// ---------------------------------------------------------------------------- attention

// Where one sequence's new tokens are, and its keys and values.
struct Span {
    int64_t keys, values;  // addresses, [key_heads, room, SIZE]
    int64_t room, seen;    // tokens that fit, and that were there before
    int64_t start, count;  // index of the first new token in the pass, and their number
    int64_t written;       // tokens that were ever written; what is behind the new ones is cleared
};

// Swap rows and columns of 16 times 16 numbers of 32 bits.
inline void transpose(const int32_t *from, int64_t width, int32_t *to) {
    __m512i a[16], b[16];
    for (int i = 0; i < 16; i++) a[i] = _mm512_loadu_si512(from + i * width);
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
        a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
        a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
        a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        b[i] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0x88);
        b[i + 4] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0xdd);
        b[i + 8] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0x88);
        b[i + 12] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0xdd);
    }
    for (int i = 0; i < 8; i++) {
        _mm512_store_si512(to + 16 * i, _mm512_shuffle_i32x4(b[i], b[i + 8], 0x88));
        _mm512_store_si512(to + 16 * (i + 8), _mm512_shuffle_i32x4(b[i], b[i + 8], 0xdd));
    }
}

// Turn the queries or keys of a token by its place, [SIZE]; `cosine` and `sine` are [SIZE].
template <class T, int SIZE>
inline void rotate(T *numbers, const T *cosine, const T *sine, T *to) {
    constexpr int HALF = SIZE / 2;
    for (int k = 0; k < HALF; k += LANES) {
        Vector low = load(numbers + k), high = load(numbers + HALF + k);
        Vector first = rounded(numbers, _mm512_mul_ps(low, load(cosine + k)));
        Vector second = rounded(numbers, _mm512_mul_ps(high, load(sine + k)));
        Vector third = rounded(numbers, _mm512_mul_ps(high, load(cosine + HALF + k)));
        Vector fourth = rounded(numbers, _mm512_mul_ps(low, load(sine + HALF + k)));
        store(to + k, _mm512_sub_ps(first, second));
        store(to + HALF + k, _mm512_add_ps(third, fourth));
    }
}

// The scores of R queries for 16 keys, [R][16]; `keys` is [SIZE / step][16][step].
template <class T, int SIZE, int R>
inline void score(const T *const *queries, const T *keys, Vector *scores) {
    const int one = step(keys);
    for (int r = 0; r < R; r++) scores[r] = _mm512_setzero_ps();
    for (int k = 0; k < SIZE; k += one)
        for (int r = 0; r < R; r++)
            scores[r] = multiply_add(scores[r], keys + k * LANES, queries[r] + k);
}

// Values of `step` keys, [SIZE][step].
#ifdef __AVX512BF16__
template <int SIZE>
inline void interleave(const bfloat16 *values, bfloat16 *to) {
    for (int k = 0; k < SIZE; k += LANES) {
        __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(values + k)));
        __m512i high =
            _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(values + SIZE + k)));
        _mm512_store_si512(to + 2 * k, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
    }
}
#endif
template <int SIZE>
inline void interleave(const float *values, float *to) {
    for (int k = 0; k < SIZE; k += LANES) store(to + k, load(values + k));
}

// Add R queries' shares of 16 keys' values, [16][SIZE] in steps, to their sums.
template <class T, int SIZE, int R>
inline void mix(const T *const *shares, const T *values, float *const *sums) {
    const int one = step(values);
    for (int part = 0; part < SIZE; part += 4 * LANES) {
        Vector made[R][4];
        for (int r = 0; r < R; r++)
            for (int v = 0; v < 4; v++) made[r][v] = _mm512_loadu_ps(sums[r] + part + v * LANES);
        for (int k = 0; k < LANES; k += one)
            for (int r = 0; r < R; r++)
                for (int v = 0; v < 4; v++)
                    made[r][v] = multiply_add(
                        made[r][v], values + k * SIZE + (part + v * LANES) * one, shares[r] + k);
        for (int r = 0; r < R; r++)
            for (int v = 0; v < 4; v++) _mm512_storeu_ps(sums[r] + part + v * LANES, made[r][v]);
    }
}

constexpr int TILE_ROWS = 48;  // queries that share the work of rearranging keys and values

#define BY_FOUR(count, r, call) \
    for (int64_t r = 0; r < count; r += 4) switch (count - r) { \
            case 1: call(1); break; \
            case 2: call(2); break; \
            case 3: call(3); break; \
            default: call(4); \
        }

// Attention of some of a sequence's new tokens for the queries that share one head's keys. Scores
// of keys after a token are minus infinity, so they add an exact 0 and change none of its bits.
template <class T, int SIZE>
void attend_tile(const T *rows, int64_t row_size, const Span &span, int64_t head, int64_t groups,
                 int64_t first, int64_t tokens, float scale, float *scores, T *out,
                 int64_t out_size) {
    const T *keys = (const T *)span.keys + head * span.room * SIZE;
    const T *values = (const T *)span.values + head * span.room * SIZE;
    const int64_t count = tokens * groups, last = span.seen + first + tokens;
    const int64_t width = (last + LANES - 1) / LANES * LANES;
    const T *queries[TILE_ROWS];
    int64_t places[TILE_ROWS];
    Vector highest[TILE_ROWS];
    for (int64_t r = 0; r < count; r++) {
        const int64_t token = first + r / groups;
        queries[r] = rows + (span.start + token) * row_size + (head * groups + r % groups) * SIZE;
        places[r] = span.seen + token;
        highest[r] = _mm512_set1_ps(-__builtin_inff());
    }
    T *shares = (T *)(scores + count * width);
    alignas(64) T block[LANES * SIZE];
    const Vector factor = _mm512_set1_ps(scale);
    const __m512i order = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    for (int64_t k = 0; k < width; k += LANES) {
        constexpr int WORDS = SIZE * sizeof(T) / sizeof(int32_t);
        for (int w = 0; w < WORDS; w += 16)
            transpose((const int32_t *)(keys + k * SIZE) + w, WORDS, (int32_t *)block + 16 * w);
        const __m512i place = _mm512_add_epi32(_mm512_set1_epi32((int)k), order);
#define SCORE(R) \
    { \
        Vector made[R]; \
        score<T, SIZE, R>(queries + r, block, made); \
        for (int i = 0; i < R; i++) { \
            __mmask16 seen = \
                _mm512_cmple_epi32_mask(place, _mm512_set1_epi32((int)places[r + i])); \
            Vector scaled = _mm512_mask_mul_ps( \
                _mm512_set1_ps(-__builtin_inff()), seen, made[i], factor); \
            highest[r + i] = _mm512_max_ps(highest[r + i], scaled); \
            _mm512_storeu_ps(scores + (r + i) * width + k, scaled); \
        } \
    }
        BY_FOUR(count, r, SCORE)
#undef SCORE
    }
    float totals[TILE_ROWS];
    alignas(64) float sums[TILE_ROWS][SIZE];
    for (int64_t r = 0; r < count; r++) {
        const Vector most = _mm512_set1_ps(_mm512_reduce_max_ps(highest[r]));
        Vector total = _mm512_setzero_ps();
        for (int64_t k = 0; k < width; k += LANES) {
            Vector share = exponential(_mm512_sub_ps(_mm512_loadu_ps(scores + r * width + k), most));
            total = _mm512_add_ps(total, share);
            store(shares + r * width + k, share);
        }
        totals[r] = _mm512_reduce_add_ps(total);
        for (int k = 0; k < SIZE; k += LANES) store(sums[r] + k, _mm512_setzero_ps());
    }
    const int one = step(keys);
    for (int64_t k = 0; k < width; k += LANES) {
        for (int i = 0; i < LANES; i += one)
            interleave<SIZE>(values + (k + i) * SIZE, block + i * SIZE);
#define MIX(R) \
    { \
        const T *own[R]; \
        float *made[R]; \
        for (int i = 0; i < R; i++) { \
            own[i] = shares + (r + i) * width + k; \
            made[i] = sums[r + i]; \
        } \
        mix<T, SIZE, R>(own, block, made); \
    }
        BY_FOUR(count, r, MIX)
#undef MIX
    }
    for (int64_t r = 0; r < count; r++) {
        T *to = out + (span.start + first + r / groups) * out_size +
                (head * groups + r % groups) * SIZE;
        const Vector total = _mm512_set1_ps(totals[r]);
        for (int k = 0; k < SIZE; k += LANES)
            store(to + k, _mm512_div_ps(load(sums[r] + k), total));
    }
}

template <class T, int SIZE>
void attend(T *rows, const T *cosine, const T *sine, const Span *spans, int64_t span_count,
            int64_t heads, int64_t kept, float scale, float *scores, int64_t score_count, T *out,
            int64_t count, int threads) {
    const int64_t row_size = (heads + 2 * kept) * SIZE, groups = heads / kept;
    const int64_t most = groups < TILE_ROWS ? TILE_ROWS / groups : 1;
    const Span &end = spans[span_count - 1];
    const int64_t tokens = end.start + end.count;
    int64_t tiles = 0;
    for (int64_t s = 0; s < span_count; s++) tiles += (spans[s].count + most - 1) / most;
#pragma omp parallel num_threads(threads)
    {
        // Tokens without a meaning fill up a pass; their results only have to be numbers.
#pragma omp for schedule(static) nowait
        for (int64_t k = tokens * heads * SIZE; k < count * heads * SIZE; k += LANES)
            store(out + k, _mm512_setzero_ps());
#pragma omp for schedule(static)
        for (int64_t t = 0; t < tokens * heads; t++) {
            T *query = rows + t / heads * row_size + t % heads * SIZE;
            const int64_t place = t / heads * SIZE;
            rotate<T, SIZE>(query, cosine + place, sine + place, query);
        }
#pragma omp for schedule(static)
        for (int64_t t = 0; t < span_count * kept; t++) {
            const Span &span = spans[t / kept];
            const int64_t head = t % kept;
            T *keys = (T *)span.keys + (head * span.room + span.seen) * SIZE;
            T *values = (T *)span.values + (head * span.room + span.seen) * SIZE;
            for (int64_t i = 0; i < span.count; i++) {
                T *row = rows + (span.start + i) * row_size + (heads + head) * SIZE;
                const int64_t place = (span.start + i) * SIZE;
                rotate<T, SIZE>(row, cosine + place, sine + place, keys + i * SIZE);
                for (int k = 0; k < SIZE; k += LANES)
                    store(values + i * SIZE + k, load(row + kept * SIZE + k));
            }
            // Dropped tokens: even hidden ones do harm if they are not finite.
            for (int64_t i = span.count * SIZE; i < (span.written - span.seen) * SIZE; i += LANES) {
                store(keys + i, _mm512_setzero_ps());
                store(values + i, _mm512_setzero_ps());
            }
        }
#pragma omp for schedule(dynamic)
        for (int64_t t = 0; t < tiles * kept; t++) {
            int64_t tile = t / kept, s = 0;
            for (;; s++) {
                const int64_t own = (spans[s].count + most - 1) / most;
                if (tile < own) break;
                tile -= own;
            }
            // The last tiles have the most keys, so they come first.
            const int64_t parts = (spans[s].count + most - 1) / most;
            const int64_t first = (parts - 1 - tile) * most, rest = spans[s].count - first;
            attend_tile<T, SIZE>(rows, row_size, spans[s], t % kept, groups, first,
                                 rest < most ? rest : most, scale,
                                 scores + omp_get_thread_num() * score_count, out, heads * SIZE);
        }
    }
}

// ---------------------------------------------------------------------------- layers

// Addresses of what a layer computes with; biases may be missing.
struct Layer {
    const void *before, *inputs, *inputs_bias, *outputs, *outputs_bias;
    const void *between, *gates, *gates_bias, *down, *down_bias;
};

struct Shape {
    int64_t layers, width, inner, heads, kept, size;
};

template <class T>
void run_layers(const Shape &shape, const Layer *layers, const T *last, float epsilon, float scale,
                T *hidden, int64_t count, const T *cosine, const T *sine, const Span *spans,
                int64_t span_count, T *space, float *scores, T *out, int64_t score_count,
                int threads) {
    const int64_t all = shape.heads + 2 * shape.kept;
    T *normed = space, *rows = normed + count * shape.width, *mixed = rows + count * all * shape.size;
    T *more = mixed + count * shape.heads * shape.size, *gates = more + count * shape.width;
    T *inner = gates + count * 2 * shape.inner;
    const auto multiply = [&](const T *from, const void *weights, const void *bias, T *to,
                              int64_t inputs, int64_t outputs) {
        product(from, (const T *)weights, (const T *)bias, to, count, inputs, outputs, threads);
    };
    for (int64_t i = 0; i < shape.layers; i++) {
        const Layer &own = layers[i];
        norm(hidden, i ? more : nullptr, (const T *)own.before, epsilon, normed, count, shape.width,
             threads);
        multiply(normed, own.inputs, own.inputs_bias, rows, shape.width, all * shape.size);
        const auto attention = shape.size == 64 ? attend<T, 64> : attend<T, 128>;
        attention(rows, cosine, sine, spans + i * span_count, span_count, shape.heads, shape.kept, scale,
                  scores, score_count, mixed, count, threads);
        multiply(mixed, own.outputs, own.outputs_bias, more, shape.heads * shape.size, shape.width);
        norm(hidden, more, (const T *)own.between, epsilon, normed, count, shape.width, threads);
        multiply(normed, own.gates, own.gates_bias, gates, shape.width, 2 * shape.inner);
        gate(gates, inner, count, shape.inner, threads);
        multiply(inner, own.down, own.down_bias, more, shape.inner, shape.width);
    }
    norm(hidden, shape.layers ? more : nullptr, last, epsilon, out, count, shape.width, threads);
}

}  // namespace

#define EXPORTS(T, NAME) \
    extern "C" void product_##NAME(const T *rows, const T *weights, const T *bias, T *out, \
                                   int64_t count, int64_t inputs, int64_t outputs, int threads) { \
        product(rows, weights, bias, out, count, inputs, outputs, threads); \
    } \
    extern "C" void layers_##NAME(const Shape *shape, const Layer *layers, const T *last, \
                                  float epsilon, float scale, T *hidden, int64_t count, \
                                  const T *cosine, const T *sine, const Span *spans, \
                                  int64_t span_count, T *space, float *scores, T *out, \
                                  int64_t score_count, int threads) { \
        run_layers(*shape, layers, last, epsilon, scale, hidden, count, cosine, sine, spans, \
                   span_count, space, scores, out, score_count, threads); \
    }

EXPORTS(float, float32)
#ifdef __AVX512BF16__
EXPORTS(bfloat16, bfloat16)
#endif
