/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot_priv.h -- a snapshot open for reading, shared by snapshot_ops.c (requests), snapshot_store.c (files of its
 * table shared by the processes of a node), snapshot.c (the handle) and the epochs that stream it. */
#pragma once

#include "client_priv.h"
#include "common/hash.h"
#include "common/snap.h"

enum {
	SNAPSHOT_PIECE = 4 * 1024 * 1024, /* of a page or manifest, in one request */
	SNAPSHOT_NAME_MAX = 255,
};
#define SNAPSHOT_MANIFEST_MAX ((uint64_t)1 << 30)

/* snapshot_ops.c: a text and a 0 at `at`; gives what follows. */
char *text_put(char *at, struct slice s);
/* Blocking requests. The manifest is one block of malloc(), info too. */
int snapshot_fetch_manifest(struct granary_client *c, const char *name, struct granary_snapshot_info **info,
	uint8_t **bytes, size_t *len, const struct granary_call *call);
int snapshot_fetch_page(struct granary_client *c, const char *name, struct hash128 hash, uint8_t *to, size_t size,
	const struct granary_call *call);

struct stream_report { /* PROTOCOL 4.9 */
	const char *snapshot, *job, *host;
	uint32_t rank, world, weight;
	uint64_t epoch, position, of, samples, bytes, waited_ns;
	bool ended;
};
int stream_report_start(struct granary_client *c, const struct stream_report *r, const struct granary_call *call,
	struct granary_op **op);

/* snapshot_store.c: bytes that have this hash, read-only, shared where the node allows it. */
struct stored {
	const uint8_t *p; /* NULL: not here */
	size_t len;
	bool mapped;      /* else of malloc() */
};
bool stored_open(struct hash128 hash, size_t len, struct stored *out);
/* Takes the block over; keeps it for others when it can. */
void stored_keep(struct hash128 hash, uint8_t *block, size_t len, struct stored *out);
void stored_close(struct stored *s);

/* snapshot.c */
struct granary_snapshot {
	struct granary_client *client;
	char bucket[GRANARY_BUCKET_LEN_MAX + 1];
	char name[SNAPSHOT_NAME_MAX + 1];
	char *prefix, *options;
	uint8_t *bytes;              /* of the manifest */
	struct hash128 hash;         /* as it was learnt with the manifest; sent with each RANGE */
	struct snap_manifest manifest;
	uint64_t *first_ids;         /* page_count + 1: dense id of each page's first sample */
	uint64_t *page_used;         /* lock: when each page was last looked at */
	uint32_t timeout_ms;
	pthread_mutex_t lock;
	struct stored *pages;        /* lock, until loaded; then never changes */
	struct snap_page *parsed;
	_Atomic bool *loaded;
	uint64_t held, clock;        /* lock: bytes of loaded pages */
};

/* As granary_snapshot_open(). *exists: with -GRANARY_ENOTFOUND, there is one, which is not ready. */
int snapshot_open(struct granary_client *client, const char *name, struct granary_snapshot **out,
	const struct granary_call *call, bool *exists);
uint32_t snapshot_page_of(const struct granary_snapshot *s, uint64_t id);
/* The page, fetched when it is not here; stays until the handle is closed. */
int snapshot_page(struct granary_snapshot *s, uint32_t index, const struct snap_page **out);
/* A key of a sample, for people: 0, or -GRANARY_ENOTFOUND. Walks names: slow. */
int snapshot_key_of(struct granary_snapshot *s, uint64_t id, char *out, size_t cap);
