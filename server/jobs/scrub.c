/* SPDX-License-Identifier: Apache-2.0 */
/* scrub.c -- `granary check`: every pack read whole, every checksum verified, every row's address judged. Reads only.
 *
 * A damaged record that no row points at is counted but is no problem of anybody's. Lines of the report name
 * bucket, key
 * (or directory id and name), pack and offset. */
#include "jobs/jobs_priv.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/log.h"
#include "common/name.h"
#include "io/fs.h"
#include "pack/check.h"
#include "tier/copy.h"
#include "tier/stores.h"

struct scrub {
	struct jobs *j;
	uint64_t pack_id, records, bytes;
	const char *store; /* of the copy that is read; NULL: the hot one */
	uint64_t damaged;  /* problems of this copy that are somebody's */
};

__attribute__((format(printf, 2, 3))) static void problem_line(
	struct check_state *s, const char *fmt, ...)
{
	va_list ap;
	char line[CHECK_LINE_MAX];
	va_start(ap, fmt);
	vsnprintf(line, sizeof line, fmt, ap);
	va_end(ap);
	log_error("check: %s", line);
	pthread_mutex_lock(&s->lock);
	s->problems++;
	if (s->line_count < CHECK_PROBLEMS_MAX)
		memcpy(s->lines[s->line_count++], line, sizeof line);
	pthread_mutex_unlock(&s->lock);
}

/* "bucket/dir/name" of a place, escaped, as far as it can be told. */
static void place_text(struct jobs *j, const struct ns_place *where, char *out, size_t cap)
{
	char path[KEY_LEN_MAX + 1], dir_text[160], name_text[96];
	struct ns_bucket b = { 0 };
	uint64_t bucket = 0;
	size_t len = 0;
	if (ns_dir_path(j->o.ns, where->dir, &bucket, path, sizeof path, &len) < 0 ||
		ns_bucket_by_id(j->o.ns, bucket, &b) < 0) {
		snprintf(out, cap, "directory %016" PRIx64, where->dir);
		return;
	}
	snprintf(out, cap, "%s/%s%s", b.name,
		name_escape(dir_text, sizeof dir_text, slice_of(path, len)),
		name_escape(name_text, sizeof name_text, where->name));
}

struct owner_text {
	struct jobs *j;
	char *text;
	size_t cap;
};

static int take_owner(void *arg, const struct ns_owner *owner)
{
	struct owner_text *t = arg;
	place_text(t->j, &owner->place, t->text, t->cap);
	return 1;
}

static void on_problem(void *arg, const struct pack_problem *p)
{
	struct scrub *s = arg;
	char what[192] = "unknown record";
	if (p->record.object_id != 0 &&
		p->record.name.len == 0) { /* known from the footer alone: no place to look */
		snprintf(what, sizeof what, "object %016" PRIx64, p->record.object_id);
	} else if (p->record.object_id != 0) {
		struct ns_record who = { .pack = s->pack_id,
			.record = p->offset,
			.object_id = p->record.object_id,
			.dir = p->record.dir_id,
			.version = p->record.version,
			.logical = p->record.logical,
			.generation = p->record.generation,
			.length = p->record.data_len,
			.name = p->record.name };
		struct owner_text owner = { s->j, what, sizeof what };
		/* 0: dead, compaction will drop it; an error: it may be somebody's */
		if (ns_record_owners(s->j->o.ns, &who, take_owner, &owner) == 0) return;
	}
	s->damaged++;
	problem_line(&s->j->check, "%s: %s; pack=%016" PRIx64 " offset=%" PRIu64 "%s%s", what, p->what,
		s->pack_id, p->offset, s->store ? " store=" : "", s->store ? s->store : "");
}

static int on_record(void *arg, uint64_t offset, const struct record *r, const uint8_t *data)
{
	struct scrub *s = arg;
	(void)offset;
	(void)data;
	s->records++;
	s->bytes += r->stored_len;
	return jobs_stopping(s->j) ? -GRANARY_ESHUTDOWN : 0;
}

/* One copy of a pack, whole. */
static void check_file(struct scrub *s, const struct pack_info *info, struct fs_file *file, uint64_t end)
{
	struct pack_walk walk = { .pack_id = info->id,
		.end = end,
		.verify_data = true,
		.each = on_record,
		.problem = on_problem,
		.arg = s };
	const char *store = s->store ? s->store : "hot";
	int err = 0;
	s->damaged = 0;
	if (info->state == PACK_SEALED) { /* the footer also tells missing and exchanged records */
		err = pack_check_sealed(file, &walk);
		if (err < 0 && err != -GRANARY_ESHUTDOWN) {
			s->damaged++;
			problem_line(&s->j->check, "footer: %s; pack=%016" PRIx64 " store=%s", error_text(err),
				info->id,
				store);
		}
	}
	if (info->state != PACK_SEALED || (err < 0 && err != -GRANARY_ESHUTDOWN)) err = pack_walk(file, &walk);
	if (err < 0 && err != -GRANARY_ESHUTDOWN) {
		s->damaged++;
		problem_line(&s->j->check, "cannot read: %s; pack=%016" PRIx64 " store=%s", error_text(err),
			info->id, store);
	}
}

/* Both copies, where there are two; the damaged one is made anew out of the other. */
static void check_copies(struct scrub *s, const struct pack_info *info, struct pack *pack, uint64_t end)
{
	struct copy *cold = copy_of_file(pack_file(pack));
	uint64_t hot_damaged;
	struct fs_file *other;
	/* What lies at a source is looked at by whoever reads it: a check of it would be a copy of all of it. */
	if (copy_is_linked(cold)) return;
	s->store = cold ? place_name(copy_info(cold)->place) : NULL;
	check_file(s, info, pack_file(pack), end);
	hot_damaged = s->damaged;
	if (cold && pack_lost_hot(pack) && s->damaged == 0 && s->j->o.repair)
		s->j->o.repair(s->j->o.repair_arg, info->id, true);
	if (jobs_stopping(s->j)) return;
	if (copy_is_linked(pack_cold(pack))) { /* the source says whose bytes it gives: a copy is made anew of it */
		if (hot_damaged > 0 && s->j->o.repair) s->j->o.repair(s->j->o.repair_arg, info->id, true);
		return;
	}
	if (pack_open_other(pack, &other) < 0) return;
	s->store = place_name(copy_info(pack_cold(pack))->place);
	check_file(s, info, other, end);
	fs_close(&other);
	if (jobs_stopping(s->j) || (hot_damaged > 0) == (s->damaged > 0) || !s->j->o.repair) return;
	s->j->o.repair(s->j->o.repair_arg, info->id, hot_damaged > 0);
}

static void check_one_pack(struct scrub *s, const struct pack_info *info)
{
	struct pack_row row;
	struct pack *pack = packs_ref(s->j->o.packs, info->id);
	if (!pack) return;
	s->pack_id = info->id;
	int err = packs_row(s->j->o.packs, info->id, &row);
	if (err == 0) err = packs_open_file(s->j->o.packs, pack);
	if (err < 0)
		problem_line(&s->j->check, "cannot open: %s; pack=%016" PRIx64, error_text(err),
			info->id);
	else
		check_copies(s, info, pack, row.committed_end);
	packs_unref(s->j->o.packs, pack);
}

static void check_packs(struct scrub *s)
{
	struct pack_info info;
	uint64_t after = 0;
	while (!jobs_stopping(s->j) && packs_list(s->j->o.packs, after, &info, 1) == 1) {
		after = info.id;
		if (info.state == PACK_DYING) continue;
		uint64_t before = s->bytes;
		check_one_pack(s, &info);
		atomic_fetch_add(&s->j->scrubbed_bytes, s->bytes - before);
		pthread_mutex_lock(&s->j->check.lock);
		s->j->check.packs++;
		s->j->check.bytes = s->bytes;
		s->j->check.records = s->records;
		pthread_mutex_unlock(&s->j->check.lock);
	}
}

/* An address must lie in a pack that exists, below its committed end. */
static void check_extent(struct jobs *j, const struct extent *e, uint64_t dir, struct slice name)
{
	struct pack_row row;
	char text[96];
	if (e->flags & EXTENT_HOLE) return;
	int err = packs_row(j->o.packs, e->pack, &row);
	if (err == -GRANARY_ENOTFOUND || (err == 0 && row.state == PACK_DYING))
		problem_line(&j->check,
			"'%s' in directory %016" PRIx64
			" points at a pack that is gone; pack=%016" PRIx64,
			name_escape(text, sizeof text, name), dir, e->pack);
	else if (err == 0 && e->record + e->skip + e->length > row.committed_end)
		problem_line(&j->check,
			"'%s' in directory %016" PRIx64 " points past the end; pack=%016" PRIx64
			" offset=%" PRIu64,
			name_escape(text, sizeof text, name), dir, e->pack, e->record);
}

/* A file's inode; its name is any of its names. */
static void check_inode(struct jobs *j, struct slice key, struct slice value)
{
	struct object o;
	struct slice none = { NULL, 0 };
	if (object_decode(value, &o) < 0 || key.len != 9) {
		problem_line(&j->check, "inode row %016" PRIx64 " is damaged",
			key.len == 9 ? be64_get(key.p + 1) : 0);
		return;
	}
	for (uint32_t i = 0; i < o.extent_count; i++) check_extent(j, &o.extents[i], o.id, none);
}

static void check_extent_row(struct jobs *j, struct slice key, struct slice value)
{
	struct slice none = { NULL, 0 };
	struct extent e;
	if (key.len != 1 + 8 + 4 + 8 || extent_row_decode(value, &e) < 0)
		problem_line(&j->check, "extent row of object %016" PRIx64 " is damaged",
			key.len >= 9 ? be64_get(key.p + 1) : 0);
	else
		check_extent(j, &e, be64_get(key.p + 1), none);
}

static void check_row(struct jobs *j, struct slice key, struct slice value)
{
	uint64_t dir = 0;
	struct slice name = { NULL, 0 };
	bool is_dir = false;
	struct object o;
	char text[96];
	if (!row_entry_parse(key, &dir, &name, &is_dir) || object_decode(value, &o) < 0) {
		problem_line(&j->check, "row of '%s' in directory %016" PRIx64 " is damaged",
			name_escape(text, sizeof text, name), dir);
		return;
	}
	for (uint32_t i = 0; i < o.extent_count; i++) check_extent(j, &o.extents[i], dir, name);
}

static void check_rows(struct jobs *j)
{
	static const struct {
		const char *kind;
		void (*check)(struct jobs *j, struct slice key, struct slice value);
	} kinds[] = { { "d", check_row }, { "i", check_inode }, { "x", check_extent_row } };
	struct kv_snapshot *view = kv_snapshot_new(j->o.kv);
	struct kv_iter *it = kv_iter_new(j->o.kv, view);
	uint64_t rows = 0;
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		for (kv_iter_seek(it, slice_str(kinds[i].kind)); kv_iter_valid(it) && !jobs_stopping(j);
			kv_iter_next(it)) {
			struct slice key = kv_iter_key(it);
			if (key.len == 0 || key.p[0] != (uint8_t)kinds[i].kind[0]) break;
			kinds[i].check(j, key, kv_iter_value(it));
			rows++;
		}
	int err = kv_iter_error(it);
	if (err < 0) problem_line(&j->check, "cannot scan the metadata: %s", error_text(err));
	kv_iter_free(&it);
	kv_snapshot_free(j->o.kv, &view);
	pthread_mutex_lock(&j->check.lock);
	j->check.rows = rows;
	pthread_mutex_unlock(&j->check.lock);
}

void check_run(struct jobs *j)
{
	struct packs_stats stats;
	struct scrub s = { .j = j };
	packs_get_stats(j->o.packs, &stats);
	pthread_mutex_lock(&j->check.lock);
	j->check.requested = false;
	j->check.running = j->check.ever = true;
	j->check.packs = j->check.bytes = j->check.records = j->check.rows = j->check.problems = 0;
	j->check.packs_total = stats.packs;
	j->check.line_count = 0;
	j->check.started_ns = clock_mono_ns();
	pthread_mutex_unlock(&j->check.lock);
	check_packs(&s);
	check_rows(j);
	pthread_mutex_lock(&j->check.lock);
	j->check.running = false;
	j->check.seconds = (clock_mono_ns() - j->check.started_ns) / 1000000000u;
	uint64_t problems = j->check.problems;
	pthread_mutex_unlock(&j->check.lock);
	log_info("check done; packs=%" PRIu64 " records=%" PRIu64 " bytes=%" PRIu64
		 " problems=%" PRIu64,
		stats.packs, s.records, s.bytes, problems);
}

int jobs_check_start(struct jobs *j)
{
	int err = 0;
	pthread_mutex_lock(&j->check.lock);
	if (j->check.running || j->check.requested)
		err = -GRANARY_EBUSY;
	else
		j->check.requested = true;
	pthread_mutex_unlock(&j->check.lock);
	if (err < 0) return err;
	pthread_mutex_lock(&j->lock);
	j->passes_asked++;
	pthread_cond_broadcast(&j->wake);
	pthread_mutex_unlock(&j->lock);
	return 0;
}

int jobs_check_status(struct jobs *j, char *buf, size_t cap)
{
	struct check_state *s = &j->check;
	pthread_mutex_lock(&s->lock);
	uint64_t seconds =
		s->running ? (clock_mono_ns() - s->started_ns) / 1000000000u : s->seconds;
	const char *state = s->running     ? "running"
			    : s->requested ? "waiting"
			    : s->ever      ? "done"
					   : "never";
	int n = snprintf(buf, cap,
		"state %s\npacks %" PRIu64 "\npacks_total %" PRIu64 "\nrecords %" PRIu64
		"\nbytes %" PRIu64 "\nrows %" PRIu64 "\nseconds %" PRIu64 "\nproblems %" PRIu64
		"\n",
		state, s->packs, s->packs_total, s->records, s->bytes, s->rows, seconds,
		s->problems);
	for (uint32_t i = 0; i < s->line_count && n > 0 && (size_t)n < cap; i++)
		n += snprintf(buf + n, cap - (size_t)n, "problem %s\n", s->lines[i]);
	pthread_mutex_unlock(&s->lock);
	return n < 0 ? -GRANARY_EINVAL : 0;
}
