/* store.c - writing a token into its page; see store.h for the layouts. */
#include "cache/store.h"

#include <string.h>

#include "base/util.h"

size_t kv_store_k_bytes(kv_elem type, int d)
{
    if (type == KV_ELEM_Q8_0) return 4 * kv_key_panel(NULL, d).panel_bytes;
    return kv_align_up((size_t)KV_PAGE * (size_t)d * kv_elem_bytes(type), 64);
}

size_t kv_store_v_bytes(kv_elem type, int d)
{
    if (type == KV_ELEM_Q8_0)
        return kv_align_up(kv_value_scales_at(d) + (size_t)KV_PAGE * (size_t)(d / 32) * sizeof(uint16_t), 64);
    return kv_align_up((size_t)KV_PAGE * (size_t)d * kv_elem_bytes(type), 64);
}

enum { CHUNK = 256 };

/* int8 blocks of up to CHUNK values with half scales. */
static void quantize_chunk(const kv_kernels *kernels, const float *x, int n, int8_t *q, uint16_t *scales)
{
    struct {
        kv_q8_block blocks[CHUNK / 32];
        kv_q8_halves halves[CHUNK / 32];
    } row;
    const kv_q8 q8 = {.base = (uint8_t *)&row, .row_bytes = kv_q8_row_bytes(n), .n = n};
    kernels->quantize_q8(x, &q8, 0);
    for (int b = 0; b < n / 32; b++) {
        memcpy(q + 32 * b, row.blocks[b].q, 32);
        scales[b] = kv_f32_to_f16(row.blocks[b].d);
    }
}

static void store_k_q8(const kv_kernels *kernels, uint8_t *page, int t, const float *k, int d)
{
    const kv_packed w = kv_key_panel(page, d);
    uint8_t *panel = page + (size_t)(t / 16) * w.panel_bytes;
    const int lane = t % 16;
    for (int i0 = 0; i0 < d; i0 += CHUNK) {
        int8_t q[CHUNK];
        uint16_t scales[CHUNK / 32];
        const int n = kv_min_int(CHUNK, d - i0);
        quantize_chunk(kernels, k + i0, n, q, scales);
        for (int i = 0; i < n; i += 4) {
            uint32_t four;
            memcpy(&four, q + i, 4);
            four ^= 0x80808080u; /* codes are unsigned: code - 128 */
            memcpy(panel + (size_t)(i0 + i) * 16 + 4 * (size_t)lane, &four, 4);
        }
        for (int b = 0; b < n / 32; b++)
            memcpy(panel + w.scales_at + (size_t)(i0 / 32 + b) * 32 + 2 * (size_t)lane, &scales[b], 2);
    }
}

void kv_store_k(const kv_kernels *kernels, kv_elem type, uint8_t *page, int t, const float *k, int d)
{
    const size_t at = (size_t)(t / 16) * (size_t)d * 16 + (size_t)(t % 16);
    if (type == KV_ELEM_Q8_0) {
        store_k_q8(kernels, page, t, k, d);
    } else if (type == KV_ELEM_F32) {
        float *dst = (float *)(void *)page + at;
        for (int i = 0; i < d; i++) dst[16 * (size_t)i] = k[i];
    } else {
        uint16_t *dst = (uint16_t *)(void *)page + at, half[CHUNK];
        for (int i0 = 0; i0 < d; i0 += CHUNK) {
            const int n = kv_min_int(CHUNK, d - i0);
            kernels->from_f32(type, k + i0, half, n);
            for (int i = 0; i < n; i++) dst[16 * (size_t)(i0 + i)] = half[i];
        }
    }
}

void kv_store_v(const kv_kernels *kernels, kv_elem type, uint8_t *page, int t, const float *v, int d)
{
    if (type != KV_ELEM_Q8_0) {
        kernels->from_f32(type, v, page + (size_t)t * (size_t)d * kv_elem_bytes(type), d);
        return;
    }
    uint8_t *scales = page + kv_value_scales_at(d) + (size_t)t * (size_t)(d / 32) * sizeof(uint16_t);
    for (int i0 = 0; i0 < d; i0 += CHUNK) {
        uint16_t s[CHUNK / 32];
        const int n = kv_min_int(CHUNK, d - i0);
        quantize_chunk(kernels, v + i0, n, (int8_t *)page + (size_t)t * (size_t)d + i0, s);
        memcpy(scales + (size_t)(i0 / 32) * 2, s, (size_t)(n / 32) * 2);
    }
}
