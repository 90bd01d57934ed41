#!/bin/bash
# `make install` into an empty prefix gives a library that the README's program can be built with, shared and static, and that
# exports nothing but kvasir_ names; `make uninstall` takes everything away again.
set -u
case "${SANITIZE:-}" in ?*) echo "0 passed (a program without the sanitizer cannot use a library with it)"; exit 0 ;; esac
make="make --no-print-directory CC=${CC:-gcc}"
prefix=$(mktemp -d)
trap 'rm -rf "$prefix"' EXIT
passed=0 failed=0
check() { # check NAME COMMAND...
    local name="$1" out
    shift
    if out=$("$@" 2>&1); then
        echo "ok $name"; passed=$((passed + 1))
    else
        echo "FAILED $name"; echo "$out"; failed=$((failed + 1))
    fi
}
export PKG_CONFIG_PATH="$prefix/lib/pkgconfig"
export MAKEFLAGS=

installs_everything() {
    $make install PREFIX="$prefix" || return 1
    for f in bin/kvasir include/kvasir.h lib/libkvasir.a lib/libkvasir.so lib/libkvasir.so.0 lib/pkgconfig/kvasir.pc share/man/man1/kvasir.1; do
        [ -e "$prefix/$f" ] || { echo "not installed: $f"; return 1; }
    done
    [ "$("$prefix/bin/kvasir" --version)" = "kvasir $(pkg-config --modversion kvasir)" ]
}
exports_only_public_names() {
    local names
    names=$(nm -D --defined-only "$prefix/lib/libkvasir.so.0" | awk '{ print $3 }' | grep -v '^kvasir_')
    [ -z "$names" ] || { echo "libkvasir.so: $names"; return 1; }
    names=$(nm -g --defined-only "$prefix/lib/libkvasir.a" 2>/dev/null | awk 'NF == 3 { print $3 }' | grep -v '^kvasir_')
    [ -z "$names" ] || { echo "libkvasir.a: $names"; return 1; }
    [ "$(nm -D --defined-only "$prefix/lib/libkvasir.so.0" | grep -c ' kvasir_model_open$')" = 1 ]
}
has_soname() { readelf -d "$prefix/lib/libkvasir.so.0" | grep -q 'SONAME.*\[libkvasir.so.0\]'; }
program() { awk '/^```c$/ { inside = 1; next } /^```/ { inside = 0 } inside' README.md > "$prefix/program.c"; [ -s "$prefix/program.c" ]; }
runs_and_writes() { # the colours are what any working model of this size says
    local text
    text=$(env "$@" models/smollm2-135m-instruct-q4_1.gguf) || { echo "exit $?: $text"; return 1; }
    echo "says: $text"
    [ "$(echo "$text" | wc -w)" -ge 5 ] && echo "$text" | grep -qi 'red' && echo "$text" | grep -qi 'blue'
}
warnings="-std=c11 -Wall -Wextra -Werror -pedantic"
shared_program() {
    ${CC:-gcc} $warnings "$prefix/program.c" $(pkg-config --cflags --libs kvasir) -o "$prefix/shared" || return 1
    runs_and_writes LD_LIBRARY_PATH="$prefix/lib" "$prefix/shared"
}
static_program() {
    # shellcheck disable=SC2046
    ${CC:-gcc} $warnings "$prefix/program.c" $(pkg-config --static --cflags --libs kvasir | sed 's/-lkvasir/-l:libkvasir.a/') -o "$prefix/static" || return 1
    readelf -d "$prefix/static" | grep -q libkvasir && { echo "it is not static"; return 1; }
    runs_and_writes "$prefix/static"
}
program_reports_errors() {
    local out
    out=$("$prefix/static" /no/such/file 2>&1) && return 1
    [ "$(echo "$out" | wc -l)" = 1 ] && echo "$out" | grep -q /no/such/file
}
header_is_cpp() { echo '#include <kvasir.h>' | ${CC:-gcc} -x c++ -Wall -Wextra -Werror -fsyntax-only $(pkg-config --cflags kvasir) -; }
stages_with_destdir() {
    local stage="$prefix/a stage"
    $make install PREFIX=/usr DESTDIR="$stage" &&
        [ -x "$stage/usr/bin/kvasir" ] && grep -q '^prefix=/usr$' "$stage/usr/lib/pkgconfig/kvasir.pc" &&
        $make uninstall PREFIX=/usr DESTDIR="$stage" && [ -z "$(find "$stage" ! -type d)" ]
}
a_prefix_with_spaces_is_found() {
    local other="$prefix/a prefix of R&D" flags
    $make install PREFIX="$other" || return 1
    flags=$(PKG_CONFIG_PATH="$other/lib/pkgconfig" pkg-config --cflags --libs kvasir) || return 1
    eval "${CC:-gcc} \"\$prefix/program.c\" $flags -o \"\$prefix/spaces\"" &&
        LD_LIBRARY_PATH="$other/lib" "$prefix/spaces" /no/such/file 2>&1 | grep -q /no/such/file &&
        $make uninstall PREFIX="$other" && [ -z "$(find "$other" ! -type d)" ]
}
uninstalls_everything() {
    $make uninstall PREFIX="$prefix" && rm -rf "$prefix/a stage" "$prefix/a prefix of R&D" "$prefix/spaces" "$prefix"/program.c "$prefix/shared" "$prefix/static" || return 1
    left=$(find "$prefix" ! -type d)
    [ -z "$left" ] || { echo "left: $left"; return 1; }
}

check installs_everything installs_everything
check only_public_names_are_exported exports_only_public_names
check shared_library_has_its_soname has_soname
check readme_has_the_program program
check readme_program_runs_with_the_shared_library shared_program
check readme_program_runs_with_the_static_library static_program
check readme_program_reports_errors program_reports_errors
if command -v g++ >/dev/null 2>&1; then check header_is_good_for_cpp header_is_cpp; fi
check destdir_is_in_front_of_the_prefix stages_with_destdir
check a_prefix_with_spaces_is_found a_prefix_with_spaces_is_found
check uninstall_removes_everything uninstalls_everything
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
