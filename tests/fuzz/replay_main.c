/* SPDX-License-Identifier: Apache-2.0 */
/* replay_main.c -- runs a fuzz target once over the empty input and over every file in the files
 * and folders given: the corpus is checked by any compiler, without libFuzzer. */
#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned replayed_count;

static int replay_file(const char *path, size_t size)
{
	FILE *f = fopen(path, "rb");
	/* Exactly as large as the input, so that a sanitizer sees a read one past its end. */
	uint8_t *data = malloc(size ? size : 1);
	size_t got = 0;

	if (f && data)
		got = fread(data, 1, size, f);
	if (f)
		fclose(f);
	if (!f || !data || got != size) {
		fprintf(stderr, "cannot read '%s': %s\n", path, strerror(errno));
		free(data);
		return 1;
	}
	LLVMFuzzerTestOneInput(data, size);
	free(data);
	replayed_count++;
	return 0;
}

static int replay_path(const char *path);

static int replay_folder(const char *path)
{
	struct dirent **names;
	int failed = 0;
	int n = scandir(path, &names, NULL, alphasort);

	if (n < 0) {
		fprintf(stderr, "cannot list '%s': %s\n", path, strerror(errno));
		return 1;
	}
	for (int i = 0; i < n; i++) {
		char child[4096];
		int len = snprintf(child, sizeof(child), "%s/%s", path, names[i]->d_name);
		if (names[i]->d_name[0] != '.' && len > 0 && (size_t)len < sizeof(child))
			failed |= replay_path(child);
		free(names[i]);
	}
	free(names);
	return failed;
}

static int replay_path(const char *path)
{
	struct stat st;

	if (stat(path, &st) < 0) {
		fprintf(stderr, "cannot stat '%s': %s\n", path, strerror(errno));
		return 1;
	}
	return S_ISDIR(st.st_mode) ? replay_folder(path) : replay_file(path, (size_t)st.st_size);
}

int main(int argc, char **argv)
{
	int failed = 0;

	LLVMFuzzerTestOneInput((const uint8_t *)"", 0);
	for (int i = 1; i < argc; i++)
		failed |= replay_path(argv[i]);
	printf("%u inputs replayed\n", replayed_count);
	return failed;
}
