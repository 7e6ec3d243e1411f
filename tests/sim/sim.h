/* SPDX-License-Identifier: Apache-2.0 */
/* sim.h -- one seeded world for a test: a clock, a disk that loses and tears what was not flushed, and faults.
 * Single-threaded. Engine: io_options{ .engine = IO_ENGINE_SIM, .sim = sim }; files: fs_new_sim() in io/fs.h.
 * Sockets are not simulated (-GRANARY_EUNSUPPORTED): tests hand requests over directly.
 *
 * What survives a power cut: of file bytes, all that a flush made durable which began after the write completed; of
 * the rest any subset, torn at 512 bytes, and now and then a whole 4 KiB block that a lost write touched reads as
 * zeros or garbage, flushed bytes in it included. Sizes (allocate, truncate, growth) count as such writes. Of names
 * (create, mkdir, rename, unlink) all that fs_sync_dir() of a directory they touch covered; of the rest any subset
 * in which no change overtakes an earlier one to the same name; a rename stays whole.
 * A flush that fails drops what it should have made durable; the next one returns 0 (DESIGN 10 F). */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct sim;

enum sim_class { SIM_READS = 1, SIM_WRITES = 2, SIM_FLUSHES = 4, SIM_NAMES = 8 }; /* names: also directory syncs */
enum sim_fail { SIM_FAIL_AGAIN = 1, SIM_FAIL_SHORT = 2 };                        /* or a -GRANARY_E... code */

struct sim_options {
	uint64_t seed;
	uint64_t power_cut_at_write; /* during the n-th write, flush or change of names; 0: never */
	uint64_t fail_at_io;         /* the n-th I/O (of fail_classes) fails; 0: never */
	int fail_error;              /* -GRANARY_EIO (also for 0), -GRANARY_ENOSPACE, SIM_FAIL_AGAIN, SIM_FAIL_SHORT */
	unsigned fail_classes;       /* enum sim_class; 0: all */
	bool fail_persist;           /* every later one too */
	bool keep_blocks;            /* a lost write never takes its whole 4 KiB block with it */
	uint64_t space_total;        /* bytes; 0: 1 TiB */
	uint64_t flush_delay_ns;     /* added to every asynchronous flush */
	uint32_t bit_flip_every;     /* one bit of every n-th read is wrong; 0: never */
};

struct sim *sim_new(struct sim_options options); /* NULL: no memory */
void sim_free(struct sim **sim);                 /* after every io, fs and fs_file of it */

void sim_power_cut(struct sim *sim);               /* now; everything fails with -GRANARY_EIO until power_on */
bool sim_power_was_cut(const struct sim *sim);     /* since the last power_on */
void sim_power_on(struct sim *sim);                /* decides what survived; older fs_files stay dead */
void sim_set_power_cut(struct sim *sim, uint64_t at_write); /* counted from sim_new(), as in the options */
void sim_set_fail(struct sim *sim, uint64_t at_io, int error, unsigned classes, bool persist); /* counted from here */
void sim_set_bit_flip(struct sim *sim, uint32_t every);
void sim_set_space(struct sim *sim, uint64_t total);

uint64_t sim_io_count(const struct sim *sim);    /* all I/O so far */
uint64_t sim_write_count(const struct sim *sim); /* writes, flushes, changes of names */
uint64_t sim_fail_count(const struct sim *sim);  /* faults injected: 0 means the n was past the end */

uint64_t sim_now_ns(const struct sim *sim);  /* monotonic; io_now_ns() */
uint64_t sim_wall_ns(const struct sim *sim);
void sim_advance(struct sim *sim, uint64_t ns);     /* both clocks; completions show up at the next turn */
void sim_clock_jump(struct sim *sim, int64_t ns);   /* the wall clock alone */
uint64_t sim_random(struct sim *sim, uint64_t below);
