/* SPDX-License-Identifier: Apache-2.0 */
/* dataset.c -- directories that are packed apart: create, ls, rm (the mark goes, the objects stay). */
#include "cli.h"

#include <stdlib.h>
#include <string.h>

int run_dataset_create(int count, char **args)
{
	opts.dataset = opts.parents = true;
	return run_mkdir(count, args);
}

static void dataset_line(const char *line)
{
	char bucket[LINE_VALUE_MAX], path[LINE_VALUE_MAX];

	if (line_number(line, "more") > 0)
		note("there are more; name a bucket");
	else if (opts.json)
		line_json(line);
	else
		printf("%s/%s\n", line_pair(line, "bucket", bucket), line_pair(line, "path", path));
}

int run_dataset_ls(int count, char **args)
{
	char *text = NULL, *rest, *line;
	struct remote r;
	int err, code = remote_open(&r, count > 0 ? args[0] : NULL, NEED_NOTHING, 1);

	if (code != CLI_OK) return code;
	err = granary_task(r.client, "dataset-ls", r.bucket, &text, NULL);
	if (err < 0) code = fail_remote(r.client, err, "cannot list datasets");
	rest = text;
	while (err == 0 && (line = line_next(&rest)) != NULL) dataset_line(line);
	granary_free(text);
	remote_close(&r);
	return code;
}

int run_dataset_rm(int count, char **args)
{
	char place[GRANARY_KEY_LEN_MAX + 80], *text = NULL;
	struct remote r;
	int err, code = remote_open(&r, args[0], NEED_PATH, 1);

	(void)count;
	if (code != CLI_OK) return code;
	snprintf(place, sizeof(place), "%s/%s", r.bucket, r.path);
	err = granary_task(r.client, "dataset-rm", place, &text, NULL);
	if (err < 0) code = fail_remote(r.client, err, "cannot end the dataset '%s/%s'", r.bucket, shown(r.path));
	granary_free(text);
	remote_close(&r);
	return code;
}
