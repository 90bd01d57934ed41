/* tool_calls.h - how models write calls of tools and thoughts: a row per format, and what a request expects of a reply.
 *
 *     template's text -> kv_dialect_choose -> rows          request -> kv_call_spec -> tool_parser.c takes the reply apart
 *
 * Models are trained on the format of their template, so its markers there tell the format. */
#ifndef KV_TOOLS_SERVE_TOOL_CALLS_H
#define KV_TOOLS_SERVE_TOOL_CALLS_H

#include <stdbool.h>
#include <stddef.h>

enum { KV_MAX_MARKERS = 8, KV_CALL_ID_LEN = 9 };

/* A call is  open [name separators] JSON [close].  Without a name before it, the JSON is {"name", "arguments"} or a list of those. */
typedef struct kv_call_format {
    const char *name;
    const char *marks[2];               /* all of them in a template's text mean this row; the last row has none */
    const char *open[3];                /* what begins a call, or a list of them */
    const char *close;                  /* what may stand behind it */
    const char *skip;                   /* may stand before the name */
    const char *silent[KV_MAX_MARKERS]; /* only structure the reply, and are shown to nobody */
    const char *name_key, *arguments_key;
    bool takes_name;   /* before the JSON, which is the arguments alone then */
    bool is_list;      /* calls are written as a list */
    bool is_bare;      /* a reply that begins with { is a call: there is no marker */
    bool is_python;    /* name.call(key=value, ...) is one too */
    bool wants_text;   /* the template wants arguments as text, not as an object */
    const char *force; /* the prompt goes on with this where a call is required, and the model with the JSON */
    const char *force_head
        [2]; /* the same with the name between them, and the model goes on with the arguments alone; or NULL */
} kv_call_format;

typedef struct kv_thought_format {
    const char *open, *close;
} kv_thought_format;

typedef struct kv_dialect {
    const kv_call_format *calls;
    const kv_thought_format *thoughts; /* NULL: the model is not known to think */
    bool knows_tools;                  /* the template writes them itself; otherwise tool_prompt.c does */
    bool has_xml_tools;                /* SmolLM3's name of the variable */
    bool has_system_role;              /* some templates refuse it */
} kv_dialect;

/* `source` NULL: no template. */
kv_dialect kv_dialect_choose(const char *source);

/* What the reply to a request may hold beside text. */
typedef struct kv_call_spec {
    const kv_call_format *format;      /* NULL: calls are not looked for */
    const kv_thought_format *thoughts; /* NULL: neither are thoughts */
    const char *const *silent;         /* [KV_MAX_MARKERS] markers to leave out */
    char **names;                      /* [n_names] functions that can be called */
    size_t n_names, max_calls;
    bool begins_in_thought; /* the prompt ends with the marker that opens one */
    char *begun;            /* what the prompt holds of a call already; or NULL */
    char *schema;           /* what the model must write behind it; or NULL */
} kv_call_spec;

static inline bool kv_calls_active(const kv_call_spec *s) { return s->format || s->thoughts; }
void kv_call_spec_deinit(kv_call_spec *spec);
bool kv_call_spec_has_name(const kv_call_spec *spec, const char *name, size_t len);
/* Whether the text of a control token belongs to a marker that the parser must see. */
bool kv_calls_show(const kv_call_spec *spec, const char *text, size_t len);

#endif
