/* SPDX-License-Identifier: Apache-2.0 */
/* live_names.c -- calls that make, move and remove names. Each is one change at the server, visible to all when it is
 * answered and durable within a second; the node's place is then what it says. */
#include "fuse/live.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

/* ---- files that are not at the server yet ---- */

static int settle_file(struct job *j, struct live_file *f)
{
	struct live_handle h = { .file = f, .errors_seen = f->error_count };
	int err = file_flush(j, f);

	return err < 0 ? err : handle_error(&h);
}

int live_settle_name(struct job *j, uint64_t dir, const char *name)
{
	struct live *l = j->live;
	struct live_node *n = node_named(l, dir, name);
	int err = 0;

	if (!n) return 0;
	pthread_mutex_lock(&l->lock);
	struct live_file *f = n->file && n->file->at_fresh ? n->file : NULL;
	if (f) f->refs++;
	pthread_mutex_unlock(&l->lock);
	if (f) {
		err = settle_file(j, f);
		file_close(f);
	}
	node_put(l, n);
	return err;
}

int live_settle_dir(struct job *j, uint64_t dir)
{
	enum { AT_ONCE = 256 };
	struct live *l = j->live;
	struct live_file *files[AT_ONCE];
	uint32_t count = 0;
	int err = 0;

	pthread_mutex_lock(&l->lock);
	for (struct live_file *f = l->fresh; f && count < AT_ONCE; f = f->next_fresh)
		if ((dir == 0 || f->node->parent == dir) && !f->node->unlinked) {
			f->refs++;
			files[count++] = f;
		}
	pthread_mutex_unlock(&l->lock);
	for (uint32_t i = 0; i < count; i++) file_send(files[i]);
	for (uint32_t i = 0; i < count; i++) {
		int one = file_flush(j, files[i]);
		err = err < 0 ? err : one;
		file_close(files[i]);
	}
	return err;
}

/* ---- owners ---- */

/* A directory with the set-group-id bit gives its group to what is made in it. */
void live_owner(struct job *j, uint32_t *uid, uint32_t *gid, bool *inherits)
{
	struct live *l = j->live;
	struct live_node *dir = node_get(l, j->node);

	*uid = j->uid;
	*gid = j->gid;
	*inherits = false;
	if (!dir) return;
	pthread_mutex_lock(&l->lock);
	*inherits = (dir->stat.mode & S_ISGID) != 0;
	if (*inherits) *gid = dir->stat.gid;
	pthread_mutex_unlock(&l->lock);
	node_put(l, dir);
}

static int owner_set(struct job *j, struct granary_ref ref, uint32_t uid, uint32_t gid)
{
	struct granary_setattr set = GRANARY_INIT(granary_setattr);
	struct granary_call call = live_call(j, true);

	if (uid == 0 && gid == 0) return 0;
	set.set = GRANARY_SET_UID | GRANARY_SET_GID;
	set.uid = uid;
	set.gid = gid;
	return live_errno(granary_setattr(j->live->client, ref, &set, &call));
}

/* What was made, looked up. */
static int made_answer(struct job *j, int err)
{
	struct live_node *n = NULL;

	if (err == 0) node_dir_changed(j->live, node_object(j->live, j->node), false);
	if (err == 0) err = live_look(j, node_object(j->live, j->node), j->name, 1, &n);
	if (err == 0) err = live_entry(j, n);
	node_put(j->live, n);
	return err;
}

/* ---- making ---- */

int live_mkdir(struct job *j)
{
	struct fuse_mkdir_in in;
	uint64_t dir = node_object(j->live, j->node), id;
	struct granary_call call = live_call(j, true);
	uint32_t uid, gid;
	bool inherits;

	memcpy(&in, j->arg, sizeof(in));
	live_owner(j, &uid, &gid, &inherits);
	uint32_t mode = (in.mode & 07777) | (inherits ? S_ISGID : 0);
	int err = live_errno(granary_mkdir(j->live->client, granary_ref_name(dir, j->name), mode, 0, &id, &call));
	if (err == 0) err = owner_set(j, granary_ref_id(id, dir, j->name), uid, gid);
	return made_answer(j, err);
}

int live_mknod(struct job *j)
{
	struct fuse_mknod_in in;
	uint64_t dir = node_object(j->live, j->node);
	struct granary_call call = live_call(j, true);
	uint32_t uid, gid;
	bool inherits;

	memcpy(&in, j->arg, sizeof(in));
	live_owner(j, &uid, &gid, &inherits);
	bool is_device = S_ISCHR(in.mode) || S_ISBLK(in.mode);
	uint32_t major = (in.rdev >> 8) & 0xfff, minor = (in.rdev & 0xff) | ((in.rdev >> 12) & 0xfff00);
	int err = live_errno(granary_mknod(j->live->client, granary_ref_name(dir, j->name), in.mode,
		is_device ? makedev(major, minor) : 0, uid, gid, NULL, &call));
	return made_answer(j, err);
}

int live_symlink(struct job *j)
{
	uint64_t dir = node_object(j->live, j->node), id = 0;
	struct granary_call call = live_call(j, true);
	size_t before = strlen(j->name) + 1;
	uint32_t uid, gid;
	bool inherits;

	if (before >= j->rest_len || !memchr(j->rest + before, '\0', j->rest_len - before)) return -EINVAL;
	live_owner(j, &uid, &gid, &inherits);
	int err = live_errno(granary_symlink(
		j->live->client, (const char *)j->rest + before, granary_ref_name(dir, j->name), &id, &call));
	if (err == 0) err = owner_set(j, granary_ref_id(id, dir, j->name), uid, gid);
	return made_answer(j, err);
}

int live_readlink(struct job *j)
{
	struct live_node *n = node_get(j->live, j->node);
	struct granary_call call = live_call(j, false);
	char name[LIVE_NAME_MAX + 1], *target = NULL;

	if (!n) return -ESTALE;
	int err = live_errno(granary_readlink(j->live->client, node_ref(j->live, n, name), &target, &call));
	if (err == 0 && strlen(target) > sizeof(j->out)) {
		j->lent = live_buffer_get(j->live);
		err = j->lent ? 0 : -ENOMEM;
		j->lent_len = strlen(target);
		if (err == 0) memcpy(j->lent, target, j->lent_len);
	} else if (err == 0) {
		err = job_out(j, target, strlen(target));
	}
	granary_free(target);
	node_put(j->live, n);
	return err;
}

int live_link(struct job *j)
{
	struct live *l = j->live;
	struct fuse_link_in in;
	uint64_t dir = node_object(l, j->node);
	char name[LIVE_NAME_MAX + 1];

	memcpy(&in, j->arg, sizeof(in));
	struct live_node *n = node_get(l, in.oldnodeid);
	if (!n) return -ESTALE;
	pthread_mutex_lock(&l->lock);
	struct live_file *f = n->file;
	if (f) f->refs++;
	bool gone = n->unlinked;
	pthread_mutex_unlock(&l->lock);
	int err = gone ? -ENOENT : f ? settle_file(j, f) : 0;
	if (f) file_close(f);
	struct granary_call call = live_call(j, true);
	if (err == 0)
		err = live_errno(granary_link(
			l->client, node_ref(l, n, name), granary_ref_name(dir, j->name), NULL, &call));
	node_put(l, n);
	return made_answer(j, err);
}

/* ---- removing and moving ---- */

/* What is open here under this name goes to the server and is kept there when the name goes. */
static int name_leaves(struct job *j, uint64_t dir, const char *name)
{
	struct live *l = j->live;
	struct live_node *n = node_named(l, dir, name);
	int err = 0;

	if (!n) return 0;
	pthread_mutex_lock(&l->lock);
	struct live_file *f = n->file;
	if (f) f->refs++;
	pthread_mutex_unlock(&l->lock);
	if (f) {
		err = settle_file(j, f);
		if (err == 0) err = live_keep(j, f);
		file_close(f);
	}
	node_put(l, n);
	return err == -ESTALE || err == -ENOENT ? 0 : err; /* gone already */
}

int live_unlink(struct job *j)
{
	struct live *l = j->live;
	uint64_t dir = node_object(l, j->node);
	struct granary_delete gone = { .ref = granary_ref_name(dir, j->name) };
	int err = name_leaves(j, dir, j->name);
	struct granary_call call = live_call(j, true);

	if (err < 0) return err;
	int64_t done = granary_delete_batch(l->client, &gone, 1, &call);
	err = live_errno(done < 0 ? (int)done : gone.status);
	if (err < 0) return err;
	node_dir_changed(l, dir, false);
	struct live_node *n = node_named(l, dir, j->name);
	node_lost_name(l, n);
	node_put(l, n);
	return 0;
}

int live_rmdir(struct job *j)
{
	struct live *l = j->live;
	uint64_t dir = node_object(l, j->node);
	int err = live_settle_dir(j, 0);
	struct granary_call call = live_call(j, true);

	if (err < 0) return err;
	err = granary_rmdir(l->client, granary_ref_name(dir, j->name), &call);
	struct live_node *n = node_named(l, dir, j->name);
	/* One that was never made by mkdir goes with its last name: then it was there a moment ago. */
	if (err == -GRANARY_ENOTFOUND && n && n->stat.kind == GRANARY_DIR) err = 0;
	if (err == 0 && n) node_lost_name(l, n);
	if (err == 0) node_dir_changed(l, dir, false);
	node_put(l, n);
	return live_errno(err);
}

/* One has the other's place now, whichever of them is known. */
static void places_exchanged(struct live *l, uint64_t from, const char *name, uint64_t to, const char *name2)
{
	struct live_node *a = node_named(l, from, name), *b = node_named(l, to, name2);

	if (a != b) {
		if (a) node_place(l, a, to, name2);
		if (b) node_place(l, b, from, name);
	}
	node_put(l, a);
	node_put(l, b);
}

static void place_moved(struct live *l, uint64_t from, const char *name, uint64_t to, const char *name2)
{
	struct live_node *moved = node_named(l, from, name), *replaced = node_named(l, to, name2);

	if (!replaced || replaced != moved) node_lost_name(l, replaced);
	if (moved) node_place(l, moved, to, name2);
	node_put(l, moved);
	node_put(l, replaced);
}

int live_rename(struct job *j)
{
	struct live *l = j->live;
	struct fuse_rename2_in in = { .newdir = 0 };

	memcpy(&in, j->arg, request_arg_size(j->opcode));
	if (j->opcode == FUSE_RENAME) in.flags = 0;
	if (in.flags & ~(uint32_t)(RENAME_NOREPLACE | RENAME_EXCHANGE)) return -EINVAL;
	bool exchange = (in.flags & RENAME_EXCHANGE) != 0;
	uint64_t from = node_object(l, j->node), to = node_object(l, in.newdir);
	int err = live_settle_name(j, from, j->name);
	if (err == 0) err = exchange ? live_settle_name(j, to, j->name2) : name_leaves(j, to, j->name2);
	struct granary_call call = live_call(j, true);
	uint32_t flags = exchange ? GRANARY_RENAME_EXCHANGE
				  : in.flags & RENAME_NOREPLACE ? GRANARY_RENAME_NO_REPLACE : 0;
	if (err == 0)
		err = live_errno(granary_rename(
			l->client, granary_ref_name(from, j->name), granary_ref_name(to, j->name2), flags, &call));
	if (err < 0 || (from == to && strcmp(j->name, j->name2) == 0)) return err;
	node_dir_changed(l, from, false);
	node_dir_changed(l, to, false);
	(exchange ? places_exchanged : place_moved)(l, from, j->name, to, j->name2);
	return 0;
}
