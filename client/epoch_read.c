/* SPDX-License-Identifier: Apache-2.0 */
/* epoch_read.c -- ranges of an epoch on their way: from the page cache at once, from the disk of this host by threads
 * of the client (local_cold.c), from the server; what one of them cannot bring the next one does.
 *
 * (1) what ranks share comes from the server, which reads it once for all of them. */
#include "epoch_priv.h"

int read_start(struct granary_epoch *e, struct epoch_read *r, struct granary_snapshot *s)
{
	if (!e->sharing && cold_start(&r->cold, &r->plan, e->client, &e->wake))
		return 0;
	return range_start(&r->plan, s, GRANARY_FOREVER, &e->wake, &r->op);
}

bool read_came(const struct epoch_read *r)
{
	return r->op ? granary_op_done(r->op) : cold_came(&r->cold);
}

bool read_goes_on(struct granary_epoch *e, struct epoch_read *r, struct granary_snapshot *s, int *err)
{
	*err = 0;
	if (cold_end(&r->cold, e->client) > 0)
		*err = range_start(&r->plan, s, GRANARY_FOREVER, &e->wake, &r->op);
	return *err == 0 && r->op && !granary_op_done(r->op);
}

int64_t read_result(const struct epoch_read *r)
{
	return r->op ? granary_wait(r->op, 0) : 0;
}

const char *read_error(struct granary_epoch *e, const struct epoch_read *r)
{
	return r->op ? granary_op_error(r->op) : granary_last_error(e->client);
}

void read_end(struct granary_epoch *e, struct epoch_read *r)
{
	cold_end(&r->cold, e->client);
	granary_op_free(&r->op);
}
