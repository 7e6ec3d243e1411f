/* SPDX-License-Identifier: Apache-2.0 */
/* jobs.c -- who streams what, how fast; and what a job was given, computed again if wanted. */
#include "cli.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- lines of pairs ------------------------------------------------------------------------ */

/* The value of `name=` in a line of pairs; "" without it. */
static const char *pair(const char *line, const char *name, char out[128])
{
	size_t len = strlen(name);

	out[0] = '\0';
	for (const char *p = line; *p != '\0'; p += strcspn(p, " "), p += *p == ' ')
		if (strncmp(p, name, len) == 0 && p[len] == '=')
			snprintf(out, 128, "%.*s", (int)strcspn(p + len + 1, " \n"), p + len + 1);
	return out;
}

/* `checksum` is left out: it is no number. */
static void pairs_json(struct json *j, const char *line)
{
	for (const char *p = line; *p != '\0'; p += strcspn(p, " "), p += *p == ' ') {
		char name[64], value[300];
		uint64_t number;
		size_t len = strcspn(p, "= ");
		if (p[len] != '=' || strncmp(p, "checksum=", 9) == 0) continue;
		snprintf(name, sizeof(name), "%.*s", (int)len, p);
		snprintf(value, sizeof(value), "%.*s", (int)strcspn(p + len + 1, " "), p + len + 1);
		if (parse_number(value, &number) == 0)
			json_number(j, name, number);
		else
			json_text(j, name, value);
	}
}

static void job_json(const char *line)
{
	struct json j;

	json_open(&j, stdout);
	pairs_json(&j, line);
	json_close(&j);
}

/* The next line of a text, ended by 0; NULL: there is none. */
static char *next_line(char **text)
{
	char *line = *text;
	size_t len = strcspn(line, "\n");

	if (*line == '\0') return NULL;
	*text = line + len + (line[len] != '\0');
	line[len] = '\0';
	return line;
}

static uint64_t pair_number(const char *line, const char *name)
{
	char text[128];
	uint64_t value = 0;

	return parse_number(pair(line, name, text), &value) == 0 ? value : 0;
}

/* ---- jobs ---------------------------------------------------------------------------------- */

static void job_row(struct table *t, const char *line)
{
	char job[128], host[128], source[128], rank[TEXT_SHORT], samples[TEXT_SHORT], bytes[TEXT_SHORT];
	char eta[TEXT_SHORT];
	char place[2 * TEXT_SHORT + 2], waited[TEXT_SHORT], count[TEXT_SHORT];
	uint64_t elapsed = pair_number(line, "elapsed_ns");

	snprintf(rank, sizeof(rank), "%" PRIu64 "/%" PRIu64, pair_number(line, "rank"), pair_number(line, "world"));
	snprintf(waited, sizeof(waited), "%.0f %%",
		elapsed > 0 ? 100.0 * (double)pair_number(line, "waited_ns") / (double)elapsed : 0.0);
	snprintf(place, sizeof(place), "%s/", human_count(count, pair_number(line, "position")));
	snprintf(place + strlen(place), sizeof(place) - strlen(place), "%s",
		human_count(count, pair_number(line, "of")));
	table_row(t, (const char *[]){ pair(line, "job", job), pair(line, "host", host), rank,
			     pair(line, "snapshot", source), human_count(samples, pair_number(line, "samples_s")),
			     human_bytes(bytes, pair_number(line, "bytes_s")), waited, place,
			     pair_number(line, "eta_s") > 0
				     ? human_seconds(eta, (double)pair_number(line, "eta_s"))
				     : "-" });
}

int run_jobs(int count, char **args)
{
	char *text, *rest, *line;
	struct table t;
	struct remote r;
	int err, code = remote_open(&r, count > 0 ? args[0] : NULL, NEED_NOTHING, 1);

	if (code != CLI_OK) return code;
	err = granary_jobs(r.client, &text, GRANARY_CALL(.bucket = r.bucket));
	if (err < 0) {
		code = fail_remote(r.client, err, "cannot list the jobs");
		remote_close(&r);
		return code;
	}
	rest = text;
	table_init(&t, 9, 1u << 4 | 1u << 5 | 1u << 6 | 1u << 7 | 1u << 8);
	if (!opts.json && stdout_is_tty() && text[0] != '\0')
		table_row(&t, (const char *[]){ "JOB", "HOST", "RANK", "SNAPSHOT", "SAMPLES/S", "BYTES/S", "WAITED",
				      "POSITION", "ETA" });
	while ((line = next_line(&rest)) != NULL)
		if (opts.json)
			job_json(line);
		else
			job_row(&t, line);
	table_end(&t);
	granary_free(text);
	remote_close(&r);
	return CLI_OK;
}

/* ---- provenance ---------------------------------------------------------------------------- */

/* "" not asked for, "verified", "WRONG", or why it cannot be said. */
static const char *verify(struct remote *r, const char *line, char text[256], int *code)
{
	int err;

	if (!opts.verify) return "";
	err = granary_provenance_verify(r->client, line);
	if (err == 0) return "verified";
	*code = err == -GRANARY_ECORRUPT ? CLI_FAILED : *code == CLI_OK ? CLI_PARTIAL : *code;
	snprintf(text, 256, "%s: %s", err == -GRANARY_ECORRUPT ? "WRONG" : "not verified",
		granary_last_error(r->client));
	return text;
}

static void segment_json(const char *line, const char *verdict)
{
	char text[128];
	struct json j;

	json_open(&j, stdout);
	pairs_json(&j, line);
	json_text(&j, "checksum", pair(line, "checksum", text));
	if (opts.verify) json_text(&j, "verdict", verdict);
	json_close(&j);
}

static void segment_text(const char *line, const char *verdict)
{
	char begun[TEXT_SHORT], source[128], mode[128], host[128], checksum[128];
	const char *skips = strstr(line, " skips=");
	bool is_recipe = pair(line, "recipe", source)[0] != '\0';

	if (!is_recipe) pair(line, "snapshot", source);
	printf("%s  %s seed %" PRIu64 " epoch %" PRIu64 " %s, rank %" PRIu64 "/%" PRIu64 " on %s: positions %" PRIu64
	       "..%" PRIu64 ", %" PRIu64 " samples, checksum %s%s%s%s\n",
		human_time(begun, pair_number(line, "begun_ns")), source, pair_number(line, "seed"),
		pair_number(line, "epoch"), pair(line, "mode", mode), pair_number(line, "rank"),
		pair_number(line, "world"), pair(line, "host", host), pair_number(line, "from"),
		pair_number(line, "to"),
		pair_number(line, "samples"), pair(line, "checksum", checksum),
		pair_number(line, "ended") == 0 ? ", not ended" : "", verdict[0] != '\0' ? "; " : "", verdict);
	if (pair_number(line, "skipped") > 0)
		printf("    replaced: %" PRIu64 " samples; position:source:lost:substitute %.*s\n",
			pair_number(line, "skipped"), skips != NULL ? (int)strcspn(skips + 7, " ") : 0,
			skips != NULL ? skips + 7 : "");
}

/* Lines of all ranks of one opened epoch, which began in one place and came to the same: their sum depends neither on
 * their number nor on the batch. */
static void sums_text(char *text)
{
	char *rest = text, *line, key[3][128], last[512] = "", now[512], checksum[128];
	uint64_t sum = 0, ranks = 0, world = 0;

	for (bool more = true; more;) {
		line = next_line(&rest);
		more = line != NULL;
		if (more)
			snprintf(now, sizeof(now), "%s %s from %s to %" PRIu64 " world %" PRIu64 " batch %" PRIu64,
				pair(line, "hash", key[0]), pair(line, "seed", key[1]), pair(line, "from", key[2]),
				pair_number(line, "to"), pair_number(line, "world"), pair_number(line, "batch"));
		if (!more || strcmp(now, last) != 0 || ranks == world) {
			if (ranks == world && ranks > 1)
				printf("all %" PRIu64 " ranks, %s: checksum %016" PRIx64 "\n", ranks,
					strstr(last, "from"), sum);
			snprintf(last, sizeof(last), "%s", more ? now : "");
			sum = ranks = 0;
		}
		if (!more) break;
		world = pair_number(line, "world");
		sum += strtoull(pair(line, "checksum", checksum), NULL, 16);
		ranks++;
	}
}

int run_provenance(int count, char **args)
{
	char *text, *rest, *line, *copy, why[256];
	struct remote r;
	int err, code = remote_open(&r, count > 1 ? args[1] : NULL, NEED_NOTHING, 1);

	if (code != CLI_OK) return code;
	err = granary_provenance(r.client, args[0], &text, GRANARY_CALL(.bucket = r.bucket));
	if (err < 0) {
		code = fail_remote(r.client, err, "cannot list what job '%s' was given", shown(args[0]));
		remote_close(&r);
		return code;
	}
	if (text[0] == '\0') code = fail(CLI_NOTFOUND, "nothing is known of a job '%s'", shown(args[0]));
	copy = must_alloc(strdup(text));
	for (rest = text; (line = next_line(&rest)) != NULL;) {
		const char *verdict = verify(&r, line, why, &code);
		if (opts.json)
			segment_json(line, verdict);
		else
			segment_text(line, verdict);
	}
	if (!opts.json) sums_text(copy);
	free(copy);
	granary_free(text);
	remote_close(&r);
	return code;
}
