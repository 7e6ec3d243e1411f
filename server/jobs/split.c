/* SPDX-License-Identifier: Apache-2.0 */
/* split.c -- lines and windows; see split.h. Invariant: a CR at the end of a piece is held back until the byte after
 * it is known. */
#include "jobs/split_priv.h"

#include <stdlib.h>
#include <string.h>

const char *split_problem_text(enum split_problem p)
{
	static const char *const texts[SPLIT_PROBLEMS] = {
		[SPLIT_EMPTY_LINE] = "empty lines, which are no samples",
		[SPLIT_REST] = "files whose last bytes fill no window; these are left out",
		[SPLIT_DAMAGED] = "no tar archive, or a damaged header; what follows is left out",
		[SPLIT_TRUNCATED] = "archives that end inside a member, which is left out",
		[SPLIT_UNENDED] = "archives without an end mark, which may be cut short",
		[SPLIT_AFTER_END] = "archives with bytes behind their end, which are left out",
		[SPLIT_BAD_NAME] = "members left out for their name: empty, absolute, too long, no UTF-8, or with '..'",
		[SPLIT_SPARSE] = "sparse members, left out",
		[SPLIT_LINK] = "links, left out",
		[SPLIT_SPECIAL] = "members that are no files, left out",
		[SPLIT_HUGE] = "archives with a header of more than 1 MiB; what follows is left out",
		[SPLIT_TWICE] = "members with the name of another one, which finds the last",
	};

	return texts[p];
}

bool split_spec_parse(const char *text, struct split_spec *out)
{
	uint64_t v = 0;

	*out = (struct split_spec){ .kind = SPLIT_NONE };
	if (strcmp(text, "lines") == 0) out->kind = SPLIT_LINES;
	if (strcmp(text, "tar") == 0) out->kind = SPLIT_TAR;
	if (out->kind != SPLIT_NONE) return true;
	if (strncmp(text, "fixed:", 6) != 0 || text[6] == '\0') return false;
	for (text += 6; *text >= '0' && *text <= '9' && v <= SPLIT_WIDTH_MAX; text++)
		v = 10 * v + (uint64_t)(*text - '0');
	if (*text != '\0' || v < 1 || v > SPLIT_WIDTH_MAX) return false;
	out->kind = SPLIT_FIXED;
	out->width = (uint32_t)v;
	return true;
}

struct split *split_new(const struct split_spec *spec, const struct split_sink *sink)
{
	struct split *s = calloc(1, sizeof(*s));

	if (s == NULL) return NULL;
	s->spec = *spec;
	s->sink = *sink;
	split_begin(s);
	return s;
}

void split_free(struct split **sp)
{
	struct split *s = *sp;

	*sp = NULL;
	if (s == NULL) return;
	free(s->tar.meta);
	free(s);
}

void split_begin(struct split *s)
{
	s->at = s->begin = s->taken = 0;
	s->number = s->spec.kind == SPLIT_LINES ? 1 : 0;
	s->cr = false;
	tar_begin(&s->tar);
}

static int part_end(struct split *s)
{
	struct split_part part = { .at = s->begin, .number = s->number };

	return s->sink.part(s->sink.arg, &part);
}

/* ---- lines ---- */

static int line_bytes(struct split *s, const uint8_t *p, size_t len)
{
	int err = 0;

	if (len == 0) return 0;
	if (s->cr) {
		err = s->sink.bytes(s->sink.arg, s->at - 1, (const uint8_t *)"\r", 1);
		s->taken++;
	}
	s->cr = p[len - 1] == '\r';
	s->at += len;
	if (s->cr) len--;
	s->taken += len;
	if (err < 0 || len == 0) return err;
	return s->sink.bytes(s->sink.arg, s->at - len - s->cr, p, len);
}

static int line_end(struct split *s)
{
	int err = s->taken > 0 ? part_end(s)
			       : s->sink.problem(s->sink.arg, SPLIT_EMPTY_LINE, s->begin, slice_of(NULL, 0));

	s->cr = false;
	s->taken = 0;
	s->number++;
	return err;
}

static int lines_feed(struct split *s, const uint8_t *p, size_t len)
{
	const uint8_t *end = p + len;
	int err = 0;

	while (err == 0 && p < end) {
		const uint8_t *newline = memchr(p, '\n', (size_t)(end - p));

		err = line_bytes(s, p, (size_t)((newline != NULL ? newline : end) - p));
		if (newline == NULL) break;
		if (err == 0) err = line_end(s);
		s->begin = ++s->at;
		p = newline + 1;
	}
	return err;
}

static int lines_end(struct split *s)
{
	int err = 0;

	if (s->cr) { /* no LF follows: it is of the line */
		err = s->sink.bytes(s->sink.arg, s->at - 1, (const uint8_t *)"\r", 1);
		s->taken++;
	}
	return err == 0 && s->taken > 0 ? line_end(s) : err;
}

/* ---- windows ---- */

static int fixed_feed(struct split *s, const uint8_t *p, size_t len)
{
	int err = 0;

	while (err == 0 && len > 0) {
		size_t n = s->spec.width - s->taken < len ? (size_t)(s->spec.width - s->taken) : len;

		err = s->sink.bytes(s->sink.arg, s->at, p, n);
		s->at += n;
		s->taken += n;
		p += n;
		len -= n;
		if (err < 0 || s->taken < s->spec.width) continue;
		err = part_end(s);
		s->begin = s->at;
		s->taken = 0;
		s->number++;
	}
	return err;
}

static int fixed_end(struct split *s)
{
	int err = 0;

	if (s->taken == 0) return 0;
	err = s->sink.drop(s->sink.arg);
	return err < 0 ? err : s->sink.problem(s->sink.arg, SPLIT_REST, s->begin, slice_of(NULL, 0));
}

/* ---- whichever ---- */

int split_feed(struct split *s, const uint8_t *p, size_t len)
{
	if (s->spec.kind == SPLIT_LINES) return lines_feed(s, p, len);
	return s->spec.kind == SPLIT_FIXED ? fixed_feed(s, p, len) : tar_feed(s, p, len);
}

int split_end(struct split *s)
{
	if (s->spec.kind == SPLIT_LINES) return lines_end(s);
	return s->spec.kind == SPLIT_FIXED ? fixed_end(s) : tar_end(s);
}
