/* SPDX-License-Identifier: Apache-2.0 */
/* client.c -- opening and closing a client.
 *
 * A client lives until its handle is closed and its last operation is freed (refs). Its thread starts with the first
 * operation and ends at granary_close(). */
#include "client_priv.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "futex.h"
#include "net.h"
#include "node_cache.h"

static int locks_init(struct granary_client *c)
{
	if (pthread_mutex_init(&c->lock, NULL) != 0)
		return -GRANARY_ENOMEM;
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	int failed = pthread_cond_init(&c->room, &attr);
	pthread_condattr_destroy(&attr);
	if (failed) {
		pthread_mutex_destroy(&c->lock);
		return -GRANARY_ENOMEM;
	}
	return 0;
}

static struct granary_client *client_new(const struct config *config)
{
	struct granary_client *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->magic = CLIENT_MAGIC;
	c->config = *config;
	c->refs = 1;
	c->event_fd = c->wake_fd = -1;
	list_init(&c->ops);
	list_init(&c->submitted);
	list_init(&c->cancels);
	list_init(&c->done);
	list_init(&c->released);
	list_init(&c->pool.free);
	local_init(c);
	if (locks_init(c) < 0) {
		free(c);
		return NULL;
	}
	c->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	c->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return c;
}

static void client_free(struct granary_client *c)
{
	c->magic = 0;
	if (c->event_fd >= 0)
		close(c->event_fd);
	if (c->wake_fd >= 0)
		close(c->wake_fd);
	pool_release(&c->pool);
	node_cache_close(c->node_cache);
	local_release(c);
	epoch_slabs_free(c);
	pthread_cond_destroy(&c->room);
	pthread_mutex_destroy(&c->lock);
	explicit_bzero(&c->config, sizeof(c->config));
	free(c);
}

int granary_open(const struct granary_options *options, struct granary_client **out)
{
	struct config config;
	char why[ERROR_TEXT_SIZE] = "";
	int err;

	if (!out)
		return error_fail(NULL, -GRANARY_EINVAL, "granary_open() needs a place for the client");
	*out = NULL;
	err = config_load(&config, options, why, sizeof(why));
	if (err < 0) {
		error_set(NULL, why);
		explicit_bzero(&config, sizeof(config));
		return err;
	}
	struct granary_client *c = client_new(&config);
	explicit_bzero(&config, sizeof(config));
	if (!c)
		return error_fail(NULL, -GRANARY_ENOMEM, "out of memory");
	err = c->event_fd < 0 || c->wake_fd < 0 ? error_from_errno(errno) : io_init(c);
	if (err < 0)
		error_fail(NULL, err, "cannot set up a client: %s", c->io.why[0] ? c->io.why : error_text(err));
	if (err == 0 && c->config.cache_dir[0] != '\0') {
		c->node_cache = node_cache_open(c->config.cache_dir, c->config.cache_size, why, sizeof(why));
		err = c->node_cache ? 0 : error_fail(NULL, -GRANARY_EINVAL, "%s", why);
	}
	if (err < 0) {
		client_free(c);
		return err;
	}
	fork_watch(c);
	*out = c;
	return 0;
}

void client_ref(struct granary_client *c)
{
	atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
}

void client_unref(struct granary_client *c)
{
	if (atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) == 1)
		client_free(c);
}

enum wake client_wake(struct granary_client *c)
{
	if (atomic_load_explicit(&c->loop, memory_order_relaxed) == LOOP_FREE) {
		atomic_store(&c->loop, LOOP_THREAD);
		return WAKE_FUTEX;
	}
	return atomic_exchange(&c->sleeping, false) ? WAKE_EVENT : WAKE_NOT;
}

void client_wake_now(struct granary_client *c, enum wake how)
{
	uint64_t one = 1;

	if (how == WAKE_FUTEX)
		futex_wake(&c->loop);
	if (how == WAKE_EVENT && write(c->wake_fd, &one, sizeof(one)) < 0)
		return; /* the counter is full: it is awake */
}

void granary_close(struct granary_client **client)
{
	struct granary_client *c = client ? *client : NULL;

	if (!c)
		return;
	*client = NULL;
	if (c->magic != CLIENT_MAGIC)
		return;
	if (!c->forked) {
		unstable_leave(c);
		files_leave(c);
	}
	pthread_mutex_lock(&c->lock);
	bool runs = c->thread_runs && !c->forked;
	bool forked = c->forked;
	c->stopping = c->closed = true;
	enum wake wake = client_wake(c);
	pthread_mutex_unlock(&c->lock);
	client_wake_now(c, wake);
	if (runs)
		pthread_join(c->thread, NULL);
	if (!forked) {
		local_warm_stop(c);
		local_cold_stop(c);
	}
	fork_unwatch(c);
	if (forked)
		io_forget(c);
	else
		io_release(c);
	client_unref(c);
}

const char *granary_bucket(const struct granary_client *client)
{
	return client && client->magic == CLIENT_MAGIC ? client->config.bucket : "";
}

static uint64_t counter(_Atomic uint64_t *value)
{
	return atomic_load_explicit(value, memory_order_relaxed);
}

int granary_client_info(struct granary_client *client, struct granary_info *info)
{
	struct granary_info all;
	size_t size = info ? info->size : 0;

	if (!client || client->magic != CLIENT_MAGIC || size < offsetof(struct granary_info, boot_id))
		return -GRANARY_EINVAL;
	pthread_mutex_lock(&client->lock);
	all = client->info;
	all.memory_used = client->pool.used;
	snprintf(all.engine, sizeof(all.engine), "%s", client->io.engine->name);
	pthread_mutex_unlock(&client->lock);
	all.memory_max = client->config.memory_max;
	all.requests = counter(&client->counters.requests);
	all.retries = counter(&client->counters.retries);
	all.reconnects = counter(&client->counters.reconnects);
	all.bytes_received = counter(&client->counters.bytes_received);
	all.bytes_sent = counter(&client->counters.bytes_sent);
	all.local_reads = counter(&client->counters.local_reads);
	all.local_bytes = counter(&client->counters.local_bytes);
	all.crc_errors = counter(&client->counters.crc_errors);
	if (client->node_cache) {
		struct node_cache_numbers n;
		node_cache_numbers(client->node_cache, &n);
		all.cache_hits = n.hits;
		all.cache_misses = n.misses;
		all.cache_hit_bytes = n.hit_bytes;
		all.cache_size = n.size;
		all.cache_filled = n.filled;
	}
	all.size = size;
	memcpy(info, &all, size < sizeof(all) ? size : sizeof(all));
	return 0;
}
