/*
 * memtraffic counts the memory traffic of a virtual machine with one CPU, as a
 * plugin of QEMU's software emulation (TCG). It models one cache over every
 * memory access of the guest, the kernel's included, and counts the lines that
 * are filled from memory and the dirty ones that are written back. A line is
 * filled before something is stored into it, also if all of it is overwritten
 * then. Real CPUs do without that fill for some instructions, so it counts how
 * many such fills there were.
 * Accesses to devices and the fetching of instructions are left out.
 *
 *     make
 *     qemu-system-x86_64 -accel tcg ... \
 *         -plugin ./memtraffic.so,cmd=/tmp/m/cmd,out=/tmp/m/out,kib=2048
 *
 * cmd is a file that does not exist; its folder does. A word that is moved
 * there (written elsewhere, then renamed) is a command: "on" starts counting,
 * "off", which is how it begins, stops it, and any other text does neither.
 * The file is removed then, and one line appended to the file out, in decimal:
 *
 *     fills overwritten write-backs instructions accesses text
 *
 * These are sums over the time of counting so far. Wait for the line before
 * the next command. Fills and write-backs are lines of 64 bytes. Overwritten
 * are those of the fills whose line was then overwritten as a whole, before
 * something was loaded from it. kib is the size of the cache in KiB.
 *
 * Instructions count by translated blocks: the rest of a block that an
 * exception leaves counts too. Several CPUs are refused, because how they
 * interleave is a matter of chance: no two figures could be compared.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/*
 * What is used of QEMU's plugin API, version 4, since Debian ships no header.
 * Source: include/qemu/qemu-plugin.h of QEMU 10.0.
 */
#define QEMU_PLUGIN_EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
typedef uint32_t qemu_plugin_meminfo_t;

struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_plugin_hwaddr;
struct qemu_plugin_scoreboard;

typedef struct {
	struct qemu_plugin_scoreboard *score;
	size_t offset;
} qemu_plugin_u64;

typedef struct {
	const char *target_name;
	struct {
		int min, cur;
	} version;
	bool system_emulation;
	struct {
		int smp_vcpus, max_vcpus;
	} system;
} qemu_info_t;

enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };
enum qemu_plugin_mem_rw { QEMU_PLUGIN_MEM_R = 1, QEMU_PLUGIN_MEM_W = 2 };
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };

typedef void (*qemu_plugin_vcpu_tb_trans_cb_t)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*qemu_plugin_vcpu_mem_cb_t)(unsigned int, qemu_plugin_meminfo_t, uint64_t, void *);

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, qemu_plugin_vcpu_tb_trans_cb_t);
void qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu(struct qemu_plugin_tb *, enum qemu_plugin_op,
						       qemu_plugin_u64, uint64_t);
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *, qemu_plugin_vcpu_mem_cb_t,
				      enum qemu_plugin_cb_flags, enum qemu_plugin_mem_rw, void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
unsigned int qemu_plugin_mem_size_shift(qemu_plugin_meminfo_t);
struct qemu_plugin_hwaddr *qemu_plugin_get_hwaddr(qemu_plugin_meminfo_t, uint64_t);
bool qemu_plugin_hwaddr_is_io(const struct qemu_plugin_hwaddr *);
uint64_t qemu_plugin_hwaddr_phys_addr(const struct qemu_plugin_hwaddr *);
struct qemu_plugin_scoreboard *qemu_plugin_scoreboard_new(size_t);
uint64_t qemu_plugin_u64_sum(qemu_plugin_u64);

QEMU_PLUGIN_EXPORT int qemu_plugin_version = 4;

/* The cache. */

enum {
	LINE_SHIFT = 6,
	LINE = 1 << LINE_SHIFT,
	PAGE = 4096,
	WAYS = 16,
	HOST_LINE = 64,
};

#define inline_always static inline __attribute__((always_inline))

/*
 * A set has its lines in the order of their last use, the latest first. Each
 * is its number << 1, and 1 if it is dirty: then a set fits into one line of
 * the host's cache. Numbers have 31 bits, so addresses that are 128 GiB apart
 * count as the same. EMPTY is the last of these lines, clean.
 */
struct set {
	_Alignas(HOST_LINE) uint32_t line[WAYS];
};
#define EMPTY UINT32_C(0xfffffffe)

static struct {
	struct set *set;
	uint32_t sets;
	uint64_t reciprocal; /* 2^64 / sets, rounded up */
} cache;

/* Written by the CPU's thread alone. */
static struct counters {
	uint64_t fills, overwritten, writebacks, accesses;
} counters;
static bool counting;

/* The thread that reads doesn't tear the number, which costs the writer nothing. */
inline_always void increment(uint64_t *counter)
{
	__atomic_store_n(counter, *counter + 1, __ATOMIC_RELAXED);
}

static unsigned long long read_counter(const uint64_t *counter)
{
	return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

/*
 * Lines that a store has filled, with a bit for each byte that was stored since. As in
 * a CPU only a few are open at once: those whose numbers have other last bits.
 */
enum { OPEN_LINES = 64 };
#define NO_LINE UINT32_MAX
static struct {
	uint32_t number;
	uint64_t stored;
} open_lines[OPEN_LINES];

static void open_lines_new(void)
{
	for (int i = 0; i < OPEN_LINES; i++)
		open_lines[i].number = NO_LINE;
}

/* line_use notes that the bytes of a mask were used. */
inline_always void line_use(uint32_t number, uint64_t mask, bool store, bool filled)
{
	__typeof__(open_lines[0]) *line = &open_lines[number % OPEN_LINES];
	if (store && filled)
		line->number = number, line->stored = 0;
	if (line->number != number)
		return;
	line->stored |= mask;
	bool whole = line->stored == UINT64_MAX;
	if (store && whole)
		increment(&counters.overwritten);
	if (!store || whole)
		line->number = NO_LINE;
}

/*
 * A kibibyte has 16 lines, so there are as many sets as the cache has KiB. The
 * higher bits are folded in, as last-level caches do in their ways, so that
 * strides of powers of two don't hit the same few sets.
 */
static bool cache_new(uint32_t kib)
{
	cache.sets = kib;
	cache.reciprocal = UINT64_MAX / kib + 1;
	cache.set = aligned_alloc(HOST_LINE, kib * sizeof *cache.set);
	if (!cache.set)
		return false;
	for (uint32_t s = 0; s < kib; s++)
		for (int way = 0; way < WAYS; way++)
			cache.set[s].line[way] = EMPTY;
	open_lines_new();
	return true;
}

/* The remainder of a division by the number of sets, by two multiplications. */
inline_always uint32_t cache_index(uint32_t number)
{
	uint32_t folded = number ^ number >> 13;
	return (unsigned __int128)(cache.reciprocal * folded) * cache.sets >> 64;
}

/*
 * set_use moves the line to the front, and the others on by one, up to its old place. It
 * returns whether the line was filled.
 */
inline_always bool set_use(struct set *set, uint32_t number, bool store)
{
	uint32_t clean = number << 1, first = set->line[0];
	if ((first & ~UINT32_C(1)) == clean) {
		set->line[0] = first | store;
		return false;
	}
	set->line[0] = clean | store;
	uint32_t moved = first;
	for (int way = 1; way < WAYS; way++) {
		uint32_t next = set->line[way];
		set->line[way] = moved;
		if ((next & ~UINT32_C(1)) == clean) {
			set->line[0] |= next;
			return false;
		}
		moved = next;
	}
	increment(&counters.fills);
	if (moved & 1)
		increment(&counters.writebacks);
	return true;
}

/* cache_use uses so many bytes of one line. */
inline_always void cache_use(uint64_t address, unsigned int length, bool store)
{
	uint32_t number = address >> LINE_SHIFT & UINT32_MAX >> 1;
	bool filled = set_use(&cache.set[cache_index(number)], number, store);
	line_use(number, UINT64_MAX >> (LINE - length) << address % LINE, store, filled);
}

/* What QEMU calls. */

static qemu_plugin_u64 instructions; /* counted while off, too */

/*
 * A callback for each kind of access: what they differ in is known when they
 * are compiled. An access may end in another line, and even in another page,
 * which may be anywhere.
 */
inline_always void on_access(qemu_plugin_meminfo_t info, uint64_t vaddr, bool store)
{
	if (!__atomic_load_n(&counting, __ATOMIC_RELAXED))
		return;
	struct qemu_plugin_hwaddr *place = qemu_plugin_get_hwaddr(info, vaddr);
	if (!place || qemu_plugin_hwaddr_is_io(place))
		return;
	uint64_t address = qemu_plugin_hwaddr_phys_addr(place);
	increment(&counters.accesses);
	unsigned int length = 1u << qemu_plugin_mem_size_shift(info);
	unsigned int beyond = address % LINE + length <= LINE ? 0 : address % LINE + length - LINE;
	cache_use(address, length - beyond, store);

	if (__builtin_expect(!beyond, 1))
		return;
	uint64_t last = address + length - 1;
	if (address % PAGE + length > PAGE) {
		place = qemu_plugin_get_hwaddr(info, vaddr + length - 1);
		if (!place || qemu_plugin_hwaddr_is_io(place))
			return;
		last = qemu_plugin_hwaddr_phys_addr(place);
	}
	cache_use(last - last % LINE, beyond, store);
}

static void on_load(unsigned int cpu, qemu_plugin_meminfo_t info, uint64_t vaddr, void *unused)
{
	(void)cpu, (void)unused;
	on_access(info, vaddr, false);
}

static void on_store(unsigned int cpu, qemu_plugin_meminfo_t info, uint64_t vaddr, void *unused)
{
	(void)cpu, (void)unused;
	on_access(info, vaddr, true);
}

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *block)
{
	(void)id;
	size_t n = qemu_plugin_tb_n_insns(block);
	qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu(block, QEMU_PLUGIN_INLINE_ADD_U64, instructions, n);
	for (size_t i = 0; i < n; i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(block, i);
		qemu_plugin_register_vcpu_mem_cb(insn, on_load, QEMU_PLUGIN_CB_NO_REGS, QEMU_PLUGIN_MEM_R, NULL);
		qemu_plugin_register_vcpu_mem_cb(insn, on_store, QEMU_PLUGIN_CB_NO_REGS, QEMU_PLUGIN_MEM_W, NULL);
	}
}

/* The commands. */

static const char *cmd_path, *out_path;

static void complain(const char *what, const char *which)
{
	fprintf(stderr, "memtraffic: %s %s: %s\n", what, which, strerror(errno));
}

/* switch_counting also returns the number of instructions counted. */
static uint64_t switch_counting(bool on)
{
	static uint64_t counted, since; /* since: when counting was switched on */
	bool was = __atomic_exchange_n(&counting, on, __ATOMIC_SEQ_CST);
	uint64_t now = qemu_plugin_u64_sum(instructions);
	if (was)
		counted += now - since;
	since = now;
	return counted;
}

static void execute(const char *text)
{
	bool on = counting;
	if (!strcmp(text, "on"))
		on = true;
	else if (!strcmp(text, "off"))
		on = false;
	uint64_t executed = switch_counting(on);
	FILE *out = fopen(out_path, "a");
	if (!out) {
		complain("open", out_path);
		return;
	}
	fprintf(out, "%llu %llu %llu %llu %llu %s\n", read_counter(&counters.fills),
		read_counter(&counters.overwritten), read_counter(&counters.writebacks), (unsigned long long)executed, read_counter(&counters.accesses), text);
	bool failed = ferror(out);
	if (fclose(out) || failed)
		complain("write", out_path);
}

/* take_command reads the first line of the file cmd and removes it, if it is there. */
static bool take_command(char *text, int size)
{
	FILE *cmd = fopen(cmd_path, "r");
	if (!cmd) {
		if (errno != ENOENT)
			complain("open", cmd_path);
		return false;
	}
	bool taken = fgets(text, size, cmd);
	fclose(cmd);
	if (!taken)
		return false; /* not written yet */
	if (unlink(cmd_path)) {
		complain("remove", cmd_path);
		return false;
	}
	text[strcspn(text, "\r\n")] = 0;
	return true;
}

static void *wait_for_commands(void *unused)
{
	(void)unused;
	const struct timespec pause = {.tv_nsec = 10 * 1000 * 1000};
	char text[256];
	for (;;) {
		nanosleep(&pause, NULL);
		if (take_command(text, sizeof text))
			execute(text);
	}
	return NULL;
}

/* Installation. */

/* parse_arguments says what is wrong on standard error. */
static bool parse_arguments(int argc, char **argv, uint32_t *kib)
{
	const char *size = NULL;
	cmd_path = out_path = NULL;
	for (int i = 0; i < argc; i++) {
		if (!strncmp(argv[i], "cmd=", 4) && argv[i][4])
			cmd_path = argv[i] + 4;
		else if (!strncmp(argv[i], "out=", 4) && argv[i][4])
			out_path = argv[i] + 4;
		else if (!strncmp(argv[i], "kib=", 4) && argv[i][4])
			size = argv[i] + 4;
		else {
			fprintf(stderr, "memtraffic: unknown or empty argument %s\n", argv[i]);
			return false;
		}
	}
	if (!cmd_path || !out_path || !size) {
		fprintf(stderr, "memtraffic: missing argument %s\n", !cmd_path ? "cmd=PATH" : !out_path ? "out=PATH" : "kib=N");
		return false;
	}
	char *end;
	errno = 0;
	unsigned long n = strtoul(size, &end, 10);
	if (*end || errno || n < 1 || n > 1 << 22 || *size < '0' || *size > '9') {
		fprintf(stderr, "memtraffic: kib=%s is not a number from 1 to %d\n", size, 1 << 22);
		return false;
	}
	*kib = n;
	return true;
}

/* check_paths finds now what would otherwise fail once the machine runs. */
static bool check_paths(void)
{
	FILE *out = fopen(out_path, "a");
	if (!out) {
		complain("open", out_path);
		return false;
	}
	fclose(out);
	char folder[4096] = ".";
	const char *slash = strrchr(cmd_path, '/');
	size_t length = slash ? (size_t)(slash - cmd_path) + 1 : 0;
	if (length >= sizeof folder) {
		errno = ENAMETOOLONG;
		complain("open", cmd_path);
		return false;
	}
	if (slash) {
		memcpy(folder, cmd_path, length);
		folder[length] = 0;
	}
	if (access(folder, R_OK | W_OK | X_OK)) {
		complain("remove files in", folder);
		return false;
	}
	return true;
}

/* The thread gets none of the signals that QEMU waits for in its own. */
static int start_thread(void)
{
	pthread_t thread;
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int error = pthread_create(&thread, NULL, wait_for_commands, NULL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (!error)
		pthread_detach(thread);
	return error;
}

QEMU_PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
	if (!info->system_emulation) {
		fprintf(stderr, "memtraffic: needs a whole machine, not a program of QEMU's user emulation\n");
		return 1;
	}
	if (info->system.max_vcpus != 1) {
		fprintf(stderr, "memtraffic: needs a machine with one CPU, as by -smp 1\n");
		return 1;
	}
	uint32_t kib;
	if (!parse_arguments(argc, argv, &kib) || !check_paths())
		return 1;
	if (!cache_new(kib)) {
		fprintf(stderr, "memtraffic: no memory for a cache of %lu KiB\n", (unsigned long)kib);
		return 1;
	}
	instructions.score = qemu_plugin_scoreboard_new(sizeof(uint64_t));
	qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
	int error = start_thread();
	if (error) {
		fprintf(stderr, "memtraffic: start a thread: %s\n", strerror(error));
		return 1;
	}
	return 0;
}
