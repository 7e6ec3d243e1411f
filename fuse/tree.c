/* SPDX-License-Identifier: Apache-2.0 */
/* tree.c -- a snapshot as a tree of directories. */
#include "fuse/tree.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Numbers of nodes: bits 60 and up say what it is, a directory has its depth in bits 48 to 59. */
#define FILE_MARK (UINT64_C(1) << 60)
#define DIR_MARK  (UINT64_C(2) << 60)
#define MARKS     (UINT64_C(15) << 60)
#define NAME_MASK ((UINT64_C(1) << 48) - 1)
enum { DEPTH_SHIFT = 48, DEPTH_MASK = 0xfff };

static uint64_t dir_number(uint64_t first_name, uint32_t depth)
{
	return DIR_MARK | (uint64_t)depth << DEPTH_SHIFT | first_name;
}

bool tree_is_dir(uint64_t number)
{
	return number == TREE_ROOT || (number & MARKS) == DIR_MARK;
}

bool tree_row(const struct tree *t, uint64_t number, uint64_t *id, uint32_t *field)
{
	uint64_t row = number & ~MARKS;

	*id = row / t->fields;
	*field = (uint32_t)(row % t->fields);
	return (number & MARKS) == FILE_MARK && *id < t->samples;
}

/* ---- paths ---- */

struct first {
	char key[TREE_PATH_MAX];
	uint64_t id;
	uint32_t field;
	bool found;
};

static int first_take(void *arg, const char *key, uint64_t id, uint32_t field)
{
	struct first *f = arg;

	f->found = true;
	f->id = id;
	f->field = field;
	memcpy(f->key, key, strlen(key) + 1); /* keys have 1,024 bytes at most */
	return 1;
}

/* The first name that is not below `key`. */
static int first_from(struct tree *t, const char *key, struct first *f)
{
	f->found = false;
	int err = granary_snapshot_names(t->snapshot, key, first_take, f);
	return err < 0 ? err : 0;
}

static bool begins_with(const char *key, const char *prefix)
{
	return strncmp(key, prefix, strlen(prefix)) == 0;
}

int tree_open(struct tree *t, struct granary_snapshot *snapshot, const char *path)
{
	struct granary_snapshot_detail detail = GRANARY_INIT(granary_snapshot_detail);
	size_t len = strlen(path);
	struct first f;
	int err = granary_snapshot_describe(snapshot, &detail);

	*t = (struct tree){ .snapshot = snapshot,
		.samples = detail.samples,
		.names = detail.names,
		.bytes = detail.bytes,
		.fields = detail.fields };
	while (len > 0 && path[len - 1] == '/') len--;
	if (len > 0) snprintf(t->root, sizeof(t->root), "%.*s/", (int)len, path);
	if (err == 0 && len > 0) err = first_from(t, t->root, &f);
	if (err == 0 && len > 0 && (!f.found || !begins_with(f.key, t->root))) err = -GRANARY_ENOTFOUND;
	return err;
}

/* The path of a directory with its slash; its components are counted from the beginning of the key. */
static int dir_path(struct tree *t, uint64_t number, char path[TREE_PATH_MAX])
{
	static _Thread_local struct {
		const struct tree *tree;
		uint64_t number;
		char path[TREE_PATH_MAX];
	} last;
	uint32_t depth = (uint32_t)(number >> DEPTH_SHIFT) & DEPTH_MASK;
	struct first f = { .found = false };
	char *at = f.key;

	if (number == TREE_ROOT) {
		snprintf(path, TREE_PATH_MAX, "%s", t->root);
		return 0;
	}
	if (last.tree == t && last.number == number) {
		memcpy(path, last.path, strlen(last.path) + 1);
		return 0;
	}
	if (!tree_is_dir(number)) return -ENOTDIR;
	int err = granary_snapshot_names_at(t->snapshot, number & NAME_MASK, first_take, &f);
	if (err < 0) return errno_of(err);
	for (uint32_t i = 0; f.found && at && i < depth; i++) {
		at = strchr(at, '/');
		at = at ? at + 1 : NULL;
	}
	if (!f.found || !at || depth == 0) return -ESTALE;
	*at = '\0';
	memcpy(path, f.key, sizeof(f.key));
	memcpy(last.path, f.key, sizeof(f.key));
	last.tree = t;
	last.number = number;
	return 0;
}

static uint32_t depth_of(const char *path)
{
	uint32_t depth = 0;

	for (; *path; path++) depth += *path == '/';
	return depth;
}

/* ---- one node ---- */

static int file_node(struct tree *t, uint64_t id, uint32_t field, struct node *out)
{
	struct granary_snapshot_row row;
	int err = granary_snapshot_row(t->snapshot, id, field, &row);

	*out = (struct node){ .number = FILE_MARK | (id * t->fields + field), .size = row.size };
	return errno_of(err);
}

int tree_get(struct tree *t, uint64_t number, struct node *out)
{
	char path[TREE_PATH_MAX];
	uint64_t id;
	uint32_t field;

	if (tree_row(t, number, &id, &field)) return file_node(t, id, field, out);
	*out = (struct node){ .number = number, .is_dir = true };
	return tree_is_dir(number) ? dir_path(t, number, path) : -ESTALE;
}

/* A directory whose path with its slash is `path`; found: some name lies below it. */
static int dir_find(struct tree *t, const char *path, bool *found, struct node *out)
{
	struct first f;
	uint64_t number;
	int err = first_from(t, path, &f);

	*found = err == 0 && f.found && begins_with(f.key, path);
	if (*found) err = granary_snapshot_name_number(t->snapshot, path, &number);
	if (*found && err == 0) *out = (struct node){ .number = dir_number(number, depth_of(path)), .is_dir = true };
	return err;
}

/* What a walk from the wanted path on finds out about it. */
struct sought {
	const char *path; /* without a slash at its end */
	size_t len;
	uint64_t id;
	uint32_t field;
	bool is_file, below; /* below: some name lies below path/ */
	bool unsure;         /* names come first that sort between `path` and `path/` */
};

static int sought_take(void *arg, const char *key, uint64_t id, uint32_t field)
{
	struct sought *s = arg;
	bool begins = strncmp(key, s->path, s->len) == 0;

	if (begins && key[s->len] == '\0') {
		s->is_file = true;
		s->id = id;
		s->field = field;
		return 0; /* the next name tells whether a directory has the same */
	}
	s->below = begins && key[s->len] == '/';
	s->unsure = begins && key[s->len] < '/';
	return 1;
}

int tree_lookup(struct tree *t, uint64_t dir, const char *name, size_t len, struct node *out)
{
	char path[TREE_PATH_MAX];
	int err = dir_path(t, dir, path);
	size_t at = strlen(path);
	struct sought s = { .path = path, .len = at + len };
	bool found = false;

	if (err < 0) return err;
	if (len > TREE_NAME_MAX) return -ENAMETOOLONG;
	if (at + len + 2 > sizeof(path)) return -ENOENT; /* no key is so long */
	memcpy(path + at, name, len);
	memcpy(path + at + len, "", 1);
	err = granary_snapshot_names(t->snapshot, path, sought_take, &s);
	memcpy(path + at + len, "/", 2);
	if (err >= 0 && (s.below || s.unsure)) err = dir_find(t, path, &found, out);
	if (err < 0) return errno_of(err);
	if (found) return 0;
	return s.is_file ? file_node(t, s.id, s.field, out) : -ENOENT;
}

/* ---- lists ---- */

enum walk_end { WALK_PAST = 1, WALK_FULL = 2, WALK_DIR = 3 };

struct listing {
	struct tree *tree;
	char path[TREE_PATH_MAX]; /* of the directory, with its slash */
	size_t path_len;
	bool sizes;
	tree_entry_fn *fn;
	void *arg;
	uint64_t number; /* of the name that the walk gives next */
	int err;
	char held[TREE_PATH_MAX]; /* a file not given yet: "" none. The next name tells whether a directory has
	                                  * the same name */
	struct node held_node;
	uint64_t held_next;
	char below[TREE_PATH_MAX]; /* WALK_DIR: the path of the directory met */
};

static bool can_show(const char *name, size_t len)
{
	return len > 0 && len <= TREE_NAME_MAX && !(name[0] == '.' && (len == 1 || (len == 2 && name[1] == '.')));
}

/* Does a directory hide the file? Names between `a` and `a/` begin with `a` and a character below the slash. */
static bool held_is_hidden(struct listing *l, const char *next)
{
	size_t len = strlen(l->held);
	char path[TREE_PATH_MAX + 1];
	struct node node;
	bool found = false;

	if (!next || strncmp(next, l->held, len) != 0 || next[len] > '/') return false;
	if (next[len] == '/') return true;
	snprintf(path, sizeof(path), "%s/", l->held);
	l->err = dir_find(l->tree, path, &found, &node);
	return found;
}

/* Gives what is held. false: no room, or an error. */
static bool held_give(struct listing *l, const char *next)
{
	bool given = true;

	if (l->held[0] == '\0') return true;
	if (!held_is_hidden(l, next) && l->err == 0)
		given = l->fn(
			l->arg, l->held + l->path_len, strlen(l->held) - l->path_len, &l->held_node, l->held_next);
	l->held[0] = '\0';
	return given && l->err == 0;
}

static int list_name(void *arg, const char *key, uint64_t id, uint32_t field)
{
	struct listing *l = arg;
	const char *name = key + l->path_len;

	if (!begins_with(key, l->path)) return WALK_PAST;
	if (!held_give(l, key)) return WALK_FULL;
	const char *slash = strchr(name, '/');
	if (slash) {
		snprintf(l->below, sizeof(l->below), "%.*s", (int)(slash + 1 - key), key);
		return WALK_DIR;
	}
	l->number++;
	if (!can_show(name, strlen(name))) return 0;
	l->held_node = (struct node){ .number = FILE_MARK | (id * l->tree->fields + field) };
	if (l->sizes) l->err = file_node(l->tree, id, field, &l->held_node);
	memcpy(l->held, key, strlen(key) + 1);
	l->held_next = l->number;
	return l->err < 0 ? WALK_FULL : 0;
}

/* A directory was met: gives it and goes on behind all that lies below it. */
static bool list_dir(struct listing *l)
{
	size_t end = strlen(l->below) - 1;
	struct node node = { .number = dir_number(l->number, depth_of(l->below)), .is_dir = true };
	const char *name = l->below + l->path_len;
	bool given = true;

	l->below[end] = '/' + 1; /* above every path that begins with the directory's */
	l->err = errno_of(granary_snapshot_name_number(l->tree->snapshot, l->below, &l->number));
	if (l->err == 0 && can_show(name, end - l->path_len))
		given = l->fn(l->arg, name, end - l->path_len, &node, l->number);
	return given && l->err == 0;
}

int tree_list(struct tree *t, uint64_t dir, uint64_t from, bool sizes, tree_entry_fn *fn, void *arg)
{
	struct listing l = { .tree = t, .sizes = sizes, .fn = fn, .arg = arg, .number = from };
	int end = WALK_DIR;

	l.err = dir_path(t, dir, l.path);
	l.path_len = strlen(l.path);
	if (l.err == 0 && from == 0) l.err = errno_of(granary_snapshot_name_number(t->snapshot, l.path, &l.number));
	while (l.err == 0 && end == WALK_DIR) {
		end = granary_snapshot_names_at(t->snapshot, l.number, list_name, &l);
		if (end < 0) return errno_of(end);
		if (end == WALK_DIR && l.err == 0 && !list_dir(&l)) end = WALK_FULL;
	}
	if (l.err == 0 && (end == WALK_PAST || end == 0)) held_give(&l, NULL);
	return l.err;
}
