/* SPDX-License-Identifier: Apache-2.0 */
/* recipe.c -- recipes: create, ls, show, rm. */
#include "cli.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { CREATE_TIMEOUT_MS = 3600 * 1000, TEXT_MAX = 1 << 20 };

static void info_json(struct remote *r, const struct granary_recipe_info *e)
{
	struct json j;
	char id[33];

	id_text(id, e->id);
	json_open(&j, stdout);
	json_text(&j, "bucket", r->bucket);
	json_text(&j, "recipe", e->name);
	json_text(&j, "id", id);
	json_text(&j, "note", e->note);
	json_number(&j, "samples", e->samples);
	json_number(&j, "sources", e->sources);
	json_time(&j, "created", wall_of_store_time(r, e->created_ns));
	json_close(&j);
}

/* ---- create -------------------------------------------------------------------------------- */

/* A byte more than a recipe may have is enough to know that there are too many. */
static int text_read(char *text, size_t *len)
{
	FILE *from = strcmp(opts.file, "-") == 0 ? stdin : fopen(opts.file, "re");

	if (from == NULL) return fail_errno(errno, "cannot read '%s'", shown(opts.file));
	*len = fread(text, 1, TEXT_MAX + 1, from);
	int bad = ferror(from);
	if (from != stdin) fclose(from);
	if (bad) return fail(CLI_FAILED, "cannot read '%s'", shown(opts.file));
	if (*len > TEXT_MAX) return fail(CLI_USAGE, "'%s' is larger than 1 MiB", shown(opts.file));
	return CLI_OK;
}

static int create(struct remote *r, const char *name, const char *text, size_t len)
{
	struct granary_recipe_info *info;
	char samples[TEXT_SHORT];
	int err = granary_recipe_create(r->client, name, text, len, opts.note, &info,
		GRANARY_CALL(.bucket = r->bucket, .timeout_ms = opts.timeout_s > 0 ? 0 : CREATE_TIMEOUT_MS));

	if (err < 0) {
		int code = fail_remote(r->client, err, "cannot make recipe '%s@%s'", r->bucket, shown(name));
		return err == -GRANARY_EINVAL ? CLI_USAGE : code;
	}
	if (opts.json)
		info_json(r, info);
	else
		note("%s@%s: %u sources%s%s", r->bucket, shown(name), info->sources,
			info->samples > 0 ? ", samples an epoch: " : "",
			info->samples > 0 ? human_count(samples, info->samples) : "");
	granary_free(info);
	return CLI_OK;
}

int run_recipe_create(int count, char **args)
{
	char name[SNAPSHOT_NAME_CAP], *text;
	struct remote r;
	size_t len = 0;
	int code;

	(void)count;
	if (opts.file == NULL) return fail(CLI_USAGE, "which text? give --file FILE, or --file - for standard input");
	text = must_alloc(malloc(TEXT_MAX + 1));
	code = text_read(text, &len);
	if (code == CLI_OK) code = remote_open_named(&r, args[0], name);
	if (code == CLI_OK) {
		code = create(&r, name, text, len);
		remote_close(&r);
	}
	free(text);
	return code;
}

/* ---- ls, show ------------------------------------------------------------------------------ */

static void ls_row(struct table *t, struct remote *r, const struct granary_recipe_info *e)
{
	char samples[TEXT_SHORT], sources[TEXT_SHORT], created[TEXT_SHORT];

	if (opts.json) {
		info_json(r, e);
		return;
	}
	table_row(t, (const char *[]){ e->name, e->samples > 0 ? human_count(samples, e->samples) : "(by repeat)",
			     human_count(sources, e->sources),
			     human_time(created, wall_of_store_time(r, e->created_ns)),
			     shown(e->note) });
}

int run_recipe_ls(int count, char **args)
{
	char name[SNAPSHOT_NAME_CAP], after[SNAPSHOT_NAME_CAP] = "";
	struct granary_recipe_page *page;
	struct table t;
	struct remote r;
	bool more = true;
	int err = 0, code = remote_open_snapshot(&r, args[0], name, 1);

	(void)count;
	if (code != CLI_OK) return code;
	table_init(&t, 5, 1u << 1 | 1u << 2);
	while (more) {
		err = granary_recipe_list(
			r.client, after[0] != '\0' ? after : NULL, &page, GRANARY_CALL(.bucket = r.bucket));
		if (err < 0) break;
		for (uint32_t i = 0; i < page->count; i++) {
			if (i == 0 && after[0] == '\0' && !opts.json && stdout_is_tty())
				table_row(&t, (const char *[]){ "RECIPE", "SAMPLES", "SOURCES", "CREATED", "NOTE" });
			if (name[0] == '\0' || strcmp(name, page->entries[i].name) == 0)
				ls_row(&t, &r, &page->entries[i]);
		}
		more = page->more != 0 && page->count > 0;
		if (page->count > 0) snprintf(after, sizeof(after), "%s", page->entries[page->count - 1].name);
		granary_free(page);
	}
	table_end(&t);
	if (err < 0) code = fail_remote(r.client, err, "cannot list the recipes of '%s'", r.bucket);
	remote_close(&r);
	return code;
}

static void source_json(struct json *j, const struct granary_recipe_source *s)
{
	char text[512];

	snprintf(text, sizeof(text), "%s samples=%" PRIu64 " of=%" PRIu64 " weight=%u repeat=%u", s->snapshot,
		s->samples,	s->samples_of_snapshot, s->weight, s->repeat);
	json_item(j, text);
}

static void show_json(struct remote *r, const struct granary_recipe *recipe, const struct granary_recipe_detail *d)
{
	struct granary_recipe_source s = GRANARY_INIT(granary_recipe_source);
	struct json j;
	char id[33];

	id_text(id, d->id);
	json_open(&j, stdout);
	json_text(&j, "bucket", d->bucket);
	json_text(&j, "recipe", d->name);
	json_text(&j, "id", id);
	json_time(&j, "created", wall_of_store_time(r, d->created_ns));
	json_number(&j, "samples", d->samples);
	json_number(&j, "fields", d->fields);
	json_text(&j, "mode", mode_name(d->mode));
	json_number(&j, "block", d->block);
	json_number(&j, "window", d->window);
	json_number(&j, "lanes", d->lanes);
	json_number(&j, "stages", d->stages);
	json_array(&j, "sources");
	for (uint32_t i = 0; i < d->sources && granary_recipe_source(recipe, i, &s) == 0; i++) source_json(&j, &s);
	json_array_end(&j);
	json_text(&j, "text", d->text);
	json_close(&j);
}

static void show_text(struct remote *r, const struct granary_recipe *recipe, const struct granary_recipe_detail *d)
{
	struct granary_recipe_source s = GRANARY_INIT(granary_recipe_source);
	char a[TEXT_SHORT], b[TEXT_SHORT], id[33];

	id_text(id, d->id);
	printf("recipe       %s@%s\nid           %s\n", d->bucket, shown(d->name), id);
	printf("created      %s\n", human_time(a, wall_of_store_time(r, d->created_ns)));
	printf("samples      %s an epoch, about %s\n", human_count(a, d->samples), human_bytes(b, d->bytes));
	printf("order        %s; block %" PRIu64 " samples, window %" PRIu64 " blocks, %u lanes\n", mode_name(d->mode),
		d->block, d->window, d->lanes);
	for (uint32_t i = 0; i < d->sources && granary_recipe_source(recipe, i, &s) == 0; i++)
		printf("source %-5u %s: %s of its %s samples; %s %u\n", i, shown(s.snapshot), human_count(a, s.samples),
			human_count(b, s.samples_of_snapshot), s.repeat > 0 ? "repeat" : "weight",
			s.repeat > 0 ? s.repeat : s.weight);
	printf("text         %s\n", d->text);
}

int run_recipe_show(int count, char **args)
{
	struct granary_recipe_detail detail = GRANARY_INIT(granary_recipe_detail);
	char name[SNAPSHOT_NAME_CAP];
	struct granary_recipe *recipe;
	struct remote r;
	int err, code = remote_open_named(&r, args[0], name);

	(void)count;
	if (code != CLI_OK) return code;
	err = granary_recipe_open(r.client, name, &recipe, GRANARY_CALL(.bucket = r.bucket));
	if (err < 0) {
		code = fail_recipe(&r, err, name, "open");
	} else {
		granary_recipe_describe(recipe, &detail);
		if (opts.json)
			show_json(&r, recipe, &detail);
		else
			show_text(&r, recipe, &detail);
		granary_recipe_close(&recipe);
	}
	remote_close(&r);
	return code;
}

/* ---- rm ------------------------------------------------------------------------------------ */

static int remove_named(struct remote *r, const char *name)
{
	const struct granary_call *call = GRANARY_CALL(.bucket = r->bucket);
	int code = CLI_OK, err = 0;
	struct json j;

	if (opts.dry_run && !opts.json) printf("would remove recipe '%s@%s'\n", r->bucket, shown(name));
	if (!opts.dry_run) code = ask("remove recipe '%s@%s'", r->bucket, shown(name));
	if (code != CLI_OK) return code;
	if (!opts.dry_run)
		err = granary_recipe_remove(r->client, name, opts.force ? GRANARY_SNAPSHOT_FORCE : 0, call);
	if (err < 0) return fail_recipe(r, err, name, "remove");
	if (opts.json) {
		json_open(&j, stdout);
		json_text(&j, "bucket", r->bucket);
		json_text(&j, "recipe", name);
		json_text(&j, "done", opts.dry_run ? "would remove" : "removed");
		json_close(&j);
	}
	return CLI_OK;
}

int run_recipe_rm(int count, char **args)
{
	return remote_each_named(count, args, remove_named);
}
