/* Tests the cache and the arguments of memtraffic.c, with a machine that is played here. */
#include "memtraffic.c"

/* The machine: pages are mapped in reverse, one of them is a device. */
enum { PAGES = 1024, DEVICE = 7 };
static struct qemu_plugin_hwaddr {
	uint64_t address;
	bool device;
} place;

struct qemu_plugin_hwaddr *qemu_plugin_get_hwaddr(qemu_plugin_meminfo_t info, uint64_t vaddr)
{
	(void)info;
	place.device = vaddr / PAGE == DEVICE;
	place.address = (PAGES - 1 - vaddr / PAGE) * PAGE + vaddr % PAGE;
	return &place;
}
bool qemu_plugin_hwaddr_is_io(const struct qemu_plugin_hwaddr *p) { return p->device; }
uint64_t qemu_plugin_hwaddr_phys_addr(const struct qemu_plugin_hwaddr *p) { return p->address; }
unsigned int qemu_plugin_mem_size_shift(qemu_plugin_meminfo_t info) { return info; }

/* A block has the address of its number of instructions, and what it registers runs at once. */
static uint64_t played, registered;
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block) { return *(const size_t *)block; }
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *block, size_t i)
{
	(void)block, (void)i;
	return NULL;
}
void qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu(struct qemu_plugin_tb *block, enum qemu_plugin_op op,
						       qemu_plugin_u64 counter, uint64_t n)
{
	(void)block, (void)op, (void)counter;
	played += n;
}
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *insn, qemu_plugin_vcpu_mem_cb_t callback,
				      enum qemu_plugin_cb_flags flags, enum qemu_plugin_mem_rw rw, void *data)
{
	(void)insn, (void)callback, (void)flags, (void)rw, (void)data;
	registered++;
}
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id, qemu_plugin_vcpu_tb_trans_cb_t callback)
{
	(void)id, (void)callback;
}
struct qemu_plugin_scoreboard *qemu_plugin_scoreboard_new(size_t size)
{
	(void)size;
	return NULL;
}
uint64_t qemu_plugin_u64_sum(qemu_plugin_u64 counter)
{
	(void)counter;
	return played;
}

static int failures;
static void expect(const char *what, uint64_t got, uint64_t want)
{
	if (got == want)
		return;
	failures++;
	fprintf(stderr, "FAIL: %s: %llu instead of %llu\n", what, (unsigned long long)got, (unsigned long long)want);
}

static void reset(uint32_t kib)
{
	counters = (struct counters){0};
	counting = true;
	if (!cache_new(kib))
		abort();
}

static void run(uint64_t from, uint64_t bytes, bool store, int shift)
{
	for (uint64_t a = from; a < from + bytes; a += UINT64_C(1) << shift)
		store ? on_store(0, shift, a, NULL) : on_load(0, shift, a, NULL);
}

static void expect_counts(const char *what, uint64_t fills, uint64_t writebacks, uint64_t accesses)
{
	char name[128];
	snprintf(name, sizeof name, "%s: fills", what);
	expect(name, counters.fills, fills);
	snprintf(name, sizeof name, "%s: write-backs", what);
	expect(name, counters.writebacks, writebacks);
	snprintf(name, sizeof name, "%s: accesses", what);
	expect(name, counters.accesses, accesses);
}

static void test_streams(void)
{
	enum { KIB = 64, BYTES = KIB * 1024, LINES = BYTES / LINE };
	uint64_t from = 16 * PAGE;
	reset(KIB);
	run(from, BYTES, false, 3);
	expect_counts("a cache full is read", LINES, 0, BYTES / 8);
	run(from, BYTES, true, 4);
	expect_counts("it is written", LINES, 0, BYTES / 8 + BYTES / 16);
	run(from + BYTES, BYTES, false, 3);
	expect_counts("other memory is read", 2 * LINES, LINES, BYTES / 8 * 2 + BYTES / 16);
	run(from, BYTES, false, 3);
	expect_counts("it is read again", 3 * LINES, LINES, BYTES / 8 * 3 + BYTES / 16);
	counting = false;
	run(0, BYTES, true, 3);
	expect_counts("off", 3 * LINES, LINES, BYTES / 8 * 3 + BYTES / 16);
}

static void test_straddling(void)
{
	reset(64);
	on_load(0, 3, LINE - 4, NULL);
	expect_counts("two lines", 2, 0, 1);
	on_store(0, 3, LINE - 8, NULL);
	on_load(0, 5, LINE - 32, NULL);
	expect_counts("up to the end of a line", 2, 0, 3);
	on_load(0, 3, 22 * PAGE + PAGE - 4, NULL);
	on_load(0, 0, 23 * PAGE, NULL);
	expect_counts("two pages", 4, 0, 5);
	on_load(0, 0, 21 * PAGE, NULL); /* the frame behind that of page 22 */
	expect_counts("no other page", 5, 0, 6);
	on_load(0, 3, DEVICE * PAGE, NULL);
	expect_counts("a device", 5, 0, 6);
}

static void test_overwritten(void)
{
	uint64_t from = 16 * PAGE;
	reset(64);
	run(from, 4 * LINE, true, 4);
	expect("lines overwritten in order", counters.overwritten, 4);
	run(from, 4 * LINE, true, 4);
	expect("lines that were there", counters.overwritten, 4);

	from = 17 * PAGE;
	run(from, LINE - 8, true, 3);
	on_load(0, 3, from + 8, NULL);
	run(from + LINE - 8, 8, true, 3);
	expect("a line that is read before", counters.overwritten, 4);

	from = 18 * PAGE;
	on_load(0, 3, from, NULL);
	run(from, LINE, true, 3);
	expect("a line that a load has filled", counters.overwritten, 4);

	from = 19 * PAGE;
	for (int i = 0; i < LINE / 8; i++)
		for (int line = 0; line < OPEN_LINES; line++)
			on_store(0, 3, from + line * LINE + i * 8, NULL);
	expect("as many as can be open", counters.overwritten, 4 + OPEN_LINES);

	from = 21 * PAGE;
	on_store(0, 5, from + LINE - 16, NULL);
	run(from, LINE - 16, true, 4);
	run(from + LINE + 16, LINE - 16, true, 4);
	expect("two lines that a store straddles", counters.overwritten, 4 + OPEN_LINES + 2);

	from = 22 * PAGE;
	run(from, LINE / 2, true, 3);
	on_store(0, 3, from + OPEN_LINES * LINE, NULL);
	run(from + LINE / 2, LINE / 2, true, 3);
	expect("a line whose place another one takes", counters.overwritten, 4 + OPEN_LINES + 2);
}

/* The same against the plainest of caches: times of last use, for any number of sets. */
static void test_against_model(uint32_t kib)
{
	static struct {
		uint64_t number, used;
		bool dirty;
	} model[64][WAYS];
	memset(model, 0, sizeof model);
	uint64_t fills = 0, writebacks = 0, random = kib, n = 200000;
	reset(kib);
	for (uint64_t now = 1; now <= n; now++) {
		random = random * 6364136223846793005u + 1442695040888963407u;
		uint64_t number = (random >> 33) % (kib * 24);
		bool store = random >> 32 & 1;
		uint64_t vaddr = (PAGES - 1 - number * LINE / PAGE) * PAGE + number * LINE % PAGE;
		if (vaddr / PAGE == DEVICE)
			abort();
		(store ? on_store : on_load)(0, 3, vaddr, NULL);

		uint32_t s = (number ^ number >> 13) % kib;
		int oldest = 0, found = -1;
		for (int way = 0; way < WAYS; way++) {
			if (model[s][way].used && model[s][way].number == number)
				found = way;
			if (model[s][way].used < model[s][oldest].used)
				oldest = way;
		}
		if (found < 0) {
			fills++;
			writebacks += model[s][oldest].dirty;
			found = oldest;
			model[s][found].dirty = false;
		}
		model[s][found].number = number;
		model[s][found].used = now;
		model[s][found].dirty |= store;
	}
	expect_counts("like the model", fills, writebacks, n);
}

static void test_arguments(void)
{
	uint32_t kib;
	char *bad[][4] = {
		{"cmd=/c", "out=/o"},
		{"cmd=/c", "kib=1"},
		{"out=/o", "kib=1"},
		{"cmd=/c", "out=/o", "kib=1", "ways=8"},
		{"cmd=", "out=/o", "kib=1"},
		{"cmd=/c", "out=/o", "kib=0"},
		{"cmd=/c", "out=/o", "kib=-1"},
		{"cmd=/c", "out=/o", "kib=2M"},
		{"cmd=/c", "out=/o", "kib=99999999999999999999"},
	};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		int n = 0;
		while (n < 4 && bad[i][n])
			n++;
		expect("bad arguments", parse_arguments(n, bad[i], &kib), false);
	}
	char *good[] = {"kib=2048", "out=/o", "cmd=/c"};
	expect("good arguments", parse_arguments(3, good, &kib), true);
	expect("kib", kib, 2048);

	out_path = "/dev/null", cmd_path = "/nowhere/cmd";
	expect("no folder for commands", check_paths(), false);
	out_path = "/nowhere/out", cmd_path = "/tmp/cmd";
	expect("no folder for the output", check_paths(), false);
}

static void test_instructions(void)
{
	reset(1);
	switch_counting(false);
	size_t block = 5;
	on_translation(0, (struct qemu_plugin_tb *)&block);
	expect("callbacks of five instructions", registered, 10);
	expect("while off", switch_counting(true), 0);
	on_translation(0, (struct qemu_plugin_tb *)&block);
	expect("while on", switch_counting(true), 5);
	on_translation(0, (struct qemu_plugin_tb *)&block);
	expect("until off", switch_counting(false), 10);
	on_translation(0, (struct qemu_plugin_tb *)&block);
	expect("after off", switch_counting(false), 10);
}

static void test_commands(void)
{
	char folder[] = "/tmp/memtraffic-test.XXXXXX", cmd[64], out[64], line[128] = "", text[256];
	if (!mkdtemp(folder))
		abort();
	snprintf(cmd, sizeof cmd, "%s/cmd", folder);
	snprintf(out, sizeof out, "%s/out", folder);
	cmd_path = cmd, out_path = out;
	reset(1);
	counting = false;
	expect("no command", take_command(text, sizeof text), false);
	FILE *f = fopen(cmd, "w");
	fclose(f);
	expect("a command not written yet", take_command(text, sizeof text), false);
	f = fopen(cmd, "w");
	fputs("on\n", f);
	fclose(f);
	expect("a command", take_command(text, sizeof text), true);
	expect("the same command again", take_command(text, sizeof text), false);
	execute(text);
	expect("on", counting, true);
	run(0, 4 * LINE, true, 3);
	execute("one two");
	execute("off");
	expect("off", counting, false);
	f = fopen(out, "r");
	for (int i = 0; i < 2; i++)
		if (!fgets(line, sizeof line, f))
			abort();
	fclose(f);
	unsigned long long v[5];
	char rest[32] = "";
	sscanf(line, "%llu %llu %llu %llu %llu %31[^\n]", &v[0], &v[1], &v[2], &v[3], &v[4], rest);
	expect("fills in the output", v[0], 4);
	expect("overwritten lines in the output", v[1], 4);
	expect("accesses in the output", v[4], 32);
	expect("the text in the output", strcmp(rest, "one two"), 0);
	unlink(out);
	rmdir(folder);
}

int main(void)
{
	test_streams();
	test_straddling();
	test_overwritten();
	for (uint32_t kib = 1; kib <= 40; kib++)
		test_against_model(kib);
	test_arguments();
	test_instructions();
	test_commands();
	puts(failures ? "FAIL" : "ok");
	return failures > 0;
}
