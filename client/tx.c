/* SPDX-License-Identifier: Apache-2.0 */
/* tx.c -- sends requests: many of them in one call, data straight from the caller's memory. */
#include "client_priv.h"

#include "net.h"

enum { TX_IOV_MAX = 128 };

struct gather {
	struct iovec iov[TX_IOV_MAX];
	int count;
	size_t skip; /* bytes of the first request that are sent */
	size_t len;
};

static bool gather_add(struct gather *g, void *p, size_t len)
{
	if (g->skip >= len) {
		g->skip -= len;
		return true;
	}
	if (g->count == TX_IOV_MAX)
		return false;
	g->iov[g->count++] = (struct iovec){ (uint8_t *)p + g->skip, len - g->skip };
	g->len += len - g->skip;
	g->skip = 0;
	return true;
}

static bool gather_rpc(struct gather *g, const struct rpc *r)
{
	if (!gather_add(g, r->out, r->out_len))
		return false;
	for (uint32_t i = 0; i < r->data_count; i++)
		if (!gather_add(g, r->data[i].iov_base, r->data[i].iov_len))
			return false;
	return true;
}

/* n more bytes are sent: requests that are out whole are in flight now. */
static void tx_advance(struct conn *k, size_t n)
{
	k->tx_at += n;
	while (!list_empty(&k->tx)) {
		struct rpc *r = container_of(k->tx.next, struct rpc, link);
		size_t len = r->out_len + r->data_len;
		if (k->tx_at < len)
			return;
		k->tx_at -= len;
		r->state = RPC_FLIGHT;
		r->sent_ns = k->client->io.now_ns;
		list_remove(&r->link);
		list_push(&k->flight, &r->link);
	}
}

static int tx_handshake(struct conn *k)
{
	while (k->hs_at < k->hs_len) {
		struct iovec iov = { k->hs_out + k->hs_at, k->hs_len - k->hs_at };
		ssize_t n = k->client->io.engine->writev(k->client->io.net, k->fd, &iov, 1);
		if (n < 0)
			return (int)n;
		k->hs_at += (size_t)n;
	}
	return 0;
}

static int tx_some(struct conn *k)
{
	struct gather g;

	g.count = 0;
	g.len = 0;
	g.skip = k->tx_at;
	list_for(at, &k->tx)
		if (!gather_rpc(&g, container_of(at, struct rpc, link)))
			break;
	ssize_t n = k->client->io.engine->writev(k->client->io.net, k->fd, g.iov, g.count);
	if (n < 0)
		return (int)n;
	atomic_fetch_add_explicit(&k->client->counters.bytes_sent, (uint64_t)n, memory_order_relaxed);
	tx_advance(k, (size_t)n);
	return (size_t)n < g.len ? -GRANARY_EAGAIN : 0;
}

int tx_flush(struct conn *k)
{
	int err = tx_handshake(k);

	while (err == 0 && k->state == CONN_READY && !list_empty(&k->tx))
		err = tx_some(k);
	conn_want_write(k, err == -GRANARY_EAGAIN);
	return err == -GRANARY_EAGAIN ? 0 : err;
}
