/* SPDX-License-Identifier: Apache-2.0 */
/* write_group.c -- small writes in place of one object that callers have under way at once travel as one request: one
 * frame, one plan and one transaction at the server, and one entry of what is kept until it is durable.
 *
 *   begun -> WAITING    in its lane, one of a bucket and a reference
 *         -> TRAVELS    with all that waited, up to a group's size, as soon as fewer than GROUPS_IN_FLIGHT of the lane
 *                       are under way: who is alone is sent at once, and the more there are the larger a group is
 *         -> done       with the group's answer; an error that may be another member's: asked again, alone
 *
 * Invariants: (1) all of this belongs to the client's thread; (2) a group owns a copy of its members' bytes, so one
 * that is given up takes nothing from it; (3) a group that is sent again leaves out members that were given up since:
 * none of theirs is done long after they heard that it failed; (4) members are one change at the server, all or none,
 * and in the order in which they were begun; (5) a group is nobody's operation: it lasts as long as its members do. */
#include "client_priv.h"

#include <stdlib.h>

enum {
	GROUPS_IN_FLIGHT = 2,
	GROUP_MEMBERS_MAX = 64,
	GROUP_BYTES_MAX = 128 * 1024,
	LANES_MAX = 64, /* more objects at once: their writes go alone */
};

struct lane {
	struct list link; /* io.lanes */
	struct list waiting;
	uint32_t flights; /* groups under way */
	size_t ref_len;
	char bucket[GRANARY_BUCKET_LEN_MAX + 1];
	uint8_t ref[];
};

struct group {
	struct granary_op op; /* of its request alone; never submitted */
	struct list link;     /* io.groups */
	struct lane *lane;
	struct list members;
	uint8_t *bytes;
	struct iovec data;
};

/* In the place of a request of its own. */
struct member {
	struct rpc rpc; /* link: lane.waiting or group.members */
	struct group *group;
};

static const struct rpc_kind member_rpc = { .wire_op = OP_WRITE };
static int group_more(struct granary_op *op);
static int64_t group_finish(struct granary_op *op, int err);
static void group_free(struct granary_op *op);
static const struct op_kind group_kind = { .more = group_more, .finish = group_finish, .free = group_free };

static struct group *group_of(struct granary_op *op) { return container_of(op, struct group, op); }
static struct simple_op *write_of(struct rpc *r) { return container_of(r->op, struct simple_op, op); }
static struct rpc *rpc_at(struct list *at) { return container_of(at, struct rpc, link); }

/* ---- lanes ---- */

void groups_init(struct granary_client *c)
{
	list_init(&c->io.lanes);
	list_init(&c->io.groups);
	c->io.lanes_count = 0;
}

static void lane_settle(struct granary_client *c, struct lane *lane)
{
	if (lane->flights > 0 || !list_empty(&lane->waiting))
		return;
	list_remove(&lane->link);
	c->io.lanes_count--;
	free(lane);
}

static struct lane *lane_for(struct simple_op *s)
{
	struct io *io = &s->op.client->io;

	list_for(at, &io->lanes) {
		struct lane *lane = container_of(at, struct lane, link);
		if (lane->ref_len == s->joins.ref_len && memcmp(lane->ref, s->body, lane->ref_len) == 0 &&
			strcmp(lane->bucket, s->op.bucket) == 0)
			return lane;
	}
	if (io->lanes_count == LANES_MAX)
		return NULL;
	struct lane *lane = calloc(1, sizeof(*lane) + s->joins.ref_len);
	if (!lane)
		return NULL;
	list_init(&lane->waiting);
	lane->ref_len = s->joins.ref_len;
	memcpy(lane->ref, s->body, lane->ref_len);
	memcpy(lane->bucket, s->op.bucket, sizeof(lane->bucket));
	list_push(&io->lanes, &lane->link);
	io->lanes_count++;
	return lane;
}

bool groups_join(struct simple_op *s)
{
	struct lane *lane = lane_for(s);
	struct member *m = lane ? rpc_new(sizeof(*m), &member_rpc, &s->op) : NULL;

	if (lane && !m)
		lane_settle(s->op.client, lane);
	if (!m)
		return false;
	list_push(&lane->waiting, &m->rpc.link);
	return true;
}

/* ---- a group's request ---- */

static size_t group_body_size(struct rpc *r)
{
	struct group *g = group_of(r->op);
	size_t size = g->lane->ref_len + 2 * 8 + 4;

	list_for(at, &g->members) {
		const struct simple_op *s = write_of(rpc_at(at));
		size += s->body_len - s->joins.changes_at;
	}
	return size;
}

static int group_encode(struct rpc *r, struct wr *w)
{
	struct group *g = group_of(r->op);
	uint32_t count = 0;
	uint8_t *to = g->bytes;

	if (list_empty(&g->members))
		return RPC_AGAIN; /* nothing is left to ask */
	list_for(at, &g->members)
		count += write_of(rpc_at(at))->joins.count;
	wr_bytes(w, g->lane->ref, g->lane->ref_len);
	wr_u64(w, 0);
	wr_u64(w, 0);
	wr_u32(w, count);
	list_for(at, &g->members) {
		struct simple_op *s = write_of(rpc_at(at));
		wr_bytes(w, s->body + s->joins.changes_at, s->body_len - s->joins.changes_at);
		for (uint32_t i = 0; i < s->many_count; i++) {
			memcpy(to, s->many[i].iov_base, s->many[i].iov_len);
			to += s->many[i].iov_len;
		}
		s->op.sent = true;
	}
	g->data = (struct iovec){ g->bytes, (size_t)(to - g->bytes) };
	r->data = &g->data;
	r->data_count = 1;
	r->data_len = (uint32_t)g->data.iov_len;
	return 0;
}

static int group_answer(struct rpc *r, struct slice meta, struct slice data)
{
	struct group *g = group_of(r->op);

	for (struct list *at; (at = list_pop(&g->members)) != NULL;) {
		struct rpc *member = rpc_at(at);
		struct simple_op *s = write_of(member);
		int err = s->decode(s, meta, data);
		s->op.request = r->request;
		if (err < 0)
			op_fail(&s->op, err, "the server's answer to a write makes no sense");
		else
			rpc_end(member);
	}
	return 0;
}

static const struct rpc_kind group_rpc = { .wire_op = OP_WRITE, .mutation = true, .body_size = group_body_size,
	.encode = group_encode, .answer = group_answer };

/* ---- its end ---- */

/* One member's bytes, or the sum of all, may be what was refused. */
static bool may_be_of_another(int err)
{
	return err == -GRANARY_ETOOBIG || err == -GRANARY_EQUOTA || err == -GRANARY_ENOSPACE ||
		err == -GRANARY_ECORRUPT;
}

static int group_more(struct granary_op *op)
{
	(void)op;
	return 0;
}

static int64_t group_finish(struct granary_op *op, int err)
{
	struct group *g = group_of(op);
	bool is_asked_again = may_be_of_another(err) && g->members.next->next != &g->members;

	g->lane->flights--;
	g->lane = NULL;
	for (struct list *at; (at = list_pop(&g->members)) != NULL;) {
		struct rpc *member = rpc_at(at);
		struct simple_op *s = write_of(member);
		s->op.request = op->request;
		if (!is_asked_again) {
			op_fail(&s->op, err, "%s", op->error);
			continue;
		}
		s->joins.count = 0; /* alone */
		s->asked = false;
		rpc_end(member);
	}
	return err;
}

static void group_free(struct granary_op *op)
{
	struct group *g = group_of(op);

	list_remove(&op->link);
	list_remove(&g->link);
	if (g->lane)
		g->lane->flights--;
	free(g->bytes);
	free(g);
}

static struct group *group_new(struct granary_client *c, struct lane *lane)
{
	struct group *g = calloc(1, sizeof(*g));
	struct rpc *r;

	if (!g)
		return NULL;
	g->bytes = malloc(GROUP_BYTES_MAX);
	list_init(&g->members);
	list_init(&g->link);
	list_init(&g->op.all);
	list_init(&g->op.link);
	list_init(&g->op.cancel_link);
	list_init(&g->op.rpcs);
	g->op.client = c;
	g->op.kind = &group_kind;
	g->op.unstable = true;
	g->op.is_internal = true;
	g->op.deadline_ns = NEVER_NS;
	memcpy(g->op.bucket, lane->bucket, sizeof(g->op.bucket));
	r = g->bytes ? rpc_new(sizeof(*r), &group_rpc, &g->op) : NULL;
	if (!r) {
		free(g->bytes);
		free(g);
		return NULL;
	}
	g->lane = lane;
	lane->flights++;
	list_push(&c->io.groups, &g->link);
	rpc_queue(r);
	return g;
}

/* Without memory they wait for the next turn, or their deadlines. */
static void lane_turn(struct granary_client *c, struct lane *lane)
{
	while (lane->flights < GROUPS_IN_FLIGHT && !list_empty(&lane->waiting)) {
		struct group *g = group_new(c, lane);
		uint32_t count = 0, changes = 0;
		size_t bytes = 0;
		if (!g)
			return;
		while (!list_empty(&lane->waiting) && count < GROUP_MEMBERS_MAX) {
			struct rpc *r = rpc_at(lane->waiting.next);
			const struct simple_op *s = write_of(r);
			if (bytes + s->joins.bytes > GROUP_BYTES_MAX || changes + s->joins.count > GRANARY_CHANGES_MAX)
				break;
			bytes += s->joins.bytes;
			changes += s->joins.count;
			count++;
			list_remove(&r->link);
			list_push(&g->members, &r->link);
			container_of(r, struct member, rpc)->group = g;
		}
	}
}

void groups_turn(struct granary_client *c)
{
	list_for_safe(at, next, &c->io.lanes) {
		struct lane *lane = container_of(at, struct lane, link);
		lane_turn(c, lane);
		lane_settle(c, lane);
	}
}

const struct granary_op *group_op_of(struct rpc *r)
{
	struct group *g = r->kind == &member_rpc ? container_of(r, struct member, rpc)->group : NULL;

	return g ? &g->op : NULL;
}

/* No member is left. */
void groups_release(struct granary_client *c)
{
	while (!list_empty(&c->io.groups)) {
		struct granary_op *op = &container_of(c->io.groups.next, struct group, link)->op;
		while (!list_empty(&op->rpcs))
			rpc_drop(container_of(op->rpcs.next, struct rpc, op_link));
		op->kind->free(op);
	}
	groups_turn(c);
}
