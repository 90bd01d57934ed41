/* main.c - the one binary: looks the subcommand up in a table and runs it.
 *
 *     kvasir TOOL ...      -> the row's run(argc - 1, argv + 1); argv[0] is the subcommand
 *     kvasir               -> help            kvasir help TOOL -> kvasir TOOL --help
 *     kvasir --version     -> the version     anything else    -> exit 2 with the nearest name
 */
#include <fcntl.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tools/term.h"
#include "tools/tools.h"

typedef int tool(int argc, char **argv); /* argv[0] is the subcommand; returns the exit status */

tool kv_tool_chat, kv_tool_run, kv_tool_serve, kv_tool_get, kv_tool_bench, kv_tool_batched_bench, kv_tool_bench_serve,
    kv_tool_synth, kv_tool_convert, kv_tool_quantize, kv_tool_imatrix, kv_tool_perplexity, kv_tool_logits,
    kv_tool_tokenize, kv_tool_detokenize, kv_tool_template, kv_tool_attention, kv_tool_inspect;

static const struct row {
    const char *name;
    tool *run;
    const char *summary; /* one line for `kvasir help` */
} TOOLS[] = {
    {"chat", kv_tool_chat, "a conversation in the terminal"},
    {"run", kv_tool_run, "continue a text"},
    {"serve", kv_tool_serve, "completions for programs, over a local socket"},
    {"get", kv_tool_get, "bring a model onto this machine"},
    {"bench", kv_tool_bench, "tokens per second, and percent of what this machine can do"},
    {"batched-bench", kv_tool_batched_bench, "the same for many sequences at once"},
    {"bench-serve", kv_tool_bench_serve, "what many clients get out of a running server"},
    {"synth", kv_tool_synth, "a random checkpoint of a given shape"},
    {"convert", kv_tool_convert, "a Hugging Face checkpoint as a GGUF file"},
    {"quantize", kv_tool_quantize, "a checkpoint with other types, or fewer KV heads"},
    {"imatrix", kv_tool_imatrix, "which inputs matter, measured on a text, for quantize"},
    {"perplexity", kv_tool_perplexity, "how well a model predicts a text"},
    {"logits", kv_tool_logits, "what the model says about the next token"},
    {"tokenize", kv_tool_tokenize, "text to token ids"},
    {"detokenize", kv_tool_detokenize, "token ids to text"},
    {"template", kv_tool_template, "what a conversation looks like to the model"},
    {"attention", kv_tool_attention, "what attention costs, layer by layer"},
    {"inspect", kv_tool_inspect, "what a GGUF file holds"},
};
enum { N_TOOLS = sizeof TOOLS / sizeof TOOLS[0] };

static const struct row *find_tool(const char *name)
{
    for (int i = 0; i < N_TOOLS; i++)
        if (strcmp(TOOLS[i].name, name) == 0) return &TOOLS[i];
    return NULL;
}

static int print_help(void)
{
    printf("kvasir " KVASIR_VERSION ": small language models on this machine\n\n"
           "Usage: kvasir TOOL [OPTIONS]\n\n");
    for (int i = 0; i < N_TOOLS; i++) printf("  %-14s %s\n", TOOLS[i].name, TOOLS[i].summary);
    printf("\n'kvasir TOOL --help' lists a tool's options. To begin:\n"
           "  kvasir get smollm2\n"
           "  kvasir chat\n");
    return kv_tool_finish("help", KV_EXIT_OK);
}

static int unknown_tool(const char *word)
{
    const char *names[N_TOOLS + 3];
    for (int i = 0; i < N_TOOLS; i++) names[i] = TOOLS[i].name;
    names[N_TOOLS] = "help";
    names[N_TOOLS + 1] = "--help";
    names[N_TOOLS + 2] = "--version";
    const char *near = kv_nearest(word, names, N_TOOLS + 3);
    const char *what = word[0] == '-' ? "option" : "tool";
    if (near) return kv_usage_error(NULL, "unknown %s '%.80s'; did you mean '%s'?", what, word, near);
    return kv_usage_error(NULL, "unknown %s '%.80s'; 'kvasir help' lists the tools", what, word);
}

static int help_about(int argc, char **argv)
{
    if (argc < 3) return print_help();
    if (argc > 3) return kv_usage_error(NULL, "help takes one tool, not '%.80s'", argv[3]);
    const struct row *found = find_tool(argv[2]);
    if (!found) return strcmp(argv[2], "help") == 0 ? print_help() : unknown_tool(argv[2]);
    char help[] = "--help";
    char *args[] = {argv[2], help, NULL};
    return found->run(2, args);
}

/* A stream that our caller has closed: the next file that is opened would take its descriptor, and a line for stderr would go into a model
 * that is being written. /dev/null holds the place, opened the wrong way round, so that its use fails as before. */
static void hold_closed_streams(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0) open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
}

int main(int argc, char **argv)
{
    hold_closed_streams();
    setlocale(LC_CTYPE, "");  /* the width of characters; numbers stay in the C locale */
    signal(SIGPIPE, SIG_IGN); /* a closed pipe is a write error with a line, not a silent death */
    signal(SIGXFSZ, SIG_IGN); /* so is a file that becomes larger than its limit (ulimit -f) */
    kv_interrupt_end();
    if (argc < 2) return print_help();
    const char *word = argv[1];
    if (strcmp(word, "help") == 0 || strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)
        return help_about(argc, argv);
    if (strcmp(word, "--version") == 0 || strcmp(word, "version") == 0) {
        puts("kvasir " KVASIR_VERSION);
        return kv_tool_finish("version", KV_EXIT_OK);
    }
    const struct row *found = find_tool(word);
    return found ? found->run(argc - 1, argv + 1) : unknown_tool(word);
}
