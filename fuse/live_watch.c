/* SPDX-License-Identifier: Apache-2.0 */
/* live_watch.c -- what others change in the bucket: the server tells, so that names and attributes are kept for long.
 *
 * (1) what is known of a node is trusted when it was asked for in this epoch, and nothing was told or done between the
 *     question and the answer; what is told of it, and what is done to it here, ends that. The kernel may keep what is
 *     trusted for an hour, other things for the preset's time.
 * (2) an epoch begins with a cursor of the server's and ends when the server does not know it any more or does not
 *     answer for BEAT_MAX_MS: then nothing is trusted, and the kernel drops what it was told to keep.
 * (3) the kernel is told in this thread alone: it may wait there for a request that another one has to answer.
 * (4) of a file that is told of the server is asked first, and the kernel hears of it only where it was told something
 *     else: what it is told makes it drop the answer to a question that it just asked, and read a file that another
 *     mount closed before by its old length. */
#include "fuse/live.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BEAT_MS = 1000, BEAT_MAX_MS = 3000, AGAIN_MS = 1000, DROP_AT_ONCE = 256, FILES_AT_ONCE = 64 };

uint64_t live_asks(struct live *l)
{
	pthread_mutex_lock(&l->lock);
	uint64_t changes = l->changes;
	pthread_mutex_unlock(&l->lock);
	return changes;
}

void live_doubt_all(struct live *l)
{
	if (l->epoch != 0) l->epoch = ++l->epochs;
}

/* ---- all of it ---- */

static void epoch_begin(struct live *l)
{
	pthread_mutex_lock(&l->lock);
	l->epoch = ++l->epochs;
	l->changes++;
	pthread_mutex_unlock(&l->lock);
}

static bool epoch_is_over(struct live *l)
{
	pthread_mutex_lock(&l->lock);
	bool over = l->epoch == 0;
	pthread_mutex_unlock(&l->lock);
	return over;
}

struct known { uint64_t number, parent; char name[LIVE_NAME_MAX + 1]; };

/* Lock held. Of one slot after the other: what the kernel may have been told to keep. */
static uint32_t known_collect(struct live *l, uint32_t *slot, struct known *out)
{
	uint32_t count = 0;

	for (; *slot < LIVE_NODE_SLOTS && count < DROP_AT_ONCE / 2; (*slot)++)
		for (const struct live_node *n = l->nodes[*slot]; n; n = n->next) {
			if (count == DROP_AT_ONCE) return count; /* the slot once more: told twice does no harm */
			if (n->lookups == 0) continue;
			struct known *k = &out[count++];
			k->number = n->number;
			k->parent = node_number(l, n->parent);
			memcpy(k->name, n->name ? n->name : "", n->name ? strlen(n->name) + 1 : 1);
		}
	return count;
}

static void epoch_end(struct live *l)
{
	struct known *list = calloc(DROP_AT_ONCE, sizeof(*list));
	uint32_t slot = 0;

	pthread_mutex_lock(&l->lock);
	uint64_t epoch = l->epoch;
	l->epoch = 0;
	l->changes++;
	pthread_mutex_unlock(&l->lock);
	while (epoch != 0 && list && slot < LIVE_NODE_SLOTS && !l->stop) {
		pthread_mutex_lock(&l->lock);
		uint32_t count = known_collect(l, &slot, list);
		pthread_mutex_unlock(&l->lock);
		for (uint32_t i = 0; i < count; i++) {
			live_notify_attributes(l, list[i].number);
			if (list[i].name[0]) live_notify_name(l, list[i].parent, list[i].name);
		}
	}
	free(list);
}

/* ---- files that were told of ---- */

struct files {
	uint64_t numbers[FILES_AT_ONCE];
	uint32_t count;
	struct live_node *nodes[FILES_AT_ONCE];
	char names[FILES_AT_ONCE][LIVE_NAME_MAX + 1];
	struct granary_ref refs[FILES_AT_ONCE];
	struct granary_stat stats[FILES_AT_ONCE];
	struct granary_inode inodes[FILES_AT_ONCE];
};

/* Lock held. */
static bool is_the_same(const struct live_node *n, const struct granary_stat *st, const struct granary_inode *in)
{
	return n->stat.version == st->version && n->stat.size == st->size && n->stat.mtime_ns == st->mtime_ns &&
	       n->stat.mode == st->mode && n->stat.uid == st->uid && n->stat.gid == st->gid &&
	       n->inode.nlink == in->nlink && n->inode.ctime_ns == in->ctime_ns && n->inode.atime_ns == in->atime_ns &&
	       n->inode.holes == in->holes;
}

static void file_take(struct live *l, struct live_node *n, const struct granary_stat *st,
	const struct granary_inode *in, uint64_t asked)
{
	pthread_mutex_lock(&l->lock);
	bool same = is_the_same(n, st, in);
	if (asked == l->changes) { /* else it may be older than what was done here since */
		n->stat = *st;
		n->inode = *in;
		node_trust(l, n, asked, false);
	}
	pthread_mutex_unlock(&l->lock);
	if (!same) live_notify_attributes(l, n->number);
}

/* Invariant (4). */
static void files_ask(struct live *l, struct files *files)
{
	uint64_t asked = live_asks(l);
	uint32_t count = 0;

	for (uint32_t i = 0; i < files->count; i++) {
		struct live_node *n = node_get(l, files->numbers[i]);
		if (!n) continue;
		files->nodes[count] = n;
		files->refs[count] = node_ref(l, n, files->names[count]);
		count++;
	}
	int64_t got = count == 0 ? 0
				 : granary_stat_full(l->client, files->refs, count, 0, files->stats, files->inodes,
					   GRANARY_CALL(.bucket = l->bucket, .timeout_ms = BEAT_MAX_MS));
	for (uint32_t i = 0; i < count; i++) {
		if (got < 0 || files->stats[i].status < 0)
			live_notify_attributes(l, files->nodes[i]->number);
		else
			file_take(l, files->nodes[i], &files->stats[i], &files->inodes[i], asked);
		node_put(l, files->nodes[i]);
	}
	files->count = 0;
}

static void file_add(struct live *l, struct files *files, uint64_t number)
{
	for (uint32_t i = 0; i < files->count; i++)
		if (files->numbers[i] == number) return;
	files->numbers[files->count++] = number;
	if (files->count == FILES_AT_ONCE) files_ask(l, files);
}

/* ---- one change ---- */

/* A node is not what is known of it. Lock held. 0: the kernel has none of it. */
static uint64_t node_doubt(struct live_node *n)
{
	if (!n) return 0;
	n->attr_epoch = n->own_epoch = 0;
	return n->lookups > 0 ? n->number : 0;
}

/* Of a directory that is gone everything below is, wherever that is known. */
static void place_doubt(struct live *l, struct live_node *n, bool gone)
{
	n->place_epoch = 0;
	if (gone && n->stat.kind == GRANARY_DIR) live_doubt_all(l);
}

static void change_take(struct live *l, const struct granary_changed *c, struct files *files)
{
	uint64_t dir = 0, inode = 0, other = 0, parent = node_number(l, c->dir_id);
	bool named = c->kind != GRANARY_CHANGED_INODE && strlen(c->name) <= LIVE_NAME_MAX;

	pthread_mutex_lock(&l->lock);
	struct live_node *there = named ? node_at(l, c->dir_id, c->name) : NULL;
	bool same = there && c->kind == GRANARY_CHANGED_ENTRY && node_object(l, there->number) == c->object_id;
	if (named) dir = node_doubt(node_find(l, parent, false));
	if (there) inode = node_doubt(there);
	if (there && !same) place_doubt(l, there, c->kind == GRANARY_CHANGED_GONE);
	if (c->kind != GRANARY_CHANGED_GONE) other = node_doubt(node_find(l, node_number(l, c->object_id), false));
	pthread_mutex_unlock(&l->lock);
	if (dir != 0) live_notify_attributes(l, dir);
	if (inode != 0) file_add(l, files, inode);
	if (other != 0) file_add(l, files, other);
	if (dir != 0 && !same) live_notify_name(l, parent, c->name);
}

static void page_take(struct live *l, const struct granary_changes *page)
{
	struct files *files = page->count > 0 ? calloc(1, sizeof(*files)) : NULL;

	pthread_mutex_lock(&l->lock);
	if (page->count > 0) l->changes++;
	if (page->count > 0 && !files) live_doubt_all(l);
	pthread_mutex_unlock(&l->lock);
	for (uint32_t i = 0; files && i < page->count && !l->stop; i++) change_take(l, &page->changes[i], files);
	if (files) files_ask(l, files);
	free(files);
}

/* ---- asking ---- */

static bool stopped(struct live *l)
{
	pthread_mutex_lock(&l->lock);
	bool stop = l->stop;
	pthread_mutex_unlock(&l->lock);
	return stop;
}

/* 0 and a page; else why not. Meanwhile the server is asked whether it is there. */
static int page_wait(struct live *l, uint64_t cursor, struct granary_changes **page)
{
	struct granary_call call = { .size = sizeof(call), .bucket = l->bucket, .timeout_ms = GRANARY_FOREVER };
	struct granary_op *op = NULL;
	int err = granary_watch_start(l->client, cursor, page, &call, &op);

	if (err < 0) return err;
	pthread_mutex_lock(&l->lock);
	l->watching = op;
	if (l->stop) granary_op_cancel(op);
	pthread_mutex_unlock(&l->lock);
	while ((err = (int)granary_wait(op, BEAT_MS)) == -GRANARY_EAGAIN) {
		if (granary_ping(l->client, GRANARY_CALL(.timeout_ms = BEAT_MAX_MS)) < 0)
			epoch_end(l);
		else if (cursor != 0 && epoch_is_over(l))
			epoch_begin(l); /* nothing was missed: it goes on behind the cursor */
	}
	pthread_mutex_lock(&l->lock);
	l->watching = NULL;
	pthread_mutex_unlock(&l->lock);
	granary_op_free(&op);
	return err;
}

static void wait_again(struct live *l)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += AGAIN_MS / 1000;
	pthread_mutex_lock(&l->lock);
	while (!l->stop && pthread_cond_timedwait(&l->watch_wake, &l->lock, &until) == 0) continue;
	pthread_mutex_unlock(&l->lock);
}

static void *watch(void *arg)
{
	struct live *l = arg;
	uint64_t cursor = 0;

	while (!stopped(l)) {
		struct granary_changes *page = NULL;
		int err = page_wait(l, cursor, &page);
		if (err == 0 && (cursor == 0 || page->all || epoch_is_over(l))) {
			epoch_end(l); /* what was told before is not all */
			epoch_begin(l);
		} else if (err == 0) {
			page_take(l, page);
		} else {
			epoch_end(l);
			wait_again(l);
		}
		cursor = err == 0 ? page->cursor : 0;
		granary_free(page);
	}
	return NULL;
}

void live_watch_start(struct live *l)
{
	if (l->options->preset == PRESET_FROZEN) return; /* nothing is to be seen of it */
	l->watches = pthread_create(&l->watcher, NULL, watch, l) == 0;
}

void live_watch_stop(struct live *l)
{
	if (!l->watches) return;
	pthread_mutex_lock(&l->lock);
	l->stop = true;
	pthread_cond_signal(&l->watch_wake);
	if (l->watching) granary_op_cancel(l->watching);
	pthread_mutex_unlock(&l->lock);
	pthread_join(l->watcher, NULL);
	l->watches = false;
}
