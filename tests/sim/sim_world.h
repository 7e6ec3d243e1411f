/* SPDX-License-Identifier: Apache-2.0 */
/* sim_world.h -- private to tests/sim/sim*.c: the world's insides. */
#pragma once

#include "common/list.h"
#include "common/rand.h"
#include "io/fs_ops.h"
#include "io/io_engine.h"
#include "sim/sim.h"

enum { SIM_SECTOR = 512, SIM_BLOCK = 4096, SIM_CHUNK = 64 * 1024 };

struct sim_bytes { uint8_t **chunks; size_t count; }; /* sparse: a missing chunk is zeros */

/* A change of a file's contents that is not durable yet. */
struct sim_record {
	struct list link;       /* node->records, in order of their start */
	bool is_size, done;     /* done: completed, so a flush that starts now covers it */
	uint64_t done_seq;
	uint64_t offset, len;   /* is_size: len is the new size */
	uint8_t data[];
};

struct sim_entry { char *name; struct sim_node *node; };
struct sim_names { struct sim_entry *list; size_t count, cap; };

struct sim_node {
	struct sim_node *next; /* all nodes of the world */
	bool is_dir, marked, locked;
	uint32_t opens;
	struct sim_bytes live, stable;
	uint64_t live_size, stable_size, done_seq;
	uint64_t number, changes; /* of nodes; of what a reader may see */
	struct list records;
	struct sim_names live_names, stable_names;
};

/* One entry set (node) or taken away (NULL); a pending op holds one or two that survive together. */
struct sim_change { struct sim_node *dir; char *name; struct sim_node *node; };
struct sim_name_op { struct list link; bool marked; uint32_t count; struct sim_change changes[2]; };

struct sim_event {
	uint64_t at_ns, seq, epoch, covers; /* covers: flush: records done up to this */
	struct io *io;
	struct io_op *op;
	struct sim_record *record;
	struct sim_node *node;
	int64_t res; /* bytes the step moves, or -errno */
};

struct sim {
	struct sim_options options;
	struct rng rng;
	uint64_t now_ns, event_seq, epoch;
	int64_t wall_offset_ns;
	uint64_t io_count, write_count, fail_seen, fails, reads;
	bool power_off, was_cut;
	uint64_t node_count; /* made so far */
	struct sim_node *nodes, *top; /* top: its names are the roots given to fs_new_sim() */
	struct list name_ops;
	struct sim_event *events;
	size_t events_count, events_cap;
};

struct sim_file {
	struct fs_file base;
	struct sim *sim;
	struct sim_node *node;
	uint64_t epoch;
	bool writable, holds_lock;
};

static inline struct sim_file *sim_file_of(struct fs_file *f) { return (struct sim_file *)(void *)f; }
void *sim_alloc(size_t len); /* zeroed; ends the test when there is no memory */

/* sim.c: counts one I/O and says what is to become of it: 0, -GRANARY_E..., or an enum sim_fail. *cut: the power goes
 * during this very I/O (and the answer is -GRANARY_EIO): part of what it changes may still reach the disk. */
int sim_begin(struct sim *sim, enum sim_class klass, bool *cut);
bool sim_file_dead(const struct sim_file *f); /* opened before a power cut, or the power is off */

/* sim_disk.c */
struct sim_node *sim_node_new(struct sim *sim, bool is_dir);
struct sim_node *sim_names_get(const struct sim_names *names, const char *name, size_t len);
void sim_names_set(struct sim_names *names, const char *name, size_t len, struct sim_node *node);
void sim_change(struct sim *sim, const struct sim_change *changes, uint32_t count); /* live at once, durable later */
void sim_names_sync(struct sim *sim, const struct sim_node *dir);
struct sim_record *sim_record_write(struct sim_node *n, const void *buf, uint64_t offset, uint64_t len);
struct sim_record *sim_record_size(struct sim_node *n, uint64_t size);
void sim_record_done(struct sim_node *n, struct sim_record *r); /* shows in the live file */
void sim_node_flush(struct sim_node *n, uint64_t covers);       /* records done up to `covers` become durable */
void sim_node_flush_failed(struct sim *sim, struct sim_node *n, uint64_t covers);
size_t sim_node_read(struct sim *sim, const struct sim_node *n, void *buf, size_t len, uint64_t offset);
bool sim_space_for(struct sim *sim, const struct sim_node *n, uint64_t end);
uint64_t sim_space_used(struct sim *sim);
void sim_disk_survive(struct sim *sim);
void sim_disk_free(struct sim *sim);
void sim_gc(struct sim *sim);

/* sim_io.c */
extern const struct io_engine sim_io_engine;
