/* SPDX-License-Identifier: Apache-2.0 */
/* status.c -- the server's state as it tells it in lines of `name value`: status and check. */
#include "cli.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- lines of `name value` ----------------------------------------------------------------- */

struct pair {
	char *name, *value;
	bool used;
};
struct pairs {
	char *text;
	struct pair *list;
	size_t count;
};

/* Takes the text apart in place, and over. */
static void pairs_init(struct pairs *p, char *text)
{
	size_t lines = 1;
	char *rest = text;

	for (const char *c = text; *c != '\0'; c++) lines += *c == '\n';
	p->text = text;
	p->list = must_alloc(calloc(lines, sizeof(*p->list)));
	p->count = 0;
	while (rest != NULL && *rest != '\0') {
		char *line = strsep(&rest, "\n");
		char *value = line;
		strsep(&value, " ");
		p->list[p->count++] =
			(struct pair){ line, value != NULL ? value : line + strlen(line), false };
	}
}

static void pairs_release(struct pairs *p)
{
	free(p->list);
	granary_free(p->text);
}

static const char *pairs_find(struct pairs *p, const char *name)
{
	for (size_t i = 0; i < p->count; i++) {
		if (strcmp(p->list[i].name, name) != 0) continue;
		p->list[i].used = true;
		return p->list[i].value;
	}
	return NULL;
}

static bool ends_with(const char *text, const char *end)
{
	size_t len = strlen(text), end_len = strlen(end);

	return len >= end_len && strcmp(text + len - end_len, end) == 0;
}

/* Ids are hexadecimal, and made of digits alone by chance: texts for ever. */
static bool is_text(const char *name)
{
	return strcmp(name, "store") == 0 || strcmp(name, "boot") == 0 ||
	       ends_with(name, "version");
}

static void json_pair(struct json *j, const char *name, const char *value)
{
	uint64_t number;
	char *end;
	double real = strtod(value, &end);

	if (!is_text(name) && parse_number(value, &number) == 0)
		json_number(j, name, number);
	else if (!is_text(name) && end != value && *end == '\0')
		json_real(j, name, real);
	else
		json_text(j, name, value);
}

/* A number in the unit that its name ends in. */
static const char *human_value(char buf[TEXT_SHORT], const char *name, const char *value)
{
	uint64_t number;
	char *end;
	double real = strtod(value, &end);

	if (is_text(name) || end == value || *end != '\0') return value;
	if (ends_with(name, "_ns")) return human_seconds(buf, real / 1e9);
	if (ends_with(name, "_s")) return human_seconds(buf, real);
	if (parse_number(value, &number) < 0) return value;
	if (strstr(name, "bytes") != NULL) return human_bytes(buf, number);
	return human_count(buf, number);
}

/* ---- status for people --------------------------------------------------------------------- */

/* One row an operation that was ever asked for: its counters are requests_OP, errors_OP, ... Without `print` only
 * marks them as not for print_groups(). */
static void print_operations(struct pairs *p, bool print)
{
	static const char prefix[] = "requests_";
	struct table t;

	if (print) putchar('\n');
	table_init(&t, 7, 0x7e);
	if (print)
		table_row(&t, (const char *[]){ "operation", "requests", "errors", "entries", "in",
				      "out", "mean" });
	for (size_t i = 0; i < p->count; i++) {
		static const char *const others[] = { "errors", "entries", "bytes_in", "bytes_out",
			"ns" };
		char texts[6][TEXT_SHORT], name[96];
		const char *op = p->list[i].name + sizeof(prefix) - 1, *errors;
		uint64_t numbers[6] = { 0 };
		if (strncmp(p->list[i].name, prefix, sizeof(prefix) - 1) != 0) continue;
		snprintf(name, sizeof(name), "errors_%.64s", op);
		errors = pairs_find(p, name);
		if (errors == NULL || parse_number(p->list[i].value, &numbers[0]) < 0) continue;
		p->list[i].used = true;
		for (unsigned k = 0; k < 5; k++) {
			const char *value;
			snprintf(name, sizeof(name), "%s_%.64s", others[k], op);
			value = pairs_find(p, name);
			if (value == NULL || parse_number(value, &numbers[k + 1]) < 0)
				numbers[k + 1] = 0;
		}
		if (numbers[0] == 0 || !print) continue;
		snprintf(texts[5], TEXT_SHORT, "%.3f ms",
			(double)numbers[5] / (double)numbers[0] / 1e6);
		table_row(&t, (const char *[]){ op, human_count(texts[0], numbers[0]),
				      human_count(texts[1], numbers[1]),
				      human_count(texts[2], numbers[2]),
				      human_bytes(texts[3], numbers[3]),
				      human_bytes(texts[4], numbers[4]), texts[5] });
	}
	table_end(&t);
}

static size_t group_len(const char *name)
{
	return strcspn(name, "_");
}

static bool same_group(const char *a, const char *b)
{
	return group_len(a) == group_len(b) && strncmp(a, b, group_len(a)) == 0;
}

/* How many of those not shown yet begin with the same word. */
static size_t group_size(const struct pairs *p, const char *name)
{
	size_t size = 0;

	for (size_t i = 0; i < p->count; i++)
		size += !p->list[i].used && same_group(p->list[i].name, name);
	return size;
}

static void pair_row(struct table *t, struct pair *pair, size_t skip)
{
	char name[128], buf[TEXT_SHORT];

	snprintf(name, sizeof(name), "  %.120s", pair->name + skip);
	table_row(t, (const char *[]){ name, human_value(buf, pair->name, pair->value) });
	pair->used = true;
}

/* First what stands alone, then group by group. */
static void print_groups(struct pairs *p)
{
	struct table t;

	table_init(&t, 2, 0);
	table_row(&t, (const char *[]){ "server", "" });
	for (size_t i = 0; i < p->count; i++)
		if (!p->list[i].used && group_size(p, p->list[i].name) == 1)
			pair_row(&t, &p->list[i], 0);
	for (size_t i = 0; i < p->count; i++) {
		char group[64];
		size_t len = group_len(p->list[i].name);
		if (p->list[i].used) continue;
		snprintf(group, sizeof(group), "%.*s", (int)len, p->list[i].name);
		table_row(&t, (const char *[]){ group, "" });
		for (size_t k = i; k < p->count; k++)
			if (!p->list[k].used && same_group(p->list[k].name, p->list[i].name))
				pair_row(
					&t, &p->list[k], p->list[k].name[len] == '_' ? len + 1 : 0);
	}
	table_end(&t);
}

int run_status(int count, char **args)
{
	struct pairs p;
	char *text = NULL;
	struct remote r;
	struct json j;
	int err, code = remote_open(&r, count > 0 ? args[0] : NULL, NEED_NOTHING, 1);

	if (code != CLI_OK) return code;
	if (opts.slow) {
		code = show_slow(&r);
		remote_close(&r);
		return code;
	}
	err = granary_status(r.client, &text, NULL);
	if (err < 0) {
		code = fail_remote(r.client, err, "cannot ask the server for its status");
		remote_close(&r);
		return code;
	}
	pairs_init(&p, text);
	if (opts.json) {
		json_open(&j, stdout);
		for (size_t i = 0; i < p.count; i++) json_pair(&j, p.list[i].name, p.list[i].value);
		json_close(&j);
	} else {
		print_operations(&p, false);
		print_groups(&p);
		print_operations(&p, true);
	}
	pairs_release(&p);
	remote_close(&r);
	return CLI_OK;
}

/* ---- check --------------------------------------------------------------------------------- */

enum { CHECK_POLL_MS = 200 };

struct check_state {
	char state[16];
	uint64_t packs, packs_total, records, bytes, rows, problems;
};

/* Asks how far the check is. Problems are printed when `print` is set. */
static int check_ask(struct remote *r, struct check_state *c, bool print)
{
	char *text;
	struct pairs p;
	struct {
		const char *name;
		uint64_t *at;
	} fields[] = { { "packs", &c->packs }, { "packs_total", &c->packs_total },
		{ "records", &c->records }, { "bytes", &c->bytes }, { "rows", &c->rows },
		{ "problems", &c->problems } };
	struct json j;
	int err = granary_task(r->client, "check-status", NULL, &text, NULL);

	if (err < 0) return err;
	pairs_init(&p, text);
	for (size_t n = 0; n < p.count; n++) {
		const char *name = p.list[n].name, *value = p.list[n].value;
		if (strcmp(name, "state") == 0) snprintf(c->state, sizeof(c->state), "%s", value);
		for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
			if (strcmp(name, fields[i].name) == 0 &&
				parse_number(value, fields[i].at) < 0)
				*fields[i].at = 0;
		if (!print || strcmp(name, "problem") != 0) continue;
		if (opts.json) {
			json_open(&j, stdout);
			json_text(&j, "problem", value);
			json_close(&j);
		} else {
			printf("problem: %s\n", shown(value));
		}
	}
	pairs_release(&p);
	return 0;
}

static bool check_runs(const struct check_state *c)
{
	return strcmp(c->state, "running") == 0 || strcmp(c->state, "waiting") == 0;
}

/* Starts a check unless one runs already, and waits for its end. */
static int check_wait(struct remote *r, struct check_state *c, struct progress *p)
{
	char *text = NULL;
	int err = check_ask(r, c, false);

	if (err == 0 && !check_runs(c)) {
		err = granary_task(r->client, "check", NULL, &text, NULL);
		granary_free(text);
		if (err == 0) err = check_ask(r, c, false);
	} else if (err == 0) {
		note("a check is running already; waiting for it");
	}
	while (err == 0 && check_runs(c)) {
		struct timespec pause = { .tv_nsec = CHECK_POLL_MS * 1000000l };
		nanosleep(&pause, NULL);
		err = check_ask(r, c, false);
		atomic_store(&p->files, c->packs);
		atomic_store(&p->files_total, c->packs_total);
		atomic_store(&p->bytes, c->bytes);
	}
	return err;
}

int run_check(int count, char **args)
{
	char packs[TEXT_SHORT], records[TEXT_SHORT], bytes[TEXT_SHORT], time[TEXT_SHORT];
	struct check_state c = { .state = "" };
	struct progress p;
	struct remote r;
	struct json j;
	int err, code = remote_open(&r, count > 0 ? args[0] : NULL, NEED_NOTHING, 1);

	if (code != CLI_OK) return code;
	progress_start(&p, "checking packs");
	err = check_wait(&r, &c, &p);
	progress_stop(&p);
	if (err == 0) err = check_ask(&r, &c, true);
	if (err < 0) code = fail_remote(r.client, err, "cannot check the store");
	remote_close(&r);
	if (err < 0) return code;
	if (opts.json) {
		json_open(&j, stdout);
		json_number(&j, "packs", c.packs);
		json_number(&j, "records", c.records);
		json_number(&j, "bytes", c.bytes);
		json_number(&j, "rows", c.rows);
		json_number(&j, "problems", c.problems);
		json_close(&j);
	} else {
		printf("checked %s packs, %s records, %s in %s: %" PRIu64 " problems\n",
			human_count(packs, c.packs), human_count(records, c.records),
			human_bytes(bytes, c.bytes), human_seconds(time, progress_seconds(&p)),
			c.problems);
	}
	return c.problems > 0 || strcmp(c.state, "done") != 0 ? CLI_FAILED : CLI_OK;
}
