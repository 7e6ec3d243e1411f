/* SPDX-License-Identifier: Apache-2.0 */
/* backup_dir.c -- what stands in a backup directory (FORMAT 9.1): the title, numbered files, manifests. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/id.h"
#include "jobs/backup_priv.h"

enum { TITLE_MAX = 4096 };

void backup_path(char out[BACKUP_PATH_MAX], const char *prefix, uint64_t number)
{
	snprintf(out, BACKUP_PATH_MAX, "%s%016" PRIx64, prefix, number);
}

/* ---- numbered files ---- */

struct numbering {
	const char *prefix;
	struct backup_numbers *out;
};

static int number_one(void *arg, const char *name)
{
	const struct numbering *n = arg;
	size_t len = strlen(n->prefix);
	struct backup_numbers *out = n->out;
	char *end;

	if (strncmp(name, n->prefix, len) != 0 || strlen(name + len) != 16 ||
		strspn(name + len, "0123456789abcdef") != 16)
		return 0;
	if (out->count == out->cap) {
		uint32_t cap = out->cap ? 2 * out->cap : 64;
		uint64_t *at = realloc(out->at, cap * sizeof(*at));
		if (at == NULL) return -GRANARY_ENOMEM;
		out->at = at;
		out->cap = cap;
	}
	out->at[out->count++] = strtoull(name + len, &end, 16);
	return 0;
}

int backup_numbers_read(struct fs *fs, const char *prefix, struct backup_numbers *out)
{
	struct numbering n = { prefix, out };
	int err;

	*out = (struct backup_numbers){ .count = 0 };
	err = fs_list(fs, "", number_one, &n);
	if (err < 0) backup_numbers_release(out);
	if (out->count > 1) qsort(out->at, out->count, sizeof(*out->at), u64_compare);
	return err;
}

void backup_numbers_release(struct backup_numbers *n)
{
	free(n->at);
	*n = (struct backup_numbers){ .count = 0 };
}

/* ---- manifests ---- */

int backup_manifest_read(struct fs *fs, uint64_t number, struct backup_manifest *out)
{
	char path[BACKUP_PATH_MAX];
	struct fs_file *f = NULL;
	uint8_t *text = NULL;
	int64_t len;
	int err;

	*out = (struct backup_manifest){ .count = 0 };
	backup_path(path, BACKUP_MANIFESTS, number);
	err = fs_open(fs, path, FS_READ, &f);
	if (err < 0) return err;
	len = fs_size(f);
	if (len > BACKUP_MANIFEST_MAX) len = -GRANARY_ETOOBIG;
	if (len >= 0) text = malloc((size_t)len + 1);
	if (len >= 0) len = text ? fs_read(f, text, (size_t)len, 0) : -GRANARY_ENOMEM;
	fs_close(&f);
	err = len < 0 ? (int)len : backup_manifest_decode(slice_of(text, (size_t)len), out);
	free(text);
	if (err == 0 && out->number != number) {
		backup_manifest_release(out);
		err = -GRANARY_EBADFORMAT;
	}
	return err;
}

/* ---- title ---- */

#define TITLE_FORMAT "format=1\nstore="

int backup_title_read(struct fs *fs, uint8_t store_id[16])
{
	char text[TITLE_MAX];
	size_t len = 0, head = strlen(TITLE_FORMAT);
	int err = fs_get_file(fs, BACKUP_TITLE, text, sizeof(text) - 1, &len);

	if (err < 0) return err == -GRANARY_ENOTFOUND ? 0 : err;
	text[len] = '\0';
	if (len < head + 33 || strncmp(text, "format=", 7) != 0) return -GRANARY_EBADFORMAT;
	if (strncmp(text, TITLE_FORMAT, head) != 0) return -GRANARY_EVERSION;
	for (size_t i = 0; i < 16; i++) {
		char hex[3] = { text[head + 2 * i], text[head + 2 * i + 1], '\0' }, *end;
		store_id[i] = (uint8_t)strtoul(hex, &end, 16);
		if (*end != '\0') return -GRANARY_EBADFORMAT;
	}
	return 1;
}

int backup_title_write(struct fs *fs, const uint8_t store_id[16])
{
	char text[sizeof(TITLE_FORMAT) + 40];
	int n = snprintf(text, sizeof(text), TITLE_FORMAT);

	for (size_t i = 0; i < 16; i++) n += snprintf(text + n, sizeof(text) - (size_t)n, "%02x", store_id[i]);
	text[n++] = '\n';
	return fs_put_file(fs, BACKUP_TITLE, text, (size_t)n);
}
