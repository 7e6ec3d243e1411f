/* SPDX-License-Identifier: Apache-2.0 */
/* login.c -- login: credentials that were tried, kept under a name.
 *
 * Invariants: (1) the file is mode 0600 from its first byte, and whole when it has its name; (2) the secret is neither
 * shown nor an argument, and is wiped from memory; (3) what does not work is not kept. */
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

enum { WORD_MAX = 256, PATH_SIZE = 4096 };

struct login {
	char access_key[WORD_MAX], secret[WORD_MAX];
};

/* One line of standard input, asked for on a terminal; hidden ones are not echoed. */
static int read_word(const char *what, bool hidden, char out[WORD_MAX])
{
	bool terminal = isatty(STDIN_FILENO) == 1;
	struct termios was, quiet;
	int code = CLI_OK;

	if (terminal) fprintf(stderr, "%s: ", what);
	hidden = hidden && terminal && tcgetattr(STDIN_FILENO, &was) == 0;
	if (hidden) {
		quiet = was;
		quiet.c_lflag &= ~(tcflag_t)ECHO;
		tcsetattr(STDIN_FILENO, TCSAFLUSH, &quiet);
	}
	if (fgets(out, WORD_MAX, stdin) == NULL) out[0] = '\0';
	if (hidden) {
		tcsetattr(STDIN_FILENO, TCSAFLUSH, &was);
		fputc('\n', stderr);
	}
	out[strcspn(out, "\r\n")] = '\0';
	if (out[0] == '\0') code = fail(CLI_USAGE, "no %s was given", what);
	return code;
}

/* From a file of lines NAME=VALUE, as `granary key create` writes it. */
static int read_file(struct login *l, const char *path)
{
	char line[WORD_MAX];
	FILE *file = fopen(path, "re");

	if (file == NULL) return fail_errno(errno, "cannot read '%s'", shown(path));
	while (fgets(line, sizeof(line), file) != NULL) {
		line[strcspn(line, "\r\n")] = '\0';
		if (strncmp(line, "access_key=", 11) == 0) memmove(l->access_key, line + 11, strlen(line + 11) + 1);
		if (strncmp(line, "secret=", 7) == 0) memmove(l->secret, line + 7, strlen(line + 7) + 1);
	}
	explicit_bzero(line, sizeof(line));
	fclose(file);
	if (l->access_key[0] != '\0' && l->secret[0] != '\0') return CLI_OK;
	return fail(CLI_USAGE, "'%s' lacks access_key= or secret=", shown(path));
}

static int try_it(const struct login *l, const char *url)
{
	struct granary_options options = GRANARY_INIT(granary_options);
	struct granary_client *client;
	int err;

	options.url = url;
	options.access_key = l->access_key;
	options.secret = l->secret;
	options.timeout_ms = opts.timeout_s > 0 ? (uint32_t)opts.timeout_s * 1000u : 10000;
	err = granary_open(&options, &client);
	if (err < 0) return fail(exit_of(err), "%s", granary_last_error(NULL));
	err = granary_ping(client, NULL);
	if (err < 0) fail_remote(client, err, "cannot log in at '%s'; nothing was kept", shown(url));
	granary_close(&client);
	return exit_of(err);
}

/* Makes the directories that the path names. */
static int make_parents(char *path)
{
	for (char *slash = strchr(path + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		if (mkdir(path, 0700) < 0 && errno != EEXIST) return fail_errno(errno, "cannot make '%s'", shown(path));
		*slash = '/';
	}
	return CLI_OK;
}

static int write_file(const struct login *l, const char *url, const char *path)
{
	char temporary[PATH_SIZE + 8];
	int fd;
	FILE *file;

	snprintf(temporary, sizeof(temporary), "%s.new", path);
	unlink(temporary);
	fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	file = fd < 0 ? NULL : fdopen(fd, "w");
	if (file == NULL) return fail_errno(errno, "cannot write '%s'", shown(temporary));
	fprintf(file, "# written by granary login\nurl=%s\naccess_key=%s\nsecret=%s\n", url, l->access_key, l->secret);
	if (fflush(file) != 0 || fsync(fd) < 0 || fclose(file) != 0 || rename(temporary, path) < 0)
		return fail_errno(errno, "cannot write '%s'", shown(path));
	return CLI_OK;
}

int run_login(int count, char **args)
{
	struct login l = { .access_key = "" };
	char path[PATH_SIZE];
	struct granary_url url;
	char why[256];
	struct json j;
	int code = CLI_OK;

	(void)count;
	if (granary_url_parse(args[0], &url, why, sizeof(why)) < 0) return fail(CLI_USAGE, "%s", why);
	if (granary_profile_path(opts.profile, path, sizeof(path)) < 0)
		return fail(CLI_USAGE, "'%s' is no name of a profile (A-Z a-z 0-9 . _ -), or HOME is not set",
			shown(opts.profile != NULL ? opts.profile : "default"));
	if (opts.credentials != NULL)
		code = read_file(&l, opts.credentials);
	else if ((code = read_word("access key", false, l.access_key)) == CLI_OK)
		code = read_word("secret", true, l.secret);
	if (code == CLI_OK) code = try_it(&l, args[0]);
	if (code == CLI_OK) code = make_parents(path);
	if (code == CLI_OK) code = write_file(&l, args[0], path);
	explicit_bzero(&l, sizeof(l));
	if (code != CLI_OK) return code;
	note("logged in; kept in '%s'", shown(path));
	if (opts.json) {
		json_open(&j, stdout);
		json_text(&j, "url", args[0]);
		json_text(&j, "file", path);
		json_close(&j);
	}
	return CLI_OK;
}
