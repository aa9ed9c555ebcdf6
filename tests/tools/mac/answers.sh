#!/bin/sh
# Stands in for pmset, fdesetup, defaults, docker and the like: says what the test wrote into the file
# $MAC_ANSWERS/"NAME ARGUMENTS" (with _ for /), and ends with 1 when there is none.
file="$MAC_ANSWERS/$(echo "$(basename "$0") $*" | tr / _)"
[ -f "$file" ] || exit 1
cat "$file"
