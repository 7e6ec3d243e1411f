/* SPDX-License-Identifier: Apache-2.0 */
/* store_super.c -- superblock, master key and the rows that say whose store this is (FORMAT 2,
 * 6.18, 7.9).
 *
 * Invariants: (1) a directory of another format, or somebody else's, is left as it was found; (2)
 * an incarnation is in the superblock, synced, before anything is named with it. */
#include "req/store_priv.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/id.h"
#include "common/rand.h"
#include "common/tlv.h"
#include "io/fs.h"
#include "meta/kv.h"
#include "meta/rows.h"
#include "tier/super_text.h"

enum { STORE_FORMAT = 1, SUPER_MAX = 4096, MTAG_VALUE = 64, MTAG_FORMAT = 65 };

/* ---- superblock ---- */

static int super_parse(struct fs *fs, struct slice text, struct super *out, char *why, size_t cap)
{
	struct slice format = super_line(text, "format");
	uint64_t version, incarnation, created;

	if (!super_number(format, UINT32_MAX, &version)) {
		snprintf(why, cap,
			"%s/" STORE_SUPER
			" is damaged: it has no line 'format=N'; restore it from a backup",
			fs_root(fs));
		return -GRANARY_EBADFORMAT;
	}
	if (version != STORE_FORMAT) {
		snprintf(why, cap,
			"%s has format %" PRIu64
			", this server reads %d only; start the granaryd that wrote it",
			fs_root(fs), version, STORE_FORMAT);
		return -GRANARY_EVERSION;
	}
	if (!super_hex(super_line(text, "store"), out->store_id, sizeof(out->store_id)) ||
		!super_number(super_line(text, "incarnation"), ID_INCARNATION_MAX, &incarnation) ||
		!super_number(super_line(text, "created"), UINT64_MAX, &created)) {
		snprintf(why, cap,
			"%s/" STORE_SUPER
			" is damaged: store, incarnation or created cannot be read; restore it "
			"from a backup",
			fs_root(fs));
		return -GRANARY_EBADFORMAT;
	}
	out->incarnation = (uint32_t)incarnation;
	out->created_s = created;
	return 1;
}

/* No superblock: all right in a directory that holds nothing of a store. */
static int super_missing(struct fs *fs, char *why, size_t cap)
{
	static const char *const parts[] = { "meta", "packs", STORE_KEY };

	for (size_t i = 0; i < 2; i++) {
		if (fs_exists(fs, parts[i]) == 0) continue;
		snprintf(why, cap,
			"%s holds %s but no " STORE_SUPER
			"; restore that file, or choose another directory",
			fs_root(fs), parts[i]);
		return -GRANARY_EBADFORMAT;
	}
	return 0;
}

int super_read(struct fs *fs, struct super *out, char *why, size_t cap)
{
	char buf[SUPER_MAX];
	size_t len;
	int err = fs_get_file(fs, STORE_SUPER, buf, sizeof(buf), &len);

	memset(out, 0, sizeof(*out));
	if (err == -GRANARY_ENOTFOUND) return super_missing(fs, why, cap);
	if (err < 0) {
		snprintf(why, cap, "cannot read %s/" STORE_SUPER ": %s", fs_root(fs),
			error_text(err));
		return err;
	}
	return super_parse(fs, slice_of(buf, len), out, why, cap);
}

int super_write(struct fs *fs, const struct super *s, char *why, size_t cap)
{
	char text[256], hex[33];
	int n, err;

	for (size_t i = 0; i < sizeof(s->store_id); i++)
		snprintf(hex + 2 * i, 3, "%02x", s->store_id[i]);
	n = snprintf(text, sizeof(text),
		"format=%d\nstore=%s\nincarnation=%" PRIu32 "\ncreated=%" PRIu64 "\n", STORE_FORMAT,
		hex, s->incarnation, s->created_s);
	err = fs_put_file(fs, STORE_SUPER, text, (size_t)n);
	if (err < 0)
		snprintf(why, cap,
			"cannot write %s/" STORE_SUPER
			": %s; the directory must be writable by this user",
			fs_root(fs), error_text(err));
	return err;
}

/* ---- master key ---- */

static int master_key_make(struct fs *fs, uint8_t key[32], char *why, size_t cap)
{
	int err;

	rand_bytes(key, 32);
	err = fs_put_file(fs, STORE_KEY, key, 32);
	if (err < 0)
		snprintf(why, cap, "cannot write %s/" STORE_KEY ": %s", fs_root(fs),
			error_text(err));
	return err;
}

int master_key_read(struct fs *fs, bool may_make, uint8_t key[32], char *why, size_t cap)
{
	uint8_t buf[64];
	size_t len = 0;
	int err = fs_get_file(fs, STORE_KEY, buf, sizeof(buf), &len);

	if (err == -GRANARY_ENOTFOUND && may_make) return master_key_make(fs, key, why, cap);
	if (err == 0 && len != 32) err = -GRANARY_EBADFORMAT;
	if (err < 0)
		snprintf(why, cap,
			"cannot read %s/" STORE_KEY
			": %s; without it no access key can be read: restore it from "
			"a backup",
			fs_root(fs), error_text(err));
	else
		memcpy(key, buf, 32);
	explicit_bzero(buf, sizeof(buf));
	return err;
}

/* ---- rows ---- */

static int row_u64(struct kv *kv, const char *what, uint64_t *out)
{
	uint8_t key[ROW_KEY_MAX];
	struct kv_value value;
	int err = kv_get(kv, row_store(key, what), &value);

	*out = 0;
	if (err < 0) return err == -GRANARY_ENOTFOUND ? 0 : err;
	if (!value_u64(value.v, MTAG_VALUE, 0, out)) err = -GRANARY_ECORRUPT;
	kv_value_release(&value);
	return err;
}

int incarnation_of_rows(struct kv *kv, uint32_t *out)
{
	struct kv_iter *it = kv_iter_new(kv, NULL);
	uint64_t highest;
	int err = row_u64(kv, "incarnation", &highest);

	for (kv_iter_seek(it, slice_str("p")); kv_iter_valid(it); kv_iter_next(it)) {
		struct slice key = kv_iter_key(it);

		if (key.len != 9 || key.p[0] != 'p') break;
		if (id_incarnation(be64_get(key.p + 1)) > highest)
			highest = id_incarnation(be64_get(key.p + 1));
	}
	if (err == 0) err = kv_iter_error(it);
	kv_iter_free(&it);
	*out = (uint32_t)highest;
	return err;
}

static int row_store_check(struct kv *kv, const struct super *s, bool *is_new)
{
	uint8_t key[ROW_KEY_MAX];
	struct kv_value value;
	struct slice id;
	int err = kv_get(kv, row_store(key, "store"), &value);

	*is_new = err == -GRANARY_ENOTFOUND;
	if (err < 0) return *is_new ? 0 : err;
	if (!value_bytes(value.v, MTAG_VALUE, &id) ||
		!slice_eq(id, slice_of(s->store_id, sizeof(s->store_id))))
		err = -GRANARY_EBADFORMAT;
	kv_value_release(&value);
	return err;
}

int rows_identify(struct kv *kv, const struct super *s, char *why, size_t cap)
{
	uint8_t key[ROW_KEY_MAX], buf[128];
	struct kv_txn *txn;
	struct wr w = wr_of(buf, sizeof(buf));
	bool is_new;
	int err = row_store_check(kv, s, &is_new);

	if (err < 0) {
		snprintf(why, cap,
			"meta/ belongs to another store than " STORE_SUPER
			", or cannot be read: %s",
			error_text(err));
		return err;
	}
	txn = kv_txn_new(kv);
	value_begin(&w);
	tlv_put_u64(&w, MTAG_VALUE, s->incarnation);
	kv_put(txn, row_store(key, "incarnation"), slice_of(buf, wr_len(&w)));
	if (is_new) {
		w = wr_of(buf, sizeof(buf));
		value_begin(&w);
		tlv_put(&w, MTAG_VALUE, slice_of(s->store_id, sizeof(s->store_id)));
		tlv_put_u32(&w, MTAG_FORMAT, STORE_FORMAT);
		kv_put(txn, row_store(key, "store"), slice_of(buf, wr_len(&w)));
	}
	assert(wr_ok(&w));
	err = kv_submit_wait(kv, txn);
	kv_txn_free(&txn);
	if (err < 0) snprintf(why, cap, "cannot write the metadata: %s", error_text(err));
	return err;
}
