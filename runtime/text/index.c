/* index.c - what tokenizing needs and opening does not: built once, by whoever tokenizes first.
 *
 *   texts    hash(text) -> slot { upper hash half | id + 1 }   linear probing, half full; texts stay in the file
 *   merges   (left id, right id) -> rank, id of the union        bpe.c
 *   joined   which byte pairs a token may bring together         bpe.c, spm.c, unigram.c
 *
 * The hash is seeded at random: nobody can write a vocabulary whose texts all collide. The seed decides where entries
 * lie, never what is found. Only texts that plain text may turn into are entered; so no merge can forge a control
 * token. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <sys/random.h>
#include <time.h>

#include "base/alloc.h"
#include "text/vocab_internal.h"

static uint64_t hash_of(const void *data, size_t len, uint64_t seed) { return XXH3_64bits_withSeed(data, len, seed); }

static uint64_t random_seed(const void *salt)
{
    uint64_t seed = 0;
    if (getrandom(&seed, sizeof seed, GRND_NONBLOCK) == (ssize_t)sizeof seed) return seed;
    struct timespec now = {0};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)(uintptr_t)salt ^ (uint64_t)now.tv_nsec << 32 ^ (uint64_t)now.tv_sec;
}

static bool is_mergeable(const kv_vocab *vocab, kvasir_token id)
{
    kv_token_type type = kv_vocab_type(vocab, id);
    return type == KV_TOKEN_NORMAL || type == KV_TOKEN_USER || type == KV_TOKEN_UNUSED;
}

kvasir_token kv_index_find(const kv_vocab *vocab, const kv_index *index, const char *text, size_t len)
{
    if (len == 0 || len > KV_MAX_TOKEN_TEXT) return -1;
    uint64_t hash = hash_of(text, len, index->seed);
    uint32_t tag = (uint32_t)(hash >> 32);
    for (size_t i = hash & index->texts_mask;; i = (i + 1) & index->texts_mask) {
        const kv_text_slot *slot = &index->texts[i];
        if (slot->id1 == 0) return -1;
        if (slot->tag != tag) continue;
        kvasir_token id = (kvasir_token)(slot->id1 - 1);
        kv_str found = kv_vocab_token_text(vocab, id);
        if (found.len == len && memcmp(found.data, text, len) == 0) return id;
    }
}

static kvasir_code build_texts(const kv_vocab *vocab, kv_index *index, kvasir_error *err)
{
    size_t n_slots = 64;
    while (n_slots < (size_t)vocab->n_tokens * 2) n_slots *= 2;
    index->texts = kv_calloc(n_slots, sizeof *index->texts);
    if (index->texts == NULL) return kv_fail_memory(err, n_slots * sizeof *index->texts, "the index of the vocabulary");
    index->texts_mask = n_slots - 1;
    for (uint32_t id = 0; id < vocab->n_tokens; id++) {
        kv_str text = kv_vocab_token_text(vocab, (kvasir_token)id);
        if (text.len == 0 || text.len > KV_MAX_TOKEN_TEXT || !is_mergeable(vocab, (kvasir_token)id)) continue;
        uint64_t hash = hash_of(text.data, text.len, index->seed);
        uint32_t tag = (uint32_t)(hash >> 32);
        size_t i = hash & index->texts_mask;
        for (; index->texts[i].id1 != 0; i = (i + 1) & index->texts_mask) {
            if (index->texts[i].tag != tag) continue;
            if (kv_str_eq(text, kv_vocab_token_text(vocab, (kvasir_token)(index->texts[i].id1 - 1)))) break;
        }
        if (index->texts[i].id1 == 0) index->texts[i] = (kv_text_slot){tag, id + 1}; /* of duplicates the first stays */
    }
    return KVASIR_OK;
}

static kvasir_code build(const kv_vocab *vocab, kv_index *index, kvasir_error *err)
{
    index->seed = random_seed(index);
    for (size_t b = 0; b < 256; b++) index->byte_token[b] = -1;
    KV_TRY(build_texts(vocab, index, err));
    KV_TRY(kv_special_init(vocab, &index->special, err));
    return vocab->kind == KV_VOCAB_BPE ? kv_bpe_build(vocab, index, err) : kv_spm_build(vocab, index, err);
}

kvasir_code kv_index_get(const kv_vocab *vocab, const kv_index **out, kvasir_error *err)
{
    *out = atomic_load_explicit(&vocab->index, memory_order_acquire);
    if (*out != NULL) return KVASIR_OK;
    kv_vocab *lazy = (kv_vocab *)vocab; /* the one part of a vocabulary that is made late */
    kvasir_code code = KVASIR_OK;
    pthread_mutex_lock(&lazy->building);
    *out = atomic_load_explicit(&lazy->index, memory_order_relaxed);
    if (*out == NULL) {
        kv_index *index = kv_calloc(1, sizeof *index);
        code = index == NULL ? kv_fail_memory(err, sizeof *index, "the index of the vocabulary")
                             : build(vocab, index, err);
        if (code == KVASIR_OK) {
            atomic_store_explicit(&lazy->index, index, memory_order_release);
            *out = index;
        } else {
            kv_index_free(index); /* the next call tries again */
        }
    }
    pthread_mutex_unlock(&lazy->building);
    return code;
}

void kv_index_free(kv_index *index)
{
    if (index == NULL) return;
    kv_free(index->texts);
    kv_free(index->merges);
    kv_special_deinit(&index->special);
    kv_pretokenizer_close(index->pre);
    kv_free(index);
}
