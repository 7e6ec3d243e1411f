/* SPDX-License-Identifier: Apache-2.0 */
/* drive.c -- hot directories as an admin sees them: ls, add, drain, cancel; what is affected where one is away.
 * Invariants: (1) an order is committed before it is answered; (2) a drain is begun only where its packs can go
 * somewhere else; (3) a line holds no tab and no newline of a path: such paths are refused. */
#include "req/drive.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/log.h"
#include "jobs/jobs.h"
#include "meta/ns.h"
#include "req/store.h"
#include "tier/drives.h"
#include "tier/packs.h"

enum { NAMES_MAX = 8, NAMES_TEXT_MAX = NAMES_MAX * (BUCKET_LEN_MAX + 1) + 32 };

static const char *const state_names[] = {
	[DRIVE_ACTIVE] = "active", [DRIVE_DRAINING] = "draining", [DRIVE_DRAINED] = "drained"
};
static const char *const health_names[] = {
	[DRIVE_ONLINE] = "online", [DRIVE_READONLY] = "read-only", [DRIVE_OFFLINE] = "offline"
};

struct text {
	char *buf;
	size_t cap, len;
};

__attribute__((format(printf, 2, 3))) static void put(struct text *t, const char *fmt, ...)
{
	va_list args;
	int n;

	va_start(args, fmt);
	n = vsnprintf(t->buf + t->len, t->cap - t->len, fmt, args);
	va_end(args);
	if (n > 0 && (size_t)n < t->cap - t->len) t->len += (size_t)n;
	t->buf[t->len] = '\0';
}

/* ---- whose packs lie there ---- */

static uint64_t bucket_of(struct store *store, uint64_t group)
{
	struct ns_bucket bucket;
	char path[KEY_LEN_MAX + 1];
	uint64_t id = 0;
	size_t len;

	if (ns_bucket_by_id(store->ns, group, &bucket) == 0) return group;
	return ns_dir_path(store->ns, group, &id, path, sizeof(path), &len) == 0 ? id : 0;
}

/* "a,b,c", "+N" at the end for those that have no room. */
static void buckets_text(struct store *store, const struct packs_of_drive *on, char *out, size_t cap)
{
	uint64_t seen[64];
	struct ns_bucket bucket;
	struct text t = { out, cap, 0 };
	uint32_t count = 0;

	out[0] = '\0';
	for (uint32_t i = 0; i < on->groups_count; i++) {
		uint64_t id = bucket_of(store, on->groups[i]);
		uint32_t k = 0;

		while (k < count && seen[k] != id) k++;
		if (k < count) continue;
		seen[count++] = id;
		if (count > NAMES_MAX) continue;
		if (id != 0 && ns_bucket_by_id(store->ns, id, &bucket) == 0)
			put(&t, "%s%s", count > 1 ? "," : "", bucket.name);
		else
			put(&t, "%s(snapshots)", count > 1 ? "," : "");
	}
	if (count > NAMES_MAX) put(&t, ",+%u", count - NAMES_MAX);
}

/* ---- ls, status ---- */

static void put_drain(struct text *t, struct store *store, const struct drive_info *d, const struct packs_of_drive *on)
{
	struct drain_progress p;
	uint64_t ns, eta_s = 0;

	if (d->state != DRIVE_DRAINING || store->jobs == NULL) return;
	jobs_drain_progress(store->jobs, d->id, &p);
	ns = p.began_ns != 0 ? clock_mono_ns() - p.began_ns : 0;
	if (p.bytes > 0) eta_s = (uint64_t)((double)on->bytes * (double)ns / (double)p.bytes / 1e9) + 1;
	put(t, "\tdrain_packs=%" PRIu64 "\tdrain_left=%" PRIu64 "\tdrain_moved_bytes=%" PRIu64 "\tdrain_eta_s=%" PRIu64,
		d->drain_packs, on->packs, p.bytes, eta_s);
	if (p.err < 0 && p.err != -GRANARY_EBUSY) put(t, "\tdrain_waits=%s", error_text(p.err));
}

size_t drive_list(struct store *store, char *buf, size_t cap)
{
	struct text t = { buf, cap, 0 };

	buf[0] = '\0';
	(void)drives_refresh_space(store->drives);
	for (uint32_t i = 0; i < drives_count(store->drives); i++) {
		struct packs_of_drive on;
		struct drive_info d;
		char buckets[NAMES_TEXT_MAX];

		drive_get_info(drives_at(store->drives, i), &d);
		packs_count_drive(store->packs, drives_at(store->drives, i), &on);
		buckets_text(store, &on, buckets, sizeof(buckets));
		put(&t,
			"path=%s\tdrive=%016" PRIx64 "\tstate=%s\thealth=%s\tplaced=%d\tpacks=%" PRIu64
			"\tbytes=%" PRIu64 "\tsize=%" PRIu64 "\ttotal=%" PRIu64 "\tavailable=%" PRIu64
			"\twriting=%u\tbuckets=%s",
			d.path, d.id, state_names[d.state], health_names[d.health],
			drive_may_place(drives_at(store->drives, i)), on.packs, on.bytes, d.size, d.total, d.available,
			d.writing, buckets);
		put_drain(&t, store, &d, &on);
		put(&t, "\twhy=%s\n", d.why);
	}
	return t.len;
}

size_t drive_status(struct store *store, char *buf, size_t cap)
{
	struct text t = { buf, cap, 0 };
	uint64_t away = 0, away_packs = 0, away_bytes = 0, readonly = 0;

	buf[0] = '\0';
	for (uint32_t i = 0; i < drives_count(store->drives); i++) {
		struct packs_of_drive on;
		struct drive_info d;
		char buckets[NAMES_TEXT_MAX];

		drive_get_info(drives_at(store->drives, i), &d);
		if (d.health == DRIVE_ONLINE || d.state == DRIVE_DRAINED) continue;
		packs_count_drive(store->packs, drives_at(store->drives, i), &on);
		buckets_text(store, &on, buckets, sizeof(buckets));
		readonly += d.health == DRIVE_READONLY;
		if (d.health == DRIVE_OFFLINE) {
			away++;
			away_packs += on.packs;
			away_bytes += on.bytes;
		}
		put(&t, "drive_%016" PRIx64 "_away '%s' is %s: %s; packs=%" PRIu64 " bytes=%" PRIu64 " buckets=%s\n",
			d.id, d.path, health_names[d.health], d.why, on.packs, on.bytes, buckets);
	}
	put(&t,
		"drives %u\ndrives_offline %" PRIu64 "\ndrives_readonly %" PRIu64 "\noffline_packs %" PRIu64
		"\noffline_bytes %" PRIu64 "\n",
		drives_count(store->drives), away, readonly, away_packs, away_bytes);
	return t.len;
}

/* ---- orders ---- */

static struct drive *drive_named(struct store *store, const char *path, char *buf, size_t cap)
{
	char bare[DRIVE_PATH_MAX];
	size_t len = strnlen(path, sizeof(bare) - 1);
	struct drive *drive;

	while (len > 1 && path[len - 1] == '/') len--;
	memcpy(bare, path, len);
	bare[len] = '\0';
	drive = drives_by_path(store->drives, bare);
	if (drive == NULL) snprintf(buf, cap, "'%.200s' is no hot directory of this store; see granary drive ls", path);
	return drive;
}

int drive_add(struct store *store, const char *argument, char *buf, size_t cap)
{
	const char *tab = strchr(argument, '\t');
	char path[DRIVE_PATH_MAX + 64];
	struct drive *drive;
	int err;

	snprintf(path, sizeof(path), "%.*s", tab != NULL ? (int)(tab - argument) : (int)strlen(argument), argument);
	if (path[strcspn(path, "\t\n")] != '\0') {
		snprintf(buf, cap, "the path of a hot directory has no tabs and no newlines");
		return -GRANARY_EINVAL;
	}
	err = drives_add(
		store->drives, path, tab != NULL ? strtoull(tab + 1, NULL, 10) : 0, store->ids, &drive, buf, cap);
	if (err < 0) return err;
	(void)drives_refresh_space(store->drives);
	if (drive_health(drive) != DRIVE_ONLINE) {
		struct drive_info info;

		drive_get_info(drive, &info);
		snprintf(
			buf, cap, "'%.200s' was taken in, but it is %s: %s", path, health_names[info.health], info.why);
		return -GRANARY_EOFFLINE;
	}
	snprintf(buf, cap, "drive %016" PRIx64 "\n", drive_id(drive));
	return 0;
}

static bool is_alone(struct store *store, const struct drive *drive)
{
	for (uint32_t i = 0; i < drives_count(store->drives); i++)
		if (drives_at(store->drives, i) != drive && drive_may_place(drives_at(store->drives, i))) return false;
	return true;
}

int drive_drain(struct store *store, const char *path, char *buf, size_t cap)
{
	struct drive *drive = drive_named(store, path, buf, cap);
	struct packs_of_drive on;
	int err;

	if (drive == NULL) return -GRANARY_ENOTFOUND;
	if (drive_state(drive) != DRIVE_ACTIVE) {
		snprintf(buf, cap, "state %s\n", state_names[drive_state(drive)]);
		return 0;
	}
	if (is_alone(store, drive)) {
		snprintf(buf, cap, "no other drive takes new packs; add one first (granary drive add)");
		return -GRANARY_EINVAL;
	}
	packs_count_drive(store->packs, drive, &on);
	err = drive_set_state(drive, DRIVE_DRAINING, on.packs);
	if (err < 0) return err;
	log_info("a drain begins; path='%s' packs=%" PRIu64 " bytes=%" PRIu64, drive_path(drive), on.packs, on.bytes);
	jobs_drain_begin(store->jobs, drive_id(drive));
	jobs_wake(store->jobs);
	snprintf(buf, cap, "state draining\npacks %" PRIu64 "\nbytes %" PRIu64 "\n", on.packs, on.bytes);
	return 0;
}

int drive_cancel(struct store *store, const char *path, char *buf, size_t cap)
{
	struct drive *drive = drive_named(store, path, buf, cap);
	int err = drive != NULL ? 0 : -GRANARY_ENOTFOUND;

	if (err < 0) return err;
	if (drive_state(drive) == DRIVE_DRAINED) {
		snprintf(buf, cap, "'%.200s' is drained already; granary drive add takes it into use again", path);
		return -GRANARY_EINVAL;
	}
	err = drive_state(drive) == DRIVE_DRAINING ? drive_set_state(drive, DRIVE_ACTIVE, 0) : 0;
	if (err == 0) snprintf(buf, cap, "state active\n");
	return err;
}
