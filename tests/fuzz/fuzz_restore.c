/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_restore.c -- a backup whose log says anything, replayed into metadata, and that metadata looked through as a
 * restore does. The backup has the checkpoint of one row; the first byte says whether what follows is the log's bytes
 * as they are, or operations in a small code, whose records are made right. What the rows are then is compared with a
 * plain reading of the same operations. */
#include "fuzz_offline.h"

#include "common/bytes.h"
#include "common/crc32c.h"
#include "jobs/backup_format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { LOG_MAX = 256 * 1024, OPS_MAX = 200, KEY_MAX = 40, TEXT_CAP = 64 };

struct row { /* of the plain reading */
	uint8_t key[KEY_MAX];
	size_t key_len;
	uint8_t value[TEXT_CAP];
	size_t value_len;
	bool is_there;
};

static uint8_t *log_bytes;
static size_t log_len;
static struct row rows[OPS_MAX];
static uint32_t row_count;
static uint64_t first_position; /* of the checkpoint */

static void row_set(struct slice key, struct slice value, bool is_delete)
{
	uint32_t i = 0;

	while (i < row_count && !slice_eq(slice_of(rows[i].key, rows[i].key_len), key)) i++;
	if (i == row_count) row_count++;
	memcpy(rows[i].key, key.p, key.len);
	rows[i].key_len = key.len;
	if (value.len > 0) memcpy(rows[i].value, value.p, value.len);
	rows[i].value_len = value.len;
	rows[i].is_there = !is_delete;
}

/* Keys that rows have: a letter, ids of few values, a short name. */
static struct slice key_take(struct cur *c, uint8_t buf[KEY_MAX])
{
	static const char letters[] = "bdioxcpgyfhMslkuqe";
	uint8_t n = cur_u8(c), len = 1;

	buf[0] = (uint8_t)letters[n % (sizeof(letters) - 1)];
	for (uint8_t ids = n / 64; ids > 0; ids--, len = (uint8_t)(len + 8)) {
		uint8_t id = cur_u8(c);
		be64_put(buf + len, id < 8 ? id : (UINT64_C(1) << 40) | id);
	}
	for (uint8_t left = cur_u8(c) % 8; left > 0; left--) buf[len++] = cur_u8(c);
	return slice_of(buf, len);
}

/* Returns bytes of the record; 0: no room. */
static size_t record_put(struct cur *c, uint64_t before, uint64_t after, uint8_t count)
{
	uint8_t *start = log_bytes + log_len, key_buf[KEY_MAX];
	struct wr w = wr_of(start + BACKUP_RECORD_HEADER_SIZE, LOG_MAX - log_len - BACKUP_RECORD_HEADER_SIZE);
	struct backup_record r = { .before = before, .after = after, .count = count };

	for (uint8_t i = 0; i < count && row_count < OPS_MAX - 1; i++) {
		struct backup_op op = { .key = key_take(c, key_buf) };
		uint8_t how = cur_u8(c);
		op.is_delete = how % 4 == 0;
		if (!op.is_delete) op.value = cur_bytes(c, how % TEXT_CAP);
		if (!cur_ok(c)) break;
		backup_op_encode(&w, &op);
		row_set(op.key, op.value, op.is_delete);
	}
	r.ops = slice_of(w.start, wr_len(&w));
	backup_record_encode(&r, start);
	return backup_record_seal(start);
}

static void log_make(struct cur *c, bool is_raw)
{
	struct backup_log_header h = { .number = 1, .start = 0, .incarnation = 3 };
	uint64_t position = first_position;

	memcpy(h.store_id, store_id, sizeof(store_id));
	memset(log_bytes, 0, LOG_MAX);
	backup_log_header_encode(&h, log_bytes);
	log_len = BACKUP_LOG_LINE;
	if (is_raw) {
		memcpy(log_bytes + log_len, c->p, cur_left(c));
		log_len += cur_left(c);
		return;
	}
	while (cur_left(c) > 4 && log_len < LOG_MAX / 2 && row_count < OPS_MAX - 20) {
		uint8_t how = cur_u8(c);
		log_len += record_put(c, position, position + 1 + how % 5, how % 9);
		position += 1 + how % 5;
		if (how & 0x80) log_len = (log_len + BACKUP_LOG_LINE - 1) / BACKUP_LOG_LINE * BACKUP_LOG_LINE;
	}
}

/* One file of the checkpoint. */
static int file_put(void *arg, const char *name)
{
	static uint8_t bytes[65536];
	struct backup_file f = { .size = 0 };
	char path[200];
	size_t len;

	snprintf(path, sizeof(path), "made/%s", name);
	require(fs_get_file(backup_fs, path, bytes, sizeof(bytes), &len) == 0);
	snprintf(path, sizeof(path), "files/%s", name);
	require(fs_put_file(backup_fs, path, bytes, len) == 0);
	snprintf(f.stored, sizeof(f.stored), "%s", name);
	snprintf(f.name, sizeof(f.name), "%s", name);
	f.size = len;
	f.crc = crc32c(0, bytes, len);
	require(backup_manifest_add(arg, &f) == 0);
	return 0;
}

static void files_put(struct backup_manifest *m)
{
	struct kv_options ko = { .group_max = 8 };
	struct kv_txn *txn;
	struct kv *kv;

	require(fs_mkdir(backup_fs, "seed") == 0 && fs_mkdir(backup_fs, "files") == 0);
	require(kv_open_mem(backup_fs, "seed", &ko, &kv) == 0);
	txn = kv_txn_new(kv);
	kv_put(txn, slice_str("z"), slice_str("a row"));
	require(kv_submit_wait(kv, txn) == 0);
	kv_txn_free(&txn);
	first_position = kv_position(kv);
	require(kv_checkpoint(kv, "made") == 0);
	kv_close(&kv);
	require(fs_list(backup_fs, "made", file_put, m) == 0 && m->count > 0);
}

static void backup_put(struct cur *c, bool is_raw)
{
	struct backup_manifest m = { .number = 1, .made_s = 1, .incarnation = 2, .engine = "memory" };
	char title[80], hex[33];
	size_t len;
	char *text;

	memcpy(m.store_id, store_id, sizeof(store_id));
	for (int i = 0; i < 16; i++) snprintf(hex + 2 * i, 3, "%02x", store_id[i]);
	snprintf(title, sizeof(title), "format=1\nstore=%s\n", hex);
	require(fs_put_file(backup_fs, "granary.backup", title, strlen(title)) == 0);
	files_put(&m);
	log_make(c, is_raw);
	text = backup_manifest_encode(&m, &len);
	backup_manifest_release(&m);
	require(text != NULL && fs_put_file(backup_fs, "checkpoint-0000000000000001", text, len) == 0);
	free(text);
	require(fs_put_file(backup_fs, "log-0000000000000001", log_bytes, log_len) == 0);
}

/* The rows of the plain reading are there, but for those that a restore writes itself. */
static void check_rows(void)
{
	struct kv_options ko = { .must_exist = true };
	struct kv *kv;

	require(kv_open_mem(data_fs, "meta", &ko, &kv) == 0);
	for (uint32_t i = 0; i < row_count; i++) {
		const struct row *r = &rows[i];
		struct kv_value v;
		int err;
		if (r->key[0] == 'M') continue;
		err = kv_get(kv, slice_of(r->key, r->key_len), &v);
		require(err == (r->is_there ? 0 : -GRANARY_ENOTFOUND));
		if (err < 0) continue;
		require(slice_eq(v.v, slice_of(r->value, r->value_len)));
		kv_value_release(&v);
	}
	kv_close(&kv);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct cur c = cur_of(data, size);
	uint8_t how = cur_u8(&c);
	struct offline o = { .simulated = true };
	char why[1024];
	int err;

	if (size < 2 || size > 16384) return 0;
	log_bytes = malloc(LOG_MAX);
	require(log_bytes != NULL);
	row_count = 0;
	world_new();
	backup_put(&c, (how & 1) != 0);
	o.fs = data_fs;
	o.from = backup_fs;
	err = how & 2 ? offline_rebuild(&o, why, sizeof(why)) : offline_restore(&o, why, sizeof(why));
	require(err == 0 || fs_exists(data_fs, "meta") == 0);
	require(err == 0 || why[0] != '\0');
	if (err == 0) check_made(false);
	if (err == 0 && (how & 3) == 0) check_rows();
	world_free();
	free(log_bytes);
	return 0;
}
