/* SPDX-License-Identifier: Apache-2.0 */
/* options.c -- the two tables of the command: verbs, and options with the verbs that take them. getopt_long, all help
 * texts, the checks of numbers and the nearest name of a mistyped word are made from them. */
#include "cli.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct options opts;

static const struct verb verbs[] = {
	{ "bucket create", "URL", 1, 1, run_bucket_create, "make a bucket", NULL,
		{ "granary bucket create granary://localhost/vision" } },
	{ "bucket ls", "[URL]", 0, 1, run_bucket_ls, "list buckets with their size", NULL,
		{ "granary bucket ls granary://localhost", "granary bucket ls --json" } },
	{ "bucket rm", "URL", 1, 1, run_bucket_rm, "remove an empty bucket",
		"The bucket must be empty: empty it with `granary rm -r URL`.",
		{ "granary bucket rm granary://localhost/old --dry-run" } },
	{ "key create", "[URL]", 0, 1, run_key_create,
		"make an access key and write its credentials file",
		"A grant is ACTIONS[:BUCKET[/PREFIX]]; ACTIONS are read, list, write, delete and "
		"admin, joined by +. "
		"read gives read and list; without a bucket the grant is for all buckets. The file "
		"has mode 0600; "
		"the secret is shown nowhere else, and on standard output only with `-o -`.",
		{ "granary key create granary://localhost --grant read:vision/ -o "
		  "training.credentials",
			"granary key create --grant read+write+delete:vision/raw/ --expires 30d "
			"--note ingest -o k" } },
	{ "key ls", "[URL]", 0, 1, run_key_ls, "list access keys and what they may do", NULL,
		{ "granary key ls" } },
	{ "key rm", "ID [URL]", 1, 2, run_key_rm, "remove an access key", NULL,
		{ "granary key rm GK1A2B3C" } },
	{ "cp", "SRC DST", 2, 2, run_cp, "copy files and objects, either way",
		"SRC and DST are local paths, addresses that begin with granary://, or - for "
		"standard input and output. "
		"A DST that ends in a slash, or is a local directory, takes SRC under its own "
		"name. With -r what lies "
		"below SRC goes below DST; files that are there already with the same size and "
		"time are skipped, so a "
		"stopped copy goes on where it was. Modes and times are kept.",
		{ "granary cp photo.jpg granary://localhost/vision/raw/",
			"granary cp -r granary://localhost/vision/raw ./raw",
			"tar c . | granary cp - granary://localhost/backup/home.tar",
			"granary cp granary://localhost/backup/home.tar - | tar t" } },
	{ "cat", "URL...", 1, 1 << 20, run_cat, "write objects to standard output", NULL,
		{ "granary cat granary://localhost/vision/labels.csv | head" } },
	{ "ls", "[URL]", 0, 1, run_ls, "list a directory, a prefix or the buckets", NULL,
		{ "granary ls granary://localhost/vision/",
			"granary ls -l -r granary://localhost/vision/train",
			"granary ls --json -r granary://localhost/vision | wc -l" } },
	{ "stat", "URL...", 1, 1 << 20, run_stat,
		"show all that is known of an object or directory", NULL,
		{ "granary stat granary://localhost/vision/labels.csv" } },
	{ "rm", "URL...", 1, 1 << 20, run_rm, "remove objects; with -r all below a directory",
		"With -r it says how much there is and asks first; --yes does not ask, --dry-run "
		"removes nothing.",
		{ "granary rm granary://localhost/vision/labels.csv",
			"granary rm -r --dry-run granary://localhost/vision/raw" } },
	{ "mv", "SRC DST", 2, 2, run_mv, "rename an object or a directory within its bucket",
		"One step, however much lies below. Asks before it replaces something.",
		{ "granary mv granary://localhost/vision/raw granary://localhost/vision/train" } },
	{ "mkdir", "URL...", 1, 1 << 20, run_mkdir, "make directories", NULL,
		{ "granary mkdir -p --dataset granary://localhost/vision/2024/train" } },
	{ "import", "DIR...|ARCHIVE...|- TARGET", 2, 1 << 20, run_import,
		"bring directories or archives of small files in as a dataset",
		"What lies below DIR goes below TARGET (several DIRs: each under its own name), "
		"which is marked as a "
		"dataset: its objects are packed together in the order given by --layout. Files "
		"that differ only after "
		"the first dot of the name (0001.jpg, 0001.json) stay next to each other. Links to "
		"files are followed; links to directories, broken links and special files are "
		"counted and left out. "
		"An ARCHIVE (tar, also compressed, or zip; - is standard input) is read once, and its members keep "
		"their order; names that are absolute or have a '..' are left out. Run either again to go on after "
		"a stop or to add what is new: files there already with the same size and time are "
		"skipped.",
		{ "granary import ./imagenet granary://localhost/vision/imagenet",
			"granary import --layout shuffled:7 ./coco granary://localhost/vision/coco",
			"granary import --dry-run train val granary://localhost/vision/2024",
			"granary import train.tar.zst granary://localhost/vision/train",
			"granary import - granary://localhost/vision/train < train.tar" } },
	{ "export", "URL DIR|ARCHIVE|-", 2, 2, run_export,
		"write what lies below a prefix to a directory or an archive",
		"An ARCHIVE is a file whose name ends in .tar, .tar.gz, .tar.zst, .tar.xz, .tar.bz2, .tar.lz4, .tgz or "
		".zip; - writes a tar to standard output, --tar makes any other name one. What cannot be read is "
		"named, counted and left out (exit code 3).",
		{ "granary export granary://localhost/vision/train - | tar t",
			"granary export granary://localhost/vision/train train.tar.zst",
			"granary export granary://localhost/vision/train ./train" } },
	{ "sync", "SRC DST", 2, 2, run_sync, "make DST hold what SRC holds: only what changed is copied",
		"One side is a directory, the other an address, or both are addresses. What lies below SRC goes below "
		"DST; files with the same size and time are not read. --delete removes from DST what SRC does not "
		"have, after saying how much that is and asking.",
		{ "granary sync ./train granary://localhost/vision/train",
			"granary sync --delete --dry-run ./train granary://localhost/vision/train",
			"granary sync granary://localhost/vision/train ./train" } },
	{ "du", "[URL]", 0, 1, run_du, "show how many objects and bytes lie below each directory",
		"A line for each directory right below URL and one for all of it; --depth shows deeper ones too. "
		"Without a path: a line a bucket.",
		{ "granary du granary://localhost/vision",
			"granary du --depth 2 --json granary://localhost/vision" } },
	{ "dataset create", "URL", 1, 1, run_dataset_create, "mark a directory as a dataset: packed together",
		"What is written below it afterwards lies in packs of its own, in the order of its arrival.",
		{ "granary dataset create granary://localhost/vision/train" } },
	{ "dataset ls", "[URL]", 0, 1, run_dataset_ls, "list datasets: those of a bucket, or all",
		"Wants a key with an admin grant.",
		{ "granary dataset ls granary://localhost/vision", "granary dataset ls --json granary://localhost" } },
	{ "dataset rm", "URL", 1, 1, run_dataset_rm, "end a dataset: its directory is one like others again",
		"No object goes; what is written from then on is packed with what lies above. Wants a key with an "
		"admin grant. `granary rm -r` removes objects.",
		{ "granary dataset rm granary://localhost/vision/train" } },
	{ "login", "URL", 1, 1, run_login,
		"keep address, access key and secret under a name, for later commands",
		"Asks for the access key and the secret (not shown), or takes them from --credentials FILE, tries "
		"them, and writes them to a file of mode 0600 in ~/.config/granary. Without --profile they are used by "
		"every command and program that names no others.",
		{ "granary login granary://storage.example/vision",
			"granary login --profile lab granary://lab.example",
			"granary ls --profile lab granary://lab.example/raw/" } },
	{ "doctor", "[URL]", 0, 1, run_doctor,
		"check kernel, limits, disks, credentials and the server; say what to mend",
		"Changes nothing. --data also looks at a directory that is to hold a store. Exit code 1 when something "
		"is bad.",
		{ "granary doctor", "granary doctor --data /srv/granary granary://localhost" } },
	{ "bundle", "[URL]", 0, 1, run_bundle, "write an archive of what helps to find out what is wrong",
		"Versions, doctor, status, jobs, buckets, and what the kernel says of the machine. Secrets are starred "
		"out.",
		{ "granary bundle -o bundle.tar.gz", 
			"granary bundle --log /var/log/granaryd.log granary://localhost" } },
	{ "drive ls", "[URL]", 0, 1, run_drive_ls, "list the hot directories: packs, room, how a drain goes", NULL,
		{ "granary drive ls", "granary drive ls --json granary://localhost" } },
	{ "tier ls", "[URL]", 0, 1, run_tier_ls, "list the cold stores: packs, bytes, how each fares", NULL,
		{ "granary tier ls", "granary tier ls --json granary://localhost" } },
	{ "tier push", "URL", 1, 1, run_tier_push, "move what lies below URL to a cold store",
		"Every pack that holds a byte of it is copied there, compressed, read back and verified; then its hot "
		"copy goes (--copy: it stays). Names and addresses stay the same. Waits until it is done; --background "
		"does not. Run again, it goes on.",
		{ "granary tier push granary://localhost/vision/raw --to archive",
			"granary tier push granary://localhost/vision --to archive --copy --level 9" } },
	{ "tier pull", "URL", 1, 1, run_tier_pull, "bring what lies below URL back to the hot drives",
		"The cold copy stays, so that it may leave again without being copied (tier push); --drop removes it "
		"too.",
		{ "granary tier pull granary://localhost/vision/raw" } },
	{ "tier plan", "[FILE|-] [URL]", 0, 2, run_tier_plan, "show what rules would move, free and cost now",
		"FILE holds rules (docs/TIERS.md); without it those in force. Nothing is changed.",
		{ "granary tier plan rules.yaml", "granary tier plan --json" } },
	{ "tier apply", "FILE|- [URL]", 1, 2, run_tier_apply, "put the rules of a file in force, all at once",
		"Where none in force deletes, rules that delete need --yes-delete; without it the command says what "
		"they would delete now.",
		{ "granary tier apply rules.yaml", "granary tier apply rules.yaml --yes-delete" } },
	{ "tier rules", "[URL]", 0, 1, run_tier_rules, "print the rules in force", NULL, { "granary tier rules" } },
	{ "tier explain", "URL", 1, 1, run_tier_explain, "say which rules decide over a key, and when it moves", NULL,
		{ "granary tier explain granary://localhost/vision/raw/0.png" } },
	{ "tier cost", "[URL]", 0, 1, run_tier_cost, "show the bill: today's, all on flash, with the plan",
		"Prices are settings of the server: hot_price, and price_gb_month, price_1000_requests, "
		"price_gb_egress of each store.",
		{ "granary tier cost", "granary tier cost --json" } },
	{ "tier pin", "URL", 1, 1, run_tier_pin, "keep what lies at or below URL on flash, whatever rules say",
		"What is cold comes back with the next pass; rules neither move nor delete it. Kept over restarts, in "
		"the backup too, until tier unpin. Wants a key that may write there.",
		{ "granary tier pin granary://localhost/vision/raw" } },
	{ "tier unpin", "URL", 1, 1, run_tier_unpin, "let rules decide again over what tier pin named", NULL,
		{ "granary tier unpin granary://localhost/vision/raw" } },
	{ "tier pins", "[URL]", 0, 1, run_tier_pins, "list what tier pin keeps on flash", NULL,
		{ "granary tier pins", "granary tier pins --json granary://localhost" } },
	{ "tier top", "[URL]", 0, 1, run_tier_top, "show the hottest and the coldest prefixes right below URL",
		"Without a path: of all buckets. Reads are known by pack; a prefix has its share of a pack's by bytes. "
		"Reads all names there. --json: every prefix, hottest first.",
		{ "granary tier top", "granary tier top --json granary://localhost/vision" } },
	{ "tier map", "[URL]", 0, 1, run_tier_map, "draw all packs by place and heat",
		"A character a pack, hottest first, for each place; -o FILE writes a picture (SVG) instead.",
		{ "granary tier map", "granary tier map -o tiers.svg" } },
	{ "tier status", "[URL]", 0, 1, run_tier_status, "show moves between hot and cold: done, rate, time left",
		NULL,
		{ "granary tier status", "granary tier status --json granary://localhost" } },
	{ "tier cancel", "TASK [URL]", 1, 2, run_tier_cancel, "end a move after the pack at hand",
		"What was moved stays moved.", { "granary tier cancel 0000030000000012" } },
	{ "tier pause", "[URL]", 0, 1, run_tier_pause, "let all moves wait, over restarts too", NULL,
		{ "granary tier pause" } },
	{ "tier resume", "[URL]", 0, 1, run_tier_resume, "let moves go on", NULL, { "granary tier resume" } },
	{ "link", "SOURCE URL", 2, 2, run_link,
		"give the objects of a bucket or directory names here, without copying",
		"SOURCE: s3://BUCKET[/PREFIX], a path, or NAME[/PREFIX], of a store with `use: source` in the server's "
		"settings. Names and sizes appear; what is read comes from there, and is an error if it was changed "
		"since. "
		"What is here already stays (--take-source: what the source has is taken). Run again, it goes on; "
		"docs/FLOW.md.",
		{ "granary link s3://images/train granary://localhost/vision/train",
			"granary link /mnt/old/set granary://localhost/vision/set" } },
	{ "flow refresh", "URL", 1, 1, run_flow_refresh,
		"take what is new or changed at the source that URL is linked to",
		"Objects that the source has no more, and what was written here, stay and are listed.",
		{ "granary flow refresh granary://localhost/vision/train" } },
	{ "flow verify", "URL", 1, 1, run_flow_verify, "compare URL with the source that it is linked to",
		"By keys, sizes and tags (ETags): no byte is read. What differs is listed.",
		{ "granary flow verify granary://localhost/vision/train" } },
	{ "flow preload", "URL", 1, 1, run_flow_preload, "copy what lies below URL from its source to the hot drives",
		"Addresses stay: snapshots and epochs are the same before and after. Run again, it goes on.",
		{ "granary flow preload granary://localhost/vision/train" } },
	{ "flow evict", "URL", 1, 1, run_flow_evict, "let the hot drives go of what its source still has",
		"Every object is asked for first; a pack of which one was changed or is gone there stays.",
		{ "granary flow evict granary://localhost/vision/train" } },
	{ "flow status", "[URL]", 0, 1, run_flow_status, "show tasks that link and verify: counts, what they wait for",
		NULL,
		{ "granary flow status", "granary flow status --json granary://localhost" } },
	{ "flow cancel", "TASK [URL]", 1, 2, run_flow_cancel, "end a task that links or verifies",
		"What was linked stays linked.", { "granary flow cancel 0000030000000012" } },
	{ "drive add", "DIR [URL]", 1, 2, run_drive_add, "let packs lie in a further directory of the server",
		"DIR is an absolute path on the server, one a drive; it is remembered, and may stand in the setting "
		"`hot` too. Of one that is being drained or was drained: it is used again.",
		{ "granary drive add /mnt/nvme2",
			"granary drive add --capacity 3TiB /mnt/nvme2 granary://localhost" } },
	{ "drive drain", "DIR [URL]", 1, 2, run_drive_drain, "move all packs of a drive to others, so that it can go",
		"Each pack is copied, read back and compared before the old copy goes; reads and writes go on. It "
		"goes on after a restart of the server. The drive can be taken away when drive ls says drained.",
		{ "granary drive drain /mnt/nvme0", "granary drive drain --cancel /mnt/nvme0" } },
	{ "clock status", "[URL]", 0, 1, run_clock_status,
		"show store time, and what of a long stop is not counted", NULL,
		{ "granary clock status" } },
	{ "clock accept", "[URL]", 0, 1, run_clock_accept, "count all of a stop that lasted longer than a day",
		"Ages, leases and expiry are counted in store time, which goes on while the server runs. Of a stop at "
		"most 24 hours count by themselves, because a clock that jumped looks the same. Says how long, "
		"and asks.",
		{ "granary clock accept --dry-run", "granary clock accept --yes" } },
	{ "log-level", "error|warn|info|debug [URL]", 1, 2, run_log_level, "change what the running server logs",
		"Until its restart or reload.", { "granary log-level debug" } },
	{ "explain", "[CODE]", 0, 1, run_explain, "say what an error code means and what to do about it", NULL,
		{ "granary explain NOSPACE", "granary explain" } },
	{ "completion", "bash|zsh|fish", 1, 1, run_completion, "print the completion script for a shell", NULL,
		{ "granary completion bash > /etc/bash_completion.d/granary" } },
	{ "manual", "", 0, 0, run_manual, "print the manual page of the command", NULL,
		{ "granary manual | man -l -" } },
	{ "setattr", "URL...", 1, 1 << 20, run_setattr, "set mode, owner or times of objects and directories", NULL,
		{ "granary setattr --perm 0640 --owner 1000:100 granary://localhost/vision/labels.csv",
			"granary setattr --mtime 1700000000.5 granary://localhost/vision/raw/" } },
	{ "xattr", "URL [NAME[=VALUE]...]", 1, 1000, run_xattr, "show, set and remove extended attributes",
		"Without a NAME it shows all. NAME=VALUE sets one; with --remove NAME goes.",
		{ "granary xattr granary://localhost/vision/a.jpg user.source=camera7",
			"granary xattr --remove granary://localhost/vision/a.jpg user.source" } },
	{ "tag", "URL [NAME=VALUE...]", 1, 11, run_tag, "show, set and remove tags of an object",
		"Without a NAME it shows all. NAME=VALUE sets one of up to ten; with --remove NAME goes.",
		{ "granary tag granary://localhost/vision/a.jpg split=train quality=high" } },
	{ "ln", "TARGET URL", 2, 2, run_ln, "give a file one more name; with -s make a symbolic link",
		"TARGET is the address of a file of the same bucket; with -s any text.",
		{ "granary ln granary://localhost/vision/a.jpg granary://localhost/vision/best/1.jpg",
			"granary ln -s ../a.jpg granary://localhost/vision/best/2.jpg" } },
	{ "write", "URL [FILE]", 1, 2, run_write_at, "write bytes into an object, from --offset on",
		"FILE or standard input. The rest stays; what lies between the end and the offset is zeros.",
		{ "granary write --offset 4096 granary://localhost/vision/index.bin part.bin" } },
	{ "truncate", "URL SIZE", 2, 2, run_truncate, "make an object shorter or longer",
		"What is new reads as zeros and takes no space.",
		{ "granary truncate granary://localhost/vision/index.bin 2GiB" } },
	{ "punch", "URL OFFSET LENGTH", 3, 3, run_punch, "give back the space of a part of an object",
		"It reads as zeros then; the size stays.",
		{ "granary punch granary://localhost/vision/index.bin 1MiB 64KiB" } },
	{ "map", "URL", 1, 1, run_map, "show where an object has bytes: offset and length of each stretch",
		"What is not listed are holes, which read as zeros.",
		{ "granary map granary://localhost/vision/index.bin" } },
	{ "multipart ls", "URL", 1, 1, run_multipart_ls, "list objects that come in parts and are not finished",
		"What is kept for them counts as used until they are finished or given up.",
		{ "granary multipart ls granary://localhost/vision" } },
	{ "multipart rm", "URL UPLOAD...", 2, 1000, run_multipart_rm, "give up uploads: their parts go", NULL,
		{ "granary multipart rm granary://localhost/vision 00000300000001a7" } },
	{ "mknod", "URL TYPE [MAJOR MINOR]", 2, 4, run_mknod, "make an empty file, a pipe, a socket or a device",
		"TYPE: f file, p pipe, s socket, c character device, b block device.",
		{ "granary mknod granary://localhost/vision/dev/null c 1 3 --perm 0666" } },
	{ "snapshot create", "BUCKET@NAME", 1, 1, run_snapshot_create,
		"freeze the objects below a prefix as a dataset",
		"A snapshot copies no bytes and never changes; its bytes are kept until it is removed. "
		"BUCKET@NAME is at the server of --url, GRANARY_URL or the credentials file; "
		"granary://HOST/BUCKET@NAME says it all. --group basename makes one sample of files alike "
		"up to the first dot of the name; --split makes several of a file.",
		{ "granary snapshot create vision@v1 --prefix train/",
			"granary snapshot create granary://localhost/vision@v2 --expire 30d --note 'cleaned'",
			"granary snapshot create text@t1 --split lines --include '*.jsonl'" } },
	{ "snapshot ls", "BUCKET", 1, 1, run_snapshot_ls, "list snapshots",
		"ALONE is what the removal of that snapshot would set free.",
		{ "granary snapshot ls vision", "granary snapshot ls --json vision" } },
	{ "snapshot show", "BUCKET@NAME", 1, 1, run_snapshot_show, "show all that is known of a snapshot", NULL,
		{ "granary snapshot show vision@v1" } },
	{ "snapshot note", "BUCKET@NAME [TEXT]", 1, 2, run_snapshot_note,
		"change the note of a snapshot, or when it ends",
		"The samples of a snapshot never change; its note and its end may. Without TEXT the note stays; an "
		"empty one takes it away. --expire counts from now.",
		{ "granary snapshot note vision@v1 'has bad labels in c017'",
			"granary snapshot note vision@v1 --expire 30d" } },
	{ "snapshot rm", "BUCKET@NAME...", 1, 1 << 20, run_snapshot_rm, "remove snapshots",
		"Asks first. One that a job reads is kept, and the job is named, unless --force.",
		{ "granary snapshot rm vision@v1 --dry-run" } },
	{ "snapshot repack", "BUCKET@NAME...", 1, 1 << 20, run_snapshot_repack, "give snapshots packs of their own",
		"Copies the samples, in their order, so that the snapshot holds nothing else and is read without gaps. "
		"Its order and identity stay: tokens and recipes go on. One that a job reads is left as it is, and the "
		"job is named, unless --force.",
		{ "granary snapshot repack vision@v1" } },
	{ "snapshot diff", "BUCKET@OLD BUCKET@NEW", 2, 2, run_snapshot_diff,
		"list what was added, removed and changed between two snapshots",
		"One line each: + added, - removed, ~ changed.", { "granary snapshot diff vision@v1 vision@v2" } },
	{ "snapshot verify", "BUCKET@NAME", 1, 1, run_snapshot_verify,
		"read every sample of a snapshot and verify its checksum", NULL,
		{ "granary snapshot verify vision@v1" } },
	{ "recipe create", "BUCKET@NAME", 1, 1, run_recipe_create, "mix snapshots under a name of its own",
		"FILE is JSON: sources, each {snapshot, weight or repeat, include, exclude, include_keys, "
		"exclude_keys}, samples of an epoch, and for a curriculum stages, each {from, weights}. What it "
		"leaves out is filled in; after that it never changes, and its snapshots cannot be removed. "
		"Streams take it like a snapshot.",
		{ "granary recipe create vision@mix1 --file mix.json",
			"echo '{\"sources\": [{\"snapshot\": \"vision@v1\", \"repeat\": 2}]}' | "
			"granary recipe create vision@twice --file -" } },
	{ "recipe ls", "BUCKET", 1, 1, run_recipe_ls, "list recipes", NULL, { "granary recipe ls vision" } },
	{ "recipe show", "BUCKET@NAME", 1, 1, run_recipe_show, "show a recipe, its sources and its text", NULL,
		{ "granary recipe show vision@mix1" } },
	{ "recipe rm", "BUCKET@NAME...", 1, 1 << 20, run_recipe_rm, "remove recipes",
		"Asks first. One that a job reads is kept, and the job is named, unless --force. Snapshots stay.",
		{ "granary recipe rm vision@mix1 --dry-run" } },
	{ "stream", "BUCKET@NAME", 1, 1, run_stream, "read one rank's part of an epoch in batches",
		"The order is that of seed and epoch alone, whatever the number of ranks. Without @NAME an "
		"automatic snapshot of BUCKET/PREFIX is made for the job. With --tar the samples go to "
		"standard output. After --batches, and at an error, it says how to go on: --resume TOKEN.",
		{ "granary stream vision@v1 --batch 256",
			"granary stream vision@v1 --rank 3 --world 8 --seed 7 --epoch 2 --job r50",
			"granary stream vision@v1 --mode none --tar | tar t" } },
	{ "jobs", "[URL]", 0, 1, run_jobs, "show who streams what, how fast, and when it will be done", NULL,
		{ "granary jobs", "granary jobs --json" } },
	{ "provenance", "JOB [URL]", 1, 2, run_provenance, "show what a job was given",
		"A line for each epoch that each rank opened: snapshot or recipe, seed, epoch, positions, the "
		"checksum of the checksums of all samples, and which samples were replaced. Checksums of ranks add "
		"up to one that does not depend on their number. --verify computes each again from the snapshot's "
		"table: exit code 1 when one is wrong, 3 when a snapshot is gone.",
		{ "granary provenance r50", "granary provenance r50 --verify --json" } },
	{ "shuffle-quality", "BUCKET@NAME", 1, 1, run_shuffle_quality,
		"say how well the order `blocks` mixes directories",
		"Distinct directories in a batch, over those of the order `exact`: for one rank, a rank of 8, "
		"and the global batch of 8. --block, --window and --lanes try others than the snapshot's.",
		{ "granary shuffle-quality vision@v1", "granary shuffle-quality vision@v1 --batch 64" } },
	{ "mount", "URL DIR [OPTION[=VALUE]...]", 2, 40, run_mount,
		"mount a snapshot as a read-only filesystem",
		"granary://HOST/BUCKET@NAME, or a directory of it. Options are words without dashes: "
		"`granary-mount --help` lists them.",
		{ "granary mount granary://localhost/vision@v1 /data",
			"granary mount granary://localhost/vision@v1/train /data memory=1GiB deadline=10s" } },
	{ "umount", "DIR", 1, 1, run_umount, "unmount what `granary mount` mounted", NULL,
		{ "granary umount /data" } },
	{ "stats", "DIR", 1, 1, run_stats, "show what a mount does, a line a second",
		"The first line is since it was mounted. DIR may be anything in it. --json prints all counters.",
		{ "granary stats /data", "granary stats --count 1 --json /data" } },
	{ "profile", "DIR", 1, 1, run_profile, "say what programs did with a mount, and what would help them", NULL,
		{ "granary profile /data" } },
	{ "warm", "[PATH...]", 0, 1 << 20, run_warm,
		"read files of a mount, so that they are near when they are wanted",
		"Into the kernel's cache, the mount's memory and its cache on the flash, as far as each has room. PATH "
		"is a file or a directory of a mount.",
		{ "granary warm /data/train", "granary warm -f files.txt", "granary warm --snapshot /data" } },
	{ "status", "[URL]", 0, 1, run_status, "show the server's state and counters", NULL,
		{ "granary status granary://localhost", "granary status --json" } },
	{ "check", "[URL]", 0, 1, run_check, "have the server read and verify everything it keeps",
		"Shows its progress; exit code 1 and a list when something is damaged.",
		{ "granary check" } },
	{ "backup", "[URL]", 0, 1, run_backup, "have the server back up its metadata now",
		"Into the directory of the setting `backup`, which the server does by itself every `backup_every` "
		"too. Ends when the checkpoint is whole. The bytes of objects are not part of it: they stay in the "
		"packs.",
		{ "granary backup" } },
	{ "restore", "BACKUP DATA [HOT]...", 2, 33, run_restore, "bring back metadata that was lost, out of a backup",
		"On the server's machine, while it does not run. DATA is its data directory, with the packs if they "
		"are still there, without metadata. Brings back all that was committed up to the end of the backup's "
		"log (about a second before the end), says which objects' packs are gone, and sets packs aside that "
		"are newer. BACKUP may be a cold store that the backup went to: its directory, or s3+https://HOST/"
		"BUCKET/PREFIX with --credentials FILE of its keys; DATA may be empty then. Exit code 0: all is "
		"back; 3: what is lost was named; 1: failed, nothing changed: it can be run again.",
		{ "granary restore /backup/granary /srv/granary",
			"granary restore /backup/granary /srv/granary --checkpoint 17",
			"granary restore s3+https://s3.example.org/archive/granary /srv/granary "
			"--credentials s3.keys" } },
	{ "rebuild", "DATA [HOT]...", 1, 33, run_rebuild, "make metadata that was lost out of the packs",
		"On the server's machine, while it does not run. DATA is its data directory without metadata, HOT "
		"its further hot directories. With --backup what is newer than the backup is added to it; without "
		"one every object is put where its record in a pack says, and what no record says is lost: deletes, "
		"renames, links, attributes set later, snapshots, keys. Exit code 0: all is back; 3: what is lost "
		"was named (always without a backup); 1: failed, nothing changed: it can be run again.",
		{ "granary rebuild /srv/granary --backup /backup/granary",
			"granary rebuild /srv/granary /mnt/nvme1/granary" } },
	{ "bench read", "TARGET", 1, 1, run_bench_read,
		"read epochs of a dataset in batches and measure",
		"Lists TARGET, reads it in a random order in batches with several under way, "
		"prints samples/s, MB/s and "
		"how long a batch took. --against DIR compares every byte of every sample with the "
		"file of the same "
		"name below DIR, and fails naming the first that differ or are missing.",
		{ "granary bench read granary://localhost/vision/train --batch 256 --epochs 3",
			"granary bench read granary://localhost/vision/train --against ./train" } },
	{ "bench put", "TARGET", 1, 1, run_bench_put, "write objects that nobody needs and measure",
		"Writes into a new directory below TARGET and removes it at the end.",
		{ "granary bench put granary://localhost/scratch --size 4KiB --count 10000 "
		  "--clients 16" } },
};
enum { VERBS_COUNT = sizeof(verbs) / sizeof(verbs[0]) };

enum option_type { TYPE_FLAG, TYPE_TEXT, TYPE_NUMBER, TYPE_SIZE, TYPE_DURATION, TYPE_GRANT, TYPE_LINES };

struct option_row {
	char letter; /* or 0 */
	const char *name, *arg;
	enum option_type type;
	size_t offset;
	uint64_t min, max;
	const char *verbs; /* " ls rm " in single blanks with '_' inside a name; NULL: all */
	const char *help;
};
#define AT(field) offsetof(struct options, field)

static const struct option_row rows[] = {
	{ 'r', "recursive", NULL, TYPE_FLAG, AT(recursive), 0, 0, " cp ls rm ",
		"with all that lies below" },
	{ 'l', "long", NULL, TYPE_FLAG, AT(long_format), 0, 0, " ls ", "with mode, size and time" },
	{ 'p', "parents", NULL, TYPE_FLAG, AT(parents), 0, 0, " mkdir ",
		"make what is missing above it; no error if it exists" },
	{ 0, "dataset", NULL, TYPE_FLAG, AT(dataset), 0, 0, " mkdir ",
		"pack what will lie below it together" },
	{ 0, "perm", "MODE", TYPE_TEXT, AT(perm), 0, 0, " setattr mknod ", "permission bits in octal, like 0640" },
	{ 0, "owner", "UID[:GID]", TYPE_TEXT, AT(owner), 0, 0, " setattr ", "numbers, like 1000:100 or :100" },
	{ 0, "mtime", "TIME", TYPE_TEXT, AT(mtime), 0, 0, " setattr ", "seconds since 1970, or now" },
	{ 0, "atime", "TIME", TYPE_TEXT, AT(atime), 0, 0, " setattr ", "seconds since 1970, or now" },
	{ 0, "remove", NULL, TYPE_FLAG, AT(remove), 0, 0, " xattr tag ", "remove what is named" },
	{ 's', "symbolic", NULL, TYPE_FLAG, AT(symbolic), 0, 0, " ln ", "a symbolic link" },
	{ 0, "layout", "ORDER", TYPE_TEXT, AT(layout), 0, 0, " import ",
		"order in the packs: name (default), shuffled or shuffled:SEED" },
	{ 'j', "jobs", "N", TYPE_NUMBER, AT(jobs), 1, 64, " cp import export sync warm ",
		"threads that read or write files (2; down 4; warm 8)" },
	{ 0, "grant", "GRANT", TYPE_GRANT, 0, 0, 0, " key_create ",
		"what the key may do; may be given again" },
	{ 0, "expires", "TIME", TYPE_DURATION, AT(expires_s), 1, 3600ull * 24 * 36500,
		" key_create ", "when the key ends, from now: 30d, 12h (default: never)" },
	{ 0, "note", "TEXT", TYPE_TEXT, AT(note), 0, 0, " key_create snapshot_create recipe_create ",
		"what it is for, shown by ls" },
	{ 0, "offset", "BYTES", TYPE_SIZE, AT(offset), 0, INT64_MAX, " write ", "where to begin (0)" },
	{ 'f', "file", "FILE", TYPE_TEXT, AT(file), 0, 0, " recipe_create warm ",
		"the text, - for standard input; of warm: paths, one a line" },
	{ 0, "snapshot", NULL, TYPE_FLAG, AT(snapshot), 0, 0, " warm ", "all of the mount that PATH lies in" },
	{ 0, "prefix", "PREFIX", TYPE_TEXT, AT(prefix), 0, 0, " snapshot_create ",
		"only what lies below it (default: the whole bucket)" },
	{ 0, "tag", "NAME=VALUE", TYPE_LINES, AT(tags), 0, 0, " snapshot_create ", "may be given again" },
	{ 0, "group", "HOW", TYPE_TEXT, AT(group), 0, 0, " snapshot_create ",
		"basename: files alike up to the first dot are one sample" },
	{ 0, "split", "HOW", TYPE_TEXT, AT(split), 0, 0, " snapshot_create ",
		"lines, tar, fixed:BYTES: several samples in a file" },
	{ 0, "include", "GLOB", TYPE_LINES, AT(include), 0, 0, " snapshot_create ",
		"only keys that match; may be given again" },
	{ 0, "exclude", "GLOB", TYPE_LINES, AT(exclude), 0, 0, " snapshot_create ",
		"no keys that match; may be given again" },
	{ 0, "block", "N", TYPE_NUMBER, AT(block), 1, 1ull << 32, " snapshot_create shuffle-quality ",
		"samples a block, a power of two (about 256 KiB)" },
	{ 0, "window", "N", TYPE_NUMBER, AT(window), 1, 1ull << 40, " snapshot_create shuffle-quality ",
		"blocks a window of one lane" },
	{ 0, "lanes", "N", TYPE_NUMBER, AT(lanes), 1, 32768, " snapshot_create shuffle-quality ", "lanes" },
	{ 0, "expire", "TIME", TYPE_DURATION, AT(expire_s), 1, 3600ull * 24 * 36500,
		" snapshot_create snapshot_note ",
		"when it ends, from now: 30d, 12h (default: never)" },
	{ 0, "keep-last", "N", TYPE_NUMBER, AT(keep_last), 1, 1000000, " snapshot_create ",
		"remove older ones of the same prefix beyond N" },
	{ 0, "force", NULL, TYPE_FLAG, AT(force), 0, 0, " snapshot_rm snapshot_repack recipe_rm ",
		"also while a job reads it" },
	{ 0, "mode", "ORDER", TYPE_TEXT, AT(mode), 0, 0, " stream snapshot_create ",
		"auto (default), exact, blocks, none" },
	{ 0, "seed", "N", TYPE_NUMBER, AT(seed), 0, UINT64_MAX, " stream shuffle-quality ", "of the order (0)" },
	{ 0, "epoch", "N", TYPE_NUMBER, AT(epoch), 0, UINT64_MAX, " stream ", "number of the epoch (0)" },
	{ 0, "rank", "N", TYPE_NUMBER, AT(rank), 0, 1u << 20, " stream ", "which rank this is (0)" },
	{ 0, "world", "N", TYPE_NUMBER, AT(world), 0, 1u << 20, " stream ", "how many ranks there are (1)" },
	{ 0, "last", "HOW", TYPE_TEXT, AT(last), 0, 0, " stream ",
		"the last batch: pad (default), drop, keep" },
	{ 0, "resume", "TOKEN", TYPE_TEXT, AT(resume), 0, 0, " stream ", "go on where a stream stopped" },
	{ 0, "batches", "N", TYPE_NUMBER, AT(batches), 1, UINT64_MAX, " stream ", "stop after so many" },
	{ 0, "on-error", "HOW", TYPE_TEXT, AT(on_error), 0, 0, " stream ",
		"a sample that cannot be read: raise (default), skip" },
	{ 0, "max-errors", "N", TYPE_NUMBER, AT(max_errors), 1, 1u << 30, " stream ", "of skip (100)" },
	{ 0, "stall-timeout", "TIME", TYPE_DURATION, AT(stall_s), 1, 4000000, " stream ",
		"give up when nothing comes for so long (300s)" },
	{ 0, "memory", "BYTES", TYPE_SIZE, AT(memory), 1 << 20, 1ull << 50, " stream ",
		"budget for reading ahead (two windows)" },
	{ 0, "read-ahead", "N", TYPE_NUMBER, AT(read_ahead), 1, 4096, " stream ", "batches" },
	{ 0, "job", "NAME", TYPE_TEXT, AT(job), 0, 0, " stream ", "shown by granary jobs" },
	{ 0, "weight", "N", TYPE_NUMBER, AT(weight), 1, 1000, " stream ", "share of the server (1)" },
	{ 0, "tar", NULL, TYPE_FLAG, AT(tar), 0, 0, " stream export ",
		"as a tar archive: stream to standard output, export to a file of any name" },
	{ 0, "backup", "DIR", TYPE_TEXT, AT(backup), 0, 0, " rebuild ", "begin with the metadata of this backup" },
	{ 0, "checkpoint", "N", TYPE_NUMBER, AT(checkpoint), 1, UINT64_MAX, " restore rebuild ",
		"as of this one, with nothing after it (default: the newest, and the log)" },
	{ 0, "slow", NULL, TYPE_FLAG, AT(slow), 0, 0, " status ",
		"the last requests that took long (slow_request), and where each waited" },
	{ 0, "delete", NULL, TYPE_FLAG, AT(delete), 0, 0, " sync ", "remove from DST what SRC does not have" },
	{ 0, "depth", "N", TYPE_NUMBER, AT(depth), 0, 1000, " du ", "how many levels of directories to show (1)" },
	{ 0, "verify", NULL, TYPE_FLAG, AT(verify), 0, 0, " provenance ", "compute checksums again" },
	{ 0, "ids", NULL, TYPE_FLAG, AT(ids), 0, 0, " stream ",
		"a line a batch: dense ids of its samples, of a recipe SOURCE:ID; p padded, s skipped" },
	{ 'o', "output", "FILE", TYPE_TEXT, AT(output), 0, 0, " key_create bundle tier_map ",
		"the file to write; - for standard output" },
	{ 0, "data", "DIR", TYPE_TEXT, AT(data), 0, 0, " doctor ", "a directory that is to hold a store" },
	{ 0, "log", "FILE", TYPE_TEXT, AT(log), 0, 0, " bundle ", "a log to put in too" },
	{ 0, "batch", "N", TYPE_NUMBER, AT(batch), 1, 4096, " bench_read bench_put stream shuffle-quality ",
		"samples a batch (put 1, quality 256, else 64)" },
	{ 0, "shuffle", "SEED", TYPE_TEXT, AT(shuffle), 0, 0, " bench_read ",
		"order of the first epoch (1); no: by name" },
	{ 0, "epochs", "N", TYPE_NUMBER, AT(epochs), 1, 1000000, " bench_read ",
		"how often to read everything (1)" },
	{ 0, "inflight", "N", TYPE_NUMBER, AT(inflight), 1, 64, " bench_read ",
		"batches under way at once (4)" },
	{ 0, "by", "WHAT", TYPE_TEXT, AT(by), 0, 0, " bench_read ",
		"address samples by key (default) or id" },
	{ 0, "against", "DIR", TYPE_TEXT, AT(against), 0, 0, " bench_read ",
		"compare with the files below DIR" },
	{ 0, "size", "BYTES", TYPE_SIZE, AT(size), 0, 4 << 20, " bench_put ",
		"of an object, up to 4MiB (4KiB)" },
	{ 0, "count", "N", TYPE_NUMBER, AT(count), 1, 1ull << 32, " bench_put stats ",
		"objects in all (1000); lines to print (until it is stopped)" },
	{ 0, "clients", "N", TYPE_NUMBER, AT(clients), 1, 1024, " bench_put ",
		"connections that write at once (1)" },
	{ 0, "capacity", "BYTES", TYPE_SIZE, AT(capacity), 64 << 20, 1ull << 62, " drive_add ",
		"that packs may take there (all but the reserve)" },
	{ 0, "to", "STORE", TYPE_TEXT, AT(to), 0, 0, " tier_push ", "a cold store of the server's settings" },
	{ 0, "level", "N", TYPE_NUMBER, AT(level), 0, 19, " tier_push ", "of zstd; 0 stores packs as they are (3)" },
	{ 0, "yes-delete", NULL, TYPE_FLAG, AT(yes_delete), 0, 0, " tier_apply ", "rules may delete objects" },
	{ 0, "copy", NULL, TYPE_FLAG, AT(copy), 0, 0, " tier_push ", "keep the hot copy" },
	{ 0, "drop", NULL, TYPE_FLAG, AT(drop), 0, 0, " tier_pull ", "then remove the cold copy" },
	{ 0, "background", NULL, TYPE_FLAG, AT(background), 0, 0,
		" tier_push tier_pull link flow_refresh flow_verify flow_preload flow_evict ",
		"do not wait; tier status, flow status show how far it is" },
	{ 0, "take-source", NULL, TYPE_FLAG, AT(take_source), 0, 0, " link flow_refresh ",
		"replace what is here and of another origin" },
	{ 0, "cancel", NULL, TYPE_FLAG, AT(cancel), 0, 0, " drive_drain ",
		"end a drain; what was moved stays moved" },
	{ 0, "keep", NULL, TYPE_FLAG, AT(keep), 0, 0, " bench_put ", "leave the objects there" },
	{ 'n', "dry-run", NULL, TYPE_FLAG, AT(dry_run), 0, 0,
		" cp import sync rm mv clock_accept bucket_rm key_rm snapshot_rm "
		"snapshot_create recipe_rm ",
		"say what would be done, change nothing" },
	{ 'y', "yes", NULL, TYPE_FLAG, AT(yes), 0, 0,
		" rm mv sync clock_accept bucket_rm key_rm key_create snapshot_rm recipe_rm ",
		"do not ask" },
	{ 0, "json", NULL, TYPE_FLAG, AT(json), 0, 0, NULL, "one JSON object a line, raw numbers" },
	{ 'q', "quiet", NULL, TYPE_FLAG, AT(quiet), 0, 0, NULL, "no progress, no remarks" },
	{ 0, "no-color", NULL, TYPE_FLAG, AT(no_color), 0, 0, NULL, "plain text (also NO_COLOR)" },
	{ 0, "url", "URL", TYPE_TEXT, AT(url), 0, 0, NULL,
		"the server where an address is left out (GRANARY_URL)" },
	{ 0, "profile", "NAME", TYPE_TEXT, AT(profile), 0, 0, NULL,
		"the credentials that login keeps under a name (GRANARY_PROFILE)" },
	{ 0, "credentials", "FILE", TYPE_TEXT, AT(credentials), 0, 0, NULL,
		"access_key=, secret=, url= (GRANARY_CREDENTIALS)" },
	{ 0, "timeout", "TIME", TYPE_DURATION, AT(timeout_s), 1, 86400 * 7, NULL,
		"of one request (30; 120 in bulk)" },
	{ 'h', "help", NULL, TYPE_FLAG, AT(help), 0, 0, NULL, "this text, or that of a verb" },
	{ 'V', "version", NULL, TYPE_FLAG, AT(version), 0, 0, NULL, "version of the command" },
};
enum { ROWS_COUNT = sizeof(rows) / sizeof(rows[0]), OPTION_BASE = 256, HELP_COLUMNS = 80 };

/* ---- texts with units ---------------------------------------------------------------------- */

int parse_number(const char *text, uint64_t *out)
{
	char *end;

	if (text[0] < '0' || text[0] > '9') return -1;
	errno = 0;
	*out = strtoull(text, &end, 10);
	return errno != 0 || *end != '\0' ? -1 : 0;
}

/* A number that may have a fraction, times the unit that follows. */
static int parse_scaled(
	const char *text, const char *const *units, const double *scales, uint64_t *out)
{
	char *end;
	double value;

	if (text[0] < '0' || text[0] > '9') return -1;
	value = strtod(text, &end);
	for (size_t i = 0; units[i] != NULL; i++) {
		if (strcasecmp(end, units[i]) != 0) continue;
		value *= scales[i];
		if (!(value < 9e18)) return -1;
		*out = (uint64_t)value;
		return 0;
	}
	return -1;
}

int parse_size(const char *text, uint64_t *out)
{
	static const char *const units[] = { "", "B", "K", "KiB", "M", "MiB", "G", "GiB", "T",
		"TiB", "kB", "MB", "GB", NULL };
	static const double scales[] = { 1, 1, 1024, 1024, 1048576, 1048576, 1073741824, 1073741824,
		1099511627776.0, 1099511627776.0, 1000, 1e6, 1e9 };

	return parse_scaled(text, units, scales, out);
}

int parse_duration_s(const char *text, uint64_t *out)
{
	static const char *const units[] = { "", "s", "m", "h", "d", "w", "y", NULL };
	static const double scales[] = { 1, 1, 60, 3600, 86400, 604800, 31536000 };

	return parse_scaled(text, units, scales, out);
}

/* ---- nearest names ------------------------------------------------------------------------- */

/* How many letters must change, counting two swapped neighbours as two; words are short. */
static unsigned distance(const char *a, const char *b)
{
	enum { MAX = 40 };
	unsigned row[MAX + 1];
	size_t a_len = strnlen(a, MAX), b_len = strnlen(b, MAX);

	for (unsigned j = 0; j <= b_len; j++) row[j] = j;
	for (size_t i = 1; i <= a_len; i++) {
		unsigned corner = row[0];
		row[0] = (unsigned)i;
		for (size_t j = 1; j <= b_len; j++) {
			unsigned above = row[j], best = corner + (a[i - 1] != b[j - 1]);
			if (above + 1 < best) best = above + 1;
			if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
			corner = above;
			row[j] = best;
		}
	}
	return row[b_len];
}

struct nearest {
	const char *word;
	const char *best;
	unsigned distance;
};

static void nearest_try(struct nearest *n, const char *name)
{
	unsigned d = distance(n->word, name);
	size_t len = strlen(name);

	/* A beginning counts as near: "buck" is bucket. */
	if (strlen(n->word) >= 2 && strncmp(n->word, name, strlen(n->word)) == 0) d = 1;
	if (d < n->distance && d <= (len < 4 ? 1 : len < 7 ? 2 : 3)) {
		n->distance = d;
		n->best = name;
	}
}

/* ---- help ---------------------------------------------------------------------------------- */

/* Does the option belong to this verb, whose name may have a blank? */
static bool row_applies(const struct option_row *row, const struct verb *verb)
{
	char word[32];

	if (row->verbs == NULL) return true;
	if (verb == NULL) return false;
	snprintf(word, sizeof(word), " %s ", verb->name);
	for (char *p = word + 1; p[1] != '\0'; p++)
		if (*p == ' ') *p = '_';
	return strstr(row->verbs, word) != NULL;
}

const struct verb *verb_at(size_t index)
{
	return index < VERBS_COUNT ? &verbs[index] : NULL;
}

bool option_at(size_t index, const struct verb *verb, struct option_text *out)
{
	const struct option_row *row;

	*out = (struct option_text){ .name = NULL };
	if (index >= ROWS_COUNT) return false;
	row = &rows[index];
	if (verb == NULL ? row->verbs == NULL : row->verbs != NULL && row_applies(row, verb))
		*out = (struct option_text){ row->letter, row->name, row->arg, row->help };
	return true;
}

static void print_options(const struct verb *verb, bool global)
{
	for (size_t i = 0; i < ROWS_COUNT; i++) {
		const struct option_row *row = &rows[i];
		char left[48];
		if (global != (row->verbs == NULL) || !row_applies(row, verb)) continue;
		snprintf(left, sizeof(left), "%c%c%c --%s%s%s", row->letter ? '-' : ' ',
			row->letter ? row->letter : ' ', row->letter ? ',' : ' ', row->name,
			row->arg != NULL ? " " : "", row->arg != NULL ? row->arg : "");
		printf("  %-22s %s\n", left, row->help);
	}
}


void print_wrapped(const char *text)
{
	size_t column = 0;

	while (*text != '\0') {
		size_t len = strcspn(text, " ");
		if (column > 0 && column + 1 + len > HELP_COLUMNS) {
			putchar('\n');
			column = 0;
		}
		column += (size_t)printf("%s%.*s", column > 0 ? " " : "", (int)len, text);
		text += len + strspn(text + len, " ");
	}
	putchar('\n');
}

static void print_verb_help(const struct verb *verb)
{
	bool own = false;

	printf("granary %s -- %s\n\nUSAGE\n  granary %s [OPTIONS] %s\n", verb->name, verb->summary,
		verb->name, verb->args);
	if (verb->text != NULL) {
		putchar('\n');
		print_wrapped(verb->text);
	}
	for (size_t i = 0; i < ROWS_COUNT; i++)
		own |= rows[i].verbs != NULL && row_applies(&rows[i], verb);
	if (own) {
		printf("\nOPTIONS\n");
		print_options(verb, false);
	}
	printf("\nOPTIONS OF EVERY VERB\n");
	print_options(verb, true);
	printf("\nEXAMPLES\n");
	for (size_t i = 0;
		i < sizeof(verb->examples) / sizeof(verb->examples[0]) && verb->examples[i] != NULL;
		i++)
		printf("  %zu. %s\n", i + 1, verb->examples[i]);
}

/* All verbs, or those that begin with `group`. */
static void print_help(const char *group)
{
	size_t len = strlen(group);

	printf("granary -- objects and small files for training, in batches\n\nUSAGE\n  granary "
	       "%s%sVERB [OPTIONS] ARGUMENTS\n\n"
	       "VERBS (granary VERB --help says more)\n",
		group, len > 0 ? " " : "");
	for (size_t i = 0; i < VERBS_COUNT; i++)
		if (strncmp(verbs[i].name, group, len) == 0 &&
			(len == 0 || verbs[i].name[len] == ' '))
			printf("  %-15s %s\n", verbs[i].name, verbs[i].summary);
	printf("\nOPTIONS OF EVERY VERB\n");
	print_options(NULL, true);
	printf("\nAn address is granary://HOST[:PORT]/BUCKET[/PATH]. Exit codes: 0 done, 1 failed, "
	       "2 usage, 3 done in part,\n"
	       "4 not found, 5 denied. Data goes to standard output, progress and errors to "
	       "standard error.\n");
	if (len == 0)
		printf("\nEXAMPLES\n  1. granary import ./train granary://localhost/vision/train\n"
		       "  2. granary ls -l granary://localhost/vision/\n"
		       "  3. granary bench read granary://localhost/vision/train --batch 256\n");
}

/* ---- parsing ------------------------------------------------------------------------------- */

static int set_number(const struct option_row *row, const char *text)
{
	uint64_t value;
	int bad = row->type == TYPE_NUMBER ? parse_number(text, &value)
		  : row->type == TYPE_SIZE ? parse_size(text, &value)
					   : parse_duration_s(text, &value);

	if (bad)
		return fail(CLI_USAGE, "--%s: '%s' is no %s", row->name, shown(text),
			row->type == TYPE_NUMBER ? "number"
			: row->type == TYPE_SIZE ? "size, like 64KiB"
						 : "time, like 30d or 90s");
	if (value < row->min || value > row->max)
		return fail(CLI_USAGE, "--%s: %s is outside %" PRIu64 "..%" PRIu64, row->name,
			shown(text), row->min, row->max);
	if (row->offset == AT(world)) opts.world_given = true;
	if (row->offset == AT(depth)) opts.depth_given = true;
	if (row->offset == AT(level)) opts.level_given = true;
	memcpy((char *)&opts + row->offset, &value, sizeof(value));
	return CLI_OK;
}

static int add_line(char **lines, const char *text)
{
	size_t had = *lines != NULL ? strlen(*lines) : 0, len = strlen(text);

	*lines = must_alloc(realloc(*lines, had + len + 2));
	memcpy(*lines + had, text, len);
	memcpy(*lines + had + len, "\n", 2);
	return CLI_OK;
}

static int set_option(const struct option_row *row, const char *text)
{
	switch (row->type) {
	case TYPE_FLAG: *((bool *)((char *)&opts + row->offset)) = true; return CLI_OK;
	case TYPE_TEXT: memcpy((char *)&opts + row->offset, &text, sizeof(text)); return CLI_OK;
	case TYPE_GRANT:
		if (opts.grants_count == CLI_GRANTS_MAX)
			return fail(CLI_USAGE, "--grant: more than %d of them", CLI_GRANTS_MAX);
		opts.grants[opts.grants_count++] = text;
		return CLI_OK;
	case TYPE_LINES: return add_line((char **)(void *)((char *)&opts + row->offset), text);
	case TYPE_NUMBER:
	case TYPE_SIZE:
	case TYPE_DURATION: break;
	}
	return set_number(row, text);
}

static int unknown_option(const char *text, const struct verb *verb)
{
	char word[64];
	struct nearest near = { word, NULL, UINT32_MAX };
	const char *name = text[0] == '-' && text[1] == '-' ? text + 2 : text;
	const char *blank = verb != NULL ? " " : "", *verb_name = verb != NULL ? verb->name : "";

	snprintf(word, sizeof(word), "%.*s", (int)strcspn(name, "="), name);
	for (size_t i = 0; i < ROWS_COUNT; i++) {
		if (strcmp(rows[i].name, word) == 0 && !row_applies(&rows[i], verb))
			return fail(CLI_USAGE,
				"'granary%s%s' takes no option '--%s'; see granary%s%s --help",
				blank, verb_name, word, blank, verb_name);
		if (row_applies(&rows[i], verb)) nearest_try(&near, rows[i].name);
	}
	if (near.best != NULL && name != text)
		return fail(CLI_USAGE, "unknown option '%s'; did you mean '--%s'?", shown(text),
			near.best);
	return fail(CLI_USAGE, "unknown option '%s'; see granary%s%s --help", shown(text), blank,
		verb_name);
}

/* Reads options up to the first other word ("+" in letters) or everywhere. *index is left at the words. */
static int read_options(
	int argc, char **argv, const struct verb *verb, bool stop_at_word, int *index)
{
	struct option longs[ROWS_COUNT + 1];
	char letters[2 * ROWS_COUNT + 4];
	size_t longs_count = 0, letters_len = 0;
	int c;

	letters[letters_len++] = stop_at_word ? '+' : ':';
	if (stop_at_word) letters[letters_len++] = ':';
	for (size_t i = 0; i < ROWS_COUNT; i++) {
		if (!row_applies(&rows[i], verb)) continue;
		longs[longs_count++] = (struct option){ rows[i].name, rows[i].arg != NULL, NULL,
			OPTION_BASE + (int)i };
		if (rows[i].letter == 0) continue;
		letters[letters_len++] = rows[i].letter;
		if (rows[i].arg != NULL) letters[letters_len++] = ':';
	}
	letters[letters_len] = '\0';
	memset(&longs[longs_count], 0, sizeof(longs[0]));
	opterr = 0;
	optind = 0;
	for (;;) {
		const struct option_row *row = NULL;
		int at = optind == 0 ? 1 : optind, err;
		c = getopt_long(argc, argv, letters, longs, NULL);
		if (c == -1) break;
		if (c == ':')
			return fail(
				CLI_USAGE, "option '%s' needs a value", shown(argv[optind - 1]));
		if (c == '?') {
			char one[3] = { '-', (char)optopt, '\0' };
			bool is_letter = optopt > 0 && optopt < OPTION_BASE && argv[at][1] != '-';
			return unknown_option(is_letter ? one : argv[optind - 1], verb);
		}
		for (size_t i = 0; i < ROWS_COUNT && row == NULL; i++)
			if (c == OPTION_BASE + (int)i ||
				(rows[i].letter != 0 && c == rows[i].letter &&
					row_applies(&rows[i], verb)))
				row = &rows[i];
		err = set_option(row, optarg);
		if (err != CLI_OK) return err;
	}
	*index = optind;
	return CLI_OK;
}

/* The verb of one or two words at words[0]; *used says how many. NULL after saying what is wrong. */
static const struct verb *find_verb(int count, char **words, int *used)
{
	char two[64];
	struct nearest near = { words[0], NULL, UINT32_MAX };
	bool is_group = false;

	snprintf(two, sizeof(two), "%s %s", words[0], count > 1 ? words[1] : "");
	for (size_t i = 0; i < VERBS_COUNT; i++) {
		size_t len = strcspn(verbs[i].name, " ");
		bool pair = verbs[i].name[len] == ' ';
		if (pair ? strcmp(verbs[i].name, two) == 0 : strcmp(verbs[i].name, words[0]) == 0) {
			*used = pair ? 2 : 1;
			return &verbs[i];
		}
		is_group |= pair && strlen(words[0]) == len &&
			    strncmp(verbs[i].name, words[0], len) == 0;
	}
	if (is_group && opts.help && count < 2) {
		print_help(words[0]);
		return NULL;
	}
	if (is_group &&
		(count < 2 || strcmp(words[1], "--help") == 0 || strcmp(words[1], "-h") == 0)) {
		if (count >= 2) {
			opts.help = true;
			print_help(words[0]);
		} else {
			fail(CLI_USAGE, "'granary %s' needs a second word; see granary %s --help",
				words[0], words[0]);
		}
		return NULL;
	}
	if (is_group) near.word = two;
	for (size_t i = 0; i < VERBS_COUNT; i++) nearest_try(&near, verbs[i].name);
	if (!is_group) {
		nearest_try(&near, "bucket");
		nearest_try(&near, "key");
		nearest_try(&near, "snapshot");
		nearest_try(&near, "multipart");
		nearest_try(&near, "recipe");
		nearest_try(&near, "bench");
		nearest_try(&near, "dataset");
		nearest_try(&near, "clock");
		nearest_try(&near, "drive");
		nearest_try(&near, "tier");
	}
	if (near.best != NULL)
		fail(CLI_USAGE, "unknown verb '%s'; did you mean 'granary %s'?", shown(near.word),
			near.best);
	else
		fail(CLI_USAGE, "unknown verb '%s'; see granary --help", shown(near.word));
	return NULL;
}

static int check_count(const struct verb *verb, int count)
{
	if (count >= verb->args_min && count <= verb->args_max) return CLI_OK;
	return fail(CLI_USAGE, "too %s arguments; usage: granary %s %s",
		count < verb->args_min ? "few" : "many", verb->name, verb->args);
}

int options_parse(int argc, char **argv, const struct verb **verb, int *count, char ***args)
{
	int index, used = 0, err;

	*verb = NULL;
	err = read_options(argc, argv, NULL, true, &index);
	if (err != CLI_OK) return err;
	if (opts.version) {
		printf("granary %s\n", granary_version_string());
		return CLI_OK;
	}
	if (index < argc && strcmp(argv[index], "help") == 0) { /* granary help VERB */
		opts.help = true;
		index++;
	}
	if (index >= argc) {
		if (opts.help) print_help("");
		return opts.help ? CLI_OK : fail(CLI_USAGE, "no verb given; see granary --help");
	}
	*verb = find_verb(argc - index, argv + index, &used);
	if (*verb == NULL) return opts.help ? CLI_OK : CLI_USAGE;
	/* getopt skips argv[0]: let that be the verb's last word. */
	argv += index + used - 1;
	argc -= index + used - 1;
	err = read_options(argc, argv, *verb, false, &index);
	if (err != CLI_OK) return err;
	if (opts.help) {
		print_verb_help(*verb);
		*verb = NULL;
		return CLI_OK;
	}
	*count = argc - index;
	*args = argv + index;
	return check_count(*verb, *count);
}
