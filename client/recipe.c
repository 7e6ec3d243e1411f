/* SPDX-License-Identifier: Apache-2.0 */
/* recipe.c -- making a recipe: what its text leaves out is filled in from the snapshots; and a recipe open for reading:
 * its snapshots, what it takes of each, the mixture. docs/ORDER.md 7 and 8.
 *
 * (1) the server keeps the text, and checks what it says of snapshots; sizes of parts are computed here, of names that
 *     never change, so every client has the same. */
#include "recipe_priv.h"

#include <stdio.h>
#include <stdlib.h>

static struct granary_recipe *recipe_new(struct granary_client *c, const char *name, const struct granary_call *call,
	int *err)
{
	struct granary_recipe *r = calloc(1, sizeof(*r));
	struct granary_call all = { .size = 0 };

	if (!r) {
		*err = error_fail(c, -GRANARY_ENOMEM, "out of memory");
		return NULL;
	}
	if (call)
		memcpy(&all, call, call->size < sizeof(all) ? call->size : sizeof(all));
	const char *bucket = all.bucket ? all.bucket : c->config.bucket;
	r->client = c;
	if (!name || name[0] == '\0' || strlen(name) >= sizeof(r->name) || strlen(bucket) >= sizeof(r->bucket)) {
		*err = error_fail(c, -GRANARY_ENAME, "no name of a recipe, or one that is too long");
		free(r);
		return NULL;
	}
	snprintf(r->name, sizeof(r->name), "%s", name);
	snprintf(r->bucket, sizeof(r->bucket), "%s", bucket);
	*err = 0;
	return r;
}

void granary_recipe_close(struct granary_recipe **recipe)
{
	struct granary_recipe *r = recipe ? *recipe : NULL;

	if (!r)
		return;
	*recipe = NULL;
	for (uint32_t i = 0; r->parts && i < r->recipe.sources_count; i++) {
		subset_release(&r->parts[i].subset);
		granary_snapshot_close(&r->parts[i].snapshot);
	}
	mix_release(&r->asked);
	free(r->parts);
	free(r->part_samples);
	free(r->text);
	recipe_release(&r->recipe);
	free(r);
}

/* ---- sources ---- */

static int part_snapshot(struct granary_recipe *r, uint32_t i, uint32_t timeout_ms)
{
	const struct recipe_source *from = &r->recipe.sources[i];
	struct granary_snapshot **out = &r->parts[i].snapshot;
	const char *at = strchr(from->snapshot, '@');
	char bucket[GRANARY_BUCKET_LEN_MAX + 1], text[ERROR_TEXT_SIZE];

	if (!at || (size_t)(at - from->snapshot) >= sizeof(bucket))
		return error_fail(r->client, -GRANARY_EINVAL, "sources[%u].snapshot: '%.200s' is not BUCKET@NAME", i,
			from->snapshot);
	snprintf(bucket, sizeof(bucket), "%.*s", (int)(at - from->snapshot), from->snapshot);
	int err = granary_snapshot_open(r->client, at + 1, out,
		GRANARY_CALL(.bucket = bucket, .timeout_ms = timeout_ms));
	if (err < 0) {
		snprintf(text, sizeof(text), "%s", granary_last_error(r->client));
		return error_fail(r->client, err, "source '%.150s' of '%s@%s': %s", from->snapshot, r->bucket,
			r->name, text);
	}
	if (from->has_hash && ((*out)->identity.lo != from->hash.lo || (*out)->identity.hi != from->hash.hi))
		return error_fail(r->client, -GRANARY_ECHANGED, "source '%.150s' of '%s@%s' is another snapshot "
			"than the one that the recipe names: it was removed, and another made under its name",
			from->snapshot, r->bucket, r->name);
	return 0;
}

static int part_open(struct granary_recipe *r, uint32_t i, uint32_t timeout_ms)
{
	struct recipe_part *part = &r->parts[i];
	int err = part_snapshot(r, i, timeout_ms);

	if (err < 0)
		return err;
	const struct snap_manifest *m = &part->snapshot->manifest;
	if (i > 0 && m->fields != r->fields)
		return error_fail(r->client, -GRANARY_EINVAL, "'%s@%s': samples of '%.100s' have %u files, those "
			"of '%.100s' %u: sources must agree", r->bucket, r->name, r->recipe.sources[i].snapshot,
			m->fields, r->recipe.sources[0].snapshot, r->fields);
	r->fields = m->fields;
	err = subset_make(part->snapshot, &r->recipe.sources[i], &part->subset);
	if (err < 0)
		return err;
	r->part_samples[i] = part->subset.samples;
	if (part->subset.samples == 0)
		return error_fail(r->client, -GRANARY_EINVAL, "'%s@%s': nothing of source '%.150s' is left by "
			"its include and exclude", r->bucket, r->name, r->recipe.sources[i].snapshot);
	return 0;
}

/* Bytes a sample over all snapshots. */
static uint64_t mean_bytes(const struct granary_recipe *r)
{
	uint64_t bytes = 0, samples = 0;

	for (uint32_t i = 0; i < r->recipe.sources_count; i++) {
		bytes += r->parts[i].snapshot->manifest.bytes;
		samples += r->parts[i].snapshot->manifest.samples;
	}
	return samples > 0 ? bytes / samples : 0;
}

static int parts_open(struct granary_recipe *r, uint32_t timeout_ms)
{
	uint32_t count = r->recipe.sources_count;

	r->parts = calloc(count, sizeof(*r->parts));
	r->part_samples = calloc(count, sizeof(*r->part_samples));
	if (!r->parts || !r->part_samples)
		return error_fail(r->client, -GRANARY_ENOMEM, "out of memory");
	r->mode = ORDER_EXACT;
	for (uint32_t i = 0; i < count; i++) {
		int err = part_open(r, i, timeout_ms);
		if (err < 0)
			return err;
		if (r->parts[i].snapshot->manifest.mode != ORDER_EXACT)
			r->mode = ORDER_BLOCKS;
	}
	return 0;
}

int recipe_mix_init(const struct granary_recipe *r, const struct order_spec *order, struct mix *out, char *why,
	size_t cap)
{
	struct mix_source sources[MIX_SOURCES_MAX];
	struct mix_stage stages[MIX_STAGES_MAX];
	struct mix_spec spec = { .order = *order, .sources = sources, .sources_count = r->recipe.sources_count,
		.stages = stages, .stages_count = r->recipe.stages_count };

	recipe_mix(&r->recipe, r->part_samples, sources, stages);
	spec.order.samples = r->recipe.samples;
	return mix_init(out, &spec, why, cap);
}

/* Can it be streamed, in this order? Learns how many samples an epoch has. */
static int mixture_check(struct granary_recipe *r, uint8_t mode)
{
	struct order_spec order = { .mode = mode, .block = r->recipe.block, .window = r->recipe.window,
		.lanes = r->recipe.lanes };
	struct mix mix;
	char why[256];
	int err = recipe_mix_init(r, &order, &mix, why, sizeof(why));

	if (err < 0)
		return error_fail(r->client, err, "'%s@%s': %s", r->bucket, r->name, why);
	r->samples = mix.order.samples;
	uint64_t mean = mean_bytes(r) + 1;
	r->bytes = r->samples < UINT64_MAX / mean ? r->samples * mean : UINT64_MAX;
	mix_release(&mix);
	return 0;
}

/* ---- making ---- */

/* docs/ORDER.md 8.4. */
static void defaults_fill(struct granary_recipe *r)
{
	uint64_t all = 0, mean = mean_bytes(r), block, window;
	uint32_t lanes, count = r->recipe.sources_count, least = ORDER_LANES_MAX;

	for (uint32_t i = 0; i < count; i++) {
		order_defaults(r->part_samples[i], mean, false, &block, &lanes, &window);
		least = lanes < least ? lanes : least;
		all += r->part_samples[i];
	}
	order_defaults(all, mean, false, &block, &lanes, &window);
	if (r->recipe.lanes == 0)
		r->recipe.lanes = least;
	if (r->recipe.block == 0)
		r->recipe.block = block;
	if (r->recipe.window == 0) {
		uint64_t share = (uint64_t)r->recipe.lanes * count;
		r->recipe.window = (window * lanes + share - 1) / share;
	}
}

static int text_fill(struct granary_recipe *r)
{
	for (uint32_t i = 0; i < r->recipe.sources_count; i++) {
		r->recipe.sources[i].hash = r->parts[i].snapshot->identity;
		r->recipe.sources[i].has_hash = true;
	}
	size_t len = recipe_canonical(&r->recipe, NULL, 0);
	r->text = malloc(len + 1);
	if (!r->text)
		return error_fail(r->client, -GRANARY_ENOMEM, "out of memory");
	recipe_canonical(&r->recipe, r->text, len + 1);
	return 0;
}

static int recipe_read(struct granary_recipe *r, const char *text, size_t len)
{
	char why[256];
	int err = recipe_parse(&r->recipe, text, len, why, sizeof(why));

	return err < 0 ? error_fail(r->client, err, "recipe '%s@%s': %s", r->bucket, r->name, why) : 0;
}

int granary_recipe_create(struct granary_client *client, const char *name, const char *text, size_t len,
	const char *note, struct granary_recipe_info **out, const struct granary_call *call)
{
	struct granary_recipe_info *info = NULL;
	struct granary_recipe *r;
	int err = client_enter(client);

	if (out)
		*out = NULL;
	r = err == 0 ? recipe_new(client, name, call, &err) : NULL;
	if (!r)
		return err;
	err = recipe_read(r, text, len);
	if (err == 0)
		err = parts_open(r, call ? call->timeout_ms : 0);
	if (err == 0) {
		defaults_fill(r);
		err = mixture_check(r, ORDER_EXACT);
	}
	if (err == 0)
		err = mixture_check(r, ORDER_BLOCKS);
	if (err == 0)
		err = text_fill(r);
	if (err == 0)
		err = recipe_request_create(client, name, note, r->text, strlen(r->text), &info, call);
	granary_recipe_close(&r);
	if (err == 0 && out)
		*out = info;
	else
		granary_free(info);
	return err;
}

/* ---- reading ---- */

/* A part of a snapshot: nobody keeps its text, and what it leaves out is filled in as where a recipe is made. */
static int recipe_of_part(struct granary_recipe *r, uint32_t timeout_ms)
{
	char *text = part_recipe_text(r->bucket, r->name);

	if (!text)
		return error_fail(r->client, -GRANARY_ENOMEM, "out of memory");
	int err = recipe_read(r, text, strlen(text));
	if (err == 0)
		err = parts_open(r, timeout_ms);
	if (err == 0) {
		defaults_fill(r);
		err = text_fill(r);
	}
	if (err == 0)
		r->hash = hash_content(r->text, strlen(r->text));
	free(text);
	return err;
}

static int recipe_load(struct granary_recipe *r, uint32_t timeout_ms, bool looked)
{
	struct granary_recipe_info *info;
	int err = granary_recipe_show(r->client, r->name, &info,
		GRANARY_CALL(.bucket = r->bucket, .timeout_ms = timeout_ms));

	if (err == -GRANARY_ENOTFOUND)
		error_fail(r->client, err, "there is no %s '%s' in bucket '%s'",
			looked ? "snapshot or recipe" : "recipe", r->name, r->bucket);
	if (err < 0)
		return err;
	size_t len = strlen(info->text);
	r->hash = hash_content(info->text, len);
	r->created_ns = info->created_ns;
	r->text = strdup(info->text);
	if (!r->text)
		err = error_fail(r->client, -GRANARY_ENOMEM, "out of memory");
	else if (memcmp(&r->hash, info->id, sizeof(r->hash)) != 0)
		err = error_fail(r->client, -GRANARY_ECORRUPT, "the text of recipe '%s' does not have its hash",
			r->name);
	else
		err = recipe_read(r, r->text, len);
	granary_free(info);
	return err < 0 ? err : parts_open(r, timeout_ms);
}

int recipe_open(struct granary_client *client, const char *name, struct granary_recipe **out,
	const struct granary_call *call, bool looked)
{
	struct granary_recipe *r;
	uint32_t timeout_ms = call ? call->timeout_ms : 0;
	int err = client_enter(client);

	*out = NULL;
	r = err == 0 ? recipe_new(client, name, call, &err) : NULL;
	if (!r)
		return err;
	err = strchr(name, '/') ? recipe_of_part(r, timeout_ms) : recipe_load(r, timeout_ms, looked);
	if (err == 0)
		err = mixture_check(r, r->mode);
	if (err < 0) {
		granary_recipe_close(&r);
		return err;
	}
	*out = r;
	return 0;
}

int granary_recipe_open(struct granary_client *client, const char *name, struct granary_recipe **out,
	const struct granary_call *call)
{
	return recipe_open(client, name, out, call, false);
}

int granary_recipe_describe(const struct granary_recipe *r, struct granary_recipe_detail *detail)
{
	struct granary_recipe_detail all = { .name = r->name, .bucket = r->bucket, .text = r->text,
		.samples = r->samples, .bytes = r->bytes, .created_ns = r->created_ns, .block = r->recipe.block,
		.window = r->recipe.window, .lanes = r->recipe.lanes, .mode = r->mode, .fields = r->fields,
		.sources = r->recipe.sources_count, .stages = r->recipe.stages_count };

	if (!detail || detail->size < offsetof(struct granary_recipe_detail, samples))
		return -GRANARY_EINVAL;
	memcpy(all.id, &r->hash, sizeof(all.id));
	all.size = detail->size;
	memcpy(detail, &all, detail->size < sizeof(all) ? detail->size : sizeof(all));
	return 0;
}

int granary_recipe_source(const struct granary_recipe *r, uint32_t index, struct granary_recipe_source *source)
{
	if (index >= r->recipe.sources_count)
		return -GRANARY_ERANGE;
	const struct recipe_source *from = &r->recipe.sources[index];
	struct granary_snapshot *s = r->parts[index].snapshot;
	struct granary_recipe_source all = { .snapshot = from->snapshot, .handle = s, .samples = r->part_samples[index],
		.samples_of_snapshot = s->manifest.samples, .weight = from->weight, .repeat = from->repeat };

	if (!source || source->size < offsetof(struct granary_recipe_source, samples))
		return -GRANARY_EINVAL;
	all.size = source->size;
	memcpy(source, &all, source->size < sizeof(all) ? source->size : sizeof(all));
	return 0;
}

/* Its tables, kept for the next question. */
static int mix_asked(struct granary_recipe *r, const struct granary_recipe_positions *p)
{
	struct order_spec order = { .mode = p->mode ? (uint8_t)p->mode : r->mode, .block = r->recipe.block,
		.window = r->recipe.window, .lanes = r->recipe.lanes, .seed = p->seed, .epoch = p->epoch };
	const struct order_spec *had = &r->asked.order;
	char why[256];

	if (p->mode > GRANARY_MODE_NONE)
		return error_fail(r->client, -GRANARY_EINVAL, "granary_recipe_positions.mode is out of range");
	if (r->asked.sources && had->mode == order.mode && had->seed == order.seed && had->epoch == order.epoch)
		return 0;
	mix_release(&r->asked);
	int err = recipe_mix_init(r, &order, &r->asked, why, sizeof(why));
	return err < 0 ? error_fail(r->client, err, "'%s@%s': %s", r->bucket, r->name, why) : 0;
}

int granary_recipe_at(struct granary_recipe *r, const struct granary_recipe_positions *p)
{
	int err = !p || p->size < sizeof(*p) ? -GRANARY_EINVAL : mix_asked(r, p);

	for (uint32_t i = 0; err == 0 && i < p->count; i++) {
		uint64_t position = p->first + i * p->step;
		if (position >= r->asked.order.samples)
			return error_fail(r->client, -GRANARY_ERANGE,
				"position %llu of '%s@%s', which has %llu samples",
				(unsigned long long)position, r->bucket, r->name,
				(unsigned long long)r->asked.order.samples);
		struct mix_item item = mix_at(&r->asked, position);
		p->sources[i] = item.source;
		p->ids[i] = subset_id(&r->parts[item.source].subset, item.id);
	}
	return err;
}
