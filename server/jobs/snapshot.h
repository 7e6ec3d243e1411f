/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot.h -- snapshots of datasets: made, found, removed; who reads them.
 *
 * READY    -> READY     snapshots_repack(): one transaction changes manifest, list of packs and pins
 * CREATING -> READY     one transaction: manifest hash, list of packs, a pin in the `p` row of each
 * of them CREATING -> (gone)    it failed, or the server stopped: its row is deleted, it has no
 * pins yet READY    -> (gone)    snapshots_remove(): one transaction deletes the row and its pins;
 * pages that no snapshot uses any more go with the next sweep
 *
 * Invariants: (1) from before the view of the metadata is taken until the pins are committed there
 * is a hold on the packs, so all that the view points at is there and stays; (2) pages and
 * manifests are objects of the system's bucket, named by their hash: one that is there is not
 * written again; (3) the sweep deletes a page only after it read the manifest of every snapshot,
 * and never while a snapshot is being made; (4) at most SNAPSHOTS_MAKING_MAX are being made, each
 * on a thread of its own. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/bytes.h"
#include "common/hash.h"

struct fs;
struct ids;
struct kv;
struct ns;
struct packs;
struct reactor;
struct snapshots;
struct store_clock;
struct workers;
struct writers;

enum { SNAPSHOTS_MAKING_MAX = 2, SNAPSHOT_WARNINGS_MAX = 16 * 1024, SNAPSHOT_TEXT_MAX = 256 };
#define SNAPSHOT_LEASE_NS UINT64_C(3600000000000)

struct snapshots_options {
	struct fs *fs;
	struct kv *kv;
	struct ids *ids;
	struct ns *ns;
	struct packs *packs;
	struct store_clock *clock;
	struct writers *writers;
	struct workers *workers;
	struct reactor **reactors;
	bool simulated; /* no threads: what is made is made in the caller's turn */
	size_t memory;  /* of one being made, before it goes to the disk; 0: 32 MiB a table */
};
/* Removes what was being made when the server stopped. */
int snapshots_open(const struct snapshots_options *options, struct snapshots **out);
void snapshots_abort(struct snapshots *s); /* what is being made ends soon, with SHUTDOWN; does not wait */
void snapshots_stop(struct snapshots *s); /* ends what is being made, waits for it */
void snapshots_close(struct snapshots **s);
void snapshots_tick(
	struct snapshots *s); /* a job pass: expired ones, pages without a snapshot, old leases */

/* ---- making ---- */

/* Everything it points at stays valid until done. */
struct snapshot_making {
	uint64_t bucket;
	struct slice name, prefix, options;
	void (*done)(struct snapshot_making *m); /* from its thread */
	/* out */
	int err;
	uint64_t created_ns, expires_ns, samples, bytes;
	struct hash128 manifest;
	struct slice note;                    /* of options */
	char text[SNAPSHOT_TEXT_MAX];         /* of an error */
	char warnings[SNAPSHOT_WARNINGS_MAX]; /* lines */
};
/* 0: done will be called. BUSY: as many as may are being made. Worker. */
int snapshots_make(struct snapshots *s, struct snapshot_making *m);

/* Gives a ready snapshot packs of its own: of m bucket, name and done are read; err and text are answered. Its
 * identity, samples and their order stay. BUSY while a job holds a lease, unless forced: the job's requests then get
 * CHANGED, and its token goes on. */
int snapshots_repack(struct snapshots *s, struct snapshot_making *m, bool force);

/* ---- finding ---- */

struct snapshot_entry { /* of a list; slices borrow */
	struct slice name, prefix, note;
	uint8_t state;
	uint64_t created_ns, expires_ns, samples, bytes, alone;
	struct hash128 manifest, identity;
};
/* Behind `after`, in order; non-zero from each() stops and is returned. Worker. */
int snapshots_list(struct snapshots *s, uint64_t bucket, struct slice after,
	int (*each)(void *arg, const struct snapshot_entry *e), void *arg);

/* A counted reference to a ready snapshot. */
struct snapshot_open {
	uint64_t bucket, id;
	struct hash128 manifest;
	uint32_t pin_count, name_len, prefix_len;
	const uint64_t *pins; /* ascending */
	const char *name, *prefix;
	struct snapshot_open *next;
	uint32_t refs;
	bool gone;
	struct hash128 *pages; /* sorted; NULL: not read yet; under the table's lock */
	uint32_t page_count;
};
/* Any thread, never blocks: EAGAIN: snapshot_ref() on a worker. NOTFOUND; BUSY: it is being made.
 */
int snapshot_ref_cached(
	struct snapshots *s, uint64_t bucket, struct slice name, struct snapshot_open **out);
int snapshot_ref(
	struct snapshots *s, uint64_t bucket, struct slice name, struct snapshot_open **out);
void snapshot_unref(struct snapshots *s, struct snapshot_open **o);
bool snapshot_pins(const struct snapshot_open *o, uint64_t pack);

/* 0 when the manifest lists this page, -GRANARY_ENOTFOUND, or an error. The manifest is read at the
 * first question and kept in order of hash with the open snapshot. Worker. */
int snapshot_has_page(struct snapshots *s, struct snapshot_open *o, struct hash128 hash);
/* Bytes of a page (of `hash`) or of a manifest from `offset` on, at most len, verified; *size: of
 * all of it. Worker. */
int64_t snapshot_read_page(struct snapshots *s, struct hash128 hash, uint64_t offset, void *buf,
	size_t len, uint64_t *size);
int64_t snapshot_read_manifest(struct snapshots *s, struct hash128 hash, uint64_t offset, void *buf,
	size_t len, uint64_t *size);

/* ---- changing (worker) ---- */

/* BUSY, with the job in `text`, while one holds a lease, unless forced. */
int snapshots_remove(struct snapshots *s, uint64_t bucket, struct slice name, bool force,
	char *text, size_t cap);
int snapshots_note(struct snapshots *s, uint64_t bucket, struct slice name, struct slice note,
	uint64_t expires_ns);

/* ---- who reads (worker) ---- */

struct snapshot_report {
	struct slice bucket_name, name, job, host;
	struct slice source; /* the name, and of a part of a snapshot the directory behind it; for the log */
	uint64_t bucket;
	uint32_t rank, world, weight;
	uint64_t epoch, position, of, samples, bytes, waited_ns;
	bool ended;
	/* What its log is made of; without: has_provenance is false. */
	bool has_provenance;
	uint8_t last;
	uint32_t batch, first, step;
	uint64_t elapsed_ns, begun_ns, id, delivered, checksum, skipped;
	struct slice token, skips;
};
/* Keeps it, renews the job's lease. *share: the job's weight over that of all, in 1/65,536. */
int snapshots_report(struct snapshots *s, const struct snapshot_report *r, uint64_t *share);
/* A line a consumer, "name=value" pairs; of one bucket, or with 0 of all for which may(arg, bucket)
 * is true. malloc'd. */
char *snapshots_consumers(struct snapshots *s, uint64_t bucket,
	bool (*may)(void *arg, struct slice bucket_name), void *arg, size_t *len);

/* ---- what jobs were given (worker) ---- */

/* Lines of a job's log behind `after`, at most `max` and until `cap` bytes are full; of one bucket, or with
 * 0 of all for which may() is true. cursor: where to go on. text: malloc'd, also after an error. */
enum { PROVENANCE_CURSOR_MAX = 256 };
struct provenance_page {
	uint64_t bucket;
	struct slice job, after;
	uint32_t max;
	size_t cap;
	bool (*may)(void *arg, struct slice bucket_name);
	void *arg;
	/* out */
	uint32_t count;
	bool more;
	uint8_t cursor[PROVENANCE_CURSOR_MAX];
	size_t cursor_len, len;
	char *text;
};
int snapshots_provenance(struct snapshots *s, struct provenance_page *p);
