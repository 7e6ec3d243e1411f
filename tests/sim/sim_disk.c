/* SPDX-License-Identifier: Apache-2.0 */
/* sim_disk.c -- the disk: for every file and directory what a program sees (live), what is durable (stable), and
 * between the two the ordered changes that are not durable yet.
 * Invariants: (1) stable plus all records of a file that completed, in order, is live; (2) stable names plus all
 * pending name ops, in order, are the live names; (3) both lists are empty after a power cut. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "sim/sim_world.h"

/* ---- sparse bytes ---- */

static uint8_t *bytes_chunk(struct sim_bytes *b, size_t i)
{
	if (i >= b->count) {
		size_t count = i + 1 + i / 2;
		b->chunks = realloc(b->chunks, count * sizeof(*b->chunks));
		if (!b->chunks)
			abort();
		memset(b->chunks + b->count, 0, (count - b->count) * sizeof(*b->chunks));
		b->count = count;
	}
	if (!b->chunks[i])
		b->chunks[i] = sim_alloc(SIM_CHUNK);
	return b->chunks[i];
}

static void bytes_write(struct sim_bytes *b, const uint8_t *src, uint64_t offset, uint64_t len)
{
	while (len > 0) {
		size_t at = offset % SIM_CHUNK, n = SIM_CHUNK - at < len ? SIM_CHUNK - at : (size_t)len;
		memcpy(bytes_chunk(b, (size_t)(offset / SIM_CHUNK)) + at, src, n);
		src += n;
		offset += n;
		len -= n;
	}
}

static void bytes_read(const struct sim_bytes *b, uint8_t *dst, uint64_t offset, uint64_t len)
{
	while (len > 0) {
		size_t at = offset % SIM_CHUNK, n = SIM_CHUNK - at < len ? SIM_CHUNK - at : (size_t)len;
		size_t i = (size_t)(offset / SIM_CHUNK);
		if (i < b->count && b->chunks[i])
			memcpy(dst, b->chunks[i] + at, n);
		else
			memset(dst, 0, n);
		dst += n;
		offset += n;
		len -= n;
	}
}

static void bytes_zero_from(struct sim_bytes *b, uint64_t offset)
{
	for (size_t i = (size_t)(offset / SIM_CHUNK); i < b->count; i++) {
		size_t at = i == offset / SIM_CHUNK ? offset % SIM_CHUNK : 0;
		if (b->chunks[i])
			memset(b->chunks[i] + at, 0, SIM_CHUNK - at);
	}
}

static void bytes_free(struct sim_bytes *b)
{
	for (size_t i = 0; i < b->count; i++)
		free(b->chunks[i]);
	free(b->chunks);
	*b = (struct sim_bytes){ 0 };
}

static void bytes_copy(struct sim_bytes *to, const struct sim_bytes *from)
{
	bytes_free(to);
	for (size_t i = 0; i < from->count; i++)
		if (from->chunks[i])
			memcpy(bytes_chunk(to, i), from->chunks[i], SIM_CHUNK);
}

/* ---- names ---- */

static size_t names_find(const struct sim_names *names, const char *name, size_t len)
{
	for (size_t i = 0; i < names->count; i++)
		if (strncmp(names->list[i].name, name, len) == 0 && names->list[i].name[len] == '\0')
			return i;
	return names->count;
}

struct sim_node *sim_names_get(const struct sim_names *names, const char *name, size_t len)
{
	size_t i = names_find(names, name, len);
	return i < names->count ? names->list[i].node : NULL;
}

void sim_names_set(struct sim_names *names, const char *name, size_t len, struct sim_node *node)
{
	size_t i = names_find(names, name, len);
	if (i < names->count && node) {
		names->list[i].node = node;
	} else if (i < names->count) {
		free(names->list[i].name);
		memmove(&names->list[i], &names->list[i + 1], (names->count - i - 1) * sizeof(names->list[0]));
		names->count--;
	} else if (node) {
		if (names->count == names->cap) {
			names->cap = names->cap ? names->cap * 2 : 16;
			names->list = realloc(names->list, names->cap * sizeof(names->list[0]));
			if (!names->list)
				abort();
		}
		names->list[names->count++] = (struct sim_entry){ strndup(name, len), node };
	}
}

static void names_clear(struct sim_names *names)
{
	for (size_t i = 0; i < names->count; i++)
		free(names->list[i].name);
	free(names->list);
	*names = (struct sim_names){ 0 };
}

static void names_copy(struct sim_names *to, const struct sim_names *from)
{
	names_clear(to);
	for (size_t i = 0; i < from->count; i++)
		sim_names_set(to, from->list[i].name, strlen(from->list[i].name), from->list[i].node);
}

void sim_change(struct sim *sim, const struct sim_change *changes, uint32_t count)
{
	struct sim_name_op *op = sim_alloc(sizeof(*op));
	op->count = count;
	for (uint32_t i = 0; i < count; i++) {
		op->changes[i] = changes[i];
		op->changes[i].name = strdup(changes[i].name);
		sim_names_set(&changes[i].dir->live_names, changes[i].name, strlen(changes[i].name), changes[i].node);
	}
	list_push(&sim->name_ops, &op->link);
}

static void name_op_free(struct sim_name_op *op)
{
	list_remove(&op->link);
	for (uint32_t i = 0; i < op->count; i++)
		free(op->changes[i].name);
	free(op);
}

static bool ops_touch(const struct sim_name_op *a, const struct sim_name_op *b)
{
	for (uint32_t i = 0; i < a->count * b->count; i++) {
		const struct sim_change *x = &a->changes[i / b->count], *y = &b->changes[i % b->count];
		if (x->dir == y->dir && strcmp(x->name, y->name) == 0)
			return true;
	}
	return false;
}

/* Marks what marked ops depend on, applies the marked ones in order and forgets them. */
static void name_ops_apply_marked(struct sim *sim)
{
	for (struct list *l = sim->name_ops.prev; l != &sim->name_ops; l = l->prev) {
		struct sim_name_op *op = container_of(l, struct sim_name_op, link);
		for (struct list *e = l->prev; op->marked && e != &sim->name_ops; e = e->prev) {
			struct sim_name_op *earlier = container_of(e, struct sim_name_op, link);
			earlier->marked = earlier->marked || ops_touch(op, earlier);
		}
	}
	list_for_safe(l, tmp, &sim->name_ops) {
		struct sim_name_op *op = container_of(l, struct sim_name_op, link);
		if (!op->marked)
			continue;
		for (uint32_t i = 0; i < op->count; i++) {
			const struct sim_change *c = &op->changes[i];
			sim_names_set(&c->dir->stable_names, c->name, strlen(c->name), c->node);
		}
		name_op_free(op);
	}
}

void sim_names_sync(struct sim *sim, const struct sim_node *dir)
{
	list_for(l, &sim->name_ops) {
		struct sim_name_op *op = container_of(l, struct sim_name_op, link);
		for (uint32_t i = 0; i < op->count; i++)
			op->marked = op->marked || op->changes[i].dir == dir;
	}
	name_ops_apply_marked(sim);
	sim_gc(sim);
}

/* ---- nodes ---- */

struct sim_node *sim_node_new(struct sim *sim, bool is_dir)
{
	struct sim_node *n = sim_alloc(sizeof(*n));
	n->is_dir = is_dir;
	n->number = ++sim->node_count;
	list_init(&n->records);
	n->next = sim->nodes;
	sim->nodes = n;
	return n;
}

static void records_clear(struct sim_node *n)
{
	for (struct list *l; (l = list_pop(&n->records));)
		free(container_of(l, struct sim_record, link));
}

static void node_free(struct sim_node *n)
{
	records_clear(n);
	bytes_free(&n->live);
	bytes_free(&n->stable);
	names_clear(&n->live_names);
	names_clear(&n->stable_names);
	free(n);
}

static void node_mark(struct sim_node *n)
{
	if (!n || n->marked)
		return;
	n->marked = true;
	for (size_t i = 0; i < n->live_names.count; i++)
		node_mark(n->live_names.list[i].node);
	for (size_t i = 0; i < n->stable_names.count; i++)
		node_mark(n->stable_names.list[i].node);
}

/* Frees what no name, live, durable or on its way, and no open file reaches. */
void sim_gc(struct sim *sim)
{
	for (struct sim_node *n = sim->nodes; n; n = n->next)
		n->marked = false;
	node_mark(sim->top);
	for (struct sim_node *n = sim->nodes; n; n = n->next)
		if (n->opens > 0)
			node_mark(n);
	list_for(l, &sim->name_ops) {
		const struct sim_name_op *op = container_of(l, struct sim_name_op, link);
		for (uint32_t i = 0; i < op->count; i++) {
			node_mark(op->changes[i].dir);
			node_mark(op->changes[i].node);
		}
	}
	for (struct sim_node **at = &sim->nodes; *at;) {
		struct sim_node *n = *at;
		if (n->marked) {
			at = &n->next;
			continue;
		}
		*at = n->next;
		node_free(n);
	}
}

void sim_disk_free(struct sim *sim)
{
	list_for_safe(l, tmp, &sim->name_ops)
		name_op_free(container_of(l, struct sim_name_op, link));
	for (struct sim_node *n = sim->nodes, *next; n; n = next) {
		next = n->next;
		node_free(n);
	}
}

uint64_t sim_space_used(struct sim *sim)
{
	uint64_t used = 0;
	for (const struct sim_node *n = sim->nodes; n; n = n->next)
		used += n->live_size > n->stable_size ? n->live_size : n->stable_size;
	return used;
}

bool sim_space_for(struct sim *sim, const struct sim_node *n, uint64_t end)
{
	if (sim->options.space_total == 0 || end <= n->live_size)
		return true;
	return sim_space_used(sim) + (end - n->live_size) <= sim->options.space_total;
}

/* ---- contents ---- */

struct sim_record *sim_record_write(struct sim_node *n, const void *buf, uint64_t offset, uint64_t len)
{
	struct sim_record *r = sim_alloc(sizeof(*r) + len);
	r->offset = offset;
	r->len = len;
	memcpy(r->data, buf, len);
	list_push(&n->records, &r->link);
	return r;
}

struct sim_record *sim_record_size(struct sim_node *n, uint64_t size)
{
	struct sim_record *r = sim_alloc(sizeof(*r));
	r->is_size = true;
	r->len = size;
	list_push(&n->records, &r->link);
	return r;
}

static void apply(struct sim_bytes *bytes, uint64_t *size, const struct sim_record *r)
{
	if (r->is_size) {
		if (r->len < *size)
			bytes_zero_from(bytes, r->len);
		*size = r->len;
		return;
	}
	bytes_write(bytes, r->data, r->offset, r->len);
	if (r->offset + r->len > *size)
		*size = r->offset + r->len;
}

void sim_record_done(struct sim_node *n, struct sim_record *r)
{
	apply(&n->live, &n->live_size, r);
	n->changes++;
	r->done = true;
	r->done_seq = ++n->done_seq;
}

void sim_node_flush(struct sim_node *n, uint64_t covers)
{
	list_for_safe(l, tmp, &n->records) {
		struct sim_record *r = container_of(l, struct sim_record, link);
		if (!r->done || r->done_seq > covers)
			continue;
		apply(&n->stable, &n->stable_size, r);
		list_remove(l);
		free(r);
	}
}

/* The bytes are gone. What a reader sees until the power goes is the cache's whim: new or old. */
void sim_node_flush_failed(struct sim *sim, struct sim_node *n, uint64_t covers)
{
	list_for_safe(l, tmp, &n->records) {
		struct sim_record *r = container_of(l, struct sim_record, link);
		if (!r->done || r->done_seq > covers)
			continue;
		list_remove(l);
		free(r);
	}
	if (rng_below(&sim->rng, 2) == 0)
		return;
	n->changes++;
	bytes_copy(&n->live, &n->stable);
	n->live_size = n->stable_size;
	list_for(l, &n->records) {
		const struct sim_record *r = container_of(l, struct sim_record, link);
		if (r->done)
			apply(&n->live, &n->live_size, r);
	}
}

size_t sim_node_read(struct sim *sim, const struct sim_node *n, void *buf, size_t len, uint64_t offset)
{
	if (offset >= n->live_size)
		return 0;
	if (len > n->live_size - offset)
		len = (size_t)(n->live_size - offset);
	bytes_read(&n->live, buf, offset, len);
	if (len > 0 && sim->options.bit_flip_every > 0 && ++sim->reads % sim->options.bit_flip_every == 0)
		((uint8_t *)buf)[rng_below(&sim->rng, len)] ^= (uint8_t)(1u << rng_below(&sim->rng, 8));
	return len;
}

/* ---- what a power cut leaves ---- */

static void write_sector(struct sim_node *n, const struct sim_record *r, uint64_t sector, bool grow)
{
	uint64_t from = sector * SIM_SECTOR, to = from + SIM_SECTOR;
	if (from < r->offset)
		from = r->offset;
	if (to > r->offset + r->len)
		to = r->offset + r->len;
	bytes_write(&n->stable, r->data + (from - r->offset), from, to - from);
	if (grow && to > n->stable_size)
		n->stable_size = to;
}

static void lose_block(struct sim *sim, struct sim_node *n, const struct sim_record *r)
{
	uint8_t junk[SIM_BLOCK];
	uint64_t first = r->offset / SIM_BLOCK, last = (r->offset + r->len - 1) / SIM_BLOCK;
	uint64_t at = (first + rng_below(&sim->rng, last - first + 1)) * SIM_BLOCK;
	bool zeros = rng_below(&sim->rng, 2) == 0;
	for (size_t i = 0; i < sizeof(junk); i++)
		junk[i] = zeros ? 0 : (uint8_t)rng_next(&sim->rng);
	if (at >= n->stable_size)
		return;
	bytes_write(&n->stable, junk, at, SIM_BLOCK);
	bytes_zero_from(&n->stable, n->stable_size);
}

/* One unflushed write: nothing, all, its first sectors, or any of them reached the disk. */
static void write_survive(struct sim *sim, struct sim_node *n, const struct sim_record *r)
{
	uint64_t first = r->offset / SIM_SECTOR, last = (r->offset + r->len - 1) / SIM_SECTOR;
	uint64_t mode = rng_below(&sim->rng, 4), until = first + rng_below(&sim->rng, last - first + 1);
	bool grow = rng_below(&sim->rng, 2) == 0;
	for (uint64_t s = first; s <= last && mode > 0; s++)
		if (mode == 1 || (mode == 2 && s < until) || (mode == 3 && rng_below(&sim->rng, 2) == 0))
			write_sector(n, r, s, grow);
	if (!sim->options.keep_blocks && rng_below(&sim->rng, 8) == 0)
		lose_block(sim, n, r);
}

static void file_survive(struct sim *sim, struct sim_node *n)
{
	n->changes += !list_empty(&n->records);
	list_for(l, &n->records) {
		const struct sim_record *r = container_of(l, struct sim_record, link);
		if (!r->is_size && r->len > 0)
			write_survive(sim, n, r);
		else if (r->is_size && rng_below(&sim->rng, 2) == 0)
			apply(&n->stable, &n->stable_size, r);
	}
	records_clear(n);
	bytes_zero_from(&n->stable, n->stable_size);
	bytes_copy(&n->live, &n->stable);
	n->live_size = n->stable_size;
}

static void names_survive(struct sim *sim)
{
	uint64_t mode = rng_below(&sim->rng, 4), count = 0, at = 0;
	list_for(l, &sim->name_ops)
		count++;
	uint64_t until = rng_below(&sim->rng, count + 1);
	list_for(l, &sim->name_ops) {
		bool keep = mode == 1 || (mode == 2 && at < until) || (mode == 3 && rng_below(&sim->rng, 2) == 0);
		container_of(l, struct sim_name_op, link)->marked = keep;
		at++;
	}
	name_ops_apply_marked(sim);
	list_for_safe(l, tmp, &sim->name_ops)
		name_op_free(container_of(l, struct sim_name_op, link));
}

void sim_disk_survive(struct sim *sim)
{
	names_survive(sim);
	for (struct sim_node *n = sim->nodes; n; n = n->next) {
		n->locked = false;
		if (n->is_dir)
			names_copy(&n->live_names, &n->stable_names);
		else
			file_survive(sim, n);
	}
	sim_gc(sim);
}
