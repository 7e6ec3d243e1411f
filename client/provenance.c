/* SPDX-License-Identifier: Apache-2.0 */
/* provenance.c -- what a job was given: its log as the server keeps it (PROTOCOL 4.12), and computing a line of it
 * again from the table of the snapshot or recipe (docs/ORDER.md 9), without reading a sample. */
#include "recipe_priv.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "range.h"

enum { LOG_PAGE = 1000, CURSOR_MAX = 256 };

/* ---- the log ---- */

static const struct rpc_kind log_rpc = { .wire_op = OP_PROVENANCE, .own_meta = true, .body_size = simple_body_size,
	.encode = simple_encode, .answer = simple_answer };

struct log {
	char *text;
	size_t len;
	uint8_t cursor[CURSOR_MAX];
	size_t cursor_len;
	bool more;
};

static int log_decode(struct simple_op *s, struct slice meta, struct slice data)
{
	struct cur c = cur_of(meta.p, meta.len);
	struct log *log = s->out;

	log->more = cur_u8(&c) != 0;
	cur_u32(&c);
	struct slice cursor = cur_bytes16(&c);
	if (!cur_done(&c) || cursor.len > sizeof(log->cursor) || (log->more && cursor.len == 0))
		return -GRANARY_EPROTO;
	char *grown = realloc(log->text, log->len + data.len + 1);
	if (!grown)
		return -GRANARY_ENOMEM;
	log->text = grown;
	text_put(log->text + log->len, data);
	log->len += data.len;
	log->cursor_len = cursor.len;
	if (cursor.len > 0)
		memcpy(log->cursor, cursor.p, cursor.len);
	return 0;
}

int granary_provenance(struct granary_client *client, const char *job, char **text, const struct granary_call *call)
{
	struct log log = { .more = true };
	int err = 0;

	*text = NULL;
	while (err == 0 && log.more) {
		struct wr w;
		struct simple_op *s = simple_new(client, &log_rpc, call, text_size(job) + 2 + log.cursor_len + 4, &w,
			&err);
		if (!s)
			break;
		text_encode(&w, job);
		wr_bytes16(&w, slice_of(log.cursor, log.cursor_len));
		wr_u32(&w, LOG_PAGE);
		s->decode = log_decode;
		s->out = &log;
		err = (int)simple_run(s, &w);
	}
	if (err < 0)
		free(log.text);
	else
		*text = log.text;
	return err;
}

/* ---- computing a line again ---- */

struct again {
	struct granary_client *client;
	struct granary_snapshot *snapshot;
	struct granary_recipe *recipe;
	struct token token;
	struct order order;
	struct mix mix;
	struct order_ranks ranks;
	char source[GRANARY_BUCKET_LEN_MAX + 1 + SNAPSHOT_NAME_MAX + 1];
	uint64_t first, step, batches; /* the batches of the rank: first, first + step, ... */
	uint64_t samples, checksum, skipped;
	const char *skips;          /* in the line, the next one */
	struct provenance_skip skip;
	bool has_skip;
};

/* The value of `name=`; NULL without it. */
static const char *field(const char *line, const char *name, size_t *len)
{
	size_t name_len = strlen(name);

	for (const char *p = line; *p && *p != '\n'; p += strcspn(p, " \n"), p += *p == ' ') {
		if (strncmp(p, name, name_len) != 0 || p[name_len] != '=')
			continue;
		*len = strcspn(p + name_len + 1, " \n");
		return p + name_len + 1;
	}
	return NULL;
}

static bool number(const char *line, const char *name, int base, uint64_t *out)
{
	size_t len;
	const char *p = field(line, name, &len);
	char *end;

	if (!p || len == 0 || strspn(p, "0123456789abcdef") < len)
		return false;
	*out = strtoull(p, &end, base);
	return end == p + len;
}

/* Several may stand at one position of different ranks' lines, but in one line each position once. */
static void skip_next(struct again *a)
{
	char *end;

	a->has_skip = a->skips && *a->skips >= '0' && *a->skips <= '9';
	if (!a->has_skip)
		return;
	a->skip.position = strtoull(a->skips, &end, 10);
	a->skip.source = *end == ':' ? (uint32_t)strtoul(end + 1, &end, 10) : 0;
	a->skip.lost = *end == ':' ? strtoull(end + 1, &end, 10) : 0;
	a->skip.substitute = *end == ':' ? strtoull(end + 1, &end, 10) : 0;
	a->skips = *end == ',' ? end + 1 : end;
}

static int line_parse(struct again *a, const char *line, struct order_ranks_spec *ranks)
{
	uint64_t rank, world, batch, last;
	size_t len, token_len;
	const char *source = field(line, "recipe", &len), *token = field(line, "token", &token_len);
	char why[256] = "";

	if (!source)
		source = field(line, "snapshot", &len);
	if (!source || len >= sizeof(a->source) || !token || !number(line, "rank", 10, &rank) ||
		!number(line, "world", 10, &world) || !number(line, "batch", 10, &batch) ||
		!number(line, "last", 10, &last) || !number(line, "first", 10, &a->first) ||
		!number(line, "step", 10, &a->step) || !number(line, "batches", 10, &a->batches) ||
		!number(line, "samples", 10, &a->samples) || !number(line, "checksum", 16, &a->checksum) ||
		!number(line, "skipped", 10, &a->skipped))
		return error_fail(a->client, -GRANARY_EINVAL, "this is no line of a job's log");
	snprintf(a->source, sizeof(a->source), "%.*s", (int)len, source);
	int err = token_from_text(&a->token, token, token_len, why, sizeof(why));
	if (err < 0)
		return error_fail(a->client, err, "the token in the line: %s", why);
	*ranks = (struct order_ranks_spec){ .start = a->token.position, .ranks = (uint32_t)world,
		.rank = (uint32_t)rank, .batch = (uint32_t)batch, .last = (uint8_t)last };
	a->skips = field(line, "skips", &len);
	return 0;
}

static int source_open(struct again *a)
{
	char *at = strchr(a->source, '@');
	struct hash128 hash;
	int err;

	if (!at)
		return error_fail(a->client, -GRANARY_EINVAL, "this is no line of a job's log");
	*at = '\0';
	part_name_unescape(at + 1);
	if (a->token.of_recipe)
		err = granary_recipe_open(a->client, at + 1, &a->recipe, GRANARY_CALL(.bucket = a->source));
	else
		err = granary_snapshot_open(a->client, at + 1, &a->snapshot, GRANARY_CALL(.bucket = a->source));
	*at = '@';
	if (err < 0)
		return err;
	hash = a->recipe ? a->recipe->hash : a->snapshot->hash;
	if (hash.lo != a->token.source.lo || hash.hi != a->token.source.hi)
		return error_fail(a->client, -GRANARY_ECHANGED, "'%s' is another one than the job was given: it was "
			"removed, and another made under its name", a->source);
	return 0;
}

static int order_again(struct again *a, struct order_ranks_spec *ranks)
{
	char why[256];
	uint64_t samples = a->recipe ? a->recipe->samples : a->snapshot->manifest.samples;
	struct order_spec spec = token_order(&a->token, samples);
	int err = a->recipe ? recipe_mix_init(a->recipe, &spec, &a->mix, why, sizeof(why)) :
		order_init(&a->order, &spec, why, sizeof(why));

	ranks->samples = samples;
	if (err == 0)
		err = order_ranks_init(&a->ranks, ranks, why, sizeof(why));
	if (err == 0 && a->batches > 0 &&
		(a->step == 0 || a->first >= a->ranks.batches ||
			a->batches - 1 > (a->ranks.batches - 1 - a->first) / a->step))
		return error_fail(a->client, -GRANARY_EINVAL, "the line has %llu batches, the epoch %llu",
			(unsigned long long)a->batches, (unsigned long long)a->ranks.batches);
	return err < 0 ? error_fail(a->client, err, "'%s': %s", a->source, why) : 0;
}

/* What a position gave, the replaced samples as the line says. */
static int position_again(struct again *a, uint64_t position, uint64_t *sum)
{
	struct granary_snapshot *s = a->snapshot;
	uint64_t id;

	if (a->recipe) {
		struct mix_item item = mix_at(&a->mix, position);
		s = a->recipe->parts[item.source].snapshot;
		id = subset_id(&a->recipe->parts[item.source].subset, item.id);
	} else {
		id = order_at(&a->order, position);
	}
	if (a->has_skip && a->skip.position == position) {
		if (a->skip.lost != id || a->skip.substitute >= s->manifest.samples)
			return error_fail(a->client, -GRANARY_ECORRUPT, "position %llu is sample %llu, the line says "
				"that %llu was replaced there", (unsigned long long)position, (unsigned long long)id,
				(unsigned long long)a->skip.lost);
		id = a->skip.substitute;
		skip_next(a);
	}
	return range_sample_checksum(s, id, position, sum);
}

static int sum_again(struct again *a)
{
	uint64_t checksum = 0, samples = 0, sum;

	skip_next(a);
	for (uint64_t k = a->first, end = a->first + a->batches * a->step; k < end; k += a->step) {
		uint32_t rows = order_ranks_rows(&a->ranks, k);
		for (uint32_t i = 0; i < rows; i++) {
			uint64_t position = order_ranks_position(&a->ranks, k, i);
			if (order_ranks_padded(&a->ranks, position))
				continue;
			int err = position_again(a, position, &sum);
			if (err < 0)
				return err;
			checksum += sum;
			samples++;
		}
	}
	if (checksum != a->checksum || samples != a->samples)
		return error_fail(a->client, -GRANARY_ECORRUPT, "%llu samples with checksum %016" PRIx64 ", the log "
			"has %llu with %016" PRIx64, (unsigned long long)samples, checksum,
			(unsigned long long)a->samples,
			a->checksum);
	return 0;
}

int granary_provenance_verify(struct granary_client *client, const char *line)
{
	struct again a = { .client = client };
	struct order_ranks_spec ranks;
	int err = client_enter(client);

	if (err == 0)
		err = line_parse(&a, line, &ranks);
	if (err == 0 && a.skipped > PROVENANCE_SKIPS_MAX)
		err = error_fail(client, -GRANARY_EUNSUPPORTED, "%llu samples were replaced; the log names only the "
			"first %d", (unsigned long long)a.skipped, PROVENANCE_SKIPS_MAX);
	if (err == 0)
		err = source_open(&a);
	if (err == 0)
		err = order_again(&a, &ranks);
	if (err == 0)
		err = sum_again(&a);
	mix_release(&a.mix);
	granary_recipe_close(&a.recipe);
	granary_snapshot_close(&a.snapshot);
	return err;
}
