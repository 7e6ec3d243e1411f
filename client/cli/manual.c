/* SPDX-License-Identifier: Apache-2.0 */
/* manual.c -- the manual page (mdoc) and the completion scripts, made from the tables of options.c. */
#include <string.h>

#include "cli.h"

/* ---- the manual page ----------------------------------------------------------------------- */

/* Text for roff: no line begins with a control character, and backslashes, quotes and dashes stand for themselves. */
static void roff_text(const char *text)
{
	bool line_start = true;

	for (const char *p = text; *p != '\0'; p++) {
		if (line_start && (*p == '.' || *p == '\'')) fputs("\\&", stdout);
		if (*p == '\\')
			fputs("\\e", stdout);
		else if (*p == '-')
			fputs("\\-", stdout);
		else if (*p == '`')
			fputs("\\(ga", stdout);
		else
			putchar(*p);
		line_start = *p == '\n';
		if (*p == '.' && p[1] == ' ') { /* a new sentence, a new line */
			putchar('\n');
			line_start = true;
			p++;
		}
	}
	putchar('\n');
}

static void manual_options(const struct verb *verb)
{
	struct option_text o;
	bool any = false;

	for (size_t i = 0; option_at(i, verb, &o); i++) {
		if (o.name == NULL) continue;
		if (!any) puts(".Bl -tag -width Ds");
		any = true;
		fputs(".It ", stdout);
		if (o.letter != 0) printf("Fl %c , ", o.letter);
		printf("Fl Fl %s", o.name);
		if (o.arg != NULL) printf(" Ar %s", o.arg);
		putchar('\n');
		roff_text(o.help);
	}
	if (any) puts(".El");
}

static void manual_verb(const struct verb *verb)
{
	printf(".It Nm Cm %s Oo Ar options Oc Ar ", verb->name);
	roff_text(verb->args[0] != '\0' ? verb->args : "\\&");
	printf("%c", verb->summary[0] >= 'a' && verb->summary[0] <= 'z' ? verb->summary[0] - 32 : verb->summary[0]);
	roff_text(verb->summary + 1);
	if (verb->text != NULL) {
		puts(".Pp");
		roff_text(verb->text);
	}
	manual_options(verb);
	if (verb->examples[0] == NULL) return;
	puts(".Bd -literal -offset indent -compact");
	for (size_t i = 0; i < sizeof(verb->examples) / sizeof(verb->examples[0]) && verb->examples[i] != NULL; i++)
		roff_text(verb->examples[i]);
	puts(".Ed");
}

int run_manual(int count, char **args)
{
	const struct verb *verb;

	(void)count;
	(void)args;
	printf(".\\\" Made from the command's own tables by `granary manual`.\n.Dd $Mdocdate$\n.Dt GRANARY 1\n.Os\n"
	       ".Sh NAME\n.Nm granary\n.Nd objects and small files for training, in batches\n"
	       ".Sh SYNOPSIS\n.Nm\n.Ar verb\n.Op Ar options\n.Op Ar arguments\n"
	       ".Sh DESCRIPTION\nAn address is granary://HOST[:PORT][,HOST...]/BUCKET[@SNAPSHOT][/PATH].\n"
	       "HOST may be the percent-encoded absolute path of a Unix socket.\n"
	       "Data goes to standard output, progress and errors to standard error.\n"
	       ".Sh VERBS\n.Bl -tag -width Ds\n");
	for (size_t i = 0; (verb = verb_at(i)) != NULL; i++) manual_verb(verb);
	puts(".El\n.Sh OPTIONS OF EVERY VERB");
	manual_options(NULL);
	puts(".Sh ENVIRONMENT\n.Bl -tag -width Ds\n"
	     ".It Ev GRANARY_URL\nThe server where an address is left out.\n"
	     ".It Ev GRANARY_CREDENTIALS\nThe credentials file: lines access_key=, secret= and url=, of mode 0600.\n"
	     ".It Ev GRANARY_PROFILE\nThe profile whose credentials are used, of those that\n.Nm Cm login\nmade.\n"
	     ".It Ev NO_COLOR\nPlain text.\n.El\n"
	     ".Sh FILES\n.Bl -tag -width Ds\n"
	     ".It Pa ~/.config/granary/NAME.credentials\nThe profile NAME.\n.El\n"
	     ".Sh EXIT STATUS\n0 done, 1 failed, 2 usage, 3 done in part, 4 not found, 5 denied.");
	return CLI_OK;
}

/* ---- completion ---------------------------------------------------------------------------- */

/* The first words: verbs, and the first words of pairs, once each. */
static void first_words(const char *separator)
{
	const struct verb *verb, *before;

	for (size_t i = 0; (verb = verb_at(i)) != NULL; i++) {
		size_t len = strcspn(verb->name, " ");
		before = i > 0 ? verb_at(i - 1) : NULL;
		if (before != NULL && strncmp(before->name, verb->name, len) == 0 && before->name[len] == ' ') continue;
		printf("%s%.*s", i > 0 ? separator : "", (int)len, verb->name);
	}
}

/* " --long -l" of the verb's own options or, with NULL, of those of every verb. */
static void option_words(const struct verb *verb)
{
	struct option_text o;

	for (size_t i = 0; option_at(i, verb, &o); i++) {
		if (o.name == NULL) continue;
		printf(" --%s", o.name);
		if (o.letter != 0) printf(" -%c", o.letter);
	}
}

static void second_words(const char *group, size_t len)
{
	const struct verb *verb;

	for (size_t i = 0; (verb = verb_at(i)) != NULL; i++)
		if (strncmp(verb->name, group, len) == 0 && verb->name[len] == ' ') printf(" %s", verb->name + len + 1);
}

/* "  GROUP) words=... ;;" for each group of verbs. */
static void group_cases(void)
{
	const struct verb *verb, *before = NULL;

	for (size_t i = 0; (verb = verb_at(i)) != NULL; before = verb, i++) {
		size_t len = strcspn(verb->name, " ");
		if (verb->name[len] == '\0' ||
			(before != NULL && strncmp(before->name, verb->name, len) == 0 && before->name[len] == ' '))
			continue;
		printf("\t\t%.*s) words=\"", (int)len, verb->name);
		second_words(verb->name, len);
		puts(" \" ;;");
	}
}

/* What bash and zsh (through bashcompinit) share. */
static void completion_bash(void)
{
	const struct verb *verb;

	puts("# Made by `granary completion bash`.\n_granary()\n{\n\tlocal cur=${COMP_WORDS[COMP_CWORD]} "
	     "verb=${COMP_WORDS[1]} "
	     "words=\n\tif [ \"$COMP_CWORD\" -eq 1 ]; then");
	fputs("\t\twords=\"help ", stdout);
	first_words(" ");
	puts("\"\n\telif [ \"$COMP_CWORD\" -eq 2 ]; then\n\t\tcase $verb in");
	group_cases();
	puts("\t\tesac\n\tfi\n\tcase \"$verb ${COMP_WORDS[2]}\" in");
	for (size_t i = 0; (verb = verb_at(i)) != NULL; i++) {
		printf("\t\"%s\"%s) words+=\"", verb->name, strchr(verb->name, ' ') != NULL ? "" : "\\ *");
		option_words(verb);
		puts("\" ;;");
	}
	fputs("\tesac\n\t[ \"$COMP_CWORD\" -eq 1 ] || words+=\"", stdout);
	option_words(NULL);
	puts("\"\n\tif [[ $cur == -* || \"$COMP_CWORD\" -eq 1 ]]; then\n\t\tCOMPREPLY=($(compgen -W \"$words\" -- "
	     "\"$cur\"))\n"
	     "\telse\n\t\tCOMPREPLY=($(compgen -W \"$words\" -- \"$cur\") $(compgen -f -- \"$cur\"))\n\tfi\n}\n"
	     "complete -o filenames -F _granary granary");
}

/* A text between single quotes of fish. */
static void fish_text(const char *text)
{
	putchar('\'');
	for (; *text != '\0'; text++) printf(*text == '\'' || *text == '\\' ? "\\%c" : "%c", *text);
	putchar('\'');
}

static void fish_options(const struct verb *verb)
{
	struct option_text o;

	for (size_t i = 0; option_at(i, verb, &o); i++) {
		if (o.name == NULL) continue;
		fputs("complete -c granary", stdout);
		if (verb != NULL) {
			fputs(" -n '__fish_seen_subcommand_from ", stdout);
			printf("%.*s'", (int)strcspn(verb->name, " "), verb->name);
		}
		printf(" -l %s", o.name);
		if (o.letter != 0) printf(" -s %c", o.letter);
		if (o.arg != NULL) fputs(" -r", stdout);
		fputs(" -d ", stdout);
		fish_text(o.help);
		putchar('\n');
	}
}

static void completion_fish(void)
{
	const struct verb *verb;

	puts("# Made by `granary completion fish`.");
	for (size_t i = 0; (verb = verb_at(i)) != NULL; i++) {
		size_t len = strcspn(verb->name, " ");
		if (verb->name[len] == '\0') {
			printf("complete -c granary -n __fish_use_subcommand -a %s -d ", verb->name);
		} else {
			printf("complete -c granary -n __fish_use_subcommand -a %.*s\n", (int)len, verb->name);
			printf("complete -c granary -n '__fish_seen_subcommand_from %.*s' -a %s -d ", (int)len,
				verb->name, verb->name + len + 1);
		}
		fish_text(verb->summary);
		putchar('\n');
		fish_options(verb);
	}
	fish_options(NULL);
}

int run_completion(int count, char **args)
{
	(void)count;
	if (strcmp(args[0], "zsh") == 0) puts("#compdef granary\nautoload -U +X bashcompinit && bashcompinit");
	if (strcmp(args[0], "bash") == 0 || strcmp(args[0], "zsh") == 0)
		completion_bash();
	else if (strcmp(args[0], "fish") == 0)
		completion_fish();
	else
		return fail(CLI_USAGE, "no completion for '%s'; there is one for bash, zsh and fish", shown(args[0]));
	return CLI_OK;
}
