/* SPDX-License-Identifier: Apache-2.0 */
/* config.h -- the settings of granaryd: one table, from which come the schema of the YAML file, its
 * checks, the flags of the command line, --print-default-config and the comparison at a reload.
 * Precedence: default < file < flag. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "tier/drives.h"
#include "tier/store.h"

enum config_type {
	CONFIG_PATH,     /* absolute, or relative to the working directory */
	CONFIG_LIST,     /* of addresses */
	CONFIG_DRIVES,   /* list of `path`, `size` */
	CONFIG_PLACES,   /* mapping: name to a mapping of fields */
	CONFIG_COUNT,
	CONFIG_PRICE,    /* millionths; 0.023 */
	CONFIG_SIZE,     /* bytes; KiB MiB GiB TiB */
	CONFIG_SHARE,    /* a size, or N% of the machine's memory */
	CONFIG_PERCENT,
	CONFIG_DURATION, /* ns; ms s m h */
	CONFIG_LEVEL,    /* error warn info debug */
	CONFIG_ENGINE,   /* auto uring threads */
	CONFIG_SWITCH,   /* off on */
};

/* X(NAME, name, type, default, min, max, while running?, help). Limits in bytes, percent, ns or pieces. A help text may
 * have several lines. */
#define CONFIG_KIB UINT64_C(1024)
#define CONFIG_MIB (UINT64_C(1024) * 1024)
#define CONFIG_GIB (UINT64_C(1024) * 1024 * 1024)
#define CONFIG_TABLE(X) \
	X(DATA, data, CONFIG_PATH, "", 0, 0, false, \
	  "Data directory; must exist. Holds metadata, packs, the lock and the keys.") \
	X(HOT, hot, CONFIG_DRIVES, "", 0, 32, false, \
	  "Directories that packs lie in, one a drive: path, and size (bytes packs may take there; without it: all\n" \
	  "but the reserve). A drive that fails takes its own packs offline, no others. Without any: the data\n" \
	  "directory.") \
	X(STORES, stores, CONFIG_PLACES, "", 0, STORES_MAX, false, \
	  "Cold stores, by name: where packs go that are not in use. type: directory has a path; each may have\n" \
	  "promote (none, pack: what reads bring back), promote_after (reads), read_timeout, and prices.") \
	X(LISTEN, listen, CONFIG_LIST, "127.0.0.1:7420", 1, 16, false, \
	  "Addresses of the native protocol: HOST:PORT, [IPV6]:PORT (port 0: any), unix:/PATH.\n" \
	  "Off loopback only once an access key exists: the first start creates one.") \
	X(CPUS, cpus, CONFIG_COUNT, "0", 0, 64, false, \
	  "Reactors: threads that serve connections. 0: one for each CPU this process may use.") \
	X(WORKERS, workers, CONFIG_COUNT, "0", 0, 256, false, \
	  "Threads for calls that block (metadata that is not in memory). 0: two for each reactor, at least 4.") \
	X(CACHE_SIZE, cache_size, CONFIG_SHARE, "25%", 16 * CONFIG_MIB, 64 * 1024 * CONFIG_GIB, false, \
	  "Memory for the bytes of objects: a size, or a share of the machine's memory.") \
	X(MEMORY, memory, CONFIG_SIZE, "1GiB", 256 * CONFIG_MIB, 1024 * CONFIG_GIB, false, \
	  "Memory for everything else, kept whatever the number of objects: tables of names and locations,\n" \
	  "RocksDB, packs being written, requests and answers.") \
	X(PACK_SIZE, pack_size, CONFIG_SIZE, "256MiB", 16 * CONFIG_MIB, 2 * CONFIG_GIB, false, \
	  "A pack is sealed when the next record would exceed this.") \
	X(RESERVE, reserve, CONFIG_SIZE, "64MiB", CONFIG_MIB, 1024 * CONFIG_GIB, false, \
	  "Disk space kept free of new data, so that deletes and compaction go on when the disk is full.") \
	X(BALLAST, ballast, CONFIG_SIZE, "16MiB", 0, 64 * CONFIG_GIB, false, \
	  "Size of a file that is given up when even the metadata finds no space.") \
	X(COMPACT_DEAD, compact_dead, CONFIG_PERCENT, "30%", 5, 95, false, \
	  "A sealed pack is compacted when this much of it is dead.") \
	X(DRAIN_RATE, drain_rate, CONFIG_SIZE, "0", 0, 1024 * CONFIG_GIB, true, \
	  "Bytes a second that draining a drive may take at most. 0: no limit.") \
	X(BACKUP, backup, CONFIG_PATH, "none", 0, 0, false, \
	  "Directory that the metadata is backed up into, on another drive; must exist. none: no backup.\n" \
	  "Who can read it has all access keys.") \
	X(BACKUP_EVERY, backup_every, CONFIG_DURATION, "10m", UINT64_C(1000000000), UINT64_C(86400000000000), false, \
	  "Time between checkpoints. What is committed in between goes there every second.") \
	X(BACKUP_KEEP, backup_keep, CONFIG_COUNT, "3", 1, 1000, false, \
	  "Checkpoints that are kept. Each costs what differs from its neighbours.") \
	X(JOB_INTERVAL, job_interval, CONFIG_DURATION, "5s", UINT64_C(100000000), UINT64_C(3600000000000), false, \
	  "Pause between passes of the background jobs.") \
	X(UPLOAD_EXPIRE, upload_expire, CONFIG_DURATION, "168h", 0, UINT64_C(31536000000000000), false, \
	  "An upload in parts not finished so long after it began is ended, its parts are removed. 0s: never.") \
	X(RULES_INTERVAL, rules_interval, CONFIG_DURATION, "60s", 100000000, UINT64_C(86400000000000), false, \
	  "Pause between passes over the rules (granary tier apply); at least ten times as long as a pass\n" \
	  "reads names.") \
	X(HOT_PRICE, hot_price, CONFIG_PRICE, "0", 0, UINT64_C(1000000000000), false, \
	  "What a GB of flash costs a month, in the currency of the stores' prices: for granary tier cost.") \
	X(CONNECTIONS, connections, CONFIG_COUNT, "0", 0, 1000000, false, \
	  "Connections at once. 0: as many as the limit of open files allows.") \
	X(LEASE, lease, CONFIG_DURATION, "60s", UINT64_C(2000000000), UINT64_C(3600000000000), false, \
	  "How long what a client has open and locked is kept while nothing is heard of it. Then others get its\n" \
	  "locks, and what it still writes under them is refused.") \
	X(LOCAL_READS, local_reads, CONFIG_SWITCH, "on", 0, 1, false, \
	  "on or off: clients on a Unix socket get descriptors of sealed packs, and read them themselves. Only keys\n" \
	  "that may read a whole bucket do.") \
	X(LOG_LEVEL, log_level, CONFIG_LEVEL, "info", 0, 3, true, \
	  "error, warn, info or debug.") \
	X(SLOW_REQUEST, slow_request, CONFIG_DURATION, "200ms", 0, UINT64_C(3600000000000), true, \
	  "Requests that take longer are shown by granary status --slow. 0s: none.") \
	X(IO_ENGINE, io_engine, CONFIG_ENGINE, "auto", 0, 2, false, \
	  "auto, uring or threads. auto: uring where the kernel allows it.") \
	X(FLUSH_DELAY, flush_delay, CONFIG_DURATION, "0s", 0, UINT64_C(1000000000), false, \
	  "Added to every flush of a pack: for measurements of slower disks. Leave it at 0s.")

enum config_key {
#define X(NAME, name, type, text, min, max, reload, help) CONFIG_##NAME,
	CONFIG_TABLE(X)
#undef X
	CONFIG_KEYS
};

enum { CONFIG_TEXT_MAX = 1024, CONFIG_LISTEN_MAX = 16, CONFIG_HOT_MAX = 32, CONFIG_ADDRESS_MAX = 128,
       CONFIG_FILE_MAX = 64 * 1024 };
enum { CONFIG_WHY_MAX = 512 };

struct config_key_info {
	const char *name, *text, *help;
	enum config_type type;
	uint64_t min, max;
	bool reload;
};
extern const struct config_key_info config_keys[CONFIG_KEYS];

enum config_source { CONFIG_FROM_DEFAULT, CONFIG_FROM_FILE, CONFIG_FROM_FLAG };

struct config_value {
	char text[CONFIG_TEXT_MAX]; /* as written; of a list: unused */
	uint64_t number;            /* bytes, ns, percent, pieces, or a number of an enumeration */
	bool is_percent;            /* CONFIG_SHARE only */
	enum config_source source;
	uint32_t line;              /* CONFIG_FROM_FILE */
};

struct config {
	struct config_value values[CONFIG_KEYS];
	char listen[CONFIG_LISTEN_MAX][CONFIG_ADDRESS_MAX]; /* "tcp:HOST:PORT" or "unix:/PATH" */
	uint32_t listen_count;
	struct drive_place hot[CONFIG_HOT_MAX];
	uint32_t hot_count;
	struct store_settings stores[STORES_MAX];
	uint32_t stores_count;
	char file[CONFIG_TEXT_MAX]; /* "" when there is none */
};

void config_init(struct config *c); /* the defaults */
/* Reads and checks the file; on failure c is as it was, and why (CONFIG_WHY_MAX bytes) says "file:line:column: what".
 * -GRANARY_ECONFIG; also when the file cannot be read. */
int config_load(struct config *c, const char *path, char *why);
int config_parse(struct config *c, const char *name, const char *text, size_t len, char *why);
/* From a flag. A list is replaced by the first and grows by the next. -GRANARY_ECONFIG. */
int config_set_flag(struct config *c, enum config_key key, const char *text, char *why);
int config_key_find(const char *name); /* or -1 */

void config_print_default(FILE *out);
void config_print_effective(const struct config *c, FILE *out);
/* Keys whose values differ: those that can change while running are put into `old`; the names of the others into
 * restart (cap bytes, ", " between). Returns how many were applied. */
uint32_t config_reload(struct config *old, const struct config *fresh, char *restart, size_t cap);

/* ---- config_apply.c: what the settings mean on this machine ---- */
struct store_options;
uint32_t config_cpu_count(void);
uint64_t config_machine_memory(void); /* bytes; of the control group when it has a limit */
void config_apply(const struct config *c, struct store_options *out);
void config_print_budgets(const struct config *c, const struct store_options *o);
