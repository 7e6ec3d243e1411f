/* SPDX-License-Identifier: Apache-2.0 */
/* stream.c -- reads one object of any size in order: ranges of 4 MiB, several ahead, all of the version that the first
 * one had. */
#include "client_priv.h"

enum { STREAM_PIECE = 4 * 1024 * 1024, STREAM_AHEAD = 4, STREAM_SLOTS = STREAM_AHEAD + 1 /* the one at the sink */ };

struct stream_slot {
	struct granary_entry entry;
	struct granary_op *op;
};

struct stream {
	struct granary_client *client;
	struct granary_ref ref;
	struct granary_call call;
	uint64_t at, end; /* asked for up to here; where to stop, as far as known */
	uint64_t version;
	struct stream_slot slots[STREAM_SLOTS];
	uint32_t first, count;
};

static int stream_ask(struct stream *s)
{
	struct stream_slot *slot = &s->slots[(s->first + s->count) % STREAM_SLOTS];
	struct granary_batch batch = GRANARY_INIT(granary_batch);
	uint64_t left = s->end - s->at;

	slot->entry = (struct granary_entry){ .ref = s->ref, .flags = GRANARY_ENTRY_RANGE, .offset = s->at };
	slot->entry.length = left < STREAM_PIECE ? left : STREAM_PIECE;
	if (s->version) {
		slot->entry.flags |= GRANARY_ENTRY_VERSION;
		slot->entry.version = s->version;
	}
	batch.entries = &slot->entry;
	batch.count = 1;
	int err = granary_read_batch_start(s->client, &batch, &s->call, &slot->op);
	if (err < 0)
		return err;
	s->at += slot->entry.length;
	s->count++;
	return 0;
}

/* Waits for the oldest range. */
static int stream_take(struct stream *s, struct stream_slot **out)
{
	struct stream_slot *slot = &s->slots[s->first];
	int64_t result = granary_wait(slot->op, GRANARY_FOREVER);

	*out = slot;
	s->first = (s->first + 1) % STREAM_SLOTS;
	s->count--;
	if (result < 0)
		return (int)result;
	if (slot->entry.status < 0)
		return error_fail(s->client, slot->entry.status, "%s", granary_op_error(slot->op));
	if (s->version == 0 && slot->entry.size < s->end)
		s->end = slot->entry.size;
	s->version = slot->entry.version;
	return 0;
}

/* Nothing but the first range is asked for before size and version are known. */
static int stream_fill(struct stream *s)
{
	uint32_t most = s->version ? STREAM_AHEAD : 1;
	int err = 0;

	while (err == 0 && s->count < most && s->at < s->end)
		err = stream_ask(s);
	return err == -GRANARY_EBUSY && s->count > 0 ? 0 : err;
}

static void stream_end(struct stream *s)
{
	for (; s->count > 0; s->count--, s->first = (s->first + 1) % STREAM_SLOTS)
		granary_op_free(&s->slots[s->first].op);
}

int64_t granary_read_stream(struct granary_client *client, struct granary_ref ref, uint64_t offset, uint64_t length,
	granary_sink_fn *sink, void *arg, const struct granary_call *call)
{
	struct stream s = { .client = client, .ref = ref, .at = offset };
	int64_t given = 0;
	int err = sink ? 0 : error_fail(client, -GRANARY_EINVAL, "no sink given");

	if (call)
		memcpy(&s.call, call, call->size < sizeof(s.call) ? call->size : sizeof(s.call));
	s.call.size = sizeof(s.call);
	s.call.done = NULL;
	s.end = length < GRANARY_TO_END - offset ? offset + length : GRANARY_TO_END;
	do {
		struct stream_slot *slot = NULL;
		if (err == 0)
			err = stream_fill(&s);
		if (err < 0 || s.count == 0)
			break;
		err = stream_take(&s, &slot);
		if (err == 0)
			err = stream_fill(&s);
		if (err == 0 && slot->entry.data_len > 0)
			err = sink(arg, slot->entry.data, slot->entry.data_len);
		given += err == 0 ? (int64_t)slot->entry.data_len : 0;
		granary_op_free(&slot->op);
	} while (err >= 0);
	stream_end(&s);
	return err < 0 ? err : given;
}
