/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot_priv.h -- a snapshot open for reading, shared by snapshot_ops.c (requests), snapshot_store.c (files of its
 * table shared by the processes of a node), snapshot_pages.c (pages that are here), snapshot.c (the handle) and the
 * epochs that stream it. */
#pragma once

#include "client_priv.h"
#include "common/hash.h"
#include "common/provenance.h"
#include "common/snap.h"
#include "common/token.h"

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
struct page_out { /* where one piece of a page goes; must stay until its operation is done */
	uint8_t *to;
	size_t want;
	uint64_t size;               /* of the page, as the server says */
};
/* Starts to fetch out->want bytes from `at` on. */
int snapshot_fetch_start(struct granary_client *c, const char *name, struct hash128 hash, uint64_t at,
	struct page_out *out, const struct granary_call *call, struct granary_op **op);

struct stream_report { /* PROTOCOL 4.9 */
	const char *snapshot, *job, *host;
	uint32_t rank, world, weight;
	uint64_t epoch, position, of, samples, bytes, waited_ns;
	bool ended, log;                       /* log: what follows is kept as the job's */
	uint64_t elapsed_ns, begun_ns, id, delivered, checksum, skipped;
	uint32_t batch, first, step;
	uint8_t last;
	uint8_t token[TOKEN_SIZE];             /* where it began */
	const struct provenance_skip *skips;   /* the first of them */
	uint32_t skips_count;
};
int stream_report_start(struct granary_client *c, const struct stream_report *r, const struct granary_call *call,
	struct granary_op **op);

/* snapshot_store.c: bytes that have this hash, read-only, shared where the node allows it. */
struct stored {
	const uint8_t *p; /* NULL: not here */
	size_t len;
	bool mapped;      /* else of malloc() */
};
/* known: this process has verified the hash of the file before. */
bool stored_open(struct hash128 hash, size_t len, bool known, struct stored *out);
void stored_close(struct stored *s);

struct storing { /* bytes on their way */
	uint8_t *p;       /* room for len bytes, to be filled and verified by who began it */
	size_t len;
	struct hash128 hash;
	int folder, fd;   /* -1: of malloc() */
};
/* 0; -GRANARY_EAGAIN: another process is at it, look again soon (never with `alone`: not shared); -GRANARY_ENOMEM. */
int storing_begin(struct hash128 hash, size_t len, bool alone, struct storing *out);
void storing_end(struct storing *s, struct stored *out); /* they have their hash */
void storing_abandon(struct storing *s);

/* snapshot.c */
struct granary_snapshot {
	struct granary_client *client;
	char bucket[GRANARY_BUCKET_LEN_MAX + 1];
	char name[SNAPSHOT_NAME_MAX + 1];
	char *prefix, *options;
	uint8_t *bytes;              /* of the manifest */
	struct hash128 hash;         /* as it was learnt with the manifest; sent with each RANGE */
	struct hash128 identity;     /* of tokens and recipes: stays when it is repacked */
	struct snap_manifest manifest;
	uint64_t *first_ids;         /* page_count + 1: dense id of each page's first sample */
	uint32_t *by_pack;           /* page_count: pages in order of pack id; the table is in order of the disk */
	uint32_t timeout_ms;
	uint64_t left_out;           /* bit f: file f of a sample is not read; of an epoch's handle, set at once */
	pthread_mutex_t loading;     /* one loads at a time; before `lock` */
	pthread_mutex_t lock;
	struct page_slot *slots;     /* lock: a page each; what is here and has refs stays */
	uint64_t held, held_max, clock; /* lock: bytes of pages that are here; how many may be, but for those in use */
	uint32_t here;               /* lock: pages that are */
	uint64_t *first_names;       /* names_count + 1: number of each names page's first name */
	struct names_slots *names;   /* snapshot_names.c */
};

/* As granary_snapshot_open(). *exists: with -GRANARY_ENOTFOUND, there is one, which is not ready. */
int snapshot_open(struct granary_client *client, const char *name, struct granary_snapshot **out,
	const struct granary_call *call, bool *exists);

/* snapshot_pages.c */
int snapshot_pages_open(struct granary_snapshot *s);
void snapshot_pages_close(struct granary_snapshot *s);
/* Bytes of pages that may be mapped at a time; others are mapped again when they are asked for. */
void snapshot_pages_limit(struct granary_snapshot *s, uint64_t bytes);
/* The page, loaded when it is not here; stays until it is put. */
int snapshot_page_get(struct granary_snapshot *s, uint32_t index, const struct snap_page **out);
void snapshot_page_put(struct granary_snapshot *s, uint32_t index);
/* The page of one sample after the other, held until the cursor ends; zeroed at the start. */
/* Pages that it was at stay held, some of them: to go back there is cheap. */
enum { CURSOR_PAGES = 16 };
struct page_cursor {
	const struct snap_page *page;
	uint64_t first, end;
	struct { const struct snap_page *page; uint32_t index; } held[CURSOR_PAGES]; /* by index */
};
int page_cursor_to(struct granary_snapshot *s, struct page_cursor *c, uint64_t id);
/* A row that is wanted soon, if its page is held: its bytes are fetched from memory. */
void page_cursor_fetch(const struct granary_snapshot *s, const struct page_cursor *c, uint64_t id);
void page_cursor_end(struct granary_snapshot *s, struct page_cursor *c);
/* Loads several, some at a time, as far as they fit in the limit, so that who needs them soon waits once. */
int snapshot_pages_load(struct granary_snapshot *s, const uint32_t *indices, uint32_t count);
/* Bytes that have the hash: from this machine, else from the server. */
int snapshot_file(struct granary_snapshot *s, struct hash128 hash, size_t size, struct stored *out);

/* snapshot_names.c */
int snapshot_names_open(struct granary_snapshot *s);
void snapshot_names_close(struct granary_snapshot *s);

uint32_t snapshot_page_of(const struct granary_snapshot *s, uint64_t id);
/* A key of a sample, for people: 0, or -GRANARY_ENOTFOUND. Walks names: slow. */
int snapshot_key_of(struct granary_snapshot *s, uint64_t id, char *out, size_t cap);
