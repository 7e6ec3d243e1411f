/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot_ops.c -- making, listing and removing snapshots, and what consumers of them report: PROTOCOL 4.7,
 * 4.9, 5.10. */
#include "snapshot_priv.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/order.h"

#define SNAPSHOT_RPC(op) \
	{ .wire_op = (op), .body_size = simple_body_size, .encode = simple_encode, .answer = simple_answer }

static const struct rpc_kind create_rpc = SNAPSHOT_RPC(OP_SNAPSHOT_CREATE);
static const struct rpc_kind remove_rpc = { .wire_op = OP_SNAPSHOT_REMOVE, .final = -GRANARY_EBUSY, /* a job reads it */
	.body_size = simple_body_size, .encode = simple_encode, .answer = simple_answer };
static const struct rpc_kind note_rpc = SNAPSHOT_RPC(OP_SNAPSHOT_NOTE);
static const struct rpc_kind repack_rpc = { .wire_op = OP_SNAPSHOT_REPACK, .final = -GRANARY_EBUSY,
	.body_size = simple_body_size, .encode = simple_encode, .answer = simple_answer };
static const struct rpc_kind tags_rpc = SNAPSHOT_RPC(OP_SNAPSHOT_TAGS);
static const struct rpc_kind list_rpc = SNAPSHOT_RPC(OP_SNAPSHOT_LIST);
static const struct rpc_kind show_rpc = { .wire_op = OP_SNAPSHOT_SHOW, .own_meta = true, .body_size = simple_body_size,
	.encode = simple_encode, .answer = simple_answer };
static const struct rpc_kind page_rpc = { .wire_op = OP_SNAPSHOT_PAGE, .own_meta = true, .body_size = simple_body_size,
	.encode = simple_encode, .answer = simple_answer };
static const struct rpc_kind report_rpc = SNAPSHOT_RPC(OP_STREAM_REPORT);
static const struct rpc_kind streams_rpc = SNAPSHOT_RPC(OP_STREAM_LIST);

/* ---- rows ---- */

char *text_put(char *at, struct slice s)
{
	if (s.len > 0)
		memcpy(at, s.p, s.len);
	at[s.len] = '\0';
	return at + s.len + 1;
}

/* One row of PROTOCOL 4.7; its texts go to `text`, which is NULL to skip it. Each text is shorter there than on
 * the wire with its length. */
static char *row_decode(struct cur *c, struct granary_snapshot_info *e, char *text)
{
	struct slice name = cur_bytes16(c);

	e->state = cur_u8(c);
	e->created_ns = cur_u64(c);
	e->expires_ns = cur_u64(c);
	e->samples = cur_u64(c);
	e->bytes = cur_u64(c);
	e->bytes_alone = cur_u64(c);
	struct slice manifest = cur_bytes(c, sizeof(e->manifest));
	struct slice prefix = cur_bytes16(c), note = cur_bytes16(c);
	struct slice id = cur_bytes(c, sizeof(e->id));
	if (!text || !cur_ok(c))
		return text;
	memcpy(e->id, id.p, sizeof(e->id));
	memcpy(e->manifest, manifest.p, sizeof(e->manifest));
	e->name = text;
	text = text_put(text, name);
	e->prefix = text;
	text = text_put(text, prefix);
	e->note = text;
	text = text_put(text, note);
	e->warnings = e->tags = text - 1;
	return text;
}

/* CREATE's answer (with warnings) and SHOW's (with the size of the manifest, to s->extra) become one block. */
static int info_decode(struct simple_op *s, struct slice meta, bool warnings)
{
	struct cur c = cur_of(meta.p, meta.len);
	struct granary_snapshot_info *info = calloc(1, sizeof(*info) + meta.len + 8);

	if (!info)
		return -GRANARY_ENOMEM;
	char *text = row_decode(&c, info, (char *)(info + 1));
	struct slice said = warnings ? cur_bytes16(&c) : slice_of(NULL, 0);
	s->extra = warnings ? 0 : cur_u64(&c);
	if (!cur_done(&c)) {
		free(info);
		return -GRANARY_EPROTO;
	}
	if (warnings) {
		info->warnings = text;
		text_put(text, said);
	}
	if (s->out)
		*(struct granary_snapshot_info **)s->out = info;
	else
		free(info);
	return 0;
}

static int created_decode(struct simple_op *s, struct slice meta, struct slice data)
{
	(void)data;
	return info_decode(s, meta, true);
}

/* A page of a list, and the tags that were fetched before it: names and tags, in the same order. */
struct list_out {
	struct granary_snapshot_page *page;
	uint8_t *tags;
	size_t tags_len;
};

static int tags_decode(struct simple_op *s, struct slice meta, struct slice data)
{
	struct list_out *out = s->out;

	(void)data;
	free(out->tags);
	out->tags = malloc(meta.len + 1);
	if (!out->tags)
		return -GRANARY_ENOMEM;
	memcpy(out->tags, meta.p, meta.len);
	out->tags_len = meta.len;
	return 0;
}

/* Gives the rows their tags; a row without any, or made since, keeps "". */
static int page_tags(const struct list_out *out, char *text)
{
	struct granary_snapshot_page *page = out->page;
	struct cur c = cur_of(out->tags, out->tags_len);
	uint32_t at = 0;

	if (out->tags_len == 0)
		return 0;
	cur_u8(&c);
	for (uint32_t left = cur_u32(&c); left > 0 && cur_ok(&c); left--) {
		struct slice name = cur_bytes16(&c), tags = cur_bytes16(&c);
		while (at < page->count && slice_compare(slice_str(page->entries[at].name), name) < 0)
			at++;
		if (at == page->count || !slice_eq(slice_str(page->entries[at].name), name))
			continue;
		page->entries[at].tags = text;
		text = text_put(text, tags);
	}
	return cur_done(&c) ? 0 : -GRANARY_EPROTO;
}

static int page_decode(struct simple_op *s, struct slice meta, struct slice data)
{
	struct cur c = cur_of(meta.p, meta.len), scan;
	struct list_out *out = s->out;
	struct granary_snapshot_info skipped;
	uint8_t more = cur_u8(&c);
	uint32_t count = cur_u32(&c);

	(void)data;
	scan = c;
	for (uint32_t i = 0; i < count && cur_ok(&scan); i++)
		row_decode(&scan, &skipped, NULL);
	if (!cur_done(&scan))
		return -GRANARY_EPROTO;
	struct granary_snapshot_page *page = calloc(1, sizeof(*page) + count * sizeof(page->entries[0]) + meta.len +
		out->tags_len + 1);
	if (!page)
		return -GRANARY_ENOMEM;
	*page = (struct granary_snapshot_page){ count, more, (struct granary_snapshot_info *)(page + 1) };
	char *text = (char *)(page->entries + count);
	for (uint32_t i = 0; i < count; i++)
		text = row_decode(&c, &page->entries[i], text);
	free(out->page);
	out->page = page;
	return page_tags(out, text);
}

/* ---- create ---- */

/* A line `name=value` for each line of the value. */
static void option_text(FILE *to, const char *name, const char *value)
{
	while (value && *value) {
		size_t len = strcspn(value, "\n");
		if (len > 0)
			fprintf(to, "%s=%.*s\n", name, (int)len, value);
		value += len + (value[len] != '\0');
	}
}

static void option_number(FILE *to, const char *name, uint64_t value)
{
	if (value > 0)
		fprintf(to, "%s=%" PRIu64 "\n", name, value);
}

static char *options_text(const struct granary_snapshot_spec *spec)
{
	char *text = NULL;
	size_t len;
	FILE *to = open_memstream(&text, &len);

	if (!to)
		return NULL;
	option_text(to, "group", spec->group);
	option_text(to, "split", spec->split);
	option_text(to, "include", spec->include);
	option_text(to, "exclude", spec->exclude);
	option_number(to, "block", spec->block);
	option_number(to, "window", spec->window);
	option_number(to, "lanes", spec->lanes);
	option_text(to, "mode", spec->mode > 0 && spec->mode <= GRANARY_MODE_NONE ?
		order_mode_name((uint8_t)spec->mode) :
		NULL);
	option_number(to, "expire", spec->expire_s);
	option_text(to, "note", spec->note);
	option_text(to, "tag", spec->tags);
	option_number(to, "keep-last", spec->keep_last);
	if (fclose(to) != 0) {
		free(text);
		return NULL;
	}
	return text;
}

int granary_snapshot_create(struct granary_client *client, const char *name, const struct granary_snapshot_spec *spec,
	struct granary_snapshot_info **out, const struct granary_call *call)
{
	struct granary_snapshot_spec all = { .size = 0 };
	struct wr w;
	int err;

	if (out)
		*out = NULL;
	if (spec && spec->size < offsetof(struct granary_snapshot_spec, group))
		return error_fail(client, -GRANARY_EINVAL, "granary_snapshot_spec.size is not set");
	if (spec)
		memcpy(&all, spec, spec->size < sizeof(all) ? spec->size : sizeof(all));
	char *options = options_text(&all);
	if (!options)
		return error_fail(client, -GRANARY_ENOMEM, "out of memory");
	struct simple_op *s = simple_new(client, &create_rpc, call,
		text_size(name) + text_size(all.prefix) + text_size(options), &w, &err);
	if (s) {
		text_encode(&w, name);
		text_encode(&w, all.prefix);
		text_encode(&w, options);
		s->decode = created_decode;
		s->out = out;
		err = (int)simple_run(s, &w);
	}
	free(options);
	return err;
}

/* ---- list, show, remove, note ---- */

static int list_run(struct granary_client *client, const struct rpc_kind *kind, const char *after,
	int (*decode)(struct simple_op *s, struct slice meta, struct slice data), struct list_out *out,
	const struct granary_call *call)
{
	struct wr w;
	int err;
	struct simple_op *s = simple_new(client, kind, call, text_size(after) + 4, &w, &err);

	if (!s)
		return err;
	text_encode(&w, after);
	wr_u32(&w, GRANARY_LIST_MAX);
	s->decode = decode;
	s->out = out;
	return (int)simple_run(s, &w);
}

int granary_snapshot_list(struct granary_client *client, const char *after, struct granary_snapshot_page **page,
	const struct granary_call *call)
{
	struct list_out out = { .page = NULL };
	int err = list_run(client, &tags_rpc, after, tags_decode, &out, call);

	*page = NULL;
	if (err == 0 || err == -GRANARY_EUNSUPPORTED) /* a server that knows no tags */
		err = list_run(client, &list_rpc, after, page_decode, &out, call);
	free(out.tags);
	if (err < 0)
		free(out.page);
	else
		*page = out.page;
	return err;
}

struct show_out {
	struct granary_snapshot_info *info;
	uint64_t size;
	uint8_t *data; /* from the offset on, malloc'ed */
	size_t len;
};

static int show_decode(struct simple_op *s, struct slice meta, struct slice data)
{
	struct show_out *out = s->out;

	free(out->info);
	out->info = NULL;
	s->out = &out->info;
	int err = info_decode(s, meta, false);
	s->out = out;
	if (err < 0)
		return err;
	out->size = s->extra;
	out->data = malloc(data.len > 0 ? data.len : 1);
	if (!out->data)
		return -GRANARY_ENOMEM;
	if (data.len > 0)
		memcpy(out->data, data.p, data.len);
	out->len = data.len;
	return 0;
}

static int show_run(struct granary_client *c, const char *name, uint64_t offset, uint32_t length, struct show_out *out,
	const struct granary_call *call)
{
	struct wr w;
	int err;
	struct simple_op *s = simple_new(c, &show_rpc, call, text_size(name) + 8 + 4, &w, &err);

	memset(out, 0, sizeof(*out));
	if (!s)
		return err;
	text_encode(&w, name);
	wr_u64(&w, offset);
	wr_u32(&w, length);
	s->decode = show_decode;
	s->out = out;
	err = (int)simple_run(s, &w);
	if (err < 0) {
		free(out->info);
		free(out->data);
	}
	return err;
}

int granary_snapshot_show(struct granary_client *client, const char *name, struct granary_snapshot_info **out,
	const struct granary_call *call)
{
	struct show_out shown;

	*out = NULL;
	int err = show_run(client, name, 0, 1, &shown, call);
	if (err < 0)
		return err;
	free(shown.data);
	*out = shown.info;
	return 0;
}

/* The whole manifest, piece by piece; a snapshot never changes, so pieces fit as long as its hash does. */
int snapshot_fetch_manifest(struct granary_client *c, const char *name, struct granary_snapshot_info **info,
	uint8_t **bytes, size_t *len, const struct granary_call *call)
{
	struct show_out part;
	uint64_t size = 1;

	*info = NULL;
	*bytes = NULL;
	*len = 0;
	while (*len < size) {
		int err = show_run(c, name, *len, SNAPSHOT_PIECE, &part, call);
		if (err < 0)
			return err;
		size = part.size;
		uint8_t *grown = size > 0 && size <= SNAPSHOT_MANIFEST_MAX && part.len > 0 ? realloc(*bytes,
			size) : NULL;
		if (!grown || part.len > size - *len) {
			free(part.info);
			free(part.data);
			return error_fail(c, -GRANARY_EPROTO, "the manifest of snapshot '%s' does not come "
				"whole", name);
		}
		*bytes = grown;
		memcpy(*bytes + *len, part.data, part.len);
		*len += part.len;
		free(part.data);
		free(*info);
		*info = part.info;
	}
	return 0;
}

int granary_snapshot_remove(struct granary_client *client, const char *name, uint32_t flags,
	const struct granary_call *call)
{
	struct wr w;
	int err;
	struct simple_op *s = simple_new(client, &remove_rpc, call, text_size(name) + 1, &w, &err);

	if (!s)
		return err;
	text_encode(&w, name);
	wr_u8(&w, flags & GRANARY_SNAPSHOT_FORCE ? SNAPSHOT_FORCE : 0);
	return (int)simple_run(s, &w);
}

static int repacked_decode(struct simple_op *s, struct slice meta, struct slice data)
{
	struct cur c = cur_of(meta.p, meta.len);
	struct granary_snapshot_info skipped;

	(void)s;
	(void)data;
	row_decode(&c, &skipped, NULL);
	return cur_done(&c) ? 0 : -GRANARY_EPROTO;
}

int granary_snapshot_repack(struct granary_client *client, const char *name, uint32_t flags,
	const struct granary_call *call)
{
	struct wr w;
	int err;
	struct simple_op *s = simple_new(client, &repack_rpc, call, text_size(name) + 1, &w, &err);

	if (!s)
		return err;
	text_encode(&w, name);
	wr_u8(&w, flags & GRANARY_SNAPSHOT_FORCE ? SNAPSHOT_FORCE : 0);
	s->decode = repacked_decode;
	return (int)simple_run(s, &w);
}

int granary_snapshot_note(struct granary_client *client, const char *name, const char *note, uint64_t expires_ns,
	const struct granary_call *call)
{
	struct wr w;
	int err;
	struct simple_op *s = simple_new(client, &note_rpc, call, text_size(name) + text_size(note) + 8, &w, &err);

	if (!s)
		return err;
	text_encode(&w, name);
	text_encode(&w, note);
	wr_u64(&w, expires_ns);
	return (int)simple_run(s, &w);
}

/* ---- pages ---- */

static int piece_decode(struct simple_op *s, struct slice meta, struct slice data)
{
	struct cur c = cur_of(meta.p, meta.len);
	struct page_out *out = s->out;

	out->size = cur_u64(&c);
	if (!cur_ok(&c) || data.len != out->want)
		return -GRANARY_EPROTO;
	memcpy(out->to, data.p, data.len);
	return 0;
}

int snapshot_fetch_start(struct granary_client *c, const char *name, struct hash128 hash, uint64_t at,
	struct page_out *out, const struct granary_call *call, struct granary_op **op)
{
	struct wr w;
	int err;
	struct simple_op *s = simple_new(c, &page_rpc, call, text_size(name) + 16 + 8 + 4, &w, &err);

	*op = NULL;
	if (!s)
		return err;
	text_encode(&w, name);
	wr_u64(&w, hash.lo);
	wr_u64(&w, hash.hi);
	wr_u64(&w, at);
	wr_u32(&w, (uint32_t)out->want);
	s->decode = piece_decode;
	s->out = out;
	return simple_start(s, &w, op);
}

/* ---- consumers ---- */

static int share_decode(struct simple_op *s, struct slice meta, struct slice data)
{
	struct cur c = cur_of(meta.p, meta.len);

	(void)data;
	cur_u64(&c);
	(void)s;
	return cur_ok(&c) ? 0 : -GRANARY_EPROTO;
}

static void provenance_encode(struct wr *w, const struct stream_report *r)
{
	wr_u64(w, r->elapsed_ns);
	wr_u64(w, r->begun_ns);
	wr_u64(w, r->id);
	wr_bytes16(w, slice_of(r->token, TOKEN_SIZE));
	wr_u32(w, r->batch);
	wr_u8(w, r->last);
	wr_u32(w, r->first);
	wr_u32(w, r->step);
	wr_u64(w, r->delivered);
	wr_u64(w, r->checksum);
	wr_u64(w, r->skipped);
	wr_u16(w, (uint16_t)r->skips_count);
	for (uint32_t i = 0; i < r->skips_count; i++) {
		wr_u64(w, r->skips[i].position);
		wr_u32(w, r->skips[i].source);
		wr_u64(w, r->skips[i].lost);
		wr_u64(w, r->skips[i].substitute);
	}
}

/* Only starts it: a report that is lost is followed by another. */
int stream_report_start(struct granary_client *c, const struct stream_report *r, const struct granary_call *call,
	struct granary_op **op)
{
	struct wr w;
	int err;
	struct simple_op *s = simple_new(c, &report_rpc, call,
		text_size(r->snapshot) + text_size(r->job) + text_size(r->host) + 3 * 4 + 6 * 8 + 1 + 3 * 8 + 2 +
		TOKEN_SIZE + 4 + 1 + 2 * 4 + 3 * 8 + 2 + r->skips_count * (size_t)PROVENANCE_SKIP_SIZE, &w, &err);

	*op = NULL;
	if (!s)
		return err;
	text_encode(&w, r->snapshot);
	text_encode(&w, r->job);
	text_encode(&w, r->host);
	wr_u32(&w, r->rank);
	wr_u32(&w, r->world);
	wr_u32(&w, r->weight);
	wr_u64(&w, r->epoch);
	wr_u64(&w, r->position);
	wr_u64(&w, r->of);
	wr_u64(&w, r->samples);
	wr_u64(&w, r->bytes);
	wr_u64(&w, r->waited_ns);
	wr_u8(&w, (r->ended ? STREAM_ENDED : 0) | (r->log ? STREAM_PROVENANCE : STREAM_ELAPSED) |
		(!r->log && r->batch > 0 ? STREAM_ORDER : 0)); /* who only holds it has no batches, so no order */
	if (r->log)
		provenance_encode(&w, r);
	else {
		wr_u64(&w, r->elapsed_ns);
		if (r->batch > 0)
			wr_bytes16(&w, slice_of(r->token, TOKEN_SIZE));
	}
	s->decode = share_decode;
	s->op.quiet = true;
	return simple_start(s, &w, op);
}

static int text_decode(struct simple_op *s, struct slice meta, struct slice data)
{
	char *text = malloc(data.len + 1);

	(void)meta;
	if (!text)
		return -GRANARY_ENOMEM;
	text_put(text, data);
	*(char **)s->out = text;
	return 0;
}

int granary_jobs(struct granary_client *client, char **text, const struct granary_call *call)
{
	struct wr w;
	int err;
	struct simple_op *s = simple_new(client, &streams_rpc, call, 0, &w, &err);

	*text = NULL;
	if (!s)
		return err;
	s->decode = text_decode;
	s->out = text;
	return (int)simple_run(s, &w);
}
