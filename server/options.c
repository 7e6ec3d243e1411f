/* SPDX-License-Identifier: Apache-2.0 */
#include "options.h"

#include <getopt.h>
#include <string.h>

#include "common/nearest.h"
#include "config_value.h"
#include "granary/error.h"

enum { CODE_OWN = 1000, CODE_KEY = 2000, NAME_MAX_LEN = 32, OWN_MAX = 16, SOCKET_PATH_MAX = 107 };

static const struct own_option {
	const char *name, *arg, *help;
} own_options[] = {
	{ "config", "FILE", "settings from a YAML file" },
	{ "quickstart", "DIR",
		"make DIR if missing, start on a free loopback port with a bucket and a key" },
	{ "restore", "BACKUP", "make the metadata of --data out of a backup, and stop" },
	{ "rebuild", NULL, "make the metadata of --data out of its packs, on that of --backup if given, and stop" },
	{ "checkpoint", "N", "with --restore: this checkpoint, and nothing after it" },
	{ "json", NULL, "with --restore, --rebuild: answer in JSON" },
	{ "check-config", NULL, "check the settings and stop; exit code 2 when they are wrong" },
	{ "print-default-config", NULL, "print a commented config file and stop" },
	{ "print-effective-config", NULL, "print every setting and where it came from, and stop" },
	{ "version", NULL, "print the version and stop" },
	{ "help", NULL, "print this and stop" },
};
enum own_code {
	OWN_CONFIG,
	OWN_QUICKSTART,
	OWN_RESTORE,
	OWN_REBUILD,
	OWN_CHECKPOINT,
	OWN_JSON,
	OWN_CHECK,
	OWN_DEFAULT,
	OWN_EFFECTIVE,
	OWN_VERSION,
	OWN_HELP,
	OWN_COUNT
};
_Static_assert(sizeof(own_options) / sizeof(own_options[0]) == OWN_COUNT, "one code an option");

static const char *arg_name(enum config_type type)
{
	switch (type) {
	case CONFIG_PATH: return "DIR";
	case CONFIG_LIST: return "ADDRESS";
	case CONFIG_DRIVES: return "DIR[,SIZE]";
	case CONFIG_PLACES: return "NAME,FIELD=VALUE,...";
	case CONFIG_PRICE: return "N.N";
	case CONFIG_COUNT: return "N";
	case CONFIG_SIZE: return "SIZE";
	case CONFIG_SHARE: return "SIZE|N%";
	case CONFIG_PERCENT: return "N%";
	case CONFIG_DURATION: return "TIME";
	case CONFIG_LEVEL: return "LEVEL";
	case CONFIG_ENGINE: return "ENGINE";
	case CONFIG_SWITCH: return "on|off";
	}
	return "VALUE";
}

static void flag_name(int key, char out[NAME_MAX_LEN])
{
	snprintf(out, NAME_MAX_LEN, "%s", config_keys[key].name);
	for (char *p = out; *p; p++)
		if (*p == '_') *p = '-';
}

void options_help(FILE *out)
{
	char name[NAME_MAX_LEN], left[64];

	fprintf(out, "usage: granaryd [OPTION]...\n"
		     "The server of Granary, an object and small-file storage tier for training "
		     "data.\n\n");
	for (int i = 0; i < OWN_COUNT; i++) {
		const struct own_option *o = &own_options[i];
		snprintf(left, sizeof(left), "--%s%s%s", o->name, o->arg ? " " : "",
			o->arg ? o->arg : "");
		fprintf(out, "  %-26s %s\n", left, o->help);
	}
	fprintf(out, "\nSettings (also keys of the config file; --print-default-config explains "
		     "them):\n");
	for (int i = 0; i < CONFIG_KEYS; i++) {
		flag_name(i, name);
		snprintf(left, sizeof(left), "--%s %s", name, arg_name(config_keys[i].type));
		fprintf(out, "  %-26s %s%s%s\n", left,
			*config_keys[i].text                    ? "default "
			: config_keys[i].type == CONFIG_DRIVES ? "where packs lie; default the data directory"
			: config_keys[i].type == CONFIG_PLACES ? "a cold store"
								: "the data directory; must exist",
			config_keys[i].text,
			config_keys[i].type == CONFIG_LIST || config_keys[i].type == CONFIG_DRIVES ||
					config_keys[i].type == CONFIG_PLACES
				? "; may be repeated"
				: "");
	}
	fprintf(out, "\nSignals: SIGTERM and SIGINT finish what runs and stop (a second one stops "
		     "at once); SIGHUP reads\n"
		     "the config file again. Exit codes: 0 stopped cleanly, 1 failed, 2 wrong "
		     "option or setting.\n"
		     "\nExamples:\n"
		     "  granaryd --quickstart ~/granary\n"
		     "  granaryd --config /etc/granary/granaryd.yaml --check-config\n"
		     "  granaryd --data /srv/granary --listen 127.0.0.1:7420 --listen "
		     "unix:/run/granary.sock\n");
}

static int unknown_option(const char *word, char names[][NAME_MAX_LEN], char *why)
{
	const char *list[OWN_COUNT + CONFIG_KEYS];
	char bare[NAME_MAX_LEN + 8];

	for (size_t i = 0; i < OWN_COUNT + CONFIG_KEYS; i++) list[i] = names[i];
	snprintf(bare, sizeof(bare), "%.*s", (int)strcspn(word, "="), word);
	const char *near = nearest_word(bare + strspn(bare, "-"), list, OWN_COUNT + CONFIG_KEYS);
	snprintf(why, CONFIG_WHY_MAX, "unknown option '%.64s'%s%s%s", word,
		near ? "; did you mean '--" : "; try --help", near ? near : "", near ? "'?" : "");
	return -GRANARY_EINVAL;
}

static int option_take(struct options *o, int code, const char *arg, char *why)
{
	static const enum options_mode modes[OWN_COUNT] = {
		[OWN_CHECK] = MODE_CHECK_CONFIG,
		[OWN_DEFAULT] = MODE_PRINT_DEFAULT,
		[OWN_EFFECTIVE] = MODE_PRINT_EFFECTIVE,
		[OWN_VERSION] = MODE_VERSION,
		[OWN_HELP] = MODE_HELP,
		[OWN_REBUILD] = MODE_REBUILD,
	};

	if (code >= CODE_KEY) {
		if (o->flag_count == OPTIONS_FLAGS_MAX) {
			snprintf(why, CONFIG_WHY_MAX, "more than %d options", OPTIONS_FLAGS_MAX);
			return -GRANARY_EINVAL;
		}
		o->flags[o->flag_count].key = (enum config_key)(code - CODE_KEY);
		o->flags[o->flag_count++].text = arg;
	} else if (code - CODE_OWN == OWN_CONFIG) {
		o->config_file = arg;
	} else if (code - CODE_OWN == OWN_QUICKSTART) {
		o->quickstart = arg;
	} else if (code - CODE_OWN == OWN_RESTORE) {
		o->restore = arg;
		o->mode = MODE_RESTORE;
	} else if (code - CODE_OWN == OWN_CHECKPOINT) {
		o->checkpoint = arg;
	} else if (code - CODE_OWN == OWN_JSON) {
		o->json = true;
	} else {
		o->mode = modes[code - CODE_OWN];
	}
	return 0;
}

static void table_fill(struct option longs[], char names[][NAME_MAX_LEN])
{
	for (int i = 0; i < OWN_COUNT; i++) {
		snprintf(names[i], NAME_MAX_LEN, "%s", own_options[i].name);
		longs[i] = (struct option){ names[i],
			own_options[i].arg ? required_argument : no_argument, NULL, CODE_OWN + i };
	}
	for (int i = 0; i < CONFIG_KEYS; i++) {
		flag_name(i, names[OWN_COUNT + i]);
		longs[OWN_COUNT + i] = (struct option){ names[OWN_COUNT + i], required_argument,
			NULL, CODE_KEY + i };
	}
	longs[OWN_COUNT + CONFIG_KEYS] = (struct option){ 0 };
}

int options_read(int argc, char **argv, struct options *out, char *why)
{
	struct option longs[OWN_COUNT + CONFIG_KEYS + 1];
	char names[OWN_COUNT + CONFIG_KEYS][NAME_MAX_LEN];
	int code, err;

	*out = (struct options){ 0 };
	table_fill(longs, names);
	opterr = 0;
	optind = 0; /* also after an earlier call */
	while ((code = getopt_long(argc, argv, "+:", longs, NULL)) != -1) {
		const char *word = argv[optind - 1];
		if (code == '?') return unknown_option(word, names, why);
		if (code == ':') {
			snprintf(why, CONFIG_WHY_MAX, "option '%.64s' needs a value; see --help",
				word);
			return -GRANARY_EINVAL;
		}
		err = option_take(out, code, optarg, why);
		if (err < 0) return err;
	}
	if (optind < argc) {
		snprintf(why, CONFIG_WHY_MAX,
			"unexpected argument '%.64s'; options begin with --, see --help",
			argv[optind]);
		return -GRANARY_EINVAL;
	}
	return 0;
}

/* The directory, and a socket inside it beside the default port. */
static int quickstart_config(const char *dir, struct config *c, char *why)
{
	char address[CONFIG_TEXT_MAX + 32];
	int err = config_set_flag(c, CONFIG_DATA, dir, why);

	if (err < 0 || c->values[CONFIG_LISTEN].source != CONFIG_FROM_DEFAULT) return err;
	snprintf(address, sizeof(address), "unix:%s/granary.sock", dir);
	if (strlen(address) > strlen("unix:") + SOCKET_PATH_MAX)
		return 0; /* the kernel allows no longer path: TCP only */
	err = config_address_parse(address, c->listen[1], why, CONFIG_WHY_MAX);
	if (err == 0) c->listen_count = 2;
	return err;
}

int options_config(
	const struct options *options, const char *quickstart_dir, struct config *out, char *why)
{
	int err = 0;

	config_init(out);
	if (options->config_file) err = config_load(out, options->config_file, why);
	for (uint32_t i = 0; err == 0 && i < options->flag_count; i++)
		err = config_set_flag(out, options->flags[i].key, options->flags[i].text, why);
	if (err < 0) return err;
	if (options->quickstart && out->values[CONFIG_DATA].source != CONFIG_FROM_DEFAULT) {
		snprintf(why, CONFIG_WHY_MAX,
			"--quickstart names the data directory itself; leave `data` away");
		return -GRANARY_ECONFIG;
	}
	if (quickstart_dir) return quickstart_config(quickstart_dir, out, why);
	return 0;
}
