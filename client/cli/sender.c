/* SPDX-License-Identifier: Apache-2.0 */
/* sender.c -- batches of small objects on their way into the store, several under way, and what failed of them.
 *
 * Invariants: (1) a slot's memory is touched only while no operation is under way for it; (2) batches go out in the
 * order of sender_start() on one connection; (3) what is counted as written was answered, so it is durable. */
#include "sender.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { FAILURES_NAMED = 10, FAILURES_STOP = 1000 };

/* Some failures will be those of every other file too: then the work stops. */
static bool is_hopeless(int err)
{
	switch (-err) {
	case GRANARY_EUNREACHABLE:
	case GRANARY_ECLOSED:
	case GRANARY_EAUTH:
	case GRANARY_EACCESS:
	case GRANARY_ENOBUCKET:
	case GRANARY_ENOSPACE:
	case GRANARY_EQUOTA:
	case GRANARY_EREADONLY:
	case GRANARY_ESHUTDOWN:
	case GRANARY_EVERSION:
	case GRANARY_EPROTO: return true;
	default: return false;
	}
}

bool sender_count_failure(struct sender *s, int code)
{
	uint64_t before = atomic_fetch_add(&s->totals->failed, 1);
	int none = CLI_OK;

	atomic_compare_exchange_strong(&s->totals->first_code, &none, code);
	if (before + 1 >= FAILURES_STOP) atomic_store(&s->stop, true);
	return before < FAILURES_NAMED && !(atomic_load(&s->stop) && before > 0);
}

void sender_put_failed(struct sender *s, const char *key, int err, const char *text)
{
	if (sender_count_failure(s, exit_of(err))) fail_text(err, text, "cannot write '%s'", shown(key));
	if (is_hopeless(err)) atomic_store(&s->stop, true);
}

void sender_written(struct sender *s, uint64_t files, uint64_t bytes)
{
	atomic_fetch_add(&s->totals->files, files);
	atomic_fetch_add(&s->totals->bytes, bytes);
	progress_add(&s->progress, files, bytes);
}

/* ---- slots --------------------------------------------------------------------------------- */

void slot_init(struct slot *slot)
{
	memset(slot, 0, sizeof(*slot));
	slot->puts = must_alloc(malloc(SLOT_FILES * sizeof(*slot->puts)));
	slot->keys = must_alloc(malloc(SLOT_FILES * (GRANARY_KEY_LEN_MAX + 1)));
	slot->data = mmap(NULL, SLOT_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	must_alloc(slot->data == MAP_FAILED ? NULL : slot->data);
	(void)madvise(slot->data, SLOT_BYTES, MADV_HUGEPAGE); /* only a hint */
}

void slot_release(struct slot *slot)
{
	free(slot->puts);
	free(slot->keys);
	munmap(slot->data, SLOT_BYTES);
}

static void slot_empty(struct slot *slot)
{
	slot->op = NULL;
	slot->count = slot->data_used = slot->keys_used = 0;
}

void slot_collect(struct sender *s, struct slot *slot)
{
	uint64_t files = 0, bytes = 0;
	int64_t done;

	if (slot->op == NULL) return;
	done = granary_wait(slot->op, GRANARY_FOREVER);
	for (size_t i = 0; i < slot->count; i++) {
		struct granary_put *put = &slot->puts[i];
		int err = put->status;
		if (err == 0 && done < 0 && put->version == 0)
			err = (int)done; /* the whole batch ended before its answer */
		if (err < 0) {
			sender_put_failed(s, put->ref.name, err, done < 0 ? granary_op_error(slot->op) : "");
			continue;
		}
		files++;
		bytes += put->size;
	}
	granary_op_free(&slot->op);
	sender_written(s, files, bytes);
	slot_empty(slot);
}

void slot_start(struct sender *s, struct slot *slot)
{
	int err = granary_put_batch_start(s->r->client, slot->puts, slot->count,
		GRANARY_CALL(.bucket = s->r->bucket, .timeout_ms = bulk_timeout_ms()), &slot->op);

	if (err == 0) return;
	for (size_t i = 0; i < slot->count; i++)
		sender_put_failed(s, slot->puts[i].ref.name, err, granary_last_error(s->r->client));
	slot_empty(slot);
}

void slot_add(struct slot *slot, const struct granary_put *put, size_t size)
{
	struct granary_put *to = &slot->puts[slot->count++];

	*to = *put;
	to->data = size > 0 ? slot->data + slot->data_used : NULL;
	to->size = size;
	slot->data_used += size;
	slot->keys_used += strlen(put->ref.name) + 1;
}
