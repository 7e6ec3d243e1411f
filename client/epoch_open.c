/* SPDX-License-Identifier: Apache-2.0 */
/* epoch_open.c -- from options to a snapshot, an order and ranks; automatic snapshots; tokens. */
#include "epoch_priv.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/rand.h"
#include "common/token.h"

enum { PAGES_SHARE = 4 }; /* of the memory budget: one so many-th */
enum { STALL_DEFAULT_MS = 300000, AHEAD_SAMPLES = 512, AHEAD_MIN = 3, AHEAD_MAX = 64, WEIGHT_MAX = 1000 };
enum { JOB_LEN_MAX = 128 };
#define MEMORY_LEAST ((uint64_t)64 << 20)
#define AHEAD_BYTES ((uint64_t)16 << 20)
#define AUTO_JOB "stream" /* of a stream that names neither a snapshot nor a job: it holds the one made for it */
#define AUTO_EXPIRE_S ((uint64_t)24 * 3600)

struct address {
	char bucket[GRANARY_BUCKET_LEN_MAX + 1];
	char snapshot[SNAPSHOT_NAME_MAX + 1]; /* "": none was named */
	char prefix[GRANARY_KEY_LEN_MAX + 1];
};

/* ---- what is streamed ---- */

static int address_url(struct granary_client *c, const char *text, struct address *a)
{
	struct granary_url url;
	char why[256];

	if (granary_url_parse(text, &url, why, sizeof(why)) < 0)
		return error_fail(c, -GRANARY_EINVAL, "%s", why);
	snprintf(a->bucket, sizeof(a->bucket), "%s", url.bucket);
	snprintf(a->snapshot, sizeof(a->snapshot), "%s", url.snapshot);
	snprintf(a->prefix, sizeof(a->prefix), "%s", url.path);
	return 0;
}

/* NAME, BUCKET@NAME, BUCKET/PREFIX; a client with a bucket takes a bare word as the name of a snapshot. */
static int address_read(struct granary_client *c, const char *text, struct address *a)
{
	const char *own = c->config.bucket, *at, *slash;

	memset(a, 0, sizeof(*a));
	if (!text || text[0] == '\0')
		return error_fail(c, -GRANARY_EINVAL, "granary_epoch_options.snapshot: which snapshot?");
	if (strncmp(text, "granary://", 10) == 0)
		return address_url(c, text, a);
	slash = strchr(text, '/');
	at = strchr(text, '@');
	at = slash && at > slash ? NULL : at; /* of a key */
	size_t bucket_len = at ? (size_t)(at - text) : slash ? (size_t)(slash - text) : own[0] ? 0 : strlen(text);
	if (bucket_len >= sizeof(a->bucket))
		return error_fail(c, -GRANARY_ENAME, "the bucket's name in '%.300s' is too long", text);
	if (bucket_len == 0)
		snprintf(a->bucket, sizeof(a->bucket), "%s", own);
	else
		snprintf(a->bucket, sizeof(a->bucket), "%.*s", (int)bucket_len, text);
	const char *name = at ? at + 1 : slash || !own[0] ? "" : text;
	size_t name_len = at && slash ? (size_t)(slash - name) : strlen(name);
	if (name_len >= sizeof(a->snapshot) || (slash && strlen(slash + 1) >= sizeof(a->prefix)))
		return error_fail(c, -GRANARY_ENAME, "'%.300s' is too long", text);
	snprintf(a->snapshot, sizeof(a->snapshot), "%.*s", (int)name_len, name);
	snprintf(a->prefix, sizeof(a->prefix), "%s", slash ? slash + 1 : "");
	return 0;
}

/* One automatic snapshot for each job and prefix: all ranks make the same name, the first one makes the snapshot. Names
 * that begin with a dot are automatic: the server keeps them for a day after their last use. */
static int snapshot_automatic(struct granary_client *c, struct address *a, const char *job)
{
	struct granary_snapshot_spec spec = GRANARY_INIT(granary_snapshot_spec);
	struct granary_call call = { .size = sizeof(call), .bucket = a->bucket, .timeout_ms = GRANARY_FOREVER };
	char text[sizeof(a->prefix) + 256], word[40];
	size_t n = 0;

	for (const char *p = job; *p && n < sizeof(word) - 1; p++)
		word[n++] = isalnum((unsigned char)*p) ? (char)tolower((unsigned char)*p) : '-';
	word[n] = '\0';
	n = (size_t)snprintf(text, sizeof(text), "%.200s\n%s", job, a->prefix);
	struct hash128 h = hash_content(text, n);
	snprintf(a->snapshot, sizeof(a->snapshot), ".auto-%s-%012llx", word,
		(unsigned long long)(h.lo & 0xffffffffffffull));
	spec.prefix = a->prefix;
	spec.expire_s = AUTO_EXPIRE_S;
	spec.note = "made by a stream that named no snapshot";
	int err = granary_snapshot_create(c, a->snapshot, &spec, NULL, &call);
	return err == -GRANARY_EEXIST ? 0 : err;
}

/* Where samples come from, in one form for snapshots and recipes. */
static int epoch_parts(struct granary_epoch *e)
{
	const struct granary_recipe *r = e->recipe;
	uint64_t samples = 0, bytes = 0;

	e->parts_count = r ? r->recipe.sources_count : 1;
	e->parts = calloc(e->parts_count, sizeof(*e->parts));
	if (!e->parts)
		return error_fail(e->client, -GRANARY_ENOMEM, "out of memory");
	for (uint32_t i = 0; i < e->parts_count; i++) {
		struct granary_snapshot *s = r ? r->parts[i].snapshot : e->snapshot;
		e->parts[i] = (struct epoch_part){ s, r ? &r->parts[i].subset : NULL };
		e->largest = s->manifest.largest > e->largest ? s->manifest.largest : e->largest;
		samples += s->manifest.samples;
		bytes += s->manifest.bytes;
	}
	e->mean = bytes / (samples ? samples : 1) + 1;
	e->fields = e->parts[0].snapshot->manifest.fields;
	e->bucket = r ? r->bucket : e->snapshot->bucket;
	e->name = r ? r->name : e->snapshot->name;
	e->source = r ? r->hash : e->snapshot->identity;
	return 0;
}

/* Another rank may be making an automatic snapshot: waits as long as a stalled stream would. */
static int snapshot_await(struct granary_epoch *e, const struct address *a)
{
	for (uint32_t waited = 0;; waited += 100) {
		int err = granary_snapshot_open(e->client, a->snapshot, &e->snapshot,
			GRANARY_CALL(.bucket = a->bucket, .timeout_ms = e->options.stall_timeout_ms));
		if (err != -GRANARY_ENOTFOUND || a->snapshot[0] != '.' || waited > e->options.stall_timeout_ms)
			return err;
		usleep(100000);
	}
}

/* A path behind a snapshot's name: the samples below it. */
static int epoch_part(struct granary_epoch *e, const struct address *a, const struct granary_call *call)
{
	char name[PART_NAME_MAX + 1];

	if (e->recipe)
		return error_fail(e->client, -GRANARY_EINVAL, "'%s@%s' is a recipe: its own include says what it takes "
			"of each snapshot, so a path behind its name ('%.200s') means nothing", a->bucket, a->snapshot,
			a->prefix);
	if (part_is_whole(e->snapshot, a->prefix))
		return 0;
	granary_snapshot_close(&e->snapshot);
	snprintf(name, sizeof(name), "%s/%s", a->snapshot, a->prefix);
	return recipe_open(e->client, name, &e->recipe, call, false);
}

static int epoch_source(struct granary_epoch *e)
{
	struct granary_client *c = e->client;
	struct address a;
	bool exists = true;
	int err = address_read(c, e->options.snapshot, &a);

	if (err < 0)
		return err;
	struct granary_call call = { .size = sizeof(call), .bucket = a.bucket,
		.timeout_ms = e->options.stall_timeout_ms };
	if (a.snapshot[0] == '\0') {
		if (!e->job && !(e->job = strdup(AUTO_JOB)))
			return error_fail(c, -GRANARY_ENOMEM, "out of memory");
		err = snapshot_automatic(c, &a, e->job);
		if (err == 0)
			err = snapshot_await(e, &a);
	} else {
		err = snapshot_open(c, a.snapshot, &e->snapshot, &call, &exists);
		if (err == -GRANARY_ENOTFOUND && !exists)
			err = recipe_open(c, a.snapshot, &e->recipe, &call, true);
		if (err == 0 && a.prefix[strspn(a.prefix, "/")] != '\0')
			err = epoch_part(e, &a, &call);
	}
	return err < 0 ? err : epoch_parts(e);
}

/* ---- order and ranks ---- */

static int token_read(struct granary_epoch *e, struct order_spec *spec, uint64_t *start)
{
	const struct granary_token *given = e->options.token;
	char why[256] = "";
	struct token t;
	int err;

	if (!given || given->len == 0)
		return 0;
	err = given->len > sizeof(given->bytes) ? -GRANARY_ECORRUPT :
		token_decode(&t, given->bytes, given->len, why, sizeof(why));
	if (err == 0)
		err = token_check(&t, e->source, e->recipe != NULL, spec->samples, why, sizeof(why));
	if (err < 0)
		return error_fail(e->client, err, "the token cannot be used: %s", why[0] ? why : error_text(err));
	*spec = token_order(&t, spec->samples);
	*start = t.position;
	return 0;
}

static struct order_spec order_recorded(const struct granary_epoch *e)
{
	const struct granary_epoch_options *o = &e->options;
	struct order_spec spec = { .seed = o->seed, .epoch = o->epoch };

	if (e->recipe) {
		spec.mode = e->recipe->mode;
		spec.samples = e->recipe->samples;
		spec.block = e->recipe->recipe.block;
		spec.window = e->recipe->recipe.window;
		spec.lanes = e->recipe->recipe.lanes;
	} else {
		const struct snap_manifest *m = &e->snapshot->manifest;
		spec.mode = (uint8_t)m->mode;
		spec.samples = m->samples;
		spec.block = m->block;
		spec.window = m->window;
		spec.lanes = m->lanes;
	}
	if (o->mode)
		spec.mode = (uint8_t)o->mode;
	return spec;
}

/* Files that nobody wants are as empty in the handles of this epoch: no request asks for them. */
static int epoch_files(struct granary_epoch *e)
{
	uint64_t files = e->options.files;

	if (files == 0)
		return 0;
	if (e->fields < 64 && files >> e->fields != 0)
		return error_fail(e->client, -GRANARY_EINVAL, "granary_epoch_options.files has a bit beyond the %u "
			"files of a sample", e->fields);
	for (uint32_t i = 0; i < e->parts_count; i++)
		e->parts[i].snapshot->left_out = ~files;
	return 0;
}

static int epoch_order(struct granary_epoch *e)
{
	const struct granary_epoch_options *o = &e->options;
	struct order_spec spec = order_recorded(e);
	struct order_ranks_spec ranks = { .samples = spec.samples, .ranks = o->world, .rank = o->rank,
		.batch = o->batch, .last = (uint8_t)o->last };
	char why[256];

	if (o->mode > GRANARY_MODE_NONE || o->last > GRANARY_LAST_KEEP || o->on_error > GRANARY_ERROR_SKIP)
		return error_fail(e->client, -GRANARY_EINVAL, "granary_epoch_options: mode, last or on_error "
			"is out of range");
	int err = token_read(e, &spec, &ranks.start);
	if (err < 0)
		return err;
	err = e->recipe ? recipe_mix_init(e->recipe, &spec, &e->mix, why, sizeof(why)) :
		order_init(&e->order, &spec, why, sizeof(why));
	if (err == 0 && e->recipe)
		e->order.spec = e->mix.order;
	if (err == 0)
		err = order_ranks_init(&e->ranks, &ranks, why, sizeof(why));
	return err < 0 ? error_fail(e->client, err, "cannot stream '%s@%s': %s", e->bucket, e->name, why) : 0;
}

uint64_t epoch_at(const struct granary_epoch *e, uint64_t position, uint32_t *part)
{
	*part = 0;
	if (!e->recipe)
		return order_at(&e->order, position);
	struct mix_item item = mix_at(&e->mix, position);
	*part = item.source;
	return subset_id(e->parts[item.source].subset, item.id);
}

/* Whose requests these are. What is shared is each sample once: of one job, from one position to one end. */
static void epoch_stream(struct granary_epoch *e)
{
	const struct order_spec *s = &e->order.spec;
	uint64_t job = e->job ? hash_content(e->job, strlen(e->job)).lo : 0;

	e->end = s->samples;
	if (e->ranks.spec.last == ORDER_LAST_DROP)
		e->end = e->ranks.spec.start + e->ranks.batches * e->ranks.global_batch;
	const uint64_t parts[] = { e->source.lo, e->source.hi, s->seed, s->epoch, s->block, s->window, s->lanes,
		e->ranks.spec.start, e->end, job, e->options.files };
	e->stream = (struct range_stream){ .tag = hash_content(parts, sizeof(parts)).lo, .job = job,
		.weight = e->options.weight };
}

/* ---- memory ---- */

static uint64_t machine_memory(void)
{
	long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);

	return pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size : (uint64_t)1 << 30;
}

/* What two windows take: block sizes differ, and memory comes in size classes: a quarter more. */
static uint64_t two_windows(const struct granary_epoch *e)
{
	return e->holding ? gens_need(e) / 4 * 5 : 0;
}

static void table_size(const struct granary_snapshot *s, uint64_t *all, uint64_t *largest)
{
	*all = *largest = 0;
	for (uint32_t i = 0; i < s->manifest.page_count; i++) {
		*all += s->manifest.pages[i].size;
		*largest = s->manifest.pages[i].size > *largest ? s->manifest.pages[i].size : *largest;
	}
}

/* Bytes of the tables' pages that may be mapped: all, or a quarter of the budget, of each one page at least. */
static int epoch_pages(struct granary_epoch *e, uint64_t *bytes)
{
	uint64_t all = 0, share = e->memory / PAGES_SHARE, own, largest;

	for (uint32_t i = 0; i < e->parts_count; i++) {
		table_size(e->parts[i].snapshot, &own, &largest);
		all += own;
	}
	*bytes = 0;
	for (uint32_t i = 0; i < e->parts_count; i++) {
		table_size(e->parts[i].snapshot, &own, &largest);
		if (all > share)
			own = (uint64_t)((double)own / (double)all * (double)share);
		own = own > largest ? own : largest;
		snapshot_pages_limit(e->parts[i].snapshot, own);
		*bytes += own;
	}
	if (*bytes > e->memory / 2)
		return error_fail(e->client, -GRANARY_ETOOBIG, "the largest pages of the table of '%s@%s' have %llu "
			"bytes, the memory budget is %llu: give it more", e->bucket, e->name,
			(unsigned long long)*bytes, (unsigned long long)e->memory);
	return 0;
}

/* Looks through the table, where pages hold as much: this is no time to hurry. "" when that part cannot be read. */
static void sample_of_size(struct granary_snapshot *s, uint64_t wanted, char *key, size_t cap)
{
	struct page_cursor c = { .page = NULL };
	uint64_t size = 0;
	int err = 0;

	key[0] = '\0';
	for (uint32_t p = 0; p < s->manifest.page_count; p++) {
		if (s->manifest.pages[p].bytes < wanted)
			continue;
		for (uint64_t id = s->first_ids[p]; err == 0 && size != wanted && id < s->first_ids[p + 1]; id++) {
			err = range_sample_size(s, &c, id, &size, NULL);
			if (err == 0 && size == wanted && snapshot_key_of(s, id, key, cap) < 0)
				key[0] = '\0';
		}
	}
	page_cursor_end(s, &c);
}

/* Known before the first batch, of the histograms: how many samples, at least, and of which snapshot. */
static int largest_refused(const struct granary_epoch *e)
{
	struct granary_snapshot *s = e->parts[0].snapshot;
	char key[GRANARY_KEY_LEN_MAX + 100];
	unsigned first = 0;
	uint64_t count = 0;

	for (uint32_t i = 0; i < e->parts_count; i++)
		if (e->parts[i].snapshot->manifest.largest == e->largest)
			s = e->parts[i].snapshot;
	while (first < SNAP_HISTOGRAM - 1 && (uint64_t)1 << first < e->memory)
		first++;
	for (unsigned i = first; i < SNAP_HISTOGRAM; i++)
		count += s->manifest.histogram[i];
	sample_of_size(s, e->largest, key, sizeof(key));
	return error_fail(e->client, -GRANARY_ETOOBIG, "samples of '%s@%s', at least %llu, are larger than the memory "
		"budget of %llu bytes, the largest, '%.200s', has %llu: give it more", s->bucket, s->name,
		(unsigned long long)(count > 0 ? count : 1), (unsigned long long)e->memory, key,
		(unsigned long long)e->largest);
}

static int epoch_budget(struct granary_epoch *e)
{
	uint64_t batch = e->mean * e->ranks.spec.batch;
	uint64_t want = two_windows(e) + 4 * batch + 2 * e->largest + MEMORY_LEAST, most = machine_memory() / 4;

	e->memory = e->options.memory ? e->options.memory : want < most ? want : most;
	e->mem.limit = e->memory;
	if (e->largest > e->memory)
		return largest_refused(e);
	e->ahead = e->options.read_ahead;
	if (e->ahead == 0) {
		e->ahead = AHEAD_SAMPLES / e->ranks.spec.batch + AHEAD_MIN;
		if (e->ahead < AHEAD_BYTES / batch + 1)
			e->ahead = AHEAD_BYTES / batch + 1;
		e->ahead = e->ahead < AHEAD_MAX ? e->ahead : AHEAD_MAX;
	}
	uint64_t batches = e->ahead * batch < e->memory / 4 ? e->ahead * batch : e->memory / 4, pages;
	int err = epoch_pages(e, &pages);
	if (err < 0)
		return err;
	e->hold_limit = e->memory - batches - e->memory / 16 - pages;
	return 0;
}

/* As the server takes names of jobs and hosts: they stand in lines of name=value. */
static bool is_word(const char *text)
{
	size_t len = strlen(text);

	for (size_t i = 0; i < len; i++)
		if (text[i] <= ' ' || text[i] >= 127)
			return false;
	return len > 0 && len <= JOB_LEN_MAX;
}

/* A stream that was given no job holds what it reads, too: under a name that says where it runs. */
static void epoch_lease(struct granary_epoch *e)
{
	if (e->job)
		snprintf(e->lease, sizeof(e->lease), "%s", e->job);
	else
		snprintf(e->lease, sizeof(e->lease), "unnamed:%.63s:%d:%04x", e->host, (int)getpid(),
			(unsigned)(e->log_id & 0xffff));
}

int epoch_setup(struct granary_epoch *e, const struct granary_epoch_options *options)
{
	size_t size = options->size;
	int err;

	memcpy(&e->options, options, size < sizeof(e->options) ? size : sizeof(e->options));
	struct granary_epoch_options *o = &e->options;
	o->stall_timeout_ms = o->stall_timeout_ms ? o->stall_timeout_ms : STALL_DEFAULT_MS;
	o->weight = o->weight ? o->weight : 1;
	o->step = o->step ? o->step : 1;
	if (o->weight > WEIGHT_MAX)
		return error_fail(e->client, -GRANARY_EINVAL, "granary_epoch_options.weight: 1 to %d", WEIGHT_MAX);
	if (o->world == 0 || o->rank >= o->world || o->batch == 0 || o->batch > ORDER_BATCH_MAX)
		return error_fail(e->client, -GRANARY_EINVAL, "rank %u of world %u with batches of %u: the "
			"world is at least 1, "
			"the rank is below it, a batch has 1 to %d samples", o->rank, o->world, o->batch,
				ORDER_BATCH_MAX);
	if (o->job && !is_word(o->job))
		return error_fail(e->client, -GRANARY_EINVAL, "job '%.200s': its name must be 1 to %d visible ASCII "
			"characters without blanks", o->job, JOB_LEN_MAX);
	if (o->job && !(e->job = strdup(o->job)))
		return error_fail(e->client, -GRANARY_ENOMEM, "out of memory");
	if (!(e->skips = calloc(PROVENANCE_SKIPS_MAX, sizeof(*e->skips))))
		return error_fail(e->client, -GRANARY_ENOMEM, "out of memory");
	if (o->batches && (!o->batches->take || !o->batches->give))
		return error_fail(e->client, -GRANARY_EINVAL, "granary_epoch_options.batches: take or give is not set");
	if (o->batches)
		e->batches_memory = *o->batches;
	e->begun_ns = clock_mono_ns();
	e->begun_wall_ns = clock_wall_ns();
	rand_bytes(&e->log_id, sizeof(e->log_id));
	if (gethostname(e->host, sizeof(e->host) - 1) < 0 || !is_word(e->host))
		snprintf(e->host, sizeof(e->host), "unknown");
	err = epoch_source(e);
	if (err == 0)
		epoch_lease(e);
	if (err == 0)
		err = epoch_files(e);
	if (err == 0)
		err = epoch_order(e);
	if (err < 0)
		return err;
	epoch_stream(e);
	e->batches = e->ranks.batches > o->first ? (e->ranks.batches - o->first - 1) / o->step + 1 : 0;
	e->holding = gens_wanted(e);
	if (e->holding && gens_setup(e) < 0)
		return error_fail(e->client, -GRANARY_ENOMEM, "out of memory");
	err = epoch_budget(e);
	if (err == 0)
		lead_setup(e);
	if (err == 0 && e->holding && hold_setup(e) < 0)
		err = error_fail(e->client, -GRANARY_ENOMEM, "out of memory");
	o->batches = NULL;
	o->snapshot = o->job = NULL; /* the caller's */
	o->token = NULL;
	return err;
}

/* ---- tokens ---- */

int epoch_token_at(const struct granary_epoch *e, uint64_t position, uint8_t out[TOKEN_SIZE], char *why, size_t cap)
{
	const struct order_spec *s = &e->order.spec;
	struct token t = { .mode = s->mode, .of_recipe = e->recipe != NULL, .source = e->source, .block = s->block,
		.window = s->window, .lanes = s->lanes, .seed = s->seed, .epoch = s->epoch, .position = position };

	return token_encode(&t, out, why, cap);
}

int granary_epoch_token(struct granary_epoch *epoch, struct granary_token *token)
{
	char why[256];

	pthread_mutex_lock(&epoch->client->lock);
	uint64_t position = epoch_position(epoch);
	pthread_mutex_unlock(&epoch->client->lock);
	memset(token, 0, sizeof(*token));
	int err = epoch_token_at(epoch, position, token->bytes, why, sizeof(why));
	if (err < 0)
		return error_fail(epoch->client, err, "%s", why);
	token->len = TOKEN_SIZE;
	return 0;
}

int granary_token_text(const struct granary_token *token, char out[GRANARY_TOKEN_TEXT_LEN + 1])
{
	struct token t;
	char why[256];

	_Static_assert((int)GRANARY_TOKEN_TEXT_LEN == (int)TOKEN_TEXT_LEN, "the header and the format agree");
	out[0] = '\0';
	int err = token->len > sizeof(token->bytes) ? -GRANARY_EINVAL :
		token_decode(&t, token->bytes, token->len, why, sizeof(why));
	return err < 0 ? -GRANARY_EINVAL : token_to_text(&t, out, why, sizeof(why));
}

int granary_token_parse(const char *text, struct granary_token *token)
{
	struct token t;
	char why[256] = "";

	memset(token, 0, sizeof(*token));
	int err = text ? token_from_text(&t, text, strlen(text), why, sizeof(why)) : -GRANARY_EINVAL;
	if (err == 0)
		err = token_encode(&t, token->bytes, why, sizeof(why));
	if (err < 0)
		return error_fail(NULL, err, "this is no token: %s", why);
	token->len = TOKEN_SIZE;
	return 0;
}
