/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot_options.c -- what a snapshot is made of and how it is to be read: lines "name=value"
 * (PROTOCOL 5.10). */
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/name.h"
#include "common/quantity.h"
#include "jobs/snapshot_priv.h"

enum { TAG_NAME_MAX = 128, TAG_VALUE_MAX = 256 };
enum { MODE_EXACT = 1, MODE_BLOCKS = 2, MODE_NONE = 3 }; /* ORDER_* */

/* "90s", "15m", "12h", "30d"; a bare number is seconds */
static bool parse_duration(const char *text, uint64_t *out_ns)
{
	if (quantity_duration(text, out_ns)) return true;
	return quantity_count(text, out_ns) && !__builtin_mul_overflow(*out_ns, UINT64_C(1000000000), out_ns);
}

static bool parse_mode(const char *text, uint8_t *out)
{
	static const char *const names[] = { "auto", "exact", "blocks", "none" };

	for (uint8_t i = 0; i < 4; i++)
		if (strcmp(text, names[i]) == 0) {
			*out = i;
			return true;
		}
	return false;
}

static bool add_glob(const char **globs, uint32_t *count, const char *glob)
{
	if (*glob == '\0' || *count == GLOBS_MAX) return false;
	globs[(*count)++] = glob;
	return true;
}

static bool parse_group(const char *text, bool *out)
{
	*out = strcmp(text, "basename") == 0;
	return *out || strcmp(text, "none") == 0;
}

static bool parse_lanes(const char *text, uint32_t *out)
{
	uint64_t v;

	if (!quantity_count(text, &v) || v < 1 || v > 32768) return false;
	*out = (uint32_t)v;
	return true;
}

static bool parse_block(const char *text, uint64_t *out)
{
	return quantity_count(text, out) && *out > 0 && *out <= UINT64_C(1) << 32 &&
	       (*out & (*out - 1)) == 0;
}

/* NAME=VALUE: a name of 1..128 bytes without "=", a value of at most 256. It stays with the options, where a list finds
 * it. */
static bool parse_tag(const char *text)
{
	const char *equals = strchr(text, '=');

	return equals != NULL && equals > text && equals - text <= TAG_NAME_MAX && strlen(equals + 1) <= TAG_VALUE_MAX;
}

/* 1 taken, 0 not good, -1 no such option */
static int take(struct build_options *o, const char *name, const char *value)
{
	if (strcmp(name, "group") == 0) return parse_group(value, &o->group);
	if (strcmp(name, "split") == 0) return split_spec_parse(value, &o->split);
	if (strcmp(name, "include") == 0) return add_glob(o->includes, &o->include_count, value);
	if (strcmp(name, "exclude") == 0) return add_glob(o->excludes, &o->exclude_count, value);
	if (strcmp(name, "block") == 0) return parse_block(value, &o->block);
	if (strcmp(name, "window") == 0) return quantity_count(value, &o->window) && o->window > 0;
	if (strcmp(name, "lanes") == 0) return parse_lanes(value, &o->lanes);
	if (strcmp(name, "mode") == 0) return parse_mode(value, &o->mode);
	if (strcmp(name, "expire") == 0) return parse_duration(value, &o->expire_ns);
	if (strcmp(name, "note") == 0) return strlen(o->note = value) <= SNAPSHOT_NOTE_MAX;
	if (strcmp(name, "tag") == 0) return parse_tag(value);
	if (strcmp(name, "keep-last") == 0)
		return quantity_count(value, &o->keep_last) && o->keep_last > 0;
	return -1;
}

static int take_line(struct snapshot_making *m, struct build_options *o, char *line)
{
	char *equals = strchr(line, '='), shown[64], shown_value[64];
	int taken;

	name_escape(shown, sizeof(shown), slice_of(line, equals != NULL ? (size_t)(equals - line) : strlen(line)));
	if (equals == NULL)
		return making_fail(m, -GRANARY_EINVAL, "option '%s' is not name=value", shown);
	*equals = '\0';
	name_escape(shown_value, sizeof(shown_value), slice_str(equals + 1));
	taken = take(o, line, equals + 1);
	if (taken < 0)
		return making_fail(m, -GRANARY_EUNSUPPORTED,
			"there is no option '%s'; there are group, split, include, exclude, block, "
			"window, lanes, mode, expire, "
			"note, tag, keep-last",
			shown);
	return taken > 0 ? 0
			 : making_fail(m, -GRANARY_EINVAL, "option %s cannot be '%s'", shown, shown_value);
}

int build_options_parse(struct snapshot_making *m, struct build_options *out)
{
	char *line = out->text, *end;
	int err = 0;

	memset(out, 0, sizeof(*out));
	if (m->options.len > SNAPSHOT_OPTIONS_MAX ||
		(m->options.len > 0 && memchr(m->options.p, 0, m->options.len) != NULL) ||
		!utf8_valid(m->options))
		return making_fail(m, -GRANARY_EINVAL,
			"options are longer than %d bytes or no text", SNAPSHOT_OPTIONS_MAX);
	if (m->options.len > 0) memcpy(out->text, m->options.p, m->options.len);
	for (; err == 0 && line != NULL && *line != '\0'; line = end) {
		end = strchr(line, '\n');
		if (end != NULL) *end++ = '\0';
		if (*line != '\0') err = take_line(m, out, line);
	}
	if (err == 0 && out->group && (out->split.kind == SPLIT_LINES || out->split.kind == SPLIT_FIXED))
		err = making_fail(m, -GRANARY_EINVAL,
			"group goes with whole files and with split=tar: lines and windows have no names to group by");
	return err;
}

static bool any_matches(const char *const *globs, uint32_t count, const char *key)
{
	for (uint32_t i = 0; i < count; i++)
		if (fnmatch(globs[i], key, 0) == 0) return true;
	return false;
}

bool build_options_want(const struct build_options *o, const char *key)
{
	if (o->include_count > 0 && !any_matches(o->includes, o->include_count, key)) return false;
	return !any_matches(o->excludes, o->exclude_count, key);
}

bool build_options_exclude(const struct build_options *o, const char *key)
{
	return any_matches(o->excludes, o->exclude_count, key);
}
