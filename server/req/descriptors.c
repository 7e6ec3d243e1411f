/* SPDX-License-Identifier: Apache-2.0 */
/* descriptors.c -- descriptors of sealed packs for a process of this host, which then reads them itself
 * (PROTOCOL 4.17): PARSE -> OPEN (worker) -> ANSWER.
 *
 * A descriptor shows all of a pack: what was deleted and not compacted away, too. So it goes only to who may read all
 * of the bucket that the pack was written for, as its placement group says; a pack that no bucket can be found
 * for, or the system's own, goes to nobody.
 *
 * Invariants: (1) what is passed was opened for that, read-only, and shares nothing with the store's own descriptors;
 * (2) one request for descriptors a connection, until its answer is sent; DESCRIPTORS_OUT_MAX descriptors over all:
 * what waits to be sent is bounded; (3) every descriptor opened is closed when the answer is released, sent or not;
 * (4) a pack that is asked for counts as read once (tier/heat.h): its bytes are read unseen, and a process
 * that reads on asks again every minute. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "io/sock.h"
#include "meta/snapshot.h"
#include "req/kind.h"
#include "tier/heat.h"
#include "tier/packs.h"

enum { DESCRIPTORS_OUT_MAX = 256 };

struct wanted {
	uint64_t pack, dev, ino; /* of the descriptor that the peer has, or 0 */
	int err;
	uint8_t flags;
	struct pack_shared shared;
};
struct descriptors {
	const struct ns_access_key *key;
	uint32_t count, reserved; /* reserved: of descriptors_out */
	struct wanted wanted[DESCRIPTORS_MAX];
};
struct passing {
	struct answer a;
	struct req_peer *peer;
	struct store *store;
	uint32_t reserved;
	int fds[DESCRIPTORS_MAX];
	uint8_t meta[4 + DESCRIPTORS_MAX * DESCRIPTORS_ENTRY_SIZE];
};

static void fds_close(const int *fds, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) sock_close(fds[i]);
}

/* ---- parse ---- */

static bool out_reserve(struct store *store, uint32_t count)
{
	if (atomic_fetch_add(&store->descriptors_out, count) + count <= DESCRIPTORS_OUT_MAX) return true;
	atomic_fetch_sub(&store->descriptors_out, count);
	return false;
}

static int parse(struct cur *c, struct descriptors *d)
{
	d->count = cur_u32(c);
	if (!cur_ok(c) || d->count == 0 || d->count > DESCRIPTORS_MAX) return -GRANARY_EPROTO;
	for (uint32_t i = 0; i < d->count; i++) {
		struct wanted *w = &d->wanted[i];

		w->pack = cur_u64(c);
		w->dev = cur_u64(c);
		w->ino = cur_u64(c);
		w->shared.fd = -1;
	}
	return cur_done(c) ? 0 : -GRANARY_EPROTO;
}

static void open_work(struct req *r);

static enum step_result descriptors_parse(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct descriptors *d = req_alloc(sizeof(*d));

	memset(d, 0, sizeof(*d));
	r->body = d;
	d->key = r->peer->key;
	if (parse(&c, d) < 0)
		return req_fail(r, -GRANARY_EPROTO, "DESCRIPTORS does not parse, or has not 1 to %d packs",
			DESCRIPTORS_MAX);
	if (!r->store->options.local_reads)
		return req_fail(r, -GRANARY_EUNSUPPORTED, "descriptors of packs are not passed: local_reads is off");
	if (!r->peer->is_local)
		return req_fail(r, -GRANARY_EUNSUPPORTED,
			"descriptors are passed over a Unix socket only: connect to one of the server's");
	if (r->peer->takes_descriptors || !out_reserve(r->store, d->count))
		return req_fail(r, -GRANARY_EBUSY, "descriptors are on their way already");
	d->reserved = d->count;
	r->peer->takes_descriptors = true;
	r->step++;
	return req_work(r, open_work);
}

/* ---- open ---- */

struct snapshot_search {
	uint64_t id, bucket;
};

static int snapshot_is(void *arg, uint64_t bucket, struct slice name, const struct snapshot_row *s)
{
	struct snapshot_search *search = arg;

	(void)name;
	if (s->id != search->id) return 0;
	search->bucket = bucket;
	return 1;
}

/* The bucket whose objects a placement group holds: its own, that of a dataset's directory, that of a snapshot which
 * was repacked. */
static int group_bucket(struct store *store, uint64_t group, struct ns_bucket *out)
{
	struct snapshot_search search = { .id = group };
	char path[KEY_LEN_MAX + 1];
	uint64_t bucket;
	size_t len;

	if (ns_bucket_by_id(store->ns, group, out) == 0) return 0;
	if (ns_dir_path(store->ns, group, &bucket, path, sizeof(path), &len) == 0)
		return ns_bucket_by_id(store->ns, bucket, out);
	if (snapshot_each(store->kv, 0, slice_of(NULL, 0), snapshot_is, &search) == 1)
		return ns_bucket_by_id(store->ns, search.bucket, out);
	return -GRANARY_ENOTFOUND;
}

static int may_have(struct store *store, const struct ns_access_key *key, uint64_t pack_id)
{
	struct pack *pack = packs_ref(store->packs, pack_id);
	struct ns_bucket bucket;
	uint64_t group;

	if (pack == NULL) return -GRANARY_ESTALE;
	group = pack_group(pack);
	packs_unref(store->packs, pack);
	if (group_bucket(store, group, &bucket) < 0 || bucket.name[0] == '.') return -GRANARY_EACCESS;
	return auth_whole(key, GRANT_READ, slice_of(bucket.name, bucket.name_len)) ? 0 : -GRANARY_EACCESS;
}

static void open_work(struct req *r)
{
	struct descriptors *d = r->body;

	for (uint32_t i = 0; i < d->count; i++) {
		struct wanted *w = &d->wanted[i];

		w->err = may_have(r->store, d->key, w->pack);
		if (w->err == 0) w->err = packs_open_shared(r->store->packs, w->pack, &w->shared);
		if (w->err < 0) continue;
		w->flags = DESCRIPTOR_PASSED;
		heat_note(r->store->heat, w->pack, 1, 0);
		if (w->shared.dev != w->dev || w->shared.ino != w->ino) continue;
		w->flags = DESCRIPTOR_SAME;
		fds_close(&w->shared.fd, 1);
		w->shared.fd = -1;
	}
}

/* ---- answer ---- */

static void passing_released(struct answer *a)
{
	struct passing *p = container_of(a, struct passing, a);

	fds_close(p->fds, a->fd_count);
	atomic_fetch_sub(&p->store->descriptors_out, p->reserved);
	p->peer->takes_descriptors = false;
	free(p);
}

static enum step_result descriptors_answer(struct req *r)
{
	struct descriptors *d = r->body;
	struct passing *p = req_alloc(sizeof(*p));
	struct wr w = wr_of(p->meta, sizeof(p->meta));

	memset(&p->a, 0, sizeof(p->a));
	p->peer = r->peer;
	p->store = r->store;
	p->reserved = d->reserved;
	d->reserved = 0;
	wr_u32(&w, d->count);
	for (uint32_t i = 0; i < d->count; i++) {
		struct wanted *want = &d->wanted[i];

		wr_u64(&w, want->pack);
		wr_u16(&w, (uint16_t)-want->err);
		wr_u8(&w, want->flags);
		wr_u64(&w, want->shared.dev);
		wr_u64(&w, want->shared.ino);
		wr_u64(&w, want->shared.size);
		if (want->shared.fd >= 0) p->fds[p->a.fd_count++] = want->shared.fd;
		want->shared.fd = -1;
	}
	p->a.request = r->frame.request;
	p->a.op = OP_DESCRIPTORS;
	p->a.released = passing_released;
	p->a.meta = p->meta;
	p->a.meta_len = (uint32_t)wr_len(&w);
	p->a.memory = sizeof(*p);
	p->a.fds = p->fds;
	stat_add(&r->local->stats->entries[OP_DESCRIPTORS], d->count);
	stat_add(&r->local->stats->descriptors_passed, p->a.fd_count);
	answer_send(r, &p->a, true);
	return STEP_DONE;
}

static void descriptors_cleanup(struct req *r)
{
	struct descriptors *d = r->body;

	r->body = NULL;
	if (d == NULL) return;
	if (d->reserved > 0) {
		atomic_fetch_sub(&r->store->descriptors_out, d->reserved);
		r->peer->takes_descriptors = false;
	}
	free(d);
}

static const struct req_step descriptors_steps[] = { { "parse", descriptors_parse }, { "answer", descriptors_answer } };
const struct req_kind descriptors_kind = {
	.op = OP_DESCRIPTORS,
	.name = "descriptors",
	.action = GRANT_READ,
	.steps = descriptors_steps,
	.step_count = 2,
	.cleanup = descriptors_cleanup,
};
