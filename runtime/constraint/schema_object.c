/* schema_object.c - objects and arrays.
 *
 *     first:  [a]? -> rest a+1     rest:  ["," a]? ["," b]?  ...  ("," other)*   "}"
 *             [b]  -> rest b+1     a property that may be left out is a SPLIT around it; until one is written, no comma comes
 *
 * Properties come in the order of the schema. Other ones, where they are allowed, come last and have none of the declared names. */
#include "constraint/schema_internal.h"

static void ws(kv_schema *s)
{
    kv_aside kept;
    kv_builder *b = s->b;
    if (s->ws == KV_NO_RULE) {
        kv_build_put_aside(b, &kept);
        s->ws = kv_build_rule(b, "white space", 11);
        kv_build_open(b);
        kv_build_or(b);
        kv_build_text(b, " ", 1);
        kv_build_or(b);
        kv_build_text(b, "\n", 1);
        kv_build_text(b, " ", 1);
        kv_build_repeat(b, 0, 20);
        kv_build_close(b);
        kv_build_define(b, s->ws);
        kv_build_take_up(b, &kept);
    }
    kv_build_call(b, s->ws);
}

/* ---- objects ---------------------------------------------------------------------------------------------- */

typedef struct object {
    kv_schema *s;
    json_t *properties, *others; /* others: schema of further properties, or NULL */
    json_t *required;            /* an object: its names */
    const char *path, *at;       /* at: path of the properties */
    int32_t other_key, other_value;
    uint32_t min, max_others;
} object;

static bool is_required(const object *o, const char *name) { return json_object_get(o->required, name) != NULL; }

/* A quoted key without escapes that is none of the declared names. */
static int32_t other_key(object *o)
{
    kv_aside kept;
    kv_charset set = {0};
    kv_builder *b = o->s->b;
    const char *name;
    json_t *value;
    kv_build_put_aside(b, &kept);
    const int32_t key = kv_build_rule(b, "(other key)", 11);
    kv_build_text(b, "\"", 1);
    if (!kv_charset_add(&set, 0x20, '"' - 1) || !kv_charset_add(&set, '"' + 1, '\\' - 1) ||
        !kv_charset_add(&set, '\\' + 1, KV_MAX_CHAR))
        kv_build_fail_memory(b);
    kv_build_chars(b, &set);
    kv_charset_deinit(&set);
    kv_build_repeat(b, 0, KV_REPEAT_FOREVER);
    kv_build_text(b, "\"", 1);
    kv_build_define(b, key);
    if (json_object_size(o->properties) > 0) {
        const int32_t names = kv_build_rule(b, "(names)", 7);
        kv_build_open(b);
        kv_build_never(b);
        json_object_foreach(o->properties, name, value)
        {
            kv_build_or(b);
            kv_schema_key(o->s, name, strlen(name));
        }
        kv_build_close(b);
        kv_build_define(b, names);
        if (b->failed == KVASIR_OK) b->rules[key].and_rule = names, b->rules[key].and_not = true;
    }
    if (b->failed == KVASIR_OK) b->rules[key].keep = true;
    kv_build_take_up(b, &kept);
    return key;
}

static void pair(object *o, int32_t value)
{
    ws(o->s);
    kv_build_text(o->s->b, ":", 1);
    ws(o->s);
    kv_build_call(o->s->b, value);
    ws(o->s);
}

static void property(object *o, const char *name, json_t *schema)
{
    kv_schema_key(o->s, name, strlen(name));
    pair(o, kv_schema_rule(o->s, schema, kv_schema_path(o->s, o->at, name)));
}

static void other(object *o)
{
    kv_build_call(o->s->b, o->other_key);
    pair(o, o->other_value);
}

static void comma(object *o)
{
    kv_build_text(o->s->b, ",", 1);
    ws(o->s);
}

static void others_behind(object *o, uint32_t most)
{
    kv_builder *b = o->s->b;
    if (!o->others || most == 0) return;
    kv_build_open(b);
    comma(o);
    other(o);
    kv_build_close(b);
    kv_build_repeat(b, 0, most);
}

/* Until the first property is written. jumps[i]: where to go on with property i; the last entry: to the end. */
static void write_first(object *o, uint32_t *jumps, size_t n)
{
    kv_builder *b = o->s->b;
    const char *name;
    json_t *schema;
    size_t i = 0;
    json_object_foreach(o->properties, name, schema)
    {
        const bool needed = is_required(o, name);
        const uint32_t split = needed ? 0 : kv_build_raw(b, KV_OP_SPLIT);
        property(o, name, schema);
        jumps[++i] = kv_build_raw(b, KV_OP_JUMP);
        if (needed) return;
        kv_build_aim(b, split, b->n_code);
    }
    if (o->others && o->max_others > 0) {
        const uint32_t split = kv_build_raw(b, KV_OP_SPLIT);
        other(o);
        others_behind(o, o->max_others == KV_REPEAT_FOREVER ? KV_REPEAT_FOREVER : o->max_others - 1);
        jumps[n + 1] = kv_build_raw(b, KV_OP_JUMP);
        kv_build_aim(b, split, b->n_code);
    }
    if (o->min > 0) /* not one is not enough */
        kv_build_raw(b, KV_OP_FAIL);
    else
        jumps[n + 2] = kv_build_raw(b, KV_OP_JUMP);
}

/* Jumps are stored as they are; index 0 of the code is "{", never a jump. */
static void aim_here(kv_builder *b, uint32_t jump)
{
    if (jump) kv_build_aim(b, jump, b->n_code);
}

static void write_rest(object *o, const uint32_t *jumps, size_t n)
{
    kv_builder *b = o->s->b;
    const char *name;
    json_t *schema;
    size_t i = 0;
    json_object_foreach(o->properties, name, schema)
    {
        if (i > 0) {
            aim_here(b, jumps[i]);
            const bool needed = is_required(o, name);
            const uint32_t split = needed ? 0 : kv_build_raw(b, KV_OP_SPLIT);
            comma(o);
            property(o, name, schema);
            if (!needed) kv_build_aim(b, split, b->n_code);
        }
        i++;
    }
    if (n > 0) aim_here(b, jumps[n]);
    others_behind(o, o->max_others);
    aim_here(b, jumps[n + 1]);
    aim_here(b, jumps[n + 2]);
}

/* The schema of further properties; false: error. Absent means none when properties are declared, any otherwise. */
static bool read_others(object *o, json_t *schema)
{
    json_t *more = json_object_get(schema, "additionalProperties");
    if (!more) more = json_object_size(o->properties) > 0 ? json_false() : json_true();
    if (!json_is_boolean(more) && !json_is_object(more))
        return kv_schema_fail(o->s, o->path, "additionalProperties must be true, false or a schema");
    o->others = json_is_false(more) ? NULL : more;
    return true;
}

/* Required names that no property declares become properties of any value (or of additionalProperties). */
static bool add_required(object *o, json_t *schema)
{
    const json_t *list = json_object_get(schema, "required"), *more = json_object_get(schema, "additionalProperties");
    if (list && !json_is_array(list)) return kv_schema_fail(o->s, o->path, "required must be an array");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *name = json_string_value(json_array_get(list, i));
        if (!name) return kv_schema_fail(o->s, o->path, "required must hold strings");
        if (json_object_set_new(o->required, name, json_true()) != 0) return kv_build_fail_memory(o->s->b);
        if (json_object_get(o->properties, name)) continue;
        if (json_is_false(more))
            return kv_schema_fail(o->s, o->path, "required names '%.60s', which additionalProperties forbids", name);
        json_t *value = more ? json_incref((json_t *)more) : json_true();
        if (json_object_set_new(o->properties, name, value) != 0) return kv_build_fail_memory(o->s->b);
    }
    return true;
}

/* How many properties: a key could be written twice, so more than one counts only where `required` names as many. At most: those that
 * are declared all find room, and the rest is for others. */
static bool read_counts(object *o, const json_t *schema)
{
    const uint32_t n = (uint32_t)json_object_size(o->properties);
    uint32_t max = KV_REPEAT_FOREVER, n_required = 0;
    const char *name;
    json_t *value;
    if (!kv_schema_count(o->s, schema, o->path, "minProperties", &o->min) ||
        !kv_schema_count(o->s, schema, o->path, "maxProperties", &max))
        return false;
    json_object_foreach(o->properties, name, value) n_required += is_required(o, name);
    if (o->min > 1 && o->min > n_required)
        return kv_schema_fail(o->s, o->path, "minProperties above 1 is not supported where fewer are required");
    if (o->min > max) return kv_schema_fail(o->s, o->path, "minProperties %u is above maxProperties %u", o->min, max);
    if (max < n)
        return kv_schema_fail(o->s, o->path, "maxProperties is not supported below the number of declared properties");
    o->max_others = max == KV_REPEAT_FOREVER ? max : max - n;
    return true;
}

/* A shallow copy: the subschemas stay who they are. */
static json_t *own_properties(kv_schema *s, const json_t *declared)
{
    if (declared) return kv_schema_copy(s, declared);
    json_t *none = json_object();
    return kv_schema_keep(s, none) ? none : NULL;
}

void kv_schema_object(kv_schema *s, json_t *schema, const char *path)
{
    kv_builder *b = s->b;
    json_t *declared = json_object_get(schema, "properties");
    object o = {.s = s, .path = path, .at = kv_schema_path(s, path, "properties"), .required = json_object()};
    if (!kv_schema_keep(s, o.required)) return;
    if (declared && !json_is_object(declared)) {
        kv_schema_fail(s, path, "properties must be an object");
        return;
    }
    o.properties = own_properties(s, declared);
    if (!o.properties || !add_required(&o, schema) || !read_others(&o, schema) || !read_counts(&o, schema)) return;
    if (o.others) {
        o.other_key = other_key(&o);
        o.other_value = kv_schema_rule(s, o.others, kv_schema_path(s, path, "additionalProperties"));
    }
    const size_t n = json_object_size(o.properties);
    uint32_t *jumps = kv_calloc(n + 3, sizeof *jumps);
    if (!jumps) {
        kv_build_fail_memory(b);
        return;
    }
    kv_build_text(b, "{", 1);
    ws(s);
    write_first(&o, jumps, n);
    write_rest(&o, jumps, n);
    kv_build_text(b, "}", 1);
    kv_free(jumps);
}

/* ---- arrays ----------------------------------------------------------------------------------------------- */

static void element(kv_schema *s, int32_t rule, bool with_comma)
{
    if (with_comma) {
        kv_build_text(s->b, ",", 1);
        ws(s);
    }
    kv_build_call(s->b, rule);
    ws(s);
}

/* `n` more of the same behind `before` elements: at least min, at most max in all. */
static void run_of(kv_schema *s, int32_t rule, uint32_t before, uint32_t min, uint32_t max)
{
    kv_builder *b = s->b;
    const uint32_t least = min > before ? min - before : 0, most = max == KV_REPEAT_FOREVER ? max : max - before;
    if (most == 0) return;
    if (before > 0) {
        kv_build_open(b);
        element(s, rule, true);
        kv_build_close(b);
        kv_build_repeat(b, least, most);
        return;
    }
    kv_build_open(b);
    if (least == 0) kv_build_or(b); /* none at all */
    element(s, rule, false);
    kv_build_open(b);
    element(s, rule, true);
    kv_build_close(b);
    kv_build_repeat(b, least > 0 ? least - 1 : 0, most == KV_REPEAT_FOREVER ? most : most - 1);
    kv_build_close(b);
}

void kv_schema_array(kv_schema *s, json_t *schema, const char *path)
{
    kv_builder *b = s->b;
    uint32_t min = 0, max = KV_REPEAT_FOREVER;
    json_t *items = json_object_get(schema, "items"), *prefix = json_object_get(schema, "prefixItems");
    if (!kv_schema_count(s, schema, path, "minItems", &min) || !kv_schema_count(s, schema, path, "maxItems", &max))
        return;
    if (prefix && !json_is_array(prefix)) {
        kv_schema_fail(s, path, "prefixItems must be an array");
        return;
    }
    if (max < min) {
        kv_schema_fail(s, path, "minItems %u is above maxItems %u", min, max);
        return;
    }
    const bool no_more = json_is_false(items) || (prefix && !items && min <= json_array_size(prefix));
    uint32_t n = (uint32_t)json_array_size(prefix);
    if (n > max) n = max; /* the whole prefix is written, as far as it may be */
    if (no_more && min > n) {
        kv_schema_fail(s, path, "minItems %u is more than the schema has items", min);
        return;
    }
    kv_build_text(b, "[", 1);
    ws(s);
    for (uint32_t i = 0; i < n && b->failed == KVASIR_OK; i++)
        element(s, kv_schema_rule(s, json_array_get(prefix, i), kv_schema_path(s, path, "prefixItems")), i > 0);
    if (!no_more && max > n) {
        json_t *rest = items ? items : json_true();
        run_of(s, kv_schema_rule(s, rest, kv_schema_path(s, path, "items")), n, min, max);
    }
    kv_build_text(b, "]", 1);
}
