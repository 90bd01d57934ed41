#!/bin/bash
# The kernels on AArch64, run by qemu: the tests of the numerical core there, and the same digests there as here, function by function and
# table by table. ARM_PROGRAMS, from the Makefile: the native kernel_digest, then the programs built for AArch64; empty where the cross
# compiler or qemu is missing.
set -u
read -r -a programs <<< "${ARM_PROGRAMS:-}"
[ ${#programs[@]} -gt 0 ] || { echo "0 passed (no AArch64 compiler or no qemu-aarch64; make test-arm installs them)"; exit 0; }
native="${programs[0]}" passed=0 failed=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Every feature; no more than NEON; with sdot, without usdot. qemu 7.2 leaves dot products out of cortex-a72.
cpus="max cortex-a72 neoverse-n1"

for program in "${programs[@]:1}"; do
    name=$(basename "$program")
    [ "$name" != kernel_digest ] || continue
    if timeout 500 qemu-aarch64 -cpu max "$program" > "$work/out" 2>&1; then
        echo "ok $name: $(grep -c '^\[       OK \]' "$work/out") tests"
    else
        cat "$work/out"
        echo "FAILED $name"
        failed=$((failed + 1))
    fi
    passed=$((passed + $(sed -n 's/^\[  PASSED  \] \([0-9]*\) test.*/\1/p' "$work/out" | head -1)))
done

digests() { # digests OUT COMMAND...
    local out="$1"
    shift
    "$@" > "$out" || { echo "FAILED $*"; failed=$((failed + 1)); }
}
digests "$work/x86" "$native"
for cpu in $cpus; do
    digests "$work/$cpu" qemu-aarch64 -cpu "$cpu" "$(dirname "${programs[1]}")/kernel_digest"
    echo "tables on $cpu: $(awk '{print $(NF-1)}' "$work/$cpu" | sort -u | xargs)"
done
echo "tables here: $(awk '{print $(NF-1)}' "$work/x86" | sort -u | xargs)"
# shellcheck disable=SC2086
if (cd "$work" && awk '
    { hash = $NF; table = $(NF - 1); $NF = $(NF - 1) = ""; sub(/ *$/, "") }
    !($0 in first) { first[$0] = hash; who[$0] = FILENAME " " table; n++ }
    { seen[FILENAME, $0] = 1; files[FILENAME] = 1 }
    hash != first[$0] { printf "FAILED %s: %s %s gives other bits than %s\n", $0, FILENAME, table, who[$0]; bad = 1 }
    END {
        for (f in files) { n_files++; for (w in first) if (!((f, w) in seen)) { print "FAILED " w " is missing on " f; bad = 1 } }
        if (n < 30 || n_files < 4) { print "FAILED only " n " functions, " n_files " machines"; bad = 1 }
        if (!bad) print "ok " n " functions, the same bits in every table of " n_files " machines"
        exit bad
    }' x86 $cpus); then
    passed=$((passed + 1))
else
    failed=$((failed + 1))
fi
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
