/* kvasir.h - run a small language model from C.
 *
 * The only header that tools and embedding programs include. Everything is opaque: a *model* is a
 * checkpoint opened for reading (shared by any number of sessions, immutable), a *session* is one
 * conversation with its KV cache, a *sampler* turns logits into the next token.
 *
 *     model   = kvasir_model_open(path)          session = kvasir_session_open(model)
 *     tokens  = kvasir_tokenize(model, text)     kvasir_session_eval(session, tokens)
 *     next    = kvasir_sampler_sample(sampler, kvasir_session_logits(session, 0))
 *     and again after kvasir_session_step(session, next)
 *
 * Errors: every function that can fail returns a kvasir_code and, when `err` is not NULL, writes one
 * line of text there. On failure no out-parameter is changed and nothing is left to free. The library
 * never prints and never exits. Strings returned through `char **` are released with kvasir_free().
 *
 * Threads: a model may be used by several threads at once; a session or sampler by one at a time.
 * Determinism: the same tokens give bit-identical logits, whatever the thread count, the chunking of
 * prefill, the split between prefill and decode, the company in a batch or the CPU.
 */
#ifndef KVASIR_H
#define KVASIR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define KVASIR_API          __attribute__((visibility("default")))
#define KVASIR_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define KVASIR_API
#define KVASIR_PRINTF(f, a)
#endif

#define KVASIR_VERSION "0.1.0"

/* ---- status -------------------------------------------------------------------------------- */

typedef enum kvasir_code {
    KVASIR_OK = 0,
    KVASIR_ERR_ARGUMENT,    /* the caller asked for something that has no meaning; the message names it */
    KVASIR_ERR_IO,          /* a file could not be opened, read or written */
    KVASIR_ERR_FORMAT,      /* a file is not what it must be (malformed, truncated, inconsistent) */
    KVASIR_ERR_UNSUPPORTED, /* well-formed, but uses something this build cannot run */
    KVASIR_ERR_MEMORY,      /* an allocation failed */
    KVASIR_ERR_CONTEXT,     /* the tokens do not fit the context or the KV budget */
    KVASIR_ERR_TEMPLATE,    /* the chat template raised, or exceeded its limits */
    KVASIR_ERR_CANCELLED,   /* the progress callback asked to stop */
    KVASIR_ERR_ATTENTION,   /* the caller's attention specification; the message is "attention, column N: ..." */
} kvasir_code;

typedef struct kvasir_error {
    kvasir_code code;
    char message[512]; /* one line, no newline, NUL-terminated */
} kvasir_error;

/* Releases memory that a kvasir function returned through `char **` or `kvasir_token **`. NULL is fine. */
KVASIR_API void kvasir_free(void *ptr);

/* Writes a whole file: temporary beside it, fsync, rename, so the old content stays until the new one is safe. A directory, device,
 * FIFO or symbolic link at `path` is refused, never replaced. Errors: IO, MEMORY. */
KVASIR_API kvasir_code kvasir_write_file(const char *path, const void *data, size_t len, kvasir_error *err);

/* The same in pieces, for what is too large to be held. Where the file system can (O_TMPFILE) a process that is killed leaves nothing.
 * Open, write any number of times, then exactly one of commit and abort; both close the writer, commit also when it fails. Errors: as
 * kvasir_write_file. */
typedef struct kvasir_writer kvasir_writer;
KVASIR_API kvasir_code kvasir_writer_open(const char *path, kvasir_writer **out, kvasir_error *err);
KVASIR_API kvasir_code kvasir_writer_write(kvasir_writer *writer, const void *data, size_t len, kvasir_error *err);
KVASIR_API kvasir_code kvasir_writer_commit(kvasir_writer *writer, kvasir_error *err);
/* NULL is fine. */
KVASIR_API void kvasir_writer_abort(kvasir_writer *writer);

/* ---- model --------------------------------------------------------------------------------- */

typedef int32_t kvasir_token; /* a token id, 0 .. n_vocab-1; -1 where a model has no such token */

typedef struct kvasir_model kvasir_model;

typedef enum kvasir_gemm {
    KVASIR_GEMM_NATIVE = 0, /* quantised weights x int8 activations, float weights x float32; bit-exact everywhere */
    KVASIR_GEMM_BLAS,       /* weights dequantised to float32, OpenBLAS sgemm: the yardstick of quality */
} kvasir_gemm;

typedef struct kvasir_model_params {
    int n_threads; /* for packing at load and as default of its sessions; 0: physical cores available */
    kvasir_gemm gemm;
    /* "auto" (or NULL), "scalar", "avx2", "avxvnni", "avx512", "amx", "neon", "neondot", "neoni8mm"; all give the same bits. */
    const char *kernels;
    const char *attention; /* attention specification (README.md) over the checkpoint's own; NULL: none */
    bool vocab_only;       /* open tokenizer and metadata only: no weights are read */
} kvasir_model_params;

/* All defaults: native, auto, physical cores. */
KVASIR_API kvasir_model_params kvasir_model_params_default(void);

/* Opens the GGUF checkpoint at `path`. `params` may be NULL. The file stays mapped until close.
 * Errors: IO, FORMAT (malformed), UNSUPPORTED (unknown architecture or tensor type), MEMORY, ARGUMENT, ATTENTION. */
KVASIR_API kvasir_code kvasir_model_open(const char *path, const kvasir_model_params *params, kvasir_model **out,
                                         kvasir_error *err);
/* Closes the model; its sessions must be closed first. NULL is fine. */
KVASIR_API void kvasir_model_close(kvasir_model *model);

/* Of a model that was opened for its vocabulary only: the file, its names and n_vocab (its tokens); the sizes of layers are 0. */
typedef struct kvasir_model_info {
    const char *architecture; /* "llama", "gemma3"; borrowed from the model */
    const char *name;         /* general.name, or "" */
    int n_vocab;              /* rows of the output matrix */
    int n_layers;
    int n_embd;
    int n_heads;       /* of layer 0 */
    int n_kv_heads;    /* of layer 0 */
    int head_dim;      /* of layer 0 */
    int n_ctx_train;   /* context length that the checkpoint declares */
    int n_ctx_known;   /* beyond it a layer looks further back than it was trained to; 0: never (windows) */
    uint64_t n_params; /* weights of all tensors */
    /* Of the matrices that a token passes through: of experts those it is sent to; the output matrix. */
    uint64_t n_params_active;
    size_t file_bytes;
    size_t weight_bytes;        /* all tensors as stored */
    size_t decode_weight_bytes; /* what one decode step reads of them: n_params_active as stored */
    const char *type;           /* the mix that the file says it is ("Q4_K_M"), or the type of most weights ("Q4_1") */
    double load_ms;             /* wall time of kvasir_model_open */
} kvasir_model_info;

KVASIR_API kvasir_model_info kvasir_model_get_info(const kvasir_model *model);
/* Does a part of what makes later passes faster, some milliseconds of it, while nobody waits: weights that are read in the file so far (many
 * of Q8_0) are packed, and packed ones move to huge pages, as they would bit by bit after the first passes. Any thread may call it, also
 * while sessions run; it has threads of its own. No result changes. False: nothing is left to do. */
KVASIR_API bool kvasir_model_settle(const kvasir_model *model);
/* Kernel set in force: "scalar", "avx2", ... */
KVASIR_API const char *kvasir_model_kernels(const kvasir_model *model);
/* Threads of its sessions whose params say 0. */
KVASIR_API int kvasir_model_n_threads(const kvasir_model *model);

/* The attention in force as one specification in canonical form, defaults written out: "0-3=full; 4-7=window(256)". Borrowed from
 * the model; "" for one that was opened for its vocabulary only. */
KVASIR_API const char *kvasir_model_attention(const kvasir_model *model);

/* What a file holds, as a JSON object (architecture, sizes, types, tokenizer, attention per layer). Works from the header alone, also for
 * files that cannot be run: "not_supported" lists what they need, [{"what": "tensor type", "name": "IQ2_XS", "note": ...}]. `attention` as in kvasir_model_params;
 * `with_tensors` lists every tensor. `*json` is allocated (kvasir_free). Errors: IO, FORMAT, UNSUPPORTED (a version of GGUF), MEMORY, ATTENTION. */
KVASIR_API kvasir_code kvasir_inspect(const char *path, const char *attention, bool with_tensors, char **json,
                                      kvasir_error *err);

typedef enum kvasir_kv_type { KVASIR_KV_F16 = 0, KVASIR_KV_F32, KVASIR_KV_BF16, KVASIR_KV_Q8_0 } kvasir_kv_type;
/* "f16", "f32", "bf16", "q8_0" -> type; false when the name is none of these. */
KVASIR_API bool kvasir_kv_type_parse(const char *name, kvasir_kv_type *out);

typedef struct kvasir_attention_params {
    const char *attention; /* specification over the checkpoint's own, or NULL */
    int n_ctx;             /* tokens of context; 0: what the checkpoint declares */
    kvasir_kv_type type_k, type_v;
    double read_bytes_per_s, flops_per_s, int8_ops_per_s; /* this machine's limits, 0: not known */
    int map_cells; /* also a map of each layer's pattern with so many cells a side, 256 at most; 0: none */
} kvasir_attention_params;

/* What attention costs, layer by layer, as a JSON object: {"ctx", "layers": [{"layer", "spec", "heads", "kv_heads", "kv_bytes_per_token", "kv_bytes",
 * "prefill_flops", "decode_flops", "decode_bytes", "intensity"}], "total": {..}, "mha": {..}}. kv_bytes are held after n_ctx tokens; prefill
 * reads them all, decode is the token after them; flops count a multiplication and an addition as two and are those of attention alone (scores,
 * weighted values, states). "mha" is the same model with a KV head for every head and full attention. With limits layers and sums have a
 * "bound" ("memory", "compute") and sums "decode_tokens_per_s" and "prefill_tokens_per_s"; with map_cells layers have a "map". From the header alone.
 * `*json` is allocated (kvasir_free). Errors: as kvasir_model_open; CONTEXT for n_ctx, ARGUMENT for map_cells. */
KVASIR_API kvasir_code kvasir_attention_report(const char *path, const kvasir_attention_params *params, char **json,
                                               kvasir_error *err);

/* ---- text ---------------------------------------------------------------------------------- */

enum {
    KVASIR_TOKENIZE_BOS = 1,     /* add BOS (and EOS) where the model says so */
    KVASIR_TOKENIZE_SPECIAL = 2, /* parse special tokens in the text; without it they are plain text */
    KVASIR_TOKENIZE_FURTHER = 4, /* the text continues another: no space is put in front, where the model has that */
};

/* Text to token ids. `*tokens` is allocated (kvasir_free), `*n_tokens` ids. Linearithmic in len.
 * Any bytes are accepted; invalid UTF-8 becomes byte tokens. Errors: ARGUMENT (a text of more than 1 GiB), MEMORY, UNSUPPORTED
 * (no tokenizer in the file, or none that is known). */
KVASIR_API kvasir_code kvasir_tokenize(const kvasir_model *model, const char *text, size_t len, unsigned flags,
                                       kvasir_token **tokens, size_t *n_tokens, kvasir_error *err);

/* Token ids to text: `*text` is allocated (kvasir_free), `*len` bytes, NUL-terminated as well. `special` renders
 * control tokens too (otherwise they give nothing). Errors: ARGUMENT (an id outside the vocabulary), UNSUPPORTED (no tokenizer in the
 * file), MEMORY. */
KVASIR_API kvasir_code kvasir_detokenize(const kvasir_model *model, const kvasir_token *tokens, size_t n_tokens,
                                         bool special, char **text, size_t *len, kvasir_error *err);

/* Bytes of one token as they appear in running text (a leading space included). Writes at most `cap` bytes, returns the
 * full length. Ids without text (control tokens unless `special`, ids outside the vocabulary) give 0. */
KVASIR_API size_t kvasir_token_bytes(const kvasir_model *model, kvasir_token token, bool special, char *buf,
                                     size_t cap);

/* Streaming: holds back the bytes of an unfinished UTF-8 character until it is complete. Plain struct, zero to start. */
typedef struct kvasir_utf8_stream {
    char pending[8];
    int n_pending;
} kvasir_utf8_stream;
/* Takes `len` bytes; returns how many bytes were written to `out`, always whole characters. Bytes that can never become a character are
 * replaced by U+FFFD, three bytes for one, so `out` must have room for 3*len + 8. */
KVASIR_API size_t kvasir_utf8_push(kvasir_utf8_stream *s, const char *bytes, size_t len, char *out);
/* Ends the stream: an unfinished character becomes U+FFFD. `out` needs 8 bytes. */
KVASIR_API size_t kvasir_utf8_finish(kvasir_utf8_stream *s, char *out);

typedef enum kvasir_special {
    KVASIR_TOKEN_BOS,
    KVASIR_TOKEN_EOS,
    KVASIR_TOKEN_EOT, /* end of turn, where the model has one */
    KVASIR_TOKEN_UNK,
    KVASIR_TOKEN_PAD,
} kvasir_special;
/* The id of a special token, or -1. */
KVASIR_API kvasir_token kvasir_special_token(const kvasir_model *model, kvasir_special which);
/* Whether a token ends a reply (EOS, EOT, EOM and the names that GGUF practice treats alike). */
KVASIR_API bool kvasir_token_is_eog(const kvasir_model *model, kvasir_token token);

/* Renders a conversation with a Jinja chat template exactly as HF transformers would.
 *   source         template text, or NULL for the model's own (`model` may be NULL when source is given)
 *   messages_json  a JSON array of {"role","content",...}
 *   tools_json     a JSON array or NULL
 *   bos, eos       texts of those tokens; NULL: the model's
 *   extra_json     a JSON object with more template variables, or NULL
 * `*text` is allocated (kvasir_free), `*len` bytes, NUL-terminated as well. Errors: ARGUMENT (JSON), TEMPLATE (raise_exception's own
 * message, or line and construct), UNSUPPORTED (the model has no template), MEMORY. */
typedef struct kvasir_template_params {
    const char *source;
    const char *messages_json;
    const char *tools_json;
    const char *extra_json;
    const char *bos, *eos;
    bool add_generation_prompt;
} kvasir_template_params;
KVASIR_API kvasir_code kvasir_template_render(const kvasir_model *model, const kvasir_template_params *params,
                                              char **text, size_t *len, kvasir_error *err);
/* The model's own template text, or NULL. Borrowed, NUL-terminated. */
KVASIR_API const char *kvasir_model_template(const kvasir_model *model);

/* ---- session ------------------------------------------------------------------------------- */

typedef struct kvasir_session kvasir_session;

enum { KVASIR_DRAFT_MAX = 7 }; /* tokens read ahead at most */

typedef struct kvasir_session_params {
    int n_ctx; /* tokens the session can hold; 0: what the checkpoint declares. Of LongRoPE's two sets of factors (Phi 3) it is what
                  chooses: the long one where it is beyond the context that the model was first trained with. */
    int n_threads; /* 0: the model's default */
    int n_batch;   /* rows per prefill chunk (-ub); 0: 512 */
    kvasir_kv_type type_k, type_v;
    size_t kv_budget_bytes; /* most memory that KV pages may take; 0: what n_ctx needs */
    int n_draft;            /* most tokens that kvasir_session_step reads ahead, up to KVASIR_DRAFT_MAX; 0: none */
} kvasir_session_params;

/* f16, n_draft KVASIR_DRAFT_MAX, the rest 0. */
KVASIR_API kvasir_session_params kvasir_session_params_default(void);
/* `params` may be NULL. KV pages are allocated as they are filled. Errors: ARGUMENT (types, negative sizes; a model opened for its vocabulary
 * only), CONTEXT (n_ctx beyond learned positions), MEMORY. */
KVASIR_API kvasir_code kvasir_session_open(kvasir_model *model, const kvasir_session_params *params,
                                           kvasir_session **out, kvasir_error *err);
/* NULL is fine. */
KVASIR_API void kvasir_session_close(kvasir_session *session);

/* Which rows of an eval get logits; or, for embeddings, the hidden state [n_embd] behind the last norm, from which logits are made. */
typedef enum kvasir_want {
    KVASIR_LOGITS_NONE,
    KVASIR_LOGITS_LAST,
    KVASIR_LOGITS_ALL,
    KVASIR_HIDDEN_LAST, /* read with kvasir_engine_hidden */
    KVASIR_HIDDEN_ALL,
} kvasir_want;

/* Called after every prefill chunk and between the layers of one, in the thread that evaluates, with tokens done and total; the tokens of a
 * chunk are done when it is through. Return false to stop (ERR_CANCELLED, the tokens done so far stay; a chunk that has begun is as
 * if it had not). */
typedef bool (*kvasir_progress)(void *user, size_t done, size_t total);

/* Appends n_tokens tokens to the session and computes the wanted logits. Errors: ARGUMENT (id out of range, n_tokens 0),
 * CONTEXT (would exceed n_ctx or the KV budget; nothing is evaluated), CANCELLED, MEMORY.
 * Logits of LAST are row 0; of ALL are rows 0..n_tokens-1 (memory n_tokens * n_vocab floats: feed in pieces). */
KVASIR_API kvasir_code kvasir_session_eval(kvasir_session *session, const kvasir_token *tokens, size_t n_tokens,
                                           kvasir_want want, kvasir_progress progress, void *user, kvasir_error *err);
/* Logits [n_vocab] of row `row` of the last eval (of a step: row 0), or NULL where it made none. Borrowed until the next eval or step; may be
 * modified in place. */
KVASIR_API float *kvasir_session_logits(kvasir_session *session, size_t row);
/* Appends one token: what eval does with KVASIR_LOGITS_LAST, the same logits to the bit, in less time where a text repeats itself. With
 * the token it reads ahead those that followed the same tokens before (drafts, below), as far as that is likely to pay; when they are what
 * is appended next, their logits are there. All that can be asked of the session speaks of the appended tokens only. Errors: as eval. */
KVASIR_API kvasir_code kvasir_session_step(kvasir_session *session, kvasir_token token, kvasir_progress progress,
                                           void *user, kvasir_error *err);
/* What steps have read ahead so far, and how much of it was then appended. */
typedef struct kvasir_draft_stats {
    size_t n_drafted, n_accepted; /* tokens */
} kvasir_draft_stats;
KVASIR_API kvasir_draft_stats kvasir_session_draft_stats(const kvasir_session *session);

KVASIR_API size_t kvasir_session_n_tokens(const kvasir_session *session);
KVASIR_API size_t kvasir_session_n_ctx(const kvasir_session *session);
/* The tokens evaluated so far [kvasir_session_n_tokens]. Borrowed until the session is closed; eval, step and rewind write there. */
KVASIR_API const kvasir_token *kvasir_session_tokens(const kvasir_session *session);
/* Forgets everything after the first n_tokens tokens (undo). Window layers may have returned the pages that this needs;
 * then fewer tokens are kept: returns how many (feed the rest again). */
KVASIR_API size_t kvasir_session_rewind(kvasir_session *session, size_t n_tokens);
/* Remembers the session as it stands: a later rewind to this place finds all but the tokens of its last, partly filled page (63 at most), also
 * when window layers have gone on far beyond. What window layers keep for that they give up again when the KV budget (0: what n_ctx
 * needs, and two windows) leaves no room. */
KVASIR_API void kvasir_session_keep(kvasir_session *session);

typedef struct kvasir_kv_stats {
    size_t pages, bytes;               /* pages that are held now, and their bytes */
    size_t peak_pages, peak_bytes;     /* most so far */
    size_t cached_pages, cached_bytes; /* of those held, what only the prefix cache of an engine holds */
    size_t evicted_pages;              /* given up by it so far, for room */
} kvasir_kv_stats;
KVASIR_API kvasir_kv_stats kvasir_session_kv_stats(const kvasir_session *session);
KVASIR_API int kvasir_session_n_threads(const kvasir_session *session);
/* Time spent in each stage of the forward pass since the last call with `reset`; the clock runs from the first call on. Returns the
 * number of stages; writes at most `cap` of them. Names are static. */
typedef struct kvasir_stage_time {
    const char *name; /* "qkv", "attention", "gate+up", ... */
    double ms;
} kvasir_stage_time;
KVASIR_API int kvasir_session_profile(kvasir_session *session, bool reset, kvasir_stage_time *out, int cap);

/* ---- importance ------------------------------------------------------------------------------ */

/* How much each input of each matrix matters: the mean of its square over a text, which kvasir_quantize takes (params.imatrix).
 *
 *     kvasir_imatrix_open(model, &im, &err);  kvasir_session_observe(session, im)
 *     kvasir_session_eval(session, ..., KVASIR_HIDDEN_ALL, ...)      once per chunk of the text
 *     kvasir_imatrix_save(im, "model.imatrix.gguf", &info, &err)
 */
typedef struct kvasir_imatrix kvasir_imatrix;

/* Errors: ARGUMENT (opened for its vocabulary only), MEMORY. The model must outlive it. */
KVASIR_API kvasir_code kvasir_imatrix_open(const kvasir_model *model, kvasir_imatrix **out, kvasir_error *err);
/* No session may observe into it any more. NULL is fine. */
KVASIR_API void kvasir_imatrix_close(kvasir_imatrix *imatrix);
/* From now on what goes into the session's matrices is added to `imatrix` (of the same model; one session at a time), until NULL is
 * given. Rows that want logits or hidden states are added to the output matrix; hidden states do so without multiplying. */
KVASIR_API void kvasir_session_observe(kvasir_session *session, kvasir_imatrix *imatrix);

typedef struct kvasir_imatrix_info {
    const char *dataset; /* what was read; not NULL */
    uint32_t n_chunks, chunk_tokens;
} kvasir_imatrix_info;

/* Writes what was added up, in the layout of llama-imatrix: F32 tensors NAME.in_sum2 [n_matrices][n_in] and NAME.counts [n_matrices], for every
 * matrix that had an input. Errors: IO, MEMORY, FORMAT (inputs that were not finite; names the tensor). */
KVASIR_API kvasir_code kvasir_imatrix_save(const kvasir_imatrix *imatrix, const char *path,
                                           const kvasir_imatrix_info *info, kvasir_error *err);

/* ---- many sequences at once ------------------------------------------------------------------ */

/* Several sequences that share one cache, one set of buffers and one pool, and go through the model together. A sequence's logits
 * have the same bits as alone. A session is an engine with one sequence. */
typedef struct kvasir_engine kvasir_engine;

/* `params->n_ctx` is per sequence, the KV budget for all. n_seqs 1 .. 1024. Errors: as kvasir_session_open. */
KVASIR_API kvasir_code kvasir_engine_open(kvasir_model *model, const kvasir_session_params *params, int n_seqs,
                                          kvasir_engine **out, kvasir_error *err);
/* NULL is fine. */
KVASIR_API void kvasir_engine_close(kvasir_engine *engine);

/* What one sequence does in an eval: n_tokens tokens are appended to sequence `seq`. */
typedef struct kvasir_step {
    int seq;
    const kvasir_token *tokens;
    size_t n_tokens;
    kvasir_want want;
} kvasir_step;

/* Runs all steps (each sequence at most once) in as few passes as n_batch rows allow. Errors: as kvasir_session_eval; on error no
 * sequence has changed, except that window layers may have to start anew (n_tokens says). */
KVASIR_API kvasir_code kvasir_engine_eval(kvasir_engine *engine, const kvasir_step *steps, size_t n_steps,
                                          kvasir_error *err);
/* Logits [n_vocab] of row `row` (LAST: 0; ALL: 0 .. n_tokens-1) of step `step` of the last eval, or NULL where it made none. Borrowed until the
 * next eval; may be modified in place. */
KVASIR_API float *kvasir_engine_logits(kvasir_engine *engine, size_t step, size_t row);
/* The same for steps that wanted hidden states: [n_embd]. */
KVASIR_API const float *kvasir_engine_hidden(kvasir_engine *engine, size_t step, size_t row);
/* Tokens that sequence `seq` holds; 0 for one that the engine does not have. */
KVASIR_API size_t kvasir_engine_n_tokens(const kvasir_engine *engine, int seq);
/* As kvasir_session_rewind. */
KVASIR_API size_t kvasir_engine_rewind(kvasir_engine *engine, int seq, size_t n_tokens);
/* Sequence `to` becomes the first n_tokens tokens of `from`; pages are shared, copied when one of them writes. Returns how many tokens
 * `to` has: n_tokens, or 0 when window layers of `from` no longer hold what is needed. */
KVASIR_API size_t kvasir_engine_share(kvasir_engine *engine, int from, int to, size_t n_tokens);
/* The prefix cache: a sequence that was begun by resume leaves its pages there as they fill, so that others share them while it runs;
 * retire adds the last one. Pages that no sequence uses go, least recently used first, when the KV budget (0: what all sequences need at
 * most) leaves no room for others.
 *
 * Gives the empty sequence `seq` the longest prefix of tokens [n_tokens] whose pages are at hand: in the cache or in another sequence, busy
 * or not. Returns how many tokens `seq` has now, less than n_tokens (so that the last one is evaluated and has logits); 0 also when `seq`
 * is not empty. The pages are shared; the bits are those of evaluating the tokens. */
KVASIR_API size_t kvasir_engine_resume(kvasir_engine *engine, int seq, const kvasir_token *tokens, size_t n_tokens);
/* Sequence `seq` is done: it becomes empty, and its pages stay in the prefix cache. (kvasir_engine_rewind to 0: only those that are there
 * already.) */
KVASIR_API void kvasir_engine_retire(kvasir_engine *engine, int seq);
KVASIR_API kvasir_kv_stats kvasir_engine_kv_stats(const kvasir_engine *engine);

/* ---- drafts -------------------------------------------------------------------------------------- */

/* What kvasir_session_step does for a session, in parts for those who run an engine: what may follow the tokens of a sequence, taken from
 * what followed the same tokens earlier in it (prompt lookup decoding, Saxena 2023). Evaluate the newest token and the draft in one step
 * (KVASIR_LOGITS_ALL), sample row by row while what is sampled is what was drafted, rewind to the tokens that count: a draft
 * ends before its page of the cache does, so that a rewind loses nothing.
 *
 * Plain struct, one for each sequence; begins with kvasir_drafter_reset. The fields are its own. */
enum { KVASIR_DRAFT_MATCH = 8 }; /* tokens of the longest match that is looked for */
typedef struct kvasir_drafter {
    float rates[KVASIR_DRAFT_MATCH]; /* how often the token after a match of 1, 2, ... tokens is right */
    float row_cost, step_ms;         /* what a row more costs in steps of one row; what that step takes */
    /* The last draft: behind n_tokens tokens, of which n_match were there before. */
    kvasir_token draft[KVASIR_DRAFT_MAX];
    size_t n_drafted, n_tokens, n_match;
} kvasir_drafter;
KVASIR_API void kvasir_drafter_reset(kvasir_drafter *drafter);
/* Writes up to `most` tokens (KVASIR_DRAFT_MAX at most) that may follow tokens [n_tokens] and are worth their rows in a step that has n_rows
 * rows without them (1: the newest token; more with other sequences). Returns how many. Looks at all tokens: linear, a nanosecond each. */
KVASIR_API size_t kvasir_draft(kvasir_drafter *drafter, const kvasir_token *tokens, size_t n_tokens, size_t n_rows,
                               size_t most, kvasir_token *draft);
/* A step of n_rows rows took so long: what a row costs is learned. */
KVASIR_API void kvasir_drafter_took(kvasir_drafter *drafter, size_t n_rows, double ms);

/* ---- making checkpoints ---------------------------------------------------------------------- */

typedef struct kvasir_synth_params {
    const char *arch; /* "llama" (or NULL), "gemma3" */
    const char *size; /* "tiny" (or NULL), "135m", "1b", ...; an unknown one is answered with the list */
    const char *type; /* of the matrices: "Q8_0" (or NULL), "F16", "Q4_1", ..., or a mix: "Q4_K_M" */
    uint64_t seed;    /* the same parameters give the same bytes */
    /* [n_set] "key=value" over the size: n_embd, n_layers, n_heads, n_kv_heads, head_dim, n_ff, n_vocab, n_ctx, window,
     * tied, rope_base, norm_eps, embd_type */
    const char *const *set;
    size_t n_set;
} kvasir_synth_params;

/* Writes a random GGUF checkpoint of a given shape, with a byte-level tokenizer, for tests and benchmarks. The file appears under
 * its name when it is whole. Errors: ARGUMENT (names what is known), IO, MEMORY. */
KVASIR_API kvasir_code kvasir_synth(const char *path, const kvasir_synth_params *params, kvasir_error *err);

typedef struct kvasir_convert_params {
    const char *type;         /* of the matrices: "F16" (or NULL), "F32", "BF16", "Q8_0"; case does not matter */
    int n_threads;            /* 0: physical cores */
    kvasir_progress progress; /* bytes of tensors written, or NULL */
    void *user;
} kvasir_convert_params;

/* Writes the Hugging Face checkpoint in the folder hf_dir (config.json, safetensors files, tokenizer.json and what belongs to it) as one GGUF
 * file. In bounded memory, whatever the checkpoint's size; the file appears under its name when it is whole. `params` may be NULL.
 * Errors name file and key: ARGUMENT, IO, FORMAT, UNSUPPORTED (an architecture, a pre-tokenizer), MEMORY, CANCELLED. */
KVASIR_API kvasir_code kvasir_convert(const char *hf_dir, const char *out, const kvasir_convert_params *params,
                                      kvasir_error *err);

/* What kvasir_quantize tells of each tensor when it is written. */
typedef struct kvasir_quantize_tensor {
    const char *name, *from, *to; /* type names; borrowed during the call */
    const char *wanted;           /* not `to` where the rows are no whole blocks of it */
    size_t bytes_from, bytes_to;
    double rmse, max_error; /* of the weights, against those of the file read; 0 where they were copied */
    double rms;             /* size of the weights themselves */
    /* With fewer KV heads, for a layer's K projection: share of the squared weights of K and V that is kept; else -1. */
    double kept_k, kept_v;
} kvasir_quantize_tensor;
/* Called after every tensor with bytes read so far and in all; return false to stop (ERR_CANCELLED). `tensor` NULL: between tensors' pieces. */
typedef bool (*kvasir_quantize_progress)(void *user, const kvasir_quantize_tensor *tensor, size_t done_bytes,
                                         size_t total_bytes);

typedef struct kvasir_quantize_params {
    const char *type; /* "Q4_K_M", "Q8_0", "F16", ...; an unknown one is answered with the list */
    bool pure;        /* every matrix gets the plain type, no mix */
    /* [n_tensor_types] "NAME=TYPE": matrices whose name contains NAME, of which there is one at least; the last that fits wins. */
    const char *const *tensor_types;
    size_t n_tensor_types;
    const char *imatrix;   /* file of kvasir imatrix, or NULL: all inputs matter alike */
    int n_threads;         /* 0: physical cores */
    uint32_t n_kv_heads;   /* 0: as many as there are */
    const char *kv_method; /* "mean" (or NULL), "first", "svd": how KV heads become fewer */
    kvasir_quantize_progress progress;
    void *user;
} kvasir_quantize_params;

/* Writes the checkpoint at `in` with other types to `out`, tensor by tensor in bounded memory; the file appears under its name when it is whole. `in`
 * may be any type that can be read (from an already quantised one, errors add up), and `out` must be another file. The result does not depend on the threads.
 * Errors: ARGUMENT, IO, FORMAT (also: weights that are not finite), UNSUPPORTED, MEMORY, CANCELLED. */
KVASIR_API kvasir_code kvasir_quantize(const char *in, const char *out, const kvasir_quantize_params *params,
                                       kvasir_error *err);

/* ---- what it would take ---------------------------------------------------------------------- */

typedef struct kvasir_estimate {
    size_t weight_bytes;  /* as they will lie in memory */
    size_t kv_bytes;      /* full context */
    size_t compute_bytes; /* activations, logits, scratch */
    size_t total_bytes;
    size_t available_bytes; /* what this machine has free now (MemAvailable, cgroup limit) */
} kvasir_estimate;
/* What kvasir_model_open and kvasir_session_open would take; `mp` and `sp` may be NULL. From the header alone, nothing large is read.
 * Errors: as theirs. */
KVASIR_API kvasir_code kvasir_estimate_memory(const char *path, const kvasir_model_params *mp,
                                              const kvasir_session_params *sp, kvasir_estimate *out, kvasir_error *err);

/* ---- sampler ------------------------------------------------------------------------------- */

typedef struct kvasir_logit_bias {
    kvasir_token token;
    float bias; /* -INFINITY forbids */
} kvasir_logit_bias;

typedef struct kvasir_sampler_params {
    uint64_t seed;
    float temperature;                   /* <= 0: greedy */
    int top_k;                           /* 0: off */
    float top_p;                         /* 1: off */
    float min_p;                         /* 0: off */
    float typical_p;                     /* 1: off */
    float repeat_penalty;                /* 1: off */
    float presence_penalty;              /* 0: off */
    float frequency_penalty;             /* 0: off */
    int repeat_last_n;                   /* tokens that the penalties look back on; 0: off, -1: everything accepted */
    const kvasir_logit_bias *logit_bias; /* [n_logit_bias], added in their order; copied */
    size_t n_logit_bias;
} kvasir_sampler_params;

typedef struct kvasir_sampler kvasir_sampler;

/* temperature 0.8, top_k 40, top_p 0.95, min_p 0.05, penalties off, last_n 64, seed 0. */
KVASIR_API kvasir_sampler_params kvasir_sampler_params_default(void);
/* `params` may be NULL. Errors: ARGUMENT (NaN or out of range, names the parameter), MEMORY. */
KVASIR_API kvasir_code kvasir_sampler_open(const kvasir_sampler_params *params, int n_vocab, kvasir_sampler **out,
                                           kvasir_error *err);
/* NULL is fine. */
KVASIR_API void kvasir_sampler_close(kvasir_sampler *sampler);
/* Tells the sampler of a token that is now part of the text (prompt tokens and chosen ones), for the penalties. */
KVASIR_API void kvasir_sampler_accept(kvasir_sampler *sampler, kvasir_token token);
/* Chooses the next token from logits [n_vocab]; order of stages: bias, penalties, top-k, typical, top-p, min-p, temperature.
 * Allocates nothing and never sorts the vocabulary. NaN logits count as -infinity; with none finite, returns -1.
 * The logits may be changed. Does not accept the token. */
KVASIR_API kvasir_token kvasir_sampler_sample(kvasir_sampler *sampler, float *logits);
/* Forgets accepted tokens and starts the random stream again from `seed`. */
KVASIR_API void kvasir_sampler_reset(kvasir_sampler *sampler, uint64_t seed);

/* ---- constraints --------------------------------------------------------------------------- */

/* A *grammar* says what texts are allowed; a *constraint* is one reply that follows it, token by token:
 *
 *     kvasir_grammar_compile(model, KVASIR_GRAMMAR_JSON_SCHEMA, text, len, &grammar, &err)
 *     kvasir_constraint_open(grammar, &c, &err)
 *     loop: kvasir_constraint_sample(c, sampler, logits, scratch, &token)
 *
 * Everything that a constrained loop writes until it samples an end-of-generation token is a text of the grammar. */
typedef struct kvasir_grammar kvasir_grammar;
typedef struct kvasir_constraint kvasir_constraint;

typedef enum kvasir_grammar_kind {
    KVASIR_GRAMMAR_GBNF = 0,    /* llama.cpp's GBNF; the rule `root` is the whole text */
    KVASIR_GRAMMAR_JSON_SCHEMA, /* a JSON Schema (2020-12); a keyword that is not supported is an error that names it */
    KVASIR_GRAMMAR_JSON_OBJECT, /* any JSON object; the text is not read and may be NULL */
} kvasir_grammar_kind;

/* Compiles `len` bytes of text for the vocabulary of `model`, which must outlive it. The result is immutable and may be used by any
 * number of constraints and threads. The first grammar of a model builds an index of its vocabulary.
 * Errors: ARGUMENT (the text is wrong or too complex: names line or JSON path), UNSUPPORTED (the model has no tokenizer), MEMORY. */
KVASIR_API kvasir_code kvasir_grammar_compile(const kvasir_model *model, kvasir_grammar_kind kind, const char *text,
                                              size_t len, kvasir_grammar **out, kvasir_error *err);
/* Constraints that are open keep it alive; the caller's handle ends here. NULL is fine. */
KVASIR_API void kvasir_grammar_close(kvasir_grammar *grammar);
/* Memory it holds now, cached masks included: for caches that are limited by bytes. */
KVASIR_API size_t kvasir_grammar_bytes(const kvasir_grammar *grammar);

/* Stands at the beginning of the text. Used by one thread at a time. Errors: MEMORY. */
KVASIR_API kvasir_code kvasir_constraint_open(kvasir_grammar *grammar, kvasir_constraint **out, kvasir_error *err);
/* NULL is fine. */
KVASIR_API void kvasir_constraint_close(kvasir_constraint *constraint);
/* Sets the logits [n_vocab] of all tokens that cannot come next to -infinity. End-of-generation tokens are allowed where the text
 * may end. False: no token can (the text has ended, or the vocabulary cannot say what is due); then all are -infinity. */
KVASIR_API bool kvasir_constraint_mask(kvasir_constraint *constraint, float *logits);
/* Samples a token that may come next, and accepts it. First as if there were no constraint: what the model says is mostly allowed, and
 * asking whether one token is costs far less than asking which are. Only where it is not, the mask is made and another token drawn from
 * what is allowed; without truncation that is the distribution of masked sampling. `logits` [n_vocab] stay, `scratch` [n_vocab] is
 * overwritten. False: no token can come. *token -1: no logit is finite. */
KVASIR_API bool kvasir_constraint_sample(kvasir_constraint *constraint, kvasir_sampler *sampler, const float *logits,
                                         float *scratch, kvasir_token *token);
/* The token is part of the text now. False (and nothing changes) when the grammar does not allow it. */
KVASIR_API bool kvasir_constraint_accept(kvasir_constraint *constraint, kvasir_token token);
/* The same for bytes, which may end inside a character. */
KVASIR_API bool kvasir_constraint_accept_bytes(kvasir_constraint *constraint, const char *bytes, size_t len);
/* Whether the text is one of the grammar as it stands, and may end here. */
KVASIR_API bool kvasir_constraint_may_end(const kvasir_constraint *constraint);
/* Whether it can only end here: nothing may follow. */
KVASIR_API bool kvasir_constraint_must_end(const kvasir_constraint *constraint);

#ifdef __cplusplus
}
#endif
#endif
