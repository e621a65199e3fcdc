#!/bin/sh
# Takes the first place at the federation that no other container has, joins under its name, once, and does what it is
# told. A place is a directory in the clients' volume with a key of its own, which is made here and stays here: containers
# come and go (`up`, `down`, `--scale`), and those who take part are the same. What is run in the end holds the lock.
set -eu
places=${FEDBUS_PLACES:-/var/lib/fedbus/client/places}
mkdir -p "$places"
number=1
while exec 9> "$places/$number.lock" && ! flock -n 9; do
    number=$((number + 1))
done
FEDBUS_HOME="$places/site-$number"
FEDBUS_OWNER=$number
export FEDBUS_HOME FEDBUS_OWNER
if [ ! -e "$FEDBUS_HOME/known.json" ]; then
    fedbus join - --name "site-$number" < "${FEDBUS_INVITATION:-/etc/fedbus/invitation/token}"
fi
exec fedbus "$@" --name "site-$number"
