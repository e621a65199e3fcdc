#!/bin/sh
# Makes the token with which clients join, where there is none yet. Any number of machines may use it, for ever: it
# stands in a volume that nobody but these containers sees. `fedbus token revoke` ends it.
set -eu
umask 077
file=/etc/fedbus/invitation/token
if [ ! -s "$file" ]; then
    fedbus token create --role client --uses 0 --expires 0 --approval auto | cut -d " " -f 3 > "$file.part"
    test -s "$file.part"
    mv "$file.part" "$file"
fi
