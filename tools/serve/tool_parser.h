/* tool_parser.h - takes a reply apart while it comes: text, thoughts, calls.
 *
 *     "<think>Rain?</think>\n\nLet me look.\n<tool_call>\n{...}\n</tool_call>"  ->  THOUGHT "Rain?"  TEXT "Let me look."  CALL {...}
 *
 * The pieces do not depend on how the text was cut (only how many pieces there are). What may be the beginning of a marker waits, and a
 * call waits until it is whole: what turns out to be none of the functions offered, or no JSON, comes as text. */
#ifndef KV_TOOLS_SERVE_TOOL_PARSER_H
#define KV_TOOLS_SERVE_TOOL_PARSER_H

#include <stdint.h>

#include "tools/serve/tool_body.h"

typedef enum kv_piece_kind { KV_PIECE_TEXT, KV_PIECE_THOUGHT, KV_PIECE_CALL } kv_piece_kind;

/* Valid until the parser is used again. */
typedef struct kv_piece {
    kv_piece_kind kind;
    const char *text; /* of a call: its arguments */
    size_t len;
    const char *name; /* of a call; NUL-terminated */
    size_t index;     /* of a call: how many came before */
    char id[KV_CALL_ID_LEN + 1];
} kv_piece;

typedef enum kv_parser_state {
    KV_IN_TEXT,
    KV_IN_THOUGHT,
    KV_IN_HEAD,
    KV_IN_JSON,
    KV_IN_PYTHON,
    KV_BEHIND_CALL
} kv_parser_state;

typedef struct kv_tool_parser {
    const kv_call_spec *spec; /* borrowed */
    uint64_t id_seed;
    char *buf;
    size_t len, cap;
    size_t at;          /* everything before is done with */
    size_t search_from; /* markers begin here at the earliest: before is a marker of what was no call */
    kv_parser_state state;
    bool is_finished, skips_space, has_text, is_fenced;
    size_t call_at, head_at, json_at, scanned; /* of the call that is being read */
    kv_json_scan scan;
    size_t n_calls, n_malformed;
    kv_call_list queue;
    size_t n_queued_out;
} kv_tool_parser;

/* `id_seed`: ids of calls follow from it. False: out of memory. */
bool kv_tool_parser_init(kv_tool_parser *p, const kv_call_spec *spec, uint64_t id_seed);
void kv_tool_parser_deinit(kv_tool_parser *p);
bool kv_tool_parser_push(kv_tool_parser *p, const char *text, size_t len); /* false: out of memory */
void kv_tool_parser_finish(kv_tool_parser *p);                             /* nothing more comes */
/* False: nothing more as yet. */
bool kv_tool_parser_next(kv_tool_parser *p, kv_piece *piece);

#endif
