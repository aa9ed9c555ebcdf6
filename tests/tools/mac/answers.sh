#!/bin/sh
# A stand-in for pmset, fdesetup, defaults, docker and others: prints the file $MAC_ANSWERS/"NAME ARGUMENTS"
# (with _ for /), which the test has written; exits with 1 if there is none.
file="$MAC_ANSWERS/$(echo "$(basename "$0") $*" | tr / _)"
[ -f "$file" ] || exit 1
cat "$file"
