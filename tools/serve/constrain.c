/* constrain.c - see constrain.h. */
#include "tools/serve/constrain.h"
#include "tools/json_out.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_ENTRIES = 64 };

typedef struct kv_grammar_entry {
    struct kv_grammar_entry *next;
    kvasir_grammar_kind kind;
    char *text;
    kvasir_grammar *grammar;
} kv_grammar_entry;

void kv_grammar_cache_init(kv_grammar_cache *cache, size_t max_bytes)
{
    *cache = (kv_grammar_cache){.max_bytes = max_bytes};
    pthread_mutex_init(&cache->lock, NULL);
}

static void free_entry(kv_grammar_entry *e)
{
    kvasir_grammar_close(e->grammar); /* constraints that are open keep what they need */
    free(e->text);
    free(e);
}

void kv_grammar_cache_deinit(kv_grammar_cache *cache)
{
    for (kv_grammar_entry *e = cache->entries, *next; e; e = next) {
        next = e->next;
        free_entry(e);
    }
    pthread_mutex_destroy(&cache->lock);
}

/* ---- the cache (under its lock) ------------------------------------------------------------------- */

/* Takes the entry out of the list and puts it first; NULL when there is none. */
static kv_grammar_entry *find(kv_grammar_cache *cache, kvasir_grammar_kind kind, const char *text)
{
    for (kv_grammar_entry **at = &cache->entries; *at; at = &(*at)->next) {
        kv_grammar_entry *e = *at;
        if (e->kind != kind || strcmp(e->text, text) != 0) continue;
        *at = e->next;
        e->next = cache->entries;
        cache->entries = e;
        return e;
    }
    return NULL;
}

/* Everything behind the point where the budget is spent goes; the first stays, it is in use. */
static void trim(kv_grammar_cache *cache)
{
    size_t bytes = 0, n = 0;
    for (kv_grammar_entry **at = &cache->entries; *at;) {
        kv_grammar_entry *e = *at;
        bytes += kvasir_grammar_bytes(e->grammar) + strlen(e->text);
        if (n++ == 0 || (bytes <= cache->max_bytes && n <= MAX_ENTRIES)) {
            at = &e->next;
            continue;
        }
        *at = e->next;
        free_entry(e);
    }
}

static kv_grammar_entry *compile(const kvasir_model *model, kvasir_grammar_kind kind, const char *text,
                                 const char *param, kv_api_error *error)
{
    kvasir_error err = {0};
    kv_grammar_entry *e = calloc(1, sizeof *e);
    if (e) e->text = strdup(text);
    if (!e || !e->text) {
        kv_api_fail(error, 500, "out_of_memory", "out of memory for the grammar");
    } else if (kvasir_grammar_compile(model, kind, text, strlen(text), &e->grammar, &err) == KVASIR_OK) {
        e->kind = kind;
        return e;
    } else if (err.code == KVASIR_ERR_MEMORY) {
        kv_api_fail(error, 500, "out_of_memory", "out of memory for the grammar");
    } else {
        kv_api_refuse(error, param, "%s", err.message);
    }
    if (e) free(e->text);
    free(e);
    return NULL;
}

static bool open_all(kvasir_grammar *grammar, kvasir_constraint **out, size_t n, kv_api_error *error)
{
    for (size_t i = 0; i < n; i++)
        if (kvasir_constraint_open(grammar, &out[i], NULL) != KVASIR_OK)
            return kv_api_fail(error, 500, "out_of_memory", "out of memory for the constraints");
    return true;
}

bool kv_constraints_open(kv_grammar_cache *cache, const kvasir_model *model, kvasir_grammar_kind kind, const char *text,
                         const char *param, kvasir_constraint **out, size_t n, kv_api_error *error)
{
    bool ok = false;
    if (!text) text = "";
    pthread_mutex_lock(&cache->lock);
    kv_grammar_entry *e = find(cache, kind, text);
    if (!e) {
        /* Others need not wait for this one; two that compile the same keep both, which costs memory for a while. */
        pthread_mutex_unlock(&cache->lock);
        e = compile(model, kind, text, param, error);
        pthread_mutex_lock(&cache->lock);
        if (e) e->next = cache->entries, cache->entries = e;
    }
    if (e) {
        ok = open_all(e->grammar, out, n, error);
        trim(cache);
    }
    pthread_mutex_unlock(&cache->lock);
    return ok;
}

/* ---- the request ------------------------------------------------------------------------------------ */

static bool take_schema(const json_t *schema, const char *where, kvasir_grammar_kind *kind, char **text,
                        kv_api_error *error)
{
    if (!json_is_object(schema) && !json_is_boolean(schema))
        return kv_api_refuse(error, where, "%s must be a JSON schema", where);
    *kind = KVASIR_GRAMMAR_JSON_SCHEMA;
    *text = kv_json_dumps(schema, JSON_COMPACT | JSON_ENCODE_ANY);
    return *text || kv_api_fail(error, 500, "out_of_memory", "out of memory for the schema");
}

static bool read_format(const json_t *format, bool *is_constrained, kvasir_grammar_kind *kind, char **text,
                        kv_api_error *error)
{
    const char *type = json_string_value(json_object_get(format, "type"));
    if (!json_is_object(format) || !type)
        return kv_api_refuse(
            error, "response_format.type",
            "response_format must be an object with type \"text\", \"json_object\" or \"json_schema\"");
    *is_constrained = strcmp(type, "text") != 0;
    if (!*is_constrained) return true;
    if (strcmp(type, "json_object") == 0) {
        const json_t *schema = kv_json_get(format, "schema"); /* llama-server's way */
        *kind = KVASIR_GRAMMAR_JSON_OBJECT;
        return !schema || take_schema(schema, "response_format.schema", kind, text, error);
    }
    if (strcmp(type, "json_schema") == 0) {
        const json_t *outer = kv_json_get(format, "json_schema");
        const json_t *schema = outer ? kv_json_get(outer, "schema") : kv_json_get(format, "schema");
        return take_schema(schema, "response_format.json_schema.schema", kind, text, error);
    }
    return kv_api_refuse(error, "response_format.type",
                         "response_format.type is \"%.60s\", but must be \"text\", \"json_object\" or \"json_schema\"",
                         type);
}

bool kv_constraint_read(const json_t *body, bool *is_constrained, kvasir_grammar_kind *kind, char **text,
                        const char **param, kv_api_error *error)
{
    const json_t *format = kv_json_get(body, "response_format"), *grammar = kv_json_get(body, "grammar"),
                 *schema = kv_json_get(body, "json_schema");
    *is_constrained = grammar || schema;
    if ((format != NULL) + (grammar != NULL) + (schema != NULL) > 1)
        return kv_api_refuse(error, format ? "response_format" : "grammar",
                             "only one of response_format, grammar and json_schema can be given");
    *param = format ? "response_format" : grammar ? "grammar" : "json_schema";
    if (format) return read_format(format, is_constrained, kind, text, error);
    if (schema) return take_schema(schema, "json_schema", kind, text, error);
    if (!grammar) return true;
    if (!json_is_string(grammar)) return kv_api_refuse(error, "grammar", "grammar must be a string (GBNF)");
    *kind = KVASIR_GRAMMAR_GBNF;
    *text = strdup(json_string_value(grammar));
    return *text || kv_api_fail(error, 500, "out_of_memory", "out of memory for the grammar");
}
