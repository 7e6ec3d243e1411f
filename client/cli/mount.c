/* SPDX-License-Identifier: Apache-2.0 */
/* mount.c -- mount, umount: run granary-mount, which lies beside this command or on the PATH. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <stdio.h>
#include "cli.h"

enum { PROGRAM_MAX = 4096 };

static void program_path(char path[PROGRAM_MAX])
{
	ssize_t len = readlink("/proc/self/exe", path, PROGRAM_MAX - sizeof("granary-mount"));
	char *slash;

	path[len > 0 ? len : 0] = '\0';
	slash = strrchr(path, '/');
	snprintf(slash ? slash + 1 : path, sizeof("granary-mount"), "granary-mount");
	if (access(path, X_OK) != 0) snprintf(path, PROGRAM_MAX, "granary-mount");
}

/* Becomes the program; returns only when that cannot be. */
static int become(char **args)
{
	char path[PROGRAM_MAX];

	program_path(path);
	args[0] = path;
	execvp(path, args);
	return fail_errno(errno, "cannot run %s, which comes with this command", path);
}

static char *option_text(const char *name, const char *value)
{
	char *text = NULL;

	return asprintf(&text, "--%s%s%s", name, value ? "=" : "", value ? value : "") < 0 ? NULL : text;
}

int run_mount(int count, char **args)
{
	char **all = calloc((size_t)count + 5, sizeof(*all));
	int n = 1;

	if (all == NULL) return CLI_FAILED;
	all[n++] = args[0];
	all[n++] = args[1];
	if (opts.credentials != NULL) all[n++] = option_text("credentials", opts.credentials);
	if (opts.profile != NULL) all[n++] = option_text("profile", opts.profile);
	for (int i = 2; i < count; i++) all[n++] = option_text(args[i], NULL);
	int code = become(all);
	free(all);
	return code;
}

int run_umount(int count, char **args)
{
	char unmount[] = "--unmount", *all[4] = { NULL, unmount, args[0], NULL };

	(void)count;
	return become(all);
}
