#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# test_service.sh -- what an administrator touches while the server runs: slow requests, log level, clock; sockets from a
# service manager; what the install target lays down.
. "$(dirname "$0")/cli_lib.sh"
small+=(--slow-request 1ms --flush-delay 20ms)
server_start
run 0 bucket create "$url/data"
run 0 cp "$granary" "$url/data/x"                       # every flush of a pack takes 20 ms here
run 0 status --slow "$url"; says "op=put"; says "at_"; says "error=none"
run 0 status --slow --json "$url"; is_json slow
run 0 log-level debug "$url"
grep -q 'log level changed' "$dir/log" || fail "the log does not say it"
run 1 log-level loud "$url"; says "error, warn, info, debug"
run 0 clock status --json "$url"; [ "$(field held_back_ns)" = 0 ] || fail "held back"
run 0 clock accept "$url"; says "nothing to accept"
run 0 key create "$url" --grant read:data -o "$dir/reader"
run 5 status --slow --credentials "$dir/reader" "$url"
run 5 clock accept --yes --credentials "$dir/reader" "$url"
server_stop

# --- sockets handed over, TCP and Unix; `listen` does not count then
python3 - "$granaryd" "$dir" >"$dir/sock.out" <<'PY' || fail "socket activation: $(cat "$dir/sock.out")"
import os, socket, subprocess, sys, time
granaryd, d = sys.argv[1:]
tcp = socket.socket(); tcp.bind(("127.0.0.1", 0)); tcp.listen()
unix = socket.socket(socket.AF_UNIX); unix.bind(d + "/s.sock"); unix.listen()
port = tcp.getsockname()[1]
pid = os.fork()
if pid == 0:
    a, b = os.dup(tcp.fileno()), os.dup(unix.fileno())
    os.dup2(a, 3); os.dup2(b, 4)
    os.set_inheritable(3, True); os.set_inheritable(4, True)
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="2")
    os.dup2(os.open(d + "/log2", os.O_CREAT | os.O_WRONLY), 2)
    os.dup2(os.open(d + "/ready2", os.O_CREAT | os.O_WRONLY), 1)
    os.execv(granaryd, [granaryd, "--data", d + "/store", "--memory", "256MiB", "--cache-size", "16MiB", "--listen", "127.0.0.1:1"])
for _ in range(1200):
    if os.path.exists(d + "/ready2") and "ready" in open(d + "/ready2").read():
        break
    time.sleep(0.05)
line = open(d + "/ready2").read()
print(line, open(d + "/log2").read())
ok = f"tcp:127.0.0.1:{port}" in line and f"unix:{d}/s.sock" in line
granary = os.path.join(os.path.dirname(granaryd), "granary")
for host in (f"127.0.0.1:{port}", d.replace("/", "%2F") + "%2Fs.sock"):
    ok &= subprocess.run([granary, "bucket", "ls", f"granary://{host}"], timeout=60).returncode == 0
os.kill(pid, 15)
_, status = os.waitpid(pid, 0)
sys.exit(0 if ok and status == 0 else 1)
PY

# --- the install target
cmake --install "$build" --prefix "$dir/usr" >"$dir/out" 2>&1 || { tail "$dir/out"; fail "install"; }
for file in bin/granaryd bin/granary lib/systemd/system/granaryd.service lib/systemd/system/granaryd.socket \
	lib/sysusers.d/granary.conf lib/tmpfiles.d/granary.conf share/man/man1/granary.1 \
	share/bash-completion/completions/granary include/granary/granary.h; do
	[ -s "$dir/usr/$file" ] || fail "$file is not installed"
done
if command -v systemd-analyze >/dev/null; then
	sed "s|^ExecStart=[^ ]*|ExecStart=$dir/usr/bin/granaryd|; s|^Documentation=.*||" \
		"$dir/usr/lib/systemd/system/granaryd.service" >"$dir/granaryd.service"
	systemd-analyze verify "$dir/granaryd.service" 2>"$dir/err" || true
	! grep -E 'granaryd.service.*(Unknown|Failed to parse|Invalid|ignoring)' "$dir/err" || fail "the unit"
fi
