/* SPDX-License-Identifier: Apache-2.0 */
/* store_status.c -- the STATUS answer: lines "name value" (docs/OPERATING.md). Names are stable. */
#include "req/store.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "common/clock.h"
#include "common/crc32c.h"
#include "io/fs.h"
#include "io/reactor.h"
#include "jobs/backup.h"
#include "jobs/backup_away.h"
#include "jobs/jobs.h"
#include "meta/ids.h"
#include "meta/kv.h"
#include "meta/loc.h"
#include "pack/cache.h"
#include "pack/reader.h"
#include "pack/share.h"
#include "req/drive.h"
#include "req/tier.h"
#include "req/kind.h"
#include "req/locks.h"
#include "tier/governor.h"
#include "tier/packs.h"

struct text {
	char *buf;
	size_t cap, len;
};

static void line(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void line(struct text *t, const char *fmt, ...)
{
	va_list args;
	int n;

	va_start(args, fmt);
	n = vsnprintf(t->buf + t->len, t->cap - t->len, fmt, args);
	va_end(args);
	if (n > 0 && (size_t)n + 1 < t->cap - t->len) {
		t->len += (size_t)n;
		t->buf[t->len++] = '\n';
	}
	t->buf[t->len] = '\0';
}

static void number(struct text *t, const char *name, uint64_t v)
{
	line(t, "%s %" PRIu64, name, v);
}
static void seconds(struct text *t, const char *name, uint64_t ns)
{
	line(t, "%s %" PRIu64 ".%06" PRIu64, name, ns / UINT64_C(1000000000),
		ns % UINT64_C(1000000000) / 1000);
}

static uint64_t load(const uint64_t *counter)
{
	return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

static void status_process(struct text *t, struct store *store)
{
	struct rusage u = { 0 };
	char id[33];

	for (size_t i = 0; i < sizeof(store->store_id); i++)
		snprintf(id + 2 * i, 3, "%02x", store->store_id[i]);
	getrusage(RUSAGE_SELF, &u);
	line(t, "version %s", GRANARY_VERSION_STRING);
	line(t, "store %s", id);
	line(t, "boot %016" PRIx64, store->boot_id);
	number(t, "incarnation", store->incarnation);
	number(t, "store_time_ns", store_clock_now(store->clock));
	seconds(t, "uptime_s", clock_mono_ns() - store->started_ns);
	line(t, "cpu_user_s %lld.%06ld", (long long)u.ru_utime.tv_sec, (long)u.ru_utime.tv_usec);
	line(t, "cpu_system_s %lld.%06ld", (long long)u.ru_stime.tv_sec, (long)u.ru_stime.tv_usec);
	line(t, "io_engine %s", io_engine_name(io_engine_of(store->locals[0].io)));
	line(t, "crc32c %s", crc32c_engine());
	number(t, "reactors", store->reactor_count);
	for (uint32_t i = 0; i < store->reactor_count; i++) {
		char name[64];

		snprintf(name, sizeof(name), "cpu_reactor_%" PRIu32 "_s", i);
		seconds(t, name, reactor_cpu_ns(store->reactors[i]));
	}
}

/* "VmRSS:     123 kB" in bytes. */
static uint64_t proc_bytes(const char *text, const char *name)
{
	const char *at = strstr(text, name);

	return at != NULL ? strtoull(at + strlen(name), NULL, 10) * 1024 : 0;
}

static void proc_status(char *buf, size_t cap)
{
	struct fs *proc = NULL;
	struct fs_file *file = NULL;
	int64_t len = 0;

	if (fs_new_kernel("/proc/self", &proc) == 0 && fs_open(proc, "status", FS_READ, &file) == 0)
		len = fs_read(file, buf, cap - 1, 0);
	buf[len > 0 ? len : 0] = '\0';
	if (file != NULL) fs_close(&file);
	if (proc != NULL) fs_free(&proc);
}

static void status_memory(struct text *t, const struct store *store)
{
	const struct store_options *o = &store->options;
	char proc[8192];

	proc_status(proc, sizeof(proc));
	number(t, "memory_rss_bytes", proc_bytes(proc, "VmRSS:"));
	number(t, "memory_peak_bytes", proc_bytes(proc, "VmHWM:"));
	number(t, "memory_hugetlb_bytes", proc_bytes(proc, "HugetlbPages:"));
	number(t, "budget_cache_bytes", o->cache_budget);
	number(t, "budget_transient_bytes", o->transient_budget - o->transient_budget / 3);
	number(t, "budget_locations_bytes", o->loc_budget);
	number(t, "budget_kv_block_cache_bytes", o->kv_block_cache);
	number(t, "budget_kv_write_buffer_bytes", o->kv_write_buffer);
	number(t, "budget_unstable_bytes", o->unstable_budget);
	number(t, "budget_staging_bytes", o->staging_budget);
	number(t, "budget_requests_bytes", o->request_budget);
	number(t, "requests_bytes",
		atomic_load_explicit(&store->request_bytes, memory_order_relaxed));
}

static uint64_t sum(const struct store *store, size_t offset)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < store->reactor_count; i++)
		n += load((const uint64_t *)(const void *)((const char *)store->locals[i].stats +
							   offset));
	return n;
}
#define SUM(store, field) sum(store, offsetof(struct req_stats, field))
#define SUM_OP(store, field, op) \
	sum(store, offsetof(struct req_stats, field) + (op) * sizeof(uint64_t))

static void status_requests(struct text *t, struct store *store)
{
	struct opens_stats opens;
	struct locks_stats locks;

	for (uint8_t op = 0; op < REQ_OPS; op++) {
		const struct req_kind *kind = req_kind_of(op);

		if (kind == NULL) continue;
		line(t, "requests_%s %" PRIu64, kind->name, SUM_OP(store, requests, op));
		line(t, "errors_%s %" PRIu64, kind->name, SUM_OP(store, errors, op));
		line(t, "entries_%s %" PRIu64, kind->name, SUM_OP(store, entries, op));
		line(t, "bytes_in_%s %" PRIu64, kind->name, SUM_OP(store, bytes_in, op));
		line(t, "bytes_out_%s %" PRIu64, kind->name, SUM_OP(store, bytes_out, op));
		line(t, "ns_%s %" PRIu64, kind->name, SUM_OP(store, ns_total, op));
	}
	number(t, "corrupt_reported", SUM(store, corrupt_reported));
	number(t, "descriptors_passed", SUM(store, descriptors_passed));
	number(t, "corrupt_repaired", SUM(store, corrupt_repaired));
	number(t, "retries_answered", SUM(store, retries_answered));
	number(t, "connections", SUM(store, connections));
	number(t, "connections_total", SUM(store, connections_total));
	number(t, "auth_failures", SUM(store, auth_failures));
	number(t, "sessions", sessions_count(store->sessions));
	opens_get_stats(store->opens, &opens);
	number(t, "opens", opens.opens);
	number(t, "orphans", opens.orphans + opens.dead);
	locks_get_stats(store->locks, &locks);
	number(t, "locks", locks.held);
	number(t, "locks_waiting", locks.waiting);
	number(t, "draining", atomic_load_explicit(&store->draining, memory_order_relaxed));
}

static void status_cache(struct text *t, struct store *store)
{
	struct cache_stats c = { 0 };
	struct loc_stats l = { 0 };

	cache_get_stats(store->cache, &c);
	number(t, "cache_hits", c.hits);
	number(t, "cache_misses", c.misses);
	number(t, "cache_hit_bytes", c.hit_bytes);
	number(t, "cache_miss_bytes", c.miss_bytes);
	number(t, "cache_payload_bytes", c.payload_bytes);
	number(t, "cache_segments", c.segments);
	number(t, "cache_replaced", c.replaced);
	number(t, "cache_units", c.units);
	loc_get_stats(store->loc, &l);
	number(t, "locations_name_hits", l.name_hits);
	number(t, "locations_name_misses", l.name_misses);
	number(t, "locations_id_hits", l.id_hits);
	number(t, "locations_id_misses", l.id_misses);
	number(t, "locations_path_hits", l.path_hits);
	number(t, "locations_path_misses", l.path_misses);
	number(t, "locations_bytes", l.bytes);
	number(t, "locations_entries", l.entries);
}

static void status_kv(struct text *t, struct store *store)
{
	struct kv_stats k = { 0 };

	kv_get_stats(store->kv, &k);
	number(t, "kv_groups", k.groups);
	number(t, "kv_transactions", k.txns);
	number(t, "kv_conflicts", k.conflicts);
	number(t, "kv_puts", k.puts);
	number(t, "kv_deletes", k.deletes);
	number(t, "kv_pre_reads", k.pre_reads);
	number(t, "kv_unstable", k.unstable);
	number(t, "kv_pending", k.pending);
	number(t, "kv_pending_bytes", k.pending_bytes);
	number(t, "kv_flushes", k.flushes);
	number(t, "kv_losses", k.losses);
	seconds(t, "kv_sync_s", k.sync_ns);
	seconds(t, "cpu_committer_s", k.committer_cpu_ns);
}

static void status_packs(struct text *t, struct store *store)
{
	struct packs_stats p = { 0 };
	struct reader_stats all = { 0 };

	packs_get_stats(store->packs, &p);
	number(t, "packs", p.packs);
	number(t, "packs_open", p.open_packs);
	number(t, "packs_sealed", p.sealed);
	number(t, "packs_broken", p.broken);
	number(t, "packs_dying", p.dying);
	number(t, "packs_files_open", p.files_open);
	number(t, "space_total_bytes", p.space_total);
	number(t, "space_available_bytes", p.space_available);
	number(t, "space_reserve_bytes", store->options.disk_reserve);
	number(t, "ballast_released",
		atomic_load_explicit(&store->ballast_gone, memory_order_relaxed));
	for (uint32_t i = 0; i < store->reactor_count; i++) {
		struct reader_stats one = { 0 };

		reader_get_stats(store->locals[i].reader, &one);
		all.reads += one.reads;
		all.merged += one.merged;
		all.bytes_read += one.bytes_read;
		all.bytes_wanted += one.bytes_wanted;
	}
	number(t, "disk_reads", all.reads);
	number(t, "disk_reads_merged", all.merged);
	number(t, "disk_bytes_read", all.bytes_read);
	number(t, "disk_bytes_wanted", all.bytes_wanted);
}

static void status_shares(struct text *t, struct store *store)
{
	struct shares_stats s;

	shares_get_stats(store->shares, &s);
	number(t, "shares_made", s.made);
	number(t, "shares_taken_bytes", s.taken_bytes);
	number(t, "shares_dropped", s.dropped);
	number(t, "shares_alone", s.alone);
	number(t, "shares_used_bytes", s.used);
	number(t, "budget_shares_bytes", s.size);
}

static void status_io(struct text *t, struct store *store)
{
	struct io_stats all = { 0 };

	for (uint32_t i = 0; i < store->reactor_count; i++) {
		struct io_stats one = { 0 };

		io_get_stats(store->locals[i].io, &one);
		all.writes += one.writes;
		all.write_bytes += one.write_bytes;
		all.flushes += one.flushes;
		all.sends += one.sends;
		all.send_bytes += one.send_bytes;
		all.recvs += one.recvs;
		all.resumes += one.resumes;
		all.errors += one.errors;
	}
	number(t, "io_writes", all.writes);
	number(t, "io_write_bytes", all.write_bytes);
	number(t, "io_flushes", all.flushes);
	number(t, "io_sends", all.sends);
	number(t, "io_send_bytes", all.send_bytes);
	number(t, "io_recvs", all.recvs);
	number(t, "io_resumes", all.resumes);
	number(t, "io_errors", all.errors);
}

static void status_governor(struct text *t, struct store *store)
{
	struct governor_info g;

	governor_get_info(store->governor, &g);
	number(t, "moves_share_percent", g.share_percent);
	number(t, "moves_busy_p99_us", g.busy_p99_ns / 1000);
	number(t, "moves_calm_p99_us", g.calm_p99_ns / 1000);
}

static void status_jobs(struct text *t, struct store *store)
{
	struct jobs_stats j = { 0 };

	if (store->jobs == NULL) return;
	jobs_get_stats(store->jobs, &j);
	number(t, "jobs_passes", j.passes);
	number(t, "jobs_sealed", j.sealed);
	number(t, "jobs_compacted", j.compacted);
	number(t, "jobs_moved_records", j.moved_records);
	number(t, "jobs_moved_bytes", j.moved_bytes);
	number(t, "jobs_merged_extents", j.merged_extents);
	number(t, "jobs_merged_bytes", j.merged_bytes);
	number(t, "jobs_sorted", j.sorted);
	number(t, "jobs_removed_packs", j.removed_packs);
	number(t, "jobs_aborted", j.aborted);
	number(t, "check_running", j.check_running);
	number(t, "check_bytes", j.scrubbed_bytes);
	number(t, "check_problems", j.problems);
}

size_t store_status(struct store *store, char *buf, size_t cap)
{
	struct text t = { buf, cap, 0 };

	if (cap == 0) return 0;
	buf[0] = '\0';
	status_process(&t, store);
	status_memory(&t, store);
	status_requests(&t, store);
	status_cache(&t, store);
	status_kv(&t, store);
	status_packs(&t, store);
	t.len += drive_status(store, t.buf + t.len, t.cap - t.len);
	t.len += tier_status(store, t.buf + t.len, t.cap - t.len);
	status_shares(&t, store);
	status_io(&t, store);
	status_jobs(&t, store);
	status_governor(&t, store);
	if (store->backup != NULL) t.len += backup_status(store->backup, t.buf + t.len, t.cap - t.len);
	if (store->away != NULL) t.len += away_status(store->away, t.buf + t.len, t.cap - t.len);
	return t.len;
}
