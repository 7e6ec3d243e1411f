/* SPDX-License-Identifier: Apache-2.0 */
/* handshake.c -- HELLO and AUTH: PROTOCOL 2. Both sides prove that they know the secret; it never travels. */
#include "client_priv.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>

#include "net.h"

enum { HELLO_REQUEST = 1, AUTH_REQUEST = 2 };

static int hs_send(struct conn *k, uint8_t op, const struct wr *meta)
{
	size_t len = wr_len(meta);
	struct frame f = { .op = op, .meta_len = (uint32_t)len,
		.request = op == OP_HELLO ? HELLO_REQUEST : AUTH_REQUEST };

	if (!wr_ok(meta))
		return -GRANARY_EINVAL;
	f.meta_crc = len > 0 ? crc32c(0, k->hs_out + WIRE_HEADER_SIZE, len) : 0;
	frame_encode(&f, k->hs_out);
	k->hs_len = WIRE_HEADER_SIZE + len;
	k->hs_at = 0;
	return tx_flush(k);
}

static struct wr hs_meta(struct conn *k)
{
	return wr_of(k->hs_out + WIRE_HEADER_SIZE, WIRE_PREAUTH_META_MAX);
}

int handshake_start(struct conn *k)
{
	const struct config *config = &k->client->config;
	uint8_t nonce[WIRE_NONCE_SIZE];
	struct wr w = hs_meta(k);

	rand_bytes(nonce, sizeof(nonce));
	wr_u16(&w, WIRE_VERSION);
	wr_u16(&w, WIRE_VERSION);
	wr_u32(&w, RX_DATA_MAX);
	wr_bytes(&w, nonce, sizeof(nonce));
	k->hello_session = k->client->io.session.id;
	wr_u64(&w, k->hello_session);
	wr_u8(&w, 0);
	wr_u16(&w, 0);
	text_encode(&w, config->access_key);
	text_encode(&w, config->name);
	k->hello_len = wr_len(&w);
	memcpy(k->hello, w.start, k->hello_len);
	k->state = CONN_HELLO;
	return hs_send(k, OP_HELLO, &w);
}

/* HMAC-SHA256(secret, label + both metas of HELLO + tail). */
static int proof(const struct conn *k, const char *label, struct slice tail, uint8_t out[WIRE_HMAC_SIZE])
{
	uint8_t text[32 + 2 * WIRE_PREAUTH_META_MAX];
	struct wr w = wr_of(text, sizeof(text));
	unsigned len = WIRE_HMAC_SIZE;

	wr_bytes(&w, label, strlen(label));
	wr_bytes(&w, k->hello, k->hello_len);
	wr_slice(&w, tail);
	if (!wr_ok(&w) || !HMAC(EVP_sha256(), k->client->config.secret, WIRE_SECRET_SIZE, text, wr_len(&w), out, &len))
		return -GRANARY_EPROTO;
	return 0;
}

static void info_set(struct conn *k, uint64_t boot_id, uint64_t time_ns, struct slice store_id, struct slice version)
{
	struct granary_client *c = k->client;

	pthread_mutex_lock(&c->lock);
	c->info.boot_id = boot_id;
	c->info.store_time_ns = time_ns;
	memcpy(c->info.store_id, store_id.p, sizeof(c->info.store_id));
	text_copy(c->info.server_version, sizeof(c->info.server_version), version);
	if (k->index == 0)
		snprintf(c->info.host, sizeof(c->info.host), "%s", c->config.hosts[k->host_at].name);
	pthread_mutex_unlock(&c->lock);
}

static int hello_answered(struct conn *k, struct slice meta)
{
	struct cur c = cur_of(meta.p, meta.len);
	uint16_t version = cur_u16(&c);
	uint32_t flight;

	k->meta_max = cur_u32(&c);
	k->data_max = cur_u32(&c);
	flight = cur_u32(&c);
	cur_bytes(&c, WIRE_NONCE_SIZE);
	struct slice store_id = cur_bytes(&c, 16);
	uint64_t boot_id = cur_u64(&c), time_ns = cur_u64(&c);
	struct slice server = cur_bytes16(&c);
	if (!cur_done(&c) || flight == 0 || k->hello_len + meta.len > sizeof(k->hello))
		return -GRANARY_EPROTO;
	if (version != WIRE_VERSION)
		return -GRANARY_EVERSION;
	k->flight_max = flight < CONN_FLIGHT_MAX ? flight : CONN_FLIGHT_MAX;
	memcpy(k->hello + k->hello_len, meta.p, meta.len);
	k->hello_len += meta.len;
	info_set(k, boot_id, time_ns, store_id, server);
	unstable_hello(k->client, boot_id);
	files_hello(k->client, boot_id);
	local_hello(k->client, k, boot_id);

	uint8_t mac[WIRE_HMAC_SIZE];
	int err = proof(k, WIRE_CLIENT_LABEL, slice_of(NULL, 0), mac);
	if (err < 0)
		return err;
	struct wr w = hs_meta(k);
	wr_bytes(&w, mac, sizeof(mac));
	k->state = CONN_AUTH;
	return hs_send(k, OP_AUTH, &w);
}

static int auth_answered(struct conn *k, struct slice meta)
{
	struct granary_client *c = k->client;
	struct session *s = &c->io.session;
	struct cur in = cur_of(meta.p, meta.len);
	struct slice id_bytes = slice_of(meta.p, 8);
	uint64_t id = cur_u64(&in);
	uint8_t expected[WIRE_HMAC_SIZE];

	c->io.files.lease_ns = cur_u32(&in) * UINT64_C(1000000000);
	struct slice mac = cur_bytes(&in, WIRE_HMAC_SIZE);
	if (!cur_done(&in) || id == 0)
		return -GRANARY_EPROTO;
	int err = proof(k, WIRE_SERVER_LABEL, id_bytes, expected);
	if (err < 0)
		return err;
	if (CRYPTO_memcmp(mac.p, expected, sizeof(expected)) != 0) {
		snprintf(k->why, sizeof(k->why),
			"the server does not know this access key's secret: it is not the one you mean");
		return -GRANARY_EAUTH;
	}
	if (s->id != 0 && s->id != id)
		session_changed(c);
	s->id = id;
	pthread_mutex_lock(&c->lock);
	c->info.session_id = id;
	pthread_mutex_unlock(&c->lock);
	k->state = CONN_READY;
	k->backoff = k->hosts_tried = 0;
	k->last_rx_ns = c->io.now_ns;
	c->io.why[0] = '\0';
	return 0;
}

/* Our session is not known any more: the next try asks for a new one. Of several connections that asked for it the
 * first does so; the others must not forget the one that was begun since. */
static void session_forget(struct conn *k, int err)
{
	struct granary_client *c = k->client;

	if (c->io.session.id == 0 || c->io.session.id != k->hello_session ||
	    (err != -GRANARY_ESTALE && err != -GRANARY_ENOTFOUND))
		return;
	session_changed(c);
	c->io.session.id = 0;
}

static int hs_refused(struct conn *k, const struct frame *f, struct slice meta)
{
	int err = -(int)f->status;
	const char *host = k->client->config.hosts[k->host_at].name;
	char said[ERROR_TEXT_SIZE / 2];

	text_copy(said, sizeof(said), error_meta(meta));
	if (f->op == OP_GOODBYE && err == 0)
		err = -GRANARY_ECLOSED;
	session_forget(k, err);
	if (err == -GRANARY_ESTALE || err == -GRANARY_ENOTFOUND)
		err = -GRANARY_ECLOSED;
	const char *key = k->client->config.access_key;
	snprintf(k->why, sizeof(k->why), "'%.120s' refused the log-in%s%.40s%s: %.240s", host,
		key[0] ? " of key '" : "", key,
		key[0] ? "'" : "", said[0] ? said : error_text(err));
	return err;
}

int handshake_frame(struct conn *k, const struct frame *f, struct slice meta)
{
	if (f->op == OP_GOODBYE || f->status != 0)
		return hs_refused(k, f, meta);
	if (!(f->flags & FRAME_RESPONSE) || f->data_len != 0)
		return -GRANARY_EPROTO;
	if (k->state == CONN_HELLO && f->op == OP_HELLO && f->request == HELLO_REQUEST)
		return hello_answered(k, meta);
	if (k->state == CONN_AUTH && f->op == OP_AUTH && f->request == AUTH_REQUEST)
		return auth_answered(k, meta);
	return -GRANARY_EPROTO;
}

/* Said once, without waiting: the end of the connection says the same. */
void handshake_goodbye(struct conn *k)
{
	struct frame f = { .op = OP_GOODBYE, .request = 1 };
	struct iovec iov = { k->hs_out, WIRE_HEADER_SIZE };

	if (k->state != CONN_READY || k->tx_at > 0)
		return;
	frame_encode(&f, k->hs_out);
	if (k->client->io.engine->writev(k->client->io.net, k->fd, &iov, 1) < 0)
		return;
}
