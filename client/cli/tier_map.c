/* SPDX-License-Identifier: Apache-2.0 */
/* tier_map.c -- granary tier top, granary tier map: what is hot, and a picture of all packs by place and heat. */
#include "cli.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { PLACE_HOT, PLACE_BOTH, PLACE_COLD, PLACES };
enum { STORE_MAX = 65, ROW = 64, SVG_ROW = 100, SVG_CELL = 12, SVG_TOP = 64 };

static const struct {
	const char *name, *color;
} places[PLACES] = { { "on flash", "#d9480f" }, { "on flash and in a cold store", "#862e9c" },
	{ "in a cold store alone", "#1864ab" } };
/* Ten steps of heat, one character a pack. */
static const char scale[] = ".:-=+*oO#@";

struct pack {
	char id[17], store[STORE_MAX];
	uint64_t bytes, reads;
	double rate; /* reads an hour */
	int place;
};
struct map {
	struct pack *at;
	size_t count;
	uint64_t bytes[PLACES], reads[PLACES], packs[PLACES];
	double rate_max;
};

/* One line of the server's: fields in their order. */
static bool pack_parse(const char *line, struct pack *p)
{
	char hot[6], rest[STORE_MAX + 200];
	const char *store = strstr(line, ",\"store\":\""), *end;

	if (store == NULL || sscanf(line, "{\"pack\":\"%16[0-9a-f]\",\"hot\":%5[a-z]", p->id, hot) != 2) return false;
	store += strlen(",\"store\":\"");
	end = strchr(store, '"');
	if (end == NULL || end - store >= STORE_MAX) return false;
	snprintf(p->store, sizeof(p->store), "%.*s", (int)(end - store), store);
	snprintf(rest, sizeof(rest), "%.200s", end + 1);
	if (sscanf(rest, ",\"bytes\":%" SCNu64 ",\"reads\":%" SCNu64 ",\"reads_an_hour\":%lf", &p->bytes, &p->reads,
		    &p->rate) != 3)
		return false;
	p->place = strcmp(hot, "true") != 0 ? PLACE_COLD : p->store[0] != '\0' ? PLACE_BOTH : PLACE_HOT;
	return true;
}

static int hotter_first(const void *a, const void *b)
{
	const struct pack *x = a, *y = b;

	if (x->place != y->place) return x->place - y->place;
	if (x->rate != y->rate) return x->rate > y->rate ? -1 : 1;
	if (x->reads != y->reads) return x->reads > y->reads ? -1 : 1;
	return strcmp(x->id, y->id);
}

static void map_parse(struct map *m, char *text)
{
	size_t lines = 1;
	char *rest = text, *line;

	for (const char *c = text; *c != '\0'; c++) lines += *c == '\n';
	*m = (struct map){ .at = must_alloc(calloc(lines, sizeof(*m->at))) };
	while ((line = line_next(&rest)) != NULL) {
		struct pack *p = &m->at[m->count];
		if (!pack_parse(line, p)) continue;
		m->count++;
		m->packs[p->place]++;
		m->bytes[p->place] += p->bytes;
		m->reads[p->place] += p->reads;
		if (p->rate > m->rate_max) m->rate_max = p->rate;
	}
	if (m->count > 1) qsort(m->at, m->count, sizeof(*m->at), hotter_first);
}

/* 0..9: each step a third of the one above it. */
static int heat_step(const struct map *m, const struct pack *p)
{
	double limit = m->rate_max;
	int step = 9;

	if (p->rate <= 0) return 0;
	for (; step > 1 && p->rate < limit * 0.34; step--) limit *= 0.34;
	return step;
}

/* Where recorded reads went, in percent. */
static double reads_share(const struct map *m, int place)
{
	uint64_t all = m->reads[PLACE_HOT] + m->reads[PLACE_BOTH] + m->reads[PLACE_COLD];

	return all > 0 ? 100 * (double)m->reads[place] / (double)all : 0;
}

static void map_terminal(const struct map *m)
{
	char packs[TEXT_SHORT], bytes[TEXT_SHORT];
	size_t i = 0;

	printf("a character a pack, from %c never read to %c hottest\n", scale[0], scale[9]);
	for (int place = 0; place < PLACES; place++) {
		printf("\n%s: %s packs, %s, %.1f%% of the recorded reads\n", places[place].name,
			human_count(packs, m->packs[place]), human_bytes(bytes, m->bytes[place]),
			reads_share(m, place));
		for (size_t n = 0; i < m->count && m->at[i].place == place; i++, n++)
			printf("%s%c", n > 0 && n % ROW == 0 ? "\n" : "", scale[heat_step(m, &m->at[i])]);
		if (m->packs[place] > 0) putchar('\n');
	}
}

static void svg_pack(FILE *f, const struct map *m, const struct pack *p, size_t n, size_t top)
{
	fprintf(f,
		"<rect x=\"%zu\" y=\"%zu\" width=\"%d\" height=\"%d\" fill=\"%s\" fill-opacity=\"%.2f\" stroke=\"%s\" "
		"stroke-width=\"0.5\"><title>pack %s: %s, %" PRIu64 " bytes, %.3f reads an hour, %" PRIu64
		" recorded</title></rect>\n",
		n % SVG_ROW * SVG_CELL, top + n / SVG_ROW * SVG_CELL, SVG_CELL - 2, SVG_CELL - 2,
		places[p->place].color, 0.08 + 0.1 * heat_step(m, p),
		places[p->place].color, p->id, places[p->place].name, p->bytes, p->rate, p->reads);
}

static void map_svg(FILE *f, const struct map *m)
{
	size_t height = 0, i = 0, top = 0;
	char bytes[TEXT_SHORT];

	for (int place = 0; place < PLACES; place++) height += SVG_TOP + m->packs[place] / SVG_ROW * SVG_CELL;
	fprintf(f,
		"<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%zu\" font-family=\"sans-serif\" "
		"font-size=\"14\">\n",
		SVG_ROW * SVG_CELL, height);
	for (int place = 0; place < PLACES; place++) {
		fprintf(f,
			"<text x=\"0\" y=\"%zu\">%s: %" PRIu64 " packs, %s, %.1f%% of the recorded reads; darker is "
			"hotter</text>\n",
			top + 20, places[place].name, m->packs[place], human_bytes(bytes, m->bytes[place]),
			reads_share(m, place));
		for (size_t n = 0; i < m->count && m->at[i].place == place; i++, n++)
			svg_pack(f, m, &m->at[i], n, top + 30);
		top += SVG_TOP + m->packs[place] / SVG_ROW * SVG_CELL;
	}
	fputs("</svg>\n", f);
}

static int svg_write(const struct map *m, const char *path)
{
	FILE *f = fopen(path, "w");

	if (f == NULL) return fail_errno(errno, "cannot write '%s'", path);
	map_svg(f, m);
	bool bad = ferror(f) != 0;
	if (fclose(f) != 0 || bad) return fail_errno(errno, "cannot write '%s'", path);
	note("the map is in %s", path);
	return CLI_OK;
}

static int ask_rules(struct remote *r, enum granary_rules_verb verb, const char *path, char **answer)
{
	int err = granary_rules(r->client, verb, opts.json ? GRANARY_RULES_JSON : 0u, NULL, path, answer,
		GRANARY_CALL(.timeout_ms = GRANARY_FOREVER));

	return err < 0 ? fail_remote(r->client, err, "the server did not tell") : CLI_OK;
}

int run_tier_map(int argc, char **argv)
{
	struct remote r;
	struct map m;
	char *text = NULL;
	int code = remote_open(&r, argc > 0 ? argv[0] : NULL, NEED_NOTHING, 1);

	if (code != CLI_OK) return code;
	code = ask_rules(&r, GRANARY_RULES_MAP, NULL, &text);
	remote_close(&r);
	if (code == CLI_OK && opts.json && opts.output == NULL) {
		fputs(text, stdout);
	} else if (code == CLI_OK) {
		map_parse(&m, text);
		if (opts.output != NULL)
			code = svg_write(&m, opts.output);
		else
			map_terminal(&m);
		free(m.at);
	}
	granary_free(text);
	int end = output_close();
	return code != CLI_OK ? code : end;
}

int run_tier_top(int argc, char **argv)
{
	struct remote r;
	char path[2048] = "", *text = NULL;
	int code = remote_open(&r, argc > 0 ? argv[0] : NULL, NEED_NOTHING, 1);

	if (code != CLI_OK) return code;
	if (r.bucket[0] != '\0') snprintf(path, sizeof(path), "%s/%s", r.bucket, r.path);
	code = ask_rules(&r, GRANARY_RULES_TOP, path, &text);
	remote_close(&r);
	if (code == CLI_OK) fputs(text, stdout);
	granary_free(text);
	int end = output_close();
	return code != CLI_OK ? code : end;
}
