#!/usr/bin/env python3
"""llama.cpp's speed, start-up and memory on a checkpoint, through the llama-cpp-python package: what bench-peer compares with.

    build/peer/bin/python scripts/llama_peer.py -m MODEL.gguf -t 2 --fa 1 -r 1 TEST...

    pp512, pp512@d4096      tokens/s of reading 512 tokens (behind 4096)
    tg128, tg128@d7168      tokens/s of 128 single-token steps (behind 7168)
    tg128x8                 tokens/s of 8 sequences that take 128 steps together, from nothing
    start@c8192             a context of 8192, 16 tokens read: seconds from the file to the first logits, and the peak of resident memory
    full@c8192              the same memory with the context full

One JSON object per line: test, value, unit, samples. Token ids are random from a fixed seed, there is no sampling, one short warm-up comes
before. Window caches are as small as llama.cpp's own programs make them (swa_full off). Memory is without what Python took before.
"""
import argparse, ctypes, json, random, re, statistics, sys, time

import llama_cpp as lib

N_BATCH, N_START = 2048, 16
KV_TYPES = {"f32": 0, "f16": 1, "q8_0": 8, "bf16": 30}
TEST = re.compile(r"(?:(pp|tg)(\d+)(?:@d(\d+))?(?:x(\d+))?|(start|full)@c(\d+))$")


def memory_kib(field):
    """VmRSS or VmHWM of this process."""
    with open("/proc/self/status") as f:
        return int(re.search(rf"^{field}:\s+(\d+) kB", f.read(), re.M).group(1))


class Peer:
    def __init__(self, args):
        self.args, self.random = args, random.Random(1)
        quiet = lib.llama_log_callback(lambda level, text, user: None)
        self.keep = quiet
        lib.llama_log_set(quiet, ctypes.c_void_p(0))
        lib.llama_backend_init()
        self.before_kib = memory_kib("VmRSS")
        self.started = time.perf_counter()
        self.model = lib.llama_model_load_from_file(args.model.encode(), lib.llama_model_default_params())
        if not self.model:
            sys.exit(f"llama.cpp cannot load {args.model}")
        self.n_vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.model))

    def context(self, n_ctx, n_seqs=1):
        p = lib.llama_context_default_params()
        p.n_ctx, p.n_seq_max = n_ctx * n_seqs, n_seqs
        p.n_batch, p.n_ubatch = N_BATCH, self.args.ubatch
        p.n_threads = p.n_threads_batch = self.args.threads
        p.type_k = p.type_v = KV_TYPES[self.args.kv_type]
        names = [name for name, *_ in p._fields_]
        if "flash_attn_type" in names:
            p.flash_attn_type = self.args.fa
        else: # older packages
            p.flash_attn = bool(self.args.fa)
        if "swa_full" in names:
            p.swa_full = False
        context = lib.llama_init_from_model(self.model, p)
        if not context:
            sys.exit(f"llama.cpp cannot make a context of {n_ctx} x {n_seqs}")
        return context

    def decode(self, context, batch):
        status = lib.llama_decode(context, batch)
        if status:
            sys.exit(f"llama_decode gave {status}")

    def read(self, context, n):
        """n more tokens of sequence 0."""
        for begin in range(0, n, N_BATCH):
            part = min(N_BATCH, n - begin)
            tokens = (lib.llama_token * part)(*(self.random.randrange(self.n_vocab) for _ in range(part)))
            self.decode(context, lib.llama_batch_get_one(tokens, part))
        lib.llama_synchronize(context)

    def generate(self, context, n_steps, n_seqs, position):
        batch = lib.llama_batch_init(n_seqs, 0, 1)
        batch.n_tokens = n_seqs
        for step in range(n_steps):
            for seq in range(n_seqs):
                batch.token[seq] = self.random.randrange(self.n_vocab)
                batch.pos[seq] = position + step
                batch.n_seq_id[seq], batch.logits[seq] = 1, 1
                batch.seq_id[seq][0] = seq
            self.decode(context, batch)
            lib.llama_synchronize(context)
        lib.llama_batch_free(batch)

    def keep_only(self, context, n_seqs, depth):
        for seq in range(n_seqs):
            lib.llama_memory_seq_rm(lib.llama_get_memory(context), seq, depth, -1)

    def speeds(self, kind, n, depth, n_seqs):
        """Tokens per second of each repeat. The depth is read once and kept."""
        context, samples = self.context(depth + n + 64, n_seqs), []
        if depth:
            self.read(context, depth)
        for repeat in range(-1, self.args.repeats):
            self.keep_only(context, n_seqs, depth)
            count = n if repeat >= 0 else min(n, 512 if kind == "pp" else 8)
            start = time.perf_counter()
            if kind == "pp":
                self.read(context, count)
            else:
                self.generate(context, count, n_seqs, depth)
            if repeat >= 0:
                samples.append(n_seqs * n / (time.perf_counter() - start))
        lib.llama_free(context)
        return samples

    def start(self, kind, n_ctx):
        """Seconds to the first logits, and bytes. Only as the first test of a process, so that loading is in both."""
        context = self.context(n_ctx)
        self.read(context, N_START)
        seconds = time.perf_counter() - self.started
        if kind == "full":
            self.read(context, n_ctx - N_START)
        lib.llama_free(context)
        return seconds, 1024 * (memory_kib("VmHWM") - self.before_kib)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("-r", "--repeats", type=int, default=1)
    parser.add_argument("-ub", "--ubatch", type=int, default=512)
    parser.add_argument("-ctk", "--kv-type", choices=KV_TYPES, default="f16")
    parser.add_argument("--fa", type=int, choices=(0, 1), default=1, help="flash attention")
    parser.add_argument("tests", nargs="+", metavar="TEST")
    args = parser.parse_args()
    parsed = [TEST.match(test) for test in args.tests]
    for test, match in zip(args.tests, parsed):
        if not match:
            parser.error(f"no test '{test}'")
    if any(match.group(5) for match in parsed) and len(parsed) > 1:
        parser.error("start and full are measured alone")
    peer = Peer(args)

    def report(test, unit, samples):
        print(json.dumps({"engine": "llama.cpp", "test": test, "unit": unit, "value": statistics.median(samples), "samples": samples,
                          "threads": args.threads, "fa": args.fa, "version": getattr(lib, "__version__", "")}), flush=True)

    for test, match in zip(args.tests, parsed):
        kind, n, depth, n_seqs, whole, n_ctx = match.groups()
        if whole:
            seconds, n_bytes = peer.start(whole, int(n_ctx))
            if whole == "start":
                report(test, "s", [seconds])
            report(test, "bytes", [n_bytes])
        else:
            report(test, "tokens/s", peer.speeds(kind, int(n), int(depth or 0), int(n_seqs or 1)))


if __name__ == "__main__":
    main()
