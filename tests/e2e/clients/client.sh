#!/bin/sh
# A script that declares, uploads, completes and downloads with curl.
#
# curl requests an upgrade to HTTP/2 with `Upgrade: h2c`. The arguments are the path of curl, the
# API's URL and the file to send. The environment variable ASSAY_KEY has the key. The script prints
# the id of each file.
set -eu
curl=$1 api=$2 path=$3
digest=$(sha256sum "$path" | cut -d ' ' -f 1)
size=$(wc -c < "$path" | tr -d ' ')

# Send a request with the key. With --fail-with-body, a refusal is printed and ends this script.
ask() {
    "$curl" --http2 --silent --show-error --fail-with-body \
        -H "Authorization: Bearer $ASSAY_KEY" "$@"
}

# Print the value of a name in a JSON document without blanks.
find_value() {
    sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p" | head -n 1
}

# Download the file, and fail if its digest differs from that of the sent bytes.
check() {
    test "$(ask "$api/files/$1" | sha256sum | cut -d ' ' -f 1)" = "$digest"
    echo "$1"
}

# POST /files/upload: with a length, in chunks, and as a form. `curl -T -` does not know the length.
check "$(ask --data-binary "@$path" -H 'Content-Type: application/octet-stream' \
    "$api/files/upload?filename=curl-length" | find_value id)"
check "$(ask -T - -X POST "$api/files/upload?filename=curl-chunks" < "$path" | find_value id)"
check "$(ask -F "file=@$path" "$api/files/upload" | find_value id)"

# PUT /upload/NAME: with a length, a redirect to the store; without one, a streamed upload.
id=$(ask -LT "$path" -D - -o /dev/null "$api/upload/curl-redirect" | tr -d '\r' |
    sed -n 's/^[Ll]ink: <\/files\/\([^/]*\)\/metadata>.*/\1/p')
ask -X POST "$api/files/$id/complete?wait=20" > /dev/null
check "$id"
check "$(ask -T - "$api/upload/curl-put" < "$path" | find_value id)"

# POST /files, PUT to the store, and complete with the digest.
about="{\"filename\": \"curl-put\", \"size\": $size, \"content_type\": \"text/plain\"}"
declared=$(ask --json "$about" "$api/files")
id=$(printf %s "$declared" | sed 's/.*"file":{"id":"\([^"]*\)".*/\1/')
url=$(printf %s "$declared" | sed 's/.*"url":"\([^"]*\)".*/\1/')
headers=$(printf %s "$declared" | sed 's/.*"headers":{\([^}]*\)}.*/\1/' | tr ',' '\n' |
    sed 's/^"\([^"]*\)":"\([^"]*\)"$/-H\n\1: \2/')
IFS='
'
# shellcheck disable=SC2086  # each line is one word: -H and a header alternate
"$curl" --http2 --silent --show-error --fail-with-body -T "$path" $headers "$url" > /dev/null
unset IFS
ask --json "{\"sha256\": \"$digest\"}" "$api/files/$id/complete?wait=20" > /dev/null
wrong=0000000000000000000000000000000000000000000000000000000000000000
status=$("$curl" --http2 --silent -o /dev/null -w '%{http_code}' \
    -H "Authorization: Bearer $ASSAY_KEY" --json "{\"sha256\": \"$wrong\"}" \
    "$api/files/$id/complete")
test "$status" = 409
check "$id"
