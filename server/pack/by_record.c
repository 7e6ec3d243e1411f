/* SPDX-License-Identifier: Apache-2.0 */
/* by_record.c -- see by_record.h. Which record it is say the rows of a linked pack; where its link was cut they are
 * gone, and its footer says it. */
#include "pack/by_record.h"

#include "common/error.h"
#include "io/fs.h"
#include "pack/check.h"
#include "pack/linked.h"
#include "tier/copy.h"
#include "tier/packs.h"

bool by_record_is_due(struct packs *packs, uint64_t id)
{
	struct pack *pack = packs_ref(packs, id);
	bool is_due = pack != NULL && (pack_is_hot(pack) || !copy_is_linked(pack_cold(pack)));

	if (pack != NULL) packs_unref(packs, pack);
	return is_due;
}

struct at_source {
	uint64_t record;
	struct by_record *r;
};

static int take_lengths(void *arg, const struct linked_entry *e)
{
	struct at_source *a = arg;

	if (e->record != a->record) return -GRANARY_ECORRUPT;
	a->r->len = e->data_len;
	a->r->header_len = e->header_len;
	return 1;
}

/* Of a source exactly this object, whose tag stands for its checksum. */
static int file_read(struct kv *kv, struct pack *pack, struct fs_file *file, uint64_t record, struct by_record *r)
{
	struct at_source a = { record, r };
	int64_t n;
	int err;

	if (!copy_file_is_linked(file))
		return pack_record_verify(file, pack_id_of(pack), record, 0, r->data, &r->len, &r->header_len);
	err = linked_each(kv, pack_id_of(pack), record, take_lengths, &a);
	if (err < 0) return err;
	n = fs_read(file, r->data, r->len, record + r->header_len);
	return n < 0 ? (int)n : n < r->len ? -GRANARY_ECORRUPT : 0;
}

static int other_read(struct kv *kv, struct pack *pack, uint64_t record, struct by_record *r)
{
	struct fs_file *file;
	int err = pack_open_other(pack, &file);

	if (err < 0) return err;
	err = file_read(kv, pack, file, record, r);
	fs_close(&file);
	r->is_other = err == 0;
	return err;
}

static int record_read(struct packs *packs, struct kv *kv, struct pack *pack, uint64_t record, struct by_record *r)
{
	int err = packs_open_file(packs, pack);

	r->is_other = false;
	if (err == 0) err = file_read(kv, pack, pack_file(pack), record, r);
	if (err == -GRANARY_ECORRUPT || err == -GRANARY_EIO || err == -GRANARY_EBADFORMAT) {
		int other = other_read(kv, pack, record, r);

		/* Of an object that was changed before its pack was loaded nothing was. */
		if (other == 0 || other == -GRANARY_ESOURCE) err = other;
	}
	return err;
}

int by_record_read(struct packs *packs, struct kv *kv, uint64_t id, uint64_t record, struct by_record *r)
{
	struct pack *pack = packs_ref(packs, id);
	int err;

	if (pack == NULL) return -GRANARY_ESTALE;
	err = record_read(packs, kv, pack, record, r);
	packs_unref(packs, pack);
	return err;
}

struct wanted {
	uint64_t offset, end;
	uint64_t record; /* 0: not found */
};

static bool take_if_around(struct wanted *w, uint64_t record, uint32_t header_len, uint32_t data_len)
{
	uint64_t data = record + header_len;

	if (data <= w->offset && w->end <= data + data_len) w->record = record;
	return record >= w->end || w->record != 0;
}

static int each_row(void *arg, const struct linked_entry *e)
{
	return take_if_around(arg, e->record, e->header_len, e->data_len);
}

static int each_of_footer(void *arg, const struct footer_entry *e)
{
	return take_if_around(arg, e->offset, e->header_len, e->data_len);
}

static int record_find(struct packs *packs, struct kv *kv, struct pack *pack, struct wanted *w)
{
	struct pack_trailer trailer;
	int err = linked_each(kv, pack_id_of(pack), w->offset, each_row, w);

	if (err == -GRANARY_ENOTFOUND) {
		err = packs_open_file(packs, pack);
		if (err == 0) err = pack_footer_read(pack_file(pack), pack_id_of(pack), &trailer, each_of_footer, w);
	}
	if (err < 0) return err;
	return w->record != 0 ? 0 : -GRANARY_ERANGE;
}

int by_record_find(struct packs *packs, struct kv *kv, uint64_t id, uint64_t offset, uint32_t len,
	struct by_record *r, uint32_t *at)
{
	struct wanted w = { .offset = offset, .end = offset + len };
	struct pack *pack = packs_ref(packs, id);
	int err;

	if (pack == NULL) return -GRANARY_ESTALE;
	err = record_find(packs, kv, pack, &w);
	if (err == 0) err = record_read(packs, kv, pack, w.record, r);
	packs_unref(packs, pack);
	if (err < 0) return err;
	*at = (uint32_t)(offset - w.record - r->header_len);
	return offset >= w.record + r->header_len && *at + (uint64_t)len <= r->len ? 0 : -GRANARY_ECORRUPT;
}
