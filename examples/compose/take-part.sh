#!/bin/sh
# Joins the federation, once in a container's life, under the container's name; then does what it is told. The key is made
# here, and stays in the client's volume.
set -eu
export FEDBUS_HOME="/var/lib/fedbus/client/homes/$(hostname)"
if [ ! -e "$FEDBUS_HOME/known.json" ]; then
    fedbus join - < /etc/fedbus/invitation/token
fi
exec fedbus "$@"
