/* SPDX-License-Identifier: Apache-2.0 */
/* quality.c -- shuffle-quality: how well an order mixes the directories of a snapshot or recipe.
 * A directory is counted once however many sources of a recipe take from it, where they name one snapshot. */
#include "cli.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/order.h"

enum { BATCH_DEFAULT = 256, BATCH_MAX = 4096, ROUNDS = 64, WORLD = 8 };
enum { KEY_MAX = GRANARY_KEY_LEN_MAX + 80, DEPTH_MAX = KEY_MAX + 2 }; /* of a key that names a part of a file */

struct quality {
	struct granary_snapshot *snapshot; /* one of the two is NULL */
	struct granary_recipe *recipe;
	uint64_t samples;
	struct order_spec spec; /* of a snapshot; of a recipe: block, window and lanes */
	uint32_t mode;
	uint32_t *dirs[256];    /* of each source, of each sample of its snapshot */
	bool own[256];          /* not those of a source before it */
	uint32_t sources;
	uint32_t dirs_count, round;
	uint32_t *seen;         /* round in which a directory was seen */
	uint32_t batch[BATCH_MAX * WORLD]; /* scratch: sources of a batch, then its directories */
	uint64_t ids[BATCH_MAX * WORLD];
};

/* ---- directories of a snapshot ---- */

struct naming {
	struct quality *q;
	uint32_t *dirs;
	bool by_file; /* lines and windows: a file stands for its directory */
	/* the directories that the last key is in: lengths of their paths, and their numbers */
	char last[KEY_MAX + 1];
	uint32_t depth, lens[DEPTH_MAX], numbers[DEPTH_MAX];
};

/* Keys come depth first: a directory was met before if its path is still among those above. */
static uint32_t dir_of(struct naming *n, const char *key, uint32_t len)
{
	uint32_t common = 0;

	while (common < len && n->last[common] == key[common]) common++;
	while (n->depth > 0 && n->lens[n->depth - 1] > common) n->depth--;
	memcpy(n->last, key, len);
	n->last[len] = '\0';
	if (n->depth == 0 || n->lens[n->depth - 1] != len) {
		n->lens[n->depth] = len;
		n->numbers[n->depth++] = n->q->dirs_count++;
	}
	return n->numbers[n->depth - 1];
}

static int name_each(void *arg, const char *key, uint64_t id, uint32_t field)
{
	struct naming *n = arg;
	const char *border = strrchr(key, n->by_file ? '#' : '/');

	if (field == 0 && strlen(key) <= KEY_MAX)
		n->dirs[id] = dir_of(n, key, border != NULL ? (uint32_t)(border - key) + 1 : 0);
	return 0;
}

static int dirs_read(struct quality *q, struct granary_snapshot *s)
{
	struct granary_snapshot_detail d = GRANARY_INIT(granary_snapshot_detail);
	struct naming *n = must_alloc(calloc(1, sizeof(*n)));

	granary_snapshot_describe(s, &d);
	q->dirs[q->sources++] = n->dirs = must_alloc(calloc((size_t)d.samples + 1, sizeof(*n->dirs)));
	n->q = q;
	n->by_file = strstr(d.options, "split=lines") != NULL || strstr(d.options, "split=fixed") != NULL;
	int err = granary_snapshot_names(s, NULL, name_each, n);
	free(n);
	return err;
}

static int dirs_of_recipe(struct quality *q, uint32_t sources)
{
	struct granary_recipe_source s = GRANARY_INIT(granary_recipe_source), before = s;
	int err = 0;

	for (uint32_t i = 0; err == 0 && i < sources; i++) {
		uint32_t same = 0;
		granary_recipe_source(q->recipe, i, &s);
		while (same < i && granary_recipe_source(q->recipe, same, &before) == 0 &&
			strcmp(before.snapshot, s.snapshot) != 0)
			same++;
		if (same < i)
			q->dirs[q->sources++] = q->dirs[same];
		else
			err = dirs_read(q, s.handle);
	}
	return err;
}

static void dirs_free(struct quality *q)
{
	for (uint32_t i = 0; i < q->sources; i++) {
		uint32_t same = 0;
		while (q->dirs[same] != q->dirs[i]) same++;
		if (same == i) q->own[i] = true;
	}
	for (uint32_t i = 0; i < q->sources; i++)
		if (q->own[i]) free(q->dirs[i]);
}

/* ---- batches ---- */

/* The directories of `rows` positions from `start` on, `step` apart. */
static int batch_dirs(struct quality *q, uint32_t mode, uint64_t start, uint32_t rows, uint64_t step)
{
	struct order_spec spec = q->spec;
	struct order o;

	if (q->recipe != NULL) {
		struct granary_recipe_positions p = { .size = sizeof(p), .seed = opts.seed, .mode = mode,
			.first = start, .step = step, .count = rows, .sources = q->batch, .ids = q->ids };
		int err = granary_recipe_at(q->recipe, &p);
		for (uint32_t i = 0; err == 0 && i < rows; i++) q->batch[i] = q->dirs[q->batch[i]][q->ids[i]];
		return err;
	}
	spec.mode = (uint8_t)mode;
	int err = order_init(&o, &spec, NULL, 0);
	for (uint32_t i = 0; err == 0 && i < rows; i++) q->batch[i] = q->dirs[0][order_at(&o, start + i * step)];
	return err;
}

/* Distinct directories in a batch, over ROUNDS of them all along the epoch. */
static int batches_distinct(struct quality *q, uint32_t mode, uint64_t rows, uint64_t step, double *mean)
{
	uint64_t sum = 0;
	int err = 0;

	if (rows > (q->samples + step - 1) / step) rows = (q->samples + step - 1) / step;
	for (uint64_t k = 0; err == 0 && k < ROUNDS; k++) {
		uint64_t last = q->samples - 1 - (rows - 1) * step;
		err = batch_dirs(q, mode, last / ROUNDS * k, (uint32_t)rows, step);
		q->round++;
		for (uint32_t i = 0; err == 0 && i < rows; i++) {
			sum += q->seen[q->batch[i]] != q->round;
			q->seen[q->batch[i]] = q->round;
		}
	}
	*mean = (double)sum / ROUNDS;
	return err;
}

static void report_row(const struct quality *q, const char *what, uint64_t batch, double blocks, double exact)
{
	struct json j;

	if (!opts.json) {
		printf("%-22s blocks %8.1f   exact %8.1f   ratio %.3f\n", what, blocks, exact,
			exact > 0 ? blocks / exact : 1);
		return;
	}
	json_open(&j, stdout);
	json_text(&j, "of", what);
	json_number(&j, "directories", q->dirs_count);
	json_number(&j, "batch", batch);
	json_real(&j, "blocks", blocks);
	json_real(&j, "exact", exact);
	json_real(&j, "ratio", exact > 0 ? blocks / exact : 1);
	json_close(&j);
}

static int report(struct quality *q)
{
	uint64_t batch = opts.batch ? opts.batch : BATCH_DEFAULT;
	const struct { const char *what; uint64_t rows, step; } of[] = { { "one rank", batch, 1 },
		{ "a rank of 8", batch, WORLD }, { "the global batch of 8", batch * WORLD, 1 } };
	double blocks, exact;

	q->seen = must_alloc(calloc((size_t)q->dirs_count + 1, sizeof(*q->seen)));
	if (!opts.json)
		printf("distinct directories in a batch of %" PRIu64 ", of %u; the %s's order is %s, block %" PRIu64
			" samples, window %" PRIu64 " blocks, %u lanes\n",
			batch, q->dirs_count, q->recipe != NULL ? "recipe" : "snapshot", mode_name(q->mode),
			q->spec.block, q->spec.window, q->spec.lanes);
	for (size_t i = 0; i < 3; i++) {
		int err = batches_distinct(q, GRANARY_MODE_BLOCKS, of[i].rows, of[i].step, &blocks);
		if (err == 0) err = batches_distinct(q, GRANARY_MODE_EXACT, of[i].rows, of[i].step, &exact);
		if (err < 0) return err;
		report_row(q, of[i].what, batch, blocks, exact);
	}
	return 0;
}

/* ---- snapshots, recipes: 0, an error, or 1 when what is wrong with the options was said ---- */

static int quality_snapshot(struct quality *q)
{
	struct granary_snapshot_detail d = GRANARY_INIT(granary_snapshot_detail);
	struct order o;
	char why[256];

	granary_snapshot_describe(q->snapshot, &d);
	q->samples = d.samples;
	q->mode = d.mode;
	q->spec = (struct order_spec){ .mode = ORDER_BLOCKS, .samples = d.samples,
		.block = opts.block ? opts.block : d.block, .window = opts.window ? opts.window : d.window,
		.lanes = opts.lanes ? (uint32_t)opts.lanes : d.lanes, .seed = opts.seed };
	if (order_init(&o, &q->spec, why, sizeof(why)) < 0) {
		fail(CLI_USAGE, "%s", why);
		return 1;
	}
	int err = dirs_read(q, q->snapshot);
	return err < 0 ? err : report(q);
}

static int quality_recipe(struct quality *q)
{
	struct granary_recipe_detail d = GRANARY_INIT(granary_recipe_detail);

	if (opts.block || opts.window || opts.lanes) {
		fail(CLI_USAGE, "--block, --window and --lanes are for snapshots: a recipe's are part of it; make "
			"another with other ones");
		return 1;
	}
	granary_recipe_describe(q->recipe, &d);
	q->samples = d.samples;
	q->mode = d.mode;
	q->spec = (struct order_spec){ .block = d.block, .window = d.window, .lanes = d.lanes };
	int err = dirs_of_recipe(q, d.sources);
	return err < 0 ? err : report(q);
}

int run_shuffle_quality(int count, char **args)
{
	struct quality *q = must_alloc(calloc(1, sizeof(*q)));
	char name[SNAPSHOT_NAME_CAP];
	struct remote r;
	int err, code = remote_open_snapshot(&r, args[0], name, 1);

	(void)count;
	if (code == CLI_OK) {
		err = granary_snapshot_open(r.client, name, &q->snapshot, GRANARY_CALL(.bucket = r.bucket));
		if (err == -GRANARY_ENOTFOUND)
			err = granary_recipe_open(r.client, name, &q->recipe, GRANARY_CALL(.bucket = r.bucket));
		if (err == 0) err = q->recipe != NULL ? quality_recipe(q) : quality_snapshot(q);
		if (err < 0)
			code = fail_remote(r.client, err, "cannot read '%s'", shown(args[0]));
		if (err > 0) code = CLI_USAGE;
		dirs_free(q);
		granary_recipe_close(&q->recipe);
		granary_snapshot_close(&q->snapshot);
		remote_close(&r);
	}
	free(q->seen);
	free(q);
	return code;
}
