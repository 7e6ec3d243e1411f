/* SPDX-License-Identifier: Apache-2.0 */
/* drive_super.c -- the superblock of a hot directory (FORMAT 2.3). */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/id.h"
#include "io/fs.h"
#include "tier/drives_priv.h"
#include "tier/super_text.h"

enum { DRIVE_FORMAT = 1, SUPER_SIZE = 4096 };

int drive_super_parse(const void *text, size_t len, struct drive_super *out)
{
	struct slice s = slice_of(text, len);
	uint64_t format, incarnation;
	uint8_t id[8];

	if (!super_number(super_line(s, "format"), UINT32_MAX, &format)) return -GRANARY_EBADFORMAT;
	if (format != DRIVE_FORMAT) return -GRANARY_EVERSION;
	if (!super_hex(super_line(s, "store"), out->store_id, sizeof(out->store_id)) ||
		!super_hex(super_line(s, "drive"), id, sizeof(id)) ||
		!super_number(super_line(s, "incarnation"), ID_INCARNATION_MAX, &incarnation))
		return -GRANARY_EBADFORMAT;
	out->drive = be64_get(id);
	out->incarnation = (uint32_t)incarnation;
	return out->drive > DRIVE_DATA ? 0 : -GRANARY_EBADFORMAT;
}

int drive_super_read(struct fs *fs, struct drive_super *out)
{
	uint8_t *buf = aligned_alloc(SUPER_SIZE, SUPER_SIZE);
	struct fs_file *file = NULL;
	int64_t n = 0;
	int err = buf != NULL ? fs_open(fs, DRIVE_SUPER, FS_READ | FS_DIRECT, &file) : -GRANARY_ENOMEM;

	if (err == 0) n = fs_read(file, buf, SUPER_SIZE, 0);
	fs_close(&file);
	if (err == 0) err = n < 0 ? (int)n : drive_super_parse(buf, (size_t)n, out);
	free(buf);
	if (err == -GRANARY_ENOTFOUND) return 0;
	return err < 0 ? err : 1;
}

int drive_super_write(struct fs *fs, const struct drive_super *s)
{
	char text[256], hex[33];
	int n;

	for (size_t i = 0; i < sizeof(s->store_id); i++) snprintf(hex + 2 * i, 3, "%02x", s->store_id[i]);
	n = snprintf(text, sizeof(text), "format=%d\nstore=%s\ndrive=%016" PRIx64 "\nincarnation=%" PRIu32 "\n",
		DRIVE_FORMAT, hex, s->drive, s->incarnation);
	return fs_put_file(fs, DRIVE_SUPER, text, (size_t)n);
}

int drive_identify(struct fs *fs, uint8_t store_id[16], uint64_t *id, uint32_t *incarnation)
{
	struct drive_super s = { .drive = 0 };
	int has = drive_super_read(fs, &s);

	if (has != 1) return has;
	memcpy(store_id, s.store_id, sizeof(s.store_id));
	*id = s.drive;
	*incarnation = s.incarnation;
	return 1;
}
