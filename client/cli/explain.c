/* SPDX-License-Identifier: Apache-2.0 */
/* explain.c -- explain: what an error code means, what usually causes it, and what to do. One row for each code of
 * include/granary/error.h. */
#include <assert.h>
#include <string.h>
#include <strings.h>

#include "cli.h"
#include "granary/error.h"

struct advice {
	const char *cause, *fix;
};

static const struct advice advices[] = {
	[GRANARY_ENOTFOUND] = { "There is no object, directory, snapshot or key of that name.",
		"Look with `granary ls`; names are case sensitive, and `a` and `a/` are two things." },
	[GRANARY_EEXIST] = { "Something of that name is there already, and it was not to be replaced.",
		"Choose another name, or remove what is there first." },
	[GRANARY_EBUSY] = { "The server has more work than it takes on, somebody uses what was to be removed, or the "
			    "same names "
			    "kept changing.",
		"Try again after a moment. The library does so by itself until the deadline. `granary status` shows "
		"the load; "
		"`granary jobs` shows who reads a snapshot." },
	[GRANARY_ECORRUPT] = { "The bytes do not have the checksum that was recorded when they were written, on any "
			       "copy.",
		"Nothing wrong was handed out. `granary check` lists what is damaged; the server's log names pack and "
		"offset. "
		"Write the object again, or restore it from a backup, and look at the drive." },
	[GRANARY_EINVAL] = { "An argument makes no sense; the text says which.", "Correct it; see --help." },
	[GRANARY_EACCESS] = { "The access key is known, but none of its grants allows this here.",
		"`granary key ls` shows what a key may do; an admin makes another with `granary key create --grant`." },
	[GRANARY_EAUTH] = { "The server does not know the access key, or the secret is wrong, or the key has ended.",
		"Check the credentials file (GRANARY_CREDENTIALS); ask an admin for a new one." },
	[GRANARY_ENOMEM] = { "The process may not take more memory.",
		"In a client: raise its memory limit or ask for less at once. In the server: see the budgets in its "
		"config." },
	[GRANARY_EIO] = { "A read or write of a file or device failed.",
		"The server's log names the file. Look at the drive (dmesg) before anything else is written to it." },
	[GRANARY_ENOSPACE] = { "The disk of the data directory, or the space that the config gives the store, is used "
			       "up. Nothing "
			       "was acknowledged.",
		"Remove what is not needed (reads and removals go on) or add space; writes go on by themselves." },
	[GRANARY_ETIMEDOUT] = { "No answer came before the deadline. A change may have been made or not.",
		"Repeat it: a change that is repeated by the library happens once. If it lasts: is the server up, is "
		"the network "
		"slow, is --timeout too short?" },
	[GRANARY_ECLOSED] = { "The connection ended before the answer. A change may have been made or not.",
		"Repeat it; see the server's log for why it closed." },
	[GRANARY_EPROTO] = { "One side sent what the other does not understand.",
		"Are both of the same release? Is that port Granary's? Otherwise this is a defect: please report it." },
	[GRANARY_EVERSION] = { "Client, server or file are of versions that do not know each other.",
		"Bring the older one up to date." },
	[GRANARY_ETOOBIG] = { "Something is larger than a limit; the text says which.",
		"Make it smaller, or raise the limit where it can be set." },
	[GRANARY_ENAME] = { "The name cannot be used.",
		"A bucket has 3 to 63 of a-z, 0-9, '-' and '.'; a key 1 to 1,024 bytes of UTF-8 without NUL." },
	[GRANARY_EISDIR] = { "It is a directory, and an object is wanted.",
		"Name an object, or use -r where there is one." },
	[GRANARY_ENOTDIR] = { "It is an object, and a directory is wanted.", "Name a directory." },
	[GRANARY_ENOTEMPTY] = { "There is still something in it.",
		"Empty it first: `granary rm -r`; of a bucket also its snapshots." },
	[GRANARY_ELOOP] = { "A directory would come to lie in itself.", "Choose a target outside of it." },
	[GRANARY_ECHANGED] = { "The object was overwritten while it was read in several steps, or has another version "
			       "than the one "
			       "asked for.",
		"Read it again from the start." },
	[GRANARY_ESTALE] = { "An id names something that is gone, or an upload began before the server was restarted.",
		"Look the name up again; upload again." },
	[GRANARY_EPRECONDITION] = { "The condition that came with the change (absent, or of a certain version) does "
				    "not hold.",
		"Somebody was faster: read what is there and decide again." },
	[GRANARY_ERANGE] = { "The range begins behind the end.", "Ask for the size first: `granary stat`." },
	[GRANARY_EQUOTA] = { "The bucket may not hold more.", "Remove something, or have an admin raise the quota." },
	[GRANARY_EUNSUPPORTED] = { "This server, kernel or file system cannot do it.",
		"The text says what is missing." },
	[GRANARY_ESHUTDOWN] = { "The server is stopping.",
		"Try again when it is back; the library does so by itself." },
	[GRANARY_ECANCELED] = { "The operation was taken back before it was done.", "Nothing; somebody wanted that." },
	[GRANARY_EUNREACHABLE] = { "Nobody answers at that address.",
		"Is granaryd running (`granary status`), is the port right (7420), does a firewall lie between?" },
	[GRANARY_ECONFIG] = { "The config file has something wrong; the text says where.",
		"granaryd --check-config FILE names line and column; --print-default-config shows what there is." },
	[GRANARY_ELOCKED] = { "Another process uses the data directory.",
		"Only one granaryd may: find it with `fuser DIR/lock`, stop it, or give this one another directory." },
	[GRANARY_EBADFORMAT] = { "The file is not what its name says, or is damaged.",
		"`tools/granary-fsck` says where; restore the file from a backup." },
	[GRANARY_EOFFLINE] = { "The drive or store that holds the bytes is away.",
		"`granary status` names it; bring it back, the reads then work again." },
	[GRANARY_EREADONLY] = { "It may only be read: a snapshot, or a store on a file system mounted read-only.",
		"Write elsewhere, or mount it for writing." },
	[GRANARY_ENOBUCKET] = { "There is no such bucket, or the key may not know of it.",
		"`granary bucket ls`; make it with `granary bucket create`." },
	[GRANARY_EINTR] = { "A signal came.", "Repeat it if it was not meant to stop." },
	[GRANARY_EAGAIN] = { "It is not ready yet.", "Wait for it; the library does so by itself." },
	[GRANARY_EFORKED] = { "The handle was opened before a fork() and belongs to the parent.",
		"Open one in the child." },
	[GRANARY_ENOATTR] = { "The object has no attribute of that name.",
		"`granary xattr URL` and `granary tag URL` show those that it has." },
	[GRANARY_ENOTFILE] = { "It is a symbolic link, a pipe, a socket or a device: a name without bytes of its own.",
		"`granary stat` shows where a link points; read that object." },
	[GRANARY_EMLINK] = { "A file has at most 65,000 names.", "Copy it instead: granary cp." },
	[GRANARY_EDEADLOCK] = { "Those who hold this part of the file locked wait, in turn, for what the asker holds.",
		"Give up a lock first; take several always in the same order." },
	[GRANARY_ESOURCE] = { "The object was linked, not copied, and its source has other bytes by now, or none.",
		"`granary flow verify URL` lists what differs, `granary flow refresh URL` takes what is there now." },
};

struct code {
	int number;
	const char *name, *class, *text;
};
static const struct code codes[] = {
#define X(number, name, posix, klass, text) { number, #name, #klass, text },
	GRANARY_ERROR_TABLE(X)
#undef X
};
enum { CODES_COUNT = sizeof(codes) / sizeof(codes[0]) };
static_assert(sizeof(advices) / sizeof(advices[0]) == CODES_COUNT + 1, "advice for every code");

static const char *class_text(const char *class)
{
	if (strcmp(class, "RETRY") == 0) return "Nothing was changed: repeating it after a pause may work.";
	if (strcmp(class, "UNSURE") == 0) return "A change may have been made or not; the library repeats it safely.";
	return "Repeating the same gives the same answer.";
}

static void explain_one(const struct code *c, bool whole)
{
	const struct advice *a = &advices[c->number];
	struct json j;

	if (opts.json) {
		json_open(&j, stdout);
		json_text(&j, "code", c->name);
		json_number(&j, "number", (uint64_t)c->number);
		json_text(&j, "text", c->text);
		json_text(&j, "class", c->class);
		json_text(&j, "cause", a->cause);
		json_text(&j, "fix", a->fix);
		json_close(&j);
	} else if (whole) {
		printf("%s (%d): %s\n", c->name, c->number, c->text);
		print_wrapped(a->cause);
		print_wrapped(a->fix);
		print_wrapped(class_text(c->class));
	} else {
		printf("%-13s %s\n", c->name, c->text);
	}
}

int run_explain(int count, char **args)
{
	uint64_t number = 0;
	const char *name;

	if (count == 0) {
		for (size_t i = 0; i < CODES_COUNT; i++) explain_one(&codes[i], false);
		return CLI_OK;
	}
	name = strncasecmp(args[0], "GRANARY_E", 9) == 0 ? args[0] + 9 : args[0];
	if (parse_number(args[0][0] == '-' ? args[0] + 1 : args[0], &number) < 0) number = 0;
	for (size_t i = 0; i < CODES_COUNT; i++) {
		if (strcasecmp(codes[i].name, name) != 0 && (uint64_t)codes[i].number != number) continue;
		explain_one(&codes[i], true);
		return CLI_OK;
	}
	return fail(CLI_NOTFOUND, "no error code '%s'; granary explain lists them", shown(args[0]));
}
