/* SPDX-License-Identifier: Apache-2.0 */
/* parts.c -- multipart ls, multipart rm: objects that come in parts and are not finished. */
#include "cli.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

enum { PAGE = 1000 };

/* What is kept for an upload: the bytes of its parts. */
static int parts_sum(struct remote *r, uint64_t upload, uint64_t *parts, uint64_t *bytes)
{
	const struct granary_call *call = GRANARY_CALL(.bucket = r->bucket);
	struct granary_part *page;
	uint32_t count, more = 1, after = 0;
	int err = 0;

	*parts = *bytes = 0;
	while (err == 0 && more != 0) {
		err = granary_parts_list(r->client, upload, after, PAGE, &page, &count, &more, call);
		for (uint32_t i = 0; err == 0 && i < count; i++) {
			*bytes += page[i].size;
			after = page[i].number;
		}
		*parts += err == 0 ? count : 0;
		more = count == 0 ? 0 : more;
		granary_free(page);
	}
	return err == -GRANARY_ESTALE ? 0 : err; /* ended meanwhile */
}

static void upload_show(struct remote *r, struct table *table, const struct granary_upload_entry *e, uint64_t parts,
	uint64_t bytes)
{
	char id[TEXT_SHORT], count[TEXT_SHORT], size[TEXT_SHORT], began[TEXT_SHORT];
	uint64_t began_ns = wall_of_store_time(r, e->created_ns);
	struct json j;

	snprintf(id, sizeof(id), "%016" PRIx64, e->upload);
	if (!opts.json) {
		table_row(table, (const char *[]){ id, human_count(count, parts), human_bytes(size, bytes),
					 human_time(began, began_ns), stdout_is_tty() ? shown(e->key) : e->key });
		return;
	}
	json_open(&j, stdout);
	json_text(&j, "key", e->key);
	json_text(&j, "upload", id);
	json_number(&j, "parts", parts);
	json_number(&j, "bytes", bytes);
	json_time(&j, "began", began_ns);
	json_close(&j);
}

int run_multipart_ls(int count, char **args)
{
	char after[GRANARY_KEY_LEN_MAX + 1] = "";
	uint64_t after_upload = 0, parts, bytes;
	uint32_t n = 0, more = 1;
	struct granary_upload_entry *page;
	struct table table;
	struct remote r;
	int err = 0, code = remote_open(&r, args[0], NEED_BUCKET, 1);

	(void)count;
	if (code != CLI_OK) return code;
	table_init(&table, 5, 1u << 1 | 1u << 2);
	while (err == 0 && more != 0) {
		err = granary_uploads_list(r.client, r.path, after[0] != '\0' ? after : NULL, after_upload, PAGE, &page,
			&n, &more, GRANARY_CALL(.bucket = r.bucket));
		for (uint32_t i = 0; err == 0 && i < n; i++) {
			err = parts_sum(&r, page[i].upload, &parts, &bytes);
			if (err == 0) upload_show(&r, &table, &page[i], parts, bytes);
			snprintf(after, sizeof(after), "%s", page[i].key);
			after_upload = page[i].upload;
		}
		more = n == 0 ? 0 : more;
		granary_free(page);
	}
	table_end(&table);
	if (err < 0) code = fail_remote(r.client, err, "cannot list uploads of '%s'", r.bucket);
	remote_close(&r);
	return code;
}

int run_multipart_rm(int count, char **args)
{
	struct remote r;
	int code = remote_open(&r, args[0], NEED_BUCKET, 1);

	for (int i = 1; i < count && code == CLI_OK; i++) {
		char *end;
		uint64_t id;
		int err;

		errno = 0;
		id = strtoull(args[i], &end, 16);
		if (errno != 0 || *end != '\0' || end == args[i]) {
			code = fail(CLI_USAGE, "'%s' is no upload; granary multipart ls shows them", shown(args[i]));
			break;
		}
		err = granary_parts_abort(r.client, id, GRANARY_CALL(.bucket = r.bucket));
		if (err < 0) code = fail_remote(r.client, err, "cannot give up upload %s", args[i]);
	}
	remote_close(&r);
	return code;
}
