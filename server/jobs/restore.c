/* SPDX-License-Identifier: Apache-2.0 */
/* restore.c -- see restore.h. */
#include "jobs/restore.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"
#include "common/error.h"
#include "common/log.h"
#include "jobs/backup_priv.h"

enum { PIECE_SIZE = 1024 * 1024, BATCH_BYTES = 4 * 1024 * 1024 };

static void tell(const struct restore *r, const char *what, uint64_t done, uint64_t total)
{
	if (r->progress != NULL) r->progress(r->progress_arg, what, done, total);
}

/* ---- the checkpoint ---- */

struct copy {
	struct restore *r;
	uint8_t *piece;
	uint64_t done, total;
};

static int copy_bytes(struct copy *c, struct fs_file *from, struct fs_file *to, const struct backup_file *f)
{
	uint32_t crc = 0;
	uint64_t at = 0;

	for (int err = 0; at < f->size;) {
		int64_t got = fs_read(from, c->piece, PIECE_SIZE, at);
		if (got <= 0) return got < 0 ? (int)got : -GRANARY_ECORRUPT;
		crc = crc32c(crc, c->piece, (size_t)got);
		err = fs_write(to, c->piece, (size_t)got, at);
		if (err < 0) return err;
		at += (uint64_t)got;
		c->done += (uint64_t)got;
		tell(c->r, "metadata", c->done, c->total);
	}
	return at == f->size && crc == f->crc ? fs_sync(to) : -GRANARY_ECORRUPT;
}

static int copy_file(struct copy *c, const struct backup_file *f)
{
	char path[BACKUP_PATH_MAX + BACKUP_NAME_MAX];
	struct fs_file *from = NULL, *to = NULL;
	int err;

	snprintf(path, sizeof(path), BACKUP_FILES "/%s", f->stored);
	err = fs_open(c->r->from, path, FS_READ, &from);
	if (err == -GRANARY_ENOTFOUND) err = -GRANARY_ECORRUPT; /* of the checkpoint */
	if (err == 0 && fs_size(from) != (int64_t)f->size) err = -GRANARY_ECORRUPT;
	snprintf(path, sizeof(path), "%s/%s", c->r->dir, f->name);
	if (err == 0) err = fs_open(c->r->to, path, FS_CREATE_NEW, &to);
	if (err == 0) err = copy_bytes(c, from, to, f);
	fs_close(&from);
	fs_close(&to);
	if (err == -GRANARY_ECORRUPT)
		log_warn("a file of the backup is missing or damaged; checkpoint=%" PRIu64 " file=%s", c->r->number,
			f->stored);
	return err;
}

static int copy_all(struct restore *r, const struct backup_manifest *m)
{
	struct copy c = { .r = r, .piece = malloc(PIECE_SIZE) };
	int err = c.piece ? fs_remove_folder(r->to, r->dir) : -GRANARY_ENOMEM;

	if (err == 0) err = fs_mkdir(r->to, r->dir);
	for (uint32_t i = 0; i < m->count; i++) c.total += m->files[i].size;
	for (uint32_t i = 0; err == 0 && i < m->count; i++) err = copy_file(&c, &m->files[i]);
	if (err == 0) err = fs_sync_dir(r->to, r->dir);
	r->bytes = c.total;
	free(c.piece);
	return err;
}

static int take_checkpoint(struct restore *r, uint64_t number)
{
	struct backup_manifest m;
	int err = backup_manifest_read(r->from, number, &m);

	if (err == -GRANARY_EBADFORMAT) err = -GRANARY_ECORRUPT;
	if (err < 0) return err;
	r->number = number;
	r->made_s = m.made_s;
	if (strcmp(m.engine, r->simulated ? "memory" : "rocksdb") != 0) {
		snprintf(r->why, sizeof(r->why), "the metadata in the backup is of engine '%s', which is not this one",
			m.engine);
		err = -GRANARY_EVERSION;
	}
	if (err == 0) err = copy_all(r, &m);
	backup_manifest_release(&m);
	return err;
}

/* The newest that is whole; one that was asked for, or none. */
static int take_any(struct restore *r, const struct backup_numbers *n)
{
	int err = -GRANARY_ENOTFOUND;

	for (uint32_t i = n->count; i-- > 0;) {
		if (r->checkpoint != 0 && n->at[i] != r->checkpoint) continue;
		err = take_checkpoint(r, n->at[i]);
		if (err != -GRANARY_ECORRUPT || r->checkpoint != 0) break;
		log_warn("a checkpoint of the backup is damaged, an older one is tried; number=%" PRIu64, n->at[i]);
		r->skipped++;
	}
	if (err < 0 && r->why[0] == '\0')
		snprintf(r->why, sizeof(r->why), "%s has no %s: %s", fs_root(r->from),
			r->checkpoint ? "such checkpoint" : "checkpoint that is whole", error_text(err));
	return err;
}

/* ---- the log ---- */

/* Rows of several records, committed together. */
struct replay {
	struct restore *r;
	struct kv *kv;
	struct kv_txn *txn;
	uint64_t at, txn_bytes; /* position reached, with what the transaction has */
	uint64_t done, total;
	bool is_first, is_over; /* is_over: a gap: nothing after this */
};

static int replay_flush(struct replay *p)
{
	int err = p->txn_bytes > 0 ? kv_submit_wait(p->kv, p->txn) : 0;

	kv_txn_free(&p->txn);
	p->txn = kv_txn_new(p->kv);
	p->txn_bytes = 0;
	return err < 0 ? err : p->txn ? 0 : -GRANARY_ENOMEM;
}

static void gap(struct replay *p, const char *what, uint64_t number)
{
	p->is_over = p->r->has_gap = true;
	snprintf(p->r->why, sizeof(p->r->why), "%s; log=%" PRIu64 " position=%" PRIu64, what, number, p->at);
}

static int record_apply(struct replay *p, const struct backup_record *rec, uint64_t number)
{
	struct cur c = cur_of(rec->ops.p, rec->ops.len);
	struct backup_op op;

	if (rec->after <= p->at) return 0; /* the checkpoint has it */
	if (rec->before != p->at) {
		gap(p, "records are missing in the log", number);
		return 0;
	}
	while (backup_op_next(&c, &op)) {
		if (op.is_delete)
			kv_delete(p->txn, op.key);
		else
			kv_put(p->txn, op.key, op.value);
		p->r->log_rows++;
	}
	if (!cur_ok(&c)) return -GRANARY_ECORRUPT; /* its checksum was right: who wrote it was wrong */
	p->at = rec->after;
	p->r->log_records++;
	p->txn_bytes += rec->ops.len + 1;
	return p->txn_bytes >= BATCH_BYTES ? replay_flush(p) : 0;
}

struct window { /* of a log file: bytes from `at` on, `len` of them here; read up to `from` of these */
	struct fs_file *file;
	uint8_t *buf;
	size_t from, len, cap;
	uint64_t at;
	bool is_end;
};

/* More of the file: at least `need` bytes behind what was read, if it has them. */
static int window_fill(struct window *w, size_t need)
{
	size_t cap = need > PIECE_SIZE ? need : (size_t)PIECE_SIZE;
	int64_t got;

	if (w->len > w->from) memmove(w->buf, w->buf + w->from, w->len - w->from);
	w->len -= w->from;
	w->at += w->from;
	w->from = 0;
	if (cap > w->cap) {
		uint8_t *buf = realloc(w->buf, cap);
		if (buf == NULL) return -GRANARY_ENOMEM;
		w->buf = buf;
		w->cap = cap;
	}
	got = fs_read(w->file, w->buf + w->len, w->cap - w->len, w->at + w->len);
	if (got < 0) return (int)got;
	w->is_end = w->len + (size_t)got < w->cap;
	w->len += (size_t)got;
	return 0;
}

/* To the next 4 KiB line, where a write may begin: 1; 0 at the end of the file. */
static int window_skip(struct window *w)
{
	size_t skip = BACKUP_LOG_LINE - (size_t)((w->at + w->from) % BACKUP_LOG_LINE);
	int err = w->len - w->from < skip && !w->is_end ? window_fill(w, skip) : 0;

	if (err < 0) return err;
	if (w->len - w->from < skip) return 0;
	w->from += skip;
	return 1;
}

/* All whole records that follow each other in the window; *need: as backup_record_decode's, of what does not. */
static int window_apply(struct replay *p, struct window *w, uint64_t number, size_t *need)
{
	struct backup_record rec;
	size_t size;
	int err = 0;

	for (*need = 0; err == 0 && !p->is_over; w->from += size) {
		size = backup_record_decode(w->buf + w->from, w->len - w->from, &rec, need);
		if (size == 0) break;
		err = record_apply(p, &rec, number);
	}
	return err;
}

/* Behind what is no record the next line is tried: there another write may begin. Positions tell whether something is
 * missing in between. */
static int log_apply(struct replay *p, struct window *w, const struct backup_log_header *h)
{
	size_t need;
	int res;

	if (p->is_first ? h->start > p->at : h->start != p->at) {
		gap(p, "the log goes on at another position than it ended", h->number);
		return 0;
	}
	p->is_first = false;
	for (res = window_skip(w); res == 1 && !p->is_over;) {
		res = window_apply(p, w, h->number, &need);
		tell(p->r, "log", p->done + w->at + w->from, p->total);
		if (res < 0 || p->is_over) break;
		if (need > 0 && !w->is_end)
			res = window_fill(w, need) < 0 ? -GRANARY_EIO : 1;
		else
			res = window_skip(w);
	}
	return res < 0 ? res : 0;
}

static int log_take(struct replay *p, uint64_t number)
{
	struct backup_log_header h;
	struct window w = { .len = 0 };
	char path[BACKUP_PATH_MAX];
	int err;

	backup_path(path, BACKUP_LOGS, number);
	err = fs_open(p->r->from, path, FS_READ, &w.file);
	if (err == 0) err = window_fill(&w, PIECE_SIZE);
	if (err == 0) err = backup_log_header_decode(w.buf, w.len, &h);
	if (err == 0 && (h.number != number || memcmp(h.store_id, p->r->store_id, sizeof(h.store_id)) != 0))
		err = -GRANARY_EBADFORMAT;
	if (err == 0)
		err = log_apply(p, &w, &h);
	else if (err == -GRANARY_EBADFORMAT || err == -GRANARY_ECORRUPT)
		err = 0; /* it was being begun: the next one tells */
	p->done += w.at + w.len;
	fs_close(&w.file);
	free(w.buf);
	return err;
}

static uint64_t log_sizes(struct restore *r, const struct backup_numbers *n)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < n->count; i++) {
		char path[BACKUP_PATH_MAX];
		struct fs_file *f = NULL;
		backup_path(path, BACKUP_LOGS, n->at[i]);
		if (n->at[i] >= r->number && fs_open(r->from, path, FS_READ, &f) == 0 && fs_size(f) > 0)
			sum += (uint64_t)fs_size(f);
		fs_close(&f);
	}
	return sum;
}

static int replay(struct restore *r, struct kv *kv)
{
	struct replay p = { .r = r, .kv = kv, .txn = kv_txn_new(kv), .at = kv_position(kv), .is_first = true };
	struct backup_numbers n;
	int err = backup_numbers_read(r->from, BACKUP_LOGS, &n);

	p.total = err == 0 ? log_sizes(r, &n) : 0;
	if (p.txn == NULL) err = -GRANARY_ENOMEM;
	for (uint32_t i = 0; err == 0 && i < n.count && r->checkpoint == 0 && !p.is_over; i++)
		if (n.at[i] >= r->number) err = log_take(&p, n.at[i]);
	if (err == 0) err = replay_flush(&p);
	kv_txn_free(&p.txn);
	r->position = p.at;
	backup_numbers_release(&n);
	if (err < 0) snprintf(r->why, sizeof(r->why), "cannot apply the log of the backup: %s", error_text(err));
	return err;
}

/* ---- all ---- */

/* The highest incarnation that a manifest or a log names, also of those that are not taken: no id is used twice. */
static int incarnations_read(struct restore *r, const struct backup_numbers *manifests)
{
	struct backup_numbers logs;
	int err = backup_numbers_read(r->from, BACKUP_LOGS, &logs);

	for (uint32_t i = 0; err == 0 && i < logs.count; i++) {
		uint8_t head[BACKUP_LOG_HEADER_SIZE];
		struct backup_log_header h;
		struct fs_file *f = NULL;
		char path[BACKUP_PATH_MAX];
		backup_path(path, BACKUP_LOGS, logs.at[i]);
		if (fs_open(r->from, path, FS_READ, &f) == 0 &&
			fs_read(f, head, sizeof(head), 0) == (int64_t)sizeof(head) &&
			backup_log_header_decode(head, sizeof(head), &h) == 0 && h.incarnation > r->incarnation)
			r->incarnation = h.incarnation;
		fs_close(&f);
	}
	backup_numbers_release(&logs);
	for (uint32_t i = 0; err == 0 && i < manifests->count; i++) {
		struct backup_manifest m;
		if (backup_manifest_read(r->from, manifests->at[i], &m) == 0 && m.incarnation > r->incarnation)
			r->incarnation = m.incarnation;
		backup_manifest_release(&m);
	}
	return err;
}

void restore_write_failed(void *arg, const char *what)
{
	(void)arg;
	log_warn("metadata that is being made cannot be written; step='%s'", what);
}

static int open_made(struct restore *r, struct kv **out)
{
	struct kv_options o = { .must_exist = true, .fatal = restore_write_failed };
	int err = r->simulated ? kv_open_mem(r->to, r->dir, &o, out) : kv_open_rocks(r->to, r->dir, &o, out);

	if (err < 0)
		snprintf(r->why, sizeof(r->why), "cannot open the checkpoint that was copied: %s; number=%" PRIu64,
			error_text(err), r->number);
	return err;
}

int restore_metadata(struct restore *r, struct kv **out)
{
	struct backup_numbers n = { .count = 0 };
	int err = backup_title_read(r->from, r->store_id);

	*out = NULL;
	r->why[0] = '\0';
	if (err == 1)
		err = backup_numbers_read(r->from, BACKUP_MANIFESTS, &n);
	else if (err == 0)
		err = -GRANARY_ENOTFOUND;
	if (err < 0) {
		snprintf(r->why, sizeof(r->why), "%s holds no backup: " BACKUP_TITLE ": %s", fs_root(r->from),
			error_text(err));
		return err;
	}
	err = incarnations_read(r, &n);
	if (err == 0) err = take_any(r, &n);
	backup_numbers_release(&n);
	if (err == 0) err = open_made(r, out);
	if (err == 0) err = replay(r, *out);
	if (err < 0) {
		kv_close(out);
		(void)fs_remove_folder(r->to, r->dir);
		if (r->why[0] == '\0') snprintf(r->why, sizeof(r->why), "cannot read the backup: %s", error_text(err));
	}
	return err;
}
