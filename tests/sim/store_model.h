/* SPDX-License-Identifier: Apache-2.0 */
/* store_model.h -- random mutations of a lane and what they must do. A lane is one client that sends one mutation at a
 * time and owns its names ("lK/..." and "shared/K-..."), so its state is known exactly: before or after the mutation in
 * flight, nothing else. Lanes run at once; they meet in the implicit directory "shared", in commits and in packs.
 *
 * The model is a sorted list of keys: a directory exists while a key begins with its path and '/', an explicit one has
 * the key "path/" itself. */
#pragma once

#include "unit/harness_store.h"

enum {
	TREE_MAX = 64,
	MODEL_KEY_MAX = 40,
	OP_ENTRIES_MAX = 6,
	OP_PIECES_MAX = 4,
	MODEL_SIZE_MAX = 1200 * 1024
};

struct tree_key {
	char key[MODEL_KEY_MAX];
	uint64_t seed, version, id,
		dir; /* seed 0: an explicit directory; version 0: not known yet */
	uint32_t size;
	uint32_t mode, xattr; /* names of one file have one seed, and these alike; xattr: bytes of its value */
	uint32_t copy;        /* which file of that seed */
	bool special;         /* a symbolic link: its size bytes are no content */
};

struct tree {
	struct tree_key keys[TREE_MAX];
	uint32_t count;
	uint32_t uploads_ended; /* of the lane's uploads in parts */
};

/* An upload whose two parts are there. */
enum { LANE_UPLOADS = 3, PART_SIZE_MAX = 90 * 1024 };
struct lane_upload {
	uint64_t id, seed;
	uint32_t sizes[2];
};

struct op_entry {
	char key[MODEL_KEY_MAX];
	uint8_t condition;
	uint64_t if_version, seed;
	uint32_t size, mode;
	int expect, got;
	uint64_t got_version;
};

struct op {
	uint8_t wire;
	uint64_t sequence, seen, upload;
	uint32_t count;
	struct op_entry e[OP_ENTRIES_MAX];
	char to[MODEL_KEY_MAX];
	uint8_t flags;
	uint32_t pieces, piece_len[OP_PIECES_MAX];
	uint64_t parted; /* id of the upload that it ends */
	int expect, got; /* of the request */
	uint64_t got_id;
	struct tree after;
};

struct lane {
	uint32_t index;
	struct rng rng;
	struct tree tree;
	struct op op;
	uint64_t sequence, seen, uploads, session;
	struct lane_upload parted[LANE_UPLOADS];
	uint32_t parted_count;
	uint32_t large_one_in, size_large; /* how often and how large data is large */
};

static const char *const op_names[] = { [OP_PUT - 32] = "put",
	[OP_DELETE - 32] = "delete",
	[OP_MKDIR - 32] = "mkdir",
	[OP_RMDIR - 32] = "rmdir",
	[OP_RENAME - 32] = "rename",
	[OP_SETATTR - 32] = "setattr",
	[OP_XATTR - 32] = "xattr",
	[OP_MAKE - 32] = "make",
	[OP_LINK - 32] = "link",
	[OP_COPY - 32] = "copy",
	[OP_UPLOAD_COMPLETE - 32] = "complete",
	[OP_UPLOAD_ABORT - 32] = "abort" };
#define MODEL_TARGET "../x/y"
#define MODEL_XATTR  "user.model"


static inline const char *op_name(const struct op *op)
{
	return op->wire == 0 ? "none" : op_names[op->wire - 32];
}

/* ---- keys ---- */

static inline bool key_begins(const char *s, const char *with)
{
	return strncmp(s, with, strlen(with)) == 0;
}

static inline void key_set(char *dst, const char *src)
{
	size_t len = strlen(src);

	assert(len < MODEL_KEY_MAX);
	memcpy(dst, src, len + 1);
}

static inline struct tree_key *tree_find(struct tree *t, const char *key)
{
	for (uint32_t i = 0; i < t->count; i++)
		if (strcmp(t->keys[i].key, key) == 0) return &t->keys[i];
	return NULL;
}

static inline void tree_erase(struct tree *t, const char *key)
{
	struct tree_key *k = tree_find(t, key);

	assert(k != NULL);
	t->count--;
	memmove(k, k + 1, (size_t)(&t->keys[t->count] - k) * sizeof(*k));
}

static inline void tree_set(struct tree *t, const struct tree_key *k)
{
	uint32_t i = 0;

	if (tree_find(t, k->key) != NULL) tree_erase(t, k->key);
	while (i < t->count && strcmp(t->keys[i].key, k->key) < 0) i++;
	assert(t->count < TREE_MAX);
	memmove(&t->keys[i + 1], &t->keys[i], (t->count - i) * sizeof(*k));
	t->keys[i] = *k;
	t->count++;
}

static inline bool is_one_file(const struct tree_key *a, const struct tree_key *b)
{
	return a->seed == b->seed && a->copy == b->copy;
}

static inline uint32_t tree_below(const struct tree *t, const char *path)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < t->count; i++) n += key_begins(t->keys[i].key, path);
	return n;
}

static inline void dir_of(char *out, const char *path)
{
	snprintf(out, MODEL_KEY_MAX, "%.38s/", path);
}

static inline void parent_of(char *out, const char *path)
{
	const char *last = strrchr(path, '/');

	snprintf(out, MODEL_KEY_MAX, "%.*s", last == NULL ? 0 : (int)(last - path) + 1, path);
}

/* ---- what operations do ---- */

static inline int tree_put(struct tree *t, const struct op_entry *e)
{
	struct tree_key *old = tree_find(t, e->key),
			k = { .seed = e->seed, .size = e->size, .mode = 0100644 };

	if (e->condition == PUT_IF_ABSENT && old != NULL) return -GRANARY_EPRECONDITION;
	if (e->condition == PUT_IF_VERSION && (old == NULL || old->version != e->if_version))
		return -GRANARY_EPRECONDITION;
	key_set(k.key, e->key);
	tree_set(t, &k);
	return 0;
}

static inline int tree_delete(struct tree *t, const struct op_entry *e)
{
	struct tree_key *old = tree_find(t, e->key);

	if (old == NULL) return -GRANARY_ENOTFOUND;
	if (e->condition == PUT_IF_VERSION && old->version != e->if_version)
		return -GRANARY_EPRECONDITION;
	tree_erase(t, e->key);
	return 0;
}

static inline int tree_mkdir(struct tree *t, const char *path, bool parents)
{
	struct tree_key k = { .seed = 0 };
	char parent[MODEL_KEY_MAX];

	parent_of(parent, path);
	if (!parents && tree_below(t, parent) == 0) return -GRANARY_ENOTFOUND;
	dir_of(k.key, path);
	if (tree_find(t, k.key) != NULL) return -GRANARY_EEXIST;
	tree_set(t, &k);
	return 0;
}

static inline int tree_rmdir(struct tree *t, const char *path)
{
	char dir[MODEL_KEY_MAX];
	uint32_t n;

	dir_of(dir, path);
	n = tree_below(t, dir);
	if (n == 0) return -GRANARY_ENOTFOUND;
	if (n > 1 || tree_find(t, dir) == NULL) return -GRANARY_ENOTEMPTY;
	tree_erase(t, dir);
	return 0;
}

static inline int tree_rename_file(
	struct tree *t, const char *from, const char *to, bool no_replace)
{
	struct tree_key *k = tree_find(t, from), moved;

	if (k == NULL) return -GRANARY_ENOTFOUND;
	if (strcmp(from, to) == 0) return no_replace ? -GRANARY_EEXIST : 0;
	if (no_replace && tree_find(t, to) != NULL) return -GRANARY_EEXIST;
	if (tree_find(t, to) != NULL && is_one_file(tree_find(t, to), k))
		return 0;
	moved = *k;
	tree_erase(t, from);
	key_set(moved.key, to);
	moved.dir = 0;
	tree_set(t, &moved);
	return 0;
}

static inline int tree_rename_dir(
	struct tree *t, const char *from_path, const char *to_path, bool no_replace)
{
	char from[MODEL_KEY_MAX], to[MODEL_KEY_MAX], rest[MODEL_KEY_MAX];
	struct tree moved = { .count = 0 };
	uint32_t n;

	dir_of(from, from_path);
	dir_of(to, to_path);
	if (tree_below(t, from) == 0) return -GRANARY_ENOTFOUND;
	if (strcmp(from, to) == 0) return no_replace ? -GRANARY_EEXIST : 0;
	if (key_begins(to, from)) return -GRANARY_ELOOP;
	n = tree_below(t, to);
	if (n > 0 && no_replace) return -GRANARY_EEXIST;
	if (n > 1 || (n == 1 && tree_find(t, to) == NULL)) return -GRANARY_ENOTEMPTY;
	if (n == 1) tree_erase(t, to);
	for (uint32_t i = 0; i < t->count; i++)
		if (key_begins(t->keys[i].key, from)) moved.keys[moved.count++] = t->keys[i];
	for (uint32_t i = 0; i < moved.count; i++) tree_erase(t, moved.keys[i].key);
	for (uint32_t i = 0; i < moved.count; i++) {
		key_set(rest, moved.keys[i].key + strlen(from));
		snprintf(moved.keys[i].key, MODEL_KEY_MAX, "%.12s%.26s", to, rest);
		tree_set(t, &moved.keys[i]);
	}
	return 0;
}

/* All of `path` (a file, or a directory and what is below it) out of t. */
static inline struct tree tree_take(struct tree *t, const char *path)
{
	struct tree taken = { .count = 0 };
	char dir[MODEL_KEY_MAX];

	dir_of(dir, path);
	for (uint32_t i = 0; i < t->count; i++)
		if (strcmp(t->keys[i].key, path) == 0 || key_begins(t->keys[i].key, dir))
			taken.keys[taken.count++] = t->keys[i];
	for (uint32_t i = 0; i < taken.count; i++) tree_erase(t, taken.keys[i].key);
	return taken;
}

static inline void tree_give(struct tree *t, struct tree *taken, size_t prefix, const char *path)
{
	for (uint32_t i = 0; i < taken->count; i++) {
		struct tree_key *k = &taken->keys[i];
		char rest[MODEL_KEY_MAX];

		key_set(rest, k->key + prefix);
		snprintf(k->key, MODEL_KEY_MAX, "%.12s%.26s", path, rest);
		if (rest[0] == '\0') k->dir = 0;
		tree_set(t, k);
	}
}

static inline bool tree_has(struct tree *t, const char *path)
{
	char dir[MODEL_KEY_MAX];

	dir_of(dir, path);
	return tree_find(t, path) != NULL || tree_below(t, dir) > 0;
}

static inline int tree_exchange(struct tree *t, const char *a, const char *b)
{
	char dir_a[MODEL_KEY_MAX], dir_b[MODEL_KEY_MAX];
	struct tree_key *x = tree_find(t, a), *y = tree_find(t, b);
	struct tree taken_a, taken_b;

	dir_of(dir_a, a);
	dir_of(dir_b, b);
	if (!tree_has(t, a) || !tree_has(t, b)) return -GRANARY_ENOTFOUND;
	if (strcmp(a, b) == 0 || (x != NULL && y != NULL && is_one_file(x, y))) return 0;
	if (key_begins(b, dir_a) || key_begins(a, dir_b)) return -GRANARY_ELOOP;
	taken_a = tree_take(t, a);
	taken_b = tree_take(t, b);
	tree_give(t, &taken_a, strlen(a), b);
	tree_give(t, &taken_b, strlen(b), a);
	return 0;
}

/* Mode, or length of the extended attribute, under all names of the file. */
static inline int tree_setattr(struct tree *t, const struct op_entry *e, bool is_xattr)
{
	struct tree_key *k = tree_find(t, e->key);
	struct tree_key which;

	if (k == NULL) return -GRANARY_ENOTFOUND;
	which = *k;
	for (uint32_t i = 0; i < t->count; i++) {
		if (!is_one_file(&t->keys[i], &which)) continue;
		if (is_xattr)
			t->keys[i].xattr = e->size;
		else
			t->keys[i].mode = (k->mode & 0170000) | e->mode;
	}
	return 0;
}

static inline int tree_make(struct tree *t, const struct op_entry *e)
{
	struct tree_key k = { .seed = e->seed, .size = sizeof(MODEL_TARGET) - 1, .mode = 0120777, .special = true };

	if (tree_find(t, e->key) != NULL) return -GRANARY_EEXIST;
	key_set(k.key, e->key);
	tree_set(t, &k);
	return 0;
}

static inline int tree_link(struct tree *t, const char *from, const char *to)
{
	struct tree_key *k = tree_find(t, from), more;

	if (k == NULL) return -GRANARY_ENOTFOUND;
	if (tree_find(t, to) != NULL) return -GRANARY_EEXIST;
	more = *k;
	key_set(more.key, to);
	more.dir = 0;
	tree_set(t, &more);
	return 0;
}

/* Another file with the same bytes, made of the same seed: two files of one seed are told apart by `copy`. */
static inline int tree_copy(struct tree *t, const char *from, const char *to, uint8_t condition)
{
	struct tree_key *k = tree_find(t, from), copy;
	uint32_t highest = 0;

	if (k == NULL) return -GRANARY_ENOTFOUND;
	if (condition == PUT_IF_ABSENT && tree_find(t, to) != NULL) return -GRANARY_EPRECONDITION;
	copy = *k;
	for (uint32_t i = 0; i < t->count; i++)
		if (t->keys[i].seed == copy.seed && t->keys[i].copy > highest) highest = t->keys[i].copy;
	copy.copy = highest + 1;
	copy.id = copy.version = copy.dir = 0;
	key_set(copy.key, to);
	tree_set(t, &copy);
	return 0;
}

/* Its parts become the object of the key, or go. */
static inline int tree_end_upload(struct tree *t, const struct op_entry *e, bool is_abort)
{
	struct tree_key k = { .seed = e->seed, .size = e->size, .mode = 0100644 };

	t->uploads_ended++;
	if (is_abort) return 0;
	key_set(k.key, e->key);
	tree_set(t, &k);
	return 0;
}

/* What op does to t; fills in the expectations. */
static inline void op_apply(struct op *op, struct tree *t)
{
	bool no_replace = (op->flags & RENAME_NO_REPLACE) != 0,
	     is_file = tree_find(t, op->e[0].key) != NULL;

	op->expect = 0;
	switch (op->wire) {
	case OP_PUT:
		for (uint32_t i = 0; i < op->count; i++) op->e[i].expect = tree_put(t, &op->e[i]);
		break;
	case OP_DELETE:
		for (uint32_t i = 0; i < op->count; i++)
			op->e[i].expect = tree_delete(t, &op->e[i]);
		break;
	case OP_MKDIR:
		op->expect = tree_mkdir(t, op->e[0].key, (op->flags & MKDIR_PARENTS) != 0);
		break;
	case OP_RMDIR: op->expect = tree_rmdir(t, op->e[0].key); break;
	case OP_SETATTR:
	case OP_XATTR: op->expect = tree_setattr(t, &op->e[0], op->wire == OP_XATTR); break;
	case OP_MAKE: op->expect = tree_make(t, &op->e[0]); break;
	case OP_LINK: op->expect = tree_link(t, op->e[0].key, op->to); break;
	case OP_UPLOAD_COMPLETE:
	case OP_UPLOAD_ABORT: op->expect = tree_end_upload(t, &op->e[0], op->wire == OP_UPLOAD_ABORT); break;
	case OP_COPY: op->expect = tree_copy(t, op->e[0].key, op->to, op->e[0].condition); break;
	default:
		if (op->flags == RENAME_SWAP) {
			op->expect = tree_exchange(t, op->e[0].key, op->to);
			break;
		}
		op->expect = is_file ? tree_rename_file(t, op->e[0].key, op->to, no_replace)
				     : tree_rename_dir(t, op->e[0].key, op->to, no_replace);
		break;
	}
}

/* ---- random operations ---- */

static inline uint64_t lane_random(struct lane *l, uint64_t below)
{
	return rng_below(&l->rng, below);
}

static inline void random_file(struct lane *l, char *out)
{
	uint32_t k = l->index;

	switch (lane_random(l, 10)) {
	case 0:
	case 1:
	case 2: snprintf(out, MODEL_KEY_MAX, "l%u/%c", k, (int)('a' + lane_random(l, 3))); break;
	case 3:
	case 4:
	case 5:
	case 6:
		snprintf(out, MODEL_KEY_MAX, "l%u/%c/%c", k, (int)('d' + lane_random(l, 3)),
			(int)('x' + lane_random(l, 2)));
		break;
	case 7:
		snprintf(out, MODEL_KEY_MAX, "l%u/%c/s/z", k, (int)('d' + lane_random(l, 3)));
		break;
	default:
		snprintf(out, MODEL_KEY_MAX, "shared/%u-%c", k, (int)('p' + lane_random(l, 2)));
		break;
	}
}

static inline void random_dir(struct lane *l, char *out)
{
	snprintf(out, MODEL_KEY_MAX, "l%u/%c%s", l->index, (int)('d' + lane_random(l, 3)),
		lane_random(l, 4) == 0 ? "/s" : "");
}

/* A name that is there, most of the time. */
static inline void likely_file(struct lane *l, char *out)
{
	for (int i = 0; i < 6; i++) {
		random_file(l, out);
		if (tree_find(&l->tree, out) != NULL) return;
	}
}

static inline uint32_t random_size(struct lane *l)
{
	if (lane_random(l, l->large_one_in) == 0) return (uint32_t)lane_random(l, l->size_large);
	return lane_random(l, 8) == 0 ? 0 : (uint32_t)lane_random(l, 4200);
}

static inline void random_condition(struct lane *l, struct op_entry *e)
{
	struct tree_key *k = tree_find(&l->tree, e->key);

	e->condition = PUT_ANY;
	if (lane_random(l, 4) > 0) return;
	e->condition = lane_random(l, 2) == 0 ? PUT_IF_ABSENT : PUT_IF_VERSION;
	if (e->condition == PUT_IF_VERSION)
		e->if_version =
			k != NULL && k->version != 0 && lane_random(l, 4) > 0 ? k->version : 1;
}

static inline void random_put(struct lane *l, struct op *op)
{
	op->wire = OP_PUT;
	op->count = lane_random(l, 3) > 0 ? 1 : 1 + (uint32_t)lane_random(l, OP_ENTRIES_MAX);
	for (uint32_t i = 0; i < op->count; i++) {
		random_file(l, op->e[i].key);
		random_condition(l, &op->e[i]);
		op->e[i].seed = rng_next(&l->rng) | 1;
		op->e[i].size = random_size(l);
	}
	if (op->count > 1 || lane_random(l, 5) > 0) return;
	op->upload = ++l->uploads;
	op->pieces = 1 + (uint32_t)lane_random(l, OP_PIECES_MAX);
	op->e[0].size = 0;
	for (uint32_t i = 0; i < op->pieces; i++) {
		op->piece_len[i] = 1 + (uint32_t)lane_random(l, l->size_large);
		op->e[0].size += op->piece_len[i];
	}
	assert(op->e[0].size <= MODEL_SIZE_MAX);
}

static inline void random_delete(struct lane *l, struct op *op)
{
	op->wire = OP_DELETE;
	op->count = lane_random(l, 3) > 0 ? 1 : 1 + (uint32_t)lane_random(l, OP_ENTRIES_MAX);
	for (uint32_t i = 0; i < op->count; i++) {
		likely_file(l, op->e[i].key);
		random_condition(l, &op->e[i]);
		if (op->e[i].condition == PUT_IF_ABSENT) op->e[i].condition = PUT_ANY;
	}
}

/* Of two files, or of two directories of one depth: nothing gets deeper. */
static inline void random_exchange(struct lane *l, struct op *op)
{
	op->flags = RENAME_SWAP;
	if (lane_random(l, 2) == 0) {
		likely_file(l, op->e[0].key);
		likely_file(l, op->to);
		return;
	}
	random_dir(l, op->e[0].key);
	do random_dir(l, op->to);
	while (strlen(op->to) != strlen(op->e[0].key));
}

static inline void random_rename(struct lane *l, struct op *op)
{
	op->wire = OP_RENAME;
	if (lane_random(l, 4) == 0) {
		random_exchange(l, op);
		return;
	}
	op->flags = lane_random(l, 4) == 0 ? RENAME_NO_REPLACE : 0;
	if (lane_random(l, 2) == 0) {
		likely_file(l, op->e[0].key);
		random_file(l, op->to);
		if (tree_find(&l->tree, op->e[0].key) != NULL) return;
	}
	random_dir(l, op->e[0].key);
	do /* top to top, inner to any: so nothing ever gets deeper */
		random_dir(l, op->to);
	while (strlen(op->to) > strlen(op->e[0].key));
}

static inline bool random_end_upload(struct lane *l, struct op *op)
{
	const struct lane_upload *u = &l->parted[l->tree.uploads_ended];

	if (l->tree.uploads_ended >= l->parted_count || lane_random(l, 2) == 0) return false;
	op->wire = lane_random(l, 4) == 0 ? OP_UPLOAD_ABORT : OP_UPLOAD_COMPLETE;
	op->parted = u->id;
	op->e[0].seed = u->seed;
	op->e[0].size = u->sizes[0] + u->sizes[1];
	random_file(l, op->e[0].key);
	return true;
}

static inline void random_attr(struct lane *l, struct op *op)
{
	uint64_t pick = lane_random(l, 10);

	if (random_end_upload(l, op)) return;

	op->wire = pick >= 8 ? OP_COPY : pick < 2 ? OP_SETATTR : pick < 4 ? OP_XATTR : pick < 5 ? OP_MAKE : OP_LINK;
	op->e[0].mode = (uint32_t)lane_random(l, 07777);
	op->e[0].size = 1 + (uint32_t)lane_random(l, lane_random(l, 16) == 0 ? 60000 : 300);
	op->e[0].seed = rng_next(&l->rng) | 1;
	if (op->wire == OP_MAKE)
		random_file(l, op->e[0].key);
	else
		likely_file(l, op->e[0].key);
	if (op->wire == OP_COPY && lane_random(l, 4) == 0) op->e[0].condition = PUT_IF_ABSENT;
	if (op->wire == OP_LINK || op->wire == OP_COPY) random_file(l, op->to);
}

/* The next mutation of the lane, and the state after it. */
static inline void lane_next(struct lane *l)
{
	struct op *op = &l->op;
	uint64_t pick = lane_random(l, 24);

	memset(op, 0, sizeof(*op));
	op->count = 1;
	op->sequence = ++l->sequence;
	op->seen = lane_random(l, 3) == 0 && op->sequence > 1 ? op->sequence - 1 : l->seen;
	l->seen = op->seen;
	if (pick < 10) {
		random_put(l, op);
	} else if (pick < 14) {
		random_delete(l, op);
	} else if (pick < 17) {
		random_rename(l, op);
	} else if (pick >= 20) {
		random_attr(l, op);
	} else {
		op->wire = pick < 19 ? OP_MKDIR : OP_RMDIR;
		op->flags = op->wire == OP_MKDIR && lane_random(l, 2) == 0 ? MKDIR_PARENTS : 0;
		random_dir(l, op->e[0].key);
	}
	op->after = l->tree;
	op_apply(op, &op->after);
}

static inline void lane_init(struct lane *l, uint32_t index, uint64_t seed)
{
	memset(l, 0, sizeof(*l));
	l->index = index;
	l->large_one_in = 8;
	l->size_large = 200 * 1024;
	rng_seed(&l->rng, seed * 64 + index);
}

/* ---- requests ---- */

static inline struct call *op_start_piece(struct peer *p, const struct op *op, uint32_t piece)
{
	uint32_t at = 0, crcs[64];
	uint8_t *data = malloc(op->e[0].size + 8);
	struct msg m = msg_new("data");
	struct call *c;

	fill(data, op->e[0].size, op->e[0].seed);
	for (uint32_t i = 0; i < piece; i++) at += op->piece_len[i];
	msg_key(&m, op->e[0].key);
	wr_u64(&m.w, op->upload);
	wr_u64(&m.w, at);
	crc32c_blocks(crcs, data + at, op->piece_len[piece]);
	wr_bytes(&m.w, crcs, 4 * (size_t)crc_block_count(op->piece_len[piece]));
	c = call_start(p, OP_EXTENT, 0, &m.w, data + at, op->piece_len[piece]);
	free(m.buf);
	free(data);
	return c;
}

static inline size_t op_put_body(const struct op *op, struct msg *m, uint8_t **data)
{
	size_t at = 0, size = 8;

	for (uint32_t i = 0; i < op->count; i++) size += op->upload != 0 ? 0 : op->e[i].size;
	*data = malloc(size);
	for (uint32_t i = 0; i < op->count; i++) {
		const struct op_entry *e = &op->e[i];

		msg_key(m, e->key);
		if (op->upload == 0) fill(*data + at, e->size, e->seed);
		msg_put_rest(m, e->condition, e->if_version, op->upload, *data + at, e->size);
		at += op->upload != 0 ? 0 : e->size;
	}
	return at;
}

static inline void op_attr_body(const struct op *op, struct msg *m)
{
	static uint8_t value[60008];
	const struct op_entry *e = &op->e[0];

	if (op->wire == OP_UPLOAD_ABORT) {
		wr_u64(&m->w, op->parted);
		return;
	}
	msg_key(m, e->key);
	switch (op->wire) {
	case OP_UPLOAD_COMPLETE:
		wr_u64(&m->w, op->parted);
		wr_u8(&m->w, PUT_ANY);
		wr_u64(&m->w, 0);
		wr_u32(&m->w, 2);
		for (uint32_t i = 1; i <= 2; i++) {
			wr_u32(&m->w, i);
			wr_u64(&m->w, 0);
		}
		break;
	case OP_SETATTR:
		wr_u8(&m->w, SETATTR_MODE);
		wr_u32(&m->w, e->mode);
		wr_bytes(&m->w, "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 24);
		break;
	case OP_XATTR:
		fill(value, e->size, e->size);
		wr_u8(&m->w, XATTR_ANY);
		wr_bytes16(&m->w, slice_str(MODEL_XATTR));
		wr_bytes16(&m->w, slice_of(value, e->size));
		break;
	case OP_MAKE:
		wr_u32(&m->w, 0120777);
		wr_u32(&m->w, 0);
		wr_u32(&m->w, 0);
		wr_u64(&m->w, 0);
		wr_bytes16(&m->w, slice_str(MODEL_TARGET));
		break;
	case OP_COPY:
		wr_u64(&m->w, 0);
		wr_bytes16(&m->w, slice_str(""));
		msg_key(m, op->to);
		wr_u8(&m->w, e->condition);
		wr_u64(&m->w, 0);
		break;
	default: msg_key(m, op->to); break;
	}
}

static inline struct call *op_start(struct peer *p, const struct op *op, uint16_t flags)
{
	struct msg m = msg_new("data");
	uint8_t *data = NULL;
	size_t len = 0;
	struct call *c;

	msg_sequence(&m, op->sequence, 0, op->seen);
	if (op->wire == OP_PUT || op->wire == OP_DELETE) wr_u32(&m.w, op->count);
	if (op->wire == OP_PUT) {
		len = op_put_body(op, &m, &data);
	} else if (op->wire == OP_DELETE) {
		for (uint32_t i = 0; i < op->count; i++) {
			msg_key(&m, op->e[i].key);
			wr_u8(&m.w, op->e[i].condition);
			wr_u64(&m.w, op->e[i].if_version);
		}
	} else if (op->wire >= OP_SETATTR) {
		op_attr_body(op, &m);
	} else {
		msg_key(&m, op->e[0].key);
		if (op->wire == OP_RENAME) msg_key(&m, op->to);
		if (op->wire == OP_MKDIR) wr_u32(&m.w, 0755);
		if (op->wire != OP_RMDIR) wr_u8(&m.w, op->flags);
	}
	c = call_start(p, op->wire, flags, &m.w, data, len);
	free(m.buf);
	free(data);
	return c;
}

/* ---- answers ---- */

/* Takes the answer of a finished call into op. */
static inline void op_take(struct op *op, const struct call *c)
{
	struct cur m = cur_of(c->first->meta, c->first->meta_len);

	op->got = call_status(c);
	if (op->got < 0) return;
	if (op->wire == OP_MKDIR) op->got_id = cur_u64(&m);
	if (op->wire == OP_COPY || op->wire == OP_UPLOAD_COMPLETE) {
		struct tree_key *copy = tree_find(&op->after, op->wire == OP_COPY ? op->to : op->e[0].key);

		copy->id = cur_u64(&m);
		copy->version = cur_u64(&m);
		copy->dir = cur_u64(&m);
	}
	if (op->wire == OP_MAKE) {
		struct tree_key *made = tree_find(&op->after, op->e[0].key);

		made->id = cur_u64(&m);
		made->version = cur_u64(&m);
		made->dir = cur_u64(&m);
	}
	if (op->wire != OP_PUT && op->wire != OP_DELETE) return;
	assert(cur_u32(&m) == op->count);
	for (uint32_t i = 0; i < op->count; i++) {
		struct op_entry *e = &op->e[i];
		struct tree_key *k = tree_find(&op->after, e->key);
		uint64_t id = 0, dir = 0;

		e->got = -(int)cur_u16(&m);
		if (op->wire == OP_PUT) id = cur_u64(&m);
		e->got_version = cur_u64(&m);
		if (op->wire == OP_PUT) dir = cur_u64(&m);
		(void)cur_u64(&m); /* replaced version, or size */
		if (op->wire == OP_PUT && e->got == 0 && k != NULL && k->seed == e->seed) {
			k->version = e->got_version;
			k->id = id;
			k->dir = dir;
		}
	}
	assert(cur_done(&m));
}

static inline bool op_is_as_expected(const struct op *op)
{
	bool is = op->got == op->expect;

	for (uint32_t i = 0; is && op->got == 0 && i < op->count &&
			     (op->wire == OP_PUT || op->wire == OP_DELETE);
		i++)
		is = op->e[i].got == op->e[i].expect;
	return is;
}

/* Only the entries that were done count (some failed for a reason that the model does not know). */
static inline void op_reduce(struct lane *l, struct op *op)
{
	struct op done = *op;

	done.count = 0;
	for (uint32_t i = 0; i < op->count; i++)
		if (op->e[i].got == 0) done.e[done.count++] = op->e[i];
	done.after = l->tree;
	op_apply(&done, &done.after);
	for (uint32_t i = 0; i < done.after.count; i++) {
		struct tree_key *k = &done.after.keys[i], *known = tree_find(&op->after, k->key);

		if (known != NULL && known->seed == k->seed) *k = *known;
	}
	op->after = done.after;
}

static inline void op_print(const struct lane *l, const struct op *op)
{
	fprintf(stderr, "  lane %u, %s, sequence %llu, request %d (expected %d)\n", l->index,
		op_name(op), (unsigned long long)op->sequence, op->got, op->expect);
	for (uint32_t i = 0; i < op->count; i++)
		fprintf(stderr, "    %s %s: %d (expected %d) condition %u version %llu size %u\n",
			op->e[i].key, op->to, op->e[i].got, op->e[i].expect, op->e[i].condition,
			(unsigned long long)op->e[i].got_version, op->e[i].size);
}
