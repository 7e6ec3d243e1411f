#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# test_cli.sh -- the granary command: usage and nearest names, exit codes, JSON of every verb, dry runs and questions,
# keys and what they may do.
. "$(dirname "$0")/cli_lib.sh"

# --- the command line, without a server
run 0 --help; says "EXAMPLES"; says "bucket create"
run 0 --version; says "granary 0."
for verb in "bucket create" "bucket ls" "bucket rm" "key create" "key ls" "key rm" cp cat ls stat rm mv mkdir import status \
	check "bench read" "bench put"; do
	run 0 $verb --help; says "USAGE"; says "  1. "; says -- "--json"
	run 0 help $verb; says "USAGE"
done
run 0 bucket --help; says "bucket create"
run 0 help key; says "key create"
run 2; says "no verb given"
run 2 lss; says "did you mean 'granary ls'?"
run 2 imprt a b; says "did you mean 'granary import'?"
run 2 bucket creat x; says "did you mean 'granary bucket create'?"
run 2 bucket; says "second word"
run 2 frobnicate; says "see granary --help"
run 2 ls --recursve; says "did you mean '--recursive'?"
run 2 --jsn ls; says "did you mean '--json'?"
run 2 ls --dry-run granary://h/bbb; says "takes no option '--dry-run'"
run 2 ls -x; says "unknown option '-x'"
run 2 cp a; says "too few arguments"
run 2 cp a b c; says "too many arguments"
run 2 cp a b; says "granary://"
run 2 key create granary://h -o; says "needs a value"
run 2 key create granary://h -o k; says -- "--grant"
run 2 key create granary://h --grant read:b; says "-o FILE"
run 2 key create granary://h --grant fly:b -o k; says "actions are"
run 2 bench read granary://h/bbb --batch 5000; says "outside 1..4096"
run 2 bench put granary://h/bbb --size ten; says "is no size"
run 2 import x y; says "granary://"

run 2 ls http://h/b; says "must begin with granary://"
run 2 stat granary://h/bbb; says "BUCKET/PATH"
run 2 cp - granary://h; says "names no bucket"
run 5 ls granary://127.0.0.1:1/bbb; says "credentials"
printf 'url=granary://127.0.0.1:1\naccess_key=x\nsecret=%064d\n' 0 >"$dir/wide"
chmod 644 "$dir/wide"
run 5 --credentials "$dir/wide" ls; says "chmod 600"

# --- buckets
server_start
began=$SECONDS
run 1 ls granary://127.0.0.1:1/bbb; says "127.0.0.1"
[ $((SECONDS - began)) -le 20 ] || fail "a server that is not there was waited for"
run 0 bucket create "$url/photos"
run 1 bucket create "$url/photos"; says "already exists"
run 2 bucket create "$url/No"
run 0 bucket ls "$url"; says "photos"
run 0 bucket ls "$url" --json; is_json bucket ls; says '"bucket":"photos"'
run 0 ls "$url"; says "photos"
run 0 bucket ls --url "$url"; says "photos"
GRANARY_URL=$url run 0 bucket ls; says "photos"
run 4 ls "$url/nowhere"; says "no such bucket"
run 4 bucket rm "$url/nowhere" --yes

# --- one object
printf 'hello' >"$dir/hello.txt"
chmod 640 "$dir/hello.txt"
touch -d '2021-03-04 05:06:07.123456789' "$dir/hello.txt"
run 0 cp "$dir/hello.txt" "$url/photos/a/"
run 0 cat "$url/photos/a/hello.txt"; [ "$(cat "$dir/out")" = hello ] || fail "cat"
run 0 cp "$url/photos/a/hello.txt" "$dir/back.txt"
[ "$(stat -c '%a %Y %s' "$dir/back.txt")" = "$(stat -c '%a %Y %s' "$dir/hello.txt")" ] || fail "mode or time is lost"
[ "$(date -r "$dir/back.txt" +%N)" = 123456789 ] || fail "nanoseconds are lost"
run 0 cp "$url/photos/a/hello.txt" -; [ "$(cat "$dir/out")" = hello ] || fail "cp to -"
printf 'from a pipe' | "$granary" cp - "$url/photos/pipe" || fail "cp from -"
run 0 cat "$url/photos/pipe" "$url/photos/a/hello.txt"; [ "$(cat "$dir/out")" = "from a pipehello" ] || fail "cat of two"
run 0 stat "$url/photos/a/hello.txt"; says "rw-r-----"
run 0 stat "$url/photos/a/hello.txt" --json; is_json stat; [ "$(field mode)" = 0640 ] || fail "stat: mode"
[ "$(field mtime)" = "$(date -u -r "$dir/hello.txt" +%Y-%m-%dT%H:%M:%S.%NZ)" ] || fail "stat: time $(field mtime)"
run 0 stat "$url/photos/a"; says "directory"
run 4 stat "$url/photos/none"; says "no such object"
run 3 stat "$url/photos/none" "$url/photos/pipe"
run 4 cat "$url/photos/none"; says "no such object"
run 4 cp "$url/photos/none" "$dir/none"; [ ! -e "$dir/none" ] || fail "a file of nothing"
run 4 cp "$dir/not-there" "$url/photos/x"
run 2 cp - "$url/photos/a/"; says "no name"
run 1 cp "$dir" "$url/photos/a/"; says "-r"
run 0 cp --dry-run "$dir/hello.txt" "$url/photos/dry"; says "would copy"
run 4 stat "$url/photos/dry"
run 0 cp --json "$dir/hello.txt" "$url/photos/b/"; is_json cp; [ "$(field bytes)" = 5 ] || fail "cp --json"

# --- ls, mkdir, mv
run 0 ls "$url/photos"; [ "$(cat "$dir/out")" = $'a/\nb/\npipe' ] || fail "ls"
run 0 ls -r "$url/photos/"; [ "$(cat "$dir/out")" = $'a/hello.txt\nb/hello.txt\npipe' ] || fail "ls -r"
run 0 ls -l "$url/photos/a/"; says "-rw-r-----"; says "5 B"
run 0 ls --json -r "$url/photos"; is_json ls
run 0 ls "$url/photos/a/hello.txt"; says "hello.txt"
run 4 ls "$url/photos/zzz"
run 4 ls "$url/photos/zzz/"
run 0 mkdir "$url/photos/dir"
run 1 mkdir "$url/photos/dir"; says "exists"
run 0 mkdir -p "$url/photos/dir"
run 0 mkdir -p --dataset "$url/photos/x/y/set" --json; is_json mkdir
run 0 ls "$url/photos/x/y/"; says "set/"
run 0 mv --dry-run "$url/photos/pipe" "$url/photos/tube"; says "would rename"
run 0 stat "$url/photos/pipe"
run 0 mv "$url/photos/pipe" "$url/photos/tube"
run 4 stat "$url/photos/pipe"
run 4 mv "$url/photos/pipe" "$url/photos/tube"
run 0 mv "$url/photos/b" "$url/photos/c"
run 0 cat "$url/photos/c/hello.txt"
run 0 mv "$url/photos/c/hello.txt" "$url/photos/dir/"
run 0 cat "$url/photos/dir/hello.txt"
run 2 mv "$url/photos/tube" "$url/photos/dir/hello.txt"; says "--yes"
run 0 cat "$url/photos/dir/hello.txt"; [ "$(cat "$dir/out")" = hello ] || fail "mv replaced without asking"
run 0 mv --yes --json "$url/photos/tube" "$url/photos/dir/hello.txt"; is_json mv
run 0 cat "$url/photos/dir/hello.txt"; [ "$(cat "$dir/out")" = "from a pipe" ] || fail "mv --yes"
run 2 mv "$url/photos/a" "$url/other/a"; says "one bucket"

# --- keys
run 0 key create "$url" --grant read:photos/a/ --note "for training" --expires 1d -o "$dir/reader"
[ "$(stat -c %a "$dir/reader")" = 600 ] || fail "mode of the key file"
secret=$(sed -n 's/^secret=//p' "$dir/reader")
id=$(sed -n 's/^access_key=//p' "$dir/reader")
[ ${#secret} = 64 ] || fail "no secret in the file"
says_not "$secret"
run 0 --credentials "$dir/reader" cat "$url/photos/a/hello.txt"
run 0 --credentials "$dir/reader" ls "$url/photos/a/"
run 5 --credentials "$dir/reader" cat "$url/photos/dir/hello.txt"
run 5 --credentials "$dir/reader" cp "$dir/hello.txt" "$url/photos/a/new"
run 5 --credentials "$dir/reader" rm "$url/photos/a/hello.txt"
run 5 --credentials "$dir/reader" key ls "$url"
run 5 --credentials "$dir/reader" check "$url"
run 2 key create "$url" --grant read:photos/ -o "$dir/reader"; says "exists"
[ "$(sed -n 's/^secret=//p' "$dir/reader")" = "$secret" ] || fail "a key file was replaced without asking"
run 0 key create "$url" --grant read+write:photos/up/ -o -; [ "$(grep -c ^secret= "$dir/out")" = 1 ] || fail "key on -"
run 0 key create "$url" --grant read:photos/ -o "$dir/third" --json; is_json key create; says_not "$(sed -n 's/^secret=//p' "$dir/third")"
run 0 key ls "$url"; says "$id"; says "read+list:photos/a/"; says "for training"; says_not "$secret"
run 0 key ls "$url" --json; is_json key ls; says_not "$secret"
run 2 key rm "$id" "$url"; says "--yes"
run 0 key rm --dry-run "$id" "$url"
run 0 --credentials "$dir/reader" ls "$url/photos/a/"
run 0 key rm --yes "$id" "$url" --json; is_json key rm
run 5 --credentials "$dir/reader" ls "$url/photos/a/"
run 4 key rm --yes "$id" "$url"; says "no such key"
sed "s/^secret=.*/secret=$(printf '%064d' 7)/" "$GRANARY_CREDENTIALS" >"$dir/wrong"
chmod 600 "$dir/wrong"
run 5 --credentials "$dir/wrong" ls "$url/photos"
run 4 --credentials "$dir/none" ls "$url/photos"

# --- status, check, bench
run 0 status "$url"
run 0 status "$url" --json; is_json status
run 0 check "$url"; says "0 problems"
run 0 check "$url" --json; is_json check; [ "$(field problems)" = 0 ] || fail "check"
run 0 bench put "$url/photos/" --size 1KiB --count 200 --clients 4; says "200 objects"
run 0 bench put "$url/photos/" --size 1KiB --count 200 --batch 50 --json; is_json bench put
run 0 ls "$url/photos"; says_not "bench-put"

# --- removing
run 0 rm --dry-run "$url/photos/a/hello.txt"; says "would remove"
run 0 cat "$url/photos/a/hello.txt"
run 4 rm "$url/photos/none"
run 2 rm -r "$url/photos/dir"; says "--yes"
run 0 rm -r --dry-run "$url/photos/dir"; says "would remove 2 entries"
run 0 cat "$url/photos/dir/hello.txt"
run 0 rm --yes -r "$url/photos/dir" --json; is_json rm; [ "$(field failed)" = 0 ] || fail "rm -r"
run 4 ls "$url/photos/dir"
run 4 rm --yes -r "$url/photos/dir"
run 1 bucket rm --yes "$url/photos"; says "not empty"
run 0 rm "$url/photos/a/hello.txt" --json; is_json rm
run 4 stat "$url/photos/a"
run 0 rm -r --yes "$url/photos"
run 0 ls -r "$url/photos"; [ ! -s "$dir/out" ] || fail "rm -r left something"
run 2 bucket rm "$url/photos"; says "--yes"
run 0 bucket rm --dry-run "$url/photos"
run 0 bucket rm --yes "$url/photos" --json; is_json bucket rm
run 4 ls "$url/photos"
server_stop
echo "test_cli: passed"
