/* chat_conversation.c - messages and their token ids: see chat_conversation.h. Formats for models without a template
 * are in chat_template.c. */
#include "tools/chat_conversation.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "tools/chat_template.h"
#include "tools/json_out.h"
#include "tools/tools.h"

static kvasir_code out_of_memory(kvasir_error *err)
{
    return kv_set_error(err, KVASIR_ERR_MEMORY, "out of memory for the conversation");
}

/* ---- growing arrays -------------------------------------------------------------------------- */

bool kv_text_append(kv_text *text, const char *data, size_t len)
{
    if (text->cap - text->len < len + 1 || !text->data) {
        size_t cap = (text->len + len + 1) * 2;
        char *grown = realloc(text->data, cap);
        if (!grown) return false;
        text->data = grown;
        text->cap = cap;
    }
    if (len) memcpy(text->data + text->len, data, len);
    text->len += len;
    text->data[text->len] = '\0';
    return true;
}

void kv_text_deinit(kv_text *text)
{
    free(text->data);
    *text = (kv_text){0};
}

static bool reserve_tokens(kv_conversation *c, size_t n)
{
    if (n <= c->cap_tokens) return true;
    kvasir_token *grown = realloc(c->tokens, n * 2 * sizeof *grown);
    if (!grown) return false;
    c->tokens = grown;
    c->cap_tokens = n * 2;
    return true;
}

/* ---- messages -------------------------------------------------------------------------------- */

/* NUL would end the template's JSON string early for some readers, so it counts as no character. */
static char *clean_utf8(const char *data, size_t len, size_t *out_len)
{
    kvasir_utf8_stream stream = {0};
    char *out = malloc(len * 3 + 32), *at = out;
    if (!out) return NULL;
    for (size_t i = 0; i < len;) {
        size_t run = strnlen(data + i, len - i);
        at += kvasir_utf8_push(&stream, data + i, run, at);
        i += run;
        if (i < len) {
            at += kvasir_utf8_finish(&stream, at);
            at = (char *)memcpy(at, "\xef\xbf\xbd", 3) + 3;
            i++;
        }
    }
    at += kvasir_utf8_finish(&stream, at);
    *at = '\0';
    *out_len = (size_t)(at - out);
    return out;
}

static bool is_role(const kv_message *m, const char *role) { return strcmp(m->role, role) == 0; }

kvasir_code kv_conversation_add(kv_conversation *c, const char *role, const char *data, size_t len, kvasir_error *err)
{
    if (c->n_messages == c->cap_messages) {
        size_t cap = c->cap_messages * 2 + 8;
        kv_message *grown = realloc(c->messages, cap * sizeof *grown);
        if (!grown) return out_of_memory(err);
        c->messages = grown;
        c->cap_messages = cap;
    }
    kv_message m = {.role = role, .text_len = c->text.len, .n_tokens = c->n_tokens, .epoch = c->epoch};
    m.content = clean_utf8(data, len, &m.len);
    if (!m.content) return out_of_memory(err);
    /* A reply continues the text: its ids are in tokens already (unless they were cut, and the text with them). */
    if (is_role(&m, "assistant") && c->text.len > 0 && !kv_text_append(&c->text, m.content, m.len)) {
        free(m.content);
        return out_of_memory(err);
    }
    c->messages[c->n_messages++] = m;
    return KVASIR_OK;
}

static void pop(kv_conversation *c) { free(c->messages[--c->n_messages].content); }

const char *kv_conversation_system(const kv_conversation *c)
{
    return c->n_messages > 0 && is_role(&c->messages[0], "system") ? c->messages[0].content : NULL;
}

bool kv_conversation_has_exchange(const kv_conversation *c)
{
    return c->n_messages > 0 && !is_role(&c->messages[c->n_messages - 1], "system");
}

/* Text and tokens end where they ended before message `m`, or nowhere when that is not known any more. */
static void truncate_to(kv_conversation *c, const kv_message *m)
{
    bool is_known = m->epoch == c->epoch && m->text_len <= c->text.len && m->n_tokens <= c->n_tokens;
    c->text.len = is_known ? m->text_len : 0;
    c->n_tokens = is_known ? m->n_tokens : 0;
    if (c->text.data) c->text.data[c->text.len] = '\0';
}

void kv_conversation_undo(kv_conversation *c)
{
    bool is_user = false;
    while (!is_user && kv_conversation_has_exchange(c)) {
        is_user = is_role(&c->messages[c->n_messages - 1], "user");
        if (is_user) truncate_to(c, &c->messages[c->n_messages - 1]);
        pop(c);
    }
    bool is_known =
        c->n_tokens > 0 || !kv_conversation_has_exchange(c); /* else the next turn finds what is still common */
    if (c->session && is_known && c->n_tokens < kvasir_session_n_tokens(c->session))
        kvasir_session_rewind(c->session, c->n_tokens);
}

void kv_conversation_drop_reply(kv_conversation *c)
{
    if (c->n_messages == 0 || !is_role(&c->messages[c->n_messages - 1], "assistant")) return;
    /* Marks stand before user messages; rendering adds that message's text and ids again. */
    size_t n = c->n_messages - 1;
    if (n > 0) truncate_to(c, &c->messages[n - 1]);
    pop(c);
}

void kv_conversation_clear(kv_conversation *c)
{
    while (kv_conversation_has_exchange(c)) pop(c);
    c->n_tokens = c->text.len = 0;
    c->epoch++;
    if (c->session) kvasir_session_rewind(c->session, 0);
}

kvasir_code kv_conversation_set_system(kv_conversation *c, const char *text, kvasir_error *err)
{
    kv_conversation_clear(c);
    while (c->n_messages > 0) pop(c);
    return text && text[0] ? kv_conversation_add(c, "system", text, strlen(text), err) : KVASIR_OK;
}

/* ---- rendering ------------------------------------------------------------------------------- */

static kvasir_code render_text(const kv_conversation *c, char **text, size_t *len, kvasir_error *err)
{
    json_t *list = json_array();
    bool ok = list != NULL;
    for (size_t i = 0; ok && i < c->n_messages; i++) {
        const kv_message *m = &c->messages[i];
        json_t *row = json_object();
        ok = row && json_object_set_new(row, "role", json_string(m->role)) == 0 &&
             json_object_set_new(row, "content", json_stringn(m->content, m->len)) == 0;
        ok = json_array_append_new(list, row) == 0 && ok;
    }
    char *json = ok ? kv_json_dumps(list, JSON_COMPACT) : NULL;
    json_decref(list);
    if (!json) return out_of_memory(err);
    kvasir_template_params params = {
        .source = c->template_source, .messages_json = json, .add_generation_prompt = true};
    kvasir_code code = kvasir_template_render(c->model, &params, text, len, err);
    free(json);
    return code;
}

/* Ids of text[0, len) after the ones before `at`; at the beginning with BOS where the model wants one and the template
 * gave none. */
static kvasir_code append_tokens(kv_conversation *c, size_t at, const char *text, size_t len, kvasir_error *err)
{
    kvasir_token *ids = NULL, *begin = NULL;
    size_t n = 0, n_begin = 0;
    const unsigned flags = KVASIR_TOKENIZE_SPECIAL | (at > 0 ? KVASIR_TOKENIZE_FURTHER : 0u);
    kvasir_code code = kvasir_tokenize(c->model, text, len, flags, &ids, &n, err);
    if (code != KVASIR_OK) return code;
    kvasir_token bos = kvasir_special_token(c->model, KVASIR_TOKEN_BOS);
    bool wants_bos = at == 0 && bos >= 0 && (n == 0 || ids[0] != bos);
    if (wants_bos) {
        code = kvasir_tokenize(c->model, "", 0, KVASIR_TOKENIZE_BOS, &begin, &n_begin, err);
        wants_bos = code == KVASIR_OK && n_begin > 0 && begin[0] == bos;
        kvasir_free(begin);
    }
    if (code == KVASIR_OK && !reserve_tokens(c, at + n + 1)) code = out_of_memory(err);
    if (code == KVASIR_OK) {
        if (wants_bos) c->tokens[at++] = bos;
        if (n) memcpy(c->tokens + at, ids, n * sizeof *ids);
        c->n_tokens = at + n;
    }
    kvasir_free(ids);
    return code;
}

kvasir_code kv_conversation_render(kv_conversation *c, kvasir_error *err)
{
    char *text = NULL;
    size_t len = 0;
    kvasir_code code = render_text(c, &text, &len, err);
    if (code != KVASIR_OK) return code;
    size_t old = c->text.len;
    bool continues = old > 0 && c->n_tokens > 0 && len >= old && memcmp(text, c->text.data, old) == 0;
    size_t same = continues ? old : 0;
    kv_text grown = {0};
    if (!kv_text_append(&grown, text, len)) {
        code = out_of_memory(err);
    } else {
        code = len > same ? append_tokens(c, continues ? c->n_tokens : 0, text + same, len - same, err) : KVASIR_OK;
    }
    kvasir_free(text);
    if (code != KVASIR_OK) {
        kv_text_deinit(&grown);
        return code;
    }
    kv_text_deinit(&c->text);
    c->text = grown;
    if (!continues) c->epoch++; /* the marks taken so far counted other ids */
    return KVASIR_OK;
}

kvasir_code kv_conversation_prefill(kv_conversation *c, kvasir_progress progress, void *user, size_t *n_new,
                                    kvasir_error *err)
{
    const kvasir_token *have = kvasir_session_tokens(c->session);
    size_t n_have = kvasir_session_n_tokens(c->session), same = 0;
    *n_new = 0;
    if (c->n_tokens == 0) return kv_set_error(err, KVASIR_ERR_TEMPLATE, "the chat template rendered to nothing");
    while (same < n_have && same + 1 < c->n_tokens && have[same] == c->tokens[same])
        same++; /* the last one gives the logits */
    size_t kept = kvasir_session_rewind(c->session, same);
    *n_new = c->n_tokens - kept;
    kvasir_session_keep(c->session); /* /undo comes back here, /regen to the end of the prompt */
    kvasir_code code =
        kvasir_session_eval(c->session, c->tokens + kept, *n_new, KVASIR_LOGITS_LAST, progress, user, err);
    kvasir_session_keep(c->session);
    return code;
}

void kv_conversation_cut_tokens(kv_conversation *c, size_t n_tokens)
{
    c->n_tokens = n_tokens;
    c->text.len = 0;
}

kvasir_code kv_conversation_push(kv_conversation *c, kvasir_token token, kvasir_error *err)
{
    if (!reserve_tokens(c, c->n_tokens + 1)) return out_of_memory(err);
    c->tokens[c->n_tokens++] = token;
    return KVASIR_OK;
}

/* ---- open ------------------------------------------------------------------------------------ */

kvasir_code kv_conversation_init(kv_conversation *c, kvasir_model *model, kvasir_session *session,
                                 const char *file_source, const char *system, const char **note, kvasir_error *err)
{
    *c = (kv_conversation){.model = model, .session = session, .template_source = file_source};
    *note = NULL;
    if (!file_source && !kvasir_model_template(model)) {
        const kv_chat_format *format = kv_chat_format_choose(model);
        c->template_source = format->source;
        c->stop = format->stop;
        *note = format->note;
    }
    kvasir_code code = kv_conversation_set_system(c, system, err);
    if (code == KVASIR_OK) code = kv_conversation_add(c, "user", "probe", 5, err);
    char *text = NULL;
    size_t len;
    if (code == KVASIR_OK) code = render_text(c, &text, &len, err);
    kvasir_free(text);
    if (code == KVASIR_OK) pop(c);
    if (code != KVASIR_OK) kv_conversation_deinit(c);
    return code;
}

void kv_conversation_deinit(kv_conversation *c)
{
    while (c->n_messages > 0) pop(c);
    free(c->messages);
    free(c->tokens);
    kv_text_deinit(&c->text);
    *c = (kv_conversation){0};
}
