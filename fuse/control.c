/* SPDX-License-Identifier: Apache-2.0 */
/* control.c -- .granary: stats, metrics, config, accesslog, health. */
#include "fuse/control.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "fuse/watch.h"

/* Numbers of nodes: the directory; a text is CONTROL_MARK and how many there were before it. */
#define CONTROL_MARK (UINT64_C(15) << 60)
#define CONTROL_DIR  (CONTROL_MARK | UINT64_C(1) << 56)
#define FOR_EVER     (UINT64_C(1) << 40)
static const char dir_name[] = ".granary";

typedef void text_fn(struct control *c, FILE *to);
struct text {
	uint64_t number;
	char *bytes;
	size_t size;
	time_t made;
};
struct control {
	struct mount *mount;
	struct granary_client *client;
	char source[512];
	pthread_mutex_t lock;
	struct text texts[CONTROL_TEXTS]; /* lock */
	uint64_t next;                    /* lock */
};

/* ---- texts ---- */

static void line(FILE *to, const char *name, uint64_t value)
{
	fprintf(to, "%s %llu\n", name, (unsigned long long)value);
}

static void bins(FILE *to, const char *name, const uint64_t *values)
{
	for (int i = 0; i < WATCH_BINS; i++)
		if (values[i] > 0)
			fprintf(to, "%s_%d %llu\n", name, i, (unsigned long long)values[i]);
}

static void stats_of_ops(FILE *to, const struct watch_numbers *n)
{
	for (uint32_t op = 0; op < WATCH_OPS; op++) {
		const struct watch_op *o = &n->ops[op];
		const char *name = request_name(op);
		if (o->count == 0) continue;
		fprintf(to, "op.%s.count %llu\nop.%s.errors %llu\nop.%s.bytes %llu\n", name,
			(unsigned long long)o->count, name, (unsigned long long)o->errors, name,
			(unsigned long long)o->bytes);
		fprintf(to, "op.%s.us %llu\nop.%s.us_max %llu\n", name, (unsigned long long)(o->ns / 1000), name,
			(unsigned long long)(o->ns_max / 1000));
	}
}

static void stats_of_library(struct control *c, FILE *to)
{
	struct granary_info i = GRANARY_INIT(granary_info);

	if (!c->client || granary_client_info(c->client, &i) < 0) return;
	line(to, "server_requests", i.requests);
	line(to, "server_retries", i.retries);
	line(to, "server_reconnects", i.reconnects);
	line(to, "server_bytes_received", i.bytes_received);
	line(to, "server_bytes_sent", i.bytes_sent);
	line(to, "checksum_errors", i.crc_errors);
	line(to, "flash_hits", i.cache_hits);
	line(to, "flash_misses", i.cache_misses);
	line(to, "flash_hit_bytes", i.cache_hit_bytes);
	line(to, "flash_size", i.cache_size);
	line(to, "flash_filled", i.cache_filled);
}

void control_stats(struct control *c, FILE *to)
{
	struct watch_numbers n;
	struct mount *m = c->mount;

	watch_numbers(m->watch, &n);
	line(to, "uptime_s", n.seconds);
	line(to, "requests", n.ended);
	line(to, "in_flight",
		n.begun > n.ended ? n.begun - n.ended - 1 : 0); /* less the one that asks */
	stats_of_ops(to, &n);
	line(to, "lookups_absent", n.absent);
	line(to, "reads_waited", n.waited);
	line(to, "reads_waited_us", n.waited_ns / 1000);
	bins(to, "read_size_log2", n.sizes);
	bins(to, "read_wait_us_log2", n.waits);
	if (m->cache) {
		struct cache_numbers k;
		cache_numbers(m->cache, &k);
		line(to, "memory_budget", k.budget);
		line(to, "memory_used", k.used);
		line(to, "memory_hits", k.hits);
		line(to, "memory_misses", k.misses);
		line(to, "memory_evicted", k.evicted);
	}
	stats_of_library(c, to);
}

/* The same for Prometheus: every counter is a gauge of what the program knows, with one prefix. */
static void text_metrics(struct control *c, FILE *to)
{
	char *stats = NULL, *next = NULL;
	size_t size = 0;
	FILE *f = open_memstream(&stats, &size);

	if (!f) return;
	control_stats(c, f);
	fclose(f);
	for (char *at = strtok_r(stats, "\n", &next); at; at = strtok_r(NULL, "\n", &next)) {
		char op[32], what[16];
		unsigned long long value;
		if (sscanf(at, "op.%31[^.].%15[a-z_] %llu", op, what, &value) == 3)
			fprintf(to, "granary_mount_op_%s{op=\"%s\"} %llu\n", what, op, value);
		else if (!strstr(at, "_log2_"))
			fprintf(to, "granary_mount_%s\n", at);
	}
	free(stats);
}

static void text_config(struct control *c, FILE *to)
{
	const struct mount *m = c->mount;
	const struct options *o = m->options;

	fprintf(to, "source %s\ntarget %s\nversion %s\n", c->source, o->target,
		granary_version_string());
	fprintf(to, "transport %s\nio %s\n", m->use_rings ? "uring" : "classic",
		m->direct ? "direct" : "cached");
	fprintf(to, "memory %llu\ndeadline_ms %u\nconnections %u\nthreads %u\nallow_other %d\n",
		(unsigned long long)o->memory, o->deadline_ms, o->connections, o->threads,
		o->allow_other);
	fprintf(to, "uid %u\ngid %u\numask %03o\n", o->uid, o->gid, o->umask);
	if (o->cache)
		fprintf(to, "cache %s\nsize %llu\n", o->cache, (unsigned long long)o->cache_size);
	if (m->tree.snapshot)
		fprintf(to, "samples %llu\nnames %llu\nbytes %llu\n",
			(unsigned long long)m->tree.samples, (unsigned long long)m->tree.names,
			(unsigned long long)m->tree.bytes);
}

static void text_accesslog(struct control *c, FILE *to)
{
	watch_lines(c->mount->watch, to);
}

/* Says at once what it knows; asks the server nothing. */
static void text_health(struct control *c, FILE *to)
{
	struct watch_numbers n;
	const struct watch_op *read;

	watch_numbers(c->mount->watch, &n);
	read = &n.ops[FUSE_READ];
	fprintf(to, "%s\n", read->errors == 0 ? "ok" : "reads failed");
	fprintf(to, "read_errors %llu\nin_flight %llu\n", (unsigned long long)read->errors,
		(unsigned long long)(n.begun > n.ended ? n.begun - n.ended - 1 : 0));
}

static const struct file {
	const char *name;
	text_fn *write;
} files[] = {
	{ "stats", control_stats },
	{ "metrics", text_metrics },
	{ "config", text_config },
	{ "accesslog", text_accesslog },
	{ "health", text_health },
};
enum { FILES = sizeof(files) / sizeof(files[0]) };

struct control *control_new(struct mount *m, struct granary_client *client, const char *source)
{
	struct control *c = calloc(1, sizeof(*c));

	if (!c) return NULL;
	c->mount = m;
	c->client = client;
	snprintf(c->source, sizeof(c->source), "%s", source);
	pthread_mutex_init(&c->lock, NULL);
	return c;
}

void control_free(struct control *c)
{
	if (!c) return;
	for (int i = 0; i < CONTROL_TEXTS; i++) free(c->texts[i].bytes);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

/* ---- requests ---- */

static int answer(struct request *r, const void *bytes, size_t len)
{
	if (len > r->out_cap) return -EIO;
	memcpy(r->out, bytes, len);
	r->out_len = len;
	return 0;
}

static struct fuse_attr attr_of(const struct mount *m, uint64_t node, uint64_t size, time_t made)
{
	uint64_t seconds = (uint64_t)made;

	return (struct fuse_attr){ .ino = node,
		.size = size,
		.atime = seconds,
		.mtime = seconds,
		.ctime = seconds,
		.mode = node == CONTROL_DIR ? S_IFDIR | 0500 : S_IFREG | 0400,
		.nlink = 1,
		.uid = options_uid(m->options),
		.gid = options_gid(m->options),
		.blksize = KERNEL_PAGE };
}

/* A number of its own for what is written now; nobody may keep the name, since the next one who looks gets another. */
static int entry_answer(
	struct control *c, struct request *r, uint64_t node, uint64_t size, time_t made)
{
	struct fuse_entry_out e = {
		.nodeid = node, .attr_valid = FOR_EVER, .attr = attr_of(c->mount, node, size, made)
	};

	if (node == CONTROL_DIR) e.entry_valid = FOR_EVER;
	return answer(r, &e, sizeof(e));
}

static int file_look_up(struct control *c, struct request *r, const struct file *f)
{
	struct text t = { .made = time(NULL) };
	FILE *to = open_memstream(&t.bytes, &t.size);

	if (!to) return -ENOMEM;
	f->write(c, to);
	if (fclose(to) != 0) return -ENOMEM;
	pthread_mutex_lock(&c->lock);
	struct text *slot = &c->texts[c->next % CONTROL_TEXTS];
	t.number = CONTROL_MARK | c->next++;
	free(slot->bytes);
	*slot = t;
	pthread_mutex_unlock(&c->lock);
	return entry_answer(c, r, t.number, t.size, t.made);
}

static int do_lookup(struct control *c, struct request *r)
{
	for (int i = 0; i < FILES; i++)
		if (strlen(files[i].name) == r->name_len &&
			memcmp(files[i].name, r->name, r->name_len) == 0)
			return file_look_up(c, r, &files[i]);
	return -ENOENT;
}

/* Attributes or bytes of a text. */
static int do_text(struct control *c, struct request *r)
{
	struct fuse_attr_out out = { .attr_valid = FOR_EVER };
	int err = -ESTALE;

	if (r->node == CONTROL_DIR) {
		out.attr = attr_of(c->mount, r->node, 0, 0);
		return r->opcode == FUSE_GETATTR ? answer(r, &out, sizeof(out)) : -EISDIR;
	}
	pthread_mutex_lock(&c->lock);
	const struct text *t = &c->texts[(r->node & ~CONTROL_MARK) % CONTROL_TEXTS];
	if (t->number == r->node && t->bytes && r->opcode == FUSE_GETATTR) {
		out.attr = attr_of(c->mount, r->node, t->size, t->made);
		err = answer(r, &out, sizeof(out));
	} else if (t->number == r->node && t->bytes) {
		const struct fuse_read_in *in = r->arg;
		uint64_t left = in->offset < t->size ? t->size - in->offset : 0;
		uint64_t take = in->size < left ? in->size : left;
		err = answer(r, t->bytes + (left > 0 ? in->offset : 0),
			take < r->out_cap ? take : r->out_cap);
	}
	pthread_mutex_unlock(&c->lock);
	return err;
}

static int do_readdir(struct request *r)
{
	const struct fuse_read_in *in = r->arg;
	size_t room = in->size < r->out_cap ? in->size : r->out_cap;
	bool plus = r->opcode == FUSE_READDIRPLUS;

	for (uint64_t i = in->offset; i < FILES; i++) {
		size_t len = strlen(files[i].name),
		       head = plus ? FUSE_NAME_OFFSET_DIRENTPLUS : FUSE_NAME_OFFSET;
		size_t size = FUSE_DIRENT_ALIGN(head + len);
		struct fuse_dirent e = { .ino = CONTROL_MARK | i,
			.off = i + 1,
			.namelen = (uint32_t)len,
			.type = S_IFREG >> 12 };
		uint8_t *at = r->out + r->out_len;
		if (r->out_len + size > room) break;
		memset(at, 0, size); /* of plus: no node, it is looked up when it is wanted */
		at += head - FUSE_NAME_OFFSET;
		memcpy(at, &e, FUSE_NAME_OFFSET);
		memcpy(at + FUSE_NAME_OFFSET, files[i].name, len);
		r->out_len += size;
	}
	return 0;
}

/* As the mount itself does: what answers no OPEN must not begin to here, and the other way round. */
static int do_open(const struct mount *m, struct request *r)
{
	struct fuse_open_out out = { .open_flags = FOPEN_KEEP_CACHE | FOPEN_NOFLUSH };
	bool by_request = !m->tree.snapshot || (m->direct && r->opcode == FUSE_OPEN);

	return by_request ? answer(r, &out, sizeof(out)) : -ENOSYS;
}

bool control_handle(struct control *c, struct request *r)
{
	bool here = (r->node & CONTROL_MARK) == CONTROL_MARK;
	bool root = r->node == TREE_ROOT && r->opcode == FUSE_LOOKUP &&
		    r->name_len == sizeof(dir_name) - 1 &&
		    memcmp(r->name, dir_name, sizeof(dir_name) - 1) == 0;

	if ((!here && !root) || !c) return false;
	switch (r->opcode) {
	case FUSE_LOOKUP:
		r->error = root ? entry_answer(c, r, CONTROL_DIR, 0, 0) : do_lookup(c, r);
		break;
	case FUSE_GETATTR:
	case FUSE_READ: r->error = do_text(c, r); break;
	case FUSE_READDIR:
	case FUSE_READDIRPLUS: r->error = do_readdir(r); break;
	case FUSE_OPEN:
	case FUSE_OPENDIR: r->error = do_open(c->mount, r); break;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_RELEASE:
	case FUSE_RELEASEDIR:
	case FUSE_FLUSH:
	case FUSE_STATFS: return r->opcode == FUSE_STATFS ? false : (r->error = 0, true);
	case FUSE_GETXATTR:
	case FUSE_LISTXATTR: r->error = -EOPNOTSUPP; break;
	case FUSE_ACCESS: r->error = -ENOSYS; break;
	default: r->error = -EPERM; break;
	}
	return true;
}
