/* SPDX-License-Identifier: Apache-2.0 */
/* admin.c -- buckets, and the server's state: status and check. */
#include "cli.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- buckets ------------------------------------------------------------------------------- */

static int report_bucket(const char *bucket, const char *what)
{
	struct json j;

	if (opts.json) {
		json_open(&j, stdout);
		json_text(&j, "bucket", bucket);
		json_text(&j, "done", what);
		json_close(&j);
	}
	return CLI_OK;
}

/* An address that names a bucket and nothing below it. */
static int open_bucket(struct remote *r, const char *text)
{
	int code = remote_open(r, text, NEED_BUCKET, 1);

	if (code == CLI_OK && strspn(r->path, "/") != strlen(r->path)) {
		code = fail(CLI_USAGE, "'%s' goes below a bucket; write granary://HOST/BUCKET",
			shown(text));
		remote_close(r);
	}
	return code;
}

int run_bucket_create(int count, char **args)
{
	struct remote r;
	int err, code = open_bucket(&r, args[0]);

	(void)count;
	if (code != CLI_OK) return code;
	err = granary_bucket_create(r.client, r.bucket, NULL);
	code = err < 0 ? fail_remote(r.client, err, "cannot make bucket '%s'", r.bucket)
		       : report_bucket(r.bucket, "created");
	remote_close(&r);
	return code;
}

static void bucket_row(struct table *t, const struct granary_bucket_entry *b)
{
	char objects[TEXT_SHORT], bytes[TEXT_SHORT], created[TEXT_SHORT];
	struct json j;

	if (!opts.json) {
		table_row(
			t, (const char *[]){ b->name, human_count(objects, b->objects),
				   human_bytes(bytes, b->bytes), human_time(created, b->created_ns),
				   b->durability == 0 ? "durable" : "relaxed" });
		return;
	}
	json_open(&j, stdout);
	json_text(&j, "bucket", b->name);
	json_number(&j, "objects", b->objects);
	json_number(&j, "bytes", b->bytes);
	json_time(&j, "created", b->created_ns);
	json_number(&j, "quota_bytes", b->quota_bytes);
	json_number(&j, "quota_objects", b->quota_objects);
	json_text(&j, "durability", b->durability == 0 ? "durable" : "relaxed");
	json_close(&j);
}

int run_bucket_ls(int count, char **args)
{
	char after[GRANARY_BUCKET_LEN_MAX + 1] = "";
	struct granary_bucket_page *page;
	struct table t;
	struct remote r;
	bool more = true;
	int err = 0, code = remote_open(&r, count > 0 ? args[0] : NULL, NEED_NOTHING, 1);

	if (code != CLI_OK) return code;
	table_init(&t, 5, 1u << 1 | 1u << 2);
	while (more && err == 0) {
		err = granary_bucket_list(r.client, after[0] != '\0' ? after : NULL, &page, NULL);
		if (err < 0) break;
		for (uint32_t i = 0; i < page->count; i++) {
			if (i == 0 && after[0] == '\0' && !opts.json && stdout_is_tty())
				table_row(&t, (const char *[]){ "BUCKET", "OBJECTS", "SIZE",
						      "CREATED", "WRITES" });
			bucket_row(&t, &page->entries[i]);
		}
		more = page->more != 0 && page->count > 0;
		if (page->count > 0)
			snprintf(after, sizeof(after), "%s", page->entries[page->count - 1].name);
		granary_free(page);
	}
	table_end(&t);
	if (err < 0) code = fail_remote(r.client, err, "cannot list the buckets");
	remote_close(&r);
	return code;
}

int run_bucket_rm(int count, char **args)
{
	struct granary_list_query query = GRANARY_INIT(granary_list_query);
	struct granary_list_page *page = NULL;
	struct remote r;
	int err, code = open_bucket(&r, args[0]);

	(void)count;
	if (code != CLI_OK) return code;
	query.max = 1;
	err = granary_list(r.client, &query, &page, GRANARY_CALL(.bucket = r.bucket));
	if (err < 0)
		code = fail_remote(r.client, err, "cannot remove bucket '%s'", r.bucket);
	else if (page->count > 0)
		code = fail(CLI_FAILED,
			"cannot remove bucket '%s': it is not empty; try granary rm -r %s",
			r.bucket, shown(args[0]));
	else if (opts.dry_run && !opts.json)
		printf("would remove the empty bucket '%s'\n", r.bucket);
	else if (opts.dry_run)
		report_bucket(r.bucket, "would remove");
	else if (!ask("remove bucket '%s'", r.bucket))
		code = CLI_USAGE;
	else if ((err = granary_bucket_remove(r.client, r.bucket, NULL)) < 0)
		code = fail_remote(r.client, err, "cannot remove bucket '%s'", r.bucket);
	else
		report_bucket(r.bucket, "removed");
	granary_free(page);
	remote_close(&r);
	return code;
}

/* ---- lines of `name value` ----------------------------------------------------------------- */

/* Takes the next line apart in place. False at the end. */
static bool next_pair(char **rest, char **name, char **value)
{
	char *line = *rest, *end;

	if (line == NULL || *line == '\0') return false;
	end = strchr(line, '\n');
	*rest = end != NULL ? end + 1 : NULL;
	if (end != NULL) *end = '\0';
	*name = line;
	*value = strchr(line, ' ');
	if (*value == NULL)
		*value = line + strlen(line);
	else
		*(*value)++ = '\0';
	return true;
}

static void json_pair(struct json *j, const char *name, const char *value)
{
	uint64_t number;

	/* Ids and hashes are digits too at times: those keep their form as texts by their names. */
	if (parse_number(value, &number) == 0 && strstr(name, "_id") == NULL &&
		(value[0] != '0' || value[1] == '\0'))
		json_number(j, name, number);
	else
		json_text(j, name, value);
}

/* A number in the unit that the end or a part of its name says. */
static const char *human_value(char buf[TEXT_SHORT], const char *name, const char *value)
{
	size_t len = strlen(name);
	uint64_t number;

	if (parse_number(value, &number) < 0 || strstr(name, "_id") != NULL) return value;
	if (strstr(name, "bytes") != NULL || strstr(name, "rss") != NULL ||
		strstr(name, "memory") != NULL)
		return human_bytes(buf, number);
	if (len > 3 && strcmp(name + len - 3, "_ns") == 0)
		return human_seconds(buf, (double)number / 1e9);
	if (strstr(name, "seconds") != NULL || (len > 2 && strcmp(name + len - 2, "_s") == 0))
		return human_seconds(buf, (double)number);
	return human_count(buf, number);
}

/* The part of a name that its group shares. */
static size_t group_len(const char *name)
{
	return strcspn(name, "_.{");
}

static void print_grouped(char *text)
{
	char *rest = text, *name, *value, last[64] = "";
	struct table t;

	table_init(&t, 2, 0);
	while (next_pair(&rest, &name, &value)) {
		char buf[TEXT_SHORT], group[64];
		snprintf(group, sizeof(group), "%.*s", (int)group_len(name), name);
		if (last[0] != '\0' && strcmp(group, last) != 0)
			table_row(&t, (const char *[]){ "", "" });
		snprintf(last, sizeof(last), "%s", group);
		table_row(&t, (const char *[]){ name, human_value(buf, name, value) });
	}
	table_end(&t);
}

int run_status(int count, char **args)
{
	char *text = NULL, *rest, *name, *value;
	struct remote r;
	struct json j;
	int err, code = remote_open(&r, count > 0 ? args[0] : NULL, NEED_NOTHING, 1);

	if (code != CLI_OK) return code;
	err = granary_status(r.client, &text, NULL);
	if (err < 0) {
		code = fail_remote(r.client, err, "cannot ask the server for its status");
	} else if (opts.json) {
		rest = text;
		json_open(&j, stdout);
		while (next_pair(&rest, &name, &value)) json_pair(&j, name, value);
		json_close(&j);
	} else {
		print_grouped(text);
	}
	granary_free(text);
	remote_close(&r);
	return code;
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
	char *text, *rest, *name, *value;
	struct {
		const char *name;
		uint64_t *at;
	} fields[] = { { "packs", &c->packs }, { "packs_total", &c->packs_total },
		{ "records", &c->records }, { "bytes", &c->bytes }, { "rows", &c->rows },
		{ "problems", &c->problems } };
	struct json j;
	int err = granary_task(r->client, "check-status", NULL, &text, NULL);

	if (err < 0) return err;
	rest = text;
	while (next_pair(&rest, &name, &value)) {
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
	granary_free(text);
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
