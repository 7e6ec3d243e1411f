/* SPDX-License-Identifier: Apache-2.0 */
/* model.c -- the names of one worker in RAM, and content made from numbers. Lists are short: searches are linear. */
#include "oracle.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/hash.h"

struct item *model_find(struct model *m, const char *path)
{
	for (size_t i = 0; i < m->count; i++)
		if (strcmp(m->items[i].path, path) == 0)
			return &m->items[i];
	return NULL;
}

void model_set(struct model *m, const char *path, uint64_t seed, uint64_t size, uint64_t version)
{
	struct item *item = model_find(m, path);

	if (item == NULL) {
		if (m->count == m->cap) {
			m->cap = m->cap ? 2 * m->cap : 64;
			m->items = realloc(m->items, m->cap * sizeof(*m->items));
			if (m->items == NULL)
				abort();
		}
		item = &m->items[m->count++];
		memset(item, 0, sizeof(*item));
		snprintf(item->path, sizeof(item->path), "%s", path);
	}
	item->seed = seed;
	item->size = size;
	item->version = version;
}

void model_remove(struct model *m, const char *path)
{
	struct item *item = model_find(m, path);

	if (item != NULL)
		*item = m->items[--m->count];
}

bool model_dir_exists(const struct model *m, const char *dir)
{
	size_t len = strlen(dir);

	for (size_t i = 0; i < m->count; i++)
		if (strncmp(m->items[i].path, dir, len) == 0)
			return true;
	return false;
}

bool model_dir_is_bare(const struct model *m, const char *dir)
{
	size_t len = strlen(dir);

	for (size_t i = 0; i < m->count; i++)
		if (strncmp(m->items[i].path, dir, len) == 0 && m->items[i].path[len] != '\0')
			return false;
	return true;
}

void model_copy(struct model *to, const struct model *from)
{
	to->count = to->cap = from->count;
	to->items = from->count > 0 ? malloc(from->count * sizeof(*to->items)) : NULL;
	if (from->count > 0) {
		if (to->items == NULL)
			abort();
		memcpy(to->items, from->items, from->count * sizeof(*to->items));
	}
}

void model_free(struct model *m)
{
	free(m->items);
	*m = (struct model){ .count = 0 };
}

static void rename_dir(struct model *m, const char *from, const char *to)
{
	size_t len = strlen(from);

	for (size_t i = 0; i < m->count; i++) {
		char rest[ORACLE_PATH_MAX];
		if (strncmp(m->items[i].path, from, len) != 0)
			continue;
		snprintf(rest, sizeof(rest), "%s", m->items[i].path + len);
		snprintf(m->items[i].path, ORACLE_PATH_MAX, "%.47s%.47s", to, rest);
	}
}

static void exchange(struct model *m, const char *from, const char *to)
{
	struct item *a = model_find(m, from), *b = model_find(m, to);

	if (from[strlen(from) - 1] == '/') {
		rename_dir(m, from, "\1/");
		rename_dir(m, to, from);
		rename_dir(m, "\1/", to);
	} else if (a != NULL && b != NULL) {
		snprintf(a->path, sizeof(a->path), "%s", to);
		snprintf(b->path, sizeof(b->path), "%s", from);
		a->version = b->version = 0;
	}
}

static void rename_one(struct model *m, const struct op *op)
{
	const char *from = op->entries[0].path, *to = op->entries[1].path;
	struct item *item, moved;

	if (op->entries[0].status != 0)
		return;
	if (op->kind == OP_EXCHANGE) {
		exchange(m, from, to);
		return;
	}
	if (from[strlen(from) - 1] == '/') {
		rename_dir(m, from, to);
		return;
	}
	item = model_find(m, from);
	if (item == NULL || strcmp(from, to) == 0)
		return;
	moved = *item;
	model_remove(m, from);
	model_set(m, to, moved.seed, moved.size, 0);
}

void model_apply(struct model *m, const struct op *op)
{
	if (has_two_names(op->kind)) {
		rename_one(m, op);
		return;
	}
	for (uint32_t i = 0; i < op->count; i++) {
		const struct op_entry *e = &op->entries[i];
		if (e->status != 0)
			continue;
		if (op->kind == OP_DELETE || op->kind == OP_BATCH_DELETE || op->kind == OP_RMDIR)
			model_remove(m, e->path);
		else
			model_set(m, e->path, e->seed, e->size, e->version);
	}
}

/* ---- content ---- */

static uint64_t content_word(uint64_t seed, uint64_t size, uint64_t i)
{
	return i == 0 ? seed : i == 1 ? size ^ seed : hash_u64(seed + i * 0x9e3779b97f4a7c15ull);
}

void content_fill(void *buf, uint64_t seed, size_t size)
{
	uint8_t *p = buf;

	for (size_t i = 0; 8 * i < size; i++) {
		uint64_t word = content_word(seed, size, i);
		memcpy(p + 8 * i, &word, size - 8 * i < 8 ? size - 8 * i : 8);
	}
}

static bool content_is(const uint8_t *p, uint64_t seed, uint64_t size)
{
	for (uint64_t i = 0; 8 * i < size; i++) {
		uint64_t word = content_word(seed, size, i);
		if (memcmp(p + 8 * i, &word, size - 8 * i < 8 ? (size_t)(size - 8 * i) : 8) != 0)
			return false;
	}
	return true;
}

enum content content_judge(const void *data, size_t len, uint64_t seed, uint64_t size)
{
	uint64_t told_seed, told_size;

	if (len == size && content_is(data, seed, size))
		return CONTENT_RIGHT;
	if (len < 16)
		return CONTENT_OTHER;
	memcpy(&told_seed, data, 8);
	memcpy(&told_size, (const uint8_t *)data + 8, 8);
	told_size ^= told_seed;
	return told_size == len && content_is(data, told_seed, told_size) ? CONTENT_OTHER : CONTENT_TORN;
}
