/* SPDX-License-Identifier: Apache-2.0 */
/* options.c -- where a client goes and who it is: options, environment, credentials file. */
#include "client_priv.h"
#include "common/quantity.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CREDENTIALS_SIZE_MAX = 16 * 1024, URL_TEXT_MAX = 4096, PATH_SIZE = 4096 };

struct credentials {
	char access_key[128];
	char secret[2 * WIRE_SECRET_SIZE + 1];
	char url[URL_TEXT_MAX];
};

struct loading {
	struct config *config;
	struct credentials file;
	char *why;
	size_t why_size;
};

__attribute__((format(printf, 3, 4))) static int bad(struct loading *l, int err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(l->why, l->why_size, fmt, ap);
	va_end(ap);
	return err;
}

/* One line without its end. Names that are not known are left alone: a later version may have written them. */
static int credentials_line(struct loading *l, const char *path, unsigned number, char *line)
{
	struct { const char *name; char *to; size_t size; } const fields[] = {
		{ "access_key", l->file.access_key, sizeof(l->file.access_key) },
		{ "secret", l->file.secret, sizeof(l->file.secret) },
		{ "url", l->file.url, sizeof(l->file.url) },
	};
	char *equals, *end;

	line += strspn(line, " \t");
	for (end = line + strlen(line); end > line && strchr(" \t\r", end[-1]);)
		*--end = '\0';
	if (*line == '\0' || *line == '#')
		return 0;
	equals = strchr(line, '=');
	if (!equals)
		return bad(l, -GRANARY_EINVAL, "credentials file '%s' line %u: not NAME=VALUE", path, number);
	*equals = '\0';
	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
		if (strcmp(line, fields[i].name) != 0)
			continue;
		if (strlen(equals + 1) >= fields[i].size)
			return bad(l, -GRANARY_EINVAL, "credentials file '%s' line %u: %s is too long", path,
				number, line);
		memcpy(fields[i].to, equals + 1, strlen(equals + 1) + 1);
	}
	return 0;
}

static int credentials_open(struct loading *l, const char *path)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0) {
		int err = errno == ENOENT ? -GRANARY_ENOTFOUND : -GRANARY_EACCESS;
		return bad(l, err, "cannot read the credentials file '%s': %s", path, strerror(errno));
	}
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		close(fd);
		return bad(l, -GRANARY_EACCESS, "the credentials file '%s' is not a file", path);
	}
	if (st.st_mode & 077) {
		close(fd);
		return bad(l, -GRANARY_EACCESS,
			"the credentials file '%s' may be read or written by others (mode %04o); "
			"run: chmod 600 '%s'", path, (unsigned)(st.st_mode & 07777), path);
	}
	return fd;
}

static int credentials_load(struct loading *l, const char *path)
{
	char text[CREDENTIALS_SIZE_MAX + 1];
	size_t len = 0;
	unsigned number = 1;
	int fd = credentials_open(l, path), err = 0;

	if (fd < 0)
		return fd;
	for (ssize_t n = 1; n > 0 && len < sizeof(text);) {
		n = read(fd, text + len, sizeof(text) - len);
		if (n < 0 && errno != EINTR)
			err = bad(l, -GRANARY_EACCESS, "cannot read the credentials file '%s': %s", path,
				strerror(errno));
		len += n > 0 ? (size_t)n : 0;
		n = n < 0 && errno == EINTR ? 1 : n;
	}
	close(fd);
	if (err == 0 && len == sizeof(text))
		err = bad(l, -GRANARY_EINVAL, "the credentials file '%s' is too large", path);
	text[err == 0 ? len : 0] = '\0';
	for (char *line = text, *next; err == 0 && line; line = next, number++) {
		next = strchr(line, '\n');
		if (next)
			*next++ = '\0';
		err = credentials_line(l, path, number, line);
	}
	explicit_bzero(text, sizeof(text));
	return err;
}

int granary_profile_path(const char *name, char *out, size_t size)
{
	static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
	const char *config = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME"), *middle = "";
	int len;

	if (!name)
		name = getenv("GRANARY_PROFILE");
	if (!name || !*name)
		name = "default";
	if (name[0] == '.' || strlen(name) > 64 || name[strspn(name, letters)] != '\0')
		return -GRANARY_EINVAL;
	if (!config || config[0] != '/') {
		config = home;
		middle = "/.config";
	}
	if (!config || config[0] != '/')
		return -GRANARY_EINVAL;
	len = snprintf(out, size, "%s%s/granary/%s.credentials", config, middle, name);
	return len < 0 || (size_t)len >= size ? -GRANARY_ETOOBIG : 0;
}

/* Whose file it is: a profile asked for, GRANARY_CREDENTIALS, or the profile named or left to chance; "" for none. */
static int who_path(struct loading *l, const struct granary_options *o, char *path, size_t size)
{
	const char *named = getenv("GRANARY_PROFILE"), *file = o->credentials;
	int err;

	if (!file && !o->profile)
		file = getenv("GRANARY_CREDENTIALS");
	if (file && *file) {
		if (strlen(file) >= size)
			return bad(l, -GRANARY_EINVAL, "the path of the credentials file is too long");
		snprintf(path, size, "%s", file);
		return 0;
	}
	err = granary_profile_path(o->profile, path, size);
	if (err < 0 && (o->profile || (named && *named)))
		return bad(l, -GRANARY_EINVAL, "'%.80s' is no name of a profile, or HOME is not set",
			o->profile ? o->profile : named);
	if (err < 0 || (!o->profile && !(named && *named) && access(path, F_OK) != 0))
		path[0] = '\0';
	return 0;
}

/* path: of the file that it stands in; "": the program gave it. */
static int secret_parse(struct loading *l, const char *hex, const char *path)
{
	struct config *c = l->config;
	unsigned v;

	if (strlen(hex) != 2 * WIRE_SECRET_SIZE || strspn(hex, "0123456789abcdefABCDEF") != 2 * WIRE_SECRET_SIZE)
		return bad(l, -GRANARY_EINVAL,
			"the secret of %s%.300s is not 64 hexadecimal digits, as `granary key create` gives it",
			*path ? "the credentials file " : "the options", path);
	for (size_t i = 0; i < WIRE_SECRET_SIZE; i++) {
		char two[3] = { hex[2 * i], hex[2 * i + 1], '\0' };
		v = (unsigned)strtoul(two, NULL, 16);
		c->secret[i] = (uint8_t)v;
	}
	return 0;
}

static int who_load(struct loading *l, const struct granary_options *o)
{
	char path[PATH_SIZE] = "";
	const char *access_key = o->access_key, *secret = o->secret;
	int err;

	if (!access_key != !secret)
		return bad(l, -GRANARY_EINVAL, "access_key and secret go together");
	if (!access_key) {
		err = who_path(l, o, path, sizeof(path));
		if (err == 0 && *path)
			err = credentials_load(l, path);
		if (err < 0)
			return err;
	}
	if (!access_key && *path) {
		access_key = l->file.access_key;
		secret = l->file.secret;
		if (!*access_key || !*secret)
			return bad(l, -GRANARY_EINVAL, "the credentials file '%s' lacks access_key= or secret=", path);
	}
	if (!access_key)
		return bad(l, -GRANARY_EAUTH,
			"no credentials: run `granary login`, or set GRANARY_CREDENTIALS to the file that "
			"`granary key create -o` or granaryd --quickstart wrote");
	if (*access_key == '\0' || strlen(access_key) >= sizeof(l->config->access_key))
		return bad(l, -GRANARY_EINVAL, "the access key is empty or too long");
	memcpy(l->config->access_key, access_key, strlen(access_key) + 1);
	return secret_parse(l, secret, path);
}

static int where_load(struct loading *l, const struct granary_options *o)
{
	struct granary_url url;
	const char *text = o->url ? o->url : getenv("GRANARY_URL");
	int err;

	if (!text || !*text)
		text = l->file.url;
	if (!*text)
		return bad(l, -GRANARY_EINVAL, "no address: give one as granary://HOST/BUCKET, or set GRANARY_URL");
	err = granary_url_parse(text, &url, l->why, l->why_size);
	if (err < 0)
		return err;
	l->config->hosts_count = url.hosts_count;
	memcpy(l->config->hosts, url.hosts, sizeof(url.hosts));
	memcpy(l->config->bucket, url.bucket, sizeof(url.bucket));
	return 0;
}

/* GRANARY_CLIENT_ENGINE decides where the program left it open. */
static int engine_load(struct loading *l, uint32_t wanted)
{
	static const char *const names[] = { "auto", "epoll", "uring" };
	const char *text = getenv("GRANARY_CLIENT_ENGINE");

	if (wanted > GRANARY_ENGINE_URING)
		return bad(l, -GRANARY_EINVAL, "no such engine: %u", wanted);
	l->config->engine = wanted;
	if (wanted != GRANARY_ENGINE_AUTO || !text || !*text)
		return 0;
	for (uint32_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (strcmp(text, names[i]) == 0) {
			l->config->engine = i;
			return 0;
		}
	}
	return bad(l, -GRANARY_EINVAL, "GRANARY_CLIENT_ENGINE is '%.32s': it may be auto, epoll or uring", text);
}

static int cache_load(struct loading *l, const struct granary_options *o)
{
	struct config *c = l->config;
	const char *dir = o->cache_dir ? o->cache_dir : getenv("GRANARY_CACHE_DIR");
	const char *size = getenv("GRANARY_CACHE_SIZE");

	if (!dir || !*dir)
		return 0;
	c->cache_size = o->cache_size;
	if (c->cache_size == 0 && (!size || !quantity_size(size, &c->cache_size)))
		return bad(l, -GRANARY_EINVAL, "the cache in '%.200s' needs a size: cache_size, or GRANARY_CACHE_SIZE "
			"as 200GiB", dir);
	if (strlen(dir) >= sizeof(c->cache_dir))
		return bad(l, -GRANARY_EINVAL, "the name of the cache's directory is too long");
	memcpy(c->cache_dir, dir, strlen(dir) + 1);
	return 0;
}

/* GRANARY_LOCAL_READS decides where the program left it open. */
static int local_load(struct loading *l, uint32_t wanted)
{
	const char *text = getenv("GRANARY_LOCAL_READS");

	if (wanted > GRANARY_LOCAL_OFF)
		return bad(l, -GRANARY_EINVAL, "no such kind of local reads: %u", wanted);
	l->config->local_reads = wanted;
	if (wanted != GRANARY_LOCAL_AUTO || !text || !*text || strcmp(text, "auto") == 0)
		return 0;
	l->config->local_reads = GRANARY_LOCAL_OFF;
	return strcmp(text, "off") == 0 ? 0 :
		bad(l, -GRANARY_EINVAL, "GRANARY_LOCAL_READS is '%.32s': it may be auto or off", text);
}

static int limits_load(struct loading *l, const struct granary_options *o)
{
	struct config *c = l->config;

	c->memory_max = o->memory_max ? o->memory_max : (uint64_t)256 * 1024 * 1024;
	c->timeout_ms = o->timeout_ms ? o->timeout_ms : 30000;
	c->connect_timeout_ms = o->connect_timeout_ms ? o->connect_timeout_ms : 5000;
	c->connections = o->connections ? o->connections : 1;
	c->retries_max = o->retries_max == UINT32_MAX ? 0 : o->retries_max ? o->retries_max : UINT32_MAX;
	if (c->memory_max < MEMORY_MIN)
		return bad(l, -GRANARY_EINVAL, "memory_max must be at least 8 MiB");
	if (c->connections > GRANARY_CONNECTIONS_MAX)
		return bad(l, -GRANARY_EINVAL, "connections must be 1..%d", GRANARY_CONNECTIONS_MAX);
	snprintf(c->name, sizeof(c->name), "%s", o->name ? o->name : program_invocation_short_name);
	int err = local_load(l, o->local_reads);
	if (err == 0)
		err = cache_load(l, o);
	return err < 0 ? err : engine_load(l, o->engine);
}

int config_load(struct config *config, const struct granary_options *options, char *why, size_t why_size)
{
	struct granary_options o = GRANARY_INIT(granary_options);
	struct loading l = { .config = config, .why = why, .why_size = why_size };
	int err;

	if (options && options->size < offsetof(struct granary_options, secret))
		return bad(&l, -GRANARY_EINVAL, "granary_options.size is not set");
	if (options)
		memcpy(&o, options, options->size < sizeof(o) ? options->size : sizeof(o));
	memset(config, 0, sizeof(*config));
	err = limits_load(&l, &o);
	if (err == 0)
		err = who_load(&l, &o);
	if (err == 0)
		err = where_load(&l, &o);
	explicit_bzero(&l.file, sizeof(l.file));
	return err;
}
