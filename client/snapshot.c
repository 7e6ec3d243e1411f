/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot.c -- a snapshot open for reading: its manifest, its names, single samples. */
#include "snapshot_priv.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/clock.h"
#include "range.h"

enum {
	HOLDER_MAX = 128, /* of a name in reports: PROTOCOL 4.9 */
	FETCH_AHEAD = 8,  /* rows of a batch whose bytes come out of memory meanwhile */
};

static struct granary_call snapshot_call(const struct granary_snapshot *s)
{
	return (struct granary_call){ .size = sizeof(struct granary_call), .bucket = s->bucket,
		.timeout_ms = s->timeout_ms };
}

/* ---- open, close ---- */

static int call_read(struct granary_snapshot *s, const char *name, const struct granary_call *call)
{
	struct granary_call all = { .size = 0 };

	if (call)
		memcpy(&all, call, call->size < sizeof(all) ? call->size : sizeof(all));
	const char *bucket = all.bucket ? all.bucket : s->client->config.bucket;
	if (!name || strlen(name) >= sizeof(s->name) || strlen(bucket) >= sizeof(s->bucket))
		return error_fail(s->client, -GRANARY_ENAME, "no name of a snapshot, or one that is too long");
	snprintf(s->name, sizeof(s->name), "%s", name);
	snprintf(s->bucket, sizeof(s->bucket), "%s", bucket);
	s->timeout_ms = all.timeout_ms;
	return 0;
}

static char *slice_text(struct slice from)
{
	char *text = malloc(from.len + 1);

	if (!text)
		return NULL;
	if (from.len > 0)
		memcpy(text, from.p, from.len);
	text[from.len] = '\0';
	return text;
}

static int pack_order(const void *a, const void *b, void *pages)
{
	const struct snap_page_ref *all = pages, *x = &all[*(const uint32_t *)a], *y = &all[*(const uint32_t *)b];

	return x->pack < y->pack ? -1 : x->pack > y->pack;
}

static int manifest_take(struct granary_snapshot *s, size_t len, const uint8_t id[16])
{
	struct hash128 hash = hash_content(s->bytes, len);
	struct snap_manifest *m = &s->manifest;

	if (memcmp(&hash, id, sizeof(hash)) != 0)
		return error_fail(s->client, -GRANARY_ECORRUPT, "the manifest of snapshot '%s' does not have its hash",
			s->name);
	int err = snap_manifest_decode(s->bytes, len, m);
	if (err < 0)
		return error_fail(s->client, err, "the manifest of snapshot '%s' cannot be read: %s", s->name,
			error_text(err));
	s->hash = hash;
	s->identity = m->has_identity ? m->identity : hash;
	s->prefix = slice_text(m->prefix);
	s->options = slice_text(m->options);
	s->first_ids = calloc((size_t)m->page_count + 1, sizeof(*s->first_ids));
	s->by_pack = calloc((size_t)m->page_count + 1, sizeof(*s->by_pack));
	if (!s->prefix || !s->options || !s->first_ids || !s->by_pack || snapshot_pages_open(s) < 0 ||
	    snapshot_names_open(s) < 0)
		return error_fail(s->client, -GRANARY_ENOMEM, "out of memory");
	for (uint32_t i = 0; i < m->page_count; i++) {
		s->first_ids[i + 1] = s->first_ids[i] + m->pages[i].samples;
		s->by_pack[i] = i;
	}
	qsort_r(s->by_pack, m->page_count, sizeof(*s->by_pack), pack_order, m->pages);
	if (s->first_ids[m->page_count] != m->samples)
		return error_fail(s->client, -GRANARY_ECORRUPT, "the manifest of snapshot '%s' contradicts "
			"itself", s->name);
	return 0;
}

static int snapshot_load(struct granary_snapshot *s, bool *exists)
{
	struct granary_snapshot_info *info;
	struct granary_call call = snapshot_call(s);
	size_t len;
	int err = snapshot_fetch_manifest(s->client, s->name, &info, &s->bytes, &len, &call);

	*exists = err != -GRANARY_ENOTFOUND;
	if (err == -GRANARY_ENOTFOUND)
		error_fail(s->client, err, "there is no snapshot '%s' in bucket '%s'", s->name, s->bucket);
	if (err == 0 && info->state != GRANARY_SNAPSHOT_READY)
		err = error_fail(s->client, -GRANARY_ENOTFOUND, "snapshot '%s' is %s", s->name,
			info->state == GRANARY_SNAPSHOT_CREATING ? "still being made" : "being removed");
	if (err == 0)
		err = manifest_take(s, len, info->manifest);
	free(info);
	return err;
}

int granary_snapshot_open(struct granary_client *client, const char *name, struct granary_snapshot **out,
	const struct granary_call *call)
{
	bool exists;

	return snapshot_open(client, name, out, call, &exists);
}

int snapshot_open(struct granary_client *client, const char *name, struct granary_snapshot **out,
	const struct granary_call *call, bool *exists)
{
	int err = client_enter(client);

	*out = NULL;
	*exists = true;
	if (err < 0)
		return err;
	struct granary_snapshot *s = calloc(1, sizeof(*s));
	if (!s)
		return error_fail(client, -GRANARY_ENOMEM, "out of memory");
	s->client = client;
	pthread_mutex_init(&s->lock, NULL);
	pthread_mutex_init(&s->loading, NULL);
	err = call_read(s, name, call);
	if (err == 0)
		err = snapshot_load(s, exists);
	if (err < 0) {
		granary_snapshot_close(&s);
		return err;
	}
	*out = s;
	return 0;
}

void granary_snapshot_close(struct granary_snapshot **snapshot)
{
	struct granary_snapshot *s = snapshot ? *snapshot : NULL;

	if (!s)
		return;
	*snapshot = NULL;
	snapshot_names_close(s);
	snapshot_pages_close(s);
	snap_manifest_release(&s->manifest);
	free(s->first_ids);
	free(s->by_pack);
	free(s->prefix);
	free(s->options);
	free(s->bytes);
	pthread_mutex_destroy(&s->lock);
	pthread_mutex_destroy(&s->loading);
	free(s);
}

uint64_t granary_snapshot_samples(const struct granary_snapshot *snapshot)
{
	return snapshot->manifest.samples;
}

int granary_snapshot_describe(const struct granary_snapshot *s, struct granary_snapshot_detail *detail)
{
	const struct snap_manifest *m = &s->manifest;
	struct granary_snapshot_detail all = {
		.name = s->name, .bucket = s->bucket, .prefix = s->prefix, .options = s->options,
		.samples = m->samples, .bytes = m->bytes, .directories = m->directories, .incomplete = m->incomplete,
		.created_ns = m->created_ns, .smallest = m->smallest, .largest = m->largest, .block = m->block,
		.window = m->window, .lanes = m->lanes, .mode = m->mode, .fields = m->fields, .pages = m->page_count,
		.names_pages = m->names_count, .names = s->first_names[m->names_count],
	};

	if (!detail || detail->size < offsetof(struct granary_snapshot_detail, samples))
		return -GRANARY_EINVAL;
	_Static_assert(sizeof(all.histogram) == sizeof(m->histogram), "as many classes in both");
	memcpy(all.histogram, m->histogram, sizeof(all.histogram));
	memcpy(all.id, &s->identity, sizeof(all.id));
	all.size = detail->size;
	memcpy(detail, &all, detail->size < sizeof(all) ? detail->size : sizeof(all));
	return 0;
}

/* ---- who uses it ---- */

static bool holder_valid(const char *holder)
{
	size_t len = strlen(holder);

	for (size_t i = 0; i < len; i++)
		if (holder[i] <= ' ' || holder[i] >= 127)
			return false;
	return len > 0 && len <= HOLDER_MAX;
}

int granary_snapshot_hold(struct granary_snapshot *snapshot, const char *holder, int end,
	const struct granary_call *call)
{
	char host[HOST_NAME_MAX + 1] = "";
	struct granary_call all = snapshot_call(snapshot);
	struct stream_report r = { .snapshot = snapshot->name, .job = holder, .host = host, .world = 1, .weight = 1,
		.of = snapshot->manifest.samples, .ended = end != 0 };
	struct granary_op *op;
	int err = client_enter(snapshot->client);

	if (err == 0 && !holder_valid(holder))
		err = error_fail(snapshot->client, -GRANARY_EINVAL, "the name of a holder is 1 to %d visible ASCII "
			"characters without blanks, not '%.150s'", HOLDER_MAX, holder);
	if (err < 0)
		return err;
	if (call && call->timeout_ms)
		all.timeout_ms = call->timeout_ms;
	if (gethostname(host, sizeof(host) - 1) < 0 || !holder_valid(host))
		snprintf(host, sizeof(host), "unknown");
	err = stream_report_start(snapshot->client, &r, &all, &op);
	if (err == 0)
		err = (int)granary_wait(op, GRANARY_FOREVER);
	granary_op_free(&op);
	return err < 0 ? err : 0;
}

/* ---- pages ---- */

uint32_t snapshot_page_of(const struct granary_snapshot *s, uint64_t id)
{
	uint32_t low = 0, high = s->manifest.page_count;

	while (high - low > 1) {
		uint32_t middle = low + (high - low) / 2;
		if (s->first_ids[middle] <= id)
			low = middle;
		else
			high = middle;
	}
	return low;
}

int granary_snapshot_row(struct granary_snapshot *snapshot, uint64_t id, uint32_t field,
	struct granary_snapshot_row *row)
{
	const struct snap_page *page;
	struct snap_row r;

	memset(row, 0, sizeof(*row));
	if (id >= snapshot->manifest.samples || field >= snapshot->manifest.fields)
		return error_fail(snapshot->client, -GRANARY_ERANGE, "snapshot '%s' has no such sample or "
			"field", snapshot->name);
	uint32_t index = snapshot_page_of(snapshot, id);
	int err = snapshot_page_get(snapshot, index, &page);
	if (err < 0)
		return err;
	err = snap_page_row(page, (id - snapshot->first_ids[index]) * snapshot->manifest.fields + field, &r);
	if (err == 0 && r.extent_count > 1)
		err = snap_page_extent(page, &r, 0, &r.first);
	snapshot_page_put(snapshot, index);
	if (err == 0)
		*row = (struct granary_snapshot_row){ .size = r.size, .pack = r.first.pack, .offset = r.first.offset,
			.extents = r.extent_count, .crc32c = r.first.crc };
	return err;
}

/* ---- names ---- */

struct reverse {
	uint64_t id;
	char *out;
	size_t cap;
};

static int match_id(void *arg, const char *key, uint64_t id, uint32_t field)
{
	struct reverse *r = arg;

	if (id != r->id || field != 0)
		return 0;
	snprintf(r->out, r->cap, "%s", key);
	return 1;
}

int snapshot_key_of(struct granary_snapshot *s, uint64_t id, char *out, size_t cap)
{
	struct reverse r = { id, out, cap };
	int err = granary_snapshot_names(s, NULL, match_id, &r);

	return err == 1 ? 0 : err < 0 ? err : -GRANARY_ENOTFOUND;
}

/* ---- one sample ---- */

/* Where each file of each sample goes; the sum of all, or an error. */
static int64_t batch_layout(struct granary_snapshot *s, struct page_cursor *c, const uint64_t *ids, size_t count,
	uint64_t *offsets)
{
	uint32_t fields = s->manifest.fields;
	uint64_t at = 0, size;

	for (size_t i = 0; i < count; i++) {
		uint64_t *sizes = offsets + i * fields;
		if (ids[i] >= s->manifest.samples)
			return error_fail(s->client, -GRANARY_ERANGE, "snapshot '%s' has no sample %llu, it has %llu",
				s->name, (unsigned long long)ids[i], (unsigned long long)s->manifest.samples);
		if (i + FETCH_AHEAD < count && ids[i + FETCH_AHEAD] < s->manifest.samples)
			page_cursor_fetch(s, c, ids[i + FETCH_AHEAD]);
		int err = range_sample_size(s, c, ids[i], &size, sizes);
		if (err < 0)
			return err;
		for (uint32_t f = 0; f < fields; f++) {
			size = sizes[f];
			sizes[f] = at;
			at += size;
		}
		if (at > GRANARY_READ_SIZE_MAX)
			return error_fail(s->client, -GRANARY_ETOOBIG, "these samples have more than %llu bytes",
				(unsigned long long)GRANARY_READ_SIZE_MAX);
	}
	offsets[count * fields] = at;
	return (int64_t)at;
}

static int batch_corrupt(struct granary_snapshot *s, const struct range_plan *plan, const uint64_t *ids)
{
	char key[GRANARY_KEY_LEN_MAX + 1] = "";
	uint32_t u = 0;

	while (u + 1 < plan->units_count && !plan->units[u].bad)
		u++;
	uint64_t id = ids[plan->units_count > 0 ? plan->units[u].tag : 0];
	if (snapshot_key_of(s, id, key, sizeof(key)) < 0)
		snprintf(key, sizeof(key), "(key not known)");
	return error_fail(s->client, -GRANARY_ECORRUPT, "sample %llu of '%s@%s', '%.200s': wrong checksum, also when "
		"read again", (unsigned long long)id, s->bucket, s->name, key);
}

static int batch_run(struct granary_snapshot *s, struct page_cursor *c, const uint64_t *ids, size_t count,
	uint8_t *block, const uint64_t *offsets, uint32_t timeout_ms)
{
	struct range_plan plan = { .units = NULL };
	int err = -GRANARY_ECORRUPT;

	for (int tries = 0; err == -GRANARY_ECORRUPT && tries < 2; tries++) {
		range_plan_clear(&plan);
		plan.past_cache = tries > 0; /* which may be what is wrong */
		err = 0;
		for (size_t i = 0; err == 0 && i < count; i++) {
			uint32_t before = plan.units_count;
			err = range_add_sample(&plan, s, c, ids[i], block + offsets[i * s->manifest.fields]);
			for (uint32_t u = before; u < plan.units_count; u++)
				plan.units[u].tag = (uint32_t)i;
		}
		page_cursor_end(s, c);
		if (err == 0)
			err = range_run(&plan, s, timeout_ms);
	}
	if (err == -GRANARY_ECORRUPT)
		err = batch_corrupt(s, &plan, ids);
	range_plan_release(&plan);
	return err;
}

int granary_snapshot_read_batch(struct granary_snapshot *snapshot, const uint64_t *ids, size_t count, void **data,
	uint64_t *offsets, const struct granary_call *call)
{
	uint32_t timeout_ms = call && call->timeout_ms ? call->timeout_ms : snapshot->timeout_ms;
	struct page_cursor c = { .page = NULL };
	int err = client_enter(snapshot->client);

	*data = NULL;
	if (err == 0 && count > UINT32_MAX)
		err = error_fail(snapshot->client, -GRANARY_ETOOBIG, "too many samples for one batch");
	int64_t size = err == 0 ? batch_layout(snapshot, &c, ids, count, offsets) : err;
	uint8_t *block = size >= 0 ? malloc(size > 0 ? (size_t)size : 1) : NULL;
	if (!block) {
		page_cursor_end(snapshot, &c);
		return size < 0 ? (int)size : error_fail(snapshot->client, -GRANARY_ENOMEM, "out of memory");
	}
	err = batch_run(snapshot, &c, ids, count, block, offsets, timeout_ms);
	if (err < 0)
		free(block);
	else
		*data = block;
	return err;
}

int granary_snapshot_read(struct granary_snapshot *snapshot, uint64_t id, void **data, size_t *len,
	const struct granary_call *call)
{
	struct snap_manifest *m = &snapshot->manifest;
	uint64_t *offsets = calloc((size_t)m->fields + 1, sizeof(*offsets));

	*data = NULL;
	*len = 0;
	if (!offsets)
		return error_fail(snapshot->client, -GRANARY_ENOMEM, "out of memory");
	int err = granary_snapshot_read_batch(snapshot, &id, 1, data, offsets, call);
	*len = err == 0 ? offsets[m->fields] : 0;
	free(offsets);
	return err;
}

/* ---- a piece of one file ---- */

/* The extent of a row that holds the byte at `offset`, and where it begins in the row. */
static int extent_around(const struct snap_page *page, const struct snap_row *row, uint64_t offset,
	struct snap_extent *extent, uint64_t *begins)
{
	*begins = 0;
	for (uint32_t i = 0; i < row->extent_count; i++) {
		int err = snap_page_extent(page, row, i, extent);
		if (err < 0 || offset - *begins < extent->length)
			return err;
		*begins += extent->length;
	}
	return -GRANARY_ECORRUPT; /* the extents of a row make its size */
}

static int piece_fetch(struct granary_snapshot *s, uint64_t id, const struct snap_extent *e, uint8_t *block,
	uint32_t timeout_ms)
{
	struct range_plan plan = { .units = NULL };
	int err = -GRANARY_ECORRUPT;

	if (e->pack == 0) {
		memset(block, 0, e->length);
		return 0;
	}
	for (int tries = 0; err == -GRANARY_ECORRUPT && tries < 2; tries++) {
		range_plan_clear(&plan);
		plan.past_cache = tries > 0; /* which may be what is wrong */
		err = range_add_unit(&plan, e, block, 0);
		if (err == 0)
			err = range_run(&plan, s, timeout_ms);
	}
	if (err == -GRANARY_ECORRUPT)
		err = batch_corrupt(s, &plan, &id);
	range_plan_release(&plan);
	return err;
}

int granary_snapshot_read_piece(struct granary_snapshot *snapshot, uint64_t id, uint32_t field, uint64_t offset,
	struct granary_snapshot_piece *piece, const struct granary_call *call)
{
	uint32_t timeout_ms = call && call->timeout_ms ? call->timeout_ms : snapshot->timeout_ms;
	struct page_cursor c = { .page = NULL };
	struct snap_extent extent;
	struct snap_row row;
	uint64_t begins = 0;
	int err = client_enter(snapshot->client);

	*piece = (struct granary_snapshot_piece){ .data = NULL };
	if (err == 0 && (id >= snapshot->manifest.samples || field >= snapshot->manifest.fields))
		err = error_fail(snapshot->client, -GRANARY_ERANGE, "snapshot '%s' has no such sample or field",
			snapshot->name);
	if (err == 0)
		err = page_cursor_to(snapshot, &c, id);
	if (err == 0)
		err = snap_page_row(c.page, (id - c.first) * snapshot->manifest.fields + field, &row);
	if (err == 0 && offset >= row.size)
		err = error_fail(snapshot->client, -GRANARY_ERANGE, "the file has no byte %llu",
			(unsigned long long)offset);
	if (err == 0)
		err = extent_around(c.page, &row, offset, &extent, &begins);
	page_cursor_end(snapshot, &c);
	if (err < 0)
		return err;
	piece->data = malloc(extent.length);
	if (!piece->data)
		return error_fail(snapshot->client, -GRANARY_ENOMEM, "out of memory");
	err = piece_fetch(snapshot, id, &extent, piece->data, timeout_ms);
	if (err < 0) {
		free(piece->data);
		piece->data = NULL;
		return err;
	}
	piece->offset = begins;
	piece->size = extent.length;
	return 0;
}
