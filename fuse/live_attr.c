/* SPDX-License-Identifier: Apache-2.0 */
/* live_attr.c -- looking names up, attributes, extended attributes, the size of it all. */
#include "fuse/live.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- names ---- */

static void entry_undo(struct job *j) { node_forget(j->live, j->undo_node, 1); }

int live_entry(struct job *j, struct live_node *n)
{
	struct fuse_entry_out e;

	node_entry(j->live, n, &e);
	j->undo = entry_undo;
	j->undo_node = n->number;
	return job_out(j, &e, sizeof(e));
}

int live_look(struct job *j, uint64_t dir, const char *name, uint64_t lookups, struct live_node **out)
{
	struct granary_call call = live_call(j, false);
	struct granary_ref ref = granary_ref_name(dir, name);
	struct granary_stat st;
	struct granary_inode in;
	uint64_t asked = live_asks(j->live);
	int64_t got = granary_stat_full(j->live->client, &ref, 1, 0, &st, &in, &call);

	*out = NULL;
	if (got < 0) return live_errno((int)got);
	if (st.status < 0) return live_errno(st.status);
	*out = node_learn(j->live, dir, name, &st, &in, lookups, asked);
	return *out ? 0 : -ENOMEM;
}

/* A file of that name which is not at the server yet: pinned, with a lookup more. */
static struct live_node *fresh_look(struct live *l, uint64_t dir, const char *name)
{
	struct live_node *n = node_named(l, dir, name);

	if (!n) return NULL;
	pthread_mutex_lock(&l->lock);
	bool fresh = n->file && n->file->at_fresh && !n->unlinked;
	if (fresh) n->lookups++;
	pthread_mutex_unlock(&l->lock);
	if (fresh) return n;
	node_put(l, n);
	return NULL;
}

bool live_lookup_now(struct job *j)
{
	struct live *l = j->live;
	uint64_t dir = node_object(l, j->node);
	struct live_node *n = node_look(l, dir, j->name);

	if (!n) n = fresh_look(l, dir, j->name);
	if (!n) return false;
	j->error = live_entry(j, n);
	node_put(l, n);
	return true;
}

int live_lookup(struct job *j)
{
	struct live *l = j->live;
	struct live_node *n;
	int err = live_look(j, node_object(l, j->node), j->name, 1, &n);

	if (err == -ENOENT) node_doubt_place(l, j->node); /* maybe there is no such directory any more */
	if (err == 0) err = live_entry(j, n);
	node_put(l, n);
	return err;
}

/* ---- the same without waiting ---- */

struct looking {
	struct job *job;
	struct granary_ref ref;
	struct granary_stat st;
	struct granary_inode inode;
	uint64_t dir, asked;
};

/* In a thread of the library. */
static void looking_done(struct granary_op *op, int64_t result, void *arg)
{
	struct looking *k = arg;
	struct job *j = k->job;
	int err = live_errno(result < 0 ? (int)result : k->st.status);

	granary_op_free(&op);
	if (err == 0) {
		struct live_node *n = node_learn(j->live, k->dir, j->name, &k->st, &k->inode, 1, k->asked);
		err = n ? live_entry(j, n) : -ENOMEM;
		node_put(j->live, n);
	} else if (err == -ENOENT) {
		node_doubt_place(j->live, j->node);
	}
	free(k);
	job_end(j, err);
}

bool live_lookup_start(struct job *j)
{
	struct live *l = j->live;
	struct granary_call call = live_call(j, false);
	struct looking *k = calloc(1, sizeof(*k));
	struct granary_op *op;

	if (!k) return false;
	k->job = j;
	k->dir = node_object(l, j->node);
	k->ref = granary_ref_name(k->dir, j->name);
	k->asked = live_asks(l);
	call.flags = GRANARY_AT_ONCE;
	call.done = looking_done;
	call.arg = k;
	if (granary_stat_full_start(l->client, &k->ref, 1, 0, &k->st, &k->inode, &call, &op) == 0) return true;
	free(k);
	return false;
}

/* ---- attributes ---- */

static int attr_answer(struct job *j, struct live_node *n, bool fresh)
{
	struct fuse_attr_out out = { .attr_valid = fresh ? 0 : node_valid_s(j->live, n) };

	node_attr(j->live, n, &out.attr);
	return job_out(j, &out, sizeof(out));
}

/* The file of a node while it is open, one more ref. */
static struct live_file *file_of(struct live *l, struct live_node *n)
{
	pthread_mutex_lock(&l->lock);
	struct live_file *f = n->file;
	if (f) f->refs++;
	pthread_mutex_unlock(&l->lock);
	return f;
}

bool live_getattr_now(struct job *j)
{
	struct live *l = j->live;
	struct live_node *n = node_get(l, j->node);
	if (!n) return false;
	struct live_file *f = file_of(l, n);
	bool fresh = false, ours = false, send = false, dirty = false;
	if (f) {
		pthread_mutex_lock(&f->lock);
		fresh = f->fresh && !f->dirty;
		ours = f->dirty && !f->fresh;
		dirty = f->dirty;
		send = f->dirty && (f->fresh || f->sparse);
		pthread_mutex_unlock(&f->lock);
		file_close(f);
	}
	pthread_mutex_lock(&l->lock);
	send = send || (dirty && n->inode.holes > 0);
	bool known = !send && (fresh || n->unlinked || node_is_trusted(l, n) || (ours && node_knows_links(l, n)));
	if (!known && !f && node_is_ours(l, n)) known = fresh = true;
	pthread_mutex_unlock(&l->lock);
	if (known) j->error = attr_answer(j, n, fresh);
	node_put(l, n);
	return known;
}

/* The rest: it has to be asked for. A file that was made here and has bytes is sent first, so that what is told of it
 * once stays true, and one that has holes, as the server counts them. */
int live_getattr(struct job *j)
{
	struct live *l = j->live;
	struct live_node *n = node_get(l, j->node);
	if (!n) return -ESTALE;
	struct live_file *f = file_of(l, n);
	int err = 0;

	if (f) {
		pthread_mutex_lock(&f->lock);
		bool send = f->dirty;
		pthread_mutex_unlock(&f->lock);
		if (send) err = file_flush(j, f);
		file_close(f);
	}
	if (err == 0 && !n->unlinked) err = node_stat(j, n);
	if (err == 0) err = attr_answer(j, n, false);
	node_put(l, n);
	return err;
}

static uint64_t time_of(uint64_t s, uint32_t ns) { return s * 1000000000 + ns; }

static void set_of(const struct fuse_setattr_in *in, const struct live_node *n, struct granary_setattr *set)
{
	uint32_t mode = n->stat.mode & 07777;
	bool is_file = n->stat.kind == GRANARY_FILE, drop = false;

	if (in->valid & FATTR_MODE) {
		set->set |= GRANARY_SET_MODE;
		set->mode = in->mode & 07777;
		mode = set->mode;
	}
	if (in->valid & FATTR_UID) {
		set->set |= GRANARY_SET_UID;
		set->uid = in->uid;
	}
	if (in->valid & FATTR_GID) {
		set->set |= GRANARY_SET_GID;
		set->gid = in->gid;
	}
	drop = is_file && ((in->valid & (FATTR_UID | FATTR_GID) && !(in->valid & FATTR_MODE)) ||
				  in->valid & FATTR_KILL_SUIDGID);
	if (drop && (mode & S_ISUID || (mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP))) {
		set->set |= GRANARY_SET_MODE;
		set->mode = mode & ~(uint32_t)S_ISUID;
		if (mode & S_IXGRP) set->mode &= ~(uint32_t)S_ISGID;
	}
	if (in->valid & FATTR_ATIME) {
		set->set |= GRANARY_SET_ATIME;
		set->atime_ns = in->valid & FATTR_ATIME_NOW ? live_now_ns() : time_of(in->atime, in->atimensec);
	}
	if (in->valid & FATTR_MTIME) {
		set->set |= GRANARY_SET_MTIME;
		set->mtime_ns = in->valid & FATTR_MTIME_NOW ? live_now_ns() : time_of(in->mtime, in->mtimensec);
	}
}

/* The mount's lock held. */
static void set_apply(struct live_node *n, const struct granary_setattr *set)
{
	if (set->set & GRANARY_SET_MODE) n->stat.mode = (n->stat.mode & ~07777u) | set->mode;
	if (set->set & GRANARY_SET_UID) n->stat.uid = set->uid;
	if (set->set & GRANARY_SET_GID) n->stat.gid = set->gid;
	if (set->set & GRANARY_SET_ATIME) n->inode.atime_ns = set->atime_ns;
	if (set->set & GRANARY_SET_MTIME) {
		n->stat.mtime_ns = set->mtime_ns;
		n->changed_ns = 0;
	}
}

/* Of a file that is not at the server and not on its way: they go with the put. */
static bool set_fresh(struct live_file *f, const struct granary_setattr *set)
{
	struct live *l = f->live;

	pthread_mutex_lock(&f->lock);
	bool fresh = f->fresh && !f->lost && !f->running && !f->waiting;
	if (fresh) {
		pthread_mutex_lock(&l->lock);
		set_apply(f->node, set);
		pthread_mutex_unlock(&l->lock);
		if (set->set & GRANARY_SET_MTIME) f->mtime_ns = set->mtime_ns;
		f->ctime_ns = live_now_ns();
	}
	pthread_mutex_unlock(&f->lock);
	return fresh;
}

int live_set(struct job *j, struct live_node *n, struct live_file *f, const struct granary_setattr *set)
{
	struct live *l = j->live;
	char name[LIVE_NAME_MAX + 1];
	int err = 0;

	if (f && set_fresh(f, set)) return 0;
	if (f) err = file_flush(j, f);
	if (err < 0) return err;
	struct granary_call call = live_call(j, true);
	err = granary_setattr(l->client, node_ref(l, n, name), set, &call);
	if (err < 0) return live_errno(err);
	pthread_mutex_lock(&l->lock);
	set_apply(n, set);
	n->inode.ctime_ns = live_now_ns();
	pthread_mutex_unlock(&l->lock);
	node_changed(l, n);
	if (f && set->set & GRANARY_SET_MTIME) {
		pthread_mutex_lock(&f->lock);
		f->mtime_ns = set->mtime_ns;
		pthread_mutex_unlock(&f->lock);
	}
	return 0;
}

/* open: by a handle, which tells later what went wrong. */
static int size_set(struct job *j, struct live_node *n, uint64_t size, bool open)
{
	struct live_file *f = file_open(j->live, n);
	int err = f ? 0 : -ENOMEM;

	if (err == 0) err = file_change(f, GRANARY_CHANGE_TRUNCATE, size, 0);
	if (err == 0 && !open) {
		struct live_handle h = { .file = f, .errors_seen = f->error_count };
		err = file_flush(j, f);
		if (err == 0) err = handle_error(&h);
	}
	if (f) file_close(f);
	return err;
}

/* Of a file that is not at the server yet. */
bool live_setattr_now(struct job *j)
{
	struct live *l = j->live;
	struct fuse_setattr_in in;
	struct granary_setattr set = GRANARY_INIT(granary_setattr);

	memcpy(&in, j->arg, sizeof(in));
	if (in.valid & FATTR_SIZE) return false;
	struct live_node *n = node_get(l, j->node);
	struct live_file *f = n ? file_of(l, n) : NULL;
	pthread_mutex_lock(&l->lock);
	if (f) set_of(&in, n, &set);
	pthread_mutex_unlock(&l->lock);
	bool done = set.set && set_fresh(f, &set);
	if (done) j->error = attr_answer(j, n, true);
	if (f) file_close(f);
	node_put(l, n);
	return done;
}

int live_setattr(struct job *j)
{
	struct live *l = j->live;
	struct fuse_setattr_in in;
	struct granary_setattr set = GRANARY_INIT(granary_setattr);
	struct live_node *n = node_get(l, j->node);
	int err = 0;

	memcpy(&in, j->arg, sizeof(in));
	if (!n) return -ESTALE;
	if (in.valid & FATTR_SIZE) err = size_set(j, n, in.size, (in.valid & FATTR_FH) != 0);
	struct live_file *f = file_of(l, n);
	pthread_mutex_lock(&l->lock);
	set_of(&in, n, &set);
	pthread_mutex_unlock(&l->lock);
	if (err == 0 && set.set) err = live_set(j, n, f, &set);
	bool fresh = false, ours = false;
	if (f) {
		pthread_mutex_lock(&f->lock);
		fresh = f->fresh;
		ours = f->fresh || f->dirty;
		pthread_mutex_unlock(&f->lock);
		file_close(f);
	}
	pthread_mutex_lock(&l->lock);
	bool known = n->unlinked || fresh || (ours && node_knows_links(l, n));
	pthread_mutex_unlock(&l->lock);
	if (err == 0 && !known) err = node_stat(j, n);
	if (err == 0) err = attr_answer(j, n, fresh);
	node_put(l, n);
	return err;
}

int live_statfs(struct job *j)
{
	enum { BLOCK = KERNEL_PAGE };
	const uint64_t all = UINT64_C(1) << 50, names = UINT64_C(1) << 32; /* where there is no quota */
	struct live *l = j->live;
	struct fuse_statfs_out out = { .st = { .bsize = BLOCK, .frsize = BLOCK, .namelen = LIVE_NAME_MAX } };

	pthread_mutex_lock(&l->lock);
	uint64_t bytes = l->usage.bytes, most = l->usage.quota_bytes ? l->usage.quota_bytes : all + bytes;
	uint64_t files = l->usage.objects, files_most = l->usage.quota_objects ? l->usage.quota_objects : names + files;
	pthread_mutex_unlock(&l->lock);
	out.st.blocks = most / BLOCK;
	out.st.bfree = out.st.bavail = most > bytes ? (most - bytes) / BLOCK : 0;
	out.st.files = files_most;
	out.st.ffree = files_most > files ? files_most - files : 0;
	return job_out(j, &out, sizeof(out));
}

/* ---- extended attributes ---- */

static int xattr_errno(int err)
{
	return err == -GRANARY_ETOOBIG ? -ENOSPC : live_errno(err);
}

/* The server says what they are. */
static bool xattr_is_own(const char *name) { return strncmp(name, "user.granary.", strlen("user.granary.")) == 0; }

static int xattr_name_check(const char *name)
{
	static const char *const spaces[] = { "user.", "trusted.", "security." };

	for (size_t i = 0; i < sizeof(spaces) / sizeof(spaces[0]); i++)
		if (strncmp(name, spaces[i], strlen(spaces[i])) == 0) return name[strlen(spaces[i])] ? 0 : -EINVAL;
	return -EOPNOTSUPP;
}

/* The node, pinned, its file at the server. */
static int xattr_node(struct job *j, struct live_node **out, struct granary_ref *ref, char *name)
{
	struct live *l = j->live;
	struct live_node *n = *out = node_get(l, j->node);
	int err = 0;

	if (!n) return -ESTALE;
	struct live_file *f = file_of(l, n);
	if (f) {
		pthread_mutex_lock(&f->lock);
		bool fresh = f->fresh;
		pthread_mutex_unlock(&f->lock);
		if (fresh && !xattr_is_own(j->name) && (j->opcode == FUSE_GETXATTR || j->opcode == FUSE_REMOVEXATTR))
			err = -ENODATA;
		else if (fresh)
			err = file_flush(j, f);
		file_close(f);
	}
	*ref = node_ref(l, n, name);
	return err;
}

int live_setxattr(struct job *j)
{
	struct fuse_setxattr_in in = { .size = 0 };
	struct live_node *n;
	struct granary_ref ref;
	char name[LIVE_NAME_MAX + 1];
	size_t before = strlen(j->name) + 1;
	int err = xattr_name_check(j->name);

	memcpy(&in, j->arg, FUSE_COMPAT_SETXATTR_IN_SIZE);
	if (err < 0) return err;
	if (before > j->rest_len || in.size > j->rest_len - before) return -EINVAL;
	err = xattr_node(j, &n, &ref, name);
	struct granary_call call = live_call(j, true);
	if (err == 0)
		err = xattr_errno(granary_xattr_set(
			j->live->client, ref, j->name, j->rest + before, in.size, in.flags, &call));
	if (n) node_changed(j->live, n);
	node_put(j->live, n);
	return err;
}

/* The answer to a question for bytes: how many, or they themselves. */
static int bytes_answer(struct job *j, const void *bytes, size_t len)
{
	struct fuse_getxattr_in in;
	struct fuse_getxattr_out out = { .size = (uint32_t)len };

	memcpy(&in, j->arg, sizeof(in));
	if (in.size == 0) return job_out(j, &out, sizeof(out));
	if (len > in.size) return -ERANGE;
	if (len <= sizeof(j->out)) return job_out(j, bytes, len);
	j->lent = live_buffer_get(j->live);
	if (!j->lent || len > LIVE_BUFFER) return -ENOMEM;
	memcpy(j->lent, bytes, len);
	j->lent_len = len;
	return 0;
}

/* A file that is not at the server yet has none. The kernel asks for one with each file that is written to. */
bool live_getxattr_now(struct job *j)
{
	struct live *l = j->live;
	struct live_node *n = node_get(l, j->node);
	struct live_file *f = n ? file_of(l, n) : NULL;
	bool fresh = false;

	if (f) {
		pthread_mutex_lock(&f->lock);
		fresh = f->fresh;
		pthread_mutex_unlock(&f->lock);
		file_close(f);
	}
	node_put(l, n);
	j->error = xattr_name_check(j->name);
	if (j->error == 0 && fresh && !xattr_is_own(j->name)) j->error = -ENODATA;
	return j->error < 0;
}

int live_getxattr(struct job *j)
{
	struct live_node *n;
	struct granary_ref ref;
	char name[LIVE_NAME_MAX + 1];
	void *value = NULL;
	size_t len = 0;
	int err = xattr_name_check(j->name);

	if (err < 0) return err;
	err = xattr_node(j, &n, &ref, name);
	struct granary_call call = live_call(j, false);
	if (err == 0) err = xattr_errno(granary_xattr_get(j->live->client, ref, j->name, &value, &len, &call));
	if (err == 0) err = bytes_answer(j, value, len);
	granary_free(value);
	node_put(j->live, n);
	return err;
}

int live_listxattr(struct job *j)
{
	struct live_node *n;
	struct granary_ref ref;
	char name[LIVE_NAME_MAX + 1], *names = NULL;
	size_t len = 0;
	int err = xattr_node(j, &n, &ref, name);
	struct granary_call call = live_call(j, false);

	if (err == 0) err = xattr_errno(granary_xattr_list(j->live->client, ref, &names, &len, &call));
	if (err == 0) err = bytes_answer(j, names, len);
	granary_free(names);
	node_put(j->live, n);
	return err;
}

int live_removexattr(struct job *j)
{
	struct live_node *n;
	struct granary_ref ref;
	char name[LIVE_NAME_MAX + 1];
	int err = xattr_name_check(j->name);

	if (err < 0) return err;
	err = xattr_node(j, &n, &ref, name);
	struct granary_call call = live_call(j, true);
	if (err == 0) err = xattr_errno(granary_xattr_remove(j->live->client, ref, j->name, &call));
	if (n) node_changed(j->live, n);
	node_put(j->live, n);
	return err;
}
