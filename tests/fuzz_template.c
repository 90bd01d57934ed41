/* fuzz_template.c - any bytes as a chat template: parsed, and rendered with one conversation that has a bit of everything.
 * Tight limits keep a run short; what must never happen is a crash, a leak, or a run without end. */
#include <stdint.h>
#include <stdlib.h>

#include "text/template.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char conversation[] =
    "{\"messages\":[{\"role\":\"system\",\"content\":\"Gr\\u00fc\\u00dfe\"},{\"role\":\"user\",\"content\":\" a\\nb "
    "\"},"
    "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"1\",\"function\":{\"name\":\"f\",\"arguments\":"
    "{\"x\":[1,2.5,true]}}}]}],"
    "\"tools\":null,\"documents\":null,\"add_generation_prompt\":true,\"bos_token\":\"<s>\",\"eos_token\":\"</s>\"}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    kv_template *tmpl;
    kvasir_error err;
    if (kv_template_parse((const char *)data, size, &tmpl, &err) != KVASIR_OK) return 0;
    json_t *context = json_loads(conversation, 0, NULL);
    kv_template_limits limits = {
        .max_steps = 50000, .max_depth = 50, .max_output_bytes = 1 << 20, .max_memory_bytes = 8 << 20};
    char *text;
    size_t len;
    if (context && kv_template_render(tmpl, context, &limits, 1700000000, &text, &len, &err) == KVASIR_OK) free(text);
    json_decref(context);
    kv_template_free(tmpl);
    return 0;
}
