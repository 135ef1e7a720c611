# Ends the server in a folder, and the folder, once the process that started this shell is gone.
# Arguments: the folder, and the signal by which the server ends quickly and cleans up after itself.
# That process holds the other end of our standard input: however it dies, the end is closed.
trap '' HUP INT QUIT TERM
folder=$1 signal=$2

while read -r _; do :; done

# A process id may have become another process's; the folder is on the server's command line.
# A process that has ended and was not waited for yet has no command line.
lives() {
  [ -n "$server" ] && kill -0 "$server" 2>/dev/null || return 1
  [ ! -d /proc/self ] || grep -qsF -- "$folder" "/proc/$server/cmdline"
}

server=$(cat "$folder/pid" 2>/dev/null)
if lives; then
  kill -"$signal" "$server"
  # It and its children may have been stopped.
  kill -CONT "$server" $(cat "/proc/$server/task/$server/children" 2>/dev/null)
  tries=50
  while lives && [ $tries -gt 0 ]; do
    sleep 0.1
    tries=$((tries - 1))
  done
  ! lives || kill -KILL -- "-$server" "$server"
fi

# PostgreSQL leaves a shared memory segment when it is killed; its number is in this file.
segment=$(sed -n '7s/.* //p' "$folder/data/postmaster.pid" 2>/dev/null)
[ -z "$segment" ] || ipcrm -m "$segment"

# Twice: a child of the server's may still be writing.
rm -rf -- "$folder" || { sleep 1; rm -rf -- "$folder"; }
