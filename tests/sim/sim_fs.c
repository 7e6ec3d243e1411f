/* SPDX-License-Identifier: Apache-2.0 */
/* sim_fs.c -- struct fs on the simulated disk. Calls act at once; EAGAIN and short transfers are resumed, as in the
 * kernel's fs, so they cost an I/O and change nothing. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "sim/sim_world.h"

struct sim_fs {
	struct fs base;
	struct sim *sim;
	struct sim_node *root;
};

static const struct fs_ops sim_ops;

static struct sim_fs *fs_of(struct fs *fs) { return (struct sim_fs *)(void *)fs; }

/* One I/O, with retries that always get through in the end (or fail for good when the fault persists). */
static int begin(struct sim *sim, enum sim_class klass, bool *cut)
{
	int res = SIM_FAIL_AGAIN;
	for (unsigned i = 0; i <= IO_RESUME_MAX && res == SIM_FAIL_AGAIN; i++)
		res = sim_begin(sim, klass, cut);
	if (res == SIM_FAIL_SHORT)
		return 0; /* the rest follows at once */
	return res == SIM_FAIL_AGAIN ? -GRANARY_EIO : res;
}

int fs_new_sim(struct sim *sim, const char *root, struct fs **out)
{
	struct sim_fs *s = sim_alloc(sizeof(*s));
	s->base.ops = &sim_ops;
	s->base.root = strdup(root);
	s->sim = sim;
	s->root = sim_names_get(&sim->top->live_names, root, strlen(root));
	if (!s->root) {
		s->root = sim_node_new(sim, true);
		sim_names_set(&sim->top->live_names, root, strlen(root), s->root);
		sim_names_set(&sim->top->stable_names, root, strlen(root), s->root);
	}
	*out = &s->base;
	return 0;
}

static void sim_fs_free(struct fs *fs)
{
	free(fs->root);
	free(fs);
}

/* ---- walking ---- */

/* The directory that holds the last component of path, and that component. */
static int walk(struct fs *fs, const char *path, struct sim_node **dir, const char **last)
{
	struct sim_node *n = fs_of(fs)->root;
	for (const char *slash; (slash = strchr(path, '/')); path = slash + 1) {
		n = sim_names_get(&n->live_names, path, (size_t)(slash - path));
		if (!n)
			return -GRANARY_ENOTFOUND;
		if (!n->is_dir)
			return -GRANARY_ENOTDIR;
	}
	*dir = n;
	*last = path;
	return 0;
}

static int find(struct fs *fs, const char *path, struct sim_node **out)
{
	struct sim_node *dir;
	const char *last;
	*out = fs_of(fs)->root;
	if (*path == '\0')
		return 0;
	int err = walk(fs, path, &dir, &last);
	if (err < 0)
		return err;
	*out = sim_names_get(&dir->live_names, last, strlen(last));
	return *out ? 0 : -GRANARY_ENOTFOUND;
}

static void change_one(struct sim *sim, struct sim_node *dir, const char *name, struct sim_node *node)
{
	struct sim_change c = { dir, (char *)(uintptr_t)name, node };
	sim_change(sim, &c, 1);
}

/* ---- files ---- */

static int create(struct fs *fs, const char *path, bool is_dir, struct sim_node **out)
{
	struct sim *sim = fs_of(fs)->sim;
	struct sim_node *dir;
	const char *last;
	bool cut;
	int err = begin(sim, SIM_NAMES, &cut);
	if (err < 0 && !cut)
		return err;
	int res = walk(fs, path, &dir, &last);
	if (res < 0)
		return res;
	if (sim_names_get(&dir->live_names, last, strlen(last)))
		return -GRANARY_EEXIST;
	*out = sim_node_new(sim, is_dir);
	change_one(sim, dir, last, *out);
	return err;
}

static int sim_fs_open(struct fs *fs, const char *path, unsigned flags, struct fs_file **out)
{
	struct sim *sim = fs_of(fs)->sim;
	struct sim_node *n = NULL;
	bool cut;
	int err;
	if (flags & FS_CREATE_NEW) {
		err = create(fs, path, false, &n);
	} else {
		err = begin(sim, SIM_READS, &cut);
		if (err == 0)
			err = find(fs, path, &n);
	}
	if (err < 0)
		return err;
	if (n->is_dir)
		return -GRANARY_EISDIR;
	struct sim_file *f = sim_alloc(sizeof(*f));
	f->base = (struct fs_file){ &sim_ops, -1, SIM_SECTOR, (flags & FS_DIRECT) != 0 };
	f->sim = sim;
	f->node = n;
	f->epoch = sim->epoch;
	f->writable = (flags & (FS_WRITE | FS_CREATE_NEW)) != 0;
	n->opens++;
	*out = &f->base;
	return 0;
}

static int sim_fs_lock(struct fs *fs, const char *path, struct fs_file **out)
{
	struct sim_node *n;
	if (find(fs, path, &n) == 0 && n->locked)
		return -GRANARY_ELOCKED;
	int err = sim_fs_open(fs, path, FS_WRITE, out);
	if (err == -GRANARY_ENOTFOUND)
		err = sim_fs_open(fs, path, FS_CREATE_NEW, out);
	if (err < 0)
		return err;
	sim_file_of(*out)->holds_lock = sim_file_of(*out)->node->locked = true;
	return 0;
}

static void sim_fs_close(struct fs_file *file)
{
	struct sim_file *f = sim_file_of(file);
	assert(f->node->opens > 0);
	f->node->opens--;
	if (f->holds_lock && f->epoch == f->sim->epoch)
		f->node->locked = false;
	free(f);
}

static int file_begin(struct sim_file *f, enum sim_class klass, bool *cut)
{
	int err = begin(f->sim, klass, cut);
	*cut = *cut && f->epoch == f->sim->epoch;
	if (err == 0 && sim_file_dead(f))
		err = -GRANARY_EIO;
	return err;
}

static bool misaligned(const struct sim_file *f, const void *buf, size_t len, uint64_t offset)
{
	return f->base.direct && ((offset | len | (uintptr_t)buf) & (SIM_SECTOR - 1)) != 0;
}

static int64_t sim_fs_read(struct fs_file *file, void *buf, size_t len, uint64_t offset)
{
	struct sim_file *f = sim_file_of(file);
	bool cut;
	if (misaligned(f, buf, len, offset))
		return -GRANARY_EINVAL;
	int err = file_begin(f, SIM_READS, &cut);
	return err < 0 ? err : (int64_t)sim_node_read(f->sim, f->node, buf, len, offset);
}

static int sim_fs_write(struct fs_file *file, const void *buf, size_t len, uint64_t offset)
{
	struct sim_file *f = sim_file_of(file);
	bool cut;
	if (misaligned(f, buf, len, offset) || !f->writable)
		return -GRANARY_EINVAL;
	int err = file_begin(f, SIM_WRITES, &cut);
	if (err == 0 && !sim_space_for(f->sim, f->node, offset + len))
		err = -GRANARY_ENOSPACE;
	if (len == 0 || (err < 0 && !cut))
		return err;
	struct sim_record *r = sim_record_write(f->node, buf, offset, len);
	if (!cut)
		sim_record_done(f->node, r);
	return err;
}

static int sim_fs_sync(struct fs_file *file, bool data_only)
{
	struct sim_file *f = sim_file_of(file);
	bool cut;
	(void)data_only; /* an fdatasync flushes the size too, as far as it is needed to read the data */
	int err = file_begin(f, SIM_FLUSHES, &cut);
	if (err == 0)
		sim_node_flush(f->node, f->node->done_seq);
	else if (!cut && !sim_file_dead(f))
		sim_node_flush_failed(f->sim, f->node, f->node->done_seq);
	return err;
}

static int set_size(struct sim_file *f, uint64_t size, bool cut)
{
	struct sim_record *r = sim_record_size(f->node, size);
	if (!cut)
		sim_record_done(f->node, r);
	return 0;
}

static int sim_fs_truncate(struct fs_file *file, uint64_t size)
{
	struct sim_file *f = sim_file_of(file);
	bool cut;
	int err = file_begin(f, SIM_WRITES, &cut);
	if (err == 0 && !sim_space_for(f->sim, f->node, size))
		err = -GRANARY_ENOSPACE;
	if (err == 0 || cut)
		set_size(f, size, cut);
	return err;
}

static int sim_fs_allocate(struct fs_file *file, uint64_t offset, uint64_t len)
{
	struct sim_file *f = sim_file_of(file);
	bool cut;
	int err = file_begin(f, SIM_WRITES, &cut);
	if (err == 0 && !sim_space_for(f->sim, f->node, offset + len))
		err = -GRANARY_ENOSPACE;
	if ((err == 0 || cut) && offset + len > f->node->live_size)
		set_size(f, offset + len, cut);
	return err;
}

static int64_t sim_fs_size(struct fs_file *file)
{
	struct sim_file *f = sim_file_of(file);
	return sim_file_dead(f) ? -GRANARY_EIO : (int64_t)f->node->live_size;
}

static uint64_t sim_fs_identity(struct fs_file *file)
{
	const struct sim_node *n = sim_file_of(file)->node;

	return n->number << 32 | (uint32_t)n->changes;
}

/* ---- names ---- */

static int sim_fs_mkdir(struct fs *fs, const char *path)
{
	struct sim_node *n;
	return create(fs, path, true, &n);
}

static int rename_check(const struct sim_node *n, const struct sim_node *over)
{
	if (!n)
		return -GRANARY_ENOTFOUND;
	if (!over || over == n)
		return 0;
	if (over->is_dir != n->is_dir)
		return over->is_dir ? -GRANARY_EISDIR : -GRANARY_ENOTDIR;
	return over->is_dir && over->live_names.count > 0 ? -GRANARY_ENOTEMPTY : 0;
}

static int sim_fs_rename(struct fs *fs, const char *from, const char *to)
{
	struct sim *sim = fs_of(fs)->sim;
	struct sim_change c[2] = { { NULL, NULL, NULL }, { NULL, NULL, NULL } };
	const char *from_last, *to_last;
	bool cut;
	int err = begin(sim, SIM_NAMES, &cut);
	if (err < 0 && !cut)
		return err;
	int res = walk(fs, from, &c[0].dir, &from_last);
	if (res == 0)
		res = walk(fs, to, &c[1].dir, &to_last);
	if (res < 0)
		return res;
	c[0].name = (char *)(uintptr_t)from_last;
	c[1].name = (char *)(uintptr_t)to_last;
	c[1].node = sim_names_get(&c[0].dir->live_names, from_last, strlen(from_last));
	res = rename_check(c[1].node, sim_names_get(&c[1].dir->live_names, to_last, strlen(to_last)));
	if (res < 0)
		return res;
	if (c[0].dir != c[1].dir || strcmp(from_last, to_last) != 0)
		sim_change(sim, c, 2);
	return err;
}

static int take_name(struct fs *fs, const char *path, bool is_dir)
{
	struct sim *sim = fs_of(fs)->sim;
	struct sim_node *dir;
	const char *last;
	bool cut;
	int err = begin(sim, SIM_NAMES, &cut);
	if (err < 0 && !cut)
		return err;
	int res = walk(fs, path, &dir, &last);
	if (res < 0)
		return res;
	const struct sim_node *n = sim_names_get(&dir->live_names, last, strlen(last));
	if (!n || n->is_dir != is_dir)
		return !n ? -GRANARY_ENOTFOUND : is_dir ? -GRANARY_ENOTDIR : -GRANARY_EISDIR;
	if (is_dir && n->live_names.count > 0)
		return -GRANARY_ENOTEMPTY;
	change_one(sim, dir, last, NULL);
	return err;
}

static int sim_fs_unlink(struct fs *fs, const char *path) { return take_name(fs, path, false); }
static int sim_fs_rmdir(struct fs *fs, const char *path) { return take_name(fs, path, true); }

static int sim_fs_sync_dir(struct fs *fs, const char *path)
{
	struct sim_node *n;
	bool cut;
	int err = begin(fs_of(fs)->sim, SIM_NAMES, &cut);
	if (err == 0)
		err = find(fs, path, &n);
	if (err < 0)
		return err;
	if (!n->is_dir)
		return -GRANARY_ENOTDIR;
	sim_names_sync(fs_of(fs)->sim, n);
	return 0;
}

static int sim_fs_list(struct fs *fs, const char *path, int (*each)(void *arg, const char *name), void *arg)
{
	struct sim_names copy = { 0 }; /* each() may create and unlink */
	struct sim_node *n;
	bool cut;
	int res = begin(fs_of(fs)->sim, SIM_READS, &cut);
	if (res == 0)
		res = find(fs, path, &n);
	if (res < 0)
		return res;
	if (!n->is_dir)
		return -GRANARY_ENOTDIR;
	for (size_t i = 0; i < n->live_names.count; i++)
		sim_names_set(&copy, n->live_names.list[i].name, strlen(n->live_names.list[i].name), n);
	for (size_t i = 0; i < copy.count && res == 0; i++)
		res = each(arg, copy.list[i].name);
	for (size_t i = 0; i < copy.count; i++)
		free(copy.list[i].name);
	free(copy.list);
	return res;
}

static int sim_fs_exists(struct fs *fs, const char *path)
{
	struct sim_node *n;
	if (fs_of(fs)->sim->power_off)
		return -GRANARY_EIO;
	int err = find(fs, path, &n);
	return err == 0 ? 1 : err == -GRANARY_ENOTFOUND || err == -GRANARY_ENOTDIR ? 0 : err;
}

static int sim_fs_space(struct fs *fs, uint64_t *total, uint64_t *available)
{
	struct sim *sim = fs_of(fs)->sim;
	if (sim->power_off)
		return -GRANARY_EIO;
	uint64_t used = sim_space_used(sim);
	*total = sim->options.space_total ? sim->options.space_total : UINT64_C(1) << 40;
	*available = *total > used ? *total - used : 0;
	return 0;
}

static const struct fs_ops sim_ops = {
	.free = sim_fs_free,
	.open = sim_fs_open,
	.lock = sim_fs_lock,
	.close = sim_fs_close,
	.read = sim_fs_read,
	.write = sim_fs_write,
	.sync = sim_fs_sync,
	.allocate = sim_fs_allocate,
	.truncate = sim_fs_truncate,
	.size = sim_fs_size,
	.identity = sim_fs_identity,
	.mkdir = sim_fs_mkdir,
	.rename = sim_fs_rename,
	.unlink = sim_fs_unlink,
	.rmdir = sim_fs_rmdir,
	.sync_dir = sim_fs_sync_dir,
	.list = sim_fs_list,
	.exists = sim_fs_exists,
	.space = sim_fs_space,
};
