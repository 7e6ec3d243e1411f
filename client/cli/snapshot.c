/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot.c -- snapshots: create, ls, show, rm, diff, verify. */
#include "cli.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT_TAGS = 512 };
enum { CREATE_TIMEOUT_MS = 24 * 3600 * 1000, VERIFY_BATCH = 256 };

static const char *const mode_names[] = { "auto", "exact", "blocks", "none" };

static const char *state_name(uint32_t state)
{
	return state == GRANARY_SNAPSHOT_READY      ? "ready"
	       : state == GRANARY_SNAPSHOT_CREATING ? "creating"
						    : "removing";
}

void id_text(char out[33], const uint8_t id[16])
{
	for (int i = 0; i < 16; i++) snprintf(out + 2 * i, 3, "%02x", id[15 - i]); /* high digits first: FORMAT 8.1 */
}

const char *mode_name(uint32_t mode)
{
	return mode_names[mode < 4 ? mode : 0];
}

int remote_open_named(struct remote *r, const char *text, char name[SNAPSHOT_NAME_CAP])
{
	int code = remote_open_snapshot(r, text, name, 1);

	if (code == CLI_OK && name[0] == '\0') {
		code = fail(CLI_USAGE, "'%s' names no snapshot or recipe; write BUCKET@NAME", shown(text));
		remote_close(r);
	}
	return code;
}

int fail_snapshot(struct remote *r, int err, const char *name, const char *doing)
{
	struct granary_recipe_info *recipe;
	int code = fail_remote(r->client, err, "cannot %s snapshot '%s@%s'", doing, r->bucket, shown(name));

	if (err == -GRANARY_ENOTFOUND &&
		granary_recipe_show(r->client, name, &recipe, GRANARY_CALL(.bucket = r->bucket)) == 0) {
		note("'%s@%s' is a recipe, a mixture of snapshots without a table or packs of its own: granary recipe "
			"shows and removes it, stream, snapshot verify and shuffle-quality take it",
			r->bucket, shown(name));
		granary_free(recipe);
	}
	return code;
}

int fail_recipe(struct remote *r, int err, const char *name, const char *doing)
{
	struct granary_snapshot_info *snapshot;
	int code = fail_remote(r->client, err, "cannot %s recipe '%s@%s'", doing, r->bucket, shown(name));

	if (err == -GRANARY_ENOTFOUND &&
		granary_snapshot_show(r->client, name, &snapshot, GRANARY_CALL(.bucket = r->bucket)) == 0) {
		note("'%s@%s' is a snapshot: see granary snapshot --help", r->bucket, shown(name));
		granary_free(snapshot);
	}
	return code;
}

static void info_json(struct remote *r, const struct granary_snapshot_info *e)
{
	struct json j;
	char id[33];

	id_text(id, e->id);
	json_open(&j, stdout);
	json_text(&j, "bucket", r->bucket);
	json_text(&j, "snapshot", e->name);
	json_text(&j, "state", state_name(e->state));
	json_text(&j, "id", id);
	json_text(&j, "prefix", e->prefix);
	json_text(&j, "note", e->note);
	if (e->tags[0] != '\0') json_text(&j, "tags", e->tags);
	json_number(&j, "samples", e->samples);
	json_number(&j, "bytes", e->bytes);
	json_number(&j, "bytes_alone", e->bytes_alone);
	json_time(&j, "created", wall_of_store_time(r, e->created_ns));
	json_time(&j, "expires", wall_of_store_time(r, e->expires_ns));
	if (e->warnings[0] != '\0') json_text(&j, "warnings", e->warnings);
	json_close(&j);
}

/* ---- create -------------------------------------------------------------------------------- */

static int mode_of(const char *text, uint32_t *mode)
{
	*mode = 0;
	for (uint32_t i = 0; text != NULL && i < 4; i++)
		if (strcmp(text, mode_names[i]) == 0) {
			*mode = i;
			return CLI_OK;
		}
	return text == NULL ? CLI_OK
			    : fail(CLI_USAGE, "--mode: '%s' is none of auto, exact, blocks, none",
				      shown(text));
}

/* "fixed:8KiB" as the server takes it. */
static int split_of(const char *text, char out[TEXT_SHORT], const char **split)
{
	uint64_t bytes;

	*split = text;
	if (text == NULL || strncmp(text, "fixed:", 6) != 0) return CLI_OK;
	if (parse_size(text + 6, &bytes) < 0)
		return fail(CLI_USAGE, "--split: '%s' is no size, like 8KiB", shown(text + 6));
	snprintf(out, TEXT_SHORT, "fixed:%" PRIu64, bytes);
	*split = out;
	return CLI_OK;
}

static void say_lines(const char *text)
{
	while (*text != '\0') {
		size_t len = strcspn(text, "\n");
		if (len > 0) note("warning: %.*s", (int)len, text);
		text += len + (text[len] != '\0');
	}
}

static int create(struct remote *r, const char *name)
{
	struct granary_snapshot_spec spec = GRANARY_INIT(granary_snapshot_spec);
	struct granary_snapshot_info *info;
	char samples[TEXT_SHORT], bytes[TEXT_SHORT], split[TEXT_SHORT];
	int code = mode_of(opts.mode, &spec.mode), err;

	if (code == CLI_OK) code = split_of(opts.split, split, &spec.split);
	if (code != CLI_OK) return code;
	spec.prefix = opts.prefix;
	spec.group = opts.group;
	spec.include = opts.include;
	spec.exclude = opts.exclude;
	spec.block = opts.block;
	spec.window = opts.window;
	spec.lanes = (uint32_t)opts.lanes;
	spec.expire_s = opts.expire_s;
	spec.note = opts.note;
	spec.tags = opts.tags;
	spec.keep_last = (uint32_t)opts.keep_last;
	if (opts.dry_run) {
		if (!opts.json)
			printf("would make snapshot '%s@%s' of '%s'\n", r->bucket, shown(name),
				shown(opts.prefix != NULL ? opts.prefix : ""));
		return CLI_OK;
	}
	err = granary_snapshot_create(r->client, name, &spec, &info,
		GRANARY_CALL(.bucket = r->bucket, .timeout_ms = opts.timeout_s > 0 ? 0 : CREATE_TIMEOUT_MS));
	if (err < 0)
		return fail_remote(r->client, err, "cannot make snapshot '%s@%s'", r->bucket, shown(name));
	say_lines(info->warnings);
	if (opts.json)
		info_json(r, info);
	else
		note("%s@%s: %s samples, %s", r->bucket, shown(name), human_count(samples, info->samples),
			human_bytes(bytes, info->bytes));
	granary_free(info);
	return CLI_OK;
}

int run_snapshot_create(int count, char **args)
{
	char name[SNAPSHOT_NAME_CAP];
	struct remote r;
	int code = remote_open_named(&r, args[0], name);

	(void)count;
	if (code != CLI_OK) return code;
	code = r.path[0] == '\0' ? create(&r, name)
				 : fail(CLI_USAGE, "'%s' goes below the snapshot; give --prefix", shown(args[0]));
	remote_close(&r);
	return code;
}

/* ---- ls, show ------------------------------------------------------------------------------ */

/* "a=1, b=2" of lines. */
static const char *tags_text(const char *lines, char out[TEXT_TAGS])
{
	size_t len = 0;

	for (out[0] = '\0'; *lines != '\0' && len < TEXT_TAGS - 3; lines += *lines != '\0') {
		size_t n = strcspn(lines, "\n");
		len += (size_t)snprintf(out + len, TEXT_TAGS - len, "%s%.*s", len > 0 ? ", " : "", (int)n, lines);
		lines += n;
	}
	return out;
}

static void ls_row(struct table *t, struct remote *r, const struct granary_snapshot_info *e)
{
	char samples[TEXT_SHORT], bytes[TEXT_SHORT], alone[TEXT_SHORT], created[TEXT_SHORT], expires[TEXT_SHORT];
	char tags[TEXT_TAGS];

	if (opts.json) {
		info_json(r, e);
		return;
	}
	table_row(t, (const char *[]){ e->name, e->state == GRANARY_SNAPSHOT_READY ? human_count(samples, e->samples)
										   : state_name(e->state),
			     human_bytes(bytes, e->bytes), human_bytes(alone, e->bytes_alone),
			     human_time(created, wall_of_store_time(r, e->created_ns)),
			     human_time(expires, wall_of_store_time(r, e->expires_ns)), e->prefix,
			     shown(tags_text(e->tags, tags)), shown(e->note) });
}

int run_snapshot_ls(int count, char **args)
{
	char name[SNAPSHOT_NAME_CAP], after[SNAPSHOT_NAME_CAP] = "";
	struct granary_snapshot_page *page;
	struct table t;
	struct remote r;
	bool more = true;
	int err = 0, code = remote_open_snapshot(&r, args[0], name, 1);

	(void)count;
	if (code != CLI_OK) return code;
	table_init(&t, 9, 1u << 1 | 1u << 2 | 1u << 3);
	while (more && err == 0) {
		err = granary_snapshot_list(
			r.client, after[0] != '\0' ? after : NULL, &page, GRANARY_CALL(.bucket = r.bucket));
		if (err < 0) break;
		for (uint32_t i = 0; i < page->count; i++) {
			if (i == 0 && after[0] == '\0' && !opts.json && stdout_is_tty())
				table_row(&t, (const char *[]){ "SNAPSHOT", "SAMPLES", "SIZE", "ALONE", "CREATED",
						      "EXPIRES", "PREFIX", "TAGS", "NOTE" });
			if (name[0] == '\0' || strcmp(name, page->entries[i].name) == 0)
				ls_row(&t, &r, &page->entries[i]);
		}
		more = page->more != 0 && page->count > 0;
		if (page->count > 0)
			snprintf(after, sizeof(after), "%s", page->entries[page->count - 1].name);
		granary_free(page);
	}
	table_end(&t);
	if (err < 0) code = fail_remote(r.client, err, "cannot list the snapshots of '%s'", r.bucket);
	remote_close(&r);
	return code;
}

static double files_a_directory(const struct granary_snapshot_detail *d)
{
	return d->directories == 0 ? 0 : (double)d->samples * d->fields / (double)d->directories;
}

static void show_json(struct remote *r, const struct granary_snapshot_detail *d)
{
	struct json j;
	char id[33], number[TEXT_SHORT];

	id_text(id, d->id);
	json_open(&j, stdout);
	json_text(&j, "bucket", d->bucket);
	json_text(&j, "snapshot", d->name);
	json_text(&j, "id", id);
	json_text(&j, "prefix", d->prefix);
	json_text(&j, "options", d->options);
	json_time(&j, "created", wall_of_store_time(r, d->created_ns));
	json_number(&j, "samples", d->samples);
	json_number(&j, "bytes", d->bytes);
	json_number(&j, "directories", d->directories);
	json_real(&j, "files_per_directory", files_a_directory(d));
	json_number(&j, "incomplete", d->incomplete);
	json_number(&j, "fields", d->fields);
	json_number(&j, "smallest", d->smallest);
	json_number(&j, "largest", d->largest);
	json_text(&j, "mode", mode_name(d->mode));
	json_number(&j, "block", d->block);
	json_number(&j, "window", d->window);
	json_number(&j, "lanes", d->lanes);
	json_number(&j, "pages", d->pages);
	json_number(&j, "names_pages", d->names_pages);
	json_array(&j, "histogram");
	for (int i = 0; i < 48; i++) {
		snprintf(number, sizeof(number), "%" PRIu64, d->histogram[i]);
		json_item(&j, number);
	}
	json_array_end(&j);
	json_close(&j);
}

static void show_text(struct remote *r, const struct granary_snapshot_detail *d)
{
	char a[TEXT_SHORT], b[TEXT_SHORT], id[33];

	id_text(id, d->id);
	printf("snapshot     %s@%s\nid           %s\nprefix       %s\n", d->bucket, shown(d->name), id,
		shown(d->prefix));
	printf("created      %s\n", human_time(a, wall_of_store_time(r, d->created_ns)));
	printf("samples      %s, %s", human_count(a, d->samples), human_bytes(b, d->bytes));
	printf("; the smallest %s, ", human_bytes(a, d->smallest));
	printf("the largest %s\n", human_bytes(a, d->largest));
	printf("directories  %s, of %.1f files on average\n", human_count(a, d->directories), files_a_directory(d));
	if (d->fields > 1)
		printf("fields       %u files a sample; %" PRIu64 " groups left out as incomplete\n", d->fields,
			d->incomplete);
	printf("order        %s; block %" PRIu64 " samples, window %" PRIu64 " blocks, %u lanes\n",
		mode_name(d->mode), d->block, d->window, d->lanes);
	printf("table        %u pages, %u of names\n", d->pages, d->names_pages);
	for (const char *p = d->options; *p != '\0';) {
		size_t len = strcspn(p, "\n");
		if (len > 0) printf("option       %.*s\n", (int)len, p);
		p += len + (p[len] != '\0');
	}
	for (int i = 0; i < 48; i++)
		if (d->histogram[i] > 0)
			printf("size         %9s and up: %s samples\n", human_bytes(b, i == 0 ? 0 : 1ull << i),
				human_count(a, d->histogram[i]));
}

/* Opens the client and the snapshot behind it. */
static int open_snapshot(struct remote *r, const char *text, struct granary_snapshot **snapshot)
{
	char name[SNAPSHOT_NAME_CAP];
	int err, code = remote_open_named(r, text, name);

	if (code != CLI_OK) return code;
	err = granary_snapshot_open(r->client, name, snapshot, GRANARY_CALL(.bucket = r->bucket));
	if (err < 0) {
		code = fail_snapshot(r, err, name, "open");
		remote_close(r);
	}
	return code;
}

int run_snapshot_show(int count, char **args)
{
	struct granary_snapshot_detail detail = GRANARY_INIT(granary_snapshot_detail);
	struct granary_snapshot *snapshot;
	struct remote r;
	int code = open_snapshot(&r, args[0], &snapshot);

	(void)count;
	if (code != CLI_OK) return code;
	granary_snapshot_describe(snapshot, &detail);
	if (opts.json)
		show_json(&r, &detail);
	else
		show_text(&r, &detail);
	granary_snapshot_close(&snapshot);
	remote_close(&r);
	return CLI_OK;
}

/* ---- rm ------------------------------------------------------------------------------------ */

static int remove_named(struct remote *r, const char *name)
{
	const struct granary_call *call = GRANARY_CALL(.bucket = r->bucket);
	struct granary_snapshot_info *info = NULL;
	char samples[TEXT_SHORT], alone[TEXT_SHORT];
	struct json j;
	int code = CLI_OK, err = granary_snapshot_show(r->client, name, &info, call);

	if (err < 0)
		return fail_snapshot(r, err, name, "remove");
	human_count(samples, info->samples);
	human_bytes(alone, info->bytes_alone);
	granary_free(info);
	if (opts.dry_run && !opts.json)
		printf("would remove snapshot '%s@%s': %s samples, sets %s free\n", r->bucket, shown(name), samples,
			alone);
	if (!opts.dry_run)
		code = ask("remove snapshot '%s@%s': %s samples, %s of them held by it alone", r->bucket, shown(name),
			samples, alone);
	if (code != CLI_OK) return code;
	err = opts.dry_run ? 0
			   : granary_snapshot_remove(
				     r->client, name, opts.force ? GRANARY_SNAPSHOT_FORCE : 0, call);
	if (err < 0)
		return fail_snapshot(r, err, name, "remove");
	if (opts.json) {
		json_open(&j, stdout);
		json_text(&j, "bucket", r->bucket);
		json_text(&j, "snapshot", name);
		json_text(&j, "done", opts.dry_run ? "would remove" : "removed");
		json_close(&j);
	}
	return CLI_OK;
}

int remote_each_named(int count, char **args, int (*each)(struct remote *r, const char *name))
{
	int failed = CLI_OK, good = 0;

	for (int i = 0; i < count; i++) {
		char name[SNAPSHOT_NAME_CAP];
		struct remote r;
		int code = remote_open_named(&r, args[i], name);
		if (code == CLI_OK) {
			code = each(&r, name);
			remote_close(&r);
		}
		if (code == CLI_OK)
			good++;
		else if (failed == CLI_OK)
			failed = code;
	}
	return failed != CLI_OK && good > 0 ? CLI_PARTIAL : failed;
}

int run_snapshot_rm(int count, char **args)
{
	return remote_each_named(count, args, remove_named);
}

/* ---- repack -------------------------------------------------------------------------------- */

/* ---- note ---------------------------------------------------------------------------------- */

static int note_change(struct remote *r, const char *name, const char *text)
{
	const struct granary_call *call = GRANARY_CALL(.bucket = r->bucket);
	struct granary_info server = GRANARY_INIT(granary_info);
	struct granary_snapshot_info *info;
	int err = granary_snapshot_show(r->client, name, &info, call);

	if (err < 0) return fail_snapshot(r, err, name, "note");
	uint64_t expires_ns = info->expires_ns;
	if (opts.expire_s > 0 && granary_client_info(r->client, &server) == 0)
		expires_ns = server.store_time_ns + opts.expire_s * UINT64_C(1000000000);
	err = granary_snapshot_note(r->client, name, text != NULL ? text : info->note, expires_ns, call);
	granary_free(info);
	return err < 0 ? fail_snapshot(r, err, name, "note") : CLI_OK;
}

int run_snapshot_note(int count, char **args)
{
	char name[SNAPSHOT_NAME_CAP];
	struct remote r;
	int code;

	if (count < 2 && opts.expire_s == 0) return fail(CLI_USAGE, "what is to change? give a note, or --expire TIME");
	code = remote_open_named(&r, args[0], name);
	if (code != CLI_OK) return code;
	code = note_change(&r, name, count > 1 ? args[1] : NULL);
	remote_close(&r);
	return code;
}

static int repack_named(struct remote *r, const char *name)
{
	const struct granary_call *call = GRANARY_CALL(
		.bucket = r->bucket, .timeout_ms = opts.timeout_s > 0 ? 0 : CREATE_TIMEOUT_MS);
	struct granary_snapshot_info *info;
	char alone[TEXT_SHORT];
	int err = granary_snapshot_repack(r->client, name, opts.force ? GRANARY_SNAPSHOT_FORCE : 0, call);

	if (err == 0) err = granary_snapshot_show(r->client, name, &info, GRANARY_CALL(.bucket = r->bucket));
	if (err < 0)
		return fail_snapshot(r, err, name, "repack");
	if (opts.json)
		info_json(r, info);
	else
		note("%s@%s: has %s alone", r->bucket, shown(name), human_bytes(alone, info->bytes_alone));
	granary_free(info);
	return CLI_OK;
}

int run_snapshot_repack(int count, char **args)
{
	return remote_each_named(count, args, repack_named);
}

/* ---- diff ---------------------------------------------------------------------------------- */

struct named {
	const char *key;
	struct granary_snapshot_row row;
};
struct names {
	struct granary_snapshot *snapshot;
	struct named *list;
	size_t count, cap;
	struct arena texts;
};

static int names_add(void *arg, const char *key, uint64_t id, uint32_t field)
{
	struct names *n = arg;
	int err;

	if (n->count == n->cap) {
		n->cap = n->cap == 0 ? 1024 : n->cap * 2;
		n->list = must_alloc(realloc(n->list, n->cap * sizeof(*n->list)));
	}
	n->list[n->count].key = arena_text(&n->texts, key, strlen(key));
	err = granary_snapshot_row(n->snapshot, id, field, &n->list[n->count].row);
	n->count += err == 0;
	return err;
}

static int names_read(struct names *n, struct remote *r, const char *text)
{
	int err, code = open_snapshot(r, text, &n->snapshot);

	if (code != CLI_OK) return code;
	err = granary_snapshot_names(n->snapshot, NULL, names_add, n);
	return err < 0 ? fail_remote(r->client, err, "cannot read the names of '%s'", shown(text)) : CLI_OK;
}

static void names_free(struct names *n)
{
	granary_snapshot_close(&n->snapshot);
	free(n->list);
	arena_free(&n->texts);
}

static void diff_line(char mark, const char *what, const struct named *n)
{
	struct json j;

	if (!opts.json) {
		printf("%c %s\n", mark, stdout_is_tty() ? shown(n->key) : n->key);
		return;
	}
	json_open(&j, stdout);
	json_text(&j, "key", n->key);
	json_text(&j, "change", what);
	json_number(&j, "size", n->row.size);
	json_close(&j);
}

static void diff_print(const struct names *a, const struct names *b)
{
	char texts[3][TEXT_SHORT];
	uint64_t added = 0, removed = 0, changed = 0;

	for (size_t i = 0, k = 0; i < a->count || k < b->count;) {
		int order = i == a->count   ? 1
			    : k == b->count ? -1
					    : strcmp(a->list[i].key, b->list[k].key);
		if (order < 0) {
			removed++;
			diff_line('-', "removed", &a->list[i]);
		} else if (order > 0) {
			added++;
			diff_line('+', "added", &b->list[k]);
		} else if (a->list[i].row.size != b->list[k].row.size ||
			   a->list[i].row.crc32c != b->list[k].row.crc32c) {
			changed++;
			diff_line('~', "changed", &b->list[k]);
		}
		i += order <= 0;
		k += order >= 0;
	}
	fflush(stdout);
	note("%s added, %s removed, %s changed", human_count(texts[0], added), human_count(texts[1], removed),
		human_count(texts[2], changed));
}

int run_snapshot_diff(int count, char **args)
{
	struct names a = { .count = 0 }, b = { .count = 0 };
	struct remote ra = { .client = NULL }, rb = { .client = NULL };
	int code = names_read(&a, &ra, args[0]);

	(void)count;
	if (code == CLI_OK) code = names_read(&b, &rb, args[1]);
	if (code == CLI_OK) diff_print(&a, &b);
	names_free(&a);
	names_free(&b);
	remote_close(&ra);
	remote_close(&rb);
	return code;
}

/* ---- verify -------------------------------------------------------------------------------- */

static int verify_epoch(struct remote *r, struct granary_epoch *epoch, const char *text)
{
	struct granary_epoch_info info = GRANARY_INIT(granary_epoch_info);
	const struct granary_epoch_batch *batch;
	struct progress progress;
	char samples[TEXT_SHORT], bytes[TEXT_SHORT];
	struct json j;
	int more;

	granary_epoch_info(epoch, &info);
	progress_start(&progress, "verifying");
	atomic_store(&progress.files_total, info.samples);
	while ((more = granary_epoch_next(epoch, &batch)) > 0) {
		progress_add(&progress, batch->count, batch->data_size);
		granary_epoch_release(epoch, &batch);
	}
	progress_stop(&progress);
	granary_epoch_info(epoch, &info);
	if (opts.json) {
		json_open(&j, stdout);
		json_text(&j, "snapshot", info.snapshot);
		json_number(&j, "samples", info.samples_read - info.skipped);
		json_number(&j, "bytes", info.bytes_read);
		json_number(&j, "damaged", info.skipped);
		json_close(&j);
	}
	if (more < 0) return fail_remote(r->client, more, "cannot verify '%s'", shown(text));
	if (info.skipped > 0)
		return fail(CLI_FAILED, "'%s': %" PRIu64 " samples are damaged", shown(text), info.skipped);
	if (!opts.json)
		note("%s samples, %s: every checksum is right", human_count(samples, info.samples_read),
			human_bytes(bytes, info.bytes_read));
	return CLI_OK;
}

int run_snapshot_verify(int count, char **args)
{
	struct granary_epoch_options options = GRANARY_INIT(granary_epoch_options);
	char name[SNAPSHOT_NAME_CAP], address[SNAPSHOT_NAME_CAP + GRANARY_BUCKET_LEN_MAX + 2];
	struct granary_epoch *epoch;
	struct remote r;
	int err, code = remote_open_named(&r, args[0], name);

	(void)count;
	if (code != CLI_OK) return code;
	snprintf(address, sizeof(address), "%s@%s", r.bucket, name);
	options.snapshot = address;
	options.mode = GRANARY_MODE_NONE;
	options.world = 1;
	options.batch = VERIFY_BATCH;
	options.last = GRANARY_LAST_KEEP;
	options.on_error = GRANARY_ERROR_SKIP;
	options.max_errors = UINT32_MAX;
	err = granary_epoch_open(r.client, &options, &epoch);
	code = err < 0 ? fail_remote(r.client, err, "cannot verify '%s'", shown(args[0]))
		       : verify_epoch(&r, epoch, args[0]);
	if (err == 0) granary_epoch_close(&epoch);
	remote_close(&r);
	return code;
}
