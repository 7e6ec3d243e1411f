#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# test_login.sh -- profiles: kept only when they work, used where nothing else is named; doctor and bundle tell the truth
# and no secrets.
. "$(dirname "$0")/cli_lib.sh"
server_start
root=$GRANARY_CREDENTIALS
unset GRANARY_CREDENTIALS
export HOME="$dir/home" XDG_CONFIG_HOME=
mkdir -p "$HOME"
key=$(sed -n 's/^access_key=//p' "$root") secret=$(sed -n 's/^secret=//p' "$root")
file="$HOME/.config/granary/default.credentials"

run 5 ls "$url"; says "granary login"
wrong=$(tr '0-9a-f' '1-9a-f0' <<<"$secret")
rc=0; printf '%s\n%s\n' "$key" "$wrong" | "$granary" login "$url/vision" >"$dir/out" 2>"$dir/err" || rc=$?
[ "$rc" = 5 ] && [ ! -e "$file" ] || fail "a wrong secret was kept (exit $rc)"
printf '%s\n%s\n' "$key" "$secret" | "$granary" login "$url/vision" >"$dir/out" 2>"$dir/err" || fail "login"
says "kept in"; says_not "$secret"
[ "$(stat -c %a "$file")" = 600 ] || fail "mode of the profile"
run 0 bucket create "$url/vision"
run 0 bucket ls; says vision
run 2 login; run 2 login "$url" --profile ../x; run 2 login "$url" </dev/null

# --- another profile, by option and by environment; GRANARY_CREDENTIALS wins over the default one only
run 0 key create "$url" --grant read:vision/ -o "$dir/reader"
run 0 login "$url" --profile reader --credentials "$dir/reader"
run 5 --profile reader bucket create "$url/nope"
GRANARY_PROFILE=reader run 5 bucket create "$url/nope"
GRANARY_CREDENTIALS="$dir/reader" run 5 bucket create "$url/nope"
GRANARY_CREDENTIALS="$dir/reader" run 0 bucket create "$url/yess" --profile default
GRANARY_PROFILE=nobody run 4 ls "$url"; says "nobody.credentials"
chmod 644 "$file"; run 5 ls "$url"; says "chmod 600"; run 1 doctor "$url"; says "chmod 600"; chmod 600 "$file"

sed 's/^secret=.*/secret=12/' "$root" >"$dir/short"; chmod 600 "$dir/short"
run 1 ls "$url" --credentials "$dir/short"; says "$dir/short"; says "64 hexadecimal digits"

# --- doctor
run 0 doctor "$url" --data "$dir"; says "answers"; says "direct I/O"; says "file system"
run 0 doctor --json "$url"; is_json doctor
run 1 doctor "$url" --data "$dir/nowhere"; says "mkdir"
run 1 doctor granary://127.0.0.1:1/; says "is granaryd running"

# --- bundle: everything in it, no secret
printf 'secret=%s and the bare %s\n"password": "hunter2"\n' "$secret" "$secret" >"$dir/a.log"
run 0 bundle -o "$dir/b.tar.gz" --log "$dir/a.log" "$url"
mkdir "$dir/b"; tar -xzf "$dir/b.tar.gz" -C "$dir/b"
grep -q '^granary ' "$dir/b/granary-bundle/version.txt" || fail "version in the bundle"
grep -q answers "$dir/b/granary-bundle/doctor.txt" && grep -q uptime "$dir/b/granary-bundle/status.txt" || fail "parts"
! grep -rqF -e "$secret" -e hunter2 "$dir/b" || fail "a secret is in the bundle"
[ "$(stat -c %a "$dir/b.tar.gz")" = 600 ] || fail "mode of the bundle"
run 1 bundle -o "$dir/nowhere/b" "$url"
server_stop
