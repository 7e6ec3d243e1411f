/* SPDX-License-Identifier: Apache-2.0 */
/* sender.h -- many small objects into the store: a slot is one batch, filled by its user, sent, collected. */
#pragma once

#include "cli.h"

enum {
	SLOT_FILES = 1000,
	SLOT_BYTES = 5 << 20,
	WHOLE_MAX = 4 << 20 /* a larger file is streamed by itself */
};

struct upload_totals {
	_Atomic uint64_t files, bytes;     /* written */
	_Atomic uint64_t replaced;         /* of those, over another content */
	_Atomic uint64_t same, same_bytes; /* there already */
	_Atomic uint64_t links;            /* followed to a file */
	_Atomic uint64_t failed, vanished;
	_Atomic int first_code;
};

struct sender {
	struct remote *r;
	struct upload_totals *totals;
	struct progress progress;
	_Atomic bool stop; /* too much failed, or what will fail for all */
};
/* Counts a failure; true when it is one of the few to be named. */
bool sender_count_failure(struct sender *s, int code);
void sender_put_failed(struct sender *s, const char *key, int err, const char *text);
void sender_written(struct sender *s, uint64_t files, uint64_t bytes);

struct slot { /* one batch */
	struct granary_op *op;
	struct granary_put *puts;
	char *data, *keys; /* SLOT_BYTES; SLOT_FILES keys with their NUL */
	size_t count, data_used, keys_used;
};
void slot_init(struct slot *slot);
void slot_release(struct slot *slot);
/* Takes the file whose key stands at keys + keys_used and whose bytes stand at data + data_used. */
void slot_add(struct slot *slot, const struct granary_put *put, size_t size);
/* Sends what is in it; when that cannot even begin, its files are counted as failed and it is empty again. */
void slot_start(struct sender *s, struct slot *slot);
/* Waits for the batch under way, counts what became of it, and empties the slot. */
void slot_collect(struct sender *s, struct slot *slot);
