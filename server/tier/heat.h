/* SPDX-License-Identifier: Apache-2.0 */
/* heat.h -- how much each pack is read, and when it was read last. No write per read: a read adds to a counter
 * in memory; a job saves what came together once a minute, as one row an hour and pack (`a`, docs/FORMAT.md 6.11).
 *
 * Invariants: (1) noting never blocks, allocates or fails: a table of fixed size, reads of packs past it are
 * counted and otherwise forgotten; (2) times are store time: a wall clock that jumps makes nothing colder; (3)
 * what a crash takes are the reads since the last save, so `last read` may be a minute early, never late; (4)
 * rows older than HEAT_KEEP_H hours of store time are deleted; (5) a pack that there is no record of was last
 * read never: callers take when it was written. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct heat;
struct kv;
struct store_clock;

enum { HEAT_PACKS = 1 << 16, HEAT_KEEP_H = 35 * 24, HEAT_SAVE_S = 60 };

/* Reads the rows. clock, kv: not owned. */
int heat_open(struct kv *kv, struct store_clock *clock, struct heat **out);
void heat_close(struct heat **heat); /* saves first */

/* Bytes of one pack lie in another now: that is as hot as the first. Job. */
void heat_follow(struct heat *heat, uint64_t from, uint64_t to);
/* Any thread; NULL: nothing. */
void heat_note(struct heat *heat, uint64_t pack, uint64_t reads, uint64_t bytes);
/* One read of the copy itself, of neighbours together and not out of RAM: a request, where the copy is cold. bytes: of
 * the pack. */
void heat_note_get(struct heat *heat, uint64_t pack, uint64_t bytes);
/* Saves what came together, at most every HEAT_SAVE_S of store time unless `now`; deletes old rows. Job. */
int heat_save(struct heat *heat, bool now);

struct pack_heat {
	uint64_t last_read_ns; /* store time; 0: not in the records */
	uint64_t reads, bytes; /* in the records: HEAT_KEEP_H hours */
	uint64_t gets, got_bytes; /* reads of the copy itself */
	double rate;           /* reads an hour, decayed: half after a day */
};
void heat_of(struct heat *heat, uint64_t pack, struct pack_heat *out); /* any thread */
/* All records by hour and pack, oldest first; non-zero from each stops and is returned. Saves first. Job, worker. */
int heat_each(struct heat *heat, int (*each)(void *arg, uint64_t hour, uint64_t pack, uint64_t reads, uint64_t bytes),
	void *arg);
/* By job, since the start: bytes of packs that were on flash when they were asked for, and of others. job: as streams
 * have it (PROTOCOL 4.8); the first HEAT_JOBS are counted. Any thread. */
enum { HEAT_JOBS = 1024, HEAT_JOB_NAME = 64 };
struct heat_job {
	uint64_t job, hot_reads, hot_bytes, cold_reads, cold_bytes;
	char name[HEAT_JOB_NAME]; /* "": not told yet */
};
void heat_note_job(struct heat *heat, uint64_t job, bool hot, uint64_t bytes);
void heat_name_job(struct heat *heat, uint64_t job, const char *name, size_t len);
uint32_t heat_jobs(struct heat *heat, struct heat_job *out, uint32_t max); /* those that read anything */
uint64_t heat_forgotten(const struct heat *heat); /* reads of packs that the table had no room for */
