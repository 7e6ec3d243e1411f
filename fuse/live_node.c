/* SPDX-License-Identifier: Apache-2.0 */
/* live_node.c -- the inodes that the kernel knows: what stands behind their numbers, and what they look like.
 *
 * (1) a node stays while the kernel has looked it up more often than it forgot it, or while something here uses it: so
 *     there are as many as the kernel keeps, and idle_max more: those used last whose place and attributes are known to
 *     be so (live_watch.c).
 * (2) attributes are those that the server told last, or that we set since; size and times of what is being written are
 *     the file's own (live_file.c).
 * (3) what is changed in a directory shows in its times at once, though the server tells them only when the change is
 *     durable: within two seconds. */
#include "fuse/live.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

enum { BLOCK = 512, BLOCKS_OF_PAGE = KERNEL_PAGE / BLOCK };
#define PENDING_NS UINT64_C(2000000000)
#define WATCHED_S  UINT64_C(3600) /* that the kernel keeps what the server tells changes of */

static struct live_node **slot_of(const struct live *l, uint64_t number)
{
	return &l->nodes[(number ^ number >> 16) % LIVE_NODE_SLOTS];
}

uint64_t node_object(const struct live *l, uint64_t number) { return number == FUSE_ROOT_ID ? l->root : number; }

uint64_t node_number(const struct live *l, uint64_t object)
{
	return object == l->root ? FUSE_ROOT_ID : object;
}

/* NULL: no memory. */
struct live_node *node_find(struct live *l, uint64_t number, bool make)
{
	struct live_node **at = slot_of(l, number), *n = *at;

	while (n && n->number != number) n = n->next;
	if (n || !make) return n;
	n = calloc(1, sizeof(*n));
	if (!n) return NULL;
	n->number = number;
	n->next = *at;
	*at = n;
	l->node_count++;
	return n;
}

static struct live_node **name_slot_of(const struct live *l, uint64_t dir, const char *name)
{
	uint64_t hash = dir * UINT64_C(0x9e3779b97f4a7c15);

	for (; *name; name++) hash = (hash ^ (uint8_t)*name) * UINT64_C(0x100000001b3);
	return &l->names[(hash ^ hash >> 32) % LIVE_NODE_SLOTS];
}

struct live_node *node_at(struct live *l, uint64_t dir, const char *name)
{
	struct live_node *n = *name_slot_of(l, dir, name);

	while (n && (n->parent != dir || strcmp(n->name, name) != 0)) n = n->next_name;
	return n;
}

/* Lock held. */
static void place_drop(struct live *l, struct live_node *n)
{
	n->place_epoch = 0;
	if (!n->name) return;
	struct live_node **at = name_slot_of(l, n->parent, n->name);
	while (*at != n) at = &(*at)->next_name;
	*at = n->next_name;
	free(n->name);
	n->name = NULL;
}

/* ---- idle ones: lock held ---- */

static void idle_leave(struct live *l, struct live_node *n)
{
	if (!n->idle) return;
	*(n->newer ? &n->newer->older : &l->newest) = n->older;
	*(n->older ? &n->older->newer : &l->oldest) = n->newer;
	n->newer = n->older = NULL;
	n->idle = false;
	l->idle_count--;
}

static void idle_enter(struct live *l, struct live_node *n)
{
	n->idle = true;
	n->older = l->newest;
	*(n->older ? &n->older->newer : &l->oldest) = n;
	l->newest = n;
	l->idle_count++;
}

static void node_drop(struct live *l, struct live_node *n)
{
	struct live_node **at = slot_of(l, n->number);

	idle_leave(l, n);
	while (*at != n) at = &(*at)->next;
	*at = n->next;
	l->node_count--;
	place_drop(l, n);
	free(n);
}

bool node_is_trusted(const struct live *l, const struct live_node *n)
{
	return l->epoch != 0 && n->attr_epoch == l->epoch;
}

bool node_knows_links(const struct live *l, const struct live_node *n)
{
	return !n->has_links || n->links_seen == l->links_lost;
}

static bool node_is_known(const struct live *l, const struct live_node *n)
{
	return node_is_trusted(l, n) && n->place_epoch == l->epoch && n->name && !n->unlinked && !n->was_moved;
}

static void node_drop_unused(struct live *l, struct live_node *n)
{
	if (n->lookups > 0 || n->uses > 0 || n->idle) return;
	n->cached_version = 0; /* with the inode the kernel forgot its bytes */
	if (!node_is_known(l, n)) {
		node_drop(l, n);
		return;
	}
	idle_enter(l, n);
	if (l->idle_count > l->idle_max) node_drop(l, l->oldest);
}

static void node_use(struct live *l, struct live_node *n)
{
	idle_leave(l, n);
	n->uses++;
}

/* ---- pins ---- */

struct live_node *node_get(struct live *l, uint64_t number)
{
	pthread_mutex_lock(&l->lock);
	struct live_node *n = node_find(l, number, number == FUSE_ROOT_ID);
	if (n) node_use(l, n);
	pthread_mutex_unlock(&l->lock);
	return n;
}

void node_put(struct live *l, struct live_node *n)
{
	if (!n) return;
	pthread_mutex_lock(&l->lock);
	n->uses--;
	node_drop_unused(l, n);
	pthread_mutex_unlock(&l->lock);
}

void node_forget(struct live *l, uint64_t number, uint64_t lookups)
{
	pthread_mutex_lock(&l->lock);
	struct live_node *n = node_find(l, number, false);
	if (n) {
		n->lookups -= lookups < n->lookups ? lookups : n->lookups;
		node_drop_unused(l, n);
	}
	pthread_mutex_unlock(&l->lock);
}

/* Lock held. Who was thought to be there is not any more. */
static void place_put(struct live *l, struct live_node *n, uint64_t dir, const char *name)
{
	n->was_moved = false;
	if (n->number == FUSE_ROOT_ID || (n->parent == dir && n->name && strcmp(n->name, name) == 0)) return;
	char *copy = strdup(name);
	if (!copy) return; /* the old one is a hint as well */
	place_drop(l, n);
	struct live_node **at = name_slot_of(l, dir, name), *other = *at;
	while (other && (other->parent != dir || strcmp(other->name, name) != 0)) other = other->next_name;
	if (other) place_drop(l, other);
	n->name = copy;
	n->parent = dir;
	n->next_name = *at;
	*at = n;
}

void node_place(struct live *l, struct live_node *n, uint64_t dir, const char *name)
{
	pthread_mutex_lock(&l->lock);
	place_put(l, n, dir, name);
	n->place_epoch = n->attr_epoch = n->own_epoch = 0;
	l->changes++;
	pthread_mutex_unlock(&l->lock);
}

struct live_node *node_named(struct live *l, uint64_t dir, const char *name)
{
	pthread_mutex_lock(&l->lock);
	struct live_node *n = node_at(l, dir, name);
	if (n) node_use(l, n);
	pthread_mutex_unlock(&l->lock);
	return n;
}

struct live_node *node_look(struct live *l, uint64_t dir, const char *name)
{
	pthread_mutex_lock(&l->lock);
	struct live_node *n = node_at(l, dir, name);
	if (n && !node_is_known(l, n)) n = NULL;
	if (n) {
		node_use(l, n);
		n->lookups++;
	}
	pthread_mutex_unlock(&l->lock);
	return n;
}

/* ---- what is known ---- */

/* Other names: a directory's links are those of what is in it. */
static bool has_links(const struct live_node *n) { return n->stat.kind != GRANARY_DIR && n->inode.nlink > 1; }

void node_trust(struct live *l, struct live_node *n, uint64_t asked, bool place)
{
	uint64_t epoch = asked == l->changes ? l->epoch : 0;

	if (has_links(n)) l->has_links = n->has_links = true;
	n->links_seen = l->links_lost;
	n->attr_epoch = epoch;
	if (place) n->place_epoch = epoch;
}

void node_doubt_place(struct live *l, uint64_t number)
{
	pthread_mutex_lock(&l->lock);
	struct live_node *n = node_find(l, number, false);
	if (n) n->place_epoch = 0;
	pthread_mutex_unlock(&l->lock);
}

void node_changed(struct live *l, struct live_node *n)
{
	pthread_mutex_lock(&l->lock);
	n->attr_epoch = n->own_epoch = 0;
	l->changes++;
	pthread_mutex_unlock(&l->lock);
}

void node_lost_name(struct live *l, struct live_node *n)
{
	pthread_mutex_lock(&l->lock);
	l->changes++;
	if (!n && l->has_links) { /* one that is known by another name */
		l->links_lost++;
		live_doubt_all(l);
	}
	if (!n) {
		pthread_mutex_unlock(&l->lock);
		return;
	}
	n->attr_epoch = n->own_epoch = n->links_seen = 0;
	if (has_links(n))
		n->inode.nlink--;
	else
		n->unlinked = true;
	place_drop(l, n);
	pthread_mutex_unlock(&l->lock);
}

struct live_node *node_learn(struct live *l, uint64_t dir, const char *name, const struct granary_stat *st,
	const struct granary_inode *in, uint64_t lookups, uint64_t asked)
{
	pthread_mutex_lock(&l->lock);
	struct live_node *n = node_find(l, node_number(l, st->object_id), true);
	if (n) {
		node_use(l, n);
		n->lookups += lookups;
		n->stat = *st;
		n->stat.meta = NULL;
		n->unlinked = false;
		n->inode = *in;
		place_put(l, n, dir, name);
		node_trust(l, n, asked, true);
	}
	pthread_mutex_unlock(&l->lock);
	return n;
}

bool node_is_ours(const struct live *l, const struct live_node *n)
{
	return l->epoch != 0 && n->own_epoch == l->epoch && live_clock_ns() - n->changed_clock_ns < PENDING_NS;
}

void node_dir_changed(struct live *l, uint64_t dir, bool file_came)
{
	pthread_mutex_lock(&l->lock);
	struct live_node *n = node_find(l, node_number(l, dir), false);
	l->changes++;
	if (n) {
		if (!file_came)
			n->own_epoch = 0;
		else if (node_is_trusted(l, n))
			n->own_epoch = l->epoch;
		n->place_epoch = n->attr_epoch = 0; /* one that was never made by mkdir goes with its last name */
		n->changed_ns = live_now_ns();
		n->changed_clock_ns = live_clock_ns();
	}
	pthread_mutex_unlock(&l->lock);
}

struct granary_ref node_ref(struct live *l, const struct live_node *n, char *name)
{
	pthread_mutex_lock(&l->lock);
	snprintf(name, LIVE_NAME_MAX + 1, "%s", n->name ? n->name : "");
	struct granary_ref ref = granary_ref_id(node_object(l, n->number), n->parent, name);
	pthread_mutex_unlock(&l->lock);
	return ref;
}

int node_stat(struct job *j, struct live_node *n)
{
	struct live *l = j->live;
	struct granary_call call = live_call(j, false);
	char name[LIVE_NAME_MAX + 1];
	struct granary_ref ref = node_ref(l, n, name);
	struct granary_stat st;
	struct granary_inode in;
	uint64_t asked = live_asks(l);
	int64_t got = granary_stat_full(l->client, &ref, 1, 0, &st, &in, &call);

	if (got < 0) return live_errno((int)got);
	if (st.status < 0) return live_errno(st.status);
	pthread_mutex_lock(&l->lock);
	n->stat = st;
	n->inode = in;
	node_trust(l, n, asked, false);
	pthread_mutex_unlock(&l->lock);
	return 0;
}

static uint32_t type_of(uint32_t kind)
{
	switch (kind) {
	case GRANARY_DIR: return S_IFDIR;
	case GRANARY_SYMLINK: return S_IFLNK;
	case GRANARY_FIFO: return S_IFIFO;
	case GRANARY_SOCKET: return S_IFSOCK;
	case GRANARY_CHAR: return S_IFCHR;
	case GRANARY_BLOCK: return S_IFBLK;
	default: return S_IFREG;
	}
}

static void time_put(uint64_t ns, uint64_t *s, uint32_t *rest)
{
	*s = ns / 1000000000;
	*rest = (uint32_t)(ns % 1000000000);
}

/* As of the kernel: minor and major in 32 bits. */
static uint32_t device_of(uint64_t rdev)
{
	return (minor(rdev) & 0xff) | major(rdev) << 8 | (minor(rdev) & ~0xffu) << 12;
}

void node_attr(struct live *l, struct live_node *n, struct fuse_attr *out)
{
	struct fuse_attr a = { .ino = n->number, .blksize = KERNEL_PAGE };
	struct live_file *f;
	uint64_t mtime, ctime, atime, holes;

	pthread_mutex_lock(&l->lock);
	a.ino = node_object(l, n->number);
	a.size = n->stat.kind == GRANARY_DIR ? KERNEL_PAGE : n->stat.size;
	a.mode = type_of(n->stat.kind) | (n->stat.mode & 07777);
	a.nlink = n->unlinked ? 0 : n->inode.nlink;
	if (a.nlink == 0 && n->stat.kind == GRANARY_DIR && !n->unlinked) a.nlink = 1;
	a.mode &= ~l->options->umask;
	a.uid = l->options->uid != OWNER_NONE ? l->options->uid : n->stat.uid;
	a.gid = l->options->gid != OWNER_NONE ? l->options->gid : n->stat.gid;
	a.rdev = device_of(n->inode.rdev);
	holes = n->inode.holes;
	mtime = n->stat.mtime_ns;
	ctime = n->inode.ctime_ns;
	atime = n->inode.atime_ns ? n->inode.atime_ns : mtime;
	if (n->changed_ns > mtime && live_clock_ns() - n->changed_clock_ns < PENDING_NS) mtime = n->changed_ns;
	if (mtime == n->changed_ns && ctime < mtime) ctime = mtime;
	f = n->file;
	if (f) f->refs++;
	pthread_mutex_unlock(&l->lock);
	if (f) {
		pthread_mutex_lock(&f->lock);
		if (f->fresh || f->dirty) {
			a.size = f->size;
			mtime = f->mtime_ns;
			ctime = f->ctime_ns;
		}
		pthread_mutex_unlock(&f->lock);
		file_close(f);
	}
	if (holes > a.size) holes = a.size;
	a.blocks = (a.size - holes + KERNEL_PAGE - 1) / KERNEL_PAGE * BLOCKS_OF_PAGE;
	time_put(mtime, &a.mtime, &a.mtimensec);
	time_put(ctime, &a.ctime, &a.ctimensec);
	time_put(atime, &a.atime, &a.atimensec);
	*out = a;
}

uint64_t node_valid_s(struct live *l, struct live_node *n)
{
	uint64_t valid_s = options_valid_s(l->options);

	pthread_mutex_lock(&l->lock);
	if (node_is_trusted(l, n) && valid_s < WATCHED_S) valid_s = WATCHED_S;
	if (n->file && n->file->sparse) valid_s = 0;
	pthread_mutex_unlock(&l->lock);
	return valid_s;
}

/* A directory is looked up again soon: one that goes with its last name is not told to go (node_dir_changed()). */
void node_entry(struct live *l, struct live_node *n, struct fuse_entry_out *out)
{
	uint64_t valid_s = node_valid_s(l, n), dir_s = options_valid_s(l->options);
	bool known, is_dir;

	pthread_mutex_lock(&l->lock);
	known = node_is_known(l, n);
	is_dir = n->stat.kind == GRANARY_DIR;
	pthread_mutex_unlock(&l->lock);
	*out = (struct fuse_entry_out){ .nodeid = n->number, .entry_valid = is_dir || !known ? dir_s : valid_s,
		.attr_valid = valid_s };
	node_attr(l, n, &out->attr);
}

void nodes_free(struct live *l)
{
	for (uint32_t i = 0; i < LIVE_NODE_SLOTS; i++)
		while (l->nodes[i]) {
			struct live_node *n = l->nodes[i];
			l->nodes[i] = n->next;
			free(n->name);
			free(n);
		}
}
