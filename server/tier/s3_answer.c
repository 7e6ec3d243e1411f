/* SPDX-License-Identifier: Apache-2.0 */
/* s3_answer.c -- one walk for all: the path of elements is compared where text ends. */
#include "tier/s3_answer.h"

#include <expat.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "granary/error.h"

enum { DEPTH_MAX = 8, PATH_MAX_BYTES = 256, VALUE_MAX = 3 * S3_KEY_MAX + 1 };

struct walk {
	XML_Parser parser;
	unsigned depth;
	char path[PATH_MAX_BYTES]; /* /ListBucketResult/Contents/Key */
	char value[VALUE_MAX];     /* of the element that is open, its text */
	size_t value_len;
	bool value_cut;
	int err;
	/* path, text of an element that ended; non-zero ends the walk */
	int (*ended)(void *arg, const char *path, const char *value, bool cut);
	void *arg;
};

static void walk_stop(struct walk *w, int err)
{
	if (!w->err) w->err = err;
	XML_StopParser(w->parser, XML_FALSE);
}

static void XMLCALL on_start(void *arg, const XML_Char *name, const XML_Char **attributes)
{
	struct walk *w = arg;
	size_t len = strlen(w->path);

	(void)attributes;
	if (++w->depth > DEPTH_MAX || len + strlen(name) + 2 > sizeof(w->path)) {
		walk_stop(w, -GRANARY_ECORRUPT);
		return;
	}
	snprintf(w->path + len, sizeof(w->path) - len, "/%s", name);
	w->value_len = 0;
	w->value_cut = false;
	w->value[0] = '\0';
}

static void XMLCALL on_end(void *arg, const XML_Char *name)
{
	struct walk *w = arg;

	(void)name;
	if (w->err) return;
	int err = w->ended(w->arg, w->path, w->value, w->value_cut);
	if (err) {
		walk_stop(w, err);
		return;
	}
	w->depth--;
	*strrchr(w->path, '/') = '\0';
	w->value_len = 0;
	w->value[0] = '\0';
}

static void XMLCALL on_text(void *arg, const XML_Char *text, int len)
{
	struct walk *w = arg;
	size_t n = (size_t)len, room = sizeof(w->value) - 1 - w->value_len;

	if (n > room) {
		w->value_cut = true;
		n = room;
	}
	memcpy(w->value + w->value_len, text, n);
	w->value_len += n;
	w->value[w->value_len] = '\0';
}

/* Entities are declared in a document type: without one there is nothing to expand. */
static void XMLCALL on_doctype(
	void *arg, const XML_Char *name, const XML_Char *system, const XML_Char *public, int has_subset)
{
	(void)name, (void)system, (void)public, (void)has_subset;
	walk_stop(arg, -GRANARY_ECORRUPT);
}

static int walk_run(struct walk *w, const char *xml, size_t len)
{
	if (len == 0 || len > S3_ANSWER_MAX) return -GRANARY_ECORRUPT;
	w->parser = XML_ParserCreate(NULL);
	if (!w->parser) return -GRANARY_ENOMEM;
	XML_SetUserData(w->parser, w);
	XML_SetElementHandler(w->parser, on_start, on_end);
	XML_SetCharacterDataHandler(w->parser, on_text);
	XML_SetStartDoctypeDeclHandler(w->parser, on_doctype);
	if (XML_Parse(w->parser, xml, (int)len, XML_TRUE) != XML_STATUS_OK && !w->err) w->err = -GRANARY_ECORRUPT;
	XML_ParserFree(w->parser);
	return w->err;
}

static int walk_xml(const char *xml, size_t len, int (*ended)(void *, const char *, const char *, bool), void *arg)
{
	struct walk *w = calloc(1, sizeof(*w));

	if (!w) return -GRANARY_ENOMEM;
	w->ended = ended;
	w->arg = arg;
	int err = walk_run(w, xml, len);
	free(w);
	return err;
}

/* ---- errors, uploads ---- */

static int error_ended(void *arg, const char *path, const char *value, bool cut)
{
	struct s3_error *e = arg;

	(void)cut;
	if (strcmp(path, "/Error/Code") == 0) snprintf(e->code, sizeof(e->code), "%.*s", S3_CODE_MAX - 1, value);
	if (strcmp(path, "/Error/Message") == 0)
		snprintf(e->message, sizeof(e->message), "%.*s", S3_TEXT_MAX - 1, value);
	return 0;
}

bool s3_read_error(const char *xml, size_t len, struct s3_error *out)
{
	*out = (struct s3_error){ 0 };
	return walk_xml(xml, len, error_ended, out) == 0 && out->code[0];
}

struct upload_id {
	char *out;
	size_t cap;
};

static int upload_ended(void *arg, const char *path, const char *value, bool cut)
{
	struct upload_id *u = arg;

	if (strcmp(path, "/InitiateMultipartUploadResult/UploadId") != 0) return 0;
	if (cut || !value[0] || strlen(value) >= u->cap) return -GRANARY_ECORRUPT;
	snprintf(u->out, u->cap, "%s", value);
	return 0;
}

int s3_read_upload_id(const char *xml, size_t len, char *out, size_t cap)
{
	struct upload_id u = { out, cap };

	out[0] = '\0';
	int err = walk_xml(xml, len, upload_ended, &u);
	return err ? err : out[0] ? 0 : -GRANARY_ECORRUPT;
}

struct complete {
	struct s3_error *error;
	bool done;
};

static int complete_ended(void *arg, const char *path, const char *value, bool cut)
{
	struct complete *c = arg;

	if (strcmp(path, "/CompleteMultipartUploadResult") == 0) c->done = true;
	return error_ended(c->error, path, value, cut);
}

int s3_read_complete(const char *xml, size_t len, struct s3_error *error)
{
	struct complete c = { error, false };

	*error = (struct s3_error){ 0 };
	int err = walk_xml(xml, len, complete_ended, &c);
	if (err) return err;
	if (error->code[0]) return -GRANARY_EIO;
	return c.done ? 0 : -GRANARY_ECORRUPT;
}

/* ---- lists ---- */

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9') return c - '0';
	if (c >= 'a' && c <= 'f') return c - 'a' + 10;
	if (c >= 'A' && c <= 'F') return c - 'A' + 10;
	return -1;
}

/* In place; '+' is a space, as services encode it. false: not an encoding, or a NUL. */
static bool url_decode(char *s)
{
	char *to = s;

	for (; *s; s++) {
		if (*s == '%') {
			int high = hex_digit(s[1]), low = high < 0 ? -1 : hex_digit(s[2]);
			if (low < 0 || (high == 0 && low == 0)) return false;
			*to++ = (char)(high * 16 + low);
			s += 2;
		} else {
			*to++ = *s == '+' ? ' ' : *s;
		}
	}
	*to = '\0';
	return true;
}

static bool read_u64(const char **p, uint64_t *out)
{
	const char *s = *p;
	uint64_t n = 0;

	for (; *s >= '0' && *s <= '9'; s++) {
		uint64_t digit = (uint64_t)(*s - '0');
		if (n > (UINT64_MAX - digit) / 10) return false;
		n = n * 10 + digit;
	}
	if (s == *p) return false;
	*p = s;
	*out = n;
	return true;
}

struct list_walk {
	struct s3_listing *l;
	char key[VALUE_MAX];
	uint64_t size;
	bool has_key, has_size, is_list, truncated;
};

static int contents_ended(struct list_walk *w)
{
	if (!w->has_key || !w->has_size) return -GRANARY_ECORRUPT;
	w->has_key = w->has_size = false;
	int err = w->l->each(w->l->arg, w->key, w->size);
	w->l->etag[0] = '\0';
	w->l->modified_s = 0;
	return err;
}

/* Without its quotes: who asks for it puts them there again. */
static void etag_take(char out[S3_TEXT_MAX], const char *value)
{
	size_t len = strlen(value);
	bool quoted = len >= 2 && value[0] == '"' && value[len - 1] == '"';

	if (len < S3_TEXT_MAX) snprintf(out, S3_TEXT_MAX, "%.*s", (int)(len - (quoted ? 2u : 0u)), value + quoted);
}

/* "2026-11-29T07:05:44.000Z" */
static int64_t time_take(const char *value)
{
	struct tm t = { .tm_isdst = 0 };
	const char *end = strptime(value, "%Y-%m-%dT%H:%M:%S", &t);

	return end != NULL ? (int64_t)timegm(&t) : 0;
}

static int list_ended(void *arg, const char *path, const char *value, bool cut)
{
	static const char root[] = "/ListBucketResult";
	struct list_walk *w = arg;

	if (strncmp(path, root, sizeof(root) - 1) != 0) return -GRANARY_ECORRUPT;
	path += sizeof(root) - 1;
	w->is_list = true;
	if (strcmp(path, "/Contents/Key") == 0) {
		if (cut) return -GRANARY_ECORRUPT;
		snprintf(w->key, sizeof(w->key), "%s", value);
		w->has_key = url_decode(w->key) && strlen(w->key) <= S3_KEY_MAX && w->key[0];
		return w->has_key ? 0 : -GRANARY_ECORRUPT;
	}
	if (strcmp(path, "/Contents/Size") == 0) {
		w->has_size = read_u64(&value, &w->size) && !*value;
		return w->has_size ? 0 : -GRANARY_ECORRUPT;
	}
	if (strcmp(path, "/Contents/ETag") == 0 && !cut) etag_take(w->l->etag, value);
	if (strcmp(path, "/Contents/LastModified") == 0) w->l->modified_s = time_take(value);
	if (strcmp(path, "/Contents") == 0) return contents_ended(w);
	if (strcmp(path, "/IsTruncated") == 0) w->truncated = strcmp(value, "true") == 0;
	if (strcmp(path, "/NextContinuationToken") == 0) {
		if (cut || strlen(value) >= S3_TOKEN_MAX) return -GRANARY_ECORRUPT;
		snprintf(w->l->token, sizeof(w->l->token), "%s", value);
	}
	return 0;
}

int s3_read_list(const char *xml, size_t len, struct s3_listing *l)
{
	struct list_walk *w = calloc(1, sizeof(*w));

	if (!w) return -GRANARY_ENOMEM;
	w->l = l;
	l->token[0] = '\0';
	int err = walk_xml(xml, len, list_ended, w);
	if (!err && (!w->is_list || (w->truncated && !l->token[0]))) err = -GRANARY_ECORRUPT;
	if (!err && !w->truncated) l->token[0] = '\0';
	free(w);
	return err;
}

struct uploads_walk {
	struct s3_uploads *u;
	char key[VALUE_MAX], upload[S3_UPLOAD_ID_MAX];
	bool is_list;
};

static int upload_of_list_ended(struct uploads_walk *w)
{
	int err = w->key[0] && w->upload[0] ? w->u->each(w->u->arg, w->key, w->upload) : -GRANARY_ECORRUPT;

	w->key[0] = w->upload[0] = '\0';
	return err;
}

static int uploads_ended(void *arg, const char *path, const char *value, bool cut)
{
	static const char root[] = "/ListMultipartUploadsResult";
	struct uploads_walk *w = arg;

	if (strncmp(path, root, sizeof(root) - 1) != 0) return -GRANARY_ECORRUPT;
	path += sizeof(root) - 1;
	w->is_list = true;
	if (strcmp(path, "/Upload") == 0) return upload_of_list_ended(w);
	if (strcmp(path, "/IsTruncated") == 0) w->u->more = strcmp(value, "true") == 0;
	if (strcmp(path, "/Upload/Key") == 0) {
		snprintf(w->key, sizeof(w->key), "%s", value);
		if (cut || !url_decode(w->key) || strlen(w->key) > S3_KEY_MAX) return -GRANARY_ECORRUPT;
	}
	if (strcmp(path, "/Upload/UploadId") == 0) {
		if (cut || strlen(value) >= sizeof(w->upload)) return -GRANARY_ECORRUPT;
		snprintf(w->upload, sizeof(w->upload), "%.*s", S3_UPLOAD_ID_MAX - 1, value);
	}
	if (strcmp(path, "/NextKeyMarker") == 0) {
		char key[VALUE_MAX];

		snprintf(key, sizeof(key), "%s", value);
		if (cut || !url_decode(key) || strlen(key) > S3_KEY_MAX) return -GRANARY_ECORRUPT;
		snprintf(w->u->key_marker, sizeof(w->u->key_marker), "%.*s", S3_KEY_MAX, key);
	}
	if (strcmp(path, "/NextUploadIdMarker") == 0) {
		if (cut || strlen(value) >= S3_UPLOAD_ID_MAX) return -GRANARY_ECORRUPT;
		snprintf(w->u->upload_marker, sizeof(w->u->upload_marker), "%.*s", S3_UPLOAD_ID_MAX - 1, value);
	}
	return 0;
}

int s3_read_uploads(const char *xml, size_t len, struct s3_uploads *u)
{
	struct uploads_walk *w = calloc(1, sizeof(*w));

	if (!w) return -GRANARY_ENOMEM;
	w->u = u;
	u->key_marker[0] = u->upload_marker[0] = '\0';
	u->more = false;
	int err = walk_xml(xml, len, uploads_ended, w);
	if (!err && (!w->is_list || (u->more && !u->key_marker[0]))) err = -GRANARY_ECORRUPT;
	free(w);
	return err;
}

bool s3_read_content_range(const char *value, uint64_t *first, uint64_t *last, uint64_t *total)
{
	if (strncmp(value, "bytes ", 6) != 0) return false;
	value += 6;
	if (!read_u64(&value, first) || *value++ != '-') return false;
	if (!read_u64(&value, last) || *value++ != '/') return false;
	if (!read_u64(&value, total) || *value) return false;
	return *first <= *last && *last < *total;
}
