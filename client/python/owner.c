/* SPDX-License-Identifier: Apache-2.0 */
/* owner.c -- who still uses a client, an epoch or a snapshot: the last one ends it. */
#include "native.h"

struct owner_client *owner_client_ref(struct owner_client *c)
{
	atomic_fetch_add(&c->refs, 1);
	return c;
}

void owner_client_unref(struct owner_client *c)
{
	if (c == NULL || atomic_fetch_sub(&c->refs, 1) != 1) return;
	granary_close(&c->client);
	free(c->endpoint);
	free(c);
}

struct owner_epoch *owner_epoch_ref(struct owner_epoch *e)
{
	atomic_fetch_add(&e->refs, 1);
	return e;
}

void owner_epoch_unref(struct owner_epoch *e)
{
	if (e == NULL || atomic_fetch_sub(&e->refs, 1) != 1) return;
	granary_epoch_close(&e->epoch);
	owner_client_unref(e->client);
	free(e);
}

struct owner_snapshot *owner_snapshot_ref(struct owner_snapshot *s)
{
	atomic_fetch_add(&s->refs, 1);
	return s;
}

void owner_snapshot_unref(struct owner_snapshot *s)
{
	if (s == NULL || atomic_fetch_sub(&s->refs, 1) != 1) return;
	granary_snapshot_close(&s->snapshot);
	owner_client_unref(s->client);
	free(s);
}
