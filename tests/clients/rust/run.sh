#!/bin/sh
# Works through etcd's API with the stock etcd-client crate: run.sh http://127.0.0.1:2379
#
# The crate's build compiles etcd's own proto files, for which it wants protoc and the proto
# files that come with it (Debian: protobuf-compiler and libprotobuf-dev). Without them nothing
# can be checked, and this says so and succeeds.
set -eu

endpoint=${1:?usage: run.sh ENDPOINT}
cd "$(dirname "$0")"

probe=$(mktemp -d)
trap 'rm -r "$probe"' EXIT
printf 'syntax = "proto3";\nimport "google/protobuf/descriptor.proto";\n' >"$probe/probe.proto"
if ! "${PROTOC:-protoc}" -I"$probe" -o/dev/null "$probe/probe.proto" >/dev/null 2>&1; then
    echo "SKIPPED: no protoc with its proto files, so the etcd-client crate was not built" >&2
    exit 0
fi

exec cargo run --quiet --locked -- "$endpoint"
