#!/bin/sh
# The end-to-end tests drive a real browser. Finds it, or installs Debian's when it may.
set -eu

if [ -n "${CHROMIUM:-}" ]; then
    if [ -x "$CHROMIUM" ]; then exit 0; fi
    echo "CHROMIUM=$CHROMIUM is not a program." >&2
    exit 1
fi
for name in chromium chromium-browser google-chrome; do
    if command -v "$name" >/dev/null; then exit 0; fi
done

if [ "$(id -u)" = 0 ]; then
    as_root=""
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root="sudo -n"
else
    as_root="none"
fi
if [ "$as_root" = none ] || ! command -v apt-get >/dev/null; then
    echo "The end-to-end tests need Chromium: install it (Debian: apt-get install chromium)," >&2
    echo "or set CHROMIUM to the program." >&2
    exit 1
fi
echo "Installing Chromium ..."
$as_root apt-get update -qq
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium
