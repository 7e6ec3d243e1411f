/* SPDX-License-Identifier: Apache-2.0 */
/* s3_sign.c -- the canonical request goes straight into a hash: it is never held as text, so its length has no
 * limit. */
#include "tier/s3_sign.h"

#include <assert.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "granary/error.h"

enum { SHA256_SIZE = 32, SCOPE_MAX = 128, SIGNED_MAX = 256, HEADERS_ALL = S3_SIGN_HEADERS_MAX + 4 };

static void hex(const uint8_t *p, size_t len, char *out)
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < len; i++) {
		out[2 * i] = digits[p[i] >> 4];
		out[2 * i + 1] = digits[p[i] & 15];
	}
	out[2 * len] = '\0';
}

void s3_sha256_hex(const void *data, size_t len, char out[S3_SHA256_HEX])
{
	uint8_t sum[SHA256_SIZE];
	int ok = EVP_Digest(data, len, sum, NULL, EVP_sha256(), NULL);

	assert(ok == 1);
	hex(sum, sizeof(sum), out);
}

/* ---- encoding ---- */

struct text {
	char *p;
	size_t len, cap;
	bool full;
};

static void text_char(struct text *t, char c)
{
	if (t->len + 1 < t->cap)
		t->p[t->len++] = c;
	else
		t->full = true;
	t->p[t->len] = '\0';
}

static void text_add(struct text *t, const char *s)
{
	for (; *s; s++) text_char(t, *s);
}

static void text_encode(struct text *t, const char *s, bool keep_slash)
{
	static const char upper[] = "0123456789ABCDEF";

	for (; *s; s++) {
		unsigned char c = (unsigned char)*s;
		bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
			     c == '.' || c == '_' || c == '~' || (keep_slash && c == '/');
		if (plain) {
			text_char(t, (char)c);
			continue;
		}
		text_char(t, '%');
		text_char(t, upper[c >> 4]);
		text_char(t, upper[c & 15]);
	}
}

/* Names of queries and headers here are ASCII letters, digits and '-': their order is that of their encoded form. */
static void pairs_sort(struct s3_pair *pairs, unsigned count)
{
	for (unsigned i = 1; i < count; i++) {
		struct s3_pair moved = pairs[i];
		unsigned k = i;
		for (; k > 0 && strcmp(pairs[k - 1].name, moved.name) > 0; k--) pairs[k] = pairs[k - 1];
		pairs[k] = moved;
	}
}

/* ---- the parts of a signature ---- */

static void hmac(const void *key, size_t key_len, const char *data, uint8_t out[SHA256_SIZE])
{
	unsigned len = SHA256_SIZE;
	void *done = HMAC(EVP_sha256(), key, (int)key_len, (const uint8_t *)data, strlen(data), out, &len);

	assert(done && len == SHA256_SIZE);
}

static void hash_add(EVP_MD_CTX *ctx, const char *s)
{
	int ok = EVP_DigestUpdate(ctx, s, strlen(s));

	assert(ok == 1);
}

static void hash_line(EVP_MD_CTX *ctx, const char *s)
{
	hash_add(ctx, s);
	hash_add(ctx, "\n");
}

/* All headers that are signed, sorted, and their names as SignedHeaders has them. */
static unsigned headers_all(const struct s3_request *r, const struct s3_key *key, const char *date,
	struct s3_pair all[HEADERS_ALL], struct text *names)
{
	unsigned count = 0;

	assert(r->header_count <= S3_SIGN_HEADERS_MAX);
	for (unsigned i = 0; i < r->header_count; i++) all[count++] = r->headers[i];
	all[count++] = (struct s3_pair){ "host", r->host };
	all[count++] = (struct s3_pair){ "x-amz-content-sha256", r->payload_hash };
	all[count++] = (struct s3_pair){ "x-amz-date", date };
	if (key->token[0]) all[count++] = (struct s3_pair){ "x-amz-security-token", key->token };
	pairs_sort(all, count);
	for (unsigned i = 0; i < count; i++) {
		if (i) text_char(names, ';');
		text_add(names, all[i].name);
	}
	return count;
}

static void query_encode(const struct s3_request *r, struct text *out)
{
	struct s3_pair sorted[S3_SIGN_QUERY_MAX];

	assert(r->queries <= S3_SIGN_QUERY_MAX);
	memcpy(sorted, r->query, r->queries * sizeof(sorted[0]));
	pairs_sort(sorted, r->queries);
	for (unsigned i = 0; i < r->queries; i++) {
		if (i) text_char(out, '&');
		text_encode(out, sorted[i].name, false);
		text_char(out, '=');
		if (sorted[i].value) text_encode(out, sorted[i].value, false);
	}
}

static void request_hash(const struct s3_request *r, const char *path, const char *query,
	const struct s3_pair *headers, unsigned count, const char *names, char out[S3_SHA256_HEX])
{
	uint8_t sum[SHA256_SIZE];
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	int ok = ctx && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL);

	assert(ok);
	hash_line(ctx, r->method);
	hash_line(ctx, path);
	hash_line(ctx, query);
	for (unsigned i = 0; i < count; i++) {
		hash_add(ctx, headers[i].name);
		hash_add(ctx, ":");
		hash_line(ctx, headers[i].value);
	}
	hash_line(ctx, "");
	hash_line(ctx, names);
	hash_add(ctx, r->payload_hash);
	ok = EVP_DigestFinal_ex(ctx, sum, NULL);
	assert(ok == 1);
	EVP_MD_CTX_free(ctx);
	hex(sum, sizeof(sum), out);
}

static void sign_text(const struct s3_key *key, const char *day, const char *text, char out[S3_SHA256_HEX])
{
	char first[4 + sizeof(key->secret)];
	uint8_t a[SHA256_SIZE], b[SHA256_SIZE];

	snprintf(first, sizeof(first), "AWS4%s", key->secret);
	hmac(first, strlen(first), day, a);
	hmac(a, sizeof(a), key->region, b);
	hmac(b, sizeof(b), "s3", a);
	hmac(a, sizeof(a), "aws4_request", b);
	hmac(b, sizeof(b), text, a);
	hex(a, sizeof(a), out);
	OPENSSL_cleanse(first, sizeof(first));
	OPENSSL_cleanse(b, sizeof(b));
}

int s3_sign(const struct s3_request *r, const struct s3_key *key, int64_t wall_s, struct s3_signed *out)
{
	char query_buf[S3_SIGN_URI_MAX] = "", names_buf[SIGNED_MAX] = "", scope[SCOPE_MAX], day[9];
	char hash[S3_SHA256_HEX], signature[S3_SHA256_HEX], text[SCOPE_MAX + S3_SHA256_HEX + 64];
	struct text path = { out->uri, 0, sizeof(out->uri), false };
	struct text query = { query_buf, 0, sizeof(query_buf), false };
	struct text names = { names_buf, 0, sizeof(names_buf), false };
	struct s3_pair headers[HEADERS_ALL];
	struct tm tm;
	time_t t = (time_t)wall_s;

	assert(r->path[0] == '/');
	if (!gmtime_r(&t, &tm) || strftime(out->date, sizeof(out->date), "%Y%m%dT%H%M%SZ", &tm) != S3_DATE_SIZE - 1)
		return -GRANARY_EINVAL;
	snprintf(day, sizeof(day), "%.8s", out->date);
	text_encode(&path, r->path, true);
	query_encode(r, &query);
	unsigned count = headers_all(r, key, out->date, headers, &names);
	request_hash(r, out->uri, query_buf, headers, count, names_buf, hash);
	if (r->queries) {
		text_char(&path, '?');
		text_add(&path, query_buf);
	}
	if (path.full || query.full || names.full) return -GRANARY_ETOOBIG;

	snprintf(scope, sizeof(scope), "%s/%s/s3/aws4_request", day, key->region);
	snprintf(text, sizeof(text), "AWS4-HMAC-SHA256\n%s\n%s\n%s", out->date, scope, hash);
	sign_text(key, day, text, signature);
	int n = snprintf(out->authorization, sizeof(out->authorization),
		"AWS4-HMAC-SHA256 Credential=%s/%s,SignedHeaders=%s,Signature=%s", key->id, scope, names_buf,
		signature);
	return n > 0 && n < (int)sizeof(out->authorization) ? 0 : -GRANARY_ETOOBIG;
}
