/* SPDX-License-Identifier: Apache-2.0 */
/* config_apply.c -- what the settings mean on this machine: counts of threads and budgets in bytes. */
#include "config.h"

#include <inttypes.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "req/store.h"

enum { WORKERS_MIN = 4, CPUS_MAX = REACTORS_MAX, RECV_BUFS_MIN = 64, RECV_BUFS_MAX = 1024 };

uint32_t config_cpu_count(void)
{
	cpu_set_t set;
	int n = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;

	return n < 1 ? 1 : n > CPUS_MAX ? (uint32_t)CPUS_MAX : (uint32_t)n;
}

/* Version 2 of control groups; "max" and what is larger than the machine do not count. */
static uint64_t group_limit(void)
{
	char text[32] = "";
	FILE *f = fopen("/sys/fs/cgroup/memory.max", "re");

	if (!f) return UINT64_MAX;
	size_t n = fread(text, 1, sizeof(text) - 1, f);
	fclose(f);
	text[n] = '\0';
	return strncmp(text, "max", 3) == 0 || n == 0 ? UINT64_MAX : strtoull(text, NULL, 10);
}

uint64_t config_machine_memory(void)
{
	uint64_t machine = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
	uint64_t limit = group_limit();

	return limit < machine && limit > 0 ? limit : machine;
}

/* `memory` in parts of 32. What is left over covers indexes, stacks, receive buffers and the heap's own. */
static void memory_split(uint64_t memory, struct store_options *o)
{
	uint64_t part = memory / 32, bufs = part / o->reactors / IO_RECV_BUF_SIZE;

	o->loc_budget = part * 10;
	o->transient_budget = part * 6;
	o->request_budget = part * 5;
	o->kv_block_cache = part * 4;
	o->kv_write_buffer = part; /* up to two at a time */
	o->staging_budget = part * 2;
	o->io.recv_bufs = bufs > RECV_BUFS_MAX   ? RECV_BUFS_MAX
			  : bufs < RECV_BUFS_MIN ? RECV_BUFS_MIN
						 : (uint32_t)bufs;
}

void config_apply(const struct config *c, struct store_options *o)
{
	const struct config_value *v = c->values;

	store_options_default(o);
	o->reactors = v[CONFIG_CPUS].number ? (uint32_t)v[CONFIG_CPUS].number : config_cpu_count();
	o->worker_threads = (uint32_t)v[CONFIG_WORKERS].number;
	if (o->worker_threads == 0)
		o->worker_threads = o->reactors * 2 > WORKERS_MIN ? o->reactors * 2 : WORKERS_MIN;
	o->cache_budget = v[CONFIG_CACHE_SIZE].number;
	if (v[CONFIG_CACHE_SIZE].is_percent)
		o->cache_budget = config_machine_memory() / 100 * v[CONFIG_CACHE_SIZE].number;
	memory_split(v[CONFIG_MEMORY].number, o);
	o->pack_size = v[CONFIG_PACK_SIZE].number;
	o->disk_reserve = v[CONFIG_RESERVE].number;
	o->ballast = v[CONFIG_BALLAST].number;
	o->hot = c->hot;
	o->hot_count = c->hot_count;
	o->stores = c->stores;
	o->stores_count = c->stores_count;
	o->jobs = true;
	o->compact_dead_pct = v[CONFIG_COMPACT_DEAD].number;
	o->drain_rate = v[CONFIG_DRAIN_RATE].number;
	o->upload_expire_ns = v[CONFIG_UPLOAD_EXPIRE].number;
	o->job_interval_ns = v[CONFIG_JOB_INTERVAL].number;
	o->rules_interval_ns = v[CONFIG_RULES_INTERVAL].number;
	o->hot_price = (double)v[CONFIG_HOT_PRICE].number / 1e6;
	o->backup_dir = strcmp(v[CONFIG_BACKUP].text, "none") != 0 ? v[CONFIG_BACKUP].text : NULL;
	o->backup_every_ns = v[CONFIG_BACKUP_EVERY].number;
	o->backup_keep = (uint32_t)v[CONFIG_BACKUP_KEEP].number;
	o->local_reads = v[CONFIG_LOCAL_READS].number != 0;
	o->lease_ns = v[CONFIG_LEASE].number;
	o->slow_request_ns = v[CONFIG_SLOW_REQUEST].number;
	o->io.engine = (enum io_engine_kind)v[CONFIG_IO_ENGINE].number;
	o->io.flush_delay_ns = v[CONFIG_FLUSH_DELAY].number;
}

_Static_assert(IO_ENGINE_AUTO == 0 && IO_ENGINE_URING == 1 && IO_ENGINE_THREADS == 2,
	"the order of config_value.c");

static uint64_t mib(uint64_t bytes)
{
	return bytes / CONFIG_MIB;
}

void config_print_budgets(const struct config *c, const struct store_options *o)
{
	log_info("budgets; cache_mib=%" PRIu64 " memory_mib=%" PRIu64 " names_mib=%" PRIu64
		 " metadata_mib=%" PRIu64 " writing_mib=%" PRIu64 " reading_mib=%" PRIu64
		 " requests_mib=%" PRIu64,
		mib(o->cache_budget), mib(c->values[CONFIG_MEMORY].number), mib(o->loc_budget),
		mib(o->kv_block_cache + 2 * o->kv_write_buffer), mib(o->staging_budget),
		mib(o->transient_budget), mib(o->request_budget));
	log_info("threads; reactors=%u workers=%u", o->reactors, o->worker_threads);
}
