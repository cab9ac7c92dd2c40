#!/bin/sh
# Declares, uploads, completes and downloads with curl, which asks for HTTP/2 by `Upgrade: h2c`.
#
# Arguments: curl, the API's URL and the file to send. The key is in ASSAY_KEY. It prints the id of each file.
set -eu
curl=$1 api=$2 path=$3
digest=$(sha256sum "$path" | cut -d ' ' -f 1)
size=$(wc -c < "$path" | tr -d ' ')

# Every request with the key. With --fail-with-body, a refusal ends this script and is printed.
ask() {
    "$curl" --http2 --silent --show-error --fail-with-body -H "Authorization: Bearer $ASSAY_KEY" "$@"
}

# The value of a name in a JSON document without blanks.
find_value() {
    sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p" | head -n 1
}

# The download has the digest of what was sent.
check() {
    test "$(ask "$api/files/$1" | sha256sum | cut -d ' ' -f 1)" = "$digest"
    echo "$1"
}

# POST /files/upload: with a length, in chunks, and as a form. curl -T - has no length to send.
check "$(ask --data-binary "@$path" -H 'Content-Type: application/octet-stream' "$api/files/upload?filename=curl-length" | find_value id)"
check "$(ask -T - -X POST "$api/files/upload?filename=curl-chunks" < "$path" | find_value id)"
check "$(ask -F "file=@$path" "$api/files/upload" | find_value id)"

# PUT /upload/NAME: a redirect to the store with a length, and a streamed upload without.
id=$(ask -LT "$path" -D - -o /dev/null "$api/upload/curl-redirect" | tr -d '\r' | sed -n 's/^[Ll]ink: <\/files\/\([^/]*\)\/metadata>.*/\1/p')
ask -X POST "$api/files/$id/complete?wait=20" > /dev/null
check "$id"
check "$(ask -T - "$api/upload/curl-put" < "$path" | find_value id)"

# POST /files, PUT to the store, and complete with the digest.
declared=$(ask --json "{\"filename\": \"curl-put\", \"size\": $size, \"content_type\": \"text/plain\"}" "$api/files")
id=$(printf %s "$declared" | sed 's/.*"file":{"id":"\([^"]*\)".*/\1/')
url=$(printf %s "$declared" | sed 's/.*"url":"\([^"]*\)".*/\1/')
headers=$(printf %s "$declared" | sed 's/.*"headers":{\([^}]*\)}.*/\1/' | tr ',' '\n' | sed 's/^"\([^"]*\)":"\([^"]*\)"$/-H\n\1: \2/')
IFS='
'
# shellcheck disable=SC2086  # one word a line: -H and a header in turn
"$curl" --http2 --silent --show-error --fail-with-body -T "$path" $headers "$url" > /dev/null
unset IFS
ask --json "{\"sha256\": \"$digest\"}" "$api/files/$id/complete?wait=20" > /dev/null
wrong=0000000000000000000000000000000000000000000000000000000000000000
status=$("$curl" --http2 --silent -o /dev/null -w '%{http_code}' -H "Authorization: Bearer $ASSAY_KEY" --json "{\"sha256\": \"$wrong\"}" "$api/files/$id/complete")
test "$status" = 409
check "$id"
