/* chat_remote.c - `kvasir chat --server`: the same conversation, with the model behind a socket.
 *
 *     messages -> POST /v1/chat/completions, stream -> text through the same kv_stream -> the line of figures from usage and timings
 *
 * The server keeps no conversation: every turn sends all messages, and its prefix cache makes that cost what is new. Ctrl-C closes the
 * connection, which is how the server learns that nobody waits any more.
 */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "tools/chat.h"
#include "tools/chat_stream.h"
#include "tools/http_client.h"
#include "tools/json_out.h"
#include "tools/term.h"

static kvasir_code failed_with(kv_http_client *http, int status, kvasir_error *err)
{
    json_t *body = kv_http_body(http, err);
    if (!body) return err->code;
    const char *message = kv_http_error_message(body);
    kv_set_error(err, status == 400 ? KVASIR_ERR_ARGUMENT : KVASIR_ERR_IO, "the server answers with status %d: %.300s",
                 status, message ? message : "no reason");
    json_decref(body);
    return err->code;
}

static bool must_stop(void) { return kv_interrupted() || kv_lines_terminated(); }

kvasir_code kv_chat_remote_open(kv_chat *chat, const char *server, const char *key, kvasir_error *err)
{
    kv_address address;
    int status = 0;
    bool is_stream;
    kvasir_code code = kv_address_parse(server, &address, err);
    if (code == KVASIR_OK) code = kv_http_open(&address, key, &chat->remote, err);
    if (code == KVASIR_OK) code = kv_http_send(chat->remote, "/props", NULL, &status, &is_stream, err);
    if (code != KVASIR_OK) return code;
    if (status != 200) return failed_with(chat->remote, status, err);
    json_t *props = kv_http_body(chat->remote, err);
    if (!props) return err->code;
    const char *name = json_string_value(json_object_get(props, "model_alias"));
    kv_chat_set_name(chat, name ? name : "model");
    chat->remote_n_ctx =
        (size_t)json_integer_value(json_object_get(json_object_get(props, "default_generation_settings"), "n_ctx"));
    json_decref(props);
    kv_http_stop_when(chat->remote, must_stop);
    return chat->system ? kv_conversation_add(&chat->conversation, "system", chat->system, strlen(chat->system), err)
                        : KVASIR_OK;
}

/* ---- a turn --------------------------------------------------------------------------------------------- */

/* {"42": 1.5, "43": false}; false forbids. */
static json_t *biases_of(const kv_biases *biases)
{
    json_t *map = json_object();
    for (size_t i = 0; i < biases->n; i++) {
        const kvasir_logit_bias *b = &biases->values[i];
        char token[16];
        snprintf(token, sizeof token, "%d", (int)b->token);
        kv_json_put(&map, token, b->bias < -1e30f ? json_false() : json_real((double)b->bias));
    }
    return map;
}

static char *make_body(kv_chat *chat)
{
    const kv_conversation *c = &chat->conversation;
    const kvasir_sampler_params *p = &chat->common.sampler;
    json_t *messages = json_array();
    for (size_t i = 0; messages && i < c->n_messages; i++)
        kv_json_append(&messages, json_pack("{s:s, s:o}", "role", c->messages[i].role, "content",
                                            json_stringn(c->messages[i].content, c->messages[i].len)));
    json_t *body =
        json_pack("{s:o, s:s, s:b, s:{s:b}, s:f, s:i, s:f, s:f, s:f, s:f, s:f, s:f}", "messages", messages,
                  "reasoning_format", "none", "stream", 1, "stream_options", "include_usage", 1, "temperature",
                  (double)p->temperature, "top_k", p->top_k, "top_p", (double)p->top_p, "min_p", (double)p->min_p,
                  "typical_p", (double)p->typical_p, "repeat_penalty", (double)p->repeat_penalty, "presence_penalty",
                  (double)p->presence_penalty, "frequency_penalty", (double)p->frequency_penalty);
    kv_json_put(&body, "repeat_last_n", json_integer(p->repeat_last_n));
    if (chat->common.biases.n) kv_json_put(&body, "logit_bias", biases_of(&chat->common.biases));
    if (chat->n_predict > 0) kv_json_put(&body, "max_tokens", json_integer(chat->n_predict));
    if (chat->common.seed.is_set)
        kv_json_put(&body, "seed",
                    json_integer((json_int_t)((chat->common.seed.value + chat->n_replies++) & INT64_MAX)));
    char *text = kv_json_dumps(body, JSON_COMPACT);
    json_decref(body);
    return text;
}

typedef struct remote_turn {
    kv_stream stream;
    json_int_t n_prompt, n_cached, n_reply;
    double prompt_rate, reply_rate;
    bool reached_limit;
} remote_turn;

static void take_figures(remote_turn *t, const json_t *event)
{
    const json_t *timings = json_object_get(event, "timings");
    if (!timings) return;
    t->n_prompt = json_integer_value(json_object_get(timings, "prompt_n"));
    t->n_cached = json_integer_value(json_object_get(timings, "cache_n"));
    t->n_reply = json_integer_value(json_object_get(timings, "predicted_n"));
    t->prompt_rate = json_number_value(json_object_get(timings, "prompt_per_second"));
    t->reply_rate = json_number_value(json_object_get(timings, "predicted_per_second"));
}

static kvasir_code take_event(remote_turn *t, const json_t *event, kvasir_error *err)
{
    const json_t *choice = json_array_get(json_object_get(event, "choices"), 0);
    const json_t *piece = json_object_get(json_object_get(choice, "delta"), "content");
    const char *finish = json_string_value(json_object_get(choice, "finish_reason"));
    if (kv_http_error_message(event)) return kv_set_error(err, KVASIR_ERR_IO, "%.300s", kv_http_error_message(event));
    if (finish && strcmp(finish, "length") == 0) t->reached_limit = true;
    take_figures(t, event);
    if (json_is_string(piece) && !kv_stream_push(&t->stream, json_string_value(piece), json_string_length(piece)))
        return kv_set_error(err, KVASIR_ERR_MEMORY, "out of memory for the reply");
    return t->stream.write_error ? kv_set_error(err, KVASIR_ERR_IO, "cannot write the reply to standard output: %s",
                                                strerror(t->stream.write_error))
                                 : KVASIR_OK;
}

static kvasir_code exchange(kv_chat *chat, remote_turn *t, kvasir_error *err)
{
    int status = 0;
    bool is_stream = false;
    char *body = make_body(chat);
    if (!body) return kv_set_error(err, KVASIR_ERR_MEMORY, "out of memory for the request");
    kvasir_code code = kv_http_send(chat->remote, "/v1/chat/completions", body, &status, &is_stream, err);
    free(body);
    if (code == KVASIR_OK && (status != 200 || !is_stream)) return failed_with(chat->remote, status, err);
    for (json_t *event = NULL; code == KVASIR_OK;) {
        code = must_stop() ? kv_set_error(err, KVASIR_ERR_CANCELLED, "interrupted")
                           : kv_http_event(chat->remote, &event, err);
        if (code != KVASIR_OK || !event) break;
        code = take_event(t, event, err);
        json_decref(event);
    }
    return code;
}

static void say_end(kv_chat *chat, const remote_turn *t, kvasir_code code, bool is_message, const kvasir_error *err)
{
    if (code == KVASIR_ERR_CANCELLED && t->stream.text.len == 0)
        kv_chat_say_taken_back(chat, is_message);
    else if (code == KVASIR_ERR_CANCELLED)
        kv_chat_note(chat, "stopped; the reply so far stays in the conversation");
    else if (code != KVASIR_OK)
        chat->has_failed = true, kv_tool_fail("chat", "%s", err->message);
    if (code != KVASIR_OK) return;
    /* The ids are the server's, their number is marked and taken back with the messages. */
    const size_t used = chat->conversation.n_tokens = (size_t)(t->n_prompt + t->n_cached + t->n_reply);
    if (t->reached_limit && chat->n_predict > 0 && t->n_reply >= chat->n_predict)
        kv_chat_note(chat, "the reply reached -n %d", chat->n_predict);
    else if (t->reached_limit)
        kv_chat_note(chat, "the context is full (%zu of %zu tokens): the reply ends here. /undo or /clear makes room",
                     used, chat->remote_n_ctx);
    chat->total_prompt += (size_t)t->n_prompt;
    chat->total_reply += (size_t)t->n_reply;
    if (t->prompt_rate > 0) chat->total_prompt_ms += (double)t->n_prompt * 1e3 / t->prompt_rate;
    if (t->reply_rate > 0) chat->total_reply_ms += (double)t->n_reply * 1e3 / t->reply_rate;
    kv_chat_note_cost(chat, (size_t)t->n_prompt, t->prompt_rate, (size_t)t->n_reply, t->reply_rate);
}

kv_next kv_chat_remote_turn(kv_chat *chat, const char *message, size_t len)
{
    kv_conversation *c = &chat->conversation;
    kvasir_error err = {0};
    remote_turn t = {.stream = {.out = stdout, .is_terminal = kv_term_is_terminal(stdout)}};
    kvasir_code code = message ? kv_conversation_add(c, "user", message, len, &err) : KVASIR_OK;
    if (code != KVASIR_OK) {
        chat->has_failed = true;
        kv_tool_fail_error("chat", &err);
        return KV_NEXT_GO_ON;
    }
    code = exchange(chat, &t, &err);
    const bool has_text = t.stream.text.len > 0;
    if (has_text || code == KVASIR_OK) kv_stream_finish(&t.stream);
    if ((has_text || code == KVASIR_OK) && !t.stream.write_error) {
        kvasir_error why;
        const char *text = t.stream.text.data ? t.stream.text.data : "";
        if (kv_conversation_add(c, "assistant", text, t.stream.text.len, &why) != KVASIR_OK) {
            code = why.code, err = why;
            kv_conversation_undo(c);
        }
    } else {
        kv_conversation_undo(c);
    }
    say_end(chat, &t, code, message != NULL, &err);
    kv_stream_deinit(&t.stream);
    return t.stream.write_error ? KV_NEXT_FAIL : kv_chat_leave_or_go_on(chat);
}
