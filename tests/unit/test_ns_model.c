/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: random operations give what a sorted list of keys gives, on both engines.
 * Method: the model is a set of keys. A directory exists while a key begins with its path and '/',
 * an explicit one has the key "path/" itself: so it needs no rows, no ids and no emptied
 * directories, and shares no code with what it checks. The seed is printed; GRANARY_SEED repeats a
 * run, GRANARY_OPS makes it longer. */
#include "common/clock.h"
#include "effort.h"
#include "unit/test_ns_util.h"

enum { MODEL_MAX = 4096, MODEL_KEY_MAX = 160, OPS_DEFAULT = 8000, OPS_LONG = 100000, CHECK_EVERY = 2000 };

struct model_key {
	char key[MODEL_KEY_MAX];
	uint64_t id, version, size; /* id 0: made by mkdir, not known */
};

/* What was set of an object, until its last name goes. */
enum { XATTRS = 3, ATTRS_MAX = 4096 };
struct model_attrs {
	uint64_t id;
	uint32_t mode, uid;
	uint64_t mtime, atime, rdev;
	char xattrs[XATTRS][24], tag[24], target[24];
	bool is_many;  /* made of parts: in the tables or not */
	bool is_plain; /* a regular file that never had a second name: the tables may keep it */
};

struct model {
	struct model_key keys[MODEL_MAX];
	uint32_t count;
	struct model_attrs attrs[ATTRS_MAX];
	uint32_t attrs_count;
	struct rng rng;
	struct world *w;
};

/* ---- the model ---- */

static void text_copy(char *dst, const char *src)
{
	size_t len = strlen(src);
	assert_true(len < MODEL_KEY_MAX);
	memcpy(dst, src, len + 1);
}

static uint32_t model_at(const struct model *m, const char *key)
{
	uint32_t i = 0;
	while (i < m->count && strcmp(m->keys[i].key, key) < 0)
		i++;
	return i;
}

static struct model_key *model_find(struct model *m, const char *key)
{
	uint32_t i = model_at(m, key);
	return i < m->count && strcmp(m->keys[i].key, key) == 0 ? &m->keys[i] : NULL;
}

static void model_set(struct model *m, const struct model_key *k)
{
	uint32_t i = model_at(m, k->key);
	if (i == m->count || strcmp(m->keys[i].key, k->key) != 0) {
		assert_true(m->count < MODEL_MAX);
		memmove(&m->keys[i + 1], &m->keys[i], (m->count - i) * sizeof(*k));
		m->count++;
	}
	m->keys[i] = *k;
}

static void model_erase(struct model *m, const char *key)
{
	uint32_t i = model_at(m, key);
	assert_true(i < m->count && strcmp(m->keys[i].key, key) == 0);
	memmove(&m->keys[i], &m->keys[i + 1], (m->count - i - 1) * sizeof(m->keys[0]));
	m->count--;
}

static bool begins(const char *s, const char *with) { return strncmp(s, with, strlen(with)) == 0; }

/* How many keys begin with the path, and whether one is the path itself. */
static uint32_t model_below(const struct model *m, const char *path, bool *itself)
{
	uint32_t n = 0;
	*itself = false;
	for (uint32_t i = 0; i < m->count; i++) {
		n += begins(m->keys[i].key, path);
		*itself = *itself || strcmp(m->keys[i].key, path) == 0;
	}
	return n;
}

/* "" (the root) exists always. */
static bool model_dir_exists(const struct model *m, const char *path)
{
	bool itself;
	return path[0] == '\0' || model_below(m, path, &itself) > 0;
}

struct path { char whole[MODEL_KEY_MAX], dir[MODEL_KEY_MAX + 2], parent[MODEL_KEY_MAX]; bool slash, no_name; };

/* A name of a namespace operation: "a/b" or "a/b/". */
static struct path path_of(const char *key)
{
	struct path p = { .slash = key[0] != '\0' && key[strlen(key) - 1] == '/' };
	snprintf(p.whole, sizeof(p.whole), "%.*s", (int)(strlen(key) - p.slash), key);
	snprintf(p.dir, sizeof(p.dir), "%s/", p.whole);
	const char *last = strrchr(p.whole, '/');
	snprintf(p.parent, sizeof(p.parent), "%.*s", last == NULL ? 0 : (int)(last - p.whole) + 1, p.whole);
	p.no_name = p.whole[strlen(p.parent)] == '\0';
	return p;
}

static int model_mkdir(struct model *m, const char *key, bool parents)
{
	struct path p = path_of(key);
	bool itself;
	if (!parents && !model_dir_exists(m, p.parent))
		return -GRANARY_ENOTFOUND;
	(void)model_below(m, p.dir, &itself);
	if (itself || (!p.no_name && model_find(m, p.whole) != NULL))
		return -GRANARY_EEXIST;
	struct model_key k = { .id = 0 };
	text_copy(k.key, p.dir);
	model_set(m, &k);
	return 0;
}

static int model_rmdir(struct model *m, const char *key)
{
	struct path p = path_of(key);
	bool itself;
	uint32_t n = model_below(m, p.dir, &itself);
	if (n == 0)
		return !p.no_name && model_find(m, p.whole) != NULL ? -GRANARY_ENOTDIR : -GRANARY_ENOTFOUND;
	if (n > 1 || !itself)
		return -GRANARY_ENOTEMPTY;
	model_erase(m, p.dir);
	return 0;
}

static int model_rename_file(struct model *m, const struct path *a, const struct path *b, bool no_replace)
{
	bool itself;
	if (b->slash)
		return -GRANARY_ENOTDIR;
	if (model_below(m, b->dir, &itself) > 0)
		return no_replace ? -GRANARY_EEXIST : -GRANARY_EISDIR;
	if (no_replace && model_find(m, b->whole) != NULL)
		return -GRANARY_EEXIST;
	struct model_key k = *model_find(m, a->whole);
	if (model_find(m, b->whole) != NULL && model_find(m, b->whole)->id == k.id)
		return 0; /* two names of one file */
	model_erase(m, a->whole);
	text_copy(k.key, b->whole);
	model_set(m, &k);
	return 0;
}

static int model_rename_dir(struct model *m, const struct path *a, const struct path *b, bool no_replace)
{
	bool itself;
	if (begins(b->dir, a->dir))
		return -GRANARY_ELOOP;
	if (!b->no_name && model_find(m, b->whole) != NULL)
		return no_replace ? -GRANARY_EEXIST : -GRANARY_ENOTDIR;
	uint32_t n = model_below(m, b->dir, &itself);
	if (n > 0 && no_replace)
		return -GRANARY_EEXIST;
	if (n > 1 || (n == 1 && !itself))
		return -GRANARY_ENOTEMPTY;
	if (n == 1)
		model_erase(m, b->dir);
	static struct model_key moved[MODEL_MAX];
	uint32_t count = 0;
	for (uint32_t i = 0; i < m->count; i++)
		if (begins(m->keys[i].key, a->dir))
			moved[count++] = m->keys[i];
	for (uint32_t i = 0; i < count; i++)
		model_erase(m, moved[i].key);
	for (uint32_t i = 0; i < count; i++) {
		char rest[MODEL_KEY_MAX];
		text_copy(rest, moved[i].key + strlen(a->dir));
		assert_true(strlen(b->dir) + strlen(rest) < MODEL_KEY_MAX);
		int len = snprintf(moved[i].key, sizeof(moved[i].key), "%s", b->dir);
		memcpy(moved[i].key + len, rest, strlen(rest) + 1);
		model_set(m, &moved[i]);
	}
	return 0;
}

static int model_rename(struct model *m, const char *from, const char *to, bool no_replace)
{
	struct path a = path_of(from), b = path_of(to);
	bool itself, is_file = !a.slash && !a.no_name && model_find(m, a.whole) != NULL;
	if (!is_file && model_below(m, a.dir, &itself) == 0)
		return -GRANARY_ENOTFOUND;
	if (strcmp(a.whole, b.whole) == 0)
		return no_replace ? -GRANARY_EEXIST : is_file && b.slash ? -GRANARY_ENOTDIR : 0;
	return is_file ? model_rename_file(m, &a, &b, no_replace) : model_rename_dir(m, &a, &b, no_replace);
}

/* Takes all that has the prefix, or is it, away. */
static uint32_t model_take(struct model *m, const char *prefix, bool is_dir, struct model_key *out)
{
	uint32_t count = 0;
	for (uint32_t i = 0; i < m->count; i++)
		if (is_dir ? begins(m->keys[i].key, prefix) : strcmp(m->keys[i].key, prefix) == 0)
			out[count++] = m->keys[i];
	for (uint32_t i = 0; i < count; i++)
		model_erase(m, out[i].key);
	return count;
}

static void model_give(struct model *m, struct model_key *keys, uint32_t count, size_t prefix, const char *to)
{
	for (uint32_t i = 0; i < count; i++) {
		char rest[MODEL_KEY_MAX];
		text_copy(rest, keys[i].key + prefix);
		assert_true(strlen(to) + strlen(rest) < MODEL_KEY_MAX);
		int len = snprintf(keys[i].key, sizeof(keys[i].key), "%s", to);
		memcpy(keys[i].key + len, rest, strlen(rest) + 1);
		model_set(m, &keys[i]);
	}
}

/* What stands there, as a whole key or as "path/"; or why it cannot be exchanged. */
static int model_side(struct model *m, const char *key, struct path *p, bool *is_dir)
{
	bool itself;
	*p = path_of(key);
	if (!model_dir_exists(m, p->parent))
		return -GRANARY_ENOTFOUND;
	if (p->no_name)
		return -GRANARY_EINVAL;
	*is_dir = p->slash || model_find(m, p->whole) == NULL;
	return *is_dir && model_below(m, p->dir, &itself) == 0 ? -GRANARY_ENOTFOUND : 0;
}

static bool model_has_both(struct model *m, const struct path *p)
{
	bool itself;
	return model_find(m, p->whole) != NULL && model_below(m, p->dir, &itself) > 0;
}

static int model_exchange(struct model *m, const char *one, const char *other)
{
	static struct model_key keys_a[MODEL_MAX], keys_b[MODEL_MAX];
	struct path a, b;
	bool a_dir, b_dir;
	int err = model_side(m, one, &a, &a_dir);
	if (err == 0)
		err = model_side(m, other, &b, &b_dir);
	if (err < 0)
		return err;
	if (strcmp(a.whole, b.whole) == 0 && a_dir == b_dir)
		return 0;
	if (!a_dir && !b_dir && model_find(m, a.whole)->id == model_find(m, b.whole)->id)
		return 0;
	if (model_has_both(m, &a))
		return -GRANARY_EEXIST;
	if (a_dir && begins(b.whole, a.dir))
		return -GRANARY_ELOOP;
	if (model_has_both(m, &b))
		return -GRANARY_EEXIST;
	if (b_dir && begins(a.whole, b.dir))
		return -GRANARY_ELOOP;
	uint32_t count_a = model_take(m, a_dir ? a.dir : a.whole, a_dir, keys_a);
	uint32_t count_b = model_take(m, b_dir ? b.dir : b.whole, b_dir, keys_b);
	model_give(m, keys_a, count_a, strlen(a.whole), b.whole);
	model_give(m, keys_b, count_b, strlen(b.whole), a.whole);
	return 0;
}

static uint32_t model_names(const struct model *m, uint64_t id)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < m->count; i++)
		n += m->keys[i].id == id;
	return n;
}

/* Of an object that has a name; those without are forgotten. */
static struct model_attrs *model_attrs(struct model *m, uint64_t id)
{
	assert_true(id != 0);
	for (uint32_t i = 0; i < m->attrs_count; i++)
		if (m->attrs[i].id == id)
			return &m->attrs[i];
	for (uint32_t i = 0; m->attrs_count == ATTRS_MAX && i < m->attrs_count;)
		if (model_names(m, m->attrs[i].id) == 0)
			m->attrs[i] = m->attrs[--m->attrs_count];
		else
			i++;
	assert_true(m->attrs_count < ATTRS_MAX);
	struct model_attrs *a = &m->attrs[m->attrs_count++];
	*a = (struct model_attrs){ .id = id, .mode = 0100644, .mtime = 5, .is_plain = true };
	return a;
}

/* The object that a name of a filesystem's operation means: 0 and *k, -GRANARY_EISDIR, -GRANARY_ENOTFOUND. */
static int model_target(struct model *m, const char *key, struct model_key **k)
{
	struct path p = path_of(key);
	bool itself;
	*k = p.slash || p.no_name ? NULL : model_find(m, p.whole);
	if (*k != NULL)
		return 0;
	return model_below(m, p.dir, &itself) > 0 ? -GRANARY_EISDIR : -GRANARY_ENOTFOUND;
}

/* ---- random names ---- */

static const char *const names[] = { "a", "b", "c", "d", "e!", "\xc3\xa9", "", ".", "..", "n0", "long-name-01" };

/* 1 to 4 components, sometimes with a slash at the end. */
static void random_key(struct model *m, char key[MODEL_KEY_MAX])
{
	uint64_t depth = 1 + rng_below(&m->rng, 4);
	size_t at = 0;
	key[0] = '\0';
	for (uint64_t i = 0; i < depth; i++) {
		uint64_t pick = rng_below(&m->rng, 3) > 0 ? rng_below(&m->rng, 4) : rng_below(&m->rng, 11);
		at += (size_t)snprintf(key + at, MODEL_KEY_MAX - at, "%s%s", i > 0 ? "/" : "", names[pick]);
	}
	if (at == 0 || rng_below(&m->rng, 8) == 0)
		snprintf(key + at, MODEL_KEY_MAX - at, "/");
}

/* Mostly one that exists, or a part of one. */
static void likely_key(struct model *m, char key[MODEL_KEY_MAX])
{
	if (m->count == 0 || rng_below(&m->rng, 4) == 0) {
		random_key(m, key);
		return;
	}
	text_copy(key, m->keys[rng_below(&m->rng, m->count)].key);
	if (rng_below(&m->rng, 2) == 0) {
		char *slash = strchr(key + 1, '/');
		if (slash != NULL)
			slash[rng_below(&m->rng, 2)] = '\0';
	}
}

/* Renames could pile path on path. */
static bool is_long(const struct model *m, const char *from, const char *to)
{
	size_t longest = 0;
	for (uint32_t i = 0; i < m->count; i++)
		if (begins(m->keys[i].key, from) && strlen(m->keys[i].key) > longest)
			longest = strlen(m->keys[i].key);
	return longest + strlen(to) + 2 > 100;
}

/* ---- operations ---- */

static void op_put(struct model *m)
{
	char key[MODEL_KEY_MAX];
	if (rng_below(&m->rng, 3) > 0)
		random_key(m, key);
	else
		likely_key(m, key);
	struct model_key *old = model_find(m, key);
	struct mutation put = { .kind = M_PUT, .ref = by_key(m->w, key), .size = (uint32_t)rng_below(&m->rng, 1000),
				.pack = 1 + rng_below(&m->rng, 3) };
	int expected = 0;
	switch (rng_below(&m->rng, 6)) {
	case 0:
		put.condition = NS_IF_ABSENT;
		expected = old != NULL ? -GRANARY_EPRECONDITION : 0;
		break;
	case 1:
		put.condition = NS_IF_VERSION;
		put.if_version = old != NULL && old->id != 0 && rng_below(&m->rng, 2) == 0 ? old->version : 17;
		expected = old != NULL && old->version == put.if_version ? 0 : -GRANARY_EPRECONDITION;
		break;
	default:
		break;
	}
	assert_int_equal(mutate(m->w, &put), expected);
	if (expected < 0)
		return;
	if (old == NULL || old->id != 0)
		assert_int_equal(put.replaced, old != NULL ? old->version : 0);
	struct model_key k = { .id = put.id, .version = put.version, .size = put.size };
	text_copy(k.key, key);
	model_set(m, &k);
}

/* Several puts and deletes in one plan. */
static void op_batch(struct model *m)
{
	struct ns_plan *plan = ns_plan_new(m->w->ns);
	uint64_t n = 1 + rng_below(&m->rng, 12);
	static char keys[16][MODEL_KEY_MAX];
	for (uint64_t i = 0; i < n; i++) {
		likely_key(m, keys[i]);
		const struct model_key *old = model_find(m, keys[i]);
		struct mutation x = { .kind = rng_below(&m->rng, 2) == 0 ? M_PUT : M_DELETE, .pack = 2,
				      .ref = by_key(m->w, keys[i]), .size = (uint32_t)rng_below(&m->rng, 100) };
		int expected = x.kind == M_DELETE && old == NULL ? -GRANARY_ENOTFOUND : 0;
		assert_int_equal(mutation_plan(m->w, plan, &x), expected);
		if (x.kind == M_PUT) {
			struct model_key k = { .id = x.id, .version = x.version, .size = x.size };
			text_copy(k.key, keys[i]);
			model_set(m, &k);
		} else if (expected == 0) {
			model_erase(m, keys[i]);
		}
	}
	assert_int_equal(ns_plan_finish(plan), 0);
	int err = kv_submit_wait(m->w->store.kv, ns_plan_txn(plan));
	ns_plan_committed(plan, err);
	ns_plan_free(&plan);
	assert_int_equal(err, 0);
}

static void op_delete(struct model *m)
{
	char key[MODEL_KEY_MAX];
	likely_key(m, key);
	const struct model_key *old = model_find(m, key);
	struct mutation del = { .kind = M_DELETE, .ref = by_key(m->w, key) };
	assert_int_equal(mutate(m->w, &del), old != NULL ? 0 : -GRANARY_ENOTFOUND);
	if (old == NULL)
		return;
	assert_int_equal(del.deleted.size, old->size);
	model_erase(m, key);
}

static void op_mkdir(struct model *m)
{
	char key[MODEL_KEY_MAX];
	likely_key(m, key);
	struct mutation x = { .kind = M_MKDIR, .ref = by_key(m->w, key), .parents = rng_below(&m->rng, 2) == 0 };
	int expected = model_mkdir(m, key, x.parents);
	assert_int_equal(mutate(m->w, &x), expected);
}

static void op_rmdir(struct model *m)
{
	char key[MODEL_KEY_MAX];
	likely_key(m, key);
	struct mutation x = { .kind = M_RMDIR, .ref = by_key(m->w, key) };
	int expected = model_rmdir(m, key);
	assert_int_equal(mutate(m->w, &x), expected);
}

static void op_rename(struct model *m)
{
	char from[MODEL_KEY_MAX], to[MODEL_KEY_MAX];
	likely_key(m, from);
	if (rng_below(&m->rng, 2) == 0)
		random_key(m, to);
	else
		likely_key(m, to);
	if (is_long(m, from, to))
		return;
	struct mutation x = { .kind = M_RENAME, .ref = by_key(m->w, from), .to = by_key(m->w, to),
			      .no_replace = rng_below(&m->rng, 4) == 0 };
	int expected = model_rename(m, from, to, x.no_replace);
	int got = mutate(m->w, &x);
	if (got != expected)
		print_message("rename '%s' -> '%s' no_replace=%d\n", from, to, x.no_replace);
	assert_int_equal(got, expected);
}

static void op_exchange(struct model *m)
{
	char a[MODEL_KEY_MAX], b[MODEL_KEY_MAX];
	likely_key(m, a);
	likely_key(m, b);
	if (is_long(m, a, b) || is_long(m, b, a))
		return;
	int expected = model_exchange(m, a, b), got = exchange_keys(m->w, a, b);
	if (got != expected)
		print_message("exchange '%s' and '%s'\n", a, b);
	assert_int_equal(got, expected);
}

static const char *const xattr_names[XATTRS] = { "user.a", "security.label", "user.\xc3\xa9" };

static void op_setattr(struct model *m)
{
	char key[MODEL_KEY_MAX];
	struct model_key *k;
	likely_key(m, key);
	int expected = model_target(m, key, &k);
	struct mutation x = { .kind = M_SETATTR, .ref = by_key(m->w, key),
			      .set = { .uid = 7, .gid = 8, .mtime_ns = 1 } };
	x.set.set = (uint32_t)rng_below(&m->rng, 32);
	x.set.mode = (uint32_t)rng_below(&m->rng, 07777);
	x.set.atime_ns = 1 + rng_below(&m->rng, 1u << 30);
	assert_int_equal(mutate(m->w, &x), expected == -GRANARY_EISDIR ? 0 : expected);
	if (expected < 0)
		return;
	struct model_attrs *a = model_attrs(m, k->id);
	if (x.set.set & NS_SET_MODE)
		a->mode = (a->mode & 0170000) | x.set.mode;
	if (x.set.set & NS_SET_UID)
		a->uid = 7;
	if (x.set.set & NS_SET_ATIME)
		a->atime = x.set.atime_ns;
	if (x.set.set & NS_SET_MTIME)
		a->mtime = 1;
}

static void op_xattr(struct model *m)
{
	char key[MODEL_KEY_MAX], value[24];
	struct model_key *k;
	uint64_t which = rng_below(&m->rng, XATTRS);
	likely_key(m, key);
	int expected = model_target(m, key, &k);
	struct mutation x = { .kind = M_XATTR, .ref = by_key(m->w, key), .name = slice_str(xattr_names[which]),
			      .xattr_mode = (enum ns_xattr_mode)rng_below(&m->rng, 4) };
	snprintf(value, sizeof(value), "v%u", (unsigned)rng_below(&m->rng, 1u << 30));
	x.value = slice_str(value);
	if (expected == -GRANARY_EISDIR) { /* directories have them too; not followed here */
		x.xattr_mode = NS_XATTR_ANY;
		assert_int_equal(mutate(m->w, &x), 0);
		return;
	}
	if (expected == 0) {
		char *have = model_attrs(m, k->id)->xattrs[which];
		if (have[0] != '\0' && x.xattr_mode == NS_XATTR_CREATE)
			expected = -GRANARY_EEXIST;
		else if (have[0] == '\0' && (x.xattr_mode == NS_XATTR_REPLACE || x.xattr_mode == NS_XATTR_REMOVE))
			expected = -GRANARY_ENOATTR;
		else
			snprintf(have, sizeof(value), "%s", x.xattr_mode == NS_XATTR_REMOVE ? "" : value);
	}
	assert_int_equal(mutate(m->w, &x), expected);
}

static void op_tags(struct model *m)
{
	char key[MODEL_KEY_MAX], value[24];
	uint8_t pairs[64];
	struct model_key *k;
	struct wr w = wr_of(pairs, sizeof(pairs));
	likely_key(m, key);
	int expected = model_target(m, key, &k);
	snprintf(value, sizeof(value), "t%u", (unsigned)rng_below(&m->rng, 1u << 30));
	wr_bytes16(&w, slice_str("split"));
	wr_bytes16(&w, slice_str(value));
	struct mutation x = { .kind = M_TAGS, .ref = by_key(m->w, key), .value = slice_of(pairs, wr_len(&w)) };
	assert_int_equal(mutate(m->w, &x), expected == -GRANARY_EISDIR ? 0 : expected);
	if (expected == 0)
		snprintf(model_attrs(m, k->id)->tag, sizeof(value), "%s", value);
}

static void op_make(struct model *m)
{
	static const uint32_t types[] = { 0120000, 0010000, 0140000, 0020000, 0060000, 0100000 };
	char key[MODEL_KEY_MAX];
	bool itself;
	random_key(m, key);
	struct path p = path_of(key);
	struct mutation x = { .kind = M_MAKE, .ref = by_key(m->w, key) };
	x.make.mode = types[rng_below(&m->rng, 6)] | 0640;
	if (x.make.mode >> 12 == 012)
		x.make.target = slice_str("../over/there");
	if (x.make.mode >> 12 == 2 || x.make.mode >> 12 == 6)
		x.make.rdev = 1 + rng_below(&m->rng, 1000);
	int expected = p.slash ? -GRANARY_EINVAL
		: model_find(m, key) != NULL || model_below(m, p.dir, &itself) > 0 ? -GRANARY_EEXIST : 0;
	assert_int_equal(mutate(m->w, &x), expected);
	if (expected < 0)
		return;
	struct model_key k = { .id = x.make.id, .version = x.make.version, .size = x.make.target.len };
	text_copy(k.key, key);
	model_set(m, &k);
	struct model_attrs *a = model_attrs(m, k.id);
	a->mode = x.make.mode;
	a->mtime = 0; /* now */
	a->rdev = x.make.rdev;
	snprintf(a->target, sizeof(a->target), "%.*s", (int)x.make.target.len, (const char *)x.make.target.p);
	a->is_plain = x.make.mode >> 12 == 010;
}

static void op_link(struct model *m)
{
	char from[MODEL_KEY_MAX], to[MODEL_KEY_MAX];
	struct model_key *k;
	bool itself;
	likely_key(m, from);
	random_key(m, to);
	struct path p = path_of(to);
	struct mutation x = { .kind = M_LINK, .ref = by_key(m->w, from), .to = by_key(m->w, to) };
	int expected = model_target(m, from, &k);
	if (expected == 0 && p.slash)
		expected = -GRANARY_EINVAL;
	else if (expected == 0 && (model_find(m, to) != NULL || model_below(m, p.dir, &itself) > 0))
		expected = -GRANARY_EEXIST;
	assert_int_equal(mutate(m->w, &x), expected);
	if (expected < 0)
		return;
	assert_true(x.id == k->id);
	model_attrs(m, k->id)->is_plain = false;
	struct model_key copy = *k;
	text_copy(copy.key, to);
	model_set(m, &copy);
}

static void op_copy(struct model *m)
{
	char from[MODEL_KEY_MAX], to[MODEL_KEY_MAX];
	struct model_key *k;
	likely_key(m, from);
	if (rng_below(&m->rng, 2) == 0)
		random_key(m, to);
	else
		likely_key(m, to);
	struct path p = path_of(to);
	struct model_key *old = model_find(m, to);
	struct mutation x = { .kind = M_COPY, .copy = { .from = by_key(m->w, from), .to = by_key(m->w, to) } };
	int expected = model_target(m, from, &k);
	x.copy.from_version = expected == 0 && rng_below(&m->rng, 3) == 0 ? k->version : 0;
	if (rng_below(&m->rng, 4) == 0)
		x.copy.condition = NS_IF_ABSENT;
	if (expected == 0 && p.slash)
		expected = -GRANARY_EINVAL;
	else if (expected == 0 && x.copy.condition == NS_IF_ABSENT && old != NULL)
		expected = -GRANARY_EPRECONDITION;
	assert_int_equal(mutate(m->w, &x), expected);
	if (expected < 0)
		return;
	if (old != NULL)
		assert_int_equal(x.copy.replaced, old->version);
	struct model_attrs attrs = *model_attrs(m, k->id);
	struct model_key copy = { .id = x.copy.id, .version = x.copy.version, .size = k->size };
	text_copy(copy.key, to);
	model_set(m, &copy);
	attrs.id = copy.id;
	attrs.is_plain = attrs.mode >> 12 == 010;
	*model_attrs(m, copy.id) = attrs;
}

/* Parts put in any order, some of them assembled; or given up. */
static void op_upload(struct model *m)
{
	char key[MODEL_KEY_MAX], name[8];
	struct ns_part parts[4];
	uint64_t size = 0;
	uint32_t count = 0;
	random_key(m, key);
	struct mutation x = { .kind = M_UPLOAD, .upload = { .ref = by_key(m->w, key), .key = slice_str(key),
							    .bucket = m->w->bucket.id, .mode = 0600 } };
	assert_int_equal(mutate(m->w, &x), path_of(key).slash ? -GRANARY_EINVAL : 0);
	if (path_of(key).slash)
		return;
	for (uint32_t i = 0; i < 4; i++) {
		snprintf(name, sizeof(name), "%05u", 9 - i);
		struct mutation put = { .kind = M_PUT, .ref = by_name(x.upload.id, name), .pack = 1 + i % 3,
					.size = (uint32_t)rng_below(&m->rng, 500) };
		assert_int_equal(mutate(m->w, &put), 0);
		if (rng_below(&m->rng, 3) == 0)
			continue;
		for (uint32_t k = count++; k > 0; k--)
			parts[k] = parts[k - 1];
		parts[0] = (struct ns_part){ 9 - i, i % 2 ? put.version : 0 };
		size += put.size;
	}
	struct mutation end = { .kind = M_FINISH, .finish = { .ref = by_key(m->w, key), .upload = x.upload.id,
							      .parts = parts, .count = count } };
	if (count == 0)
		assert_int_equal(mutate(m->w, &end), -GRANARY_EINVAL);
	if (count == 0 || rng_below(&m->rng, 4) == 0) {
		struct mutation drop = { .kind = M_ABORT, .id = x.upload.id };
		assert_int_equal(mutate(m->w, &drop), 0);
		assert_int_equal(mutate(m->w, &drop), -GRANARY_ESTALE);
		struct mutation put = { .kind = M_PUT, .ref = by_name(x.upload.id, "00001") };
		assert_int_equal(mutate(m->w, &put), -GRANARY_ENOTFOUND);
		return;
	}
	assert_int_equal(mutate(m->w, &end), 0);
	assert_int_equal(end.finish.size, size);
	assert_int_equal(mutate(m->w, &end), -GRANARY_ESTALE);
	struct model_key k = { .id = end.finish.id, .version = end.finish.version, .size = size };
	text_copy(k.key, key);
	model_set(m, &k);
	struct model_attrs *a = model_attrs(m, k.id);
	a->mode = 0100600;
	a->mtime = 0;
	a->is_plain = false; /* of several extents: not in the tables */
	a->is_many = true;
}

static bool pair_is(struct slice pairs, const char *name, const char *value)
{
	struct slice got;
	bool is_there = pairs_find(pairs, slice_str(name), &got);
	return value[0] == '\0' ? !is_there : is_there && slice_eq(got, slice_str(value));
}

/* Attributes by key, then by id alone where the object has several names. */
static void check_attrs(struct model *m, const struct model_key *k)
{
	const struct model_attrs *a = model_attrs(m, k->id);
	struct path p = path_of(k->key);
	uint32_t links = model_names(m, k->id);
	for (int by = 0; by < (links > 1 ? 2 : 1); by++) {
		struct ns_ref ref = by == 0 ? by_key(m->w, k->key) : by_id(k->id);
		struct object o;
		struct kv_value value;
		if (p.slash)
			return;
		assert_int_equal(ns_file_find(m->w->ns, &ref, &o, &value), 0);
		assert_true(o.id == k->id && o.version == k->version && o.mode == a->mode && o.uid == a->uid);
		assert_true((a->mtime == 0 || o.mtime_ns == a->mtime) && o.atime_ns == a->atime && o.rdev == a->rdev);
		assert_int_equal(o.nlink, links);
		for (uint32_t i = 0; i < XATTRS; i++)
			assert_true(pair_is(o.xattrs, xattr_names[i], a->xattrs[i]));
		assert_true(pair_is(o.tags, "split", a->tag));
		assert_true(slice_eq(o.symlink, slice_str(a->target)));
		kv_value_release(&value);
	}
}

/* By key, then by what that gave: (directory, name) and id; from the rows and from the tables. */
static void op_look_up(struct model *m)
{
	char key[MODEL_KEY_MAX];
	struct found f;
	struct obj_loc loc;
	likely_key(m, key);
	struct model_key *k = model_find(m, key);
	struct ns_ref ref = by_key(m->w, key);
	int cached = ns_find_cached(m->w->ns, &ref, &loc);
	assert_true(cached == -GRANARY_EAGAIN || (cached == 0 && k != NULL));
	if (cached == 0 && k->id != 0)
		assert_true(loc.id == k->id && loc.version == k->version && loc.size == k->size);
	assert_int_equal(look_up(m->w, ref, &f), k != NULL ? 0 : -GRANARY_ENOTFOUND);
	if (k == NULL)
		return;
	if (k->id == 0) { /* an entry made by mkdir: learnt now */
		k->id = f.id;
		k->version = f.version;
	}
	assert_true(f.id == k->id && f.version == k->version && f.size == k->size && !f.is_dir);
	check_attrs(m, k);
	bool is_plain = model_attrs(m, k->id)->is_plain;
	if (model_attrs(m, k->id)->is_many)
		return;
	assert_int_equal(ns_find_cached(m->w->ns, &ref, &loc), is_plain ? 0 : -GRANARY_EAGAIN);
	if (is_plain)
		assert_true(loc.id == k->id && loc.version == k->version && loc.mode == model_attrs(m, k->id)->mode);

	struct found again = { 0 };
	struct ns_ref name = by_name(f.dir, f.name), id = by_id(f.id);
	assert_int_equal(look_up(m->w, name, &again), 0);
	assert_int_equal(again.id, k->id);
	id.dir = f.dir;
	id.name = name.name;
	assert_int_equal(look_up(m->w, id, &again), 0);
	assert_int_equal(again.version, k->version);
	assert_int_equal(ns_find_cached(m->w->ns, &id, &loc), is_plain ? 0 : -GRANARY_EAGAIN);
	char path[KEY_LEN_MAX + 1];
	uint64_t bucket;
	size_t len;
	assert_int_equal(ns_dir_path(m->w->ns, f.dir, &bucket, path, sizeof(path), &len), 0);
	assert_true(len + strlen(f.name) == strlen(key) && begins(key, path));
}

/* ---- lists ---- */

struct page { char keys[128][MODEL_KEY_MAX]; bool is_prefix[128]; uint64_t versions[128]; uint32_t count; };

static int page_add(void *arg, struct slice key, const struct object *o)
{
	struct page *p = arg;
	assert_true(p->count < 128 && key.len < MODEL_KEY_MAX);
	memcpy(p->keys[p->count], key.p, key.len);
	p->keys[p->count][key.len] = '\0';
	p->is_prefix[p->count] = o == NULL;
	p->versions[p->count++] = o != NULL ? o->version : 0;
	return 0;
}

static bool model_list(const struct model *m, const char *prefix, const char *delimiter, const char *after,
		       uint32_t max, struct page *out)
{
	out->count = 0;
	for (uint32_t i = 0; i < m->count; i++) {
		const char *key = m->keys[i].key;
		char item[MODEL_KEY_MAX];
		if (!begins(key, prefix))
			continue;
		const char *at = delimiter[0] ? strstr(key + strlen(prefix), delimiter) : NULL;
		int len = at != NULL ? (int)(at - key) + (int)strlen(delimiter) : (int)strlen(key);
		snprintf(item, sizeof(item), "%.*s", len, key);
		if (strcmp(item, after) <= 0 || (out->count > 0 && strcmp(out->keys[out->count - 1], item) == 0))
			continue;
		if (out->count == max)
			return true;
		text_copy(out->keys[out->count], item);
		out->is_prefix[out->count] = at != NULL;
		out->versions[out->count++] = at != NULL || m->keys[i].id == 0 ? 0 : m->keys[i].version;
	}
	return false;
}

static void cut(struct model *m, char *key)
{
	size_t len = rng_below(&m->rng, strlen(key) + 1);
	while (len > 0 && ((uint8_t)key[len] & 0xc0) == 0x80) /* not inside a character */
		len--;
	key[len] = '\0';
}

static void op_list(struct model *m)
{
	static const char *const delimiters[] = { "", "/", "/", "/", "a", "b/", "//", "/a" };
	static struct page expected, got;
	char prefix[MODEL_KEY_MAX] = "", after[MODEL_KEY_MAX] = "";
	bool more;
	if (rng_below(&m->rng, 3) > 0) {
		likely_key(m, prefix);
		if (rng_below(&m->rng, 2) == 0)
			cut(m, prefix);
	}
	if (rng_below(&m->rng, 2) == 0)
		likely_key(m, after);
	const char *delimiter = delimiters[rng_below(&m->rng, 8)];
	uint32_t max = (uint32_t)(1 + rng_below(&m->rng, 40));
	bool expected_more = model_list(m, prefix, delimiter, after, max, &expected);
	struct ns_list l = { .bucket = m->w->bucket.id, .prefix = slice_str(prefix), .delimiter = slice_str(delimiter),
			     .start_after = slice_str(after), .max = max };
	got.count = 0;
	assert_int_equal(ns_list(m->w->ns, &l, page_add, &got, &more), 0);
	bool same = got.count == expected.count && more == expected_more;
	for (uint32_t i = 0; same && i < got.count; i++)
		same = strcmp(got.keys[i], expected.keys[i]) == 0 && got.is_prefix[i] == expected.is_prefix[i] &&
		       (expected.versions[i] == 0 || got.versions[i] == expected.versions[i]);
	if (!same) {
		print_message("list prefix='%s' delimiter='%s' after='%s' max=%u\n", prefix, delimiter, after, max);
		for (uint32_t i = 0; i < got.count || i < expected.count; i++)
			print_message("  got '%s' expected '%s'\n", i < got.count ? got.keys[i] : "-",
				      i < expected.count ? expected.keys[i] : "-");
	}
	assert_true(same);
}

/* ---- the run ---- */

static void run(struct world *w, uint64_t seed, uint64_t ops)
{
	static void (*const op[])(struct model *) = {
		op_put, op_put, op_put, op_batch, op_delete, op_delete, op_mkdir, op_rmdir, op_rename, op_rename,
		op_exchange, op_look_up, op_look_up, op_list, op_list, op_setattr, op_xattr, op_tags, op_make, op_link,
		op_link, op_copy, op_copy, op_upload,
	};
	struct model *m = calloc(1, sizeof(*m));
	uint64_t keys = 0;
	m->w = w;
	rng_seed(&m->rng, seed);
	for (uint64_t i = 0; i < ops; i++) {
		op[rng_below(&m->rng, sizeof(op) / sizeof(op[0]))](m);
		keys += m->count;
		if (i % CHECK_EVERY == CHECK_EVERY - 1)
			assert_int_equal(check_rows(w).files, m->count);
	}
	assert_int_equal(check_rows(w).files, m->count);
	print_message("%llu operations over %llu keys on average\n", (unsigned long long)ops,
		      (unsigned long long)(keys / ops));
	free(m);
}

static void test_random_operations_agree_with_the_model(void **state)
{
	uint64_t seed = effort_number("GRANARY_SEED", clock_wall_ns());
	print_message("GRANARY_SEED=%llu\n", (unsigned long long)seed);
	run(*state, seed, effort("GRANARY_OPS", OPS_DEFAULT, OPS_LONG));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_random_operations_agree_with_the_model, world_set_up_mem,
						world_tear_down),
		cmocka_unit_test_setup_teardown(test_random_operations_agree_with_the_model, world_set_up_rocks,
						world_tear_down),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
