/* SPDX-License-Identifier: Apache-2.0 */
/* write.c -- write, truncate, punch, map: the bytes of an object where it stands. */
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CALL(r) GRANARY_CALL(.bucket = (r)->bucket)

enum { MAP_CHUNK = 1024 };

static int number_arg(const char *what, const char *text, uint64_t *out)
{
	if (parse_size(text, out) == 0) return CLI_OK;
	return fail(CLI_USAGE, "%s: '%s' is no number of bytes; write 4096, 64KiB or 2GiB", what, shown(text));
}

/* Opens, changes, closes. */
static int change_url(const char *url, const struct granary_change *change)
{
	struct remote r;
	int err, code = remote_open(&r, url, NEED_PATH, 1);

	if (code != CLI_OK) return code;
	err = granary_change(r.client, granary_ref_key(r.path), change, 1, NULL, NULL, CALL(&r));
	if (err < 0) code = fail_remote(r.client, err, "cannot change '%s/%s'", r.bucket, shown(r.path));
	remote_close(&r);
	return code;
}

int run_truncate(int count, char **args)
{
	struct granary_change change = { .kind = GRANARY_CHANGE_TRUNCATE };
	int code = number_arg("SIZE", args[1], &change.offset);

	(void)count;
	return code == CLI_OK ? change_url(args[0], &change) : code;
}

int run_punch(int count, char **args)
{
	struct granary_change change = { .kind = GRANARY_CHANGE_PUNCH };
	int code = number_arg("OFFSET", args[1], &change.offset);

	(void)count;
	if (code == CLI_OK) code = number_arg("LENGTH", args[2], &change.length);
	return code == CLI_OK ? change_url(args[0], &change) : code;
}

/* ---- write --------------------------------------------------------------------------------- */

static ssize_t fill_buffer(int fd, uint8_t *buf, size_t cap)
{
	size_t have = 0;

	while (have < cap) {
		ssize_t n = read(fd, buf + have, cap - have);
		if (n < 0) return -1;
		if (n == 0) break;
		have += (size_t)n;
	}
	return (ssize_t)have;
}

static int write_from(struct remote *r, int fd, const char *name, uint64_t offset)
{
	uint8_t *buf = malloc(GRANARY_WRITE_MAX);
	int code = buf != NULL ? CLI_OK : fail(CLI_FAILED, "out of memory");

	while (code == CLI_OK) {
		ssize_t n = fill_buffer(fd, buf, GRANARY_WRITE_MAX);
		int err;
		if (n < 0) code = fail_errno(errno, "cannot read '%s'", shown(name));
		if (n <= 0) break;
		err = granary_write(r->client, granary_ref_key(r->path), offset, buf, (size_t)n, NULL, CALL(r));
		if (err < 0)
			code = fail_remote(r->client, err, "cannot write to '%s/%s' at %" PRIu64, r->bucket,
				shown(r->path), offset);
		offset += (uint64_t)n;
	}
	free(buf);
	return code;
}

int run_write_at(int count, char **args)
{
	const char *name = count > 1 ? args[1] : "-";
	bool is_stdin = strcmp(name, "-") == 0;
	int fd = is_stdin ? STDIN_FILENO : open(name, O_RDONLY | O_CLOEXEC);
	struct remote r;
	int code;

	if (fd < 0) return fail_errno(errno, "cannot open '%s'", shown(name));
	code = remote_open(&r, args[0], NEED_PATH, 1);
	if (code == CLI_OK) {
		code = write_from(&r, fd, name, opts.offset);
		remote_close(&r);
	}
	if (!is_stdin) close(fd);
	return code;
}

/* ---- map ----------------------------------------------------------------------------------- */

static void stretch_print(const struct granary_stretch *s)
{
	struct json j;

	if (!opts.json) {
		printf("%" PRIu64 " %" PRIu64 "\n", s->offset, s->length);
		return;
	}
	json_open(&j, stdout);
	json_number(&j, "offset", s->offset);
	json_number(&j, "length", s->length);
	json_close(&j);
}

int run_map(int count, char **args)
{
	struct granary_stretch found[MAP_CHUNK];
	struct granary_written is = { .version = 0 };
	uint64_t at = 0;
	int more = 1;
	struct remote r;
	int code = remote_open(&r, args[0], NEED_PATH, 1);

	(void)count;
	if (code != CLI_OK) return code;
	while (code == CLI_OK && more) {
		int64_t n = granary_map(r.client, granary_ref_key(r.path), is.version, at, found, MAP_CHUNK, &more, &is,
			CALL(&r));
		if (n < 0) code = fail_remote(r.client, (int)n, "cannot map '%s/%s'", r.bucket, shown(r.path));
		for (int64_t i = 0; i < n; i++) stretch_print(&found[i]);
		if (n > 0) at = found[n - 1].offset + found[n - 1].length;
		more = more && n > 0;
	}
	remote_close(&r);
	return code;
}
