/* SPDX-License-Identifier: Apache-2.0 */
/* store.c -- opens and closes everything below the front ends, in the order of dependence:
 * superblock (read), lock, location tables, backup, metadata, ids, clock, namespace and keys, packs, cache,
 * workers, reactors, writers, sessions, jobs.
 *
 * Invariants: (1) until the lock is held nothing in the directory is touched; (2) the new
 * incarnation is synced in the superblock, then in row M, before the first id is taken; (3)
 * store_close() takes down what store_open() got to, in the opposite order, so a failed open ends
 * in it. */
#include "req/store.h"

#include <assert.h>
#include <inttypes.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/id.h"
#include "common/log.h"
#include "common/rand.h"
#include "io/fs.h"
#include "io/reactor.h"
#include "jobs/ahead.h"
#include "jobs/backup.h"
#include "jobs/backup_away.h"
#include "jobs/jobs.h"
#include "jobs/link.h"
#include "jobs/move.h"
#include "jobs/policy.h"
#include "jobs/snapshot.h"
#include "meta/ids.h"
#include "meta/kv.h"
#include "meta/loc.h"
#include "meta/ns.h"
#include "pack/cache.h"
#include "pack/linked.h"
#include "pack/reader.h"
#include "pack/share.h"
#include "pack/writer.h"
#include "req/fair.h"
#include "req/lane.h"
#include "req/kind.h"
#include "req/orphans.h"
#include "req/store_priv.h"
#include "req/unstable.h"
#include "req/watch.h"
#include "tier/drives.h"
#include "tier/packs.h"
#include "tier/governor.h"
#include "tier/heat.h"
#include "tier/stores.h"

#define MIB (UINT64_C(1) << 20)
enum { EXIT_FATAL = 70, SIM_TURNS_MAX = 100000, READ_DEPTH = 128 };

void store_options_default(struct store_options *o)
{
	long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE),
	     cpus = sysconf(_SC_NPROCESSORS_ONLN);
	uint64_t memory = pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page : 1024 * MIB;

	memset(o, 0, sizeof(*o));
	o->io.engine = IO_ENGINE_AUTO;
	o->io.depth = 256;
	o->io.threads = 8;
	o->io.recv_bufs = 1024;
	o->reactors = cpus < 1 ? 1 : cpus > REACTORS_MAX ? REACTORS_MAX : (uint32_t)cpus;
	o->worker_threads = 4;
	o->cache_budget = memory / 4;
	o->transient_budget = 192 * MIB; /* these six: 1 GiB less what code and stacks take */
	o->loc_budget = 320 * MIB;
	o->kv_block_cache = 128 * MIB;
	o->kv_write_buffer = 32 * MIB;
	o->staging_budget = 64 * MIB;
	o->unstable_budget = 32 * MIB;
	o->request_budget = 160 * MIB;
	o->pack_size = 256 * MIB;
	o->disk_reserve = 64 * MIB;
	o->ballast = 32 * MIB;
	o->backup_every_ns = UINT64_C(600000000000);
	o->backup_keep = 3;
	o->local_reads = true;
	o->jobs = true;
	o->compact_dead_pct = 30;
	o->upload_expire_ns = UINT64_C(604800000000000);
	o->job_interval_ns = UINT64_C(5000000000);
	o->merge_quiet_ns = UINT64_C(5000000000);
	o->slow_request_ns = UINT64_C(200000000);
	o->lease_ns = WIRE_LEASE_S * UINT64_C(1000000000);
}

/* ---- opening: the data directory ---- */

static void fatal(void *arg, const char *what)
{
	const struct store *store = arg;

	log_error(
		"the metadata cannot be synced, stopping: %s; data='%s'", what, fs_root(store->fs));
	if (store->options.fatal != NULL)
		store->options.fatal(store->options.fatal_arg, what);
	else
		_exit(EXIT_FATAL);
}

static int open_lock(struct store *store, char *why, size_t cap)
{
	int err = fs_lock(store->fs, "lock", &store->lock);

	if (err == -GRANARY_ELOCKED)
		snprintf(why, cap,
			"%s is in use by another granaryd; stop that one or choose another "
			"directory",
			fs_root(store->fs));
	else if (err < 0)
		snprintf(why, cap,
			"cannot lock %s/lock: %s; the directory must be writable by this user",
			fs_root(store->fs), error_text(err));
	return err;
}

/* One turn of everything: returns whether something ran. */
static bool sim_turn(struct store *store)
{
	uint32_t ran = workers_turn(store->workers) + kv_turn(store->kv);

	return ran + reactor_turn(store->reactors[0], false) > 0;
}

/* Under sim, while a reader waits for a flush. */
static void pump(void *arg)
{
	struct store *store = arg;

	if (!sim_turn(store)) reactor_turn(store->reactors[0], true);
}

static int open_backup(struct store *store)
{
	const struct store_options *o = &store->options;
	struct backup_options backup = {
		.fs = store->fs,
		.dir = o->backup_dir,
		.to = o->backup_fs,
		.every_ns = o->backup_every_ns,
		.keep = o->backup_keep,
		.thread = !o->simulated,
	};

	return o->backup_dir != NULL || o->backup_fs != NULL ? backup_new(&backup, &store->backup) : 0;
}

/* must_exist: the store has had metadata before. */
static int open_kv(struct store *store, bool must_exist)
{
	const struct store_options *o = &store->options;
	struct kv_options kv = {
		.block_cache_size = o->kv_block_cache,
		.write_buffer_size = o->kv_write_buffer,
		.group_max = 1024,
		.observer = { ns_observe_begin, ns_observe_end, store->loc },
		.fatal = fatal,
		.fatal_arg = store,
		.nospace = ballast_release,
		.nospace_arg = store,
		.pending_max = o->unstable_budget,
		.flush_records = unstable_flush_records,
		.pending_began = unstable_began,
		.pump = pump,
		.pending_arg = store,
		.must_exist = must_exist,
	};
	int err = open_backup(store);

	if (store->backup != NULL) kv.tap = backup_tap(store->backup);
	if (err == 0)
		err = o->simulated ? kv_open_mem(store->fs, "meta", &kv, &store->kv)
				   : kv_open_rocks(store->fs, "meta", &kv, &store->kv);
	if (err == 0 && store->backup != NULL) backup_attach(store->backup, store->kv, store->store_id);
	return err;
}

static int open_kv_failed(struct store *store, int err, char *why, size_t cap)
{
	const char *root = fs_root(store->fs);

	if (err == -GRANARY_ENOTFOUND)
		snprintf(why, cap, "the metadata of %s is gone (%s/meta); `granary restore BACKUP %s` brings it back",
			root, root, root);
	else
		snprintf(why, cap, "cannot open the metadata in %s/meta: %s", root, error_text(err));
	return err;
}

static int open_drives(struct store *store, char *why, size_t cap)
{
	const struct store_options *o = &store->options;
	struct drives_options drives = {
		.fs = store->fs,
		.kv = store->kv,
		.places = o->hot,
		.place_count = o->hot_count,
		.reserve = o->disk_reserve,
		.open_fs = o->open_fs,
		.open_arg = o->open_fs_arg,
	};

	memcpy(drives.store_id, store->store_id, sizeof(drives.store_id));
	return drives_open(&drives, &store->drives, why, cap);
}

static int open_stores(struct store *store, char *why, size_t cap)
{
	const struct store_options *o = &store->options;
	struct stores_options stores = {
		.fs = store->fs,
		.kv = store->kv,
		.settings = o->stores,
		.settings_count = o->stores_count,
		.env = { o->open_fs, o->open_fs_arg },
		.inline_jobs = o->simulated,
		.spare = 2 * o->disk_reserve,
	};

	memcpy(stores.store_id, store->store_id, sizeof(stores.store_id));
	return stores_open(&stores, &store->stores, why, cap);
}

/* 1 + the highest that rows, superblock or pack names know. */
static int open_incarnation(struct store *store, struct super *super, char *why, size_t cap)
{
	uint32_t rows = 0, names = 0;
	int err = incarnation_of_rows(store->kv, &rows);

	if (err == 0) err = packs_highest_incarnation(store->drives, &names);
	if (err < 0) {
		snprintf(why, cap, "cannot look for the highest incarnation in %s: %s",
			fs_root(store->fs), error_text(err));
		return err;
	}
	if (rows > super->incarnation) super->incarnation = rows;
	if (names > super->incarnation) super->incarnation = names;
	if (super->incarnation >= ID_INCARNATION_MAX) {
		snprintf(why, cap, "%s was started %u times: there are no ids left",
			fs_root(store->fs), super->incarnation);
		return -GRANARY_ETOOBIG;
	}
	super->incarnation++;
	err = super_write(store->fs, super, why, cap);
	if (err == 0) err = rows_identify(store->kv, super, why, cap);
	store->incarnation = super->incarnation;
	return err;
}

static int open_directory(struct store *store, uint8_t master[32], char *why, size_t cap)
{
	struct super super;
	int has_super = super_read(store->fs, &super, why, cap), err;

	if (has_super < 0) return has_super;
	err = open_lock(store, why, cap);
	if (err == 0 && has_super == 0) {
		rand_bytes(super.store_id, sizeof(super.store_id));
		super.created_s = clock_wall_ns() / UINT64_C(1000000000);
	}
	if (err == 0) /* the key first: a superblock says that all of a store's files are there */
		err = master_key_read(store->fs, has_super == 0, master, why, cap);
	if (err == 0 && has_super == 0) err = super_write(store->fs, &super, why, cap);
	if (err < 0) return err;
	memcpy(store->store_id, super.store_id, sizeof(store->store_id));
	store->created_s = super.created_s;
	store->loc = loc_new(store->options.loc_budget);
	err = store->loc != NULL ? open_kv(store, has_super == 1 && super.incarnation > 0) : -GRANARY_ENOMEM;
	if (err < 0) return open_kv_failed(store, err, why, cap);
	err = open_drives(store, why, cap);
	if (err == 0) err = open_stores(store, why, cap);
	return err < 0 ? err : open_incarnation(store, &super, why, cap);
}

/* ---- opening: what works on it ---- */

static int open_namespace(struct store *store, const uint8_t master[32])
{
	struct ns_options ns;
	int err;

	store->ids = ids_new(store->incarnation);
	if (store->ids == NULL) return -GRANARY_ENOMEM;
	err = store_clock_open(store->kv, &store->clock);
	if (err < 0) return err;
	store->opens = opens_new(orphans_are_dead, store);
	if (store->opens == NULL) return -GRANARY_ENOMEM;
	ns = (struct ns_options){ .kv = store->kv, .ids = store->ids, .loc = store->loc, .clock = store->clock,
		.opens = store->opens };
	err = ns_open(&ns, &store->ns);
	return err < 0 ? err : ns_keys_open(store->ns, master);
}

static int open_packs(struct store *store, char *why, size_t cap)
{
	const struct store_options *o = &store->options;
	struct packs_options packs = {
		.fs = store->fs,
		.drives = store->drives,
		.stores = store->stores,
		.kv = store->kv,
		.ids = store->ids,
		.clock = store->clock,
		.pack_size = o->pack_size,
		.reserve = o->disk_reserve,
		.files_max = 4096,
	};
	int err = drives_begin(store->drives, store->ids, why, cap);

	if (err == 0) err = stores_begin(store->stores, store->ids, why, cap);
	if (err == 0) err = heat_open(store->kv, store->clock, &store->heat);
	packs.heat = store->heat;
	if (err == 0) store->linked = linked_new(store->kv, store->stores);
	if (err == 0 && store->linked == NULL) err = -GRANARY_ENOMEM;
	if (err == 0) err = packs_open(&packs, &store->packs);
	if (err < 0) return err;
	store->cache = cache_new(o->cache_budget, o->transient_budget - o->transient_budget / 3);
	store->shares = shares_new(o->transient_budget / 3);
	store->fair = fair_new();
	store->lanes = lanes_new();
	if (store->cache == NULL || store->shares == NULL || store->fair == NULL || store->lanes == NULL)
		return -GRANARY_ENOMEM;
	return 0;
}

struct local_start {
	struct task task;
	struct store_local *local;
	sem_t done;
	int err;
};

static int local_open(struct store_local *local)
{
	struct store *store = local->store;
	struct reader_options reader = {
		.packs = store->packs,
		.cache = store->cache,
		.reactor = local->reactor,
		.workers = store->workers,
		.depth = READ_DEPTH,
	};

	local->io = reactor_io(local->reactor);
	local->reader = reader_new(&reader);
	if (local->reader != NULL) local->shares = shares_local_new(store->shares, local->reader, local->reactor);
	local->fair = fair_local_new(store->fair, local->reactor);
	return local->shares != NULL && local->fair != NULL ? 0 : -GRANARY_ENOMEM;
}

static void local_start_task(struct task *task)
{
	struct local_start *s = container_of(task, struct local_start, task);

	s->err = local_open(s->local);
	sem_post(&s->done);
}

/* Its reader is made on its own thread. */
static int local_start(struct store_local *local)
{
	struct local_start s = { .task = { .fn = local_start_task }, .local = local };

	sem_init(&s.done, 0, 0);
	reactor_post(local->reactor, &s.task);
	while (sem_wait(&s.done) != 0) continue;
	sem_destroy(&s.done);
	return s.err;
}

static int open_reactor(struct store *store, uint32_t i)
{
	struct store_local *local = &store->locals[i];
	int err;

	local->store = store;
	local->stats = aligned_alloc(64, (sizeof(*local->stats) + 63) & ~(size_t)63);
	if (local->stats == NULL) return -GRANARY_ENOMEM;
	memset(local->stats, 0, sizeof(*local->stats));
	err = reactor_new(i, &store->options.io, &local->reactor);
	if (err < 0) return err;
	store->reactors[i] = local->reactor;
	store->reactor_count = i + 1;
	if (store->options.simulated) return local_open(local);
	err = reactor_start(local->reactor);
	return err < 0 ? err : local_start(local);
}

static int open_threads(struct store *store)
{
	const struct store_options *o = &store->options;
	struct writers_options writers;
	uint32_t reactors = o->simulated ? 1 : o->reactors;
	int err;

	store->governor = governor_new();
	store->slow = slow_ring_new();
	store->watches = watches_new(store);
	if (store->slow == NULL || store->watches == NULL || store->governor == NULL) return -GRANARY_ENOMEM;
	slow_ring_set_limit(store->slow, o->slow_request_ns);
	err = workers_new(o->simulated ? 0 : o->worker_threads, &store->workers);
	if (err == 0) cache_ahead(store->cache, store->workers);

	for (uint32_t i = 0; err == 0 && i < reactors; i++) err = open_reactor(store, i);
	if (err < 0) return err;
	writers = (struct writers_options){
		.kv = store->kv,
		.packs = store->packs,
		.reactors = store->reactors,
		.reactor_count = store->reactor_count,
		.workers = store->workers,
		.buffer_budget = o->staging_budget,
		.open_max = 64,
		.idle_seal_ns = UINT64_C(60000000000),
	};
	err = writers_new(&writers, &store->writers);
	if (err == 0) err = replays_open(store, &store->replays);
	if (err == 0) err = orphans_open(store, &store->orphans);
	if (err == 0) err = sessions_open(store, &store->sessions);
	if (err == 0) replays_start(store->replays);
	if (err == 0) orphans_start(store->orphans);
	return err;
}

static void jobs_extra(void *arg)
{
	struct store *store = arg;

	sessions_tick(store->sessions, clock_mono_ns());
	sessions_sweep(store->sessions, clock_mono_ns());
	watches_tick(store->watches, clock_mono_ns());
	orphans_are_dead(store); /* those that could not be removed before */
	snapshots_tick(store->snapshots);
	ballast_refill(store);
	if (store->options.simulated && store->backup != NULL) (void)backup_turn(store->backup);
}

static int open_snapshots(struct store *store)
{
	struct snapshots_options o = {
		.fs = store->fs,
		.kv = store->kv,
		.ids = store->ids,
		.ns = store->ns,
		.packs = store->packs,
		.clock = store->clock,
		.writers = store->writers,
		.workers = store->workers,
		.reactors = store->reactors,
		.simulated = store->options.simulated,
	};

	return snapshots_open(&o, &store->snapshots);
}

int store_repair(struct store *store, uint64_t pack, bool is_hot, const char *origin)
{
	struct move_order order = { .kind = is_hot ? MOVE_REPAIR_HOT : MOVE_REPAIR_COLD, .level = 3 };
	uint64_t task;

	snprintf(order.origin, sizeof(order.origin), "%s", origin);
	return store->moves != NULL ? moves_start(store->moves, &order, &pack, 1, &task) : 0;
}

static void repair(void *arg, uint64_t pack, bool is_hot)
{
	if (store_repair(arg, pack, is_hot, "check") < 0)
		log_warn("cannot order the repair of a pack; pack=%016" PRIx64, pack);
}

static int open_jobs(struct store *store)
{
	const struct store_options *o = &store->options;
	struct jobs_options jobs = {
		.kv = store->kv,
		.ids = store->ids,
		.ns = store->ns,
		.loc = store->loc,
		.packs = store->packs,
		.writers = store->writers,
		.cache = store->cache,
		.clock = store->clock,
		.interval_ns = o->job_interval_ns,
		.compact_dead_pct = (uint32_t)o->compact_dead_pct,
		.drain_rate = o->drain_rate,
		.upload_expire_ns = o->upload_expire_ns,
		.removal_delay_ns = UINT64_C(10000000000),
		.merge_quiet_ns = o->merge_quiet_ns,
		.workers = store->workers,
		.reactors = store->reactors,
		.simulated = o->simulated,
		.thread = o->jobs && !o->simulated,
		.extra = jobs_extra,
		.extra_arg = store,
		.repair = repair,
		.repair_arg = store,
	};

	return jobs_open(&jobs, &store->jobs);
}

static int open_moves(struct store *store)
{
	struct moves_options moves = {
		.kv = store->kv,
		.ids = store->ids,
		.ns = store->ns,
		.linked = store->linked,
		.cache = store->cache,
		.packs = store->packs,
		.stores = store->stores,
		.clock = store->clock,
		.governor = store->governor,
		.removal_delay_ns = UINT64_C(10000000000),
		.timeout_ns = UINT64_C(60000000000),
		.thread = store->options.jobs && !store->options.simulated,
	};

	return moves_open(&moves, &store->moves);
}

static int open_links(struct store *store)
{
	struct links_options links = { .kv = store->kv, .ids = store->ids, .ns = store->ns, .packs = store->packs,
		.stores = store->stores, .clock = store->clock,
			.thread = store->options.jobs && !store->options.simulated };

	return links_open(&links, &store->links);
}

static void until_changed(void *arg, uint32_t percent)
{
	ahead_set_until(((struct store *)arg)->ahead, percent);
}

static int open_ahead(struct store *store)
{
	struct ahead_options ahead = {
		.packs = store->packs,
		.stores = store->stores,
		.moves = store->moves,
		.snapshots = store->snapshots,
		.heat = store->heat,
		.clock = store->clock,
		.thread = store->options.jobs && !store->options.simulated && stores_count(store->stores) > 0,
	};

	return ahead_open(&ahead, &store->ahead);
}

static bool is_needed(void *arg, uint64_t pack)
{
	return ahead_needs(((struct store *)arg)->ahead, pack);
}

static int open_policy(struct store *store)
{
	const struct store_options *o = &store->options;
	struct policy_options policy = {
		.kv = store->kv,
		.ns = store->ns,
		.packs = store->packs,
		.stores = store->stores,
		.heat = store->heat,
		.moves = store->moves,
		.writers = store->writers,
		.jobs = store->jobs,
		.clock = store->clock,
		.interval_ns = o->rules_interval_ns,
		.thread = o->jobs && !o->simulated,
		.needed = is_needed,
		.until_changed = until_changed,
		.arg = store,
		.hot_price = o->hot_price,
	};

	return policy_open(&policy, &store->policy);
}

/* The backup's way into cold stores. */
static int open_away(struct store *store)
{
	const struct store_options *o = &store->options;
	struct away_options away = { .stores = store->stores, .dir = o->backup_dir, .keep = o->backup_keep };

	if (o->backup_dir == NULL && away_is_wanted(o->stores, o->stores_count))
		log_warn("a store has backup: on, but the setting backup names no directory: no backup is made");
	return o->backup_dir != NULL && !o->simulated ? away_open(&away, &store->away) : 0;
}

static int open_services(struct store *store, const uint8_t master[32], char *why, size_t cap)
{
	const char *what = "the namespace";
	int err = open_namespace(store, master);

	why[0] = '\0';

	if (err == 0) {
		what = "the packs";
		err = open_packs(store, why, cap);
	}
	if (err == 0) {
		what = "threads and their rings";
		err = open_threads(store);
	}
	if (err == 0) {
		what = "the snapshots";
		err = open_snapshots(store);
	}
	if (err == 0) {
		what = "background jobs";
		err = open_jobs(store);
	}
	if (err == 0) {
		what = "moves between hot and cold";
		err = open_moves(store);
	}
	if (err == 0) {
		what = "what comes up from cold stores";
		err = open_ahead(store);
	}
	if (err == 0) {
		what = "links to sources";
		err = open_links(store);
	}
	if (err == 0) {
		what = "the rules";
		err = open_policy(store);
	}
	if (err == 0 && store->backup != NULL) {
		what = "the backup";
		err = backup_run(store->backup, store->incarnation, store->clock);
		if (err == 0) err = open_away(store);
	}
	if (err < 0 && why[0] == '\0')
		snprintf(why, cap, "cannot open %s of %s: %s", what, fs_root(store->fs),
			error_text(err));
	return err;
}

int store_open(const struct store_options *options, struct store **out, char *why, size_t why_cap)
{
	struct store *store = calloc(1, sizeof(*store));
	uint8_t master[32] = { 0 };
	int err;

	*out = NULL;
	if (store == NULL) return -GRANARY_ENOMEM;
	assert(options->simulated || (options->reactors >= 1 && options->reactors <= REACTORS_MAX));
	store->options = *options;
	store->fs = options->fs;
	store->started_ns = clock_mono_ns();
	rand_bytes(&store->boot_id, sizeof(store->boot_id));
	store->boot_id |= 1;
	err = open_directory(store, master, why, why_cap);
	if (err == 0) err = open_services(store, master, why, why_cap);
	explicit_bzero(master, sizeof(master));
	if (err == 0 && ballast_make(store) < 0)
		atomic_store(
			&store->ballast_gone, true); /* a full disk: again when there is room */
	if (err < 0) store_close(&store);
	*out = store;
	return err;
}

/* ---- closing ---- */

/* Without threads everything that is under way needs turns to end. */
static void sim_settle(struct store *store)
{
	writers_stop(store->writers);
	for (uint32_t i = 0;
		i < SIM_TURNS_MAX && (sim_turn(store) || !writers_idle(store->writers)); i++)
		continue;
}

static void close_threads(struct store *store)
{
	if (store->options.simulated && store->writers != NULL) sim_settle(store);
	if (store->writers != NULL) writers_free(&store->writers);
	if (store->workers != NULL) workers_free(&store->workers);
	for (uint32_t i = 0; i < store->reactor_count; i++)
		if (!store->options.simulated) reactor_stop(store->reactors[i]);
	for (uint32_t i = 0; i < store->reactor_count; i++) {
		if (store->locals[i].fair != NULL) fair_local_free(&store->locals[i].fair);
		if (store->locals[i].shares != NULL) shares_local_free(&store->locals[i].shares);
		if (store->locals[i].reader != NULL) reader_free(&store->locals[i].reader);
	}
}

/* After the committer: it wakes reactors up to its end. */
static void close_reactors(struct store *store)
{
	for (uint32_t i = 0; i < store->reactor_count; i++) reactor_free(&store->reactors[i]);
	for (uint32_t i = 0; i < REACTORS_MAX; i++) free(store->locals[i].written);
	for (uint32_t i = 0; i < REACTORS_MAX; i++) free(store->locals[i].stats);
}

void store_close(struct store **sp)
{
	struct store *store = *sp;

	*sp = NULL;
	if (store == NULL) return;
	atomic_store(&store->draining, true);
	if (store->snapshots != NULL) snapshots_stop(store->snapshots);
	policy_close(&store->policy);
	ahead_close(&store->ahead);
	bool hangs = !moves_close(&store->moves);
	hangs |= !links_close(&store->links);
	if (store->jobs != NULL) jobs_close(&store->jobs);
	if (store->sessions != NULL) {
		kv_sync_wait(store->kv);
		sessions_leave(store->sessions);
		sessions_close(&store->sessions);
	}
	close_threads(store);
	if (store->snapshots != NULL) snapshots_close(&store->snapshots);
	if (store->clock != NULL) store_clock_save(store->clock, store->kv);
	hangs = !away_close(&store->away) || hangs;
	if (store->backup != NULL) backup_stop(store->backup); /* after the last commit, before what it asks goes */
	if (hangs) _exit(EXIT_SUCCESS); /* a thread in a cold store keeps what it uses: the process ends with it */
	fair_free(&store->fair);
	lanes_free(&store->lanes);
	if (store->shares != NULL) shares_free(&store->shares);
	if (store->cache != NULL) cache_free(&store->cache);
	heat_close(&store->heat);
	if (store->packs != NULL) packs_close(&store->packs);
	drives_close(&store->drives);
	stores_close(&store->stores);
	linked_free(&store->linked);
	if (store->ns != NULL) ns_close(&store->ns);
	opens_free(&store->opens);
	slow_ring_free(&store->slow);
	governor_free(&store->governor);
	if (store->clock != NULL) store_clock_free(&store->clock);
	if (store->ids != NULL) ids_free(&store->ids);
	if (store->kv != NULL) kv_close(&store->kv);
	backup_free(&store->backup);
	close_reactors(store);
	replays_close(&store->replays);
	orphans_close(&store->orphans);
	watches_free(&store->watches);
	if (store->loc != NULL) loc_free(&store->loc);
	if (store->lock != NULL) fs_close(&store->lock);
	free(store);
}
