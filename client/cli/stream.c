/* SPDX-License-Identifier: Apache-2.0 */
/* stream.c -- reads one rank's part of an epoch: rates, ids or a tar archive; how well an order mixes. */
#include "cli.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"

enum { STREAM_BATCH = 64, TAR_BLOCK = 512 };

static int word_of(const char *option, const char *text, const char *const *words, uint32_t *out)
{
	*out = 0;
	for (uint32_t i = 0; text != NULL && words[i] != NULL; i++)
		if (strcmp(text, words[i]) == 0) {
			*out = i;
			return CLI_OK;
		}
	return text == NULL ? CLI_OK : fail(CLI_USAGE, "--%s: '%s' is none of its words; see --help", option,
		shown(text));
}

/* ---- names of samples ---------------------------------------------------------------------- */

struct id_names { /* of one snapshot */
	const char **keys; /* id * fields + field */
	uint32_t fields;
	struct arena texts;
};
struct all_names {
	struct id_names *of; /* one a source */
	uint32_t count;
};

static int id_name(void *arg, const char *key, uint64_t id, uint32_t field)
{
	struct id_names *n = arg;

	if (n->keys[id * n->fields + field] == NULL)
		n->keys[id * n->fields + field] = arena_text(&n->texts, key, strlen(key));
	return 0;
}

static int id_names_of(struct id_names *n, struct granary_snapshot *snapshot)
{
	struct granary_snapshot_detail d = GRANARY_INIT(granary_snapshot_detail);

	granary_snapshot_describe(snapshot, &d);
	n->fields = d.fields;
	n->keys = must_alloc(calloc((size_t)(d.samples * d.fields + 1), sizeof(*n->keys)));
	return granary_snapshot_names(snapshot, NULL, id_name, n);
}

static int recipe_names_read(struct all_names *n, struct remote *r, const char *bucket, const char *name)
{
	struct granary_recipe_source source = GRANARY_INIT(granary_recipe_source);
	struct granary_recipe *recipe;
	int err = granary_recipe_open(r->client, name, &recipe, GRANARY_CALL(.bucket = bucket));

	if (err < 0) return err;
	for (uint32_t i = 0; i < n->count && err == 0; i++) {
		err = granary_recipe_source(recipe, i, &source);
		if (err == 0) err = id_names_of(&n->of[i], source.handle);
	}
	granary_recipe_close(&recipe);
	return err;
}

static int names_read(struct all_names *n, struct remote *r, const struct granary_epoch_info *info)
{
	struct granary_snapshot *snapshot;
	int err;

	n->count = info->sources;
	n->of = must_alloc(calloc(n->count, sizeof(*n->of)));
	if (info->is_recipe) return recipe_names_read(n, r, info->bucket, info->snapshot);
	err = granary_snapshot_open(r->client, info->snapshot, &snapshot, GRANARY_CALL(.bucket = info->bucket));
	if (err < 0) return err;
	err = id_names_of(&n->of[0], snapshot);
	granary_snapshot_close(&snapshot);
	return err;
}

static void names_free(struct all_names *n)
{
	for (uint32_t i = 0; n->of != NULL && i < n->count; i++) {
		free(n->of[i].keys);
		arena_free(&n->of[i].texts);
	}
	free(n->of);
}

/* ---- tar ----------------------------------------------------------------------------------- */

static void tar_header(const char *name, uint64_t size, char type)
{
	char h[TAR_BLOCK] = { 0 };
	unsigned sum = 0;

	snprintf(h, 101, "%s", name);
	snprintf(h + 100, 8, "%07o", 0644);
	snprintf(h + 108, 8, "%07o", 0);
	snprintf(h + 116, 8, "%07o", 0);
	if (size < 1ull << 33) {
		snprintf(h + 124, 12, "%011" PRIo64, size);
	} else {
		h[124] = (char)0x80;
		for (int i = 0; i < 8; i++) h[135 - i] = (char)(size >> (8 * i));
	}
	snprintf(h + 136, 12, "%011o", 0);
	memset(h + 148, ' ', 8);
	h[156] = type;
	memcpy(h + 257, "ustar  ", 8);
	for (int i = 0; i < TAR_BLOCK; i++) sum += (unsigned char)h[i];
	snprintf(h + 148, 8, "%06o", sum);
	fwrite(h, 1, sizeof(h), stdout);
}

static void tar_data(const void *data, uint64_t size)
{
	static const char zeros[TAR_BLOCK];

	fwrite(data, 1, size, stdout);
	fwrite(zeros, 1, (size_t)((TAR_BLOCK - size % TAR_BLOCK) % TAR_BLOCK), stdout);
}

static void tar_member(const char *name, const void *data, uint64_t size)
{
	char cut[101];

	if (strlen(name) > 100) { /* the way of GNU tar */
		tar_header("././@LongLink", strlen(name) + 1, 'L');
		tar_data(name, strlen(name) + 1);
	}
	snprintf(cut, sizeof(cut), "%.100s", name);
	tar_header(cut, size, '0');
	tar_data(data, size);
}

static void tar_batch(const struct granary_epoch_batch *b, const struct all_names *names)
{
	char name[64];

	for (uint32_t i = 0; i < b->count; i++) {
		const struct id_names *n = &names->of[b->sources[i]];
		if (b->flags[i] & GRANARY_SAMPLE_PADDED) continue;
		for (uint32_t f = 0; f < b->fields; f++) {
			const char *key = n->keys[b->ids[i] * b->fields + f];
			size_t at = (size_t)i * b->fields + f;
			snprintf(name, sizeof(name), "%012" PRIu64 ".%u", b->ids[i], f);
			if (key != NULL || b->sizes[at] > 0)
				tar_member(key != NULL ? key : name, b->data + b->offsets[at], b->sizes[at]);
		}
	}
}

/* ---- stream -------------------------------------------------------------------------------- */

static void ids_line(const struct granary_epoch_batch *b, bool is_recipe)
{
	printf("%" PRIu64, b->position);
	for (uint32_t i = 0; i < b->count; i++) {
		putchar(' ');
		if (is_recipe) printf("%u:", b->sources[i]);
		printf("%" PRIu64 "%s%s", b->ids[i], b->flags[i] & GRANARY_SAMPLE_PADDED ? "p" : "",
			b->flags[i] & GRANARY_SAMPLE_SKIPPED ? "s" : "");
	}
	putchar('\n');
}

static void stream_report(struct granary_epoch *epoch, double seconds, bool ended)
{
	static const char *const modes[] = { "auto", "exact", "blocks", "none" };
	struct granary_epoch_info i = GRANARY_INIT(granary_epoch_info);
	char samples[TEXT_SHORT], bytes[TEXT_SHORT], rate[TEXT_SHORT], token_text[GRANARY_TOKEN_TEXT_LEN + 1] = "";
	struct granary_token token;
	struct json j;
	FILE *to = opts.tar || opts.ids ? stderr : stdout;

	granary_epoch_info(epoch, &i);
	if (granary_epoch_token(epoch, &token) < 0 || granary_token_text(&token, token_text) < 0) token_text[0] = '\0';
	if (!opts.json) {
		if (opts.quiet && to == stderr) return;
		fprintf(to, "%s@%s epoch %" PRIu64 " %s: %s samples, %s in %.2f s: %s samples/s, %.1f MB/s; "
			"waited %.2f s%s\n",
			i.bucket, i.snapshot, i.epoch, modes[i.mode & 3], human_count(samples, i.samples_read),
			human_bytes(bytes, i.bytes_read), seconds,
			human_count(rate, (uint64_t)((double)i.samples_read / seconds)),
			(double)i.bytes_read / seconds / 1e6, (double)i.waited_ns / 1e9,
			i.skipped > 0 ? "; some samples were SKIPPED" : "");
		if (!ended) fprintf(to, "go on with --resume %s\n", token_text);
		return;
	}
	json_open(&j, to);
	json_text(&j, "bucket", i.bucket);
	json_text(&j, i.is_recipe ? "recipe" : "snapshot", i.snapshot);
	json_text(&j, "mode", modes[i.mode & 3]);
	json_number(&j, "seed", i.seed);
	json_number(&j, "epoch", i.epoch);
	json_number(&j, "rank", i.rank);
	json_number(&j, "world", i.world);
	json_number(&j, "batch", i.batch);
	json_number(&j, "batches", i.batches);
	json_number(&j, "delivered", i.delivered);
	json_number(&j, "position", i.position);
	json_number(&j, "samples", i.samples_read);
	json_number(&j, "bytes", i.bytes_read);
	json_number(&j, "bytes_fetched", i.bytes_fetched);
	json_number(&j, "skipped", i.skipped);
	json_real(&j, "seconds", seconds);
	json_real(&j, "samples_per_s", (double)i.samples_read / seconds);
	json_real(&j, "mb_per_s", (double)i.bytes_read / seconds / 1e6);
	json_real(&j, "waited_s", (double)i.waited_ns / 1e9);
	json_text(&j, "token", token_text);
	json_close(&j);
}

static int stream_run(struct remote *r, struct granary_epoch *epoch)
{
	struct granary_epoch_info info = GRANARY_INIT(granary_epoch_info);
	const struct granary_epoch_batch *b;
	struct all_names names = { .of = NULL };
	struct progress progress;
	uint64_t taken = 0;
	int more = 1, err;

	granary_epoch_info(epoch, &info);
	err = opts.tar ? names_read(&names, r, &info) : 0;
	if (err < 0) {
		names_free(&names);
		return fail_remote(r->client, err, "cannot read the names of '%s@%s'", info.bucket, info.snapshot);
	}
	progress_start(&progress, "streaming");
	atomic_store(&progress.files_total, (opts.batches && opts.batches < info.batches ? opts.batches :
		info.batches) *
		info.batch);
	while ((opts.batches == 0 || taken < opts.batches) && !ferror(stdout) &&
		(more = granary_epoch_next(epoch, &b)) > 0) {
		taken++;
		progress_add(&progress, b->count, b->data_size);
		if (opts.tar) tar_batch(b, &names);
		if (opts.ids) ids_line(b, info.is_recipe);
		granary_epoch_release(epoch, &b);
	}
	progress_stop(&progress);
	if (opts.tar && more >= 0) fwrite((char[2 * TAR_BLOCK]){ 0 }, 1, 2 * TAR_BLOCK, stdout);
	if (more < 0) err = fail_remote(r->client, more, "the stream of '%s@%s' ended", info.bucket, info.snapshot);
	if (opts.tar || opts.ids) fflush(stdout);
	stream_report(epoch, progress_seconds(&progress), more == 0);
	names_free(&names);
	return more < 0 ? err : CLI_OK;
}

static int stream_options(struct granary_epoch_options *o)
{
	static const char *const modes[] = { "auto", "exact", "blocks", "none", NULL };
	static const char *const lasts[] = { "pad", "drop", "keep", NULL };
	static const char *const errors[] = { "raise", "skip", NULL };
	int code = word_of("mode", opts.mode, modes, &o->mode);

	if (code == CLI_OK) code = word_of("last", opts.last, lasts, &o->last);
	if (code == CLI_OK) code = word_of("on-error", opts.on_error, errors, &o->on_error);
	o->seed = opts.seed;
	o->epoch = opts.epoch;
	o->rank = (uint32_t)opts.rank;
	o->world = opts.world_given ? (uint32_t)opts.world : 1;
	o->batch = opts.batch > 0 ? (uint32_t)opts.batch : STREAM_BATCH;
	o->max_errors = (uint32_t)opts.max_errors;
	o->stall_timeout_ms = (uint32_t)(opts.stall_s * 1000);
	o->read_ahead = (uint32_t)opts.read_ahead;
	o->weight = (uint32_t)opts.weight;
	o->memory = opts.memory;
	o->job = opts.job;
	if (code == CLI_OK && o->last == GRANARY_LAST_KEEP && o->world > 1)
		note("warning: with --last keep ranks may have different numbers of batches");
	return code;
}

int run_stream(int count, char **args)
{
	struct granary_epoch_options options = GRANARY_INIT(granary_epoch_options);
	char name[SNAPSHOT_NAME_CAP], address[SNAPSHOT_NAME_CAP + GRANARY_KEY_LEN_MAX + 80];
	struct granary_epoch_info info = GRANARY_INIT(granary_epoch_info);
	struct granary_epoch *epoch;
	struct granary_token token;
	struct remote r;
	int err = 0, code = stream_options(&options);

	(void)count;
	if (code != CLI_OK) return code;
	if (opts.resume != NULL) err = granary_token_parse(opts.resume, &token);
	if (err < 0) return fail(CLI_USAGE, "--resume: %s", granary_last_error(NULL));
	if (opts.resume != NULL) options.token = &token;
	code = remote_open_snapshot(&r, args[0], name, 1);
	if (code != CLI_OK) return code;
	snprintf(address, sizeof(address), "%s%s%s", r.bucket, name[0] != '\0' ? "@" : "/",
		name[0] != '\0' ? name : r.path);
	options.snapshot = address;
	err = granary_epoch_open(r.client, &options, &epoch);
	if (err < 0) {
		code = fail_remote(r.client, err, "cannot stream '%s'", shown(args[0]));
		if (err == -GRANARY_EINVAL) code = CLI_USAGE;
	} else {
		granary_epoch_info(epoch, &info);
		if (name[0] == '\0') note("reading snapshot %s@%s", info.bucket, info.snapshot);
		code = stream_run(&r, epoch);
		granary_epoch_close(&epoch);
	}
	remote_close(&r);
	return code;
}
