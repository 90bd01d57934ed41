/* schema_merge.c - two schemas that both hold as one, and whether two exclude each other.
 *
 *     {"minimum": 0} and {"minimum": 5, "type": "integer"}   ->   {"minimum": 5, "type": "integer"}
 *
 * For allOf and for keywords beside $ref, anyOf and oneOf. What has no simple union is refused, by name. */
#include "constraint/schema_internal.h"

/* Some 0.2 s. A copied entry takes about 120 bytes, so it counts more: 256 MiB at most. */
enum { MAX_WORK = 1 << 24, COPY_WORK = 8 };

bool kv_schema_keep(kv_schema *s, json_t *made)
{
    return (made && json_array_append_new(s->made, made) == 0) || kv_build_fail_memory(s->b);
}

bool kv_schema_spend(kv_schema *s, uint64_t values)
{
    s->work += values;
    if (s->work > MAX_WORK)
        kv_build_fail(s->b, "the JSON schema is too complex: its subschemas take too many steps to combine");
    return s->b->failed == KVASIR_OK;
}

/* ---- what jansson makes, or a builder that has failed ------------------------------------------------------- */

/* json_copy leaves out what it finds no memory for. */
static json_t *copy(kv_schema *s, const json_t *x)
{
    json_t *out = json_copy((json_t *)x);
    if (out && json_object_size(out) == json_object_size(x) && json_array_size(out) == json_array_size(x)) return out;
    json_decref(out);
    kv_build_fail_memory(s->b);
    return NULL;
}

static json_t *new_list(kv_schema *s)
{
    json_t *list = json_array();
    if (!list) kv_build_fail_memory(s->b);
    return list;
}

/* Both take the value over. */
static void append(kv_schema *s, json_t *list, json_t *value)
{
    if (json_array_append_new(list, value) != 0) kv_build_fail_memory(s->b);
}

static void put(kv_schema *s, json_t *object, const char *name, json_t *value)
{
    if (json_object_set_new(object, name, value) != 0) kv_build_fail_memory(s->b);
}

static json_t *list_of(kv_schema *s, json_t *x)
{
    json_t *list = new_list(s);
    append(s, list, json_incref(x));
    return list;
}

static json_t *as_list(kv_schema *s, json_t *x) { return json_is_array(x) ? json_incref(x) : list_of(s, x); }

json_t *kv_schema_copy(kv_schema *s, const json_t *object)
{
    if (!kv_schema_spend(s, COPY_WORK * json_object_size(object))) return NULL;
    json_t *made = copy(s, object);
    return kv_schema_keep(s, made) ? made : NULL;
}

/* ---- two as one --------------------------------------------------------------------------------------------- */

/* Values in x, itself included. The depth is that of the text. */
static uint64_t weight(const json_t *x)
{
    uint64_t n = 1;
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)x, name, value) n += weight(value);
    for (size_t i = 0; i < json_array_size(x); i++) n += weight(json_array_get(x, i));
    return n;
}

static bool equal(kv_schema *s, const json_t *x, const json_t *y)
{
    return x == y || (kv_schema_spend(s, weight(x)) && json_equal(x, y));
}

typedef enum rule { SAME, ANNOTATION, GREATER, LESS, BOTH, UNION, TYPES, VALUES, PROPERTIES, CLOSED } rule;
static const struct {
    const char *name;
    rule rule;
} rows[] = {
    {"minimum", GREATER},
    {"exclusiveMinimum", GREATER},
    {"maximum", LESS},
    {"exclusiveMaximum", LESS},
    {"minLength", GREATER},
    {"maxLength", LESS},
    {"minItems", GREATER},
    {"minProperties", GREATER},
    {"maxProperties", LESS},
    {"maxItems", LESS},
    {"items", BOTH},
    {"required", UNION},
    {"allOf", UNION},
    {"type", TYPES},
    {"enum", VALUES},
    {"properties", PROPERTIES},
    {"additionalProperties", CLOSED},
};

static rule rule_of(const char *name)
{
    if (kv_schema_is_annotation(name)) return ANNOTATION;
    for (size_t i = 0; i < KV_COUNT(rows); i++)
        if (strcmp(rows[i].name, name) == 0) return rows[i].rule;
    return SAME;
}

/* What was merged before is one list, not lists in lists: jansson recurses. */
static json_t *both(kv_schema *s, json_t *x, json_t *y)
{
    if (equal(s, x, y)) return json_incref(x);
    const json_t *before = json_object_size(x) == 1 ? json_object_get(x, "allOf") : NULL;
    if (!kv_schema_spend(s, COPY_WORK * json_array_size(before))) return NULL;
    json_t *list = json_is_array(before) ? copy(s, before) : list_of(s, x), *out = json_object();
    append(s, list, json_incref(y));
    put(s, out, "allOf", list);
    return out;
}

/* 1 and 1.0 are the same value. */
static bool holds(kv_schema *s, const json_t *list, const json_t *value)
{
    if (!kv_schema_spend(s, json_array_size(list) * weight(value))) return false;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *item = json_array_get(list, i);
        const bool is_mixed =
            json_is_integer(item) ? json_is_real(value) : json_is_real(item) && json_is_integer(value);
        if (is_mixed ? json_number_value(item) == json_number_value(value) : json_equal(item, value)) return true;
    }
    return false;
}

/* A type that both lists allow; an integer is a number. */
static json_t *common_types(kv_schema *s, json_t *x, json_t *y)
{
    json_t *xs = as_list(s, x), *ys = as_list(s, y), *out = new_list(s), *number = json_string("number"),
           *integer = json_string("integer");
    if (!number || !integer) kv_build_fail_memory(s->b);
    for (size_t i = 0; i < json_array_size(xs); i++) {
        json_t *t = json_array_get(xs, i);
        if (holds(s, ys, t) || (json_equal(t, integer) && holds(s, ys, number)))
            append(s, out, json_incref(t));
        else if (json_equal(t, number) && holds(s, ys, integer))
            append(s, out, json_incref(integer));
    }
    json_decref(xs), json_decref(ys), json_decref(number), json_decref(integer);
    return out;
}

static json_t *in_both(kv_schema *s, json_t *x, json_t *y)
{
    json_t *out = new_list(s);
    for (size_t i = 0; i < json_array_size(x); i++)
        if (holds(s, y, json_array_get(x, i))) append(s, out, json_incref(json_array_get(x, i)));
    return out;
}

static json_t *in_either(kv_schema *s, json_t *x, json_t *y)
{
    json_t *out = copy(s, x);
    for (size_t i = 0; i < json_array_size(y); i++)
        if (!holds(s, x, json_array_get(y, i))) append(s, out, json_incref(json_array_get(y, i)));
    return out;
}

static json_t *all_properties(kv_schema *s, json_t *x, json_t *y)
{
    json_t *out = copy(s, x), *value;
    const char *name;
    json_object_foreach(y, name, value)
    {
        json_t *known = json_object_get(out, name);
        put(s, out, name, known ? both(s, known, value) : json_incref(value));
    }
    return out;
}

static json_t *merged_value(kv_schema *s, const char *name, json_t *x, json_t *y)
{
    const rule how = rule_of(name);
    if (how == ANNOTATION || equal(s, x, y)) return json_incref(x);
    switch (how) {
    case GREATER:
    case LESS:
        if (!json_is_number(x) || !json_is_number(y)) return NULL;
        return json_incref((json_number_value(x) > json_number_value(y)) == (how == GREATER) ? x : y);
    case BOTH:
        return both(s, x, y);
    case UNION:
        return json_is_array(x) && json_is_array(y) ? in_either(s, x, y) : NULL;
    case TYPES:
        return common_types(s, x, y);
    case VALUES:
        return json_is_array(x) && json_is_array(y) ? in_both(s, x, y) : NULL;
    case PROPERTIES:
        return json_is_object(x) && json_is_object(y) ? all_properties(s, x, y) : NULL;
    case CLOSED:
        if (json_is_boolean(x) && json_is_boolean(y)) return json_false();
        return NULL;
    default:
        return NULL;
    }
}

/* A name that only the other side declares is an additional one for this side: what it says of those holds, too; false forbids it. */
static void close_names(kv_schema *s, json_t *out, const json_t *closed, const json_t *open)
{
    const char *name;
    json_t *value, *more = json_object_get(closed, "additionalProperties");
    const json_t *known = json_object_get(closed, "properties");
    if (!more || json_is_true(more)) return;
    json_object_foreach(json_object_get(open, "properties"), name, value)
    {
        if (json_object_get(known, name)) continue;
        if (json_is_false(more))
            json_object_del(json_object_get(out, "properties"), name);
        else
            put(s, json_object_get(out, "properties"), name, both(s, value, more));
    }
}

/* What `items` says here is about all of them, also those that prefixItems of the other side names. */
static bool overlap_items(const json_t *x, const json_t *y)
{
    return json_object_get(x, "items") && !json_object_get(x, "prefixItems") && json_object_get(y, "prefixItems");
}

json_t *kv_schema_merge(kv_schema *s, const json_t *x, const json_t *y, const char *path)
{
    if (s->b->failed != KVASIR_OK) return NULL;
    if (json_is_false(x) || json_is_true(y)) return (json_t *)x;
    if (json_is_false(y) || json_is_true(x)) return (json_t *)y;
    if (!json_is_object(x) || !json_is_object(y))
        return kv_schema_fail(s, path, "a schema must be an object, true or false"), NULL;
    if (overlap_items(x, y) || overlap_items(y, x))
        return kv_schema_fail(s, path, "'items' cannot be combined with prefixItems that stand beside it"), NULL;
    const size_t n_properties =
        json_object_size(json_object_get(x, "properties")) + json_object_size(json_object_get(y, "properties"));
    if (!kv_schema_spend(s, COPY_WORK * (json_object_size(y) + n_properties))) return NULL;
    json_t *out = kv_schema_copy(s, x), *value;
    const char *name;
    if (!out) return NULL;
    if (json_is_object(json_object_get(out, "properties"))) /* its own, so that closing takes from nobody else */
        put(s, out, "properties", copy(s, json_object_get(out, "properties")));
    json_object_foreach((json_t *)y, name, value)
    {
        json_t *known = json_object_get(out, name);
        json_t *merged = known                             ? merged_value(s, name, known, value)
                         : strcmp(name, "properties") == 0 ? copy(s, value)
                                                           : json_incref(value);
        if (!merged)
            return kv_schema_fail(s, path, "'%.60s' cannot be combined with what stands beside it", name), NULL;
        put(s, out, name, merged);
    }
    close_names(s, out, x, y);
    close_names(s, out, y, x);
    return s->b->failed == KVASIR_OK ? out : NULL;
}

/* ---- what excludes each other ----------------------------------------------------------------------------- */

/* Values of const and enum as a list, or NULL. */
static json_t *values_of(kv_schema *s, const json_t *schema)
{
    json_t *constant = json_object_get(schema, "const"), *list = json_object_get(schema, "enum");
    json_t *out = constant ? list_of(s, constant) : json_is_array(list) ? json_incref(list) : NULL;
    return out && kv_schema_keep(s, out) ? out : NULL;
}

static const char *type_of(const json_t *value)
{
    return json_is_string(value)    ? "string"
           : json_is_integer(value) ? "integer"
           : json_is_real(value)    ? "number"
           : json_is_boolean(value) ? "boolean"
           : json_is_null(value)    ? "null"
           : json_is_object(value)  ? "object"
                                    : "array";
}

static json_t *types_of(kv_schema *s, const json_t *schema)
{
    json_t *type = json_object_get(schema, "type"), *values = values_of(s, schema), *out = NULL;
    if (type) {
        out = as_list(s, type);
    } else if (values && kv_schema_spend(s, COPY_WORK * json_array_size(values))) {
        out = new_list(s);
        for (size_t i = 0; i < json_array_size(values); i++)
            append(s, out, json_string(type_of(json_array_get(values, i))));
    } else if (json_object_get(schema, "properties") || json_object_get(schema, "required")) {
        out = NULL; /* says nothing of what is no object */
    }
    return out && kv_schema_keep(s, out) ? out : NULL;
}

static bool values_differ(kv_schema *s, const json_t *x, const json_t *y)
{
    json_t *xs = values_of(s, x), *ys = values_of(s, y);
    for (size_t i = 0; i < json_array_size(xs); i++)
        if (holds(s, ys, json_array_get(xs, i))) return false;
    return xs && ys;
}

static bool types_differ(kv_schema *s, const json_t *x, const json_t *y)
{
    json_t *xs = types_of(s, x), *ys = types_of(s, y);
    if (!xs || !ys) return false;
    json_t *shared = common_types(s, xs, ys);
    const bool differ = json_array_size(shared) == 0;
    json_decref(shared);
    return differ;
}

static bool requires(kv_schema *s, const json_t *schema, const char *name)
{
    json_t *list = json_object_get(schema, "required");
    if (!kv_schema_spend(s, json_array_size(list))) return false;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *n = json_string_value(json_array_get(list, i));
        if (n && strcmp(n, name) == 0) return true;
    }
    return false;
}

/* Whether both can hold for objects only. Where no type is given, one is written for the properties: an object. */
static bool only_for_objects(kv_schema *s, const json_t *x, const json_t *y, json_t *type)
{
    json_t *given[] = {type, json_object_get(x, "type"), json_object_get(y, "type")}, *shared = NULL;
    for (size_t i = 0; i < KV_COUNT(given); i++) {
        if (!given[i]) continue;
        shared = shared ? common_types(s, shared, given[i]) : as_list(s, given[i]);
        if (!kv_schema_keep(s, shared)) return false;
    }
    for (size_t i = 0; i < json_array_size(shared); i++) {
        const char *name = json_string_value(json_array_get(shared, i));
        if (!name || strcmp(name, "object") != 0) return false;
    }
    return true;
}

/* Both are objects, and a property that both require has values or types that differ; or one forbids what the other requires. */
static bool properties_differ(kv_schema *s, const json_t *x, const json_t *y)
{
    json_t *px = json_object_get(x, "properties"), *py = json_object_get(y, "properties"), *value;
    const char *name;
    json_object_foreach(px, name, value)
    {
        json_t *mine = kv_schema_resolve(s, value, "#"), *other = json_object_get(py, name);
        if (!requires(s, x, name)) continue;
        if (!other && json_is_false(json_object_get(y, "additionalProperties"))) return true;
        other = other ? kv_schema_resolve(s, other, "#") : NULL;
        if (other && requires(s, y, name) && (values_differ(s, mine, other) || types_differ(s, mine, other)))
            return true;
    }
    return false;
}

bool kv_schema_disjoint(kv_schema *s, json_t *x, json_t *y, json_t *type, const char *path)
{
    x = kv_schema_resolve(s, x, path), y = kv_schema_resolve(s, y, path);
    if (!x || !y) return false;
    return types_differ(s, x, y) || values_differ(s, x, y) ||
           (only_for_objects(s, x, y, type) && (properties_differ(s, x, y) || properties_differ(s, y, x)));
}
