/* bench_limit.c - what a test of `bench` could have taken at best on this machine.
 *
 *     t_min = n_prompt * operations per token / peak  +  n_gen * (weights + KV bytes) / read bandwidth;   limit_pct = t_min / t
 *
 * operations = 2 * weights of the layers (attention itself not counted; of experts those that a token is sent to; of the last layer
 * only K and V, for all rows but the last); peak = int8 for quantised weights, float32 for float weights and --gemm blas. The peak is
 * measured between the repeats, and each repeat is compared with the mean of before and after: it may halve from one second to the
 * next (limits.c). Read bandwidth is that of a buffer as large as what a step reads.
 */
#include "tools/bench_limit.h"

#include "tools/limits.h"

enum { MIN_BUFFER = 1 << 20, MAX_BUFFER = 1 << 30 };

static size_t buffer_for(const kv_bench_setup *setup, size_t kv_bytes)
{
    const size_t bytes = setup->info.decode_weight_bytes + kv_bytes;
    return bytes < MIN_BUFFER ? MIN_BUFFER : bytes > MAX_BUFFER ? MAX_BUFFER : bytes;
}

bool kv_bench_limits_measure(kv_bench_setup *setup)
{
    setup->limits.bytes = buffer_for(setup, 0);
    return kv_limits_measure(setup->n_threads, setup->limits.bytes, setup->kernels, &setup->limits.first);
}

static bool is_float(const kv_bench_setup *setup, bool is_blas)
{
    return setup->info.type[0] == 'F' || setup->info.type[0] == 'B' || is_blas;
}

void kv_bench_peak_sample(kv_bench_peak *peak, const kv_bench_setup *setup, bool is_blas, double seconds)
{
    const double now = kv_limits_peak_now(setup->n_threads, is_float(setup, is_blas), setup->kernels);
    peak->work += (peak->last + now) / 2 * seconds;
    peak->seconds += seconds;
    peak->last = now;
}

/* Of a buffer as large as what one step reads: weights that fit a cache may not do so together with their context. */
static double read_limit(kv_bench_setup *setup, size_t kv_bytes)
{
    const size_t bytes = buffer_for(setup, kv_bytes);
    kv_limits found;
    if (setup->limits.first.int8_ops <= 0 || bytes <= setup->limits.bytes + setup->limits.bytes / 8)
        return setup->limits.first.read_bytes_per_s;
    if (bytes != setup->limits.deep_bytes && kv_limits_measure(setup->n_threads, bytes, setup->kernels, &found)) {
        setup->limits.deep_read_bytes_per_s = found.read_bytes_per_s;
        setup->limits.deep_bytes = bytes;
    }
    return bytes == setup->limits.deep_bytes ? setup->limits.deep_read_bytes_per_s
                                             : setup->limits.first.read_bytes_per_s;
}

/* Multiplications and additions of a prompt, in linear layers. */
static double prompt_operations(const kvasir_model_info *info, int n_prompt)
{
    const double output = (double)info->n_vocab * info->n_embd, layers = (double)info->n_params_active - output;
    const double kv = 2.0 * info->n_embd * info->n_kv_heads * info->head_dim;
    /* Logits of the last row only, so K and V are all that the last layer has to do for the others. */
    return 2 * (layers * n_prompt - (layers / info->n_layers - kv) * (n_prompt - 1) + output);
}

void kv_bench_limit(kv_bench_setup *setup, bool is_blas, const kv_bench_peak *peak, kv_bench_row *row)
{
    row->fma_flops = setup->limits.first.fma_flops;
    row->int8_ops = setup->limits.first.int8_ops;
    row->read_bytes_per_s = row->n_gen > 0 ? read_limit(setup, row->kv_bytes) : setup->limits.first.read_bytes_per_s;
    if (setup->limits.first.int8_ops <= 0) return;
    double *ops = is_float(setup, is_blas) ? &row->fma_flops : &row->int8_ops;
    if (peak->work > 0) *ops = peak->work / peak->seconds;
    if (peak->work > 0 && ops == &row->int8_ops) {
        if (setup->limits.least_int8 == 0 || *ops < setup->limits.least_int8) setup->limits.least_int8 = *ops;
        if (*ops > setup->limits.most_int8) setup->limits.most_int8 = *ops;
    }
    double seconds = row->n_prompt > 0 ? prompt_operations(&setup->info, row->n_prompt) / *ops : 0;
    seconds += row->n_gen * (double)(setup->info.decode_weight_bytes + row->kv_bytes) / row->read_bytes_per_s;
    double taken = 0;
    for (int i = 0; i < row->n_samples; i++) taken += (double)row->samples_ns[i] / 1e9;
    row->limit_pct = 100 * seconds * row->n_samples / taken;
}
