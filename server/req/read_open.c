/* SPDX-License-Identifier: Apache-2.0 */
/* read_open.c -- entries of a READ that are opened to be read, so that a small file is opened and read in one request:
 * mostly without a worker, from the tables.
 *
 * Invariants: those of open.c. (4) What was opened by a location of the tables is found there once more: a removal that
 * ended before took it out of them, one that begins later sees the open. (5) An entry that fails after it was opened
 * stays open: who asked closes it. */
#include "req/open.h"
#include "req/orphans.h"
#include "req/read.h"

#include "common/error.h"

static int table_look(struct read *b, struct read_entry *e, uint64_t id)
{
	struct obj_loc loc;
	int err = ns_find_cached(b->auth.store->ns, &e->ref, &loc);

	if (err == 0 && loc.id != id) err = -GRANARY_EAGAIN;
	if (err == 0) e->loc = loc;
	return err;
}

int read_open_found(struct read *b, struct read_entry *e)
{
	struct store *store = b->auth.store;
	uint64_t id = e->loc.id;
	int err;

	if (b->peer->session == NULL || !session_has_opens(b->peer->session)) return -GRANARY_EAGAIN;
	err = opens_add(store->opens, b->auth.session, e->handle, id, OPEN_FOR_READ);
	if (err < 0) return err;
	err = opens_is_removing(store->opens, id) ? -GRANARY_EAGAIN : table_look(b, e, id);
	if (err < 0) open_close(store, b->auth.session, e->handle);
	return err;
}

int read_open_look(struct read *b, struct auth *a, struct read_entry *e)
{
	struct open_ask ask = { .ref = e->ref, .handle = e->handle, .access = OPEN_FOR_READ };
	struct slice dir_part, name = e->ref.name;
	struct stat_entry found;
	int err;

	if (b->peer->session == NULL) return -GRANARY_EUNSUPPORTED;
	memset(&found, 0, sizeof(found));
	err = open_object(b->r, a, &ask, &found);
	if (err < 0) return err;
	if (e->ref.by == NS_BY_KEY) key_split(e->ref.name, &dir_part, &name);
	if (e->ref.by != NS_BY_ID)
		e->ref = (struct ns_ref){ .by = NS_BY_ID, .dir = found.loc.dir_id, .id = found.loc.id, .name = name };
	e->flags &= (uint8_t)~READ_ENTRY_OPEN;
	return 0;
}
