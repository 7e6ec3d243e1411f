/* SPDX-License-Identifier: Apache-2.0 */
/* backup_format.c -- see backup_format.h. A manifest is text, so that a person can read what a backup has; a log is
 * binary.
 * Invariants: (1) a manifest is decoded only when the checksum in its last line covers all before it; (2) nothing that
 * is decoded can name a file outside of its folder. */
#include "jobs/backup_format.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"
#include "common/error.h"

#define MANIFEST_TITLE "granary-backup 1\n"
static const char title_any[] = "granary-backup ";
enum { LOG_VERSION = 1, RECORD_MAGIC = 0x524c4247 /* GBLR */, LINE_MAX_LEN = 512, HEAD_MAX = 512, END_LEN = 13 };

/* ---- manifest ---- */

void backup_manifest_release(struct backup_manifest *m)
{
	free(m->files);
	*m = (struct backup_manifest){ .count = 0 };
}

int backup_manifest_add(struct backup_manifest *m, const struct backup_file *f)
{
	if (m->count == m->cap) {
		uint32_t cap = m->cap ? 2 * m->cap : 64;
		struct backup_file *files = realloc(m->files, cap * sizeof(*files));
		if (files == NULL) return -GRANARY_ENOMEM;
		m->files = files;
		m->cap = cap;
	}
	m->files[m->count++] = *f;
	return 0;
}

static void hex_of(const uint8_t *in, size_t len, char *out)
{
	for (size_t i = 0; i < len; i++) snprintf(out + 2 * i, 3, "%02x", in[i]);
}

char *backup_manifest_encode(const struct backup_manifest *m, size_t *len)
{
	size_t cap = HEAD_MAX + (size_t)m->count * LINE_MAX_LEN;
	char *text = malloc(cap), hex[33];
	size_t n;

	if (text == NULL) return NULL;
	hex_of(m->store_id, sizeof(m->store_id), hex);
	n = (size_t)snprintf(text, cap,
		MANIFEST_TITLE "number=%" PRIu64 "\nstore=%s\nengine=%s\nposition=%" PRIu64 "\nincarnation=%" PRIu32
			       "\nstore_time_ns=%" PRIu64 "\nmade=%" PRIu64 "\n",
		m->number, hex, m->engine, m->position, m->incarnation, m->store_time_ns, m->made_s);
	for (uint32_t i = 0; i < m->count; i++) {
		const struct backup_file *f = &m->files[i];
		n += (size_t)snprintf(text + n, cap - n, "file=%s %s %" PRIu64 " %08" PRIx32 " %016" PRIx64 "\n",
			f->stored, f->name, f->size, f->crc, f->identity);
	}
	n += (size_t)snprintf(text + n, cap - n, "end=%08" PRIx32 "\n", crc32c(0, text, n));
	*len = n;
	return text;
}

/* One word up to `end`, which is taken too; false when there is none. */
static bool word_take(struct slice *line, uint8_t end, struct slice *out)
{
	const uint8_t *at = line->len > 0 ? memchr(line->p, end, line->len) : NULL;

	if (at == NULL) return false;
	*out = slice_of(line->p, (size_t)(at - line->p));
	*line = slice_of(at + 1, line->len - out->len - 1);
	return true;
}

static int digit_of(uint8_t c, unsigned base)
{
	int d = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;

	return d >= 0 && (unsigned)d < base ? d : -1;
}

static bool number_of(struct slice s, unsigned base, uint64_t max, uint64_t *out)
{
	uint64_t v = 0;

	if (s.len == 0 || s.len > 20) return false;
	for (size_t i = 0; i < s.len; i++) {
		int d = digit_of(s.p[i], base);
		if (d < 0 || v > (UINT64_MAX - (unsigned)d) / base) return false;
		v = v * base + (unsigned)d;
	}
	*out = v;
	return v <= max;
}

/* What a file may be called: nothing that leads elsewhere. */
static bool name_take(struct slice s, char out[BACKUP_NAME_MAX + 1])
{
	if (s.len == 0 || s.len > BACKUP_NAME_MAX || s.p[0] == '.') return false;
	for (size_t i = 0; i < s.len; i++) {
		uint8_t c = s.p[i];
		if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
			    c == '_' || c == '-'))
			return false;
	}
	memcpy(out, s.p, s.len);
	out[s.len] = '\0';
	return true;
}

static int file_line(struct slice v, struct backup_manifest *m)
{
	struct backup_file f = { .size = 0 };
	struct slice stored, name, size, crc;
	uint64_t sum = 0;

	if (!word_take(&v, ' ', &stored) || !word_take(&v, ' ', &name) || !word_take(&v, ' ', &size) ||
		!word_take(&v, ' ', &crc) || !name_take(stored, f.stored) || !name_take(name, f.name) ||
		!number_of(size, 10, UINT64_MAX >> 1, &f.size) || !number_of(crc, 16, UINT32_MAX, &sum) ||
		!number_of(v, 16, UINT64_MAX, &f.identity) || m->count == BACKUP_FILES_MAX)
		return -GRANARY_EBADFORMAT;
	f.crc = (uint32_t)sum;
	return backup_manifest_add(m, &f);
}

static bool store_line(struct slice v, struct backup_manifest *m)
{
	if (v.len != 2 * sizeof(m->store_id)) return false;
	for (size_t i = 0; i < sizeof(m->store_id); i++) {
		int high = digit_of(v.p[2 * i], 16), low = digit_of(v.p[2 * i + 1], 16);
		if (high < 0 || low < 0) return false;
		m->store_id[i] = (uint8_t)(high << 4 | low);
	}
	return true;
}

static bool engine_line(struct slice v, struct backup_manifest *m)
{
	char name[BACKUP_NAME_MAX + 1];

	if (v.len >= sizeof(m->engine) || !name_take(v, name)) return false;
	memcpy(m->engine, name, v.len + 1);
	return true;
}

enum line_bit {
	HAS_NUMBER = 1,
	HAS_STORE = 2,
	HAS_ENGINE = 4,
	HAS_POSITION = 8,
	HAS_INCARNATION = 16,
	HAS_TIME = 32,
	HAS_MADE = 64,
	HAS_ALL = 127
};

/* Lines of later versions are passed over; those known stand at most once. */
static int head_line(struct slice name, struct slice v, struct backup_manifest *m, unsigned *has)
{
	uint64_t incarnation = 0;
	const struct {
		const char *name;
		unsigned bit;
		uint64_t *to, max;
	} numbers[] = {
		{ "number", HAS_NUMBER, &m->number, UINT64_MAX },
		{ "position", HAS_POSITION, &m->position, UINT64_MAX },
		{ "incarnation", HAS_INCARNATION, &incarnation, 0xffffff },
		{ "store_time_ns", HAS_TIME, &m->store_time_ns, UINT64_MAX },
		{ "made", HAS_MADE, &m->made_s, UINT64_MAX },
	};
	unsigned bit = slice_eq(name, slice_str("store"))    ? HAS_STORE
		       : slice_eq(name, slice_str("engine")) ? HAS_ENGINE
							     : 0;
	bool is_good = bit == HAS_STORE ? store_line(v, m) : bit == HAS_ENGINE ? engine_line(v, m) : true;

	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
		if (!slice_eq(name, slice_str(numbers[i].name))) continue;
		bit = numbers[i].bit;
		is_good = number_of(v, 10, numbers[i].max, numbers[i].to);
	}
	if (bit == HAS_INCARNATION) m->incarnation = (uint32_t)incarnation;
	if (!is_good || (*has & bit) != 0) return -GRANARY_EBADFORMAT;
	*has |= bit;
	return 0;
}

static int lines_take(struct slice text, struct backup_manifest *m)
{
	struct slice line, name;
	unsigned has = 0;
	int err = 0;

	while (err == 0 && text.len > 0) {
		if (!word_take(&text, '\n', &line) || !word_take(&line, '=', &name)) return -GRANARY_EBADFORMAT;
		err = slice_eq(name, slice_str("file")) ? file_line(line, m) : head_line(name, line, m, &has);
	}
	return err == 0 && has != HAS_ALL ? -GRANARY_EBADFORMAT : err;
}

int backup_manifest_decode(struct slice text, struct backup_manifest *m)
{
	size_t title = strlen(MANIFEST_TITLE);
	char end[END_LEN + 1];
	int err;

	*m = (struct backup_manifest){ .count = 0 };
	if (text.len < title + END_LEN || memcmp(text.p, title_any, strlen(title_any)) != 0) return -GRANARY_EBADFORMAT;
	snprintf(end, sizeof(end), "end=%08" PRIx32 "\n", crc32c(0, text.p, text.len - END_LEN));
	if (memcmp(text.p + text.len - END_LEN, end, END_LEN) != 0) return -GRANARY_ECORRUPT;
	if (memcmp(text.p, MANIFEST_TITLE, title) != 0) return -GRANARY_EVERSION;
	err = lines_take(slice_of(text.p + title, text.len - title - END_LEN), m);
	if (err < 0) backup_manifest_release(m);
	return err;
}

/* ---- log ---- */

static const uint8_t log_magic[8] = { 'G', 'R', 'N', 'B', 'L', 'O', 'G', 0 };

void backup_log_header_encode(const struct backup_log_header *h, uint8_t out[BACKUP_LOG_HEADER_SIZE])
{
	struct wr w = wr_of(out, BACKUP_LOG_HEADER_SIZE);

	wr_bytes(&w, log_magic, sizeof(log_magic));
	wr_u32(&w, LOG_VERSION);
	wr_u32(&w, 0);
	wr_u64(&w, h->number);
	wr_u64(&w, h->start);
	wr_bytes(&w, h->store_id, sizeof(h->store_id));
	wr_u32(&w, h->incarnation);
	wr_u64(&w, 0);
	wr_u32(&w, crc32c(0, out, BACKUP_LOG_HEADER_SIZE - 4));
}

int backup_log_header_decode(const uint8_t *in, size_t len, struct backup_log_header *out)
{
	struct cur c = cur_of(in, len);
	uint32_t version, features;
	struct slice magic = cur_bytes(&c, sizeof(log_magic)), store;

	if (len < BACKUP_LOG_HEADER_SIZE || memcmp(magic.p, log_magic, sizeof(log_magic)) != 0)
		return -GRANARY_EBADFORMAT;
	version = cur_u32(&c);
	features = cur_u32(&c);
	if (version != LOG_VERSION || features != 0) return -GRANARY_EVERSION;
	out->number = cur_u64(&c);
	out->start = cur_u64(&c);
	store = cur_bytes(&c, sizeof(out->store_id));
	memcpy(out->store_id, store.p, sizeof(out->store_id));
	out->incarnation = cur_u32(&c);
	(void)cur_u64(&c);
	return cur_u32(&c) == crc32c(0, in, BACKUP_LOG_HEADER_SIZE - 4) ? 0 : -GRANARY_ECORRUPT;
}

void backup_record_encode(const struct backup_record *r, uint8_t out[BACKUP_RECORD_HEADER_SIZE])
{
	struct wr w = wr_of(out, BACKUP_RECORD_HEADER_SIZE);

	wr_u32(&w, RECORD_MAGIC);
	wr_u32(&w, (uint32_t)r->ops.len);
	wr_u64(&w, r->before);
	wr_u64(&w, r->after);
	wr_u32(&w, r->count);
	wr_u32(&w, 0);
}

static uint32_t record_crc(const uint8_t *p, uint32_t ops_len)
{
	return crc32c(crc32c(0, p, BACKUP_RECORD_HEADER_SIZE - 4), p + BACKUP_RECORD_HEADER_SIZE, ops_len);
}

size_t backup_record_seal(uint8_t *p)
{
	uint32_t len, crc;

	memcpy(&len, p + 4, sizeof(len));
	crc = record_crc(p, len);
	memcpy(p + BACKUP_RECORD_HEADER_SIZE - 4, &crc, sizeof(crc));
	return BACKUP_RECORD_HEADER_SIZE + (size_t)len;
}

size_t backup_record_decode(const uint8_t *buf, size_t len, struct backup_record *out, size_t *need)
{
	struct cur c = cur_of(buf, len);
	uint32_t magic = cur_u32(&c), ops_len = cur_u32(&c), crc;

	*need = 0;
	if (cur_ok(&c) && (magic != RECORD_MAGIC || ops_len > BACKUP_RECORD_MAX)) return 0;
	out->before = cur_u64(&c);
	out->after = cur_u64(&c);
	out->count = cur_u32(&c);
	crc = cur_u32(&c);
	out->ops = cur_bytes(&c, ops_len);
	if (!cur_ok(&c)) {
		*need = len < BACKUP_RECORD_HEADER_SIZE ? (size_t)BACKUP_RECORD_HEADER_SIZE
							: BACKUP_RECORD_HEADER_SIZE + (size_t)ops_len;
		return 0;
	}
	if (crc != record_crc(buf, ops_len) || out->after <= out->before) return 0;
	return BACKUP_RECORD_HEADER_SIZE + (size_t)ops_len;
}

void backup_op_encode(struct wr *w, const struct backup_op *op)
{
	wr_u8(w, op->is_delete);
	wr_bytes32(w, op->key);
	wr_bytes32(w, op->value);
}

bool backup_op_next(struct cur *c, struct backup_op *out)
{
	if (cur_left(c) == 0) return false;
	out->is_delete = cur_flags(c, 1) != 0;
	out->key = cur_bytes32(c);
	out->value = cur_bytes32(c);
	return cur_ok(c);
}
