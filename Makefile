# Kvasir: `make help` lists what there is to make.
#
# One makefile, no recursion. Sources are found by wildcard, so a new file needs no change here, except for a
# SIMD file, which has a row in the table of flags. Every compiler and sanitizer has its own folder
# build/<config>/, so changing them never mixes objects. What the machine has to have is checked (or, for `make chat`,
# `make test`, `make fuzz` and `make deps`, installed) by scripts/setup, which writes build/deps-<list>.mk.

MAKEFLAGS += --no-builtin-rules -j$(shell nproc)
.DELETE_ON_ERROR:
.SECONDARY:

# ---- what may be set from outside ------------------------------------------------------------------
ifeq ($(origin CC),default)
CC := gcc
endif
SANITIZE ?=
PREFIX ?= /usr/local
DESTDIR ?=
FUZZ_SECONDS ?= 60
BENCH_ARGS ?=

# ---- flags -----------------------------------------------------------------------------------------
# -ffp-contract=off: the compiler must not fuse what the source does not fuse; the bits are the same everywhere.
# No -march=native and no -ffast-math: binaries travel, and masks need infinities.
BASE_FLAGS := -std=gnu11 -g -Wall -Wextra -Werror -fvisibility=hidden -ffp-contract=off -fPIC -pthread \
              -D_GNU_SOURCE= -Iruntime -I.
# A sanitizer multiplies what -O3 unrolls: minutes per kernel file, and no finding more.
OPTIMISE = $(if $(SANITIZE)$(findstring fuzz,$(1)),-O1,$(if $(filter runtime/kernels/%,$(2)),-O3,-O2))

comma := ,
FUZZ_SANITIZE := address,undefined
IS_CLANG := $(findstring clang,$(CC))
# Without -fno-var-tracking gcc follows variables through scalar.c for more than ten minutes; with it, it takes one.
SANITIZE_FLAGS := $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-omit-frame-pointer -DKV_NO_UNROLL \
  $(if $(findstring undefined,$(SANITIZE)),-fno-sanitize-recover=all) \
  $(if $(IS_CLANG),,-Wno-maybe-uninitialized -Wno-tsan -fno-var-tracking))
CONFIG := $(notdir $(firstword $(CC)))$(if $(SANITIZE),-$(subst $(comma),-,$(SANITIZE)))
OUT := build/$(CONFIG)

# Instruction sets: one row per file, per machine. Every file is always compiled and guards itself with
# #if defined(__x86_64__) or __aarch64__, so only the flags differ.
MACHINE := $(firstword $(subst -, ,$(shell $(CC) -dumpmachine 2>/dev/null)))
ifeq ($(MACHINE),x86_64)
ISA_FLAGS_runtime/kernels/avx2.c    := -mavx2 -mfma -mf16c
ISA_FLAGS_runtime/kernels/avxvnni.c := -mavx2 -mfma -mf16c -mavxvnni
ISA_FLAGS_runtime/kernels/avx512.c  := -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni
ISA_FLAGS_runtime/kernels/amx.c     := $(ISA_FLAGS_runtime/kernels/avx512.c) -mamx-tile -mamx-int8
endif
# Rows for the machine that `make test-arm` compiles for, or that we are. gcc's first scheduling pass moves all loads of an unrolled
# block to its top, whatever the registers: without it 24 instead of 168 spills around the 128 dots of a block.
ARM_NO_SPILLS := $(if $(IS_CLANG),,-fno-schedule-insns)
ARM_FLAGS_runtime/kernels/neon.c     := -march=armv8-a $(ARM_NO_SPILLS)
ARM_FLAGS_runtime/kernels/neondot.c  := -march=armv8.2-a+dotprod $(ARM_NO_SPILLS)
ARM_FLAGS_runtime/kernels/neoni8mm.c := -march=armv8.2-a+dotprod+i8mm $(ARM_NO_SPILLS)
ifeq ($(MACHINE),aarch64)
$(foreach f,neon neondot neoni8mm,$(eval ISA_FLAGS_runtime/kernels/$f.c := $(ARM_FLAGS_runtime/kernels/$f.c)))
endif

# ---- sources ---------------------------------------------------------------------------------------
LIB_SRC  := $(sort $(wildcard runtime/*/*.c models/*.c convert/*.c))
TOOL_SRC := $(sort $(wildcard tools/*.c tools/*/*.c))
TEST_SRC := $(sort $(wildcard tests/test_*.c tests/check_*.c))
FUZZ_SRC := $(sort $(wildcard tests/fuzz_*.c))
# Everything else in tests/ helps the tests: an archive, so that each takes what it needs.
HELP_SRC := $(filter-out $(TEST_SRC) $(FUZZ_SRC),$(sort $(wildcard tests/*.c)))
C_FILES  := $(sort $(wildcard runtime/*.h runtime/*/*.[ch] models/*.[ch] convert/*.[ch] tools/*.[ch] tools/*/*.[ch] \
              tests/*.[ch] tests/*/*.[ch]))
VERSION  := $(shell sed -n 's/^.define KVASIR_VERSION "\(.*\)"/\1/p' runtime/kvasir.h)
SOVERSION := 0

objects = $(patsubst %.c,$(2)/obj/%.o,$(1))
LIB_OBJ  := $(call objects,$(LIB_SRC),$(OUT))
TOOL_OBJ := $(call objects,$(TOOL_SRC),$(OUT))
HELP_OBJ := $(call objects,$(HELP_SRC),$(OUT))
TEST_OBJ := $(call objects,$(TEST_SRC),$(OUT))
TESTS    := $(patsubst tests/%.c,$(OUT)/tests/%,$(TEST_SRC))

# Tests that need more at link time than the rest: one row each.
WATCHED_HEAP := -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=posix_memalign,--wrap=free
TEST_LDFLAGS_test_alloc_failure := $(WATCHED_HEAP)
TEST_LDFLAGS_test_alloc_decode := $(WATCHED_HEAP)

# ---- what the machine must have --------------------------------------------------------------------
NEEDS_NOTHING := help clean format uninstall
GOALS := $(or $(MAKECMDGOALS),all)
DEPS_LIST := $(if $(filter test fuzz deps,$(GOALS)),test,$(if $(filter test-arm,$(GOALS)),arm,$(if $(filter chat,$(GOALS)),chat,build)))
ifneq ($(filter-out $(NEEDS_NOTHING),$(GOALS)),)
include build/deps-$(DEPS_LIST).mk
endif
# Sets DEPS_CFLAGS, DEPS_LIBS (library), TOOL_LIBS (binary), TEST_LIBS and FUZZ_CC. `make` alone only checks and says what is missing.
build/deps-%.mk: scripts/setup
	@scripts/setup $(if $(filter build,$*),--check) $*
	@mkdir -p build && scripts/setup --flags $* > $@.tmp && mv $@.tmp $@

# ---- build -----------------------------------------------------------------------------------------
.PHONY: all lib help deps chat test test-arm fuzz bench bench-peer format compdb install uninstall clean FORCE

all: kvasir build/libkvasir.a ## build ./kvasir and build/libkvasir.a

lib: $(OUT)/libkvasir.so.$(SOVERSION) build/libkvasir.a ## build the library, static and shared

compile = $(CC) $(BASE_FLAGS) $(call OPTIMISE,$(CONFIG),$(1)) $(ISA_FLAGS_$(1)) $(SANITIZE_FLAGS) $(DEPS_CFLAGS) $(CPPFLAGS) $(CFLAGS)
link    = $(CC) -pthread $(SANITIZE_FLAGS) $(LDFLAGS)

# The flags are a file, so that changing them compiles again; a source that has none of its own adds nothing, not even a space.
all_flags = $(strip $(call compile,) $(foreach f,$(LIB_SRC),$(ISA_FLAGS_$(f))))
$(OUT)/flags: FORCE
	@mkdir -p $(@D); echo '$(all_flags)' | cmp -s - $@ || echo '$(all_flags)' > $@

$(OUT)/obj/%.o: %.c $(OUT)/flags
	@mkdir -p $(@D)
	@echo "  CC    $<"
	@$(call compile,$<) -MMD -MP -c -o $@ $<

$(OUT)/obj/tools/serve/page.o: tools/serve/page.html

# Two archives of the same objects: tests reach everything in libinternal.a; libkvasir.a, which tools and embedding programs
# get, is one object in which only the kvasir_ names are left, so nothing in it can collide with theirs.
$(OUT)/libinternal.a: $(LIB_OBJ)
$(OUT)/libkvasir.a: $(OUT)/obj/libkvasir.o
$(OUT)/obj/libkvasir.o: $(LIB_OBJ)
	@ld -r -o $@ $^ && objcopy --localize-hidden $@
$(OUT)/libtools.a: $(filter-out %/main.o,$(TOOL_OBJ))
$(OUT)/libhelp.a: $(HELP_OBJ)
$(OUT)/%.a:
	@rm -f $@; $(AR) rcs $@ $^

$(OUT)/libkvasir.so.$(SOVERSION): $(LIB_OBJ)
	@echo "  LINK  $@"
	@$(link) -shared -Wl,-soname,$(@F) $(if $(SANITIZE),,-Wl$(comma)--no-undefined) -o $@ $^ $(DEPS_LIBS)

$(OUT)/kvasir: $(TOOL_OBJ) $(OUT)/libkvasir.a
	@echo "  LINK  $@"
	@$(link) -o $@ $^ $(TOOL_LIBS) $(DEPS_LIBS)

$(OUT)/tests/%: $(OUT)/obj/tests/%.o $(OUT)/libhelp.a $(OUT)/libtools.a $(OUT)/libinternal.a
	@mkdir -p $(@D)
	@echo "  LINK  $@"
	@$(link) $(TEST_LDFLAGS_$*) -o $@ $^ $(TEST_LIBS) $(TOOL_LIBS) $(DEPS_LIBS)

# The names that people type are hard links to the files of the configuration made last.
kvasir: $(OUT)/kvasir FORCE
	@[ $< -ef $@ ] || ln -f $< $@
build/libkvasir.a: $(OUT)/libkvasir.a FORCE
	@[ $< -ef $@ ] || ln -f $< $@

# ---- fuzzing: its own objects, because the coverage instrumentation goes into all of them ----------
# FUZZ_CC is clang where it is there (libFuzzer); else tests/support/fuzz_main.c feeds random mutations.
FUZZ_OUT   := build/fuzz
FUZZERS    := $(patsubst tests/%.c,$(FUZZ_OUT)/%,$(FUZZ_SRC))
FUZZ_IS_CLANG = $(findstring clang,$(FUZZ_CC))
FUZZ_FLAGS = -fsanitize=$(if $(FUZZ_IS_CLANG),fuzzer-no-link$(comma))$(FUZZ_SANITIZE) -fno-sanitize-recover=all \
             $(if $(FUZZ_IS_CLANG),,-Wno-maybe-uninitialized)
# Only what reads hostile input is instrumented; clang would need minutes for the kernels, which the targets never reach.
FUZZED     := $(filter runtime/base/% runtime/gguf/% runtime/quant/% runtime/text/% runtime/constraint/% convert/hf% convert/safetensors% \
                $(addprefix runtime/attention/,csr% pattern% registry% source% spec%),$(LIB_SRC))
FUZZ_OBJ   := $(call objects,$(FUZZED),$(FUZZ_OUT)) $(call objects,$(filter-out $(FUZZED),$(LIB_SRC)),$(OUT))
FUZZ_MAIN  = $(if $(FUZZ_IS_CLANG),,$(FUZZ_OUT)/obj/tests/support/fuzz_main.o)

$(FUZZ_OUT)/obj/%.o: %.c
	@mkdir -p $(@D)
	@echo "  CC    $< (fuzz)"
	@$(FUZZ_CC) $(BASE_FLAGS) -Wno-error -O1 $(ISA_FLAGS_$<) $(FUZZ_FLAGS) $(DEPS_CFLAGS) -MMD -MP -c -o $@ $<
# .SECONDARY makes nothing anew for an object that is only missing: after a change of the list above this file is what is newer.
$(FUZZ_OUT)/libkvasir.a: $(FUZZ_OBJ) Makefile
	@rm -f $@; $(AR) rcs $@ $(FUZZ_OBJ)
$(FUZZ_OUT)/fuzz_%: $(FUZZ_OUT)/obj/tests/fuzz_%.o $(FUZZ_OUT)/libkvasir.a $(FUZZ_OUT)/obj/tests/support/fuzz_main.o
	@echo "  LINK  $@"
	@$(FUZZ_CC) -pthread $(FUZZ_FLAGS) $(if $(FUZZ_IS_CLANG),-fsanitize=fuzzer) -o $@ $< $(FUZZ_MAIN) \
	  $(FUZZ_OUT)/libkvasir.a $(DEPS_LIBS)

# ---- tests for another processor: what needs no library that is missing there, run by qemu -------------
# gcc 12 for AArch64 dies of vectorising the tests: they need not be fast. What takes minutes in qemu does fewer rounds.
ARM_FLAGS_tests/check_attention.c := -DORACLE_SLOW=1
ARM_CC    := aarch64-linux-gnu-gcc
ARM_OUT   := build/arm
ARM_TESTS := check_kernel_products check_kernel_attention check_kernel_rows check_attention test_quant
ARM_LIB   := $(filter-out runtime/kernels/blas.c,$(filter runtime/base/% runtime/quant/% runtime/kernels/% runtime/cache/% \
               runtime/attention/%,$(LIB_SRC))) tests/support/cross/plain_blas.c $(filter tests/oracle_% tests/kernel_%,$(HELP_SRC))
ARM_PROGRAMS := $(ARM_TESTS:%=$(ARM_OUT)/%) $(ARM_OUT)/kernel_digest
# What `make test` takes along where both tools are here; nothing on ARM, whose own tests are these.
ARM_HERE := $(if $(filter test,$(GOALS)),$(if $(SANITIZE)$(filter aarch64,$(MACHINE)),,$(and $(shell command -v $(ARM_CC)),\
              $(shell command -v qemu-aarch64),$(OUT)/kernel_digest $(ARM_PROGRAMS))))
arm_compile = $(ARM_CC) $(BASE_FLAGS) $(if $(filter tests/%,$(1)),-O2 -fno-tree-vectorize -Itests -isystem tests/support/cross,\
                $(call OPTIMISE,,$(1))) $(ARM_FLAGS_$(1))

$(ARM_OUT)/flags: FORCE
	@mkdir -p $(@D); echo '$(call arm_compile,) $(foreach f,$(ARM_LIB),$(ARM_FLAGS_$(f)))' | cmp -s - $@ || \
	  echo '$(call arm_compile,) $(foreach f,$(ARM_LIB),$(ARM_FLAGS_$(f)))' > $@

$(ARM_OUT)/obj/%.o: %.c $(ARM_OUT)/flags
	@mkdir -p $(@D)
	@echo "  CC    $< (arm)"
	@$(call arm_compile,$<) -MMD -MP -c -o $@ $<
$(ARM_OUT)/lib.a: $(call objects,$(ARM_LIB),$(ARM_OUT))
	@rm -f $@; $(AR) rcs $@ $^
$(ARM_TESTS:%=$(ARM_OUT)/%): $(ARM_OUT)/%: $(ARM_OUT)/obj/tests/%.o $(ARM_OUT)/lib.a
	@$(ARM_CC) -static -pthread -o $@ $^ -lm
$(ARM_OUT)/kernel_digest: $(ARM_OUT)/obj/tests/support/kernel_digest.o $(ARM_OUT)/lib.a
	@$(ARM_CC) -static -pthread -o $@ $^ -lm
$(OUT)/kernel_digest: $(OUT)/obj/tests/support/kernel_digest.o $(OUT)/libhelp.a $(OUT)/libinternal.a
	@$(link) -o $@ $^ $(DEPS_LIBS)

# ---- use -------------------------------------------------------------------------------------------
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | column -t -s '|'
	@echo "  settings: CC=gcc|clang  SANITIZE=address|undefined|thread  PREFIX=/usr/local  DESTDIR=  FUZZ_SECONDS=60"

deps: ## install the Debian packages that building and testing need
	@echo "everything that building and testing needs is installed"

chat: all ## install what is missing, build, bring the default model, start chatting
	@./kvasir get smollm2
	@./kvasir chat

# With a sanitizer the scripts test that binary, and ./kvasir stays what it was.
TEST_BINARY := $(if $(SANITIZE),$(OUT)/kvasir,./kvasir)
test: $(TEST_BINARY) build/libkvasir.a $(OUT)/libkvasir.so.$(SOVERSION) $(TESTS) $(if $(SANITIZE),,$(FUZZERS)) build/venv/ready build/fixtures/ready $(ARM_HERE) ## install what is missing, build, run every test
	@$(TEST_BINARY) get smollm2 gemma3
	@$(if $(ARM_HERE)$(SANITIZE),,echo "  skip arm: not without aarch64-linux-gnu-gcc and qemu-aarch64 (make test-arm installs them)")
	@KVASIR=$(TEST_BINARY) SANITIZE='$(SANITIZE)' CC='$(CC)' ARM_PROGRAMS='$(ARM_HERE)' scripts/run-tests $(TESTS) \
	  $(sort $(wildcard tests/test_*.py tests/test_*.sh)) $(if $(SANITIZE),,$(FUZZERS))

test-arm: $(OUT)/kernel_digest $(ARM_PROGRAMS) ## build the kernel tests for AArch64, run them by qemu, and compare their bits with this machine's
	@ARM_PROGRAMS='$^' tests/test_arm.sh

# Reference fixtures, for tests in C and Python.
build/fixtures/ready: tests/golden/fixtures/open.tar.xz tests/golden/fixtures/more.tar.xz tests/support/fixtures.py
	@python3 tests/support/fixtures.py && touch $@

build/venv/ready: tests/requirements.txt scripts/venv
	@scripts/venv build/venv tests/requirements.txt && touch $@

fuzz: $(FUZZERS) ## fuzz every target for FUZZ_SECONDS each
	@for f in $(FUZZERS); do scripts/run-fuzz $$f $(FUZZ_SECONDS) || exit 1; done

bench: all ## tokens per second of both models on this machine, into tests/perf/<cpu>.csv
	@./kvasir get smollm2 gemma3
	@scripts/bench $(BENCH_ARGS)

bench-peer: all ## kvasir beside llama.cpp on both models and a synthetic 1B: the ratios (two hours, on an idle machine)
	@scripts/bench-peer $(BENCH_ARGS)

format: ## format all C sources with clang-format
	clang-format -i $(C_FILES)

compdb: ## write compile_commands.json for editors
	$(file >compile_commands.json,[)
	$(foreach f,$(LIB_SRC) $(TOOL_SRC) $(TEST_SRC) $(HELP_SRC) $(FUZZ_SRC),$(file >>compile_commands.json,{"directory":"$(CURDIR)","file":"$(f)","command":"$(strip $(call compile,$(f))) -c $(f)"},))
	@sed -i '$$ s/,$$/]/' compile_commands.json && echo "compile_commands.json"

# ---- install ---------------------------------------------------------------------------------------
D := $(DESTDIR)$(PREFIX)
install: $(OUT)/kvasir $(OUT)/libkvasir.a $(OUT)/libkvasir.so.$(SOVERSION) ## install binary, libraries, header, man page and pkg-config file
	install -d "$(D)/bin" "$(D)/lib/pkgconfig" "$(D)/include" "$(D)/share/man/man1"
	install -m 755 $(OUT)/kvasir "$(D)/bin/kvasir"
	install -m 644 runtime/kvasir.h "$(D)/include/kvasir.h"
	install -m 644 $(OUT)/libkvasir.a "$(D)/lib/libkvasir.a"
	install -m 755 $(OUT)/libkvasir.so.$(SOVERSION) "$(D)/lib/libkvasir.so.$(SOVERSION)"
	ln -sf libkvasir.so.$(SOVERSION) "$(D)/lib/libkvasir.so"
	sed 's|@PREFIX@|$(subst &,\&,$(PREFIX))|; s|@VERSION@|$(VERSION)|; s|@LIBS@|$(DEPS_LIBS)|' docs/kvasir.pc.in > "$(D)/lib/pkgconfig/kvasir.pc"
	sed '/^.TH/s|"kvasir"|"kvasir $(VERSION)"|' docs/kvasir.1 > "$(D)/share/man/man1/kvasir.1"

uninstall: ## remove what install put there
	rm -f "$(D)/bin/kvasir" "$(D)/include/kvasir.h" "$(D)/lib/libkvasir.a" "$(D)/lib/libkvasir.so" "$(D)/lib/libkvasir.so.$(SOVERSION)" \
	  "$(D)/lib/pkgconfig/kvasir.pc" "$(D)/share/man/man1/kvasir.1"

clean: ## remove everything that was built (models stay)
	rm -rf build kvasir compile_commands.json

-include $(shell [ -d build ] && find build -name '*.d')
