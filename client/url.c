/* SPDX-License-Identifier: Apache-2.0 */
/* url.c -- granary://HOST[:PORT][,HOST...][/BUCKET[@SNAPSHOT][/PATH]]. */
#include "client_priv.h"

#include <stdarg.h>
#include <stdio.h>

#include "common/name.h"

struct url_parse {
	const char *text;
	char *why;
	size_t why_size;
};

__attribute__((format(printf, 2, 3))) static int url_bad(const struct url_parse *u, const char *fmt, ...)
{
	char what[160];
	va_list ap;

	if (u->why && u->why_size > 0) {
		va_start(ap, fmt);
		vsnprintf(what, sizeof(what), fmt, ap);
		va_end(ap);
		snprintf(u->why, u->why_size, "address '%.200s': %s", u->text, what);
	}
	return -GRANARY_EINVAL;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static bool slice_copy(char *dst, size_t cap, struct slice s)
{
	if (s.len >= cap)
		return false;
	memcpy(dst, s.p, s.len);
	dst[s.len] = '\0';
	return true;
}

/* Decodes %XX; NUL, and for a name control characters, are refused. */
static int host_decode(const struct url_parse *u, struct slice in, char *out, size_t cap)
{
	size_t n = 0;

	for (size_t i = 0; i < in.len; i++, n++) {
		int c = in.p[i];
		if (c == '%') {
			int hi = i + 2 < in.len ? hex_digit((char)in.p[i + 1]) : -1;
			int lo = i + 2 < in.len ? hex_digit((char)in.p[i + 2]) : -1;
			if (hi < 0 || lo < 0)
				return url_bad(u, "'%%' in a host must be followed by two hexadecimal digits");
			c = hi << 4 | lo;
			i += 2;
		}
		if (c < 0x20 || c == 0x7f)
			return url_bad(u, "a host has a control character");
		if (n + 1 >= cap)
			return url_bad(u, "a host is longer than %d bytes", GRANARY_HOST_LEN_MAX);
		out[n] = (char)c;
	}
	out[n] = '\0';
	return 0;
}

static int port_parse(const struct url_parse *u, struct slice s, uint16_t *port)
{
	uint32_t v = 0;

	if (s.len == 0 || s.len > 5)
		return url_bad(u, "a port is 1..65535");
	for (size_t i = 0; i < s.len; i++) {
		if (s.p[i] < '0' || s.p[i] > '9')
			return url_bad(u, "a port is 1..65535");
		v = v * 10 + (uint32_t)(s.p[i] - '0');
	}
	if (v == 0 || v > UINT16_MAX)
		return url_bad(u, "a port is 1..65535");
	*port = (uint16_t)v;
	return 0;
}

/* Cuts "name[:port]"; an IPv6 address is in brackets. */
static int host_split(const struct url_parse *u, struct slice s, struct slice *name, struct slice *port)
{
	const uint8_t *colon;

	*port = slice_of(NULL, 0);
	if (s.len > 0 && s.p[0] == '[') {
		const uint8_t *close = memchr(s.p, ']', s.len);
		if (!close || close == s.p + 1)
			return url_bad(u, "an IPv6 address needs its closing bracket");
		*name = slice_of(s.p + 1, (size_t)(close - s.p) - 1);
		s = slice_of(close + 1, s.len - name->len - 2);
		if (s.len > 0 && s.p[0] != ':')
			return url_bad(u, "after ']' only ':PORT' may follow");
		*port = s.len > 0 ? slice_of(s.p + 1, s.len - 1) : *port;
		return s.len == 1 ? url_bad(u, "a port is 1..65535") : 0;
	}
	colon = s.len > 0 ? memchr(s.p, ':', s.len) : NULL;
	*name = colon ? slice_of(s.p, (size_t)(colon - s.p)) : s;
	if (colon)
		*port = slice_of(colon + 1, s.len - name->len - 1);
	if (name->len == 0)
		return url_bad(u, "a host is missing");
	if (colon && (port->len == 0 || memchr(port->p, ':', port->len)))
		return url_bad(u, "a port is 1..65535, and an IPv6 address is written in brackets");
	return 0;
}

static int host_parse(const struct url_parse *u, struct slice s, struct granary_host *h)
{
	struct slice name = slice_of(NULL, 0), port = name;
	int err = host_split(u, s, &name, &port);

	if (err == 0)
		err = host_decode(u, name, h->name, sizeof(h->name));
	if (err < 0)
		return err;
	h->is_unix = h->name[0] == '/';
	h->port = h->is_unix ? 0 : GRANARY_PORT;
	if (port.len == 0)
		return 0;
	return h->is_unix ? url_bad(u, "a Unix socket has no port") : port_parse(u, port, &h->port);
}

static int hosts_parse(const struct url_parse *u, struct slice s, struct granary_url *url)
{
	for (;;) {
		const uint8_t *comma = s.len > 0 ? memchr(s.p, ',', s.len) : NULL;
		size_t n = comma ? (size_t)(comma - s.p) : s.len;
		if (url->hosts_count == GRANARY_HOSTS_MAX)
			return url_bad(u, "more than %d hosts", GRANARY_HOSTS_MAX);
		int err = host_parse(u, slice_of(s.p, n), &url->hosts[url->hosts_count]);
		if (err < 0)
			return err;
		url->hosts_count++;
		if (!comma)
			return 0;
		s = slice_of(comma + 1, s.len - n - 1);
	}
}

static int bucket_parse(const struct url_parse *u, struct slice s, struct granary_url *url)
{
	const uint8_t *at = s.len > 0 ? memchr(s.p, '@', s.len) : NULL;
	struct slice name = at ? slice_of(s.p, (size_t)(at - s.p)) : s;

	if (at) {
		struct slice snapshot = slice_of(at + 1, s.len - name.len - 1);
		if (snapshot.len == 0)
			return url_bad(u, "a snapshot's name is missing after '@'");
		if (!slice_copy(url->snapshot, sizeof(url->snapshot), snapshot))
			return url_bad(u, "the snapshot's name is too long");
	}
	if (bucket_name_check(name) < 0)
		return url_bad(u, "the bucket is not a name: 3 to 63 characters of a-z 0-9 . -, "
			"letter or digit first and last");
	slice_copy(url->bucket, sizeof(url->bucket), name);
	return 0;
}

int granary_url_parse(const char *text, struct granary_url *url, char *why, size_t why_size)
{
	static const char scheme[] = "granary://";
	struct url_parse u = { text ? text : "", why, why_size };
	struct slice rest = slice_str(u.text), hosts, bucket;
	const uint8_t *slash;

	if (!url)
		return -GRANARY_EINVAL;
	memset(url, 0, sizeof(*url));
	if (strncmp(u.text, scheme, sizeof(scheme) - 1) != 0)
		return url_bad(&u, "it must begin with granary://");
	rest = slice_of(rest.p + sizeof(scheme) - 1, rest.len - (sizeof(scheme) - 1));
	slash = memchr(rest.p, '/', rest.len);
	hosts = slash ? slice_of(rest.p, (size_t)(slash - rest.p)) : rest;
	if (hosts_parse(&u, hosts, url) < 0)
		return -GRANARY_EINVAL;
	rest = slash ? slice_of(slash + 1, rest.len - hosts.len - 1) : slice_of(NULL, 0);
	if (rest.len == 0)
		return 0;
	slash = memchr(rest.p, '/', rest.len);
	bucket = slash ? slice_of(rest.p, (size_t)(slash - rest.p)) : rest;
	if (bucket_parse(&u, bucket, url) < 0)
		return -GRANARY_EINVAL;
	if (slash && !slice_copy(url->path, sizeof(url->path), slice_of(slash + 1, rest.len - bucket.len - 1)))
		return url_bad(&u, "the path is longer than %d bytes", GRANARY_KEY_LEN_MAX);
	return 0;
}
