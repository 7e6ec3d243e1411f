/* SPDX-License-Identifier: Apache-2.0 */
/* bucket.c -- buckets: create, ls, rm. */
#include "cli.h"

#include <stdlib.h>
#include <string.h>

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

static void bucket_row(struct table *t, struct remote *r, const struct granary_bucket_entry *b)
{
	char objects[TEXT_SHORT], bytes[TEXT_SHORT], created[TEXT_SHORT];
	uint64_t created_ns = wall_of_store_time(r, b->created_ns);
	struct json j;

	if (!opts.json) {
		table_row(t, (const char *[]){ b->name, human_count(objects, b->objects),
				     human_bytes(bytes, b->bytes), human_time(created, created_ns),
				     b->durability == 0 ? "durable" : "relaxed" });
		return;
	}
	json_open(&j, stdout);
	json_text(&j, "bucket", b->name);
	json_number(&j, "objects", b->objects);
	json_number(&j, "bytes", b->bytes);
	json_time(&j, "created", created_ns);
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
			bucket_row(&t, &r, &page->entries[i]);
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
	else if ((code = ask("remove bucket '%s'", r.bucket)) != CLI_OK)
		; /* it has said why */
	else if ((err = granary_bucket_remove(r.client, r.bucket, NULL)) < 0)
		code = fail_remote(r.client, err, "cannot remove bucket '%s'", r.bucket);
	else
		report_bucket(r.bucket, "removed");
	granary_free(page);
	remote_close(&r);
	return code;
}
