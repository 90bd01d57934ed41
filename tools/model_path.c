/* model_path.c - from the name that a person types to a file.
 *
 *     as it is -> ./models/NAME[.gguf] -> <folder of the binary>/models/ -> ~/.cache/kvasir/
 *
 * An alias ("smollm2") stands for its file name. Names with a slash are paths and are looked for nowhere else.
 */
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/tools.h"

const kv_known_model KV_KNOWN_MODELS[] = {
    {"smollm2", KV_DEFAULT_MODEL, "SmolLM2 135M Instruct, Q4_1"},
    {"gemma3", "gemma3-270m-q4_k_m.gguf", "Gemma 3 270M, Q4_K_M"},
    {0},
};

enum { N_FOLDERS = 3 };

/* models/ beside the running binary, "" when that cannot be told. */
static void binary_models(char *out, size_t cap)
{
    char exe[PATH_MAX];
    ssize_t len = readlink("/proc/self/exe", exe, sizeof exe - 1);
    out[0] = '\0';
    if (len <= 0) return;
    exe[len] = '\0';
    char *slash = strrchr(exe, '/');
    if (!slash) return;
    *slash = '\0';
    if (snprintf(out, cap, "%s/models", exe) >= (int)cap) out[0] = '\0';
}

/* XDG_CACHE_HOME/kvasir or ~/.cache/kvasir, "" without a home. */
static void cache_folder(char *out, size_t cap)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int n = 0;
    out[0] = '\0';
    if (cache && cache[0] == '/')
        n = snprintf(out, cap, "%s/kvasir", cache);
    else if (home && home[0])
        n = snprintf(out, cap, "%s/.cache/kvasir", home);
    if (n >= (int)cap) out[0] = '\0';
}

static bool is_folder(const char *path)
{
    struct stat st;
    return path[0] && stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

/* Anything that is there and is no folder: what it holds is the library's question. */
static bool is_file(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && !S_ISDIR(st.st_mode);
}

static const kv_known_model *find_known(const char *name)
{
    for (const kv_known_model *m = KV_KNOWN_MODELS; m->name; m++)
        if (strcmp(name, m->name) == 0 || strcmp(name, m->file) == 0 ||
            (strncmp(name, m->file, strlen(name)) == 0 && strcmp(m->file + strlen(name), ".gguf") == 0))
            return m;
    return NULL;
}

/* Where names are looked up, in this order; "" for one that there is not. */
static void list_folders(char folders[N_FOLDERS][PATH_MAX])
{
    snprintf(folders[0], PATH_MAX, "models");
    binary_models(folders[1], PATH_MAX);
    cache_folder(folders[2], PATH_MAX);
}

static bool find_file(const char *file, char *out, size_t cap)
{
    static const char *const endings[] = {"", ".gguf"};
    char folders[N_FOLDERS][PATH_MAX];
    list_folders(folders);
    for (int i = 0; i < N_FOLDERS; i++)
        for (int e = 0; folders[i][0] && e < 2; e++)
            if (snprintf(out, cap, "%s/%s%s", folders[i], file, endings[e]) < (int)cap && is_file(out)) return true;
    return false;
}

/* The GGUF file of a folder whose name contains `word` (three letters or more) in any case, the first by name; false: none. */
static bool find_like(const char *folder, const char *word, char *out, size_t cap)
{
    static const char ending[] = ".gguf";
    DIR *dir = strlen(word) >= 3 && folder[0] ? opendir(folder) : NULL;
    char best[NAME_MAX + 1] = "";
    if (!dir) return false;
    for (const struct dirent *e; (e = readdir(dir));) {
        const size_t len = strlen(e->d_name);
        if (len < sizeof ending || strcmp(e->d_name + len - (sizeof ending - 1), ending) != 0) continue;
        if (strcasestr(e->d_name, word) && (!best[0] || strcmp(e->d_name, best) < 0))
            snprintf(best, sizeof best, "%s", e->d_name);
    }
    closedir(dir);
    return best[0] && snprintf(out, cap, "%s/%s", folder, best) < (int)cap;
}

/* What is here and was probably meant: the name that -m takes, or a path. */
static bool suggest(const char *name, char *out, size_t cap)
{
    char folders[N_FOLDERS][PATH_MAX] = {""};
    const char *slash = strrchr(name, '/'), *word = slash ? slash + 1 : name;
    if (slash && slash - name < PATH_MAX)
        snprintf(folders[0], sizeof folders[0], "%.*s", slash == name ? 1 : (int)(slash - name), name);
    else
        list_folders(folders);
    for (int i = 0; i < N_FOLDERS; i++) {
        if (!find_like(folders[i], word, out, cap)) continue;
        const kv_known_model *known = slash ? NULL : find_known(strrchr(out, '/') + 1);
        if (known) snprintf(out, cap, "%s", known->name);
        return true;
    }
    return false;
}

static kvasir_code not_found(const char *name, kvasir_error *err)
{
    char here[PATH_MAX];
    const kv_known_model *known = find_known(name);
    if (known)
        return kv_set_error(err, KVASIR_ERR_IO, "model %s is not here; run: kvasir get %s", known->file, known->name);
    if (suggest(name, here, sizeof here))
        return kv_set_error(err, KVASIR_ERR_IO, "no model '%.150s'; did you mean %.250s?", name, here);
    const char *names[8];
    int n = 0;
    for (const kv_known_model *m = KV_KNOWN_MODELS; m->name && n < 8; m++) names[n++] = m->name;
    const char *near = kv_nearest(name, names, n);
    known = near ? find_known(near) : NULL;
    if (known && find_file(known->file, here, sizeof here))
        return kv_set_error(err, KVASIR_ERR_IO, "no model '%.200s'; did you mean %s?", name, near);
    if (near)
        return kv_set_error(err, KVASIR_ERR_IO, "no model '%.200s' here; did you mean %s? (run: kvasir get %s)", name,
                            near, near);
    if (strchr(name, '/')) return kv_set_error(err, KVASIR_ERR_IO, "cannot open %.300s: no such file", name);
    cache_folder(here, sizeof here);
    return kv_set_error(err, KVASIR_ERR_IO,
                        "no model '%.150s' in models/ or %.200s; give a path, or run: kvasir get smollm2", name,
                        here[0] ? here : "~/.cache/kvasir");
}

kvasir_code kv_model_find(const char *name, char *out, size_t cap, kvasir_error *err)
{
    if (!name) name = KV_DEFAULT_MODEL;
    if (!name[0]) return kv_set_error(err, KVASIR_ERR_ARGUMENT, "the model's name is empty");
    if (strlen(name) >= cap)
        return kv_set_error(err, KVASIR_ERR_ARGUMENT, "the model's path is longer than %zu bytes", cap);
    struct stat st;
    if (stat(name, &st) == 0 && (!S_ISDIR(st.st_mode) || strchr(name, '/'))) {
        if (S_ISDIR(st.st_mode)) return kv_set_error(err, KVASIR_ERR_IO, "%.300s is a folder, not a GGUF file", name);
        snprintf(out, cap, "%s", name);
        return KVASIR_OK;
    }
    if (strchr(name, '/')) {
        int why = errno;
        if (why == ENOENT) return not_found(name, err);
        return kv_set_error(err, KVASIR_ERR_IO, "cannot open %.300s: %s", name, strerror(why));
    }
    const kv_known_model *known = find_known(name);
    const char *file = known ? known->file : name;
    if (find_file(file, out, cap)) return KVASIR_OK;
    return not_found(name, err);
}

bool kv_model_is_named(const char *word)
{
    static const char ending[] = ".gguf";
    char path[PATH_MAX];
    kvasir_error ignored;
    if (kv_model_find(word, path, sizeof path, &ignored) != KVASIR_OK) return false;
    const size_t len = strlen(path);
    return len > sizeof ending - 1 && strcmp(path + len - (sizeof ending - 1), ending) == 0;
}

kvasir_code kv_model_download_dir(char *out, size_t cap, kvasir_error *err)
{
    char folders[N_FOLDERS][PATH_MAX];
    list_folders(folders);
    int chosen = 0;
    while (chosen < 2 && !(is_folder(folders[chosen]) && access(folders[chosen], W_OK) == 0)) chosen++;
    if (!folders[chosen][0])
        return kv_set_error(err, KVASIR_ERR_IO, "no place for downloads: no models/ folder here, and HOME is not set");
    if (snprintf(out, cap, "%s", folders[chosen]) >= (int)cap)
        return kv_set_error(err, KVASIR_ERR_IO, "the path of the cache is too long");
    return KVASIR_OK;
}
