/* common.c - what tools do alike: fail with one line, read a file, turn options into a model, a session, a sampler.
 */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "tools/json_out.h"
#include "tools/term.h"
#include "tools/tools.h"

enum { WAIT_MS = 100 }; /* for input, between two looks for Ctrl-C */

/* ---- failing ----------------------------------------------------------------------------------- */

/* Why stdout could not be written, from the first write or flush that failed: the stream remembers only that one did. */
static int stdout_errno;

/* More than the stream's buffer is written at once, and nothing is left that a later flush could fail with. */
void kv_tool_write(const char *text, size_t len)
{
    errno = 0;
    if (fwrite(text, 1, len, stdout) < len && !stdout_errno) stdout_errno = errno ? errno : EIO;
}

void kv_tool_flush(void)
{
    errno = 0;
    if (fflush(stdout) != 0 && !stdout_errno) stdout_errno = errno ? errno : EIO;
}

int kv_tool_fail(const char *tool, const char *fmt, ...)
{
    va_list args;
    kv_tool_flush();
    va_start(args, fmt);
    kv_print_error(tool, fmt, args);
    va_end(args);
    return KV_EXIT_FAILED;
}

int kv_tool_fail_error(const char *tool, const kvasir_error *err)
{
    if (err->code == KVASIR_ERR_CANCELLED) return KV_EXIT_INTERRUPTED;
    /* The library says "attention, column 3: ..." of its parameter, which is an option here: wrong usage, and nothing was loaded. */
    if (err->code == KVASIR_ERR_ATTENTION) return kv_usage_error(tool, "--%s", err->message);
    return kv_tool_fail(tool, "%s", err->message);
}

int kv_tool_finish(const char *tool, int status)
{
    const bool had_error = ferror(stdout) != 0;
    kv_tool_flush();
    if (!stdout_errno && had_error) stdout_errno = EIO;
    if (!stdout_errno || status != KV_EXIT_OK) return status;
    return kv_tool_fail(tool, "cannot write to standard output: %s", strerror(stdout_errno));
}

void kv_print_md_cell(const char *text)
{
    for (; *text; text++) {
        if (*text == '|') putchar('\\');
        putchar(*text == '\n' ? ' ' : *text);
    }
}

kvasir_code kv_set_error(kvasir_error *err, kvasir_code code, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    err->code = code;
    vsnprintf(err->message, sizeof err->message, fmt, args);
    va_end(args);
    return code;
}

/* ---- files and clocks ---------------------------------------------------------------------------- */

/* Until there is something to read, an end, or Ctrl-C. Waiting is a poll with a time limit: a signal before the read would leave
 * a read waiting. */
static void await_input(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int ready;
    do ready = kv_interrupted() ? 1 : poll(&p, 1, WAIT_MS);
    while (ready == 0 || (ready < 0 && errno == EINTR));
}

/* Reads fd to its end into a buffer that doubles; `name` is for messages. */
static kvasir_code read_all(int fd, const char *name, size_t max_bytes, char **data, size_t *len, kvasir_error *err)
{
    size_t capacity = 4096, used = 0;
    char *buf = malloc(capacity);
    while (buf) {
        await_input(fd);
        ssize_t got = kv_interrupted() ? 0 : read(fd, buf + used, capacity - used - 1);
        if (got < 0 && errno == EINTR && !kv_interrupted()) continue;
        /* Ctrl-C ends who writes into our pipe, too: that is no end of a text. */
        if (got <= 0 && kv_interrupted()) errno = EINTR, got = -1;
        if (got < 0) {
            int why = errno;
            free(buf);
            if (why == EINTR) return kv_set_error(err, KVASIR_ERR_CANCELLED, "interrupted");
            return kv_set_error(err, KVASIR_ERR_IO, "cannot read %.200s: %s", name, strerror(why));
        }
        if (got == 0) {
            buf[used] = '\0';
            *data = buf;
            *len = used;
            return KVASIR_OK;
        }
        used += (size_t)got;
        if (used > max_bytes) {
            free(buf);
            return kv_set_error(err, KVASIR_ERR_IO, "%.200s is larger than the %zu MiB that are read", name,
                                max_bytes >> 20);
        }
        if (capacity - used < 2) {
            char *grown = realloc(buf, capacity * 2);
            if (!grown) free(buf);
            buf = grown;
            capacity *= 2;
        }
    }
    return kv_set_error(err, KVASIR_ERR_MEMORY, "out of memory while reading %.200s", name);
}

kvasir_code kv_tool_read_file(const char *path, size_t max_bytes, char **data, size_t *len, kvasir_error *err)
{
    if (strcmp(path, "-") == 0) return read_all(STDIN_FILENO, "standard input", max_bytes, data, len, err);
    if (kv_interrupted()) return kv_set_error(err, KVASIR_ERR_CANCELLED, "interrupted");
    int fd;
    do fd = open(path, O_RDONLY | O_CLOEXEC); /* of a pipe it waits for who writes */
    while (fd < 0 && errno == EINTR && !kv_interrupted());
    if (fd < 0 && errno == EINTR) return kv_set_error(err, KVASIR_ERR_CANCELLED, "interrupted");
    if (fd < 0) return kv_set_error(err, KVASIR_ERR_IO, "cannot open %.200s: %s", path, strerror(errno));
    struct stat st;
    if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)) {
        close(fd);
        return kv_set_error(err, KVASIR_ERR_IO, "%.200s is a folder, not a file", path);
    }
    kvasir_code code = read_all(fd, path, max_bytes, data, len, err);
    close(fd);
    return code;
}

double kv_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

size_t kv_peak_rss_bytes(void)
{
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) == 0 ? (size_t)usage.ru_maxrss * 1024 : 0;
}

/* ---- from options to library ----------------------------------------------------------------------- */

/* The text of --attention @path; what is wrong with it is said as the library says it, "attention: ...". A file that cannot be read is a
 * wrong option, as a block file that it names is. */
static kvasir_code read_specification(const char *path, char **text, kvasir_error *err)
{
    kvasir_error why = {0};
    size_t len;
    if (path[0] == '\0')
        return kv_set_error(err, KVASIR_ERR_ATTENTION, "attention: expected a file after '@', as in @layers.txt");
    kvasir_code code = kv_tool_read_file(path, 1 << 20, text, &len, &why);
    if (code == KVASIR_OK && strlen(*text) == len) return KVASIR_OK;
    if (code == KVASIR_OK) {
        code = kv_set_error(&why, KVASIR_ERR_IO, "%.200s is not text: it holds a NUL byte", path);
        free(*text);
        *text = NULL;
    }
    return kv_set_error(err, code == KVASIR_ERR_IO ? KVASIR_ERR_ATTENTION : code, "attention: %s", why.message);
}

kvasir_code kv_common_model_params(const kv_common *c, kvasir_model_params *out, char **attention_text,
                                   kvasir_error *err)
{
    kvasir_model_params params = kvasir_model_params_default();
    params.n_threads = c->n_threads;
    params.gemm = (kvasir_gemm)c->gemm;
    params.kernels = kv_kernel_names[c->kernels];
    *attention_text = NULL;
    if (c->attention && c->attention[0] == '@') {
        kvasir_code code = read_specification(c->attention + 1, attention_text, err);
        if (code != KVASIR_OK) return code;
        params.attention = *attention_text;
    } else {
        params.attention = c->attention;
    }
    *out = params;
    return KVASIR_OK;
}

kvasir_code kv_common_check_attentions(const kv_common *c, const kv_strings *specs, const char *path, kvasir_error *err)
{
    kvasir_code code = KVASIR_OK;
    for (size_t i = 0; i < specs->n && code == KVASIR_OK; i++) {
        kv_common with_spec = *c;
        with_spec.attention = specs->values[i];
        kvasir_model_params params;
        char *text = NULL, *json = NULL;
        code = kv_common_model_params(&with_spec, &params, &text, err);
        if (code == KVASIR_OK) code = kvasir_inspect(path, params.attention, false, &json, err);
        kvasir_free(json);
        free(text);
    }
    return code;
}

kvasir_session_params kv_common_session_params(const kv_common *c)
{
    kvasir_session_params params = kvasir_session_params_default();
    params.n_ctx = c->n_ctx;
    params.n_threads = c->n_threads;
    params.n_batch = c->n_ubatch < c->n_batch ? c->n_ubatch : c->n_batch;
    params.type_k = (kvasir_kv_type)c->type_k;
    params.type_v = (kvasir_kv_type)c->type_v;
    params.kv_budget_bytes = (size_t)c->kv_budget_mib << 20;
    params.n_draft = c->n_draft;
    return params;
}

kvasir_code kv_common_open_model(const kv_common *c, bool vocab_only, kvasir_model **out, kvasir_error *err)
{
    char path[4096];
    kvasir_code code = kv_model_find(c->model, path, sizeof path, err);
    if (code != KVASIR_OK) return code;
    kvasir_model_params params;
    char *attention_text;
    code = kv_common_model_params(c, &params, &attention_text, err);
    if (code != KVASIR_OK) return code;
    params.vocab_only = vocab_only;
    code = kvasir_model_open(path, &params, out, err);
    free(attention_text);
    if (code == KVASIR_OK && c->verbose && !c->quiet) {
        kvasir_model_info info = kvasir_model_get_info(*out);
        fprintf(stderr, "model: %s (%s, %s, %.1f M parameters), kernels %s, loaded in %.0f ms\n", path,
                info.architecture, info.type, (double)info.n_params / 1e6,
                vocab_only ? "none" : kvasir_model_kernels(*out), info.load_ms);
    }
    return code;
}

void kv_common_note_context(const kv_common *c, const kvasir_model *model)
{
    const int known = kvasir_model_get_info(model).n_ctx_known;
    if (!c->quiet && known && c->n_ctx > known)
        fprintf(stderr, "warning: -c %d is more than the %d tokens that the model was trained for\n", c->n_ctx, known);
}

kvasir_code kv_common_blame_context(kvasir_code code, kvasir_error *err)
{
    const kvasir_error why = *err;
    if (code != KVASIR_ERR_MEMORY && code != KVASIR_ERR_CONTEXT) return code;
    return kv_set_error(err, code, "%.420s; give a smaller -c (--ctx-size): --dry-run says what fits", why.message);
}

/* A context beyond what the model knows is more often a slip than a wish: then both numbers are said. */
static void add_contexts(const kv_common *c, const kvasir_model *model, kvasir_error *err)
{
    const kvasir_error why = *err;
    const int known = kvasir_model_get_info(model).n_ctx_known;
    if (known && c->n_ctx > known)
        kv_set_error(err, why.code, "%.330s; -c is %d, the model was trained for %d", why.message, c->n_ctx, known);
}

kvasir_code kv_common_open_session(const kv_common *c, kvasir_model *model, kvasir_session **out, kvasir_error *err)
{
    kvasir_session_params params = kv_common_session_params(c);
    const kvasir_code code = kvasir_session_open(model, &params, out, err);
    if (code == KVASIR_OK) kv_common_note_context(c, model);
    if (code == KVASIR_ERR_MEMORY) add_contexts(c, model, err);
    return kv_common_blame_context(code, err);
}

kvasir_code kv_common_sampler_params(const kv_common *c, const kvasir_model *model, kvasir_sampler_params *out,
                                     kvasir_error *err)
{
    const int n_vocab = kvasir_model_get_info(model).n_vocab;
    for (size_t i = 0; i < c->biases.n; i++)
        if (c->biases.values[i].token >= n_vocab)
            return kv_set_error(err, KVASIR_ERR_ARGUMENT, "--logit-bias: token %d is outside the vocabulary of %d",
                                c->biases.values[i].token, n_vocab);
    *out = c->sampler;
    out->seed = c->seed.value;
    out->logit_bias = c->biases.values;
    out->n_logit_bias = c->biases.n;
    return KVASIR_OK;
}

kvasir_code kv_common_open_sampler(kv_common *c, const kvasir_model *model, kvasir_sampler **out, kvasir_error *err)
{
    if (!c->seed.is_set) {
        if (getrandom(&c->seed.value, sizeof c->seed.value, GRND_NONBLOCK) != (ssize_t)sizeof c->seed.value)
            c->seed.value = (uint64_t)(kv_now_ms() * 1e6) ^ (uint64_t)getpid() << 32;
        c->seed.is_set = true;
    }
    kvasir_sampler_params params;
    const kvasir_code code = kv_common_sampler_params(c, model, &params, err);
    if (code != KVASIR_OK) return code;
    if (c->verbose && !c->quiet) fprintf(stderr, "seed: %llu\n", (unsigned long long)c->seed.value);
    return kvasir_sampler_open(&params, kvasir_model_get_info(model).n_vocab, out, err);
}

static void print_estimate(const kvasir_estimate *e, int n_seqs, bool fits)
{
    char full[48] = "KV cache, full context";
    if (n_seqs > 1) snprintf(full, sizeof full, "KV cache, %d contexts", n_seqs);
    const struct {
        const char *what;
        size_t bytes;
    } rows[] = {{"weights", e->weight_bytes},
                {full, e->kv_bytes},
                {"compute", e->compute_bytes},
                {"total", e->total_bytes},
                {"available", e->available_bytes}};
    char buf[32];
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        printf("%-24s %10s\n", rows[i].what, kv_format_bytes(rows[i].bytes, buf, sizeof buf));
    printf("%-24s %10s\n", "fits", fits ? "yes" : "no");
}

/* The cache of several full sequences; a budget holds for all of them together. */
static void multiply_cache(kvasir_estimate *e, size_t n_seqs, size_t budget)
{
    const size_t rest = e->total_bytes - e->kv_bytes;
    e->kv_bytes = e->kv_bytes > (SIZE_MAX - rest) / n_seqs ? SIZE_MAX - rest : e->kv_bytes * n_seqs;
    if (budget && e->kv_bytes > budget) e->kv_bytes = budget;
    e->total_bytes = rest + e->kv_bytes;
}

int kv_common_dry_run(const char *tool, const kv_common *c, int n_seqs)
{
    kvasir_error err = {0};
    char path[4096], *attention_text = NULL;
    kvasir_model_params mp;
    kvasir_estimate e;
    kvasir_session_params sp = kv_common_session_params(c);
    if (kv_model_find(c->model, path, sizeof path, &err) != KVASIR_OK ||
        kv_common_model_params(c, &mp, &attention_text, &err) != KVASIR_OK)
        return kv_tool_fail_error(tool, &err);
    kvasir_code code = kvasir_estimate_memory(path, &mp, &sp, &e, &err);
    free(attention_text);
    if (kv_common_blame_context(code, &err) != KVASIR_OK) return kv_tool_fail_error(tool, &err);
    multiply_cache(&e, (size_t)n_seqs, sp.kv_budget_bytes);
    bool fits = e.total_bytes <= e.available_bytes;
    if (c->output == KV_OUTPUT_TEXT) {
        print_estimate(&e, n_seqs, fits);
        return kv_tool_finish(tool, KV_EXIT_OK);
    }
    json_t *json = json_pack("{s:o, s:I, s:I, s:I, s:I, s:I, s:b}", "model", kv_json_string(path), "weight_bytes",
                             (json_int_t)e.weight_bytes, "kv_bytes", (json_int_t)e.kv_bytes, "compute_bytes",
                             (json_int_t)e.compute_bytes, "total_bytes", (json_int_t)e.total_bytes, "available_bytes",
                             (json_int_t)e.available_bytes, "fits", fits);
    return kv_json_print(tool, json, KV_EXIT_OK);
}
