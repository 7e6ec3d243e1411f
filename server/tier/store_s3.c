/* SPDX-License-Identifier: Apache-2.0 */
/* store_s3.c -- a cold store in a bucket of an S3 service (store.h is its contract).
 * An object of up to PART_SIZE is one PUT; a larger one an upload in parts, each part held in memory until it
 * is there, so that it can be sent again. Invariants: (1) an object appears by the last request of a put
 * alone; (2) that request, repeated after an answer that got lost, is recognised by what it says of the upload
 * and by the object's length: names are never used twice; (3) parts of an upload that is given up are aborted;
 * one that a crash cut off is listed, and removed, as an object NAME.part: the sweep of a later start finds it. */
#include "tier/store.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "granary/error.h"
#include "tier/s3_http.h"

enum {
	PART_SIZE = 8 * 1024 * 1024,
	PARTS_MAX = 10000,
	COMPLETE_TRIES = 8,
	COMPLETE_PART_TEXT = S3_ETAG_MAX * 6 + 96
};
#define UNFINISHED ".part"
#define ABORT_NS (UINT64_C(5) * 1000 * 1000 * 1000)

struct store_s3 {
	struct cold cold;
	struct s3 *s3;
	char prefix[S3_PREFIX_MAX];
};

struct put_s3 {
	struct cold_put put;
	struct store_s3 *store;
	char name[COLD_NAME_MAX + 1], upload[S3_UPLOAD_ID_MAX];
	uint64_t len_max, len;
	char (*etags)[S3_ETAG_MAX];
	unsigned parts;
	size_t filled;
	uint8_t *part; /* PART_SIZE */
};

static struct store_s3 *store_of(struct cold *c)
{
	return (struct store_s3 *)c;
}

static void store_close(struct cold *c)
{
	struct store_s3 *s = store_of(c);

	s3_free(&s->s3);
	free(s);
}

/* ---- reading ---- */

static int64_t store_get(
	struct cold *c, const char *name, void *buf, size_t len, uint64_t offset, uint64_t deadline_ns)
{
	char range[64];
	uint64_t first, last, total;

	if (len == 0) return 0;
	snprintf(range, sizeof(range), "bytes=%llu-%llu", (unsigned long long)offset,
		(unsigned long long)(offset + len - 1));
	for (unsigned tries = 0;; tries++) {
		struct s3_call call = { .method = "GET", .key = name, .range = range, .buf = buf, .cap = len };
		int err = s3_call(store_of(c)->s3, &call, deadline_ns);
		if (err == -GRANARY_ERANGE) return 0; /* past the end */
		if (err < 0) return err;
		/* Shorter only at the object's end. */
		if (call.status == 206 && s3_read_content_range(call.content_range, &first, &last, &total) &&
			first == offset && last - first + 1 == call.len && (call.len == len || last + 1 == total))
			return (int64_t)call.len;
		err = s3_pause(store_of(c)->s3, tries, deadline_ns);
		if (err < 0) return -GRANARY_ECORRUPT;
	}
}

/* By a range of one byte: the answer to HEAD has no body, so it cannot tell a missing object from a missing
 * bucket. */
static int store_stat(struct cold *c, const char *name, uint64_t deadline_ns, uint64_t *len)
{
	char byte;
	uint64_t first, last;
	struct s3_call call = { .method = "GET", .key = name, .range = "bytes=0-0", .buf = &byte, .cap = 1 };
	int err = s3_call(store_of(c)->s3, &call, deadline_ns);

	*len = 0;
	if (err == -GRANARY_ERANGE) return 0; /* empty */
	if (err < 0) return err;
	return s3_read_content_range(call.content_range, &first, &last, len) ? 0 : -GRANARY_ECORRUPT;
}

struct list_names {
	int (*each)(void *arg, const char *name, uint64_t len);
	void *arg;
	size_t prefix_len;
};

static int list_name(void *arg, const char *key, uint64_t len)
{
	struct list_names *l = arg;

	if (strlen(key) <= l->prefix_len) return 0; /* the entry of the prefix itself, made by some consoles */
	return l->each(l->arg, key + l->prefix_len, len);
}

/* Of uploads that nobody ended, as objects of the name NAME.part: what the sweep removes is aborted. */
struct list_uploads {
	struct list_names names;
	struct store_s3 *store;
	const char *only; /* abort those of this key; NULL: name them */
	uint64_t deadline_ns;
};

static int upload_abort(struct s3 *s3, const char *name, const char *upload, uint64_t deadline_ns)
{
	struct s3_call call = { .method = "DELETE", .key = name, .query = { { "uploadId", upload } }, .queries = 1,
		.text = true };
	int err = s3_call(s3, &call, deadline_ns);

	s3_call_end(&call);
	return err == -GRANARY_ENOTFOUND || err == -GRANARY_ESTALE ? 0 : err;
}

static int list_upload(void *arg, const char *key, const char *upload)
{
	struct list_uploads *l = arg;
	char name[S3_KEY_MAX + 8];

	if (strlen(key) <= l->names.prefix_len) return 0;
	key += l->names.prefix_len;
	if (l->only != NULL)
		return strcmp(key, l->only) == 0 ? upload_abort(l->store->s3, key, upload, l->deadline_ns) : 0;
	snprintf(name, sizeof(name), "%.*s%s", S3_KEY_MAX, key, UNFINISHED);
	return l->names.each(l->names.arg, name, 0);
}

/* whole: of the key, with the store's prefix. A service that does not know such lists has nothing to say. */
static int uploads_each(struct list_uploads *l, const char *whole)
{
	struct s3_uploads *u = calloc(1, sizeof(*u));
	char key[S3_KEY_MAX + 1] = "", upload[S3_UPLOAD_ID_MAX] = "";
	int err = u ? 0 : -GRANARY_ENOMEM;

	if (err < 0) return err;
	u->each = list_upload;
	u->arg = l;
	do {
		struct s3_call call = { .method = "GET",
			.text = true,
			.query = { { "uploads", NULL }, { "prefix", whole }, { "encoding-type", "url" },
				{ "key-marker", key }, { "upload-id-marker", upload } },
			.queries = key[0] ? 5 : 3 };
		err = s3_call(l->store->s3, &call, l->deadline_ns);
		if (err == 0) err = s3_read_uploads(call.text_out ? call.text_out : "", call.len, u);
		s3_call_end(&call);
		if (err == 0 && u->more && strcmp(u->key_marker, key) == 0 && strcmp(u->upload_marker, upload) == 0)
			err = -GRANARY_ECORRUPT; /* no end */
		snprintf(key, sizeof(key), "%s", u->key_marker);
		snprintf(upload, sizeof(upload), "%s", u->upload_marker);
	} while (err == 0 && u->more);
	free(u);
	return err == -GRANARY_EINVAL || err == -GRANARY_EUNSUPPORTED ? 0 : err;
}

/* All pages of a listing. timeout_ns: of each page, where there is no deadline for all. */
static int list_pages(struct store_s3 *s, const char *whole, uint64_t deadline_ns, uint64_t timeout_ns,
	struct s3_listing *listing)
{
	char token[S3_TOKEN_MAX] = "";

	do {
		struct s3_call call = { .method = "GET",
			.text = true,
			.query = { { "list-type", "2" }, { "prefix", whole }, { "encoding-type", "url" },
				{ "continuation-token", token } },
			.queries = token[0] ? 4 : 3 };
		int err = s3_call(s->s3, &call, timeout_ns > 0 ? clock_mono_ns() + timeout_ns : deadline_ns);

		if (err == 0) err = s3_read_list(call.text_out ? call.text_out : "", call.len, listing);
		s3_call_end(&call);
		if (err) return err;
		if (listing->token[0] && strcmp(listing->token, token) == 0) return -GRANARY_ECORRUPT; /* no end */
		snprintf(token, sizeof(token), "%s", listing->token);
	} while (token[0]);
	return 0;
}

static int store_list(struct cold *c, const char *prefix, uint64_t deadline_ns,
	int (*each)(void *arg, const char *name, uint64_t len), void *arg)
{
	struct store_s3 *s = store_of(c);
	struct list_names names = { each, arg, strlen(s->prefix) };
	struct list_uploads uploads = { .names = names, .store = s, .deadline_ns = deadline_ns };
	struct s3_listing listing = { .each = list_name, .arg = &names };
	char whole[S3_PREFIX_MAX + COLD_NAME_MAX + 1];
	int err;

	snprintf(whole, sizeof(whole), "%s%s", s->prefix, prefix);
	err = list_pages(s, whole, deadline_ns, 0, &listing);
	return err != 0 ? err : uploads_each(&uploads, whole);
}

/* Of unfinished uploads: all of that name. */
static int uploads_remove(struct store_s3 *s, const char *name, size_t len, uint64_t deadline_ns)
{
	struct list_uploads l = { .names = { .prefix_len = strlen(s->prefix) }, .store = s,
		.deadline_ns = deadline_ns };
	char whole[S3_PREFIX_MAX + COLD_NAME_MAX + 1], only[COLD_NAME_MAX + 1];

	snprintf(only, sizeof(only), "%.*s", (int)len, name);
	snprintf(whole, sizeof(whole), "%s%s", s->prefix, only);
	l.only = only;
	return uploads_each(&l, whole);
}

/* ---- somebody else's objects ---- */

struct list_sources {
	int (*each)(void *arg, const struct source_object *o);
	void *arg;
	const struct s3_listing *listing;
	size_t prefix_len;
};

static int list_source(void *arg, const char *key, uint64_t len)
{
	struct list_sources *l = arg;
	struct source_object o = { .tag = l->listing->etag, .len = len, .mtime_s = l->listing->modified_s };

	if (strlen(key) <= l->prefix_len) return 0;
	o.key = key + l->prefix_len;
	return strlen(o.tag) < SOURCE_TAG_MAX ? l->each(l->arg, &o) : -GRANARY_ECORRUPT;
}

static int store_source_list(struct cold *c, const char *prefix, uint64_t timeout_ns,
	int (*each)(void *arg, const struct source_object *o), void *arg)
{
	struct store_s3 *s = store_of(c);
	struct s3_listing listing = { .each = list_source };
	struct list_sources all = { each, arg, &listing, strlen(s->prefix) };
	char whole[S3_PREFIX_MAX + SOURCE_KEY_MAX + 1];

	listing.arg = &all;
	snprintf(whole, sizeof(whole), "%s%s", s->prefix, prefix);
	return list_pages(s, whole, 0, timeout_ns, &listing);
}

static int store_source_get(struct cold *c, const char *key, const char *tag, void *buf, size_t len, uint64_t offset,
	uint64_t deadline_ns)
{
	char range[64], match[SOURCE_TAG_MAX + 3];
	uint64_t first, last, total;

	snprintf(match, sizeof(match), "\"%s\"", tag);
	snprintf(range, sizeof(range), "bytes=%llu-%llu", (unsigned long long)offset,
		(unsigned long long)(offset + len - 1));
	for (unsigned tries = 0;; tries++) {
		struct s3_call call = {
			.method = "GET", .key = key, .range = range, .if_match = match, .buf = buf, .cap = len
		};
		int err = s3_call(store_of(c)->s3, &call, deadline_ns);
		if (err == -GRANARY_ERANGE || err == -GRANARY_ENOTFOUND) return -GRANARY_ESOURCE;
		if (err < 0) return err;
		/* A service that does not know If-Match still says whose bytes these are. */
		if (call.etag[0] && strcmp(call.etag, match) != 0) return -GRANARY_ESOURCE;
		if (call.status == 206 && s3_read_content_range(call.content_range, &first, &last, &total) &&
			first == offset && last - first + 1 == call.len && call.etag[0]) {
			if (call.len == len) return 0;
			if (last + 1 == total) return -GRANARY_ESOURCE;
		}
		err = s3_pause(store_of(c)->s3, tries, deadline_ns);
		if (err < 0) return -GRANARY_ECORRUPT;
	}
}

static int store_remove(struct cold *c, const char *name, uint64_t deadline_ns)
{
	struct s3_call call = { .method = "DELETE", .key = name, .text = true };
	size_t len = strlen(name), end = sizeof(UNFINISHED) - 1;
	int err;

	if (len > end && strcmp(name + len - end, UNFINISHED) == 0)
		return uploads_remove(store_of(c), name, len - end, deadline_ns);
	err = s3_call(store_of(c)->s3, &call, deadline_ns);
	s3_call_end(&call);
	return err == -GRANARY_ENOTFOUND ? 0 : err;
}

static int store_space(struct cold *c, uint64_t *total, uint64_t *available)
{
	(void)c, (void)total, (void)available;
	return -GRANARY_EUNSUPPORTED;
}

/* ---- writing ---- */

static int put_begin(struct cold *c, const char *name, uint64_t len_max, uint64_t deadline_ns, struct cold_put **out)
{
	(void)deadline_ns;
	if (len_max > (uint64_t)PART_SIZE * PARTS_MAX) return -GRANARY_ETOOBIG;
	struct put_s3 *p = calloc(1, sizeof(*p));
	if (p) p->part = malloc(len_max < PART_SIZE ? len_max + 1 : PART_SIZE);
	if (p) p->etags = calloc((size_t)(len_max / PART_SIZE + 1), sizeof(*p->etags));
	if (!p || !p->part || !p->etags) {
		if (p) free(p->part), free(p->etags);
		free(p);
		return -GRANARY_ENOMEM;
	}
	p->put.ops = c->ops;
	p->store = store_of(c);
	p->len_max = len_max;
	snprintf(p->name, sizeof(p->name), "%s", name);
	*out = &p->put;
	return 0;
}

static int upload_begin(struct put_s3 *p, uint64_t deadline_ns)
{
	struct s3_call call = {
		.method = "POST", .key = p->name, .query = { { "uploads", NULL } }, .queries = 1, .text = true
	};
	int err = s3_call(p->store->s3, &call, deadline_ns);

	if (err == 0)
		err = s3_read_upload_id(call.text_out ? call.text_out : "", call.len, p->upload, sizeof(p->upload));
	s3_call_end(&call);
	return err;
}

static int part_send(struct put_s3 *p, uint64_t deadline_ns)
{
	char number[16];
	int err = p->upload[0] ? 0 : upload_begin(p, deadline_ns);

	if (err < 0) return err;
	snprintf(number, sizeof(number), "%u", p->parts + 1);
	struct s3_call call = { .method = "PUT",
		.key = p->name,
		.query = { { "partNumber", number }, { "uploadId", p->upload } },
		.queries = 2,
		.body = p->part,
		.body_len = p->filled,
		.text = true };
	err = s3_call(p->store->s3, &call, deadline_ns);
	s3_call_end(&call);
	if (err == 0 && !call.etag[0]) err = -GRANARY_ECORRUPT;
	if (err < 0) return err;
	memcpy(p->etags[p->parts++], call.etag, S3_ETAG_MAX);
	p->filled = 0;
	return 0;
}

static int put_write(struct cold_put *put, const void *buf, size_t len, uint64_t deadline_ns)
{
	struct put_s3 *p = (struct put_s3 *)put;
	const uint8_t *from = buf;

	if (len > p->len_max - p->len) return -GRANARY_ETOOBIG;
	while (len > 0) {
		if (p->filled == PART_SIZE) { /* with more to come: the last part is sent by finish */
			int err = part_send(p, deadline_ns);
			if (err < 0) return err;
		}
		size_t n = PART_SIZE - p->filled < len ? PART_SIZE - p->filled : len;
		memcpy(p->part + p->filled, from, n);
		p->filled += n;
		p->len += n;
		from += n;
		len -= n;
	}
	return 0;
}

/* An ETag as a service gave it, into XML. */
static size_t etag_escape(char *out, const char *s)
{
	size_t n = 0;

	for (; *s; s++) {
		const char *as = *s == '"'   ? "&quot;"
				 : *s == '&' ? "&amp;"
				 : *s == '<' ? "&lt;"
				 : *s == '>' ? "&gt;"
					     : NULL;
		size_t len = as ? strlen(as) : 1;
		memcpy(out + n, as ? as : s, len);
		n += len;
	}
	return n;
}

static char *complete_text(const struct put_s3 *p, size_t *len)
{
	static const char head[] = "<CompleteMultipartUpload>", tail[] = "</CompleteMultipartUpload>";
	char *text = malloc((size_t)p->parts * COMPLETE_PART_TEXT + sizeof(head) + sizeof(tail)), *to = text;

	if (!text) return NULL;
	to += snprintf(to, sizeof(head), "%s", head);
	for (unsigned i = 0; i < p->parts; i++) {
		to += snprintf(to, COMPLETE_PART_TEXT, "<Part><PartNumber>%u</PartNumber><ETag>", i + 1);
		to += etag_escape(to, p->etags[i]);
		to += snprintf(to, 32, "</ETag></Part>");
	}
	to += snprintf(to, sizeof(tail), "%s", tail);
	*len = (size_t)(to - text);
	return text;
}

/* An upload that is not there any more: this very request, done before its answer got lost, or lost. */
static int complete_unsure(struct put_s3 *p, uint64_t deadline_ns)
{
	uint64_t len;
	int err = store_stat(&p->store->cold, p->name, deadline_ns, &len);

	if (err == -GRANARY_ENOTFOUND) return -GRANARY_EIO; /* somebody else ended it */
	return err < 0 ? err : len == p->len ? 0 : -GRANARY_ECORRUPT;
}

static int upload_complete(struct put_s3 *p, uint64_t deadline_ns)
{
	size_t len = 0;
	char *text = complete_text(p, &len);
	struct s3_error error;
	int err = text ? 0 : -GRANARY_ENOMEM;

	for (unsigned tries = 0; err == 0; tries++) {
		struct s3_call call = { .method = "POST",
			.key = p->name,
			.query = { { "uploadId", p->upload } },
			.queries = 1,
			.body = text,
			.body_len = len,
			.text = true };
		err = s3_call(p->store->s3, &call, deadline_ns);
		if (err == 0) err = s3_read_complete(call.text_out ? call.text_out : "", call.len, &error);
		s3_call_end(&call);
		if (err == 0) break;
		if (err == -GRANARY_ESTALE) {
			err = complete_unsure(p, deadline_ns);
			break;
		}
		/* An error behind a status of success: services say it when they failed while they answered. */
		if (err != -GRANARY_EIO || tries >= COMPLETE_TRIES) break;
		err = s3_pause(p->store->s3, tries, deadline_ns);
	}
	free(text);
	return err;
}

static int put_single(struct put_s3 *p, uint64_t deadline_ns)
{
	struct s3_call call = {
		.method = "PUT", .key = p->name, .body = p->part, .body_len = p->filled, .text = true
	};
	int err = s3_call(p->store->s3, &call, deadline_ns);

	s3_call_end(&call);
	return err;
}

static void put_free(struct put_s3 *p)
{
	free(p->part);
	free(p->etags);
	free(p);
}

static void put_abort(struct cold_put **put)
{
	struct put_s3 *p = (struct put_s3 *)*put;

	*put = NULL;
	if (!p) return;
	/* What stays is swept by a later start. */
	if (p->upload[0]) (void)upload_abort(p->store->s3, p->name, p->upload, clock_mono_ns() + ABORT_NS);
	put_free(p);
}

static int put_finish(struct cold_put **put, uint64_t deadline_ns)
{
	struct put_s3 *p = (struct put_s3 *)*put;
	int err = !p->upload[0] ? put_single(p, deadline_ns) : p->filled ? part_send(p, deadline_ns) : 0;

	if (err == 0 && p->upload[0]) err = upload_complete(p, deadline_ns);
	if (err < 0) {
		put_abort(put);
		return err;
	}
	*put = NULL;
	put_free(p);
	return 0;
}

static const struct cold_ops ops = {
	.close = store_close,
	.put_begin = put_begin,
	.put_write = put_write,
	.put_finish = put_finish,
	.put_abort = put_abort,
	.get = store_get,
	.stat = store_stat,
	.remove = store_remove,
	.list = store_list,
	.space = store_space,
	.source_list = store_source_list,
	.source_get = store_source_get,
};

/* ---- settings ---- */

static const char *const fields[] = { "endpoint", "bucket", "prefix", "region", "style", "credentials", "profile",
	"ca", NULL };

static bool name_is_plain(const char *s, const char *also)
{
	for (; *s; s++)
		if (!((*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') || (*s >= '0' && *s <= '9') ||
			    strchr(also, *s)))
			return false;
	return true;
}

/* "http://host:port" or "https://…", without a path. */
static const char *endpoint_take(const char *text, struct s3_settings *out)
{
	const char *host = strncmp(text, "http://", 7) == 0    ? text + 7
			   : strncmp(text, "https://", 8) == 0 ? text + 8
							       : NULL;
	size_t len = host ? strlen(host) : 0;

	if (!host) return "must begin with http:// or https://";
	out->tls = text[4] == 's';
	if (len && host[len - 1] == '/') len--;
	if (len == 0) return "names no host";
	if (len >= sizeof(out->host)) return "is too long";
	memcpy(out->host, host, len);
	out->host[len] = '\0';
	if (strchr(out->host, '@')) return "must not hold a key: name a file as `credentials`";
	if (!name_is_plain(out->host, "-.:[]_")) return "must be http(s)://HOST[:PORT] and nothing behind it";
	const char *fallback = out->tls ? ":443" : ":80";
	size_t tail = strlen(fallback);
	if (len > tail && strcmp(out->host + len - tail, fallback) == 0) out->host[len - tail] = '\0';
	return NULL;
}

static const char *bucket_take(const char *text, char *out, size_t cap)
{
	size_t len = strlen(text);

	if (len < 3 || len >= cap) return "must have 3 to 63 characters";
	if (!name_is_plain(text, "-._")) return "may hold letters, digits, '-', '.' and '_' only";
	memcpy(out, text, len + 1);
	return NULL;
}

/* Ends with one '/', unless it is empty. */
static const char *prefix_take(const char *text, char *out, size_t cap)
{
	size_t len = strlen(text);

	if (len + 2 > cap) return "is too long";
	if (text[0] == '/') return "must not begin with '/'";
	if (!name_is_plain(text, "-._/")) return "may hold letters, digits, '-', '.', '_' and '/' only";
	memcpy(out, text, len + 1);
	if (len && out[len - 1] != '/') memcpy(out + len, "/", 2);
	return NULL;
}

static const char *plain_take(const char *text, char *out, size_t cap)
{
	if (strlen(text) >= cap) return "is too long";
	memcpy(out, text, strlen(text) + 1);
	return NULL;
}

static const char *field_take(const char *field, const char *text, struct s3_settings *out)
{
	if (strcmp(field, "endpoint") == 0) return endpoint_take(text, out);
	if (strcmp(field, "bucket") == 0) return bucket_take(text, out->bucket, sizeof(out->bucket));
	if (strcmp(field, "prefix") == 0) return prefix_take(text, out->prefix, sizeof(out->prefix));
	if (strcmp(field, "region") == 0) {
		if (!*text || !name_is_plain(text, "-")) return "must be a name such as us-east-1";
		return plain_take(text, out->region, sizeof(out->region));
	}
	if (strcmp(field, "style") == 0) {
		out->virtual_host = strcmp(text, "virtual") == 0;
		return out->virtual_host || strcmp(text, "path") == 0 ? NULL : "must be path or virtual";
	}
	if (strcmp(field, "credentials") == 0) return plain_take(text, out->credentials, sizeof(out->credentials));
	if (strcmp(field, "profile") == 0) return plain_take(text, out->profile, sizeof(out->profile));
	return plain_take(text, out->ca, sizeof(out->ca));
}

static int settings_read(const struct store_settings *s, struct s3_settings *out, char *why, size_t why_cap)
{
	char text[S3_PATH_MAX];

	*out = (struct s3_settings){ .region = "us-east-1", .profile = "default" };
	snprintf(out->name, sizeof(out->name), "%s", s->name);
	for (const char *const *field = fields; *field; field++) {
		if (!store_setting(s, *field, text, sizeof(text))) continue;
		const char *cause = field_take(*field, text, out);
		if (!cause) continue;
		snprintf(why, why_cap, "store '%s': `%s: %s` %s", s->name, *field, text, cause);
		return -GRANARY_ECONFIG;
	}
	const char *missing = !out->host[0] ? "endpoint" : !out->bucket[0] ? "bucket" : NULL;
	if (!missing) return 0;
	snprintf(why, why_cap, "store '%s' of type s3 has no `%s`: add one", s->name, missing);
	return -GRANARY_ECONFIG;
}

static int store_open(const struct store_settings *settings, const struct cold_env *env, struct cold **out, char *why,
	size_t why_cap)
{
	struct s3_settings set;
	int err = settings_read(settings, &set, why, why_cap);
	struct store_s3 *s = err < 0 ? NULL : calloc(1, sizeof(*s));

	(void)env;
	if (err < 0) return err;
	if (!s || s3_new(&set, &s->s3) < 0) {
		free(s);
		snprintf(why, why_cap, "out of memory");
		return -GRANARY_ENOMEM;
	}
	s->cold.ops = &ops;
	snprintf(s->cold.where, sizeof(s->cold.where), "%s://%s/%s/%.200s", set.tls ? "https" : "http", set.host,
		set.bucket, set.prefix);
	snprintf(s->prefix, sizeof(s->prefix), "%s", set.prefix);
	*out = &s->cold;
	return 0;
}

const struct cold_type cold_s3 = { .type = "s3", .fields = fields, .open = store_open };
