/* serve.c - `kvasir serve`: completions for programs, over a local socket. The data flow:
 *
 *   sockets            loop (this thread, libevent)                preparer (2 threads)          engine (1 thread + its pool)
 *   -------            ----------------------------                --------------------          ----------------------------
 *   listen.c -accept-> conn.c  http_parse.c  route.c  guard.c
 *   bytes ----------->   head: refuse at once, or read the body
 *                        POST: jobs.c makes a kv_job ------------> prepare.c: json_in.c
 *                        GET:  info.c answers                        params.c prompt.c -> kv_request
 *                                                                    error, text_api.c: END
 *                                                                    or kv_scheduler_submit ----> scheduler.c: queue, slots
 *                                                                                                 batch.c: rows of this step
 *                                                                                                 kvasir_engine_eval
 *                      jobs.c <------- mailbox (job.c), eventfd ------- events -----------------  sequence.c reply.c: text
 *   bytes <-----------   answer.c respond.c: JSON, SSE
 *
 * Nobody waits for anybody: the loop hands jobs over and hears of them by events; a client that is gone or slow is a flag that the
 * engine reads between two steps. A job belongs to the loop and comes back with exactly one END.
 */
#include <event2/event.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <time.h>

#include "tools/chat_template.h"
#include "tools/serve/server.h"
#include "tools/tools.h"

enum { MAX_TEMPLATE_BYTES = 1 << 20, DRAIN_MS = 7000, CUT_MS = 2000, SPARE_FDS = 64, MAX_GRAMMAR_MIB = 256 };

static const char TOOL[] = "serve";
static const char *const POOLINGS[] = {"mean", "last", NULL}; /* in the order of kv_pooling */

#define AT(field) offsetof(kv_serve_options, field)
/* clang-format off */
static const kv_opt SERVE_ROWS[] = {
    {"--listen", NULL, KV_OPT_STRINGS, AT(listen), "ADDRESS", 0, 0, NULL, "unix:PATH or HOST:PORT; may be repeated. Default: unix:$XDG_RUNTIME_DIR/kvasir.sock, else unix:/tmp/kvasir-UID.sock."},
    {"--parallel", "-np", KV_OPT_INT, AT(n_parallel), "N", 1, 1024, NULL, "Sequences that are decoded together; more wait."},
    {"--max-queue", NULL, KV_OPT_INT, AT(max_queue), "N", 1, 1 << 20, NULL, "Requests that may wait; more are answered with 429."},
    {"--max-body", NULL, KV_OPT_INT, AT(max_body_mib), "MIB", 1, 1024, NULL, "Largest request body."},
    {"--max-unsent", NULL, KV_OPT_INT, AT(max_unsent_mib), "MIB", 1, 1 << 20, NULL, "Response bytes that all clients together may leave unread; above that, who has read nothing for longest is cut off."},
    {"--api-key", NULL, KV_OPT_STRINGS, AT(api_keys), "KEY", 0, 0, NULL, "Only requests with Authorization: Bearer KEY; may be repeated. Other users of the machine may see it: --api-key-file hides it."},
    {"--api-key-file", NULL, KV_OPT_STRING, AT(api_key_file), "FILE", 0, 0, NULL, "The same from a file, one key per line."},
    {"--allow-origin", NULL, KV_OPT_STRINGS, AT(allow_origins), "ORIGIN", 0, 0, NULL, "Web pages of this origin may use the server (CORS), such as https://chat.example.org; * for all; may be repeated."},
    {"--allow-host", NULL, KV_OPT_STRINGS, AT(allow_hosts), "NAME", 0, 0, NULL, "On loopback: another name of this server, behind a front; may be repeated."},
    {"--alias", "-a", KV_OPT_STRING, AT(alias), "NAME", 0, 0, NULL, "Name of the model in the API; without it the file's name."},
    {"--chat-template-file", NULL, KV_OPT_STRING, AT(template_file), "FILE", 0, 0, NULL, "Jinja template over the model's own."},
    {"--pooling", NULL, KV_OPT_ENUM, AT(pooling), "HOW", 0, 0, POOLINGS, "Embeddings: mean of all tokens, or the last one."},
    {0},
};
/* clang-format on */

/* ---- opening ---------------------------------------------------------------------------------------------- */

/* A template that cannot be used stops no server, for completions need none; but the first to know should not be the clients. */
static void warn_of_template(const kv_server *s)
{
    const kvasir_template_params probe = {.source = s->defaults.template_source,
                                          .messages_json = "[{\"role\": \"user\", \"content\": \"probe\"}]",
                                          .add_generation_prompt = true};
    const char *file = s->options->template_file;
    kvasir_error why;
    char *text = NULL;
    size_t len;
    const kvasir_code code = kvasir_template_render(s->model, &probe, &text, &len, &why);
    kvasir_free(text);
    if (code == KVASIR_ERR_TEMPLATE)
        fprintf(stderr,
                "warning: a message alone cannot be rendered, and chat is refused where that is so: %.120s%s%s\n",
                file ? file : "", file ? ": " : "", why.message);
}

static kvasir_code open_template(kv_server *s, kvasir_error *err)
{
    const kv_serve_options *o = s->options;
    size_t len = 0;
    if (o->template_file) {
        kvasir_code code = kv_tool_read_file(o->template_file, MAX_TEMPLATE_BYTES, &s->template_source, &len, err);
        if (code != KVASIR_OK) return code;
        if (strlen(s->template_source) != len)
            return kv_set_error(err, KVASIR_ERR_FORMAT, "%.200s is no template: it holds a NUL byte", o->template_file);
        s->defaults.template_source = s->template_source;
    } else if (!kvasir_model_template(s->model)) {
        const kv_chat_format *format = kv_chat_format_choose(s->model);
        s->defaults.template_source = format->source;
        s->defaults.template_stop = format->stop;
        if (!o->common.quiet) fprintf(stderr, "note: %s\n", format->note);
    }
    s->defaults.dialect =
        kv_dialect_choose(s->defaults.template_source ? s->defaults.template_source : kvasir_model_template(s->model));
    if (!o->common.quiet) warn_of_template(s);
    return KVASIR_OK;
}

/* "models/smollm2-135m.gguf" -> "smollm2-135m" */
static const char *name_of(const kv_serve_options *o, char *buf, size_t cap)
{
    char path[4096];
    kvasir_error err;
    if (o->alias) return o->alias;
    if (kv_model_find(o->common.model, path, sizeof path, &err) != KVASIR_OK) return "kvasir";
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    size_t n = strlen(base);
    if (n > 5 && strcmp(base + n - 5, ".gguf") == 0) n -= 5;
    snprintf(buf, cap, "%.*s", (int)n, base);
    /* It goes into JSON. */
    for (char *p = buf; *p; p++)
        if ((unsigned char)*p < 0x20 || (unsigned char)*p >= 0x7f) *p = '_';
    return buf;
}

/* Without a budget given: what the slots need, or an eighth of what the machine has free where that is more, so that conversations
 * outlive their slots; at most half of it. */
static size_t choose_budget(const kv_server *s, const kvasir_session_params *p)
{
    const kv_serve_options *o = s->options;
    char path[4096], *attention = NULL;
    kvasir_estimate e;
    kvasir_error err;
    kvasir_model_params mp;
    if (p->kv_budget_bytes) return p->kv_budget_bytes;
    const bool is_known = kv_common_model_params(&o->common, &mp, &attention, &err) == KVASIR_OK &&
                          kv_model_find(o->common.model, path, sizeof path, &err) == KVASIR_OK &&
                          kvasir_estimate_memory(path, &mp, p, &e, &err) == KVASIR_OK;
    free(attention);
    if (!is_known) return 0;
    const size_t half = e.available_bytes / 2, slots = e.kv_bytes * (size_t)o->n_parallel;
    const size_t want = slots > half / 4 ? slots : half / 4;
    return want < half || half == 0 ? want : half;
}

static kvasir_code open_engine(kv_server *s, kvasir_error *err)
{
    const kv_serve_options *o = s->options;
    kvasir_session_params p = kv_common_session_params(&o->common);
    if (p.n_ctx == 0) p.n_ctx = kvasir_model_get_info(s->model).n_ctx_train;
    if (o->common.gemm == KVASIR_GEMM_BLAS) p.n_draft = 0; /* its sums depend on the number of rows */
    s->kv_budget_bytes = p.kv_budget_bytes = choose_budget(s, &p);
    kvasir_code code = kv_common_blame_context(kvasir_engine_open(s->model, &p, o->n_parallel, &s->engine, err), err);
    if (code != KVASIR_OK) return code;
    kv_common_note_context(&o->common, s->model);
    kvasir_sampler_params sampler;
    code = kv_common_sampler_params(&o->common, s->model, &sampler, err);
    if (code != KVASIR_OK) return code;
    s->defaults = (kv_request_defaults){.model = s->model,
                                        .sampler = sampler,
                                        .has_seed = o->common.seed.is_set,
                                        .n_ctx = (size_t)p.n_ctx,
                                        .pooling = (kv_pooling)o->pooling,
                                        .grammars = &s->grammars};
    const kv_scheduler_params params = {.model = s->model,
                                        .engine = s->engine,
                                        .mailbox = &s->mailbox,
                                        .n_slots = o->n_parallel,
                                        .max_queue = o->max_queue,
                                        .n_batch = p.n_batch ? p.n_batch : 512,
                                        .n_draft = p.n_draft,
                                        .n_ctx = (size_t)p.n_ctx};
    s->views = calloc((size_t)o->n_parallel, sizeof *s->views);
    if (!s->views) return kv_set_error(err, KVASIR_ERR_MEMORY, "out of memory for the server");
    code = open_template(s, err);
    if (code == KVASIR_OK) code = kv_scheduler_open(&params, &s->scheduler, err);
    return code == KVASIR_OK ? kv_preparer_open(&s->defaults, s->scheduler, &s->preparer, err) : code;
}

/* As many descriptors as the system allows; what is not for connections stays spare. */
static void raise_limits(kv_server *s)
{
    struct rlimit limit = {.rlim_cur = 1024, .rlim_max = 1024};
    getrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur < limit.rlim_max) {
        struct rlimit more = {.rlim_cur = limit.rlim_max < 65536 ? limit.rlim_max : 65536, .rlim_max = limit.rlim_max};
        if (more.rlim_cur > limit.rlim_cur && setrlimit(RLIMIT_NOFILE, &more) == 0) limit = more;
    }
    s->max_conns = limit.rlim_cur > 2 * SPARE_FDS ? (size_t)limit.rlim_cur - SPARE_FDS : SPARE_FDS;
    if (s->max_conns > 16384) s->max_conns = 16384;
}

/* ---- signals and the end ------------------------------------------------------------------------------------ */

/* SIGHUP: the terminal that it was started in is closed. */
static const int ENDINGS[] = {SIGTERM, SIGINT, SIGHUP};
enum { N_ENDINGS = sizeof ENDINGS / sizeof ENDINGS[0] };
_Static_assert(N_ENDINGS == sizeof((kv_server *)0)->endings / sizeof((kv_server *)0)->endings[0], "an event for each");

/* nohup starts programs that outlive their terminal. */
static bool is_ignored(int number)
{
    struct sigaction now;
    return number == SIGHUP && sigaction(number, NULL, &now) == 0 && now.sa_handler == SIG_IGN;
}

static void on_wake(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what;
    kv_server *s = user;
    kv_jobs_deliver(s);
    if (s->is_draining && s->n_jobs == 0 && kv_conns_are_settled(s)) event_base_loopbreak(s->base);
}

/* What runs is ended; its streams get a last event. */
static void cut(kv_server *s)
{
    if (s->is_cutting) return;
    s->is_cutting = true;
    s->cut_ms = kv_now_ms();
    kv_jobs_cancel(s);
}

/* The last responses are on their way: looks again until they are out. */
static void on_drain_check(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what;
    kv_server *s = user;
    const double now = kv_now_ms();
    kv_conns_close(s, false);
    if (now - s->drain_ms > DRAIN_MS) cut(s);
    /* A reader that takes nothing does not hold up the end; from the cut on a step of the engine has its time too. */
    if ((s->n_jobs == 0 && kv_conns_are_settled(s)) || (s->is_cutting && now - s->cut_ms > CUT_MS))
        event_base_loopbreak(s->base);
}

static void on_signal(evutil_socket_t number, short what, void *user)
{
    (void)what;
    kv_server *s = user;
    const struct timeval often = {.tv_usec = 50000};
    if (s->is_draining) { /* a second time: now; but a terminal that closes tells it twice, once by the shell */
        if (number != SIGHUP) cut(s);
        return;
    }
    if (!s->options->common.quiet && s->n_jobs)
        fprintf(stderr, "stopping: %zu request%s still running; once more ends %s now\n", s->n_jobs,
                s->n_jobs == 1 ? " is" : "s are", s->n_jobs == 1 ? "it" : "them");
    s->is_draining = true;
    s->drain_ms = kv_now_ms();
    kv_listen_close(s);
    kv_preparer_drain(s->preparer);
    kv_scheduler_drain(s->scheduler);
    kv_conns_close(s, false);
    if (event_add(s->drain_check, &often) != 0) event_base_loopbreak(s->base); /* no memory to wait for anything */
}

static kvasir_code out_of_memory(kvasir_error *err)
{
    return kv_set_error(err, KVASIR_ERR_MEMORY, "out of memory for the server");
}

static kvasir_code open_loop(kv_server *s, kvasir_error *err)
{
    TAILQ_INIT(&s->idle);
    TAILQ_INIT(&s->busy);
    TAILQ_INIT(&s->lingering);
    s->base = event_base_new();
    if (!s->base || !kv_mailbox_init(&s->mailbox)) return out_of_memory(err);
    s->has_mailbox = true;
    s->wake = event_new(s->base, s->mailbox.wake_fd, EV_READ | EV_PERSIST, on_wake, s);
    s->drain_check = event_new(s->base, -1, EV_PERSIST, on_drain_check, s);
    bool has_all = s->wake && s->drain_check;
    for (int i = 0; i < N_ENDINGS; i++)
        has_all = (s->endings[i] = evsignal_new(s->base, ENDINGS[i], on_signal, s)) && has_all;
    if (!has_all || !kv_unsent_init(s, (size_t)s->options->max_unsent_mib << 20) || event_add(s->wake, NULL) != 0)
        return out_of_memory(err);
    return KVASIR_OK;
}

/* While the model loads there is no loop that could see a signal: the process ends at once, only its socket files have to go. */
static const kv_server *loading;

static void on_early_signal(int number)
{
    if (loading) kv_listen_remove_files(loading);
    signal(number, SIG_DFL);
    raise(number);
}

static void begin_loading(const kv_server *s)
{
    loading = s;
    for (int i = 0; i < N_ENDINGS; i++)
        if (!is_ignored(ENDINGS[i])) signal(ENDINGS[i], on_early_signal);
}

/* From here on signals are the loop's. */
static kvasir_code take_signals(kv_server *s, kvasir_error *err)
{
    for (int i = 0; i < N_ENDINGS; i++)
        if (!is_ignored(ENDINGS[i]) && event_add(s->endings[i], NULL) != 0) return out_of_memory(err);
    return KVASIR_OK;
}

/* The jobs that came back only when the engine's thread ended: their streams end properly too, as far as sockets take it at once. */
static void send_last_events(kv_server *s)
{
    enum { ROUNDS = 4 }; /* deliver, write, what writing calls back */
    kv_jobs_deliver(s);
    for (int i = 0; i < ROUNDS && !kv_conns_are_settled(s); i++) event_base_loop(s->base, EVLOOP_NONBLOCK);
}

static void close_all(kv_server *s)
{
    kv_listen_close(s);
    kv_preparer_close(s->preparer); /* first: it feeds the scheduler */
    kv_scheduler_stop(s->scheduler);
    if (s->has_mailbox && s->base) send_last_events(s);
    if (s->base) kv_conns_close(s, true);
    kv_scheduler_close(s->scheduler); /* last: who has a job wakes it on leaving */
    struct event *const events[] = {s->wake,       s->endings[0],  s->endings[1],
                                    s->endings[2], s->drain_check, s->unsent.cut};
    for (size_t i = 0; i < sizeof events / sizeof events[0]; i++)
        if (events[i]) event_free(events[i]);
    if (s->base) event_base_free(s->base);
    if (s->has_mailbox) kv_mailbox_deinit(&s->mailbox);
    kv_grammar_cache_deinit(&s->grammars); /* grammars know their model */
    kvasir_engine_close(s->engine);
    kvasir_model_close(s->model);
    free(s->key_digests);
    free(s->template_source);
    free(s->views);
}

static int serve(kv_serve_options *o)
{
    kv_server s = {.options = o, .start_ms = kv_now_ms(), .started = time(NULL)};
    kvasir_error err = {0};
    char name[256];
    if (getrandom(&s.id_salt, sizeof s.id_salt, GRND_NONBLOCK) < 0) s.id_salt = (uint64_t)s.started << 20;
    s.id_salt &= ~(uint64_t)0xffffffff; /* the counter fills the rest */
    json_object_seed(0);
    kv_grammar_cache_init(&s.grammars, (size_t)MAX_GRAMMAR_MIB << 20);
    raise_limits(&s);
    kvasir_code code = open_loop(&s, &err);
    if (code == KVASIR_OK) code = kv_guard_init(&s, &err);
    begin_loading(&s);
    if (code == KVASIR_OK) code = kv_listen_open(&s, &err); /* before the model: a wrong address is known at once */
    if (code == KVASIR_OK) code = kv_common_open_model(&o->common, false, &s.model, &err);
    if (code == KVASIR_OK) code = open_engine(&s, &err);
    if (code == KVASIR_OK) code = take_signals(&s, &err);
    loading = NULL;
    s.model_name = name_of(o, name, sizeof name);
    if (code == KVASIR_OK) code = kv_listen_start(&s, &err);
    if (code == KVASIR_OK) event_base_dispatch(s.base);
    close_all(&s);
    return code == KVASIR_OK ? kv_tool_finish(TOOL, KV_EXIT_OK) : kv_tool_fail_error(TOOL, &err);
}

/* What browsers never send as Origin, and what is no name of a host, would fit nothing: a path or a slash at the end, a missing scheme,
 * a port. */
static int check_allowed(const kv_serve_options *o)
{
    for (size_t i = 0; i < o->allow_origins.n; i++) {
        const char *origin = o->allow_origins.values[i], *host = strstr(origin, "://");
        const bool is_word = strcmp(origin, "*") == 0 || strcmp(origin, "null") == 0;
        if (!is_word && (!host || strpbrk(host + 3, "/?# ")))
            return kv_usage_error(
                TOOL, "--allow-origin: '%.200s' is no origin: SCHEME://HOST[:PORT] without a path, or *", origin);
    }
    for (size_t i = 0; i < o->allow_hosts.n; i++) {
        const char *name = o->allow_hosts.values[i];
        if (name[0] != '[' && strpbrk(name, ":/?# "))
            return kv_usage_error(TOOL, "--allow-host: '%.200s' is no name of a host: no scheme, no port, no path",
                                  name);
    }
    return KV_PARSED;
}

int kv_tool_serve(int argc, char **argv)
{
    kv_serve_options o = {
        .common = kv_common_default(), .n_parallel = 16, .max_queue = 256, .max_body_mib = 16, .max_unsent_mib = 256};
    const kv_opt_group groups[] = {{"Serving", SERVE_ROWS, &o},  kv_group_model(&o.common),
                                   kv_group_load(&o.common),     kv_group_context(&o.common),
                                   kv_group_sampling(&o.common), kv_group_general(&o.common)};
    kv_command command = {
        .name = TOOL,
        .usage = "[-m MODEL] [--listen unix:PATH | HOST:PORT]... [OPTIONS]",
        .about = "Serves OpenAI-compatible completions; requests are decoded together. SIGTERM or Ctrl-C lets "
                 "what runs come to its end and stops. Sampling options are what requests start from.",
        .groups = groups,
        .n_groups = sizeof groups / sizeof groups[0]};
    int status = kv_options_parse(argc, argv, &command);
    if (status != KV_PARSED) return status;
    json_t *alias = json_string(o.alias); /* it goes into JSON */
    if (o.alias && !alias) return kv_usage_error(TOOL, "--alias: '%.60s' is not UTF-8", o.alias);
    json_decref(alias);
    if (o.alias && !o.alias[0]) return kv_usage_error(TOOL, "--alias needs a value: NAME");
    for (size_t i = 0; i < o.listen.n; i++) {
        kv_address a;
        kvasir_error err = {0};
        if (kv_address_parse(o.listen.values[i], &a, &err) != KVASIR_OK)
            return kv_usage_error(TOOL, "--listen: %s", err.message);
    }
    status = check_allowed(&o);
    if (status != KV_PARSED) return status;
    return o.common.dry_run ? kv_common_dry_run(TOOL, &o.common, o.n_parallel) : serve(&o);
}
