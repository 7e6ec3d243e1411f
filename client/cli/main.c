/* SPDX-License-Identifier: Apache-2.0 */
/* main.c -- granary VERB: reads the command line by the tables of options.c and runs the verb. */
#include "cli.h"

#include <stdlib.h>

int main(int argc, char **argv)
{
	const struct verb *verb = NULL;
	char **args = NULL;
	int count = 0, code, flushed;

	code = options_parse(argc, argv, &verb, &count, &args);
	if (code == CLI_OK && verb != NULL) code = verb->run(count, args);
	flushed = output_close();
	return code == CLI_OK ? flushed : code;
}
